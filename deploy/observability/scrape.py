"""Compares what is shown, alerted and told of metrics with what running servers have.

It is the check `observability` of deploy/check, whose tools it is given.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import subprocess
import tempfile
import urllib.request

NAME = re.compile(r"\b(?:up|(?:daybook|grpc_server|process)_[a-z0-9_]+)\b")
# What others tell of a server: Prometheus itself, and who makes backups.
OF_OTHERS = {"up", "daybook_backup_position"}
# What a family of histograms is made of.
PARTS = ["_bucket", "_count", "_sum"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
# What a server says whose ledger is another one's.
STANDS_BY = "standing by: the log is another process's"


@functools.cache
def scrape(binary, run, expect):
    """What servers tell after a second of work, each: of files, and two of a database, of which
    one owns the ledger and the other one passes on to it what it is asked."""
    with tempfile.TemporaryDirectory() as directory:
        with server(binary, expect, "serving", "--data-dir", f"{directory}/data") as addresses:
            pages = [worked(binary, run, addresses)]
    with database(expect) as url:
        # So long a lease stays certain on a busy machine.
        flags = ["--engine", "postgres", "--database-url", url, "--lease", "30s"]
        with (
            server(binary, expect, "serving", *flags) as owner,
            server(binary, expect, STANDS_BY, *flags) as other,
        ):
            pages += [worked(binary, run, addresses) for addresses in [owner, other]]
    return pages


@contextlib.contextmanager
def server(binary, expect, ready, *flags):
    """A server that has said this. Gives its addresses, by what it says of them."""
    flags = ["--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0", *flags]
    flags += ["--log-format", "json"]
    # Settings of whoever runs this are not those of the servers.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    process = subprocess.Popen([binary, *flags], env=clean, stderr=subprocess.PIPE, text=True)
    try:
        addresses, lines = {}, []
        for line in process.stderr:
            told = json.loads(line)
            lines.append(told["message"])
            addresses[told["message"]] = told.get("address")
            if told["message"] == ready:
                break
        expect(lines[-1:] == [ready], f"a server does not start: {lines}")
        yield addresses
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextlib.contextmanager
def database(expect):
    """The URL of a new database, which is gone afterwards."""
    told = ["sh", "-c", "echo $DAYBOOK_TEST_POSTGRES_URL; cat"]
    command, pipe = [ROOT / "tests/postgres/with", *told], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        url = process.stdout.readline().strip()
        expect(url, "no database: PostgreSQL's programs are needed")
        yield url
        # It goes as soon as nobody can write here any more.


def worked(binary, run, addresses):
    """What a server tells after a second of work."""
    load = ["--address", f"http://{addresses['listening']}", "--workload", "transfer"]
    load += ["--accounts", "10", "--seconds", "1", "--warm-up", "0"]
    run(binary, "bench", *load)
    page = f"http://{addresses['listening for operations']}/metrics"
    with urllib.request.urlopen(page, timeout=10) as answer:
        return answer.read().decode()


def families(pages):
    """The families of pages and their types."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", "\n".join(pages), re.M))


def samples(pages):
    """The names that can be asked for."""
    names = set()
    for name, kind in families(pages).items():
        names |= {name + part for part in PARTS} if kind == "histogram" else {name}
    return names


def check(root, binary, run, expect):
    here = root / "deploy/observability"
    pages = scrape(binary, run, expect)
    for page in pages:
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write(page)
            file.seek(0)
            output = run("promtool", "check", "metrics", stdin=file)
            expect(not output.strip(), f"promtool check metrics: {output}")
    run("promtool", "check", "rules", str(here / "alerts.yaml"))
    run("promtool", "test", "rules", str(here / "alerts_test.yaml"))

    helped = dict(re.findall(r"^# HELP (\S+) (.+)$", "\n".join(pages), re.M))
    known = samples(pages)
    for name in families(pages):
        expect(helped.get(name), f"{name} has no help")
    shown, alerts = dashboard(here), rules(here)
    for where, text in [*shown, *alerts]:
        for name in NAME.findall(text):
            expect(name in known | OF_OTHERS, f"{where} asks for {name}, which there is not")
    tests = (here / "alerts_test.yaml").read_text()
    for name, _ in alerts:
        fires = re.search(rf'"{name}",alertstate="firing".*\n.*\n +exp_samples:\n', tests)
        expect(fires, f"no test sees {name} fire")

    table = (root / "README.md").read_text().partition("\n## Metrics")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `([a-z_]+)", table, re.M))
    of_server = {name for name in families(pages) if not name.startswith("process_")}
    expect(told == of_server, f"the README and the servers differ in {told ^ of_server}")
    return f"{len(helped)} families, {len(shown)} queries and {len(alerts)} alerts agree"


def dashboard(here):
    """What the panels of the dashboard ask for, each with its title."""
    board = json.loads((here / "dashboard.json").read_text())
    return [
        (f"the panel {panel['title']!r}", target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]


def rules(here):
    """What the alerts ask for, each with its name."""
    import yaml

    groups = yaml.safe_load((here / "alerts.yaml").read_text())["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]
