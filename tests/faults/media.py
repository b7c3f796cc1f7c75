"""Faults of whole media: late, short, full, and without power.

It owns how such media are made, and what a server on them must still keep. What it mounts is
unmounted again, however a lane ends.
"""

import concurrent.futures
import contextlib
import fcntl
import os
import random
import resource
import shutil
import subprocess
import tempfile
import threading
import time

import bank
from bank import Wrong
from channel import Channel, decode, encode, first

MIB = 1024 * 1024
DELAY_MICROS = 300_000
# As many bytes as a reason may have, so that few commands fill a disk.
REASON = "\U0001f4d6" * 256
# _IOR('X', 125, u32) of ext4, and its way that does not write the journal first.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
# The room of the first segment and of a later one, and of all else that is small.
FIRST_MIB, LATER_MIB, ELSE_MIB = 16, 64, 6
LOOP_MIB = 512
SPACE_SECONDS = 10
READS_WHILE_FULL = 200
# Five times as long as an idle writer waits with its line.
REST_SECONDS = 0.5
# How many cases of short writes are tried at the same time.
WORKERS = 2


class NotAllowed(Exception):
    """The machine does not let us do what a lane needs."""


@contextlib.contextmanager
def mounted(*arguments):
    """Mounts something on a directory of its own."""
    path = tempfile.mkdtemp(prefix="daybook-faults-")
    try:
        done = subprocess.run(["mount", *arguments, path], capture_output=True, text=True)
        if done.returncode:
            raise NotAllowed(done.stderr.strip())
        yield path
    finally:
        if os.path.ismount(path):
            subprocess.run(["umount", path], check=True)
        os.rmdir(path)


def memory(mib):
    return mounted("-t", "tmpfs", "-o", f"size={mib}m,mode=700", "tmpfs")


