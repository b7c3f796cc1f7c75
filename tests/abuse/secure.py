"""TLS: handshakes that are not ended, and what is no handshake.

It owns the certificate of the server under attack, and what is said to it instead of TLS.
"""

import concurrent.futures
import os
import random
import shutil
import ssl
import subprocess
import threading

import bank
from channel import Broken

HANDSHAKES, GARBAGE, HELLOS = 1_000, 1_000, 5_000
RENEGOTIATIONS = 5
# How many that are not ended are kept open at once.
OPEN_AT_ONCE = 200
RECORD_BYTES = 2_000
OPENSSL_SECONDS = 15
READ_BYTES = 4096
# What openssl tells when it asks to begin anew.
ASKED = b"RENEGOTIATING"


def make_certificate(directory):
    """A certificate for the loopback address, and its key, by openssl."""
    if not shutil.which("openssl"):
        raise bank.Wrong("openssl is not there, and without it nothing of TLS is tried")
    certificate, key = (os.path.join(directory, name) for name in ("server.pem", "server.key"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=daybook"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    command += ["-keyout", key, "-out", certificate]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise bank.Wrong(f"openssl makes no certificate: {done.stderr.strip()}")
    return certificate, key


def context(certificate):
    found = ssl.create_default_context(cafile=certificate)
    found.set_alpn_protocols(["h2"])
    return found


def hello(target):
    """The first flight of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = target.tls.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise bank.Wrong("a handshake that needs no answer")


def try_each(target, count, said):
    """Says something on each of many connections; the oldest are closed as new ones come."""
    kept, number = [], 0
    while not target.is_over(number >= count):
        try:
            found = target.connect(target.source(number))
        except (OSError, Broken):
            target.seen["not let in"] += 1
            number += 1
            continue
        kept.append(found)
        try:
            found.send(said(number))
        except OSError:
            target.seen["closed"] += 1
        number += 1
        if len(kept) >= OPEN_AT_ONCE:
            end(target, kept.pop(0))
    for found in kept:
        end(target, found)
    return number


def end(target, found):
    """Notes what was answered, and closes it."""
    try:
        said = found.recv(64)
    except BlockingIOError:
        said = None
    except OSError:
        said = b""
    if said is None:
        target.seen["nothing yet"] += 1
    elif said[:1] == b"\x15":
        target.seen["alert"] += 1
    elif said[:1] == b"\x16":
        target.seen["its own flight"] += 1
    else:
        target.seen["closed"] += 1
    found.close()


def handshakes(target):
    """Cut after each of its bytes, in turn."""
    first = hello(target)
    count = try_each(target, HANDSHAKES, lambda number: first[: number % len(first)])
    target.sent, target.frames = f"{count:,} handshakes, cut at every byte", count


def garbage(target):
    """Records of TLS with chance in them, and bytes that are no records."""
    chance = random.Random(target.seed)

    def said(number):
        data = chance.randbytes(chance.randrange(1, RECORD_BYTES))
        kind = (b"", b"\x14", b"\x15", b"\x16", b"\x17")[number % 5]
        return kind + b"\x03\x03" + len(data).to_bytes(2, "big") + data if kind else data

    count = try_each(target, GARBAGE, said)
    target.sent, target.frames = f"{count:,} records of any bytes", count
    target.must_see("alert")


def hellos(target):
    """First flights whose answers are never taken up: each costs the server a signature."""
    first = hello(target)
    count = try_each(target, HELLOS, lambda _: first)
    target.sent, target.frames = f"{count:,} first flights", count
    target.must_see("its own flight")


def ask_again(address):
    """Asks to begin anew in the middle of a connection, and gives all that openssl tells of it."""
    command = ["openssl", "s_client", "-connect", address, "-tls1_2", "-alpn", "h2"]
    pipe = subprocess.PIPE
    client = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
    alarm = threading.Timer(OPENSSL_SECONDS, client.kill)
    alarm.start()
    told = b""
    try:
        while piece := client.stdout.read1(READ_BYTES):
            told += piece
            if b"Extended master secret" in told and ASKED not in told:
                client.stdin.write(b"R\n")
                client.stdin.flush()
    except BrokenPipeError:
        pass
    finally:
        alarm.cancel()
        client.kill()
        client.communicate()
    return told


def renegotiation(target):
    """What openssl does when it is told R: the server must not begin anew."""
    with concurrent.futures.ThreadPoolExecutor(RENEGOTIATIONS) as pool:
        for told in pool.map(ask_again, [target.address] * RENEGOTIATIONS):
            if ASKED not in told:
                target.is_wrong(f"openssl did not ask: {told[-200:]}")
            elif b"verify return" in told.split(ASKED)[1].lower():
                target.is_wrong("a handshake began anew")
            target.seen["not begun anew, closed"] += 1
    target.sent, target.frames = f"{RENEGOTIATIONS} attempts of TLS 1.2", RENEGOTIATIONS
