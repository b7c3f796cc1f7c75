"""Every state that a disk has been in must be a ledger, and have what was answered by then.

It owns the life of a ledger whose device writes down what it is given, which states of the device
are made again from that, and what each must have.
"""

import bisect
import contextlib
import dataclasses
import os
import random
import time

import bank
import blocks
import media
from bank import Wrong
from media import NotAllowed

# Room for the first segment, the next, and the one after that, which is made ahead.
IMAGE_MIB, MEMORY_MIB = 224, 1024
# So many commands of the longest kind fill the first segment.
FILL_CALLS, FILL_BATCH = 14, 1200
BUSY_SECONDS = 0.4
# Of so many states, a server is started on one, and on all of these kinds.
START_EVERY, STARTED = 10, ("early", "end")
# What is claimed too early by a book that lies: about as many entries as an answer takes.
LIE_ENTRIES = 6
NO_LOG, UNFINISHED = "there is no log", "was interrupted"


@dataclasses.dataclass(frozen=True)
class State:
    """All entries before one, and of some from there on so large a part.

    A device may keep any of the writes since the last flush, and a part of the one it is at.
    """

    kind: str
    begin: int
    more: tuple = ()


def states(record, first, count, chance):
    """Which states are made, in their order. Of every ten, one is of before the first answer."""
    entries = record.entries()
    flushes = [number for number, entry in enumerate(entries) if entry.is_flush]
    pairs = zip(flushes, [*flushes[1:], len(entries)], strict=True)
    groups = [(begin + 1, end) for begin, end in pairs if end - begin > 2]
    writes = [number for number, entry in enumerate(entries) if can_tear(record, entry)]
    found = [State("end", len(entries))]
    for number in range(count - 1):
        part = (number + chance.random()) / (count - 1)
        if number % 10 == 9:
            found.append(State("early", chance.randrange(first)))
        elif number % 2 == 0:
            found.append(State("flush", flushes[int(part * len(flushes))] + 1))
        elif number % 4 == 1:
            begin = writes[int(part * len(writes))]
            found.append(State("torn", begin, ((begin, chance.random()),)))
        else:
            begin, end = groups[int(part * len(groups))]
            kept = [at for at in range(begin, end) if chance.random() < 0.5]
            found.append(State("part", begin, tuple((at, 1.0) for at in kept)))
    return sorted(found, key=lambda state: state.begin)


def can_tear(record, entry):
    """Whether it is to be seen that a power cut has left a part of an entry."""
    # ext4 itself relies on its superblock being written as a whole.
    is_large = entry.begin >= blocks.BLOCK and entry.length >= 2 * blocks.SECTOR
    return is_large and not record.is_blank(entry)


class Whole:
    """What a ledger came to be, of which each state must be a beginning."""

    def __init__(self, book, found):
        self.book, self.head, self.hashes = book, max(found, default=0), {}
        places = {deposit: at for at, deposit in found.items() if deposit}
        # Positions at which a call is not yet there as a whole.
        self.halves = set()
        needs = []
        for call in book.calls:
            its = [places.get((call.account, amount), 0) for amount in call.amounts]
            self.halves.update(its[:-1])
            if call.is_accepted:
                needs.append((call.written, its[-1], len(its)))
        self.halves.discard(0)
        needs.sort()
        self.written = [written for written, _, _ in needs]
        self.needs, position, answers = [(0, 0)], 0, 0
        for _, last, count in needs:
            position, answers = max(position, last), answers + count
            self.needs.append((position, answers))

    def needed(self, begin):
        """The position that a state must have at least, and after how many answers."""
        return self.needs[bisect.bisect_right(self.written, begin)]

    def check(self, position, hashed, begin):
        """Compares what a state has. Gives how many answers that were."""
        needed, answers = self.needed(begin)
        if position < needed:
            raise Wrong(f"position {needed} was acknowledged, and the log ends with {position}")
        if position > self.head:
            raise Wrong(f"the log ends with {position}, and never had more than {self.head}")
        if position in self.halves:
            raise Wrong(f"the log ends with {position}, within a command")
        if hashed and self.hashes.setdefault(position, hashed) != hashed:
            raise Wrong(f"the log ends with {position}, and is not what it was there before")
        return answers


