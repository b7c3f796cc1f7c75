"""Faults of single system calls: each call of each kind fails in turn, or kills the process.

It owns the scenes in which that happens, and what must follow. strace counts the calls of each
thread for itself, so one number may meet one call of several threads; each is judged.
"""

import concurrent.futures
import dataclasses
import functools
import os
import shutil
import signal
import tempfile
import time

import bank
from bank import Wrong
from channel import Broken, Channel, Refused, encode

HARD = ("EIO", "ENOSPC", "EDQUOT")
# What is asked again at once, and so harms nothing.
SOFT = ("EINTR",)
# A write that says it wrote nothing, and did not; a read that says the file ends there.
SHORT = "SHORT"
KILL = "KILL"
WRITES = {"pwrite64": (*HARD, *SOFT, SHORT), "fdatasync": (*HARD, *SOFT)}
# The threads without which the log goes on.
HELPERS = ("daybook-spare", "daybook-checkpo", "daybook-scrub")
# What is written with these is information only.
NEEDLESS = ("write", "ftruncate")
# Codes with which a server ends that could not start: a failure of a part, or of the medium.
EXITS_FAILED = (1, 74)
# Every number is tried up to here, then each is twice the last, unless all are asked for.
EVERY_UP_TO = 6
WORKERS = 2
# As long as a line takes that an idle writer leaves in the log, and half as much again.
IDLE_SECONDS = 0.15
# As long as a process that was killed may take until its end is seen.
GONE_SECONDS = 0.5
REASON = "x" * 250


@dataclasses.dataclass
class Tally:
    """What a lane has come to."""

    cases: int = 0
    faults: int = 0
    acks: int = 0
    failed_logs: int = 0
    failed_starts: int = 0
    # Events that were shown although the disk lacked them.
    revived: int = 0
    not_serving_millis: float = 0
    # What else there is to tell.
    more: list = dataclasses.field(default_factory=list)

    def add(self, other):
        self.cases += other.cases
        self.faults += other.faults
        self.acks += other.acks
        self.failed_logs += other.failed_logs
        self.failed_starts += other.failed_starts
        self.revived += other.revived
        self.not_serving_millis = max(self.not_serving_millis, other.not_serving_millis)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where cases are tried."""

    binary: str
    directory: str
    # Directories that scenes begin with, and their books.
    killed: tuple
    nearly_full: tuple
    # Whether books claim one answer more than there was: then every case must fail.
    lies: bool = False
    every: bool = False

    def data(self, template):
        """A directory of its own, and its book."""
        path = os.path.join(tempfile.mkdtemp(dir=self.directory), "data")
        if template is None:
            return path, bank.Book()
        shutil.copytree(template[0], path)
        return path, template[1].copy()


def make_bench(binary, directory, lies=False, every=False):
    killed = make_template(binary, directory, fill_killed)
    nearly_full = make_template(binary, directory, fill_segment)
    return Bench(binary, directory, killed, nearly_full, lies, every)


def make_template(binary, directory, fill):
    """A directory whose server was killed, and its book up to what it has."""
    path = os.path.join(tempfile.mkdtemp(dir=directory), "data")
    server, book = bank.Server(binary, path).started(), bank.Book()
    fill(server, book)
    server.kill()
    os.remove(os.path.join(path, "spare.tmp"))
    trial = os.path.join(tempfile.mkdtemp(dir=directory), "data")
    shutil.copytree(path, trial)
    bank.audit(binary, trial, book)
    book.base = bank.verify(binary, trial)
    shutil.rmtree(trial)
    return path, book


def fill_killed(server, book):
    """A checkpoint, then calls under way when it is killed."""
    bank.loaded(book, server, calls=1, batch=1500)
    server.wait_for('"checkpoint"')
    with bank.load(book, server, 4):
        time.sleep(0.2)
        server.kill()


def fill_segment(server, book):
    """A first segment that has no room for another megabyte."""
    bank.loaded(book, server, calls=41, batch=1200, reason=REASON)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A part of a server's life, and the calls in it that fail."""

    name: str
    # Which errors for which system calls.
    sites: dict
    # Which of the paths of the engine count.
    files: tuple
    act: object
    template: str = ""

    def paths(self, data):
        paths = bank.files_of(data)
        wanted = [path for path in paths[1:] if any(word in path for word in self.files)]
        return wanted + ([data] if "directory" in self.files or "" in self.files else [])

    def begin(self, place):
        return place.data(getattr(place, self.template) if self.template else None)


def injection(name, error, n):
    if error == SHORT:
        what = "retval=0"
    elif error == KILL:
        what = "signal=SIGKILL"
    else:
        what = f"error={error}"
    return ["-e", f"inject={name}:{what}:when={n}"]


