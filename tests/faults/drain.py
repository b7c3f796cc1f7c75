"""Stops under load: what was sent is answered or turned away, and the process ends in time.

It owns how a server is stopped while clients have calls under way, with tails that are read and
tails that are not, by one signal, by two, and while it still reads its log.
"""

import collections
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import threading
import time

import bank
from bank import Wrong
from channel import Broken
from clients import Pipeline, Reader, Streamer, Stuck

GRACE_SECONDS = 0.3
GRACE = ("--drain-grace", "300ms")
# So long that it is only cut short by the second signal.
LONG_GRACE = ("--drain-grace", "30s")
# How much longer than its grace a stop may take.
MORE_SECONDS = 1
STOPS, TWICE = 50, 5
# How many calls must have been under way at each stop, at least on average.
UNDER_WAY_MIN = 20
# Of so many stops one has no tail that is never read: it needs no grace.
WITHOUT_STUCK = 5
LOAD_SECONDS = 0.1
LATE_PAUSE_SECONDS = 0.002
# As many events as take longer to read than it takes to stop the process meanwhile.
LONG_LOG = ("--batch", "8000", "--count", "200", "--in-flight", "4")
NO_CHECKPOINT = 1 << 40
BENCH_SECONDS = 120


@dataclasses.dataclass
class Found:
    """What stops have come to."""

    answers: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    late: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    seconds: list = dataclasses.field(default_factory=list)
    # Of those without a tail that is never read.
    prompt_seconds: list = dataclasses.field(default_factory=list)
    tails: int = 0
    # Streams of commands that their clients did not end, and that were told why they ended.
    streams: int = 0

    def told(self):
        def counted(counts):
            return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))

        return (
            f"calls under way at a stop: {counted(self.answers)}, 0 cut; {self.tails} tails were "
            f"told why; stops take at most {max(self.seconds):.2f} s, "
            f"{max(self.prompt_seconds):.2f} s if all is read, with {GRACE_SECONDS} s of grace; "
            f"connections begun after the signal: {counted(self.late)}; {self.streams} streams of "
            "commands that go on were told why they end"
        )


class Latecomer(threading.Thread):
    """A client that connects anew for each call, from the signal on."""

    def __init__(self, book, server, account):
        super().__init__(daemon=True)
        self.book, self.server, self.account = book, server, account
        self.counts, self.has_to_end = collections.Counter(), threading.Event()

    def run(self):
        while not self.has_to_end.wait(LATE_PAUSE_SECONDS):
            try:
                client = Pipeline(self.book, self.server, 1, calls=1, account=self.account)
            except Broken:
                self.counts["refused"] += 1
                continue
            client.run()
            self.counts["cut" if client.cut else "taken"] += 1

    def finish(self):
        self.has_to_end.set()
        self.join()


def make_clients(book, server, has_stuck):
    """Those with many calls under way, those that follow, and those that never read."""
    pipelines = [Pipeline(book, server, 16, has_stuck=has_stuck and it == 0) for it in range(3)]
    pipelines.append(Pipeline(book, server, 2, batch=50))
    readers = [Reader(server) for _ in range(3)]
    stuck = [Stuck(server), Stuck(server, is_wide=True)] if has_stuck else []
    streams = [Streamer(book, server, 4, 5)] if has_stuck else []
    return pipelines, readers, stuck, streams


def finish(clients, stuck):
    """Lets clients come to their end, and gives tails up that are never read."""
    for client in clients:
        client.finish()
    for tail in stuck:
        tail.close()


def stop_under_load(place, data, book, has_stuck, found, number=signal.SIGTERM):
    """One stop. Every call that was sent before must have an end that its client was told."""
    server = bank.Server(place.binary, data, NO_CHECKPOINT, options=GRACE).started()
    try:
        pipelines, readers, stuck, streams = make_clients(book, server, has_stuck)
        latecomer = Latecomer(book, server, pipelines[0].account)
        for client in (*readers, *pipelines, *streams):
            client.start()
        time.sleep(LOAD_SECONDS)
        before = len(book.calls)
        under_way = [call for it in pipelines for call in list(it.under_way.values())]
        begun = time.monotonic()
        server.process.send_signal(number)
        latecomer.start()
        code = server.ended()
        seconds = time.monotonic() - begun
        latecomer.finish()
        finish((*pipelines, *readers, *streams), stuck)
    finally:
        server.kill()
    cut = [call for it in pipelines for call in it.cut]
    if cut:
        raise Wrong(f"{len(cut)} calls were cut, such as {cut[0]}, of {len(under_way)} under way")
    if code:
        raise Wrong(f"a stop ended with {code}: {server.lines[-3:]}")
    if seconds > GRACE_SECONDS + MORE_SECONDS:
        raise Wrong(f"a stop with {GRACE_SECONDS} s of grace took {seconds:.2f} s")
    for stream in streams:
        if stream.end != "STOPPING":
            how = f"ended with {stream.end or 'no status'}, and {len(stream.cut)} batches under way"
            raise Wrong(f"a stream of commands {how}")
    for reader in readers:
        if not reader.is_whole() or not reader.was_told_why():
            raise Wrong(f"a tail ended with {reader.end} after {len(reader.positions)} events")
    found.tails += len(readers)
    found.late += latecomer.counts
    found.streams += len(streams)
    (found.seconds if has_stuck else found.prompt_seconds).append(seconds)
    accounts = {client.account for client in pipelines}
    since = [call for call in book.calls[before:] if call.account in accounts]
    for call in [*under_way, *since]:
        found.answers["answered" if call.is_accepted else call.reason or "cut late"] += 1


