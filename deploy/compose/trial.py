#!/usr/bin/env python3
"""Runs the services of compose, and loses a database and a server of the ledger.

    trial.py CONFIG BINARY

CONFIG is what `docker-compose config --format json` says, BINARY the program. As root, in
namespaces of its own, which deploy/check makes.
"""

import json
import pathlib
import signal
import sys
import tempfile
import time

import containers

SERVERS = ["node-1", "node-2", "node-3"]
OWNER = "select address from nodes join assignment on owner = id where expire_time > now()"
PROGRAMS = pathlib.Path("/usr/lib/postgresql")
# How often it is looked whether something has come about, and for how long.
LOOK_AGAIN_SECONDS = 0.2
WITHIN_SECONDS = 40


def expect(holds, what):
    if not holds:
        sys.exit(what)


class Trial:
    def __init__(self, compose, place, binary, programs):
        self.services = containers.Containers(compose, place, binary, programs)
        self.kept = []

    def done(self, name, *arguments):
        code, said = self.services.run(name, *arguments)
        expect(code == 0, f"{name} {' '.join(arguments)}: exit {code}: {said}")

    def ask(self, database, *queries):
        program = ["psql", "-XAtq", "--username", "postgres", "--dbname", "daybook"]
        given = [part for query in queries for part in ("--command", query)]
        code, said = self.services.exec(database, *program, *given)
        expect(code == 0, f"{database}: {said}")
        return said.strip()

    def until(self, what, holds):
        end = time.monotonic() + WITHIN_SECONDS
        while not holds():
            self.restart_ended()
            logs = "".join(self.services.log(name)[-2000:] for name in self.services.processes)
            expect(time.monotonic() < end, f"in {WITHIN_SECONDS} s not so: {what}\n{logs}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def healthy(self, *names):
        for name in names:
            self.until(f"{name} is healthy", lambda: self.services.is_healthy(name))

    def follows(self, database, leader):
        """Commits on one database wait for the other one."""
        query = "select application_name || ' ' || sync_state from pg_stat_replication"
        self.until(f"{leader} waits for {database}",
                   lambda: self.ask(leader, query) == f"{database} sync")

    def command(self, name):
        """Some commands, at a server; all have to be accepted."""
        address = f"http://{self.services.addresses[name]}:50051"
        load = ["bench", "--address", address, "--workload", "transfer", "--accounts", "10",
                "--in-flight", "4", "--count", "200"]
        # It may be told to try again, while the ledger goes from one server to another.
        self.until(f"{name} accepts commands",
                   lambda: containers.said([self.services.binary, *load])[0] == 0)

    def restart_ended(self):
        """What `restart: unless-stopped` does."""
        for name in self.kept:
            if self.services.processes[name].poll() is not None:
                self.services.up(name)

    def events(self, database):
        return int(self.ask(database, "select max(position) from events"))


def main():
    config, binary = sys.argv[1:]
    versions = sorted(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    expect(versions, f"PostgreSQL's programs are not in {PROGRAMS}")
    place = pathlib.Path(tempfile.mkdtemp(dir=pathlib.Path(config).parent))
    compose = json.loads(pathlib.Path(config).read_text())
    trial = Trial(compose, place, pathlib.Path(binary), versions[-1])
    services = trial.services

    # As the README has it.
    trial.done("database-a", "new")
    for name in ["database-a", "database-b"]:
        services.up(name)
    trial.healthy("database-a", "database-b")
    trial.follows("database-b", "database-a")
    copied = [line for line in services.log("database-a").splitlines() if "BASE_BACKUP" in line]
    expect(copied and all("] copy " in line for line in copied),
           f"a commit could wait for a copy that is not complete: {copied}")
    expect(trial.ask("database-a", "show data_checksums") == "on", "there are no checksums")
    trial.done("init")
    for name in SERVERS:
        services.up(name)
    trial.kept = list(SERVERS)
    trial.healthy(*SERVERS)
    clear = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) " \
        "where client_addr is not null and not ssl"
    expect(trial.ask("database-a", clear) == "0", "somebody talks to the database in the clear")
    for name in SERVERS:
        trial.command(name)
    acknowledged = trial.events("database-a")

    # The database that is written is lost, and the other one takes its place.
    services.kill("database-a")
    code, _ = services.run("database-a", "new")
    expect(code != 0, "a second database was made")
    trial.ask("database-b", "select pg_promote()")
    expect(trial.events("database-b") >= acknowledged, "something that was acknowledged is lost")
    # Nobody follows it, so nothing is acknowledged; until it is told not to wait for that.
    trial.until("nobody owns the ledger", lambda: not trial.ask("database-b", OWNER))
    alone = "alter system set synchronous_standby_names = ''"
    trial.ask("database-b", alone, "select pg_reload_conf()")
    trial.command("node-2")
    trial.done("database-a", "follow")
    services.up("database-a")
    trial.healthy("database-a")
    wait = "alter system reset synchronous_standby_names"
    trial.ask("database-b", wait, "select pg_reload_conf()")
    trial.follows("database-a", "database-b")
    setting = "show synchronous_standby_names"
    expect(trial.ask("database-a", setting) == trial.ask("database-b", setting),
           "the copy would not wait for anybody")
    trial.until("the ledger has an owner", lambda: trial.ask("database-b", OWNER))
    trial.healthy("database-a", *SERVERS)
    trial.command("node-3")
    again = trial.events("database-a")
    expect(again > acknowledged, "nothing is written to the new standby")

    # The server that owns the ledger is killed, and another one takes over.
    owner = trial.ask("database-b", OWNER).split("/")[2].split(":")[0]
    trial.kept = []
    services.kill(owner)
    others = [name for name in SERVERS if name != owner]
    trial.until("another one owns the ledger",
                lambda: owner not in (trial.ask("database-b", OWNER) or owner))
    trial.healthy(*others)
    trial.command(others[0])
    for name in others:
        code = services.stop(name, signal.SIGTERM)
        expect(code == 0, f"{name} stops with {code}: {services.log(name)}")
    print(f"{again} events over a lost database, and a lost server of the ledger")


if __name__ == "__main__":
    main()
