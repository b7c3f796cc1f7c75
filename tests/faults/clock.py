"""A wall clock that jumps, between starts and under a server that runs.

It owns what the clock shows, by libfaketime, and what must not follow it: the order of the log, the
recorded times, repeats, and how long calls wait.
"""

import dataclasses
import datetime
import glob
import json
import os
import threading
import time
import uuid

import bank
from bank import Wrong
from channel import Channel, Refused, decode, encode, first

LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
HOUR, DAY = 3600, 24 * 3600
YEARS = 3652 * DAY
# What the clock is told, by how much that is off, and whether it stands still. One that stands is
# a day ahead, so that it can be told from one that goes.
REAL, STANDS = "+0", "stands"
SHIFTS = {
    REAL: 0,
    "-1h": -HOUR,
    STANDS: DAY,
    "+2d": 2 * DAY,
    f"+{YEARS}": YEARS,
    "-10d": -10 * DAY,
}
# Each start, and to what the clock jumps while the server runs.
LIVES = (
    (REAL, "-1h"),
    ("-1h", REAL),
    (STANDS, "+2d"),
    ("-1h", STANDS),
    (f"+{YEARS}", "-10d"),
    ("-10d", f"+{YEARS}"),
    (REAL, "-1h"),
)
CALLS, CLIENTS = 25, 4
# How exact the recorded times must be that follow the clock.
NEAR_SECONDS = 30
# How long a read says that it waits, as gRPC writes it, and how long that may be: the answer comes
# a tenth earlier.
WAIT, WAIT_SECONDS, LATER_SECONDS = "600m", (0.5, 1.1), 0.3
DEADLINE_CODE, NOT_FOUND_CODE, BEYOND_CODE = 4, 5, 11
# How long ago a moment is that has passed.
PASSED_SECONDS = 0.05


@dataclasses.dataclass
class Once:
    """An account with a command that is repeated in each life, and what it was at moments."""

    request_id: str
    account: str = ""
    position: int = 0
    # The position of its newest event at a moment, in microseconds; 0 before there was one.
    moments: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Found:
    """What lives have come to."""

    jumps: int = 0
    # How long reads waited that had to wait in vain.
    waits: list = dataclasses.field(default_factory=list)
    repeats: int = 0
    # How many reads of the past were compared with an earlier answer.
    recalled: int = 0


class Clock:
    """What a server sees of the time of day."""

    def __init__(self, directory):
        libraries = glob.glob(LIBRARY)
        if not libraries:
            raise Wrong("libfaketime is not there")
        self.path = os.path.join(directory, "clock")
        self.tracer = ["env", "TZ=UTC", f"LD_PRELOAD={libraries[0]}", "FAKETIME_NO_CACHE=1"]
        self.tracer += ["FAKETIME_DONT_FAKE_MONOTONIC=1", f"FAKETIME_TIMESTAMP_FILE={self.path}"]
        self.shift, self.stands_at = 0, None

    def set(self, name):
        """Makes it jump."""
        self.shift, self.stands_at, told = SHIFTS[name], None, name
        if name == STANDS:
            self.stands_at = int(time.time()) + self.shift
            at = datetime.datetime.fromtimestamp(self.stands_at, datetime.timezone.utc)
            told = at.strftime("%Y-%m-%d %H:%M:%S")
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write(told + "\n")
        os.rename(self.path + ".new", self.path)

    def shows(self):
        return self.stands_at or time.time() + self.shift


def near(one, other):
    return abs(one - other) < NEAR_SECONDS


def check_shown(server, clock):
    """Whether the process sees the clock that it is to see: its own log says so."""
    shown = json.loads(server.lines[-1])["timestamp"]
    seconds = datetime.datetime.fromisoformat(shown.replace("Z", "+00:00")).timestamp()
    if not near(seconds, clock.shows()):
        raise Wrong(f"the clock did not jump: the log says {shown}")


def begin(channel, once, found):
    """Opens the account."""
    opened = channel.call(bank.COMMANDS + "OpenAccount", encode((2, "Ada")))
    once.account = first(decode(opened), 1, b"").decode()
    once.position = repeat(channel, once, found)


def repeat(channel, once, found):
    """A command with a request id, which is carried out once, whatever the time."""
    message = encode((1, once.account), (2, 1), (4, once.request_id))
    answer = decode(channel.call(bank.COMMANDS + "DepositMoney", message))
    found.repeats += first(answer, 3)
    position = first(decode(first(answer, 1)), 1)
    if once.position not in (0, position):
        raise Wrong("a command was carried out again because the clock had moved")
    return position


