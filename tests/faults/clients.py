"""Clients that are no comfort: tails that are never read, and many calls on one connection.

It owns how they behave, and what is told of what came of each call. It does not know which server
they meet, nor what must follow.
"""

import contextlib
import fcntl
import socket
import termios
import threading
import time

import bank
from bank import COMMANDS, QUERIES, TURNED_AWAY, Call
from channel import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MORE_WINDOW,
    RST_STREAM,
    WIDE,
    WINDOW,
    WINDOW_UPDATE,
    Broken,
    Channel,
    Refused,
    decode,
    encode,
    fields,
    first,
    frame,
    refusal,
)

TAIL = QUERIES + "TailEvents"
# What the kernel keeps for a tail that is never read: as little as it can.
RECEIVE_BYTES = 4096
# A call is begun only if its message fits in what is left of the connection's window.
ROOM = 16 * 1024
REFUSED_STREAM = 7
# How often a stream sends a batch at most.
STREAM_PAUSE_SECONDS = 0.005
ESTABLISHED = 1


def told(messages, head):
    """What a tail tells up to a position: the positions of the events, and with what it ended, if
    it ended before."""
    positions = []
    try:
        for message in messages:
            response = decode(message)
            positions += [first(decode(event), 1) for event in response.get(1, [])]
            if first(response, 2) >= head:
                return positions, None
    except (Broken, Refused) as end:
        return positions, end
    return positions, Broken("it ended without a reason")


class Stuck:
    """A connection with tails that nobody reads, until one is resumed."""

    def __init__(self, server, tails=1, is_live=False, is_wide=False):
        """Live ones begin where the log ends, the others at its beginning. Narrow ones are held
        back by the windows of HTTP/2, wide ones by the socket alone."""
        self.is_live, self.is_wide, self.begun = is_live, is_wide, time.monotonic()
        if is_wide:
            self.channel = Channel(server.address, receive_bytes=RECEIVE_BYTES)
        else:
            self.channel = Channel(server.address, stream_window=WINDOW, more=0)
        self.after = bank.stats(self.channel) if is_live else 0
        question = encode((1, self.after))
        self.streams = [self.channel.begin(TAIL, question) for _ in range(tails)]

    def waiting(self):
        """How many bytes the kernel has for it, which it does not take."""
        found = fcntl.ioctl(self.channel.socket, termios.FIONREAD, bytes(4))
        return int.from_bytes(found, "little")

    def is_open(self):
        """Whether the server has not closed it."""
        state = self.channel.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == ESTABLISHED

    def resumed(self, head):
        """Begins to read its first tail, up to a position; as `told`."""
        stream = self.streams[0]
        # What came before the connection ended can still be read.
        with contextlib.suppress(Broken):
            if not self.is_wide:
                self.channel.widen(0, MORE_WINDOW)
                self.channel.widen(stream, WIDE - WINDOW)
        return told(self.channel.received(stream), head)

    def close(self):
        self.channel.close()


