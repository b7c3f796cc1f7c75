"""Wrong forms: frames that were changed by chance, and messages that are none.

It owns the session that is changed, the changes, and which status each wrong message gets.
"""

import gzip
import random
import struct

from bank import COMMANDS, QUERIES
from channel import (
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    SETTINGS,
    WINDOW_UPDATE,
    Broken,
    encode,
    frame,
)
from clients import TAIL
from peer import Peer, block, body, head, header
from slow import CHECK, REFLECTION, STREAM

MUTATED = 200_000
# How many of them must at least have been read: a connection ends with the first that is wrong.
READ_MIN = 20_000
CHANGED_PER_CONNECTION = 40
# Of how many headers nothing is changed.
HEADS_KEPT = 0.97
REPEATS = 50
ANSWER_SECONDS = 5
# How long a connection may take to read all that it will.
READ_SECONDS = 0.05
BOMB_BYTES = 64 * 1024 * 1024
NESTED = 10_000
UNKNOWN_BYTES = 4 * 1024 * 1024 - 64


def session():
    """Frames of a session that is right, of each kind that a client sends."""
    calls = (
        (COMMANDS + "OpenAccount", encode((2, "Ada"))),
        (COMMANDS + "ExecuteBatch", encode((1, encode((1, encode((2, "Ada"))))))),
        (QUERIES + "GetStats", b""),
        (QUERIES + "ListAccounts", encode((4, 10))),
        (TAIL, encode((1, 0))),
        (STREAM, encode((1, encode((1, encode((2, "Ada"))))))),
        (CHECK, encode((1, "liveness"))),
        (REFLECTION, encode((7, ""))),
    )
    frames, stream = [], 1
    for method, message in calls:
        frames.append(head(stream, block(method)))
        frames.append(body(stream, message))
        frames.append(frame(WINDOW_UPDATE, 0, stream, (1000).to_bytes(4, "big")))
        stream += 2
    frames.append(frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff"))
    frames.append(frame(PING, 0, 0, bytes(8)))
    return frames


class Mutator:
    """Changes frames by chance, those of one seed always in the same way."""

    def __init__(self, seed):
        self.chance, self.frames = random.Random(seed), session()
        self.begin()

    def begin(self):
        """Begins a session anew."""
        self.stream, self.at = -1, 0

    def next(self):
        """The next frame of the session, on a stream of its own, and whether it was changed."""
        chosen = bytearray(self.frames[self.at])
        self.at = (self.at + 1) % len(self.frames)
        if chosen[3] == HEADERS:
            self.stream += 2
        if int.from_bytes(chosen[5:9], "big"):
            chosen[5:9] = struct.pack(">I", self.stream)
        # A change of headers ends nearly every connection.
        if chosen[3] == HEADERS and self.chance.random() < HEADS_KEPT:
            return bytes(chosen), False
        return self.chance.choice(CHANGES)(self.chance, chosen), True


def flip(chance, data):
    """A bit of the payload: half of them are still taken."""
    if len(data) > 9:
        data[chance.randrange(9, len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def reflag(chance, data):
    data[4] ^= 1 << chance.randrange(8)
    return bytes(data)


def retype(chance, data):
    """Types that nobody knows must be passed over."""
    data[3] = chance.randrange(10, 256) if chance.random() < 0.8 else chance.randrange(10)
    return bytes(data)


def restream(chance, data):
    number = chance.choice((0, 2, 1, chance.randrange(2**31), 2**31 - 1))
    data[5:9] = struct.pack(">I", number)
    return bytes(data)


def relength(chance, data):
    data[0:3] = chance.choice((0, 1, 8, len(data), 16_384, 16_385, 2**24 - 1)).to_bytes(3, "big")
    return bytes(data)


def refill(chance, data):
    size = chance.choice((0, 1, 4, 5, 8, 9, 100, 1000))
    return frame(data[3], data[4], int.from_bytes(data[5:9], "big"), chance.randbytes(size))


def repeat(chance, data):
    return bytes(data) * 2


def cut(chance, data):
    return bytes(data[: chance.randrange(1, len(data))])


# Those after which a connection mostly goes on are there more often.
CHANGES = (flip,) * 30 + (reflag,) * 8 + (retype,) * 4 + (refill,)
CHANGES += (restream, relength, repeat, cut)


def mutated(target):
    """After each changed frame comes a PING with its number, so that it is known how many were
    read before the connection ended."""
    mutator = Mutator(target.seed)
    sent = connections = read = 0
    while not target.is_over(sent >= MUTATED):
        try:
            peer = Peer(target, source=target.source(connections))
        except Broken:
            target.seen["not let in"] += 1
            continue
        connections += 1
        mutator.begin()
        frames, changed = [], [0]
        while changed[-1] < CHANGED_PER_CONNECTION:
            data, is_changed = mutator.next()
            frames += [data, frame(PING, 0, 0, len(changed).to_bytes(8, "big"))]
            changed.append(changed[-1] + is_changed)
        peer.send(b"".join(frames))
        peer.wait(READ_SECONDS, lambda: peer.pongs >= len(changed) - 1)
        peer.close()
        sent += changed[-1]
        # What was changed may be a PING as well.
        read += changed[peer.pongs] if peer.pongs < len(changed) else 0
    target.sent = f"{sent:,} frames, of which {read:,} were read, {connections:,} connections"
    target.frames = sent
    if read < READ_MIN:
        target.is_wrong(f"only {read} changed frames were read")


def bomb():
    return gzip.compress(bytes(BOMB_BYTES))


def cases():
    """Wrong messages: a name, the frames of a call on a stream, and the ends that are right."""
    deposit = COMMANDS + "DepositMoney"
    batch = COMMANDS + "ExecuteBatch"
    squeezed = bomb()
    groups = b"\x7b" * NESTED + b"\x7c" * NESTED
    unknown = encode((1000, bytes(UNKNOWN_BYTES)))

    def call(method, message, *more, **how):
        headers = block(method, *more)
        return lambda stream: [head(stream, headers), *pieces(stream, message, **how)]

    return (
        ("a length of 4 GiB", call(deposit, b"x" * 100, length=2**32 - 1), {"status 8"}),
        ("a wrong compressed flag", call(deposit, b"", flag=7), {"status 13"}),
        ("compressed without a word", call(deposit, b"", flag=1), {"status 13"}),
        (
            "a gzip bomb of 64 MiB",
            call(deposit, squeezed, header(b"grpc-encoding", b"gzip"), flag=1),
            {"status 12"},
        ),
        ("a message that is cut", call(deposit, b"x" * 10, length=100), {"status 13"}),
        ("10,000 groups in each other", call(deposit, groups), {"status 13", "status 3"}),
        ("unknown fields of 4 MiB", call(batch, unknown), {"status 3"}),
        ("metadata that is no UTF-8", call(deposit, b"", header(b"k", b"\xff\xfe")), {"status 3"}),
        (
            "an unknown encoding",
            call(deposit, b"", header(b"grpc-encoding", b"snake")),
            {"status 12"},
        ),
        ("no message at all", lambda stream: [head(stream, block(deposit), 5)], {"status 13"}),
        (
            "another content",
            lambda stream: [
                head(stream, block(deposit, content_type=b"text/html")),
                body(stream, b""),
            ],
            {"refused by HTTP", "status 12", "status 3"},
        ),
        ("no such method", call(COMMANDS + "Steal", b""), {"status 12"}),
        ("no such service", call("/no.Such/Service", b""), {"status 12"}),
        ("a path that is none", call("*", b""), {"status 12", "reset PROTOCOL_ERROR"}),
    )


def pieces(stream, message, flag=0, length=None):
    whole = body(stream, message, flag=flag, length=length)[9:]
    found = [whole[at : at + 16_000] for at in range(0, len(whole), 16_000)]
    last = len(found) - 1
    return [
        frame(DATA, END_STREAM if at == last else 0, stream, piece)
        for at, piece in enumerate(found)
    ]


def framing(target):
    told = []
    while not target.is_over(bool(told)):
        told = [case(target, *wrong) for wrong in cases()]
    target.sent = f"{len(told)} wrong messages, {REPEATS} times each"
    target.frames = len(told) * REPEATS
    target.seen.clear()
    for name, end in told:
        target.seen[f"{name}: {end}"] = 0


def case(target, name, frames, ends):
    """One wrong message again and again; each must have its end."""
    target.seen.clear()
    peer, at = Peer(target), 1
    peer.wait(1, lambda: peer.settings)
    found = 0
    for _ in range(REPEATS):
        if not peer.is_open:
            peer.close()
            peer, at = Peer(target), 1
        send_within_window(peer, frames(at))
        peer.wait(ANSWER_SECONDS, lambda stream=at: peer.ended[stream])
        found = sum(target.seen[end] for end in ends)
        at += 2
    peer.close()
    if found < REPEATS:
        target.is_wrong(f"{name}: {dict(target.seen)} instead of {sorted(ends)}")
    return name, " or ".join(sorted(end for end in ends if target.seen[end]))


def send_within_window(peer, frames):
    """Sends what fits in the windows, and the rest as they widen, unless the call has ended."""
    for piece in frames:
        stream, size = int.from_bytes(piece[5:9], "big"), len(piece) - 9
        if piece[3] != DATA:
            peer.send(piece)
            continue
        while peer.room(stream) < size:
            if peer.ended[stream] or not peer.is_open:
                return
            peer.wait(0.01)
        peer.send_data(stream, piece[9:], piece[4])