def recall(channel, once, clock, found):
    """What the account was at a moment that has passed is always the same; one more is asked."""
    once.moments.setdefault(int((clock.shows() - PASSED_SECONDS) * 1e6))
    for micros, position in once.moments.items():
        moment = encode((1, micros // 1_000_000), (2, micros % 1_000_000 * 1000))
        try:
            question = encode((1, once.account), (4, moment))
            answer = first(decode(channel.call(bank.QUERIES + "GetAccount", question)), 2)
        except Refused as refused:
            if refused.code == BEYOND_CODE:
                # By what the clock shows now it has not come yet.
                continue
            if refused.code != NOT_FOUND_CODE:
                raise
            answer = 0
        if position not in (None, answer):
            raise Wrong(f"what was true at a moment has changed from {position} to {answer}")
        found.recalled += position is not None
        once.moments[micros] = answer


def wait_in_vain(channel, account, found):
    """A read waits as long as it says, for a position that does not come."""
    begun = time.monotonic()
    question = encode((1, account), (5, bank.stats(channel) + 1_000_000))
    try:
        channel.call(bank.QUERIES + "GetAccount", question, WAIT)
        raise Wrong("a read was answered before its position was there")
    except Refused as refused:
        if refused.code != DEADLINE_CODE or refused.reason != "POSITION_NOT_REACHED":
            raise
    seconds = time.monotonic() - begun
    found.waits.append(seconds)
    if not WAIT_SECONDS[0] <= seconds <= WAIT_SECONDS[1]:
        raise Wrong(f"a read that waits {WAIT} was answered after {seconds:.2f} s")


def wait_and_see(channel, server, book, jump):
    """A read waits for a position that comes late, with a jump of the clock in between."""
    depositor = bank.Depositor(book, server)
    question = encode((1, depositor.account), (5, bank.stats(channel) + 1))

    def later():
        time.sleep(LATER_SECONDS / 2)
        jump()
        time.sleep(LATER_SECONDS / 2)
        depositor.deposit()

    thread, begun = threading.Thread(target=later), time.monotonic()
    thread.start()
    try:
        channel.call(bank.QUERIES + "GetAccount", question, "10S")
    finally:
        thread.join()
        depositor.finish()
    if not LATER_SECONDS * 0.9 <= time.monotonic() - begun <= LATER_SECONDS + 1:
        raise Wrong(f"a read waited {time.monotonic() - begun:.2f} s instead of {LATER_SECONDS} s")


def work(book, server, channel, clock, once, found):
    """Loads, a change of the account, a repeat, and reads that wait and that look back."""
    bank.loaded(book, server, CLIENTS, calls=CALLS)
    recall(channel, once, clock, found)
    depositor = bank.Depositor(book, server)
    depositor.account = once.account
    depositor.deposit()
    depositor.finish()
    repeat(channel, once, found)
    recall(channel, once, clock, found)
    wait_in_vain(channel, once.account, found)


def live(place, data, book, clock, life, once, found):
    """One start, work, a jump, more work, and an end, each other one by a kill."""
    starts_with, jumps_to = LIVES[life]
    clock.set(starts_with)
    server = bank.Server(place.binary, data, tracer=clock.tracer).started()
    try:
        check_shown(server, clock)
        channel = Channel(server.address)
        if not once.account:
            begin(channel, once, found)
        work(book, server, channel, clock, once, found)
        wait_and_see(channel, server, book, lambda: clock.set(jumps_to))
        work(book, server, channel, clock, once, found)
        channel.close()
        found.jumps += 2
        if life % 2:
            server.kill()
        else:
            server.stop_in_order()
            check_shown(server, clock)
    finally:
        server.kill()


def check_times(events, highest):
    """Recorded times never decrease, positions and versions go on. Gives the times."""
    versions, before, times = {}, 0, []
    for position, account, version, micros in events:
        if position != before + 1 or version != versions.get(account, 0) + 1:
            raise Wrong(f"{position} follows {before}, and version {version} of {account} too")
        if times and micros < times[-1]:
            raise Wrong(f"the recorded time went back by {times[-1] - micros} us at {position}")
        before, versions[account] = position, version
        times.append(micros)
    if not near(times[-1] / 1e6, highest):
        raise Wrong(f"the recorded times end at {times[-1] / 1e6}, and the clock showed {highest}")
    return times


def recorded(place, data):
    """Every event: its position, account, version, and time in microseconds."""
    server, found = bank.Server(place.binary, data).started(), []
    try:
        channel = Channel(server.address)
        for event in bank.tail(channel, 0):
            at = decode(first(event, 5))
            micros = first(at, 1) * 1_000_000 + first(at, 2) // 1000
            found.append((first(event, 1), first(event, 3), first(event, 4), micros))
        channel.close()
        server.stop_in_order()
    finally:
        server.kill()
    return found


def run(place, tally):
    data, book = place.data(None)
    clock, once, found = Clock(os.path.dirname(data)), Once(str(uuid.uuid4())), Found()
    for life in range(len(LIVES)):
        live(place, data, book, clock, life, once, found)
    book.calls.append(bank.Call(once.account, range(1, 2), 0, 0, once.position))
    events = recorded(place, data)
    if place.lies:
        events[-1] = (*events[-1][:3], events[0][3])
    times = check_times(events, time.time() + YEARS)
    pinned = sum(one == other for one, other in zip(times, times[1:]))
    tally.faults += found.jumps
    tally.acks += bank.audit(place.binary, data, book)
    if found.repeats != 2 * len(LIVES) or not found.recalled:
        raise Wrong(f"{found.repeats} repeats and {found.recalled} reads prove too little")
    tally.more.append(
        f"{len(events):,} recorded times, {pinned:,} of them the same as the one before; waits of "
        f"{WAIT} took {min(found.waits):.2f} to {max(found.waits):.2f} s; {found.repeats} repeats "
        f"were taken for repeats, {found.recalled} reads of {len(once.moments)} moments were "
        "answered as before"
    )
