"""TLS in front of a collector that speaks none, and the certificates for it."""

import asyncio
import contextlib
import pathlib
import ssl
import subprocess
import threading

CHUNK_BYTES = 65_536


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"openssl makes no certificate: {done.stderr.strip()}"


class Authority:
    """One that signs certificates, and its own in a file."""

    def __init__(self, directory, name):
        self.directory, self.name = pathlib.Path(directory), name
        self.certificate, self.key = self._make(name, "basicConstraints=critical,CA:TRUE")

    def sign(self, name, *extensions):
        """A certificate and its key, as files."""
        by = ["-CA", self.certificate, "-CAkey", self.key]
        name = f"{self.name}-{name}"
        return self._make(name, "basicConstraints=critical,CA:FALSE", *extensions, by=by)

    def sign_server(self):
        return self.sign("server", "subjectAltName=IP:127.0.0.1")

    def _make(self, name, *extensions, by=()):
        certificate, key = (self.directory / f"{name}.{end}" for end in ("pem", "key"))
        flags = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        for extension in extensions:
            flags += ["-addext", extension]
        openssl("req", "-x509", *flags, *by, "-subj", f"/CN={name}", "-keyout", key,
                "-out", certificate)
        return certificate, key


class Proxy:
    """Takes TLS off, and passes on what comes."""

    def __init__(self, port, pair, client_ca):
        self.port, self.made, self.failed = port, 0, 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*pair)
        self.context.set_alpn_protocols(["h2"])
        if client_ca:
            self.context.load_verify_locations(client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.loop = asyncio.new_event_loop()
        # A handshake that fails is told to nobody else.
        self.loop.set_exception_handler(lambda loop, told: None)
        self.listening = self.loop.run_until_complete(
            asyncio.start_server(self._take, "127.0.0.1", 0)
        )
        self.address = "127.0.0.1:%d" % self.listening.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def _take(self, reader, writer):
        try:
            await writer.start_tls(self.context)
        except (ssl.SSLError, OSError):
            self.failed += 1
            writer.close()
            return
        self.made += 1
        to_read, to_write = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(pump(reader, to_write), pump(to_read, writer))

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


async def pump(reader, writer):
    with contextlib.suppress(ssl.SSLError, OSError):
        while part := await reader.read(CHUNK_BYTES):
            writer.write(part)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def proxy(port, pair, client_ca=None):
    taken = Proxy(port, pair, client_ca)
    try:
        yield taken
    finally:
        taken.stop()