def numbers(every, up_to=EVERY_UP_TO, times=2):
    """Every number up to one, then each is so many times the last, unless all are asked for."""
    n = 1
    while True:
        yield n
        n = n + 1 if every or n < up_to else n * times


def try_site(place, scene, name, error):
    """Fails the n-th call for every n until there is none. Gives what that came to."""
    tally = Tally()
    for n in numbers(place.every):
        case = f"{scene.name}: {name} {n} {error}"
        data, book = scene.begin(place)
        try:
            found = scene.act(place, scene, data, book, (name, error, n))
            if place.lies:
                book.add_lie()
            found.acks += bank.audit(place.binary, data, book)
        except (Wrong, Broken, Refused) as wrong:
            raise Wrong(f"{case}: {type(wrong).__name__} {wrong}") from wrong
        shutil.rmtree(os.path.dirname(data))
        tally.add(found)
        if not found.faults:
            return tally


def while_it_runs(act, place, scene, data, book, site):
    """A scene of a server that has started: the calls count from here on."""
    server = bank.Server(place.binary, data).started().with_spare()
    try:
        depositor = bank.Depositor(book, server)
        path = os.path.join(os.path.dirname(data), "trace")
        names = sorted({"pwrite64", "fdatasync", site[0]})
        tracer = bank.Attached(server, path, names, scene.paths(data), injection(*site))
        act(server, depositor)
        if site[1] == KILL and server.has_gone(GONE_SECONDS):
            tracer.release()
            return Tally(cases=1, faults=1)
        found = judge(server, depositor, tracer, site[1])
        server.kill()
        return found
    finally:
        server.kill()


def fatal(hits, threads, error):
    """Those of the faults after which nothing more may be written."""
    if error in SOFT:
        return []
    return [hit for hit in hits if threads.get(hit.thread) not in HELPERS]


def judge(server, depositor, tracer, error):
    """Says whether a server behaves as it must after what happened to it."""
    accepted = depositor.book.accepted()
    hits = tracer.detach().hits()
    found = Tally(cases=1, faults=len(hits))
    failures = fatal(hits, tracer.threads, error)
    if server.process.poll() is not None:
        judge_end(server.ended(), failures)
    elif failures:
        found.failed_logs = 1
        found.not_serving_millis = judge_failed(server, depositor, failures)
    else:
        judge_unharmed(server, depositor)
    judge_syncs(tracer, accepted)
    accepted = depositor.book.accepted()
    if failures and any(call.sent > failures[0].begin for call in accepted):
        raise Wrong("a command was accepted after the log had failed")
    return found


def judge_syncs(tracer, accepted):
    """One client that waits for each answer has at most one answer for each sync."""
    syncs = [call for call in tracer.trace.calls() if call.name == "fdatasync"]
    syncs = [call for call in syncs if ".seg" in call.line or "spare" in call.line]
    syncs = [call for call in syncs if tracer.threads.get(call.thread) not in HELPERS]
    returned = [call for call in syncs if call.result == "0"]
    if syncs and len(accepted) > len(returned):
        raise Wrong(f"{len(accepted)} commands were accepted after {len(returned)} syncs")


def judge_end(code, failures):
    if failures and code != 1:
        raise Wrong(f"a stop that failed ended with {code}")
    if not failures and code:
        raise Wrong(f"a stop that did not fail ended with {code}")


def judge_unharmed(server, depositor):
    depositor.deposit()
    others = [call for call in depositor.book.calls if not call.is_accepted]
    if others:
        raise Wrong(f"a command was not accepted: {others[0].reason}")
    if not server.health("readiness"):
        raise Wrong("nothing has failed, and it is not ready")


def judge_failed(server, depositor, failures):
    """No more commands, not ready, and reads as before. Gives how soon it was not ready."""
    refused = [call.answered for call in depositor.book.calls if not call.is_accepted]
    until = time.time() + 2
    while server.health("readiness"):
        if time.time() > until:
            raise Wrong("the log has failed, and health says that it is ready")
    millis = (time.time() - min(refused)) * 1000 if refused else 0
    call = depositor.deposit()
    if call.reason != "LOG_FAILED":
        raise Wrong(f"after a failure a command is answered with {call.reason or 'no error'}")
    if not server.health("daybook.v1.QueryService") or not server.health("liveness"):
        raise Wrong("the log has failed, and reads or liveness are not served")
    channel = Channel(server.address)
    try:
        shown = bank.stats(channel)
        channel.call(bank.QUERIES + "GetAccount", encode((1, depositor.account)))
    finally:
        channel.close()
    if shown < max((call.position for call in depositor.book.calls), default=0):
        raise Wrong("what was acknowledged is not shown")
    return millis


