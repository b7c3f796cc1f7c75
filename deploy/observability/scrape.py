"""Compares what is shown, alerted and told of metrics with what a running server has.

It is the check `observability` of deploy/check, whose tools it is given.
"""

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


@functools.cache
def scrape(binary):
    """What a server tells after a second of work."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    with tempfile.TemporaryDirectory() as directory:
        flags = ["--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0"]
        flags += ["--data-dir", f"{directory}/data", "--log-format", "json"]
        server = subprocess.Popen([binary, *flags], env=clean, stderr=subprocess.PIPE, text=True)
        try:
            addresses = {}
            for line in server.stderr:
                told = json.loads(line)
                addresses[told["message"]] = told.get("address")
                if told["message"] == "serving":
                    break
            load = ["--address", f"http://{addresses['listening']}", "--workload", "transfer"]
            load += ["--accounts", "10", "--seconds", "1", "--warm-up", "0"]
            subprocess.run([binary, "bench", *load], env=clean, check=True, capture_output=True)
            page = f"http://{addresses['listening for operations']}/metrics"
            with urllib.request.urlopen(page, timeout=10) as answer:
                return answer.read().decode()
        finally:
            server.terminate()
            server.communicate(timeout=60)


def families(page):
    """The families of a page and their types."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))


def samples(page):
    """The names that can be asked for."""
    names = set()
    for name, kind in families(page).items():
        names |= {name + part for part in PARTS} if kind == "histogram" else {name}
    return names


def check(root, binary, run, expect):
    here = root / "deploy/observability"
    page = scrape(binary)
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write(page)
        file.seek(0)
        output = run("promtool", "check", "metrics", stdin=file)
        expect(not output.strip(), f"promtool check metrics: {output}")
    run("promtool", "check", "rules", str(here / "alerts.yaml"))
    run("promtool", "test", "rules", str(here / "alerts_test.yaml"))

    helped = dict(re.findall(r"^# HELP (\S+) (.+)$", page, re.M))
    known = samples(page)
    for name in families(page):
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
    of_server = {name for name in families(page) if not name.startswith("process_")}
    expect(told == of_server, f"the README and a server differ in {told ^ of_server}")
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
