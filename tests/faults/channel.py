"""A gRPC client of its own: one connection, no library, and windows as narrow as it is told.

It owns the bytes of HTTP/2, HPACK and Protocol Buffers that the calls of these lanes take. It
knows nothing of the ledger, nor of faults.
"""

import base64
import contextlib
import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
FRAME_BYTES_MAX = 16 * 1024
# What a window begins with, and how much more we take in for the whole of a connection.
WINDOW = 65_535
MORE_WINDOW = 2**31 - 1 - WINDOW
WIDE = 2**31 - 1
# Longer than any fault that is made here holds an answer back.
TIMEOUT_SECONDS = 20
# HPACK's code of Huffman (RFC 7541, appendix B) is canonical, so the lengths tell all of it: one
# letter a symbol, from a for 5 bits on.
LENGTHS = (
    "isxxxxxxxtzxxzxxxxxxxxzxxxxxxxxxbffhibdgffdgdbbbaaabbbbbbbcdkbhfibcccccccccccccccccccccc"
    "dcdioijbkabababbbaccbbbabcbaabccccckgjixprpprrrsrssssststtrstssssqrsrsstrqprrssqsrrtqrss"
    "qqrqsrssprrrsrrsvvporsruvvvwwvtuoqvwwvwtqqvvxwwwptpqrqqsrruuttvsvwvvwwwwwxwwwwwvz"
)


class Broken(Exception):
    """The connection ended, or took too long, before there was an answer."""


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, code, message, reason, retry_millis=None):
        super().__init__(f"{code} {reason} {message}")
        self.code, self.reason = code, reason
        # After which time it says to try again, if it does.
        self.retry_millis = retry_millis


def huffman_codes():
    codes, code, length = {}, 0, 0
    for symbol in sorted(range(len(LENGTHS)), key=lambda symbol: (LENGTHS[symbol], symbol)):
        bits = ord(LENGTHS[symbol]) - ord("a") + 5
        code <<= bits - length
        length = bits
        codes[(bits, code)] = symbol
        code += 1
    return codes


CODES = huffman_codes()


def unpacked(coded):
    found, code, length = bytearray(), 0, 0
    for byte in coded:
        for shift in range(7, -1, -1):
            code, length = code << 1 | byte >> shift & 1, length + 1
            symbol = CODES.get((length, code))
            if symbol is not None:
                found.append(symbol)
                code, length = 0, 0
    return bytes(found)


def prefixed(block, at, bits):
    """An integer of HPACK whose first byte gives it so many bits."""
    full = (1 << bits) - 1
    value, at = block[at] & full, at + 1
    if value == full:
        more, used = varint(block, at)
        value, at = value + more, used
    return value, at


def text(block, at):
    length, begin = prefixed(block, at, 7)
    found = block[begin : begin + length]
    return (unpacked(found) if block[at] & 0x80 else found), begin + length


def fields(block):
    """The headers that are told by a name in full; no table of ours goes beyond the static one."""
    found, at = {}, 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            _, at = prefixed(block, at, 7)
        elif first & 0xE0 == 0x20:
            _, at = prefixed(block, at, 5)
        else:
            index, at = prefixed(block, at, 6 if first & 0x40 else 4)
            name = b""
            if index == 0:
                name, at = text(block, at)
            found[name], at = text(block, at)
    return found


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def number(value):
    coded = bytearray()
    while value > 0x7F:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(coded) + bytes([value])


def encode(*pairs):
    """A message of Protocol Buffers: numbers of fields, each with an integer, a text or bytes."""
    coded = []
    for field, value in pairs:
        if isinstance(value, int):
            coded.append(number(field << 3) + number(value))
        else:
            value = value.encode() if isinstance(value, str) else value
            coded.append(number(field << 3 | 2) + number(len(value)) + value)
    return b"".join(coded)


def decode(message):
    """The fields of a message, as lists of integers and bytes by their numbers."""
    found, at = {}, 0
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 == 0:
            value, at = varint(message, at)
        elif key & 7 == 2:
            length, at = varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise Broken(f"a field of type {key & 7}")
        found.setdefault(key >> 3, []).append(value)
    return found


def first(message, field, otherwise=0):
    return message.get(field, [otherwise])[0]


def frame(kind, flags, stream, payload=b""):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