@contextlib.contextmanager
def working_place(mib):
    """Where directories are made that need no disk: in memory if that is allowed."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(memory(mib))
        except NotAllowed:
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix="daybook-faults-"))
        yield path


def resize(path, mib):
    subprocess.run(["mount", "-o", f"remount,size={mib}m", path], check=True)


def log_bytes(server):
    channel = Channel(server.address)
    try:
        return first(decode(channel.call(bank.QUERIES + "GetStats")), 7)
    finally:
        channel.close()


def until_at_rest(server):
    """Waits until the idle writer has written its line: until then the log's end may move by
    itself, on a busy machine later than usual."""
    before = None
    while before != (now := log_bytes(server)):
        before = now
        time.sleep(REST_SECONDS)


def delayed(place, tally):
    """Each sync of the log takes 300 ms longer: no answer comes before one that it waits for."""
    data, book = place.data(place.killed)
    server = bank.Server(place.binary, data).started()
    trace = os.path.join(os.path.dirname(data), "trace")
    late = ["-e", f"inject=fdatasync:delay_enter={DELAY_MICROS}"]
    try:
        depositors = [bank.Depositor(book, server) for _ in range(4)]
        tracer = bank.Attached(server, trace, ["fdatasync"], bank.files_of(data)[1:5], late)
        for depositor in depositors:
            depositor.calls_left = 5
            depositor.start()
        for depositor in depositors:
            depositor.join()
            depositor.finish()
        syncs = tracer.detach().hits()
        server.stop_in_order()
    finally:
        server.kill()
    if place.lies:
        book.calls[-1].answered = book.calls[-1].sent
    for call in book.accepted():
        if not any(call.sent <= sync.begin and sync.end <= call.answered for sync in syncs):
            raise Wrong("an answer came before the sync that makes it durable had returned")
    # Strace takes the time after it has begun to wait, on a busy machine well after.
    early = [sync for sync in syncs if sync.end - sync.begin < DELAY_MICROS / 1e6 / 2]
    if early or len(book.accepted()) < 20:
        raise Wrong(f"{len(early)} syncs were not late, {len(book.accepted())} answers")
    tally.faults += len(syncs)
    tally.acks += bank.audit(place.binary, data, book)


def short(place, tally):
    """Writes of which the kernel takes a part, and then no more, or the rest."""
    parts = {1: (1, 7, 8, 87, 88, 100, 511), 40: (1, 88, 511, 512, 513, 1500)}
    cases = [
        (batch, part, goes_on)
        for batch, its_parts in parts.items()
        for part in its_parts
        for goes_on in (False, True)
    ]
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for acks in pool.map(lambda case: cut_write(place, *case), cases):
            tally.faults += 1
            tally.acks += acks


def cut_write(place, batch, part, goes_on):
    """One such write. Gives how many answers were compared afterwards."""
    data, book = place.data(place.killed)
    server = bank.Server(place.binary, data).started()
    try:
        depositor = bank.Depositor(book, server)
        depositor.batch = batch
        until_at_rest(server)
        trace = os.path.join(os.path.dirname(data), "trace")
        late = ["-e", f"inject=pwrite64:delay_exit={DELAY_MICROS}:when=1"]
        paths = bank.files_of(data)[1:5]
        tracer = bank.Attached(server, trace, ["pwrite64"], paths, late)
        limit(server, log_bytes(server) + part)
        caller = threading.Thread(target=depositor.deposit)
        caller.start()
        if goes_on:
            time.sleep(DELAY_MICROS / 2e6)
            limit(server, resource.RLIM_INFINITY)
        caller.join()
        writes = list(tracer.detach().calls())
    finally:
        server.kill()
    results = [write.result.split(" (DELAYED)")[0] for write in writes]
    expected = str(part), "-1 EFBIG (File too large)"
    call = book.calls[-1]
    if results[0] != expected[0] or not goes_on and results[1] != expected[1]:
        raise Wrong(f"no write was short by our will: {results}")
    if call.is_accepted != goes_on or not goes_on and call.reason != "LOG_FAILED":
        raise Wrong(f"a short write, {results}, was answered with {call.reason or 'success'}")
    acks = bank.audit(place.binary, data, book)
    shutil.rmtree(os.path.dirname(data))
    return acks


def limit(server, size):
    """No file of the process may be written beyond this size."""
    hard = resource.RLIM_INFINITY
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def full(place, tally, fills):
    """Disks that fill up, and get space again."""
    for _ in range(fills):
        with memory(FIRST_MIB + ELSE_MIB) as path:
            fill_and_free(place, tally, path)


def fill_and_free(place, tally, path):
    data, book = os.path.join(path, "data"), bank.Book()
    server = bank.Server(place.binary, data).started()
    try:
        until_full(server, book, tally)
        # A larger disk, of which a file of another takes what the next segment needs.
        filler = os.path.join(path, "filler")
        resize(path, FIRST_MIB + 2 * LATER_MIB + 2 * ELSE_MIB)
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, (LATER_MIB + ELSE_MIB) * MIB)
        until_space(server, book)
        until_full(server, book, tally)
        server.kill()
        # Not a byte is left, and the process has to start.
        fill_up(os.path.join(path, "rest"))
        server = bank.Server(place.binary, data).started()
        if server.health("readiness"):
            raise Wrong("it starts on a full disk, and says that it is ready")
        tally.acks += book.check(server)
        reads(server, 10)
        os.remove(os.path.join(path, "rest"))
        os.remove(filler)
        until_space(server, book)
        server.stop_in_order()
    finally:
        server.kill()
    if place.lies:
        book.add_lie()
    tally.acks += bank.audit(place.binary, data, book)


def until_full(server, book, tally):
    """Loads until commands are refused, and looks at what goes on then."""
    bank.loaded(book, server, 2, batch=1200, reason=REASON)
    reasons = {call.reason for call in book.calls if not call.is_accepted}
    if reasons != {"LOG_FULL"}:
        raise Wrong(f"a full disk is answered with {reasons}")
    if server.health("readiness") or not server.health("daybook.v1.QueryService"):
        raise Wrong("a full disk is not what health tells")
    reads(server, READS_WHILE_FULL)
    tally.faults += 1


def reads(server, count):
    """Reads that must all be answered."""
    channel = Channel(server.address)
    try:
        accounts = first(decode(channel.call(bank.QUERIES + "ListAccounts")), 1)
        account = first(decode(accounts), 1, b"").decode()
        for _ in range(count):
            channel.call(bank.QUERIES + "GetAccount", encode((1, account)))
            channel.call(bank.QUERIES + "ListAccountEvents", encode((1, account)))
    finally:
        channel.close()


def until_space(server, book):
    """Waits until commands are carried out again, by the same process."""
    until = time.monotonic() + SPACE_SECONDS
    while not server.health("readiness"):
        if time.monotonic() > until:
            raise Wrong(f"there is space, and it is not ready after {SPACE_SECONDS} s")
        time.sleep(0.02)
    bank.loaded(book, server, 2, calls=20)
    if not all(call.is_accepted for call in book.calls[-20:]):
        raise Wrong("there is space, and commands are refused")


def fill_up(path):
    with open(path, "wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))


def power(place, tally, cycles, seed, syncs_lie=False):
    """The power goes while clients have calls under way, again and again."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="daybook-faults-") as directory:
        image = os.path.join(directory, "image")
        with open(image, "wb") as file:
            file.truncate(LOOP_MIB * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        book, newest = bank.Book(), bank.Book()
        for _ in range(cycles):
            with mounted("-o", "loop", image) as path:
                data, seconds = os.path.join(path, "data"), chance.uniform(0.05, 0.4)
                with bank.running(place.binary, data) as server:
                    newest = compared(server, book, newest)
                    cut(tally, path, server, newest, seconds, syncs_lie)
        book.add(newest)
        if place.lies:
            book.add_lie()
        with mounted("-o", "loop", image) as path:
            tally.acks = bank.audit(place.binary, os.path.join(path, "data"), book)


def compared(server, book, newest):
    """Adds what was asked since the last start, once it was looked up. Gives a book from here on.

    The whole is looked up at the end.
    """
    newest.check(server)
    book.add(newest)
    its, channel = book.copy(), Channel(server.address)
    its.base = bank.stats(channel)
    channel.close()
    return its


def cut(tally, path, server, book, seconds, syncs_lie):
    """Cuts the power under load."""
    if syncs_lie:
        lie = ["-e", "inject=fdatasync:retval=0"]
        bank.Attached(server, "/dev/null", ["fdatasync"], bank.files_of(server.data)[1:5], lie)
    with bank.load(book, server, 4), bank.load(book, server, 1, batch=50):
        time.sleep(seconds)
        shut_down(path)
        server.kill()
    tally.faults += int(book.acks() > 0)


def shut_down(path):
    """Ends a file system as a power cut does: what the kernel has not written is gone."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
    finally:
        os.close(handle)
