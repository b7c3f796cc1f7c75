"""One owner of a directory: whoever comes second is refused, whatever has become of the first.

It owns the ways in which a second process comes, and what must follow for both.
"""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import time

import bank
from bank import Wrong
from media import NotAllowed

# How a process ends that finds the directory in use.
IN_USE = 75
APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
CLIENTS = 4
# How long they go on after the others have been refused.
LOAD_SECONDS = 0.3
# How often each way is tried.
TRIES = 3
# How many come at the same moment.
RACERS = 6
RACES = 3
REFUSED_SECONDS = 10
PAUSE_SECONDS = 1


def demand_namespaces():
    done = subprocess.run([*APART, "true"], capture_output=True, text=True)
    if done.returncode:
        raise NotAllowed(done.stderr.strip())


def second(place, data, tracer=()):
    """Starts one more server. Gives after how many milliseconds it was refused, which it must."""
    begun = time.monotonic()
    server = bank.Server(place.binary, data, tracer=tracer)
    try:
        if server.wait_for('"serving"', REFUSED_SECONDS):
            raise Wrong("a second process serves the directory of a first one")
        code = server.ended()
        millis = (time.monotonic() - begun) * 1000
    finally:
        server.kill()
    if code != IN_USE:
        raise Wrong(f"a second process ends with {code}: {server.lines[-1:]}")
    return millis


def verify(place, data, tracer=()):
    """As `second`, with `daybook verify`."""
    begun = time.monotonic()
    command = [*tracer, str(place.binary), "verify", "--data-dir", data]
    code = subprocess.run(command, capture_output=True, env={}).returncode
    if code != IN_USE:
        raise Wrong(f"verify of a directory that is in use ends with {code}")
    return (time.monotonic() - begun) * 1000


class Lane:
    """One directory, its book, and how often somebody was refused."""

    def __init__(self, place):
        self.place, self.times = place, []
        self.data, self.book = place.data(None)

    def refuse(self):
        """Everybody who could come second does."""
        for _ in range(TRIES):
            for come in (second, verify):
                for tracer in ((), APART):
                    self.times.append(come(self.place, self.data, tracer))

    @contextlib.contextmanager
    def served(self, tracer=()):
        """A server that works while others come; afterwards it is killed."""
        server = bank.Server(self.place.binary, self.data, tracer=tracer).started()
        try:
            before = self.book.acks()
            with bank.load(self.book, server, CLIENTS) as depositors:
                yield server
                time.sleep(LOAD_SECONDS)
                if not all(depositor.is_alive() for depositor in depositors):
                    raise Wrong(f"the first one was disturbed: {self.book.calls[-1]}")
                server.kill()
            if self.book.acks() == before:
                raise Wrong("the first one had nothing to do, so nothing is proved")
        finally:
            server.kill()

    def race(self):
        """Of many that come at the same moment one serves, and the others are refused."""
        with concurrent.futures.ThreadPoolExecutor(RACERS) as pool:
            start = [pool.submit(bank.Server, self.place.binary, self.data) for _ in range(RACERS)]
            servers = [future.result() for future in start]
            try:
                serve = list(pool.map(lambda server: server.wait_for('"serving"'), servers))
                codes = [it.ended() for it, serves in zip(servers, serve) if not serves]
                if sum(serve) != 1 or set(codes) != {IN_USE}:
                    raise Wrong(f"{sum(serve)} of {RACERS} serve, the others end with {codes}")
                bank.loaded(self.book, servers[serve.index(True)], CLIENTS, calls=20)
            finally:
                for server in servers:
                    server.kill()
        return len(codes)


def stopped(lane, server, tally):
    """Who is stopped still owns the directory, and goes on as if nothing had been."""
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    before = lane.book.acks()
    lane.refuse()
    if lane.book.acks() != before:
        raise Wrong("a process that is stopped answers, so it was not")
    server.process.send_signal(signal.SIGCONT)
    until = time.monotonic() + REFUSED_SECONDS
    while lane.book.acks() == before:
        if time.monotonic() > until:
            raise Wrong("who was stopped does not go on")
        time.sleep(0.01)


def run(place, tally):
    demand_namespaces()
    lane = Lane(place)
    with lane.served():
        lane.refuse()
    with lane.served() as server:
        stopped(lane, server, tally)
    # From inside a namespace of processes the lock is the same.
    with lane.served(APART):
        lane.refuse()
    begun = time.monotonic()
    third = bank.Server(place.binary, lane.data).started()
    third_millis = (time.monotonic() - begun) * 1000
    third.kill()
    raced = sum(lane.race() for _ in range(RACES))
    tally.faults += len(lane.times) + raced
    if place.lies:
        lane.book.add_lie()
    tally.acks += bank.audit(place.binary, lane.data, lane.book)
    tally.more.append(
        f"{len(lane.times)} refused within {max(lane.times):.0f} ms, beside one that works, is "
        f"stopped, or has other process ids; {raced} of {RACES * RACERS} that came at once; "
        f"after a kill the next one serves after {third_millis:.0f} ms"
    )


def elsewhere(place):
    """A second process with a directory of its own is not refused, which must be seen."""
    lane = Lane(place)
    with lane.served():
        second(place, os.path.join(os.path.dirname(lane.data), "other"))