class Reader(threading.Thread):
    """A tail that is read from now on until it ends, and then its connection as well."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.channel = Channel(server.address)
        self.after = bank.stats(self.channel)
        self.messages = self.channel.answers(TAIL, encode((1, self.after)))
        self.positions, self.end = [], None

    def run(self):
        self.positions, self.end = told(self.messages, WIDE)
        with contextlib.suppress(Broken):
            while True:
                self.channel.frame()
        self.channel.close()

    def finish(self):
        self.join()

    def is_whole(self):
        """Whether it was told each event once, in order."""
        begin = self.after + 1
        return self.positions == list(range(begin, begin + len(self.positions)))

    def was_told_why(self):
        return isinstance(self.end, Refused) and self.end.reason == "STOPPING"


class Pipeline(threading.Thread):
    """A client that has many calls under way at once, on one connection that it does not leave."""

    def __init__(self, book, server, width, batch=1, calls=10**9, account="", has_stuck=False):
        super().__init__(daemon=True)
        self.book, self.width, self.batch, self.calls_left = book, width, batch, calls
        self.channel = Channel(server.address, stream_window=WINDOW)
        self.account = account
        if not account:
            opened = self.channel.call(COMMANDS + "OpenAccount", encode((2, "Ada")))
            self.account = first(decode(opened), 1, b"").decode()
        if has_stuck:
            # A tail whose window is never widened, while all else of the connection is read.
            self.channel.begin(TAIL, encode((1, 0)))
        self.under_way, self.data, self.counted, self.is_deaf = {}, {}, None, False
        self.has_to_end, self.cut = threading.Event(), []

    def may_begin(self):
        is_over = self.has_to_end.is_set() or self.is_deaf or self.counted is not None
        has_room = self.channel.window > ROOM and len(self.under_way) < self.width
        return has_room and not is_over and self.calls_left > 0

    def run(self):
        """Goes on until it is to end, or the connection has ended; then no call is open."""
        try:
            while True:
                while self.may_begin():
                    self.begin()
                if not self.under_way:
                    break
                self.take(*self.channel.frame())
        except Broken:
            pass
        for stream, call in self.under_way.items():
            if self.counted is not None and stream > self.counted:
                call.reason = TURNED_AWAY
            else:
                self.cut.append(call)
        self.under_way.clear()
        self.channel.close()

    def begin(self):
        self.calls_left -= 1
        amounts = self.book.amounts(self.batch)
        deposits = [encode((1, self.account), (2, amount)) for amount in amounts]
        call = Call(self.account, amounts, time.time())
        with self.book.lock:
            self.book.calls.append(call)
        self.under_way[self.channel.stream + 2] = call
        method, message = "DepositMoney", deposits[0]
        if self.batch > 1:
            method = "ExecuteBatch"
            message = encode(*((1, encode((2, deposit))) for deposit in deposits))
        try:
            self.channel.begin(COMMANDS + method, message)
        except Broken:
            # The server takes nothing more, but what it has said before is still to be read.
            self.is_deaf = True

    def take(self, kind, flags, stream, payload):
        """Takes a frame."""
        if kind == GOAWAY:
            self.counted = int.from_bytes(payload[:4], "big")
        call = self.under_way.get(stream)
        if call is None:
            return
        if kind == DATA:
            self.data[stream] = self.data.get(stream, b"") + payload
        elif kind == RST_STREAM:
            del self.under_way[stream]
            if int.from_bytes(payload, "big") == REFUSED_STREAM:
                call.reason = TURNED_AWAY
            else:
                self.cut.append(call)
        elif kind == HEADERS and flags & END_STREAM:
            del self.under_way[stream]
            call.answered = time.time()
            self.judge(call, fields(payload), self.data.pop(stream, b"")[5:])

    def judge(self, call, trailers, message):
        code = int(trailers.get(b"grpc-status", b"2"))
        if code:
            call.reason = refusal(code, trailers).reason or f"CODE_{code}"
            return
        answer = decode(message)
        call.position = first(answer if self.batch > 1 else decode(first(answer, 1)), 1)

    def finish(self):
        self.has_to_end.set()
        if self.ident:
            self.join()


class Streamer(Pipeline):
    """As a pipeline, with batches of one stream instead of calls. It never ends the stream."""

    def __init__(self, book, server, width, batch):
        super().__init__(book, server, width, batch)
        self.channel.head(COMMANDS + "ExecuteStream")
        self.stream, self.window = self.channel.stream, self.channel.stream_window
        self.batches, self.untaken = 0, b""
        # What the stream ended with, and how many batches had no other answer.
        self.end, self.ended = "", 0

    def may_begin(self):
        has_room = min(self.channel.window, self.window) > ROOM
        return has_room and len(self.under_way) < self.width and not self.is_deaf

    def begin(self):
        """Sends a batch. Batches are answered in the order in which they were sent."""
        time.sleep(STREAM_PAUSE_SECONDS)
        amounts = self.book.amounts(self.batch)
        deposits = [encode((1, self.account), (2, amount)) for amount in amounts]
        message = encode(*((1, encode((2, deposit))) for deposit in deposits))
        message = b"\0" + len(message).to_bytes(4, "big") + message
        call = Call(self.account, amounts, time.time())
        with self.book.lock:
            self.book.calls.append(call)
        self.batches += 1
        self.under_way[self.batches] = call
        self.window -= len(message)
        self.channel.window -= len(message)
        try:
            self.channel.write(frame(DATA, 0, self.stream, message))
        except Broken:
            self.is_deaf = True

    def take(self, kind, flags, stream, payload):
        """Takes a frame."""
        if stream != self.stream:
            return
        if kind == WINDOW_UPDATE:
            self.window += int.from_bytes(payload, "big")
        elif kind == DATA:
            self.untaken += payload
            while len(self.untaken) >= 5:
                end = 5 + int.from_bytes(self.untaken[1:5], "big")
                if len(self.untaken) < end:
                    break
                call = self.under_way.pop(min(self.under_way))
                call.answered = time.time()
                call.position = first(decode(self.untaken[5:end]), 1)
                self.untaken = self.untaken[end:]
        elif kind == HEADERS and flags & END_STREAM:
            trailers = fields(payload)
            self.end = refusal(int(trailers.get(b"grpc-status", b"2")), trailers).reason
            self.ended = len(self.under_way)
            # The end is their answer: nobody says what came of them, but they are not left alone.
            self.under_way.clear()
            self.is_deaf = True
