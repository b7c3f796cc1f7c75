"""Tails that are never read, beside a load: what they cost in memory, and what they cost commands.

It owns how that is measured: with and without them in turn, on servers that have just started, and
by medians, because nothing else says much on a machine that does other things as well.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import statistics
import subprocess
import threading
import time

import bank
from bank import Wrong
from channel import Channel, Refused, decode, encode, first
from clients import Stuck

BENCH_SECONDS = 120
# Where one comes after another without a checkpoint in between.
NO_CHECKPOINT = 1 << 40
# More than the kernel takes of one tail, and then more than a window of it.
EARLIER_EVENTS = 40_000
MORE_EVENTS = ("--batch", "1000", "--count", "10")
# The load: moderate, and each call when it is due. So many tails are read beside it.
READING = 250
LOAD = ("--rate", "500", "--in-flight", "64", "--tails", str(READING), "--seconds", "2")
# How many connections with how many tails each, whether these are live, and whether wide.
STUCK = (
    (100, 1, False, False),
    (50, 1, True, False),
    (3, 25, False, False),
    (25, 1, False, True),
)
STUCK_COUNT = sum(connections * tails for connections, tails, _, _ in STUCK)
# How many loads of each kind make a round, and how many rounds are tried: all of them count.
PAIRS, ROUNDS_MAX = 5, 3
RATIO_MAX = 1.2
# How much memory each of them may take, and all of them together.
KIB_EACH_MAX, MIB_MAX = 64, 64
# How long until all of them have been sent what they take.
FULL_SECONDS = 10
# Twice as many calls as the server takes in, and more than it can carry out.
OVERLOAD = ("--in-flight", "32768", "--connections", "128", "--seconds", "30")
# Who makes one call at a time beside that.
POLITE, POLITE_PAUSE_SECONDS = 16, 0.02
SHED_MIN = 1000
OVERLOADED_CODE, UNAVAILABLE_CODE = 8, 14
# After how long without a word the server gives a connection up, and a bit.
SILENT_SECONDS = 45


def bench(place, server, *options):
    """Puts load on it. Gives what the load generator tells, which has checked the money."""
    command = [place.binary, "bench", "--address", f"http://{server.address}", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BENCH_SECONDS, env={})
    if done.returncode:
        raise Wrong(f"bench {' '.join(options)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def memory_kib(server, name):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status).group(1))


def forget_peak(server):
    """From now on the peak of its memory counts anew."""
    pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def files(server):
    return len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))


@dataclasses.dataclass
class Side:
    """What loads came to, without tails that are never read or beside them."""

    # p99 of commands, in microseconds, and the peak of the server's memory.
    p99s: list = dataclasses.field(default_factory=list)
    peaks_kib: list = dataclasses.field(default_factory=list)

    def p99(self):
        return statistics.median(self.p99s)

    def peak_kib(self):
        return statistics.median(self.peaks_kib)


@contextlib.contextmanager
def stuck_tails(server):
    """Tails that are never read, once they have been sent all that they take."""
    tails = []
    try:
        for connections, count, is_live, is_wide in STUCK:
            tails += [Stuck(server, count, is_live, is_wide) for _ in range(connections)]
        until_full(tails)
        yield tails
    finally:
        for tail in tails:
            tail.close()


def until_full(tails):
    """Waits until nothing more comes for any that begins at the beginning of the log."""
    until, before = time.monotonic() + FULL_SECONDS, None
    while True:
        waiting = [tail.waiting() for tail in tails if not tail.is_live]
        if waiting == before and min(waiting) > 0:
            return
        if time.monotonic() > until:
            raise Wrong(f"tails are not full after {FULL_SECONDS} s")
        before = waiting
        time.sleep(0.2)


def loaded(place, data, side, is_beside, tally):
    """One load, on a server that has only just started: its memory has no past."""
    server = bank.Server(place.binary, data, events=NO_CHECKPOINT).started()
    try:
        with stuck_tails(server) if is_beside else contextlib.nullcontext([]) as tails:
            told = bench(place, server, *LOAD)
            gone = sum(not tail.is_open() for tail in tails)
        if gone:
            raise Wrong(f"{gone} tails that were never read were cut within seconds")
        side.p99s.append(told["latency_micros"]["p99"])
        side.peaks_kib.append(memory_kib(server, "VmHWM"))
        tally.acks += told["accepted"]
        server.stop_in_order()
    finally:
        server.kill()


def compare(place, data, without, beside, tally):
    """Loads with and without such tails in turn, and gives the ratio of the medians of p99."""
    for number in range(PAIRS):
        # Which is first changes, so that a machine that gets slower favours neither.
        for is_beside in (number % 2 == 1, number % 2 == 0):
            loaded(place, data, beside if is_beside else without, is_beside, tally)
        tally.faults += STUCK_COUNT
    return beside.p99() / without.p99()


def measure(place, data, tally):
    """Measures, more often if the machine was too busy to tell, and judges by all of that. Gives
    what is wrong with the memory, if anything is."""
    without, beside, rounds, ratio = Side(), Side(), 0, RATIO_MAX + 1
    while ratio > RATIO_MAX and rounds < ROUNDS_MAX:
        ratio, rounds = compare(place, data, without, beside, tally), rounds + 1
    more_kib = beside.peak_kib() - without.peak_kib()
    told = (
        f"beside {STUCK_COUNT} tails that are never read the p99 of commands is "
        f"{beside.p99() / 1000:.1f} ms, without them {without.p99() / 1000:.1f} ms, ratio "
        f"{ratio:.2f}, by {rounds * PAIRS} loads each; they take {more_kib / 1024:.1f} MiB, "
        f"{more_kib / STUCK_COUNT:.1f} KiB each"
    )
    if ratio > RATIO_MAX:
        raise Wrong(told)
    tally.more.append(told)
    return told if more_kib > min(KIB_EACH_MAX * STUCK_COUNT, MIB_MAX * 1024) else ""


def resume(place, server, tail):
    """Begins to read one that was never read, and checks that it misses nothing. Gives whether the
    server had kept it."""
    head, waiting = shown(server), tail.waiting()
    positions, end = tail.resumed(head)
    if place.lies and len(positions) > 2:
        del positions[len(positions) // 2]
    if positions != list(range(tail.after + 1, tail.after + 1 + len(positions))):
        raise Wrong("a tail that was resumed was not told each event once, in order")
    last = positions[-1] if positions else tail.after
    if not waiting or end is None and head - tail.after < EARLIER_EVENTS // 10:
        raise Wrong(f"a tail was not stuck: {waiting} bytes waited, of {head - tail.after} events")
    if end is None:
        return True
    if isinstance(end, Refused) and end.code != UNAVAILABLE_CODE:
        raise Wrong(f"a tail that was never read ended with {end}, which does not say to resume")
    # Where it broke off is where a new one goes on.
    channel = Channel(server.address)
    rest = [first(event, 1) for event in bank.tail(channel, last)]
    channel.close()
    if rest != list(range(last + 1, last + 1 + len(rest))) or rest[-1] < head:
        raise Wrong("a tail that goes on after one that was cut has a gap")
    return False


def resume_fresh(place, server):
    """Resumes one of each kind, after seconds in which it was not read."""
    with stuck_tails(server) as tails:
        bench(place, server, *MORE_EVENTS)
        number = 0
        for connections, *_ in STUCK:
            if not resume(place, server, tails[number]):
                raise Wrong("a tail that was not read for seconds was cut")
            number += connections


def resume_silent(place, server, silent, tally):
    """Resumes those that have not even answered a ping for longer than the server waits."""
    time.sleep(max(0, silent[-1].begun + SILENT_SECONDS - time.monotonic()))
    seconds = min(time.monotonic() - tail.begun for tail in silent)
    are_open = sum(tail.is_open() for tail in silent)
    kept = sum(resume(place, server, tail) for tail in silent)
    tally.more.append(
        f"resumed after seconds, all of {len(STUCK)} go on; after {seconds:.0f} s of silence "
        f"{kept} of {len(silent)} do, {are_open} are connected, and new ones go on from there"
    )


def until_closed(server, open_files):
    """Waits until the server holds nothing of the connections that have ended."""
    until = time.monotonic() + FULL_SECONDS
    while files(server) > open_files:
        if time.monotonic() > until:
            raise Wrong(f"it has {files(server)} files open, and had {open_files} before")
        time.sleep(0.05)


def shown(server):
    channel = Channel(server.address)
    try:
        return bank.stats(channel)
    finally:
        channel.close()


class Polite(threading.Thread):
    """A client that makes one deposit at a time, and notes how long each answer takes."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.book, self.has_to_end = bank.Book(), threading.Event()
        self.depositor = bank.Depositor(self.book, server)
        self.refused, self.accepted, self.wrong = [], [], []

    def run(self):
        amount = 0
        while not self.has_to_end.wait(POLITE_PAUSE_SECONDS):
            amount += 1
            begun = time.monotonic()
            try:
                message = encode((1, self.depositor.account), (2, amount))
                answer = self.depositor.channel.call(bank.COMMANDS + "DepositMoney", message)
            except Refused as refused:
                self.refused.append(time.monotonic() - begun)
                is_right = refused.code == OVERLOADED_CODE and refused.reason == "OVERLOADED"
                if not is_right or not refused.retry_millis:
                    self.wrong.append(f"{refused}, retry after {refused.retry_millis} ms")
                continue
            self.accepted.append((first(decode(first(decode(answer), 1)), 1), amount))

    def finish(self):
        """Ends, and compares what was answered with its account."""
        self.has_to_end.set()
        self.join()
        channel, found, token = self.depositor.channel, [], b""
        while not found or token:
            question = encode((1, self.depositor.account), (4, 1000), (5, token))
            page = decode(channel.call(bank.QUERIES + "ListAccountEvents", question))
            found += [decode(event) for event in page.get(1, [])]
            token = first(page, 2, b"")
        channel.close()
        deposits = [
            (first(event, 1), first(decode(first(event, 9)), 1)) for event in found if 9 in event
        ]
        if deposits != self.accepted:
            raise Wrong(f"{len(self.accepted)} deposits were answered, {len(deposits)} happened")
        if self.wrong:
            raise Wrong(f"too much load is refused with {self.wrong[0]}")