class Channel:
    """One connection."""

    def __init__(self, address, stream_window=WIDE, more=MORE_WINDOW, receive_bytes=0):
        """`stream_window` is how much each stream takes in unasked, `more` how much more than a
        window all of them do, and `receive_bytes` how much the kernel keeps for us, 0 for as
        much as it likes."""
        host, port = address.rsplit(":", 1)
        self.authority = address.encode()
        self.stream = -1
        self.window = WINDOW
        self.socket = socket.socket()
        try:
            self.socket.settimeout(TIMEOUT_SECONDS)
            if receive_bytes:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self.socket.connect((host, int(port)))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Of the settings: no dynamic table, and how wide streams are.
            settings = b"\0\1\0\0\0\0" + b"\0\4" + stream_window.to_bytes(4, "big")
            self.write(PREFACE + frame(SETTINGS, 0, 0, settings))
            self.widen(0, more)
            self.input = self.socket.makefile("rb", 1 << 16)
            # The server begins with its settings; what a stream may send is one of them.
            self.stream_window = self.initial_window(self.frame()[3])
        except (OSError, Broken) as error:
            self.socket.close()
            raise Broken(str(error)) from error

    def close(self):
        self.input.close()
        self.socket.close()

    def write(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Broken(str(error)) from error

    def widen(self, stream, more):
        """Takes in so much more of a stream, or for 0 of all of them."""
        if more:
            self.write(frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big")))

    def begin(self, method, message=b"", timeout=""):
        """Makes a call, and gives its stream, of which nothing is read yet."""
        self.send(method, message, timeout)
        return self.stream

    def call(self, method, message=b"", timeout=""):
        """Makes a call that has one answer, and says how long it waits, as gRPC writes that."""
        answers = list(self.answers(method, message, timeout))
        if len(answers) != 1:
            raise Broken(f"{len(answers)} answers")
        return answers[0]

    def answers(self, method, message=b"", timeout=""):
        """Makes a call, and gives its answers as they come."""
        yield from self.received(self.begin(method, message, timeout))

    def head(self, method, timeout=""):
        """Begins a stream, whose messages are still to come."""

        def literal(value):
            return bytes([len(value)]) + value

        # Of the static table: POST and http as they are, then :path, :authority and content-type
        # with values of ours, and one header that is not in it.
        block = b"\x83\x86\x04" + literal(method.encode()) + b"\x01" + literal(self.authority)
        block += b"\x0f\x10" + literal(b"application/grpc")
        block += b"\x00" + literal(b"te") + literal(b"trailers")
        if timeout:
            block += b"\x00" + literal(b"grpc-timeout") + literal(timeout.encode())
        self.stream += 2
        self.write(frame(HEADERS, END_HEADERS, self.stream, block))

    def send(self, method, message, timeout):
        self.head(method, timeout)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        stream_window, at = self.stream_window, 0
        while at < len(body):
            room = min(self.window, stream_window, FRAME_BYTES_MAX, len(body) - at)
            if room <= 0:
                kind, _, stream, payload = self.frame()
                if kind == WINDOW_UPDATE and stream == self.stream:
                    stream_window += int.from_bytes(payload, "big")
                elif kind in (RST_STREAM, GOAWAY):
                    raise Broken("the call was cut")
                continue
            end = at + room == len(body)
            payload = body[at : at + room]
            self.write(frame(DATA, END_STREAM if end else 0, self.stream, payload))
            at, self.window, stream_window = at + room, self.window - room, stream_window - room

    @staticmethod
    def initial_window(settings):
        pairs = [settings[at : at + 6] for at in range(0, len(settings), 6)]
        found = [int.from_bytes(pair[2:], "big") for pair in pairs if pair[:2] == b"\0\4"]
        return found[0] if found else WINDOW

    def frame(self):
        """The next frame; what keeps a connection alive is done on the way."""
        head = self.read(9)
        payload = self.read(int.from_bytes(head[:3], "big"))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        # Who no longer hears that may have sent more before.
        if kind == SETTINGS and not flags & ACK:
            with contextlib.suppress(Broken):
                self.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            with contextlib.suppress(Broken):
                self.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind == GOAWAY and int.from_bytes(payload[4:8], "big"):
            raise Broken("the connection was given up")
        return kind, flags, stream, payload

    def read(self, count):
        try:
            found = self.input.read(count)
        except OSError as error:
            raise Broken(str(error)) from error
        if len(found) < count:
            raise Broken("the connection ended")
        return found

    def received(self, wanted):
        """The messages of a stream. Raises what it ends with, if that is an error."""
        data = b""
        while True:
            kind, flags, stream, payload = self.frame()
            if stream != wanted:
                continue
            if kind == DATA:
                data += payload
                while len(data) >= 5 and len(data) >= (end := 5 + int.from_bytes(data[1:5], "big")):
                    yield data[5:end]
                    data = data[end:]
            elif kind == RST_STREAM:
                raise Broken("the call was cut")
            elif kind == HEADERS and flags & END_STREAM:
                found = fields(payload)
                code = int(found.get(b"grpc-status", b"2"))
                if code:
                    raise refusal(code, found)
                return


def refusal(code, found):
    details = found.get(b"grpc-status-details-bin", b"").decode()
    message = found.get(b"grpc-message", b"").decode().replace("%20", " ")
    status = decode(base64.b64decode(details + "=" * (-len(details) % 4)))
    packed = [decode(detail) for detail in status.get(3, [])]
    known = {first(it, 1, b"").rsplit(b".", 1)[-1]: decode(first(it, 2, b"")) for it in packed}
    reason = first(known.get(b"ErrorInfo", {}), 1, b"").decode()
    retry_millis = None
    if b"RetryInfo" in known:
        delay = decode(first(known[b"RetryInfo"], 1, b""))
        retry_millis = first(delay, 1) * 1000 + first(delay, 2) // 1_000_000
    return Refused(code, message, reason, retry_millis)