def live(binary, data, book, syncs_lie):
    """Three lives of a ledger: killed; into the next segment, and stopped; killed again."""
    with bank.running(binary, data) as server:
        if syncs_lie:
            lie = ["-e", "inject=fdatasync:retval=0"]
            bank.Attached(server, "/dev/null", ["fdatasync"], bank.files_of(data)[1:5], lie)
        with bank.load(book, server, 4), bank.load(book, server, 1, batch=50):
            time.sleep(BUSY_SECONDS)
            server.kill()
    with bank.running(binary, data) as server:
        server.with_spare()
        with bank.load(book, server, 2), bank.load(book, server, 1, batch=20):
            fill = {"batch": FILL_BATCH, "reason": media.REASON}
            bank.loaded(book, server, calls=FILL_CALLS, **fill)
            time.sleep(BUSY_SECONDS)
        server.stop_in_order()
    with bank.running(binary, data) as server:
        server.with_spare()
        with bank.load(book, server, 4), bank.load(book, server, 1, batch=50):
            time.sleep(BUSY_SECONDS)
            server.kill()


def recorded(place, directory, image, record, syncs_lie):
    """Lets a ledger live on a device whose record is given. Gives the book."""
    book = bank.Book()
    book.written = record.count
    with blocks.recorded(directory, image, record) as device:
        with media.mounted("-o", "loop", device.path) as root:
            live(place.binary, os.path.join(root, "data"), book, syncs_lie)
    if place.lies:
        for call in book.accepted():
            call.written = max(0, call.written - LIE_ENTRIES)
    return book


def run(place, tally, count, seed, syncs_lie=False):
    """Makes so many states, and judges each."""
    chance = random.Random(seed)
    with media.memory(MEMORY_MIB) as directory:
        names = "image", "state", "record"
        image, state, path = (os.path.join(directory, name) for name in names)
        blocks.make_image(image, IMAGE_MIB)
        blocks.copy(image, state)
        with contextlib.closing(blocks.Record(path)) as record:
            book = recorded(place, directory, image, record, syncs_lie)
            with media.mounted("-o", "loop", image) as root:
                data = os.path.join(root, "data")
                whole = Whole(book, everything(place.binary, data, book))
            todo = states(record, whole.written[0], count, chance)
            again(place, tally, whole, record, state, todo)


def everything(binary, data, book):
    """All events at the end, which must have what was answered and no more."""
    with bank.running(binary, data) as server:
        book.check(server)
        if len(list(server.data.glob("*.seg"))) < 2:
            raise Wrong("the first segment was not full")
        return bank.shown(server)


def again(place, tally, whole, record, path, todo):
    """Makes one state after another, and judges each."""
    entries, done, trial = record.entries(), 0, path + ".trial"
    with open(path, "r+b") as image:
        for number, state in enumerate(todo):
            for entry in entries[done : state.begin]:
                record.put(image.fileno(), entry)
            done = state.begin
            blocks.copy(path, trial)
            with open(trial, "r+b") as file:
                for at, part in state.more:
                    record.put(file.fileno(), entries[at], part)
            try:
                is_started = number % START_EVERY == 0 or state.kind in STARTED
                tally.acks += judge(place.binary, trial, whole, state.begin, is_started)
            except Wrong as wrong:
                where = f"{state.kind}, entry {state.begin} of {len(entries)}"
                raise Wrong(f"{where}: {wrong}") from wrong
            tally.faults += 1


def judge(binary, image, whole, begin, is_started):
    """What a state has. Gives how many answers were compared."""
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(media.mounted("-o", "loop", image))
        except NotAllowed as reason:
            raise Wrong(f"the file system is broken: {reason}") from reason
        data = os.path.join(root, "data")
        found = bank.verified(binary, data) if os.path.isdir(data) else None
        if found is None or NO_LOG in found.stderr:
            position, hashed = 0, ""
        elif found.returncode == 0:
            position, hashed = int(bank.told(found, "position")), bank.told(found, "hash")
        elif UNFINISHED in found.stderr:
            position = None
        else:
            raise Wrong(f"verify ends with {found.returncode}: {found.stderr.strip()}")
        answers = 0
        if position is not None:
            answers = whole.check(position, hashed, begin)
        if position is None or is_started:
            answers = bank.audit(binary, data, whole.book.at(begin))
        return answers
