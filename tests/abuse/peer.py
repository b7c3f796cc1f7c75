"""A peer that keeps to no rule: frames as they are wanted, and a count of what comes back.

It owns one connection, plain or with TLS, and never waits for an answer unless asked to. It knows
nothing of the ledger, nor of what a server should do with it.
"""

import collections
import contextlib
import select
import socket
import time

from channel import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    Broken,
    fields,
    frame,
    prefixed,
)

PRIORITY, CONTINUATION = 2, 9
ERRORS = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
)
# No dynamic table of ours, so that what comes can be read without one.
NO_TABLE = b"\0\1\0\0\0\0"
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
# After how long without taking anything a server holds us back.
STUCK_SECONDS = 2
CONNECT_SECONDS = 20
READ_BYTES = 1 << 16


def setting(number, value):
    return number.to_bytes(2, "big") + value.to_bytes(4, "big")


def literal(value):
    """A text of HPACK, of any length, without a code."""
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    rest, coded = length - 127, bytearray([127])
    while rest > 127:
        coded.append(rest & 127 | 128)
        rest >>= 7
    return bytes(coded) + bytes([rest]) + value


def header(name, value):
    return b"\x00" + literal(name) + literal(value)


def block(method, *more, content_type=b"application/grpc", scheme=b"\x86"):
    """The headers of a call, and more of them."""
    found = b"\x83" + scheme + b"\x04" + literal(method.encode()) + b"\x01" + literal(b"daybook")
    found += b"\x0f\x10" + literal(content_type) + header(b"te", b"trailers")
    return found + b"".join(more)


def head(stream, headers, flags=END_HEADERS):
    return frame(HEADERS, flags, stream, headers)


def body(stream, message, ends=True, flag=0, length=None):
    """A message of gRPC as one frame, whose prefix may say anything."""
    length = len(message) if length is None else length
    payload = bytes([flag]) + length.to_bytes(4, "big") + message
    return frame(DATA, END_STREAM if ends else 0, stream, payload)


def code_of(payload):
    code = int.from_bytes(payload[:4], "big")
    return ERRORS[code] if code < len(ERRORS) else hex(code)


class Peer:
    """One connection."""

    def __init__(self, target, source="127.0.0.1", settings=b"", reads=True, receive_bytes=0):
        """`reads` is whether it takes what comes while it sends. What a target has is an address,
        a context of TLS or none, and a counter of what was seen."""
        self.reads, self.seen, self.is_open = reads, target.seen, True
        self.untaken, self.settings, self.ended = b"", {}, collections.Counter()
        self.answering = set()
        # What is to be sent before anything else: never in the middle of a frame.
        self.owed = b""
        # The number of the last PING that was answered, and how much may still be sent.
        self.pongs, self.window, self.more = 0, WINDOW, collections.Counter()
        host, port = target.address.rsplit(":", 1)
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.settimeout(CONNECT_SECONDS)
            self.socket.bind((source, 0))
            self.socket.connect((host, int(port)))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.tls:
                self.socket = target.tls.wrap_socket(self.socket, server_hostname=host)
        except OSError as error:
            self.socket.close()
            raise Broken(str(error)) from error
        self.socket.setblocking(False)
        self.send(PREFACE + frame(SETTINGS, 0, 0, NO_TABLE + settings))

    def send(self, data):
        """Whether all of it was taken: else the connection has ended, or we are held back."""
        view, until = memoryview(self.owed + data), time.monotonic() + STUCK_SECONDS
        self.owed = b""
        while view and self.is_open:
            wanted = [self.socket] if self.reads else []
            readable, writable, _ = select.select(wanted, [self.socket], [], 0.1)
            if readable:
                self.take()
            if writable and self.is_open:
                sent = self.write(view)
                if sent:
                    view, until = view[sent:], time.monotonic() + STUCK_SECONDS
            if time.monotonic() > until:
                self.seen["held back"] += 1
                return False
        return self.is_open

    def write(self, view):
        try:
            return self.socket.send(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            # TLS says so by its own kinds of error.
            if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
                return 0
            self.end()
            return 0

    def end(self):
        """The server has closed it; what it said before is still to be read."""
        with contextlib.suppress(OSError):
            while self.is_open and self.take():
                pass
        if self.is_open:
            self.seen["closed"] += 1
        self.is_open = False

    def take(self):
        """Takes what is there. Gives whether there was anything."""
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
                return False
            data = b""
        if not data:
            if self.is_open:
                self.seen["closed"] += 1
            self.is_open = False
            return False
        self.untaken += data
        at = 0
        while len(self.untaken) - at >= 9:
            end = at + 9 + int.from_bytes(self.untaken[at : at + 3], "big")
            if len(self.untaken) < end:
                break
            kind, flags = self.untaken[at + 3], self.untaken[at + 4]
            stream = int.from_bytes(self.untaken[at + 5 : at + 9], "big")
            self.see(kind, flags, stream, self.untaken[at + 9 : end])
            at = end
        self.untaken = self.untaken[at:]
        return True

    def see(self, kind, flags, stream, payload):
        if kind == GOAWAY:
            self.seen[f"GOAWAY {code_of(payload[4:])}"] += 1
        elif kind == RST_STREAM:
            self.seen[f"reset {code_of(payload)}"] += 1
            self.ended[stream] += 1
        elif kind == WINDOW_UPDATE and stream:
            self.more[stream] += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE:
            self.window += int.from_bytes(payload, "big")
        elif kind == PING and flags & ACK:
            self.pongs = int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
            # Only then they hold.
            self.owed += frame(SETTINGS, ACK, 0)
            self.settings = {
                int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs
            }
        elif kind == HEADERS:
            self.see_headers(flags, stream, payload)

    def see_headers(self, flags, stream, payload):
        # The status is 200, which has a place in the static table, or there is none. Before it the
        # table of the server may change its size.
        at = 0
        while at < len(payload) and payload[at] & 0xE0 == 0x20:
            _, at = prefixed(payload, at, 5)
        is_taken = payload[at : at + 1] == b"\x88" or stream in self.answering
        self.answering.add(stream)
        with contextlib.suppress(IndexError):
            found = fields(payload)
            if b"grpc-status" in found:
                self.seen[f"status {found[b'grpc-status'].decode()}"] += 1
            elif not is_taken:
                self.seen["refused by HTTP"] += 1
        if flags & END_STREAM:
            self.ended[stream] += 1

    def room(self, stream):
        """How many bytes of a stream may be sent."""
        width = self.settings.get(INITIAL_WINDOW_SIZE, WINDOW)
        return min(self.window, width + self.more[stream])

    def send_data(self, stream, data, flags=0):
        """Sends a piece of a message, which must have room."""
        self.window -= len(data)
        self.more[stream] -= len(data)
        return self.send(frame(DATA, flags, stream, data))

    def wait(self, seconds, enough=lambda: False):
        """Takes what comes for so long, or until it is enough or the connection ends."""
        until = time.monotonic() + seconds
        while self.is_open and not enough() and (left := until - time.monotonic()) > 0:
            if select.select([self.socket], [], [], min(left, 0.1))[0]:
                self.take()
            if self.owed:
                self.send(b"")

    def close(self):
        self.socket.close()


def take_all(peers, seconds, enough):
    """Takes what comes to many, as `Peer.wait`."""
    until = time.monotonic() + seconds
    while not enough() and time.monotonic() < until:
        sockets = {peer.socket: peer for peer in peers if peer.is_open}
        if not sockets:
            return
        for ready in select.select(list(sockets), [], [], 0.1)[0]:
            sockets[ready].take()
            if sockets[ready].owed:
                sockets[ready].send(b"")
