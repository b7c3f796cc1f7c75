"""Floods: frames that are allowed one by one, by the hundred thousand.

It owns what is sent, and which end of it is the right one. Each flood goes on, over new connections
where the server closes them, until enough was sent and the load beside it is over.
"""

import struct

from bank import COMMANDS, QUERIES
from channel import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Broken,
    frame,
)
from peer import CONTINUATION, MAX_CONCURRENT_STREAMS, PRIORITY, Peer, block, head, header, setting

# How many frames each flood has at least.
FRAMES = 100_000
# How many are sent at once.
CHUNK = 100
CANCEL = (8).to_bytes(4, "big")
STATS = block(QUERIES + "GetStats")
STREAM = block(COMMANDS + "ExecuteStream")
# As large as a table of HPACK is by itself, less its own overhead and the name.
TABLE_VALUE = b"x" * 3900
REFERENCES = 4_000
BOMBS = 500
BIG_HEADERS = 500
STREAMS_AT_ONCE, STREAMS_ALLOWED = 10_000, 256


def flood(target, chunk, begin=b"", first=1, reads=True, frames=FRAMES):
    """Sends what `chunk` gives for the number of a stream, `CHUNK` times two frames or so a time,
    and gives how many frames that were. Each chunk takes `CHUNK` streams."""
    sent = connections = 0
    while not target.is_over(sent >= frames):
        try:
            peer = Peer(target, source=target.source(connections), reads=reads)
        except Broken:
            target.seen["not let in"] += 1
            continue
        connections += 1
        stream, goes_on = first, peer.send(begin)
        while goes_on and not target.is_over(sent >= frames):
            payload, count = chunk(stream)
            goes_on = peer.send(payload)
            sent += count
            stream += 2 * CHUNK
        if peer.is_open and not goes_on:
            # Held back: nothing more can be sent here, which lasts until the load is over.
            target.wait()
        if reads:
            peer.wait(1, lambda: not peer.is_open) if not goes_on else None
        peer.close()
    target.sent = f"{sent:,} frames, {connections:,} connections"
    target.frames = sent


def numbered(stream, pieces):
    """The same frames for each of the next streams. Their payloads do not change."""
    found = []
    for number in range(stream, stream + 2 * CHUNK, 2):
        for kind, flags, payload in pieces:
            found.append(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]))
            found.append(struct.pack(">I", number) + payload)
    return b"".join(found), CHUNK * len(pieces)


def same(payload):
    """The same frames for each chunk."""
    count, data = CHUNK, payload * CHUNK
    return lambda _: (data, count)


def rapid_reset(target):
    pieces = [(HEADERS, END_HEADERS, STATS), (RST_STREAM, 0, CANCEL)]
    flood(target, lambda stream: numbered(stream, pieces))
    target.must_see("GOAWAY ENHANCE_YOUR_CALM")


def continuation(target):
    # A head that is never ended: by empty pieces, and by ever more headers.
    piece = frame(CONTINUATION, 0, 1) + frame(CONTINUATION, 0, 1, header(b"a", b"b" * 60))
    begin = frame(HEADERS, 0, 1, STATS)
    flood(target, lambda _: (piece * CHUNK, 2 * CHUNK), begin=begin)
    target.must_see("GOAWAY ENHANCE_YOUR_CALM", "GOAWAY COMPRESSION_ERROR", "closed")


def empty_data(target):
    flood(target, same(frame(DATA, 0, 1)), begin=head(1, STREAM))
    target.must_see("GOAWAY ENHANCE_YOUR_CALM")


def settings(target):
    flood(target, same(frame(SETTINGS, 0, 0, setting(4, 65_535))))


def ping(target):
    flood(target, same(frame(PING, 0, 0, bytes(8))))


def ping_unread(target):
    flood(target, same(frame(PING, 0, 0, bytes(8))), reads=False)


def settings_unread(target):
    flood(target, same(frame(SETTINGS, 0, 0, setting(4, 65_535))), reads=False)


def window_update(target):
    one = (1).to_bytes(4, "big")
    piece = frame(WINDOW_UPDATE, 0, 0, one) + frame(WINDOW_UPDATE, 0, 1, one)
    begin = head(1, STREAM)
    flood(target, lambda _: (piece * CHUNK, 2 * CHUNK), begin=begin)


def priority(target):
    payload = (0).to_bytes(4, "big") + b"\x10"
    flood(target, lambda stream: numbered(stream, [(PRIORITY, 0, payload)]))


def hpack_bomb(target):
    """One large header in the server's table, which each of many calls names thousands of
    times."""
    keep = b"\x40" + b"\x01k" + b"\x7f" + bytes([3900 - 127 & 127 | 128, 3900 - 127 >> 7])
    keep += TABLE_VALUE
    first = head(1, STATS + keep, END_HEADERS | END_STREAM)
    bomb = STATS + b"\xbe" * REFERENCES

    def chunk(stream):
        # A few at a time: each stands for many megabytes.
        return head(stream, bomb, END_HEADERS | END_STREAM), 1

    flood(target, chunk, begin=first, first=3, frames=BOMBS)
    target.must_see("refused by HTTP", "GOAWAY ENHANCE_YOUR_CALM", "reset PROTOCOL_ERROR")


def big_headers(target):
    """A thousand keys of 64 bytes each, in a frame and those that continue it."""
    keys = b"".join(header(b"key-%04d" % number, b"v" * 50) for number in range(1000))
    whole = STATS + keys
    pieces = [whole[at : at + 16_000] for at in range(0, len(whole), 16_000)]

    def chunk(stream):
        found = frame(HEADERS, END_STREAM, stream, pieces[0])
        for piece in pieces[1:-1]:
            found += frame(CONTINUATION, 0, stream, piece)
        return found + frame(CONTINUATION, END_HEADERS, stream, pieces[-1]), 1

    flood(target, chunk, frames=BIG_HEADERS)
    target.must_see("refused by HTTP", "GOAWAY ENHANCE_YOUR_CALM", "GOAWAY COMPRESSION_ERROR")


def many_streams(target):
    """Ten thousand streams at once, of which the settings allow 256."""
    sent = connections = 0
    while not target.is_over(sent >= STREAMS_AT_ONCE):
        peer = Peer(target)
        connections += 1
        stream, goes_on = 1, True
        while goes_on and stream < 2 * STREAMS_AT_ONCE:
            payload, count = numbered(stream, [(HEADERS, END_HEADERS, STREAM)])
            goes_on = peer.send(payload)
            stream, sent = stream + 2 * CHUNK, sent + count
        peer.wait(2, lambda: not peer.is_open or sum(peer.ended.values()) >= STREAMS_AT_ONCE - 256)
        allowed = peer.settings.get(MAX_CONCURRENT_STREAMS)
        if allowed != STREAMS_ALLOWED:
            target.is_wrong(f"the settings allow {allowed} streams")
        peer.close()
    target.sent = f"{sent:,} streams, {connections} connections"
    target.frames = sent
    target.must_see("reset REFUSED_STREAM", "GOAWAY ENHANCE_YOUR_CALM")

