"""What is watched while a server is attacked: health, memory, and a client that behaves well.

It owns the server of each attack, the process that attacks it, and the judgement. It does not know
what attacks there are.
"""

import collections
import dataclasses
import json
import multiprocessing
import os
import pathlib
import resource
import select
import socket
import subprocess
import tempfile
import threading
import time

import bank
from bank import Wrong
from channel import Broken, encode
from peer import Peer, block, body, head
from secure import context
from slow import CHECK
from tails import forget_peak, memory_kib

# The client that behaves well: moderate, and each call when it is due.
LOAD = ("--rate", "300", "--in-flight", "64", "--accounts", "100", "--warm-up", "0")
BASE_SECONDS, LOAD_SECONDS, AFTER_SECONDS, BENCH_SECONDS = 1, 2, 1, 90
# Within which time health must answer, and the same on a machine that is busy with other things:
# one on which the p99 of that client is more than this without an attack.
HEALTH_SECONDS, HEALTH_BUSY_SECONDS, BUSY_SECONDS = 1, 3, 0.05
HEALTH_PAUSE_SECONDS = 0.05
# How much memory an attack may take, and one over many connections or with the largest messages.
MIB_MAX, MIB_MAX_MANY = 32, 64
# The same for thousands of calls at once, of which each takes about 14 KiB; and where the server
# also keeps as much as it may of what came in part, or of what nobody takes, twice 32 MiB more, and
# what the allocator makes of that on a busy machine.
MIB_MAX_CALLS, MIB_MAX_LARGE = 96, 256
# What of it may be left afterwards, and when. The allocator keeps some of what was freed, as pages
# in which something is still used: up to 33 MiB of 150 were seen.
LEFT_SHARE, LEFT_MIB, BACK_SECONDS = 0.1, 48, 15
# How long an attack goes on at most, whatever it has sent by then.
ATTACK_SECONDS = 40
# How many connections a server takes at once.
PLACES = 1_024
# When the load is under way.
LET_IN_SECONDS = 0.3
# How long a connection may take that nobody is told of.
CONNECT_MILLIS = 200
# How much of a processor silent sockets may cost while nobody else calls, and for how long.
IDLE_SHARE, IDLE_SECONDS = 0.1, 2


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way to abuse a server, and what it needs."""

    name: str
    run: object
    # How many frames, calls or connections must have been sent.
    floor: int
    options: tuple = ()
    is_many: bool = False
    is_tls: bool = False
    # How many files the server may have open, if that is to be few.
    files: int = 0
    # Whether newcomers get in while it goes on. Where they wait, those that were let in go on.
    lets_in: bool = True
    # Whether it costs the server nothing while nobody else calls.
    is_silent: bool = False
    # How much memory it may take, if not the usual.
    mib_max: int = 0


class Target:
    """What the attacking process knows of the server, and what it has to tell."""

    def __init__(self, address, tls, seed, ended, files):
        self.address, self.tls, self.seed, self.ended = address, tls, seed, ended
        self.seen, self.sent, self.frames = collections.Counter(), "", 0
        self.wrong, self.begun = "", time.monotonic()
        # How many silent sockets must be closed: half of as many as can be let in.
        self.files_min = (files or PLACES) // 2

    def source(self, number):
        """An address of this machine; it has many, and each may have so many connections."""
        return f"127.0.0.{2 + number % 200}"

    def connect(self, source, waits=True):
        """A socket that nothing was said on, connected if it waits for that."""
        host, port = self.address.rsplit(":", 1)
        found = socket.socket()
        try:
            found.bind((source, 0))
            found.setblocking(False)
            found.connect_ex((host, int(port)))
            if waits:
                waiting = select.poll()
                waiting.register(found, select.POLLOUT)
                waiting.poll(CONNECT_MILLIS)
        except OSError as error:
            found.close()
            raise Broken(str(error)) from error
        return found

    def has_ended(self):
        return self.ended.is_set()

    def is_late(self):
        return time.monotonic() > self.begun + ATTACK_SECONDS

    def is_over(self, is_enough):
        """Whether it can stop: enough was sent, and the load beside it is over."""
        return is_enough and self.has_ended() or self.is_late()

    def wait(self):
        """Keeps everything as it is until the load is over."""
        self.ended.wait(max(0, self.begun + ATTACK_SECONDS - time.monotonic()))

    def is_wrong(self, what):
        self.wrong = self.wrong or what

    def must_see(self, *any_of):
        if not any(self.seen[it] for it in any_of):
            self.is_wrong(f"none of {any_of} was seen, but {dict(self.seen)}")


def attack_in_child(attack, target, pipe, may_begin):
    may_begin.wait()
    target.begun = time.monotonic()
    try:
        attack.run(target)
    except (Wrong, Broken) as wrong:
        target.is_wrong(f"{type(wrong).__name__}: {wrong}")
    pipe.send((target.sent, target.frames, dict(target.seen), target.wrong))


class Attacker:
    """An attack in a process of its own, so that it takes no time from those who measure. It is
    made before there are threads that may hold a lock, and begins later."""

    def __init__(self, attack, server, tls, seed):
        self.ended, self.may_begin = multiprocessing.Event(), multiprocessing.Event()
        target = Target(server.address, tls, seed, self.ended, attack.files)
        self.pipe, child = multiprocessing.Pipe(duplex=False)
        arguments = (attack, target, child, self.may_begin)
        self.process = multiprocessing.Process(target=attack_in_child, args=arguments, daemon=True)
        self.process.start()
        child.close()

    def finish(self):
        """Lets it end, and gives what it tells."""
        self.ended.set()
        try:
            if not self.pipe.poll(ATTACK_SECONDS + 20):
                raise Wrong("the attack does not end")
            return self.pipe.recv()
        except EOFError:
            raise Wrong("the attack broke off") from None
        finally:
            self.stop()

    def stop(self):
        self.process.kill()
        self.process.join()


class Prober(threading.Thread):
    """Asks for health again and again, each time over a new connection if there is one for it."""

    def __init__(self, server, tls, is_fresh):
        super().__init__(daemon=True)
        self.address, self.tls, self.is_fresh = server.address, tls, is_fresh
        self.seen = collections.Counter()
        self.has_to_end, self.times, self.failures = threading.Event(), [], []
        self.peer, self.stream = None, -1

    def run(self):
        while not self.has_to_end.wait(HEALTH_PAUSE_SECONDS):
            begun = time.monotonic()
            try:
                self.ask()
            except (Broken, OSError) as failure:
                self.failures.append(str(failure))
                self.peer = None
            self.times.append(time.monotonic() - begun)

    def ask(self):
        if self.peer is None:
            self.peer, self.stream = Peer(self), -1
        self.stream += 2
        question = encode((1, "readiness"))
        answered = self.seen["status 0"]
        self.peer.send(head(self.stream, block(CHECK)) + body(self.stream, question))
        self.peer.wait(HEALTH_BUSY_SECONDS, lambda: self.peer.ended[self.stream])
        if self.seen["status 0"] == answered:
            raise Broken(f"health does not answer: {dict(self.seen)}")
        if self.is_fresh:
            self.peer.close()
            self.peer = None

    def finish(self):
        self.has_to_end.set()
        self.join()


class Load:
    """The client that behaves well."""

    def __init__(self, place, server, certificate, seconds):
        scheme = "https" if certificate else "http"
        command = [place.binary, "bench", "--address", f"{scheme}://{server.address}", "--json"]
        command += [*LOAD, "--seconds", str(seconds)]
        command += ["--ca", certificate] if certificate else []
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={})

    def finish(self):
        """What it tells; its own check has found every deposit."""
        try:
            told, error = self.process.communicate(timeout=BENCH_SECONDS)
        except subprocess.TimeoutExpired:
            raise Wrong("the client that behaves well does not end") from None
        finally:
            self.process.kill()
            self.process.wait()
        if self.process.returncode:
            raise Wrong(f"the client that behaves well lost something: {error.strip()}")
        return json.loads(told)


@dataclasses.dataclass
class Result:
    """What an attack came to."""

    attack: str
    sent: str = ""
    seen: str = ""
    mib: float = 0
    health_millis: float = 0
    # p50 and p99 of the client that behaves well, in milliseconds, without the attack and during.
    before: tuple = (0, 0)
    during: tuple = (0, 0)
    checks: int = 0


@dataclasses.dataclass
class Place:
    """Where servers are made."""

    binary: pathlib.Path
    directory: str
    seed: int
    certificate: str = ""
    key: str = ""
    # What is done to each server when it is attacked: nothing, unless to see that it is found.
    harm: object = None
    # What each server is told beyond what the attack needs.
    options: tuple = ()


def quantiles(told):
    found = told["latency_micros"]
    if not found:
        raise Wrong("the client that behaves well measured nothing")
    return found["p50"] / 1000, found["p99"] / 1000


def cpu_seconds(server):
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def started(place, attack):
    data = os.path.join(tempfile.mkdtemp(dir=place.directory), "data")
    options = [*attack.options, *place.options]
    if attack.is_tls:
        options += ["--tls-certificate", place.certificate, "--tls-key", place.key]
    server = bank.Server(place.binary, data, options=options)
    if attack.files:
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (attack.files, hard))
    return server.started()


def tried(place, attack, result):
    """One attack on a fresh server, and what it comes to. Raises what is wrong."""
    server = started(place, attack)
    try:
        certificate = place.certificate if attack.is_tls else ""
        base = Load(place, server, certificate, BASE_SECONDS).finish()
        result.before, result.checks = quantiles(base), base["accepted"]
        attacked(place, attack, server, certificate, result)
        server.stop_in_order()
    finally:
        server.kill()


def attacked(place, attack, server, certificate, result):
    tls = context(certificate) if certificate else None
    base_kib = memory_kib(server, "VmRSS")
    forget_peak(server)
    attacker = Attacker(attack, server, tls, place.seed)
    prober = Prober(server, tls, attack.lets_in)
    prober.start()
    # Who fills all places comes after those that are let in.
    load = Load(place, server, certificate, LOAD_SECONDS)
    time.sleep(LET_IN_SECONDS)
    attacker.may_begin.set()
    try:
        if place.harm:
            place.harm(server)
        told = load.finish()
        result.during, result.checks = quantiles(told), result.checks + told["accepted"]
        if attack.is_silent:
            check_idle(server, prober)
        sent, frames, seen, wrong = attacker.finish()
    finally:
        attacker.stop()
        load.process.kill()
        load.process.wait()
        prober.finish()
    result.sent, result.seen = sent, described(seen)
    result.health_millis = max(prober.times, default=0) * 1000
    result.mib = max(0, memory_kib(server, "VmHWM") - base_kib) / 1024
    judge(attack, server, prober, result)
    if wrong:
        raise Wrong(wrong)
    if frames < attack.floor:
        raise Wrong(f"{frames} were sent, fewer than {attack.floor}: nothing is proved")
    # It goes on, and so does whatever gives memory back.
    after = Load(place, server, certificate, AFTER_SECONDS).finish()
    result.checks += after["accepted"]
    until_back(server, base_kib)


def check_idle(server, prober):
    prober.finish()
    begun = cpu_seconds(server)
    time.sleep(IDLE_SECONDS)
    share = (cpu_seconds(server) - begun) / IDLE_SECONDS
    if share > IDLE_SHARE:
        raise Wrong(f"silent sockets cost {share:.0%} of a processor")


def judge(attack, server, prober, result):
    if server.has_gone(0):
        raise Wrong(f"the server is gone: {server.lines[-5:]}")
    panics = [line for line in server.lines if "panic" in line]
    if panics:
        raise Wrong(f"the server panicked: {panics[0]}")
    if prober.failures or not prober.times:
        raise Wrong(f"health failed {len(prober.failures)} times: {prober.failures[:1]}")
    is_busy = result.before[1] > BUSY_SECONDS * 1000
    allowed = HEALTH_BUSY_SECONDS if is_busy else HEALTH_SECONDS
    if result.health_millis > allowed * 1000:
        raise Wrong(f"health took {result.health_millis:.0f} ms, more than {allowed} s")
    mib_max = attack.mib_max or (MIB_MAX_MANY if attack.is_many else MIB_MAX)
    if result.mib > mib_max:
        raise Wrong(f"it took {result.mib:.0f} MiB, more than {mib_max}: {result.seen}")


def until_back(server, base_kib):
    """Waits until its memory is what it was, or nearly."""
    allowed = base_kib * (1 + LEFT_SHARE) + LEFT_MIB * 1024
    until = time.monotonic() + BACK_SECONDS
    while (now := memory_kib(server, "VmRSS")) > allowed:
        if time.monotonic() > until:
            raise Wrong(f"it keeps {(now - base_kib) // 1024} MiB after {BACK_SECONDS} s")
        time.sleep(0.1)


def described(seen):
    """What was seen, the most frequent first."""
    found = sorted(seen.items(), key=lambda it: -it[1])
    return ", ".join(f"{name} ({count:,})" if count else name for name, count in found)
