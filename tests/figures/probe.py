"""Asks a server for its health, as an orchestrator does, without any gRPC library.

It owns the few bytes of HTTP/2 that one call takes, so that a probe costs next to nothing beside
what is measured. It knows nothing of the ledger.
"""

import socket
import threading
import time

INTERVAL_SECONDS = 0.1
TIMEOUT_SECONDS = 10
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
# A message of gRPC whose only field says SERVING.
SERVING = b"\0\0\0\0\2\x08\x01"


def frame(kind, flags, stream, payload):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def text(value):
    """A text of HPACK, below 127 bytes, not compressed."""
    return bytes([len(value)]) + value.encode()


def request(address):
    """A call of grpc.health.v1.Health/Check for the whole server."""
    # Of HPACK's static table: POST and http as they are, then :path, :authority and content-type
    # with values of ours, and one header that is not in it.
    headers = b"\x83\x86\x04" + text("/grpc.health.v1.Health/Check") + b"\x01" + text(address)
    headers += b"\x0f\x10" + text("application/grpc") + b"\x00" + text("te") + text("trailers")
    message = b"\0\0\0\0\0"
    frames = frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, headers)
    return PREFACE + frames + frame(DATA, END_STREAM, 1, message)


def read(stream, count):
    found = stream.read(count)
    if len(found) < count:
        raise OSError("the connection ended early")
    return found


def ask(address):
    """Asks once, over a connection of its own. Gives whether the answer was SERVING."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request(address))
        with connection.makefile("rb") as stream:
            while True:
                head = read(stream, 9)
                payload = read(stream, int.from_bytes(head[:3], "big"))
                if head[3] == DATA:
                    return payload == SERVING


class Probe:
    """Asks again and again while something else is done, and keeps how long each answer took."""

    def __init__(self, address):
        self.address = address
        self.millis = []
        self.failures = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.wait(INTERVAL_SECONDS):
            begun = time.monotonic()
            try:
                serving = ask(self.address)
            except OSError:
                serving = False
            self.failures += not serving
            self.millis.append(round((time.monotonic() - begun) * 1000, 1))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