def overload(place, server, tally):
    """More calls than the server takes in, and clients that only want a little."""
    forget_peak(server)
    base = memory_kib(server, "VmRSS")
    clients = [Polite(server) for _ in range(POLITE)]
    for client in clients:
        client.start()
    try:
        told = bench(place, server, *OVERLOAD)
    finally:
        for client in clients:
            client.finish()
    times = [seconds for client in clients for seconds in client.refused]
    answers = sum(len(client.accepted) for client in clients)
    shed, accepted = told["shed_calls"], told["accepted"]
    if shed < SHED_MIN:
        raise Wrong(f"too little load: {shed} shed")
    # Some of those who want only a little find a place.
    slowest = f" after {max(times) * 1000:.0f} ms at most" if times else ""
    peak_mib = (memory_kib(server, "VmHWM") - base) / 1024
    tally.acks += accepted + answers
    tally.more.append(
        f"of {accepted + shed:,} calls, more than there can be, {shed:,} were refused; {POLITE} "
        f"clients with one call each had {len(times)} refusals{slowest}, {answers} answers; it "
        f"took {peak_mib:.0f} MiB more at most"
    )


def begun(place):
    """A server whose log is longer than what the kernel takes of one tail."""
    data, _ = place.data(None)
    server = bank.Server(place.binary, data, events=NO_CHECKPOINT).started()
    bench(place, server, "--batch", "1000", "--count", str(EARLIER_EVENTS // 1000))
    return server


def run(place, tally):
    quiet, silent = begun(place), []
    busy = begun(place)
    try:
        open_files = files(quiet)
        silent = [Stuck(quiet, 1, is_live, is_wide) for _, _, is_live, is_wide in STUCK]
        bench(place, quiet, *MORE_EVENTS)
        busy.stop_in_order()
        wrong = measure(place, busy.data, tally)
        busy = bank.Server(place.binary, busy.data, events=NO_CHECKPOINT).started()
        resume_fresh(place, busy)
        overload(place, busy, tally)
        busy.stop_in_order()
        resume_silent(place, quiet, silent, tally)
        for tail in silent:
            tail.close()
        until_closed(quiet, open_files)
        quiet.stop_in_order()
    finally:
        quiet.kill()
        busy.kill()
    if wrong:
        raise Wrong(wrong)


def resume_one(place):
    """Only that: one tail that was never read goes on."""
    server = begun(place)
    try:
        tail = Stuck(server)
        until_full([tail])
        resume(place, server, tail)
        tail.close()
    finally:
        server.kill()
