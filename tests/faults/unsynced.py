"""A disk that does not take writes for a moment, and then does again.

After a sync has failed, the kernel shows bytes that the disk lacks, and the next sync succeeds. It
owns the scene in which a second process is shown such bytes, and the power goes after that.
"""

import contextlib
import os
import random
import time

import bank
import blocks
import media
import sweep
from bank import Wrong

IMAGE_MIB, MEMORY_MIB = 128, 256
# How often on one disk: its log stays in its first segment.
ROUNDS_EACH = 4
# How far beyond the end of the log no write is taken.
BAD_BYTES = 1024 * 1024
FAIL_SECONDS = 10
CALLS_AFTER = 3
# Texts so long that a group takes several pages.
BATCH, REASON = 20, "x" * 250
# How often a part of what the kernel remembers is gone when the second process starts.
FORGET_SHARE = 0.3


def run(place, tally, rounds, seed, syncs_lie=False):
    """Loses a write so many times, and compares what is there after that."""
    chance = random.Random(seed)
    with media.memory(MEMORY_MIB) as directory:
        for begin in range(0, rounds, ROUNDS_EACH):
            on_disk(place, tally, directory, min(ROUNDS_EACH, rounds - begin), chance, syncs_lie)


def on_disk(place, tally, directory, rounds, chance, syncs_lie):
    """So many times on one disk, which begins empty."""
    image, book, shown = os.path.join(directory, "image"), bank.Book(), {}
    blocks.make_image(image, IMAGE_MIB)
    for _ in range(rounds):
        with mounted(directory, image) as (device, root):
            data = os.path.join(root, "data")
            with bank.running(place.binary, data) as server:
                compare(shown, server)
                tally.acks += book.check(server)
                # Of what it is asked only until the log fails.
                its = book.copy()
                segment, bad = fail_under_load(tally, device, server, its, chance)
            book.add(its)
            lost = unwritten(segment, device.image, bad)
            tally.faults += int(bool(lost))
            if not syncs_lie and chance.random() < FORGET_SHARE:
                forget(segment, lost, chance)
            shown = shown_again(place, data, book, syncs_lie)
            tally.revived += len(revived(shown, its))
            media.shut_down(root)
    if place.lies:
        book.add_lie()
    with mounted(directory, image) as (_, root):
        data = os.path.join(root, "data")
        with bank.running(place.binary, data) as server:
            compare(shown, server)
        tally.acks += bank.audit(place.binary, data, book)


@contextlib.contextmanager
def mounted(directory, image):
    """A file system on a device of its own, so that no cache is older than it."""
    with blocks.Failing(directory, image) as device:
        # What ext4 keeps in order by itself is not written while the device is bad.
        with media.mounted("-o", "loop,commit=300", device.path) as root:
            yield device, root


def shown_again(place, data, book, syncs_lie):
    """All that a second process shows, on the same mount, until it is killed."""
    segments, lie = bank.files_of(data)[1:5], ["-e", "inject=fdatasync:retval=0"]
    lie = bank.tracer("/dev/null", ["fdatasync"], segments, lie)
    with bank.running(place.binary, data, [*lie, "-D", "-q"] if syncs_lie else ()) as server:
        book.check(server)
        if not syncs_lie:
            bank.loaded(book, server, 2, calls=CALLS_AFTER)
        return bank.shown(server)


def revived(shown, book):
    """Those of the events that nobody has had an answer for."""
    unanswered = {
        (call.account, amount)
        for call in book.calls
        if not call.is_accepted
        for amount in call.amounts
    }
    return unanswered.intersection(shown.values())


def fail_under_load(tally, device, server, book, chance):
    """Makes the device bad where the log goes on. Gives the segment, and where that is."""
    segment = max(server.data.glob("*.seg"))
    where = blocks.places(segment)
    long = {"batch": BATCH, "reason": REASON}
    with bank.load(book, server, 3), bank.load(book, server, 1, **long) as depositors:
        time.sleep(chance.uniform(0.05, 0.2))
        while True:
            # From its end on, or from a little later, so that the disk gets a part of a group.
            begin = (media.log_bytes(server) // blocks.BLOCK + chance.randrange(3)) * blocks.BLOCK
            end = begin + BAD_BYTES
            bad = {at: where[at] for at in range(begin, end, blocks.BLOCK) if at in where}
            device.fail(bad.values())
            if has_failed(server, book, end):
                break
            if unwritten(segment, device.image, bad):
                raise Wrong("the device did not take writes, and commands are accepted")
            # The log was there before us.
            device.heal()
        millis = sweep.judge_failed(server, depositors[0], ())
        device.heal()
        if depositors[0].deposit().reason != "LOG_FAILED":
            raise Wrong("the device takes writes again, and the log goes on")
    tally.failed_logs += 1
    tally.not_serving_millis = max(tally.not_serving_millis, millis)
    failed = min(call.answered for call in book.calls if not call.is_accepted)
    if any(call.is_accepted and call.sent > failed for call in book.calls):
        raise Wrong("a command was accepted after the log had failed")
    return segment, bad


def has_failed(server, book, end):
    """Waits until every client has had its error, or until the log is longer than that."""
    until = time.monotonic() + FAIL_SECONDS
    accounts = {call.account for call in book.calls}
    while {call.account for call in list(book.calls) if call.reason and call.answered} < accounts:
        if media.log_bytes(server) > end:
            return False
        if time.monotonic() > until:
            raise Wrong("the device takes no writes, and not every command has an answer")
        time.sleep(0.005)
    return True


def unwritten(segment, image, bad):
    """The places of a file that the device lacks, and the kernel shows and takes for written."""
    with open(segment, "r+b") as file, open(image, "rb") as disk:
        os.fdatasync(file.fileno())
        return [
            at
            for at, place in bad.items()
            if os.pread(file.fileno(), blocks.BLOCK, at)
            != os.pread(disk.fileno(), blocks.BLOCK, place)
        ]


def forget(segment, lost, chance):
    """Some of those are read from the device again, as when memory is short."""
    with open(segment, "rb") as file:
        for at in lost:
            if chance.random() < 0.5:
                os.posix_fadvise(file.fileno(), at, blocks.BLOCK, os.POSIX_FADV_DONTNEED)


def compare(shown, server):
    """Whether all that was shown is still there."""
    found = bank.shown(server)
    gone = [at for at, event in shown.items() if at not in found or found[at] != event]
    if gone:
        raise Wrong(f"the event at position {gone[0]} was shown, and is there no more")
