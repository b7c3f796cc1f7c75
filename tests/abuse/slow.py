"""The slow: peers that say nothing, or little, or take nothing, many of them at once.

It owns how they behave, and by when the server must have ended them.
"""

import time

import bank
from bank import COMMANDS, QUERIES
from channel import DATA, PREFACE, Channel, decode, encode, first, frame
from clients import TAIL, Stuck
from peer import INITIAL_WINDOW_SIZE, Peer, block, body, head, setting, take_all

CONNECTIONS, CALLS = 16, 256
# What the servers of slow writers have as `max_call_time`, and how much later they may notice.
CALL_SECONDS, LATE_SECONDS = 3, 12
# Within which time a connection must have said that it speaks HTTP/2, and a bit.
OPENED_SECONDS = 5 + 3
TAILS, TAILS_PER_CONNECTION = 200, 25
SILENT, SILENT_PER_ADDRESS = 2_000, 250
LORISES, LORIS_PAUSE_SECONDS = 200, 0.25
# A page of events that is as long as there can be.
EVENTS = 1_000
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
STREAM = COMMANDS + "ExecuteStream"
# Over how many connections streams are begun that say nothing.
IDLE_CONNECTIONS = 64
# How many streams of batches are not read, and of how many commands.
UNREAD, BATCH = 12, 8_000
# Of how many commands of a stream at most the messages are taken: those that are carried out, and
# what fits into the windows of HTTP/2.
SENT_MAX = 80_000
# As many streams as the server takes, the reason of deposits of which a batch has megabytes, and
# how many commands of each are taken at most, on average.
ALL_STREAMS, LONG_REASON, SENT_MAX_OF_ALL = 64, "x" * 256, 24_000
# In how many of them messages come at once, and after how long that one is not coming any more.
FEW_STREAMS, STUCK_SECONDS = 4, 0.3
# After how many times of a tenth of a second in which nothing is taken it is held back.
IDLE_ROUNDS = 10
# A message that is large, and does not end: the last byte of it never comes.
LARGE_BYTES = 4 * 1024 * 1024 - 16
PIECE_BYTES = 16_000
# What it is made of: commands of a batch that say nothing.
PIECE = encode((1, b"")) * (PIECE_BYTES // 2)
DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = "status 4", "status 8"


def ended(peers):
    return sum(len(peer.ended) for peer in peers)


def zero_window(target):
    """Pages of events that are asked for, and of which not a byte may be sent."""
    book = bank.Book()
    with bank.load(book, target, 1, batch=EVENTS, calls=1) as depositors:
        depositors[0].join()
    question = encode((1, depositors[0].account), (4, EVENTS))
    headers = block(QUERIES + "ListAccountEvents")
    peers = []
    for number in range(CONNECTIONS):
        peer = Peer(target, settings=setting(INITIAL_WINDOW_SIZE, 0))
        peers.append(peer)
        for stream in range(1, 2 * CALLS, 2):
            peer.send(head(stream, headers) + body(stream, question))
    take_all(peers, CALL_SECONDS + LATE_SECONDS, lambda: ended(peers) >= CONNECTIONS * CALLS)
    found = ended(peers)
    target.sent = f"{CONNECTIONS * CALLS:,} calls for pages, {CONNECTIONS} connections"
    target.frames = CONNECTIONS * CALLS
    if found < CONNECTIONS * CALLS:
        calls = CONNECTIONS * CALLS
        target.is_wrong(f"of {calls} calls whose answers were not taken {found} ended")
    target.wait()


def slow_readers(target):
    tails = [Stuck(target, TAILS_PER_CONNECTION) for _ in range(TAILS // TAILS_PER_CONNECTION)]
    target.wait()
    gone = sum(not tail.is_open() for tail in tails)
    target.sent, target.frames = f"{TAILS} tails, {len(tails)} connections", TAILS
    target.seen["kept"] = TAILS - gone * TAILS_PER_CONNECTION
    if gone:
        target.is_wrong(f"{gone} connections were cut within seconds")


def begin_all(target, begin, connections=CONNECTIONS):
    """On each of many connections, as many calls as it may have."""
    peers = []
    for number in range(connections):
        peer = Peer(target, source=target.source(number))
        peers.append(peer)
        for stream in range(1, 2 * CALLS, 2):
            peer.send(begin(stream))
    return peers


def must_end(target, peers, count, begun):
    """All those calls must be ended, and their places on their connections be free."""
    seconds = CALL_SECONDS + LATE_SECONDS + max(0, begun - time.monotonic())
    take_all(peers, seconds, lambda: ended(peers) >= count)
    took = time.monotonic() - begun
    if ended(peers) < count:
        target.is_wrong(f"of {count} calls that were not finished {ended(peers)} were ended")
    refused = target.seen["reset REFUSED_STREAM"]
    for peer in peers:
        for stream in range(2 * CALLS + 1, 4 * CALLS, 2):
            peer.send(head(stream, block(QUERIES + "GetStats")) + body(stream, b""))
    take_all(peers, CALL_SECONDS, lambda: ended(peers) >= 2 * count)
    if target.seen["reset REFUSED_STREAM"] > refused or ended(peers) < 2 * count:
        target.is_wrong(f"places were not given back: {ended(peers) - count} of {count} answered")
    target.seen[f"the last after {took:.1f} s"] = 0


def headers_only(target):
    """Calls of every kind whose message does not come."""
    methods = (
        COMMANDS + "DepositMoney",
        COMMANDS + "ExecuteBatch",
        QUERIES + "GetStats",
        TAIL,
        CHECK,
        WATCH,
    )

    def begin(stream):
        return head(stream, block(methods[stream // 2 % len(methods)]))

    begun = time.monotonic()
    peers = begin_all(target, begin)
    must_end(target, peers, CONNECTIONS * CALLS, begun)
    target.sent = f"{CONNECTIONS * CALLS:,} calls, {CONNECTIONS} connections"
    target.frames = CONNECTIONS * CALLS
    target.must_see(DEADLINE_EXCEEDED)
    target.wait()


def byte_by_byte(target):
    """Calls, and messages of streams, of which a byte comes each second."""
    methods = COMMANDS + "DepositMoney", STREAM, QUERIES + "GetAccount", REFLECTION

    def begin(stream):
        return head(stream, block(methods[stream // 2 % len(methods)])) + body(
            stream, b"", ends=False, length=100
        )

    begun = time.monotonic()
    peers, sent = begin_all(target, begin), 0
    while time.monotonic() < begun + CALL_SECONDS - 1:
        for peer in peers:
            peer.send(
                b"".join(
                    frame(DATA, 0, stream, b"\x0a")
                    for stream in range(1, 2 * CALLS, 2)
                    if stream not in peer.ended
                )
            )
            sent += CALLS
        time.sleep(1)
    must_end(target, peers, CONNECTIONS * CALLS, begun)
    target.sent = f"{CONNECTIONS * CALLS:,} calls, {sent:,} bytes, {CONNECTIONS} connections"
    target.frames = CONNECTIONS * CALLS
    target.must_see(DEADLINE_EXCEEDED)
    target.wait()


def large_unended(target):
    """Messages of almost 4 MiB whose last byte does not come, as many as there may be."""
    # Each has begun: a stream whose message has not may say nothing for as long as it likes.
    begin = unended((COMMANDS + "ExecuteBatch", STREAM), LARGE_BYTES)
    begun = time.monotonic()
    peers, sent = begin_all(target, begin), 0
    # A piece of each in turn, so that all of them grow, as far as windows allow.
    for _ in range(LARGE_BYTES // PIECE_BYTES):
        for stream in range(1, 2 * CALLS, 2):
            sent += sum(grow(peer, stream, PIECE) for peer in peers)
        if ended(peers) >= CONNECTIONS * CALLS or time.monotonic() > begun + CALL_SECONDS:
            break
    must_end_large(target, peers, begun, sent)


def whole_unended(target):
    """As many that are whole, one after another, in calls that their callers do not end."""
    pieces = LARGE_BYTES // PIECE_BYTES
    begin = unended((COMMANDS + "ExecuteBatch",), pieces * PIECE_BYTES)
    begun = time.monotonic()
    peers, sent = begin_all(target, begin), 0
    for stream in range(1, 2 * CALLS, 2):
        for peer in peers:
            left = pieces
            while left and peer.is_open and stream not in peer.ended:
                if time.monotonic() > begun + CALL_SECONDS:
                    break
                taken = grow(peer, stream, PIECE)
                sent, left = sent + taken, left - (taken > 0)
    must_end_large(target, peers, begun, sent)


def unended(methods, length):
    """Begins calls with messages that are to be so long."""

    def begin(stream):
        return head(stream, block(methods[stream // 2 % len(methods)])) + body(
            stream, b"", ends=False, length=length
        )

    return begin


def must_end_large(target, peers, begun, sent):
    """Sees that calls have ended of whose messages so many bytes were sent."""
    must_end(target, peers, CONNECTIONS * CALLS, begun)
    target.sent = f"{CONNECTIONS * CALLS:,} messages, {sent >> 20:,} MiB, {CONNECTIONS} connections"
    target.frames = CONNECTIONS * CALLS
    target.wait()


def grow(peer, stream, piece):
    """Sends a piece if it may be sent. Gives how many bytes that were."""
    if peer.is_open and peer.room(stream) < len(piece):
        peer.take()
    if not peer.is_open or stream in peer.ended or peer.room(stream) < len(piece):
        return 0
    peer.send_data(stream, piece)
    return len(piece)


def idle_streams(target):
    """Streams that may say nothing for as long as they like."""
    methods = STREAM, WATCH, REFLECTION

    def begin(stream):
        method = methods[stream // 2 % len(methods)]
        found = head(stream, block(method))
        return found + body(stream, b"") if method == WATCH else found

    peers = begin_all(target, begin, IDLE_CONNECTIONS)
    take_all(peers, 2, lambda: False)
    target.sent = f"{IDLE_CONNECTIONS * CALLS:,} streams, {IDLE_CONNECTIONS} connections"
    target.frames = IDLE_CONNECTIONS * CALLS
    target.must_see(RESOURCE_EXHAUSTED)
    target.wait()


def unread_answers(target):
    """A stream of batches, on each of some connections, whose answers are never taken."""
    take_no_answers(target, UNREAD, UNREAD, "", SENT_MAX, encode((2, 1)))


def large_batches_unread(target):
    """The same of as many streams as there may be, and of large batches. They come one after
    another, so that those that have come in part are not too many."""
    take_no_answers(target, ALL_STREAMS, FEW_STREAMS, LONG_REASON, SENT_MAX_OF_ALL)


def take_no_answers(target, streams, at_once, reason, sent_max, end=b""):
    """Batches in so many streams, of deposits with this reason; in so many of them at once."""
    opened = decode(Channel(target.address).call(COMMANDS + "OpenAccount", encode((2, "Ada"))))
    account = first(opened, 1, b"").decode()
    told = ((3, reason),) if reason else ()
    deposit = encode((1, encode((2, encode((1, account), (2, 1), *told)))))
    message = deposit * BATCH + end
    message = b"\0" + len(message).to_bytes(4, "big") + message
    peers, at, sent, idle, last = [], [0] * streams, 0, 0, [0.0] * streams
    for _ in range(streams):
        peers.append(Peer(target, settings=setting(INITIAL_WINDOW_SIZE, 0)))
        peers[-1].send(head(1, block(STREAM)))
        peers[-1].wait(0.2)
    while not target.is_late() and any(peer.is_open and not peer.ended for peer in peers):
        grown, coming = 0, 0
        for number, peer in enumerate(peers):
            piece = message[at[number] : at[number] + PIECE_BYTES]
            taken = grow(peer, 1, piece)
            grown += taken
            at[number] += taken
            if taken:
                last[number] = time.monotonic()
            if at[number] >= len(message):
                at[number], sent = 0, sent + BATCH
            # One that is held back in the middle of a message is not waited for.
            coming += at[number] > 0 and time.monotonic() < last[number] + STUCK_SECONDS
            if coming >= at_once:
                break
        if not grown:
            take_all(peers, 0.1, lambda: False)
        idle = 0 if grown else idle + 1
        if target.is_over(idle >= IDLE_ROUNDS):
            break
    target.sent, target.frames = f"{sent:,} commands, {streams} connections", sent
    target.seen["held back"] = streams
    is_held_back = idle >= IDLE_ROUNDS or ended(peers) == streams
    if not is_held_back or sent > sent_max * streams:
        target.is_wrong(f"{sent} commands were taken")
    take_all(peers, CALL_SECONDS + LATE_SECONDS, lambda: ended(peers) >= streams)
    if ended(peers) < streams:
        target.is_wrong(f"of {streams} streams whose answers were not taken {ended(peers)} ended")


def silent(target):
    """Sockets that say nothing; whoever is closed comes again."""
    peers = [silent_socket(target, number) for number in range(SILENT)]
    begun, closed, count = time.monotonic(), 0, SILENT
    while time.monotonic() < begun + OPENED_SECONDS or not target.has_ended():
        for number, socket in enumerate(peers):
            if socket is not None and is_closed(socket):
                socket.close()
                closed, count = closed + 1, count + 1
                peers[number] = silent_socket(target, number)
        time.sleep(0.2)
    target.sent, target.frames = f"{count:,} sockets, {SILENT:,} at once", count
    target.seen["closed"] = closed
    if closed < target.files_min:
        target.is_wrong(f"only {closed} silent sockets were closed")


def silent_socket(target, number):
    return target.connect(target.source(number // SILENT_PER_ADDRESS), waits=False)


def is_closed(socket):
    try:
        return not socket.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def slowloris(target):
    """The first words of HTTP/2, a byte at a time."""
    begun = time.monotonic()
    sockets = [target.connect("127.0.0.1") for _ in range(LORISES)]
    open_, at, last = list(sockets), 0, 0.0
    while open_ and time.monotonic() < begun + OPENED_SECONDS:
        for socket in list(open_):
            try:
                socket.send(PREFACE[at % len(PREFACE) : at % len(PREFACE) + 1])
            except OSError:
                open_.remove(socket)
                continue
            if is_closed(socket):
                open_.remove(socket)
                last = time.monotonic() - begun
        # Never the last of them.
        at = min(at + 1, len(PREFACE) - 2)
        time.sleep(LORIS_PAUSE_SECONDS)
    target.sent, target.frames = f"{LORISES} connections, a byte each 0.25 s", LORISES
    target.seen["closed"] = LORISES - len(open_)
    target.seen[f"the last after {last:.1f} s"] = 0
    if open_:
        target.is_wrong(f"{len(open_)} of {LORISES} are open after {OPENED_SECONDS} s")
    target.wait()
