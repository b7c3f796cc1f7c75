"""The machine and the servers on it: started, put under load, looked at, and ended by their ids.

It owns how all of that is done. It does not know what is measured, nor why.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

START_SECONDS = 120
STOP_SECONDS = 60
BENCH_SECONDS = 600
# How many programs that only count share the processor of a server that is set apart.
SHARERS = 2
# How the machine's own sync is measured: by so many writes of so many bytes, one after another,
# into a file that has its size already, as the files of the log have.
SYNCS = 1_000
SYNC_BYTES = 256
# What a data directory cannot do without: everything else is made from it.
SOURCES = re.compile(r".+\.seg|lock")


class Failed(Exception):
    """Something could not be measured."""


class Server:
    """A process that serves, until it is stopped."""

    def __init__(self, command, binary, seconds, variables=None):
        self.binary, self.seconds = binary, seconds
        self.sharers = []
        self.bench_processors = os.sched_getaffinity(0)
        begun = time.monotonic()
        environment = {**os.environ, **(variables or {})}
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment
        )
        late = threading.Timer(START_SECONDS, self.process.kill)
        late.start()
        address = None
        for line in self.process.stderr:
            found = re.search(r'"address":"([^"]+)"', line)
            address = found.group(1) if found else address
            if '"serving"' in line:
                break
        else:
            address = None
        late.cancel()
        self.start_millis = round((time.monotonic() - begun) * 1000)
        self.address = address
        if address is None:
            self.process.kill()
            self.process.wait()
            raise Failed("the server does not start")

    @property
    def pid(self):
        return self.process.pid

    def set_apart(self):
        """Gives the server a processor, of which it has a third, and its clients the others: to
        have twice as much work to give as it can do, they need more of the machine than it has."""
        first, *others = sorted(os.sched_getaffinity(0))
        if not others:
            raise Failed("there is only one processor")
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {first})
        self.bench_processors = set(others)
        for _ in range(SHARERS):
            busy = subprocess.Popen(["sh", "-c", "while :; do :; done"])
            os.sched_setaffinity(busy.pid, {first})
            self.sharers.append(busy)

    def bench_watched(self, *options):
        """As bench, which then tells the memory as well."""
        return self.bench("--server-pid", str(self.pid), *options)

    def bench(self, *options):
        """Puts load on it. Gives what the load generator tells."""
        command = [self.binary, "bench", "--address", f"http://{self.address}", "--json"]
        command += ["--seconds", str(self.seconds), *options]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=BENCH_SECONDS,
                preexec_fn=lambda: os.sched_setaffinity(0, self.bench_processors),
            )
        except subprocess.TimeoutExpired as late:
            raise Failed(f"bench {' '.join(options)} does not end") from late
        if done.returncode:
            raise Failed(f"bench {' '.join(options)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def resident_kib(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))

    def threads_cpu_micros(self, *names):
        """The CPU time of the threads of these names, from where Linux counts it finely."""
        nanos = 0
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            if (task / "comm").read_text().strip() in names:
                nanos += int((task / "schedstat").read_text().split()[0])
        return nanos // 1000

    def end_sharers(self):
        for busy in self.sharers:
            busy.kill()
            busy.wait()
        self.sharers = []

    def stop(self):
        self.end_sharers()
        self.process.terminate()
        late = threading.Timer(STOP_SECONDS, self.process.kill)
        late.start()
        self.process.stderr.read()
        ended = self.process.wait()
        late.cancel()
        if ended:
            raise Failed("the server did not stop in order")


@dataclasses.dataclass(frozen=True)
class Place:
    """What is measured, and where."""

    # The server and the load generator.
    binary: pathlib.Path
    # Data directories are made in it.
    directory: str
    # For how long a load is measured.
    seconds: int

    @contextlib.contextmanager
    def data(self):
        """A data directory."""
        with tempfile.TemporaryDirectory(prefix="figures-", dir=self.directory) as directory:
            yield directory

    @contextlib.contextmanager
    def on(self, directory):
        """A server on a data directory."""
        command = [self.binary, "--data-dir", directory, "--listen", "127.0.0.1:0"]
        command += ["--log-format", "json", "--log-level", "info"]
        with self.running(command) as server:
            yield server

    @contextlib.contextmanager
    def server(self):
        """A server on a data directory of its own."""
        with self.data() as directory, self.on(directory) as server:
            yield server

    @contextlib.contextmanager
    def guarded(self):
        """A server that knows its callers, limits them, is scraped each second, and begins a trace
        for each call, for a collector that is not there; and the file with a token for it."""
        with self.data() as directory:
            place = pathlib.Path(directory)
            told = [self.binary, "token", "--name", "bench", "--role", "admin"]
            token, _, row = subprocess.check_output(told, text=True).partition("\n")
            for name, text in (("token", token), ("credentials", row)):
                (place / name).write_text(text)
                (place / name).chmod(0o600)
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            command = [self.binary, "--data-dir", place / "data", "--listen", "127.0.0.1:0"]
            command += ["--credentials", place / "credentials"]
            command += ["--rate-per-principal", "1000000"]
            command += ["--operations-listen", f"127.0.0.1:{port}"]
            command += ["--log-format", "json", "--log-level", "info,opentelemetry=off"]
            collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
            with self.running(command, collector) as server, scraped(port):
                yield server, ["--token-file", place / "token"]

    @contextlib.contextmanager
    def echo(self):
        """The server that only answers."""
        with self.running([self.binary.parent / "examples/echo"]) as server:
            yield server

    @contextlib.contextmanager
    def running(self, command, variables=None):
        server = Server(command, self.binary, self.seconds, variables)
        try:
            yield server
            server.stop()
        finally:
            server.end_sharers()
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()

    def sync_micros(self):
        """How long a small write and its sync take here: the median."""
        with tempfile.NamedTemporaryFile(prefix="figures-", dir=self.directory) as file:
            file.write(bytes(SYNCS * SYNC_BYTES))
            file.flush()
            os.fsync(file.fileno())
            times = []
            for number in range(SYNCS):
                begun = time.monotonic()
                os.pwrite(file.fileno(), b"x" * SYNC_BYTES, number * SYNC_BYTES)
                os.fdatasync(file.fileno())
                times.append(time.monotonic() - begun)
        return round(statistics.median(times) * 1_000_000)


@contextlib.contextmanager
def scraped(port):
    """Reads the metrics each second, as Prometheus does."""
    over = threading.Event()

    def scrape():
        while not over.wait(1):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                page.read()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield
    finally:
        over.set()
        scraper.join()


def remove_derived(directory):
    """Leaves of a data directory what everything else can be made from."""
    for path in pathlib.Path(directory).iterdir():
        if SOURCES.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def described():
    """The machine in a line."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    memory = pathlib.Path("/proc/meminfo").read_text()
    model = re.search(r"model name\s*: (.+)", cpuinfo)
    gib = int(re.search(r"MemTotal:\s+(\d+)", memory).group(1)) / 1024 / 1024
    name = model.group(1) if model else os.uname().machine
    return f"{os.cpu_count()} x {name}, {gib:.1f} GiB, Linux {os.uname().release}"
