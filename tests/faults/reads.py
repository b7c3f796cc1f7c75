"""Faults of reads: what cannot be read is said to be so, and is never taken for what is not there.

It owns a ledger whose log has to be read from its files, the calls that do so, and what must
follow when one of those reads fails: while a server serves and starts, and in the commands that
read a directory by themselves.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import shutil
import subprocess
import tempfile

import bank
import media
import sweep
from bank import COMMANDS, QUERIES, Wrong
from channel import Broken, Channel, Refused, decode, encode, first

# A read that says that the file ends there, which it does not.
END = sweep.SHORT
UNAVAILABLE, EXIT_IO = 14, 74
# As many events as no scene has: no checkpoint is made.
NEVER = 10**9
ONCE = "0190d5f2-3c4b-7a6e-9d1f-2b3c4d5e6f70"
# Every number is tried up to here, then each is so many times the last, unless all are asked for.
EVERY_UP_TO, TIMES = 5, 3
PAGE, PAGES = 40, 3
# So many commands of the longest kind fill the first segment, and no more.
FILL_CALLS, BATCH = 14, 1200
# So many bytes follow the checkpoint that no single read has them.
LATER_CALLS, SMALL_CALLS = 2, 20
# So many commands are given while reads fail.
BESIDE_CALLS = 10
WORKERS = 2
STUCK_SECONDS = 60
# What a page token begins and ends with.
TOKEN_POSITION_BYTES, TOKEN_SEAL_BYTES = 8, 8
# Fields of answers that tell how far the ledger is, which goes on.
NOW = {"ListAccountEvents": 4, "ListTransactions": 4, "GetSaga": 2, "ListSagas": 3}


@dataclasses.dataclass(frozen=True)
class Ask:
    """A call that reads the log, and the answer of a server to which nothing happens."""

    method: str
    message: bytes
    answer: dict


@dataclasses.dataclass
class Ledger:
    """A directory of two segments with a checkpoint in the second, and what it must tell."""

    data: str
    book: bank.Book
    asks: list
    events: list

    def copy(self, directory, with_checkpoint=True):
        """The same for one case, and its book."""
        path = os.path.join(tempfile.mkdtemp(dir=directory), "data")
        shutil.copytree(self.data, path)
        if not with_checkpoint:
            os.remove(os.path.join(path, "checkpoint"))
        # With all its calls: what the log had before a fault is looked up as well.
        return path, self.book.at(0)


def answer(channel, method, message):
    found = decode(channel.call(method, message))
    found.pop(NOW.get(method.rsplit("/", 1)[1]), None)
    return found


def lasting(method, found):
    """An answer without what it says of the head: a page token begins with that."""
    token = first(found, 2, b"")
    if "/List" not in method or not token:
        return found
    said = base64.urlsafe_b64decode(token + b"=" * (-len(token) % 4))
    return found | {2: [said[TOKEN_POSITION_BYTES:-TOKEN_SEAL_BYTES]]}


def heard(channel, after, until):
    """The events between two positions as they come, and what the tail ended with before that."""
    events = []
    if after >= until:
        return events, None
    try:
        for message in channel.answers(QUERIES + "TailEvents", encode((1, after))):
            response = decode(message)
            events += response.get(1, [])
            if first(response, 2) >= until:
                break
    except Refused as refused:
        return events, refused
    # A tail without filters leaves none out, so the number of events is that of positions.
    return events[: until - after], None


def place(event):
    return first(decode(event), 1)


def make_ledger(binary, directory):
    data = os.path.join(tempfile.mkdtemp(dir=directory), "data")
    server, book = bank.Server(binary, data).started(), bank.Book()
    try:
        channel = Channel(server.address)
        ada = bank.Depositor(book, server, calls=PAGE * 2)
        bob = bank.Depositor(book, server, calls=1)
        ada.run()
        transfer = encode((2, ada.account), (3, bob.account), (4, 7))
        saga = first(decode(channel.call(COMMANDS + "TransferMoney", transfer)), 1)
        once = encode((1, ada.account), (2, 5), (4, ONCE))
        channel.call(COMMANDS + "WithdrawMoney", once)
        # Into the next segment, with a checkpoint there.
        bank.loaded(book, server, calls=FILL_CALLS, batch=BATCH, reason=media.REASON)
        if len(list(server.data.glob("*.seg"))) != 2:
            raise Wrong("the first segment is not full, or the second one is")
        book.base = bank.stats(channel)
        channel.close()
        server.wait_for(f'"position":{book.base}')
    finally:
        server.kill()
    book.calls.clear()
    server = bank.Server(binary, data, events=NEVER).started()
    try:
        bank.loaded(book, server, calls=LATER_CALLS, batch=BATCH, reason=media.REASON)
        bob.channel = ada.channel = Channel(server.address)
        ada.calls_left = bob.calls_left = SMALL_CALLS
        ada.run()
        bob.run()
        head = bank.stats(ada.channel)
        asks = list(asked(ada.channel, ada.account, saga, once, head))
        events, ended = heard(ada.channel, 0, head)
        if ended or [place(event) for event in events] != list(range(1, head + 1)):
            raise Wrong(f"a tail does not tell {head} events, but {len(events)}: {ended}")
    finally:
        server.kill()
    os.remove(os.path.join(data, "spare.tmp"))
    return Ledger(data, book, asks, events)


def asked(channel, account, saga, once, head):
    """Calls that are answered from the log."""
    saga_id = first(decode(saga), 1)
    for name in ("ListAccountEvents", "ListTransactions"):
        size, token = (4, 5) if name == "ListAccountEvents" else (2, 3)
        message, page_token = encode((1, account), (size, PAGE)), b""
        for page in range(PAGES):
            if page and not page_token:
                raise Wrong(f"{name} has fewer pages than {PAGES}")
            ask = Ask(QUERIES + name, message + encode((token, page_token)), {})
            ask = dataclasses.replace(ask, answer=answer(channel, ask.method, ask.message))
            page_token = first(ask.answer, 2, b"")
            yield ask
    for method, message in (
        (QUERIES + "ListAccountEvents", encode((1, account), (3, 1), (4, PAGE))),
        (QUERIES + "GetSaga", encode((1, saga_id))),
        (QUERIES + "ListSagas", encode((3, account))),
        (QUERIES + "GetAccount", encode((1, account), (2, 9))),
        (QUERIES + "GetAccount", encode((1, account), (3, head // 2))),
        (COMMANDS + "WithdrawMoney", once),
    ):
        yield Ask(method, message, answer(channel, method, message))


def must_not(server, *words):
    for word in words:
        if server.has_told(word):
            line = next(line for line in server.lines if word in line)
            raise Wrong(f"it says {word!r}: {line}")


class Serving:
    """Reads of a server that serves."""

    def __init__(self, place, ledger):
        self.place, self.ledger = place, ledger
        self.data, self.book = ledger.copy(place.directory)
        self.refused = 0

    def audit(self):
        answers = bank.audit(self.place.binary, self.data, self.book)
        shutil.rmtree(os.path.dirname(self.data))
        return answers

    def case(self, name, error, n):
        data, book = self.data, self.book
        with contextlib.ExitStack() as stack:
            server = bank.Server(self.place.binary, data, events=NEVER)
            stack.callback(server.kill)
            channel = Channel(server.started().address)
            stack.callback(channel.close)
            trace, files = os.path.join(os.path.dirname(data), "trace"), bank.files_of(data)
            tracer = bank.Attached(server, trace, [name], files, sweep.injection(name, error, n))
            with bank.load(book, server, 1, calls=BESIDE_CALLS) as beside:
                refused = self.refusals(channel)
                beside[0].join()
            if others := [call for call in beside[0].book.calls if not call.is_accepted]:
                raise Wrong(f"a command beside it was not accepted: {others[0].reason}")
            hits = tracer.detach().hits()
            met = [hit for hit in hits if tracer.threads.get(hit.thread) not in sweep.HELPERS]
            if len(refused) > len(met) or (met and not refused and error != "EINTR"):
                raise Wrong(f"{len(refused)} calls were refused after {len(met)} faults: {met}")
            for refusal in refused:
                self.judge(refusal)
            # Nothing of it stays.
            if left := self.refusals(channel):
                raise Wrong(f"nothing fails any more, and a call is refused: {left[0]}")
            must_not(server, "panicked", "damaged")
            if damage := first(decode(channel.call(QUERIES + "GetStats")), 14, b""):
                raise Wrong(f"a read that failed is said to be damage: {damage.decode()}")
            depositor = bank.Depositor(book, server, calls=1)
            stack.callback(depositor.finish)
            sweep.judge_unharmed(server, depositor)
            self.refused += len(refused)
            return sweep.Tally(cases=1, faults=len(hits), acks=len(self.ledger.asks))

    def refusals(self, channel):
        """Makes every call, compares its answer, and gives the errors."""
        refused = []
        for ask in self.ledger.asks:
            try:
                found = answer(channel, ask.method, ask.message)
            except Refused as refusal:
                refused.append(refusal)
                continue
            if lasting(ask.method, found) != lasting(ask.method, ask.answer):
                both = f"{str(found)[:200]}, not with {str(ask.answer)[:200]}"
                raise Wrong(f"{ask.method} is answered with {both}")
        head, events = len(self.ledger.events), []
        while len(events) < head:
            more, refusal = heard(channel, len(events), head)
            events += more
            if refusal:
                refused.append(refusal)
            elif len(events) < head:
                raise Wrong(f"a tail ends after {len(events)} events, without an error")
            if events != self.ledger.events[: len(events)]:
                raise Wrong("a tail does not tell what is in the log")
            if len(refused) > len(self.ledger.asks):
                raise Wrong(f"a tail does not get on: {refusal}")
        return refused

    @staticmethod
    def judge(refusal):
        is_right = refusal.code == UNAVAILABLE and refusal.reason == "LOG_UNREADABLE"
        if not is_right or not refusal.retry_millis:
            raise Wrong(f"a read that failed is answered with {refusal}")


def start(place, ledger, with_checkpoint, name, error, n):
    """A start of which one read fails, and one of which none does."""
    data, book = ledger.copy(place.directory, with_checkpoint)
    path = os.path.join(os.path.dirname(data), "trace")
    begin = bank.tracer(path, [name], bank.files_of(data), sweep.injection(name, error, n))
    server = bank.Server(place.binary, data, events=NEVER, tracer=[*begin, "-D", "-q"])
    found = sweep.Tally(cases=1)
    try:
        if server.wait_for('"serving"'):
            with bank.load(book, server, 1, calls=2) as depositors:
                depositors[0].join()
            if not all(call.is_accepted for call in depositors[0].book.calls):
                raise Wrong(f"it serves, and takes no commands: {server.lines[-3:]}")
        elif (code := server.ended()) != EXIT_IO:
            raise Wrong(f"it could not start, and ended with {code}: {server.lines[-1:]}")
        else:
            found.failed_starts = 1
        must_not(server, "panicked", "damaged", "incomplete group", "unfinished group")
    finally:
        server.kill()
    trace = bank.Trace(path)
    trace.wait(server.process.pid)
    found.faults = len(trace.hits())
    if found.failed_starts and (not found.faults or error == "EINTR"):
        raise Wrong(f"it does not start: {server.lines[-3:]}")
    if place.lies:
        book.add_lie()
    found.acks = bank.audit(place.binary, data, book)
    shutil.rmtree(os.path.dirname(data))
    return found


def command(binary, trace, files, site, *arguments):
    """A command of which one read fails. Gives what came of it, and how many failed."""
    begin = bank.tracer(trace, [site[0]], files, sweep.injection(*site)) if site else []
    done = subprocess.run(
        [*begin, str(binary), *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        timeout=STUCK_SECONDS,
    )
    hits = len(bank.Trace(trace).hits()) if site else 0
    wanted = EXIT_IO if hits and site[1] != "EINTR" else 0
    if done.returncode != wanted or (wanted and not done.stderr.strip()):
        what = f"{arguments[0]} ends with {done.returncode} after {hits} faults"
        raise Wrong(f"{what}: {done.stderr.strip()[-500:]}")
    return done, hits


def verify(place, data, name, error, n):
    trace, files = os.path.join(os.path.dirname(data), "trace"), bank.files_of(data)
    arguments = ("verify", "--data-dir", data)
    done, hits = command(place.binary, trace, files, (name, error, n), *arguments)
    if done.returncode and "position" in done.stdout:
        raise Wrong(f"verify fails, and tells what it has not read: {done.stdout}")
    return sweep.Tally(cases=1, faults=hits, acks=1)


def told(done):
    return int(bank.told(done, "position")), bank.told(done, "hash")


def backup(place, data, name, error, n):
    """A backup of which one read fails, the one after it, one on top of that, and a restore."""
    with tempfile.TemporaryDirectory(dir=place.directory) as directory:
        trace, target, again = (os.path.join(directory, it) for it in ("trace", "to", "again"))
        site, files = (name, error, n), bank.files_of(data) + bank.files_of(target)
        copy = ("backup", "--data-dir", data, "--to", target)
        first_try, hits = command(place.binary, trace, files, site, *copy)
        if first_try.returncode and os.path.isdir(target):
            left = bank.verified(place.binary, target)
            is_none = left.returncode == EXIT_IO and "there is no log" in left.stderr
            if left.returncode and not is_none:
                raise Wrong(f"a backup that failed leaves what is none: {left.stderr}")
        done, _ = command(place.binary, trace, [], None, *copy)
        whole = told(command(place.binary, trace, [], None, "verify", "--data-dir", data)[0])
        on_top, more = command(place.binary, trace, files, site, *copy)
        hits += more
        copied = told(bank.verified(place.binary, target))
        says = [told(it) for it in (first_try, done, on_top) if not it.returncode]
        if copied != whole or says != [whole] * len(says):
            raise Wrong(f"a backup has {copied}, says {says}, and the log has {whole}")
        files = bank.files_of(target) + bank.files_of(again)
        restore = ("restore", "--from", target, "--data-dir", again)
        done, more = command(place.binary, trace, files, site, *restore)
        if not done.returncode and told(done) != whole:
            raise Wrong(f"what is restored has {told(done)}, and the log has {whole}")
        left = bank.verified(place.binary, again)
        if done.returncode and left.returncode != EXIT_IO:
            raise Wrong(f"a restore that failed leaves what verifies: {left.stdout}")
        return sweep.Tally(cases=1, faults=hits + more, acks=3)


def each(place, what, case, name, error):
    """Tries a case with every number until nothing is met."""
    tally = sweep.Tally()
    for n in sweep.numbers(place.every, EVERY_UP_TO, TIMES):
        try:
            found = case(name, error, n)
        except (Wrong, Broken, Refused, subprocess.TimeoutExpired) as wrong:
            raise Wrong(f"{what}: {name} {n} {error}: {type(wrong).__name__} {wrong}") from wrong
        tally.add(found)
        if not found.faults:
            return tally
    return tally


READS = [("pread64", "EIO"), ("pread64", END), ("pread64", "EINTR")]
ENTRIES = [("openat", "EIO"), ("getdents64", "EIO"), ("statx", "EIO")]


def serve(place, ledger, name, error):
    serving = Serving(place, ledger)
    tally = each(place, "serving", serving.case, name, error)
    tally.acks += serving.audit()
    tally.more.append(serving.refused)
    return tally


def starts(with_checkpoint, place, ledger, name, error):
    case = functools.partial(start, place, ledger, with_checkpoint)
    return each(place, "a start", case, name, error)


def small_starts(place, _ledger, name, error):
    """Of a ledger that one read has all of: that one may seem to be the end of it."""
    data = os.path.join(tempfile.mkdtemp(dir=place.directory), "data")
    book = bank.Book()
    with bank.running(place.binary, data) as server:
        bank.loaded(book, server, calls=SMALL_CALLS)
    return starts(True, place, Ledger(data, book, [], []), name, error)


def at_rest(case, place, ledger, name, error):
    """A command that changes nothing in the directory that it reads, so one is enough."""
    data, _ = ledger.copy(place.directory)
    tally = each(place, case.__name__, functools.partial(case, place, data), name, error)
    shutil.rmtree(os.path.dirname(data))
    return tally


SCENES = [
    ("calls", serve, READS),
    ("starts", functools.partial(starts, True), READS + ENTRIES),
    ("starts", functools.partial(starts, False), READS[:2]),
    ("starts", small_starts, READS[:2]),
    ("verify", functools.partial(at_rest, verify), READS[:2] + ENTRIES),
    # Whether there is a directory for the backup is asked with a statx that may say no.
    ("backups", functools.partial(at_rest, backup), READS[:2] + ENTRIES[:2]),
]


def lied_to(place):
    """Starts of a ledger whose book has an answer too many."""
    small_starts(place, None, *READS[0])


def another(place):
    """Calls whose answers are compared with those of other calls."""
    ledger = make_ledger(place.binary, place.directory)
    answers = [ask.answer for ask in ledger.asks]
    turned = zip(ledger.asks, [*answers[1:], answers[0]], strict=True)
    ledger.asks = [dataclasses.replace(ask, answer=answer) for ask, answer in turned]
    serve(place, ledger, *READS[0])


def run(place, tally):
    ledger, met, refused = make_ledger(place.binary, place.directory), {}, 0
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        todo = [(what, scene, site) for what, scene, sites in SCENES for site in sites]
        futures = {pool.submit(scene, place, ledger, *site): what for what, scene, site in todo}
        try:
            for future in concurrent.futures.as_completed(futures):
                found, what = future.result(), futures[future]
                tally.add(found)
                refused += sum(found.more)
                met[what] = met.get(what, 0) + found.faults
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    counts = ", ".join(f"{count} in {what}" for what, count in met.items())
    tally.more.append(f"{counts}; {refused} calls were told so")