def stop_twice(place, data, book):
    """A second signal ends the process at once, though a tail that is never read holds it."""
    server = bank.Server(place.binary, data, NO_CHECKPOINT, options=LONG_GRACE).started()
    try:
        pipelines, readers, stuck, streams = make_clients(book, server, True)
        for client in (*readers, *pipelines, *streams):
            client.start()
        time.sleep(LOAD_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for('"draining"')
        if server.has_gone(0.05):
            raise Wrong("it did not wait for a tail that is never read, so nothing is proved")
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.ended()
        seconds = time.monotonic() - begun
        finish((*pipelines, *readers, *streams), stuck)
    finally:
        server.kill()
    if code != 1 or seconds > MORE_SECONDS:
        raise Wrong(f"after a second signal it ended with {code} after {seconds:.2f} s")
    return seconds


def verified(place, data):
    """The position and the hash of a directory, by `daybook verify`."""
    done = subprocess.run(
        [place.binary, "verify", "--data-dir", data], capture_output=True, text=True, env={}
    )
    if done.returncode:
        raise Wrong(f"verify ends with {done.returncode}: {done.stderr.strip()}")
    return re.findall(r"^(?:position|hash) .*$", done.stdout, re.M)


def stop_while_reading(place, tally):
    """Stops of a server that still reads its log, by one signal and by two: nothing is harmed.
    How long they take is told: nothing breaks off the reading."""
    data, _ = place.data(None)
    server = bank.Server(place.binary, data, NO_CHECKPOINT).started()
    try:
        command = [place.binary, "bench", "--address", f"http://{server.address}", *LONG_LOG]
        done = subprocess.run(command, capture_output=True, timeout=BENCH_SECONDS, env={})
        if done.returncode:
            raise Wrong(f"bench: {done.stderr}")
        server.kill()
        before, ends = verified(place, data), []
        for signals in (1, 1, 2):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(data, "checkpoint"))
            server = bank.Server(place.binary, data, NO_CHECKPOINT, options=GRACE)
            ends.append(end_while_reading(server, signals))
            if verified(place, data) != before:
                raise Wrong("a stop while the log was read has changed it")
            tally.faults += 1
    finally:
        server.kill()
    tally.more.append("stops while the log is read: " + ", ".join(ends))


def end_while_reading(server, signals):
    """Stops one that was just started. Gives how."""
    server.wait_for('"listening"')
    time.sleep(0.05)
    if server.has_told('"serving"'):
        raise Wrong("the log was read before it could be stopped")
    begun = time.monotonic()
    for _ in range(signals):
        server.process.send_signal(signal.SIGTERM)
        # Two that come at the same moment are one.
        time.sleep(0.02)
    code = server.ended()
    seconds = time.monotonic() - begun
    # By two it may end at once, or in order.
    if code not in (0, 1)[:signals]:
        raise Wrong(f"a stop while the log was read ended with {code}: {server.lines[-3:]}")
    how_far = "after all was read" if server.has_told('"serving"') else "at once"
    return f"{signals} signal{'s' * (signals > 1)}: {code} after {seconds:.2f} s, {how_far}"


def run(place, tally):
    data, book = place.data(None)
    server = bank.Server(place.binary, data, NO_CHECKPOINT).started()
    # More than a tail that is never read takes.
    bank.loaded(book, server, calls=40, batch=1000)
    server.stop_in_order()
    found = Found()
    for number in range(STOPS):
        stop_under_load(place, data, book, number % WITHOUT_STUCK > 0, found)
        tally.faults += 1
    seconds = max(stop_twice(place, data, book) for _ in range(TWICE))
    tally.faults += TWICE
    if found.answers.total() < STOPS * UNDER_WAY_MIN:
        raise Wrong(f"only {found.answers.total()} calls were under way at {STOPS} stops")
    tally.more.append(found.told())
    tally.more.append(f"a second signal ends it after {seconds * 1000:.0f} ms at most")
    if place.lies:
        book.add_lie()
    tally.acks += bank.audit(place.binary, data, book)
    stop_while_reading(place, tally)


def killed(place):
    """A kill instead of a stop: what was under way is cut, which must be seen."""
    data, book = place.data(None)
    stop_under_load(place, data, book, False, Found(), signal.SIGKILL)
