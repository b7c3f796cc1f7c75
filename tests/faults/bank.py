"""A server in a process of its own, those who command it, and what they were promised.

It owns how a server is started, traced, loaded and ended, and the comparison of what a log has
with what was answered. It does not know which faults there are, nor what must follow from them.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

from channel import Broken, Channel, Refused, decode, encode, first

START_SECONDS = 60
STOP_SECONDS = 30
# As long as a try to make a segment takes that fails, and another.
SPARE_SECONDS = 20
COMMANDS, QUERIES = "/daybook.v1.CommandService/", "/daybook.v1.QueryService/"
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = 1
SEGMENT_BYTES = 64 * 1024 * 1024
# Of a call that the connection's end did not count among those that it had taken.
TURNED_AWAY = "TURNED_AWAY"
# After one of these a command is not in the log.
REFUSALS = ("LOG_FULL", "OVERLOADED", "STOPPING", TURNED_AWAY)


class Wrong(Exception):
    """A promise was broken."""


class Server:
    """A process that serves, or that could not."""

    def __init__(self, binary, data, events=1024, tracer=(), options=()):
        command = [*tracer, str(binary), "--listen", "127.0.0.1:0", "--log-format", "json"]
        command += ["--checkpoint-events", str(events), "--data-dir", str(data), *options]
        # A write beyond a limit of ours must fail, as one on a full disk does, and not kill.
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={}, restore_signals=False
        )
        self.data, self.address, self.lines = pathlib.Path(data), None, []
        self.is_serving, self.told = False, threading.Condition()
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self):
        for line in self.process.stderr:
            with self.told:
                self.lines.append(line.rstrip())
                with contextlib.suppress(ValueError):
                    fields = json.loads(line)
                    self.address = fields.get("address", self.address)
                    self.is_serving |= fields.get("message") == "serving"
                self.told.notify_all()
        with self.told:
            self.told.notify_all()

    def has_told(self, word):
        return any(word in line for line in self.lines)

    def wait_for(self, word, seconds=START_SECONDS):
        """Waits for a line with a word in it. Gives whether it came before the process ended."""
        until = time.monotonic() + seconds
        with self.told:
            while not self.has_told(word) and self.listener.is_alive():
                if time.monotonic() > until:
                    raise Wrong(f"it did not say {word!r} in {seconds} s: {self.lines[-5:]}")
                self.told.wait(0.2)
            return self.has_told(word)

    def started(self):
        """Waits until it serves, which it must; else nothing of it is left."""
        try:
            if not self.wait_for('"serving"'):
                raise Wrong(f"it does not start: exit code {self.ended()}, {self.lines[-5:]}")
        except Wrong:
            self.kill()
            raise
        return self

    def with_spare(self):
        """Waits until the next segment is there as well."""
        for _ in range(SPARE_SECONDS * 100):
            with contextlib.suppress(OSError):
                if (self.data / "spare.tmp").stat().st_size >= SEGMENT_BYTES:
                    return self
            if not self.listener.is_alive():
                return self
            time.sleep(0.01)
        raise Wrong("no spare was made")

    def has_gone(self, seconds):
        """Whether the process ends by itself within so long a time."""
        self.listener.join(seconds)
        return not self.listener.is_alive()

    def threads(self):
        """The names of its threads by their ids."""
        found = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found[int(task.name)] = (task / "comm").read_text().strip()
        return found

    def health(self, service):
        channel = Channel(self.address)
        try:
            return first(decode(channel.call(HEALTH, encode((1, service)))), 1) == SERVING
        finally:
            channel.close()

    def ended(self, seconds=STOP_SECONDS):
        """Its exit code, when it has ended by itself."""
        # Not by a wait with a time limit: a signal to us in it may leave its lock behind.
        if not self.has_gone(seconds):
            self.kill()
            raise Wrong(f"it does not end: {self.lines[-5:]}")
        return self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def stop_in_order(self):
        code = self.stop()
        if code:
            raise Wrong(f"a stop ended with {code}: {self.lines[-5:]}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.listener.join()


@contextlib.contextmanager
def running(binary, data, tracer=()):
    """A server that has started, and is killed if it has not ended by then."""
    server = Server(binary, data, tracer=tracer)
    try:
        yield server.started()
    finally:
        server.kill()


def stats(channel):
    """The position that is shown."""
    return first(decode(channel.call(QUERIES + "GetStats")), 6)


@dataclasses.dataclass
class Call:
    """A call that deposits amounts which nobody else deposits, and what came of it."""

    account: str
    amounts: range
    sent: float
    answered: float = 0
    # Of its last event, if the answer was no error.
    position: int = 0
    # Of an error; empty when there was no answer.
    reason: str = ""
    # How much the medium had been given when the answer was there, if its book counts that.
    written: int = 0

    @property
    def is_accepted(self):
        return self.position > 0


class Book:
    """All that was asked of one ledger, and all that it answered."""

    def __init__(self):
        self.calls, self.next, self.lock = [], 1, threading.Lock()
        # Up to where the log has been compared before.
        self.base = 0
        self.written = lambda: 0

    def copy(self):
        """The same for a copy of the directory, from where it is now."""
        other = Book()
        other.next, other.base = self.next, self.base
        return other

    def add(self, other):
        """Takes over what a copy was asked since."""
        self.calls, self.next = self.calls + other.calls, other.next

    def at(self, written):
        """What was known when the medium had been given so much: later answers are not."""
        other = self.copy()
        for call in self.calls:
            is_later = call.is_accepted and call.written > written
            other.calls.append(dataclasses.replace(call, position=0) if is_later else call)
        return other

    def amounts(self, count):
        with self.lock:
            self.next += count
            return range(self.next - count, self.next)

    def accepted(self):
        return [call for call in self.calls if call.is_accepted]

    def acks(self):
        return sum(len(call.amounts) for call in self.accepted())

    def add_lie(self):
        """Claims one more answer than there was."""
        position = max([self.base, *(call.position for call in self.calls)]) + 1
        self.calls.append(Call("nobody", self.amounts(1), 0, 0, position))

    def check(self, server):
        """Compares the log with what was answered. Gives how many answers that were."""
        channel = Channel(server.address)
        try:
            found = dict(events(channel, self.base))
            head = stats(channel)
        finally:
            channel.close()
        if head < self.base:
            raise Wrong(f"the log ends with {head}, and {self.base} was there before")
        if sorted(found) != list(range(self.base + 1, head + 1)):
            raise Wrong(f"the positions from {self.base} to {head} have gaps")
        places = {deposit: at for at, deposit in found.items() if deposit}
        if len(places) < sum(deposit is not None for deposit in found.values()):
            raise Wrong("a command is in the log twice")
        acks = sum(self.check_call(call, places) for call in list(self.calls))
        if places:
            raise Wrong(f"the log has what nobody was to find in it: {next(iter(places))}")
        return acks

    @staticmethod
    def check_call(call, places):
        """Looks up a call, and crosses out what is there of it. Gives how many answers it had."""
        found = [places.pop((call.account, amount), None) for amount in call.amounts]
        if call.is_accepted:
            # Of a batch the answer tells a place that is not before its last event.
            begin = found[0] or 0
            if found != list(range(begin, begin + len(found))) or found[-1] > call.position:
                raise Wrong(f"an acknowledged command, {call}, is lost: {found[:3]}")
            if len(found) == 1 and found[0] != call.position:
                raise Wrong(f"an acknowledged command, {call}, is at {found[0]}")
            return len(found)
        was_refused = call.reason in REFUSALS
        if was_refused and any(found):
            raise Wrong(f"a refused command, {call}, is in the log")
        # Nobody knows what came of it, but it is there as a whole or not at all.
        if len(set(place is None for place in found)) > 1:
            raise Wrong(f"a command, {call}, is there in part")
        return 0


def tail(channel, base):
    """The events after a position, up to the one that is shown now."""
    head = stats(channel)
    if head == base:
        return
    for message in channel.answers(QUERIES + "TailEvents", encode((1, base))):
        response = decode(message)
        yield from map(decode, response.get(1, []))
        if first(response, 2) >= head:
            return


def events(channel, base):
    """The events after a position: their positions, and account and amount of each deposit."""
    for event in tail(channel, base):
        deposit = None
        if 9 in event:
            deposit = first(event, 3, b"").decode(), first(decode(first(event, 9)), 1)
        yield first(event, 1), deposit


def shown(server):
    """All events that a server shows."""
    channel = Channel(server.address)
    try:
        return dict(events(channel, 0))
    finally:
        channel.close()


class Depositor(threading.Thread):
    """A client that makes one call after another."""

    def __init__(self, book, server, calls=10**9, batch=1, reason="", goes_on=False):
        super().__init__(daemon=True)
        self.book, self.calls_left, self.batch, self.reason = book, calls, batch, reason
        self.goes_on, self.has_to_end, self.failure = goes_on, threading.Event(), None
        self.channel = Channel(server.address)
        opened = self.channel.call(COMMANDS + "OpenAccount", encode((2, "Ada")))
        self.account = first(decode(opened), 1, b"").decode()

    def run(self):
        while self.calls_left and not self.has_to_end.is_set():
            self.calls_left -= 1
            if not self.deposit().is_accepted and not self.goes_on:
                return

    def deposit(self):
        """Makes one call."""
        amounts = self.book.amounts(self.batch)
        one = [(1, self.account), (3, self.reason)]
        deposits = [encode(*one, (2, amount)) for amount in amounts]
        call = Call(self.account, amounts, time.time())
        with self.book.lock:
            self.book.calls.append(call)
        try:
            if self.batch == 1:
                answer = decode(self.channel.call(COMMANDS + "DepositMoney", deposits[0]))
                position = first(decode(first(answer, 1)), 1)
            else:
                commands = [(1, encode((2, deposit))) for deposit in deposits]
                answer = self.channel.call(COMMANDS + "ExecuteBatch", encode(*commands))
                position = first(decode(answer), 1)
        except Refused as refused:
            call.reason = refused.reason or f"CODE_{refused.code}"
            call.answered = time.time()
        except Broken:
            call.reason = ""
        else:
            call.answered = time.time()
            call.written = self.book.written()
            call.position = position
        return call

    def finish(self):
        self.has_to_end.set()
        if self.ident:
            self.join()
        self.channel.close()


@contextlib.contextmanager
def load(book, server, clients, **options):
    """Clients that go on until they have done their calls, or until they are to end."""
    depositors = [Depositor(book, server, **options) for _ in range(clients)]
    for depositor in depositors:
        depositor.start()
    try:
        yield depositors
    finally:
        for depositor in depositors:
            depositor.finish()


def loaded(book, server, clients=1, **options):
    """Waits until clients have made all their calls, or had an error."""
    with load(book, server, clients, **options) as depositors:
        for depositor in depositors:
            depositor.join()


def verified(binary, data):
    """What comes of `daybook verify` on a directory without a server."""
    command = [binary, "verify", "--data-dir", data]
    return subprocess.run(command, capture_output=True, text=True, env={})


def told(done, word):
    """What a line says that begins with a word."""
    return re.search(rf"^{word} +(\S+)", done.stdout, re.M).group(1)


def verify(binary, data):
    """The position that a directory without a server has."""
    done = verified(binary, data)
    if done.returncode:
        raise Wrong(f"verify ends with {done.returncode}: {done.stderr.strip()}")
    return int(told(done, "position"))


def audit(binary, data, book):
    """Starts a server without faults, compares all that it tells, stops it, and verifies."""
    server = Server(binary, data)
    try:
        server.started()
        acks = book.check(server)
        channel = Channel(server.address)
        position = stats(channel)
        channel.close()
        for name in ("readiness", "daybook.v1.QueryService"):
            if not server.health(name):
                raise Wrong(f"after a start {name} does not serve")
        server.stop_in_order()
    finally:
        server.kill()
    if verify(binary, data) != position:
        raise Wrong("verify finds another position than the server showed")
    return acks


@dataclasses.dataclass(frozen=True)
class Traced:
    """A system call that was traced."""

    thread: int
    name: str
    begin: float
    end: float
    result: str
    # Whether the call was made to fail, wait, or kill.
    is_injected: bool
    line: str


class Trace:
    """What strace wrote of a process."""

    UNFINISHED = re.compile(r"^(\d+) +([\d.]+) (\w+)\((.*) <unfinished \.\.\.>$")
    RESUMED = re.compile(r"^(\d+) +([\d.]+) <\.\.\. (\w+) resumed>(.*)$")
    WHOLE = re.compile(r"^(\d+) +([\d.]+) (\w+)\((.*)$")

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def calls(self):
        pending = {}
        for line in self.path.read_text(errors="replace").splitlines():
            if found := self.UNFINISHED.match(line):
                pending[found.group(1)] = float(found.group(2)), found.group(4)
                continue
            resumed = self.RESUMED.match(line)
            found = resumed or self.WHOLE.match(line)
            if not found:
                continue
            thread, at, name, rest = found.groups()
            begin, head = pending.pop(thread, (float(at), "")) if resumed else (float(at), "")
            took = re.search(r"<([\d.]+)>$", rest)
            result = re.search(r"\) += (.*?)(?: <[\d.]+>)?$", rest)
            result = result.group(1) if result else "?"
            end = begin + float(took.group(1)) if took else begin
            injected = "(INJECTED)" in rest or "(DELAYED)" in rest
            yield Traced(int(thread), name, begin, end, result, injected, head + rest)

    def hits(self):
        return [call for call in self.calls() if call.is_injected]

    def wait(self, pid):
        """Waits until strace has written how the process ended."""
        for _ in range(500):
            with contextlib.suppress(OSError):
                if re.search(rf"^{pid} .*\+\+\+ (exited|killed)", self.path.read_text(), re.M):
                    return
            time.sleep(0.01)
        raise Wrong("strace does not end")


def tracer(path, names, files, injection):
    """The beginning of a command that traces what comes after it."""
    command = ["strace", "-f", "-y", "-ttt", "-T", "-o", path, "-e", f"trace={','.join(names)}"]
    for file in files:
        command += ["-P", file]
    return [str(word) for word in [*command, *injection]]


class Attached:
    """A tracer of a server that runs."""

    def __init__(self, server, path, names, files, injection):
        self.trace, self.server = Trace(path), server
        self.threads = server.threads()
        command = tracer(path, names, files, injection) + ["-p", str(server.process.pid)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        told = self.process.stderr.readline()
        if "attached" not in told:
            raise Wrong(f"strace: {told.strip()}")

    def release(self):
        """Ends the tracer of a process that was killed, which may wait for it for ever."""
        self.process.kill()
        self.process.wait()

    def detach(self):
        with contextlib.suppress(OSError):
            # One that had just begun had no name of its own yet.
            self.threads.update(self.server.threads())
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.stderr.read()
        self.process.wait()
        return self.trace


def files_of(data):
    """Every path that the engine uses in a directory, and the directory."""
    names = [f"{number:020}.seg" for number in range(1, 5)]
    names += ["spare.tmp", "lock", "checkpoint", "checkpoint.tmp", "newest.tmp", "newest.new"]
    return [data, *(os.path.join(data, name) for name in names)]