def act_load(server, depositor):
    """A few calls one after another, then nothing for a moment."""
    depositor.calls_left = 5
    depositor.run()
    if depositor.book.calls[-1].is_accepted:
        time.sleep(IDLE_SECONDS)


def act_roll(server, depositor):
    """Groups of which the second begins the next segment; then the one after that is made."""
    depositor.calls_left, depositor.batch, depositor.reason = 3, 2400, REASON
    depositor.run()
    if depositor.book.calls[-1].is_accepted:
        server.with_spare()
        time.sleep(IDLE_SECONDS)
    depositor.batch = 1


def act_checkpoint(server, depositor):
    """So many events that a checkpoint is due, and time for it."""
    depositor.calls_left, depositor.batch = 2, 700
    depositor.run()
    depositor.batch = 1
    server.wait_for('"checkpoint"')


def act_stop(server, depositor):
    """A stop of a server with a client that has gone."""
    depositor.finish()
    server.process.send_signal(signal.SIGTERM)
    server.ended()


def start(place, scene, data, book, site):
    """A start under strace from its first call on, and two calls if it serves."""
    path = os.path.join(os.path.dirname(data), "trace")
    names = sorted({"pwrite64", "fdatasync", site[0]})
    begin = bank.tracer(path, names, scene.paths(data), injection(*site))
    server = bank.Server(place.binary, data, tracer=[*begin, "-D", "-q"])
    found = Tally(cases=1)
    try:
        if server.wait_for('"serving"'):
            with bank.load(book, server, 1, calls=2) as depositors:
                depositors[0].join()
        elif (code := server.ended()) not in EXITS_FAILED and site[1] != KILL:
            raise Wrong(f"it could not start, and ended with {code}: {server.lines[-1:]}")
        else:
            found.failed_starts = 1
    except (Broken, Refused) as broken:
        # The fault may be that of the first call.
        if site[1] in SOFT:
            raise Wrong("a start that only had to ask again does not serve") from broken
    finally:
        server.kill()
    trace = bank.Trace(path)
    trace.wait(server.process.pid)
    found.faults = len(trace.hits())
    if site[1] == KILL:
        found.faults = int(server.process.returncode == -signal.SIGKILL and found.failed_starts)
    needs_all = found.faults and site[1] not in SOFT and site[0] not in NEEDLESS
    if found.failed_starts and site[1] != KILL and not needs_all:
        raise Wrong(f"it does not start: {server.lines[-3:]}")
    return found


def running(act):
    return functools.partial(while_it_runs, act)


SEGMENTS = (".seg", "spare.tmp", "directory")
CHECKPOINTS = ("checkpoint", "directory")
ENTRIES = {"rename": HARD, "fsync": (*HARD, *SOFT), "openat": HARD, "unlink": HARD}
LOCKS = {"write": HARD, "ftruncate": HARD, "mkdir": HARD, "flock": ("EIO",)}
SCENES = [
    Scene("start on nothing", {**WRITES, **ENTRIES, **LOCKS}, ("",), start),
    Scene("start after a kill", {**WRITES, **ENTRIES, **LOCKS}, ("",), start, "killed"),
    Scene("load", WRITES, SEGMENTS, running(act_load), "killed"),
    Scene("segment roll", {**WRITES, **ENTRIES}, SEGMENTS, running(act_roll), "nearly_full"),
    Scene("checkpoint", {**WRITES, **ENTRIES}, CHECKPOINTS, running(act_checkpoint), "killed"),
    Scene("stop", WRITES, (*SEGMENTS, *CHECKPOINTS), running(act_stop), "killed"),
]
KILLED_SCENES = ("start on nothing", "start after a kill", "segment roll", "checkpoint")


def sites(place, scene, is_killed):
    for name, errors in scene.sites.items():
        for error in (KILL,) if is_killed else errors:
            # A quota is a full disk by another name: it is tried where commands meet it.
            if error != "EDQUOT" or scene.name == "load" or place.every:
                yield scene, name, error


def run(place, is_killed=False):
    """Tries every site of every scene, some at the same time. Gives what they came to."""
    scenes = [scene for scene in SCENES if not is_killed or scene.name in KILLED_SCENES]
    todo = [site for scene in scenes for site in sites(place, scene, is_killed)]
    tally = Tally()
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(try_site, place, *site) for site in todo]
        try:
            for future in concurrent.futures.as_completed(futures):
                tally.add(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tally
