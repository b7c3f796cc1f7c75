"""The rows of the figures: what each measures, in one run, as figures with names."""

import dataclasses
import time
import typing

from machine import Place, remove_derived
from probe import Probe

# Batches as large as they can be, and a few under way.
BATCHES = ["--batch", "8190", "--in-flight", "3"]
TRANSFERS = ["--workload", "transfer", *BATCHES]
# Eight times as many commands under way as the server's mailbox holds.
FLOOD_OF_TRANSFERS = ["--workload", "transfer", "--batch", "8190", "--in-flight", "64"]
FLOOD_OF_TRANSFERS += ["--connections", "4"]
# Ten million deposits before the load begins, spread over some accounts or all on one.
LONG_LOG = ["--accounts", "1000", "--history", "10000"]
LONG_ACCOUNT = ["--accounts", "1", "--history", "10000000"]
LONG_LOG_EVENTS = 10_000_000
# A log that a tail reads in about a second.
TAIL_LOG = ["--accounts", "1000", "--history", "2000"]
# For what is about the log and not about a load: one call of it.
ONE_CALL = ["--count", "1"]
# Accounts for what an account takes: first some, so that the server has its buffers.
SOME_ACCOUNTS, MANY_ACCOUNTS = "100000", "1000000"
LIVE = ["--in-flight", "256", "--rate"]
# The threads that decide and write.
WRITERS = ("daybook-writer", "daybook-syncer")
# How long a server is left alone before it counts as idle.
IDLE_SECONDS = 2
# How long overload is measured: how it begins, with all calls at once, is over by then.
OVERLOAD_SECONDS = 12


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: measured anew in each run."""

    name: str
    what: str
    # Gives the figures of one run, by name.
    measure: typing.Callable[[Place], dict]


def ratio(one, other):
    return one / other if other else None


def micros(told, quantile="p50", times="latency_micros"):
    """A time that the load generator told; nothing where there was none."""
    return (told[times] or {}).get(quantile)


def load(*options):
    """A load on a new server."""

    def measure(place):
        with place.server() as server:
            told = server.bench(*options)
        return {"commands/s": told["commands_per_second"], "p50, µs": micros(told)}

    return measure


def beside_echo(*options):
    """A load on a new server, and then on the echo."""

    def measure(place):
        with place.server() as server:
            ours = server.bench(*options)
        with place.echo() as echo:
            theirs = echo.bench("--unchecked", *options)
        rate, echo_rate = ours["commands_per_second"], theirs["commands_per_second"]
        return {
            "calls/s": rate,
            "p50, µs": micros(ours),
            "echo: calls/s": echo_rate,
            "echo: p50, µs": micros(theirs),
            "calls/s, of the echo's": ratio(rate, echo_rate),
        }

    return measure


def one_deposit(place):
    """A client that waits for each answer: the sync of the machine, the server, the echo."""
    sync = place.sync_micros()
    figures = beside_echo("--in-flight", "1")(place)
    return {
        **figures,
        "a sync, µs": sync,
        "p50 beyond a sync, µs": figures["p50, µs"] - sync,
    }


def two_loads(one, other, quotient):
    """Two loads on servers of their own, and how the second compares to the first."""

    def measure(place):
        with place.server() as server:
            first = server.bench(*one)
        with place.server() as server:
            second = server.bench(*other)
        rate, other_rate = first["commands_per_second"], second["commands_per_second"]
        return {"commands/s": other_rate, quotient: ratio(other_rate, rate)}

    return measure


def guarded(*options):
    """A load on a server where everybody may do everything and nobody looks, and on one that is
    guarded and watched in every way."""

    def measure(place):
        with place.server() as server:
            plain = server.bench(*options)
        with place.guarded() as (server, token):
            watched = server.bench(*options, *token)
        rate, other_rate = watched["commands_per_second"], plain["commands_per_second"]
        return {
            "calls/s": rate,
            "p50, µs": micros(watched),
            "neither: calls/s": other_rate,
            "calls/s, of those with neither": ratio(rate, other_rate),
        }

    return measure


def long_history(place):
    """Deposits on an account with ten million events, and on a new one in the same log."""
    with place.server() as server:
        long = server.bench("--in-flight", "1", *LONG_ACCOUNT)
        new = server.bench("--in-flight", "1", "--accounts", "1")
    figures = {}
    for quantile in ("p50", "p99"):
        figures[f"{quantile}, µs"] = micros(long, quantile)
        figures[f"{quantile}, of a new account's"] = ratio(
            micros(long, quantile), micros(new, quantile)
        )
    return figures


def tail_all(place):
    with place.server() as server:
        server.bench(*TAIL_LOG, *ONE_CALL)
        return {"events/s": server.bench("--workload", "tail")["events_per_second"]}


def tail_live(place):
    with place.server() as server:
        told = server.bench("--tails", "1", *LIVE, "10000")
    delivered = {name: micros(told, name, "delivery_micros") for name in ("p50", "p99", "max")}
    figures = {f"answer to delivery, {name}, µs": value for name, value in delivered.items()}
    return {"commands/s": told["commands_per_second"], **figures}


def tail_hundred(place):
    """What a hundred tails cost the threads that decide and write."""
    costs = {}
    for tails in ("0", "100"):
        with place.server() as server:
            before = server.threads_cpu_micros(*WRITERS)
            told = server.bench("--tails", tails, "--warm-up", "0", *LIVE, "5000")
            used = server.threads_cpu_micros(*WRITERS) - before
        commands = told["commands_per_second"] * told["measured_ms"] / 1000
        costs[tails] = ratio(used, commands)
    return {
        "writer's CPU, µs a command": costs["0"],
        "with 100 tails, µs a command": costs["100"],
        "with 100 tails, of it without": ratio(costs["100"], costs["0"]),
        "with 100 tails: commands/s": told["commands_per_second"],
    }


def pages(place):
    """Pages of 50 of a log of ten million events. The first load brings the ten million; each
    other one has a million events of its own behind them."""
    behind = ["--accounts", "1000", "--history", "1000"]
    one, moderate = ["--in-flight", "1"], ["--rate", "200", "--in-flight", "64"]
    figures = {}
    with place.server() as server:
        for name, workload, options in (
            ("history, 1 in flight", "history-page", [*one, *LONG_LOG]),
            ("statement, 1 in flight", "statement", [*one, *behind]),
            ("history, 200/s", "history-page", [*moderate, *behind]),
            ("statement, 200/s", "statement", [*moderate, *behind]),
        ):
            told = server.bench("--workload", workload, *options)
            figures[f"{name}: p50, µs"] = micros(told)
            figures[f"{name}: p99, µs"] = micros(told, "p99")
    return figures


def start(place):
    with place.data() as directory:
        with place.on(directory) as server:
            server.bench(*LONG_LOG, *ONE_CALL)
        with place.on(directory) as server:
            after_stop = server.start_millis
        remove_derived(directory)
        with place.on(directory) as server:
            from_log = server.start_millis
    return {
        "after a stop, ms": after_stop,
        "from the log alone, ms": from_log,
        "from the log alone, events/s": round(ratio(LONG_LOG_EVENTS * 1000, from_log)),
    }


def size(place):
    with place.server() as server:
        transfers = server.bench(*TRANSFERS, "--accounts", SOME_ACCOUNTS)
        opened = server.bench_watched(*ONE_CALL, "--accounts", MANY_ACCOUNTS)
        many = server.bench("--in-flight", "256")
        one = server.bench("--in-flight", "1")
    return {
        "memory, bytes an account": opened["server_bytes_per_account"],
        "log, bytes a transfer": transfers["log_bytes_per_command"],
        "log, bytes a deposit, 256 in flight": many["log_bytes_per_command"],
        "log, bytes a deposit, 1 in flight": one["log_bytes_per_command"],
    }


def overload(commands, most, flood):
    """As much as the server can, and then twice that whether it can or not. The server and its
    clients are kept from taking each other's processors."""

    def measure(place):
        with place.server() as server:
            server.seconds = OVERLOAD_SECONDS
            server.set_apart()
            rate = server.bench(*most)["commands_per_second"]
            calls = str(2 * rate // commands)
            with Probe(server.address) as probe:
                told = server.bench_watched("--rate", calls, *flood)
        return {
            "commands/s at most": rate,
            "commands/s under twice that": told["commands_per_second"],
            "of the most": ratio(told["commands_per_second"], rate),
            "refused calls": told["shed_calls"],
            "refused: p99, µs": micros(told, "p99", "shed_micros"),
            "memory at most, KiB": told["server_peak_kib"],
            "health: longest answer, ms": max(probe.millis, default=None),
            "health: failures": probe.failures,
        }

    return measure


def overloaded_deposits(name, connections):
    """A row of single deposits, twice as many as there can be on 16 connections."""
    return Row(
        name,
        f"Twice as many deposits as there can be, on {connections} connections",
        overload(
            1,
            ["--in-flight", "256", "--connections", "16"],
            ["--in-flight", "16384", "--connections", str(connections)],
        ),
    )


def footprint(place):
    with place.server() as server:
        time.sleep(IDLE_SECONDS)
        resident_kib = server.resident_kib()
    return {
        "program, bytes": place.binary.stat().st_size,
        "memory when idle, KiB": resident_kib,
        "ready on an empty directory, ms": server.start_millis,
    }


ROWS = [
    Row("sync", "A small write and its sync", lambda place: {"p50, µs": place.sync_micros()}),
    Row("deposits-1", "Deposits, one call in flight", one_deposit),
    Row("deposits-64", "Deposits, 64 in flight", beside_echo("--in-flight", "64")),
    Row("deposits-256", "Deposits, 256 in flight", beside_echo("--in-flight", "256")),
    Row(
        "guarded-64",
        "Deposits, 64 in flight, with credentials, limits, metrics and traces",
        guarded("--in-flight", "64"),
    ),
    Row("stream", "Deposits in a stream, window 1,024", load("--stream", "--in-flight", "1024")),
    Row(
        "reads-64",
        "Reads of an account, 64 in flight",
        beside_echo("--workload", "read", "--in-flight", "64"),
    ),
    Row("pages", "Pages of 50 of a log of 10 million events", pages),
    Row(
        "transfers-10k",
        "Transfers in batches, 10,000 accounts",
        load(*TRANSFERS, "--accounts", "10000"),
    ),
    Row(
        "transfers-1m",
        "Transfers in batches, 1,000,000 accounts",
        load(*TRANSFERS, "--accounts", "1000000"),
    ),
    Row(
        "transfers-hot",
        "Transfers in batches, 10,000 accounts, one of them always on one side",
        two_loads(
            [*TRANSFERS, "--accounts", "10000"],
            ["--workload", "hot-transfer", *BATCHES, "--accounts", "10000"],
            "of those without",
        ),
    ),
    Row(
        "transfers-10m",
        "Transfers in batches, 10,000,000 accounts",
        two_loads(
            [*TRANSFERS, "--accounts", "10000"],
            [*TRANSFERS, "--accounts", "10000000"],
            "of those with 10,000 accounts",
        ),
    ),
    Row("long-history", "Deposits on an account with 10 million events", long_history),
    Row("tail-all", "Events to one tail, from the beginning", tail_all),
    Row("tail-live", "Events to one tail, live, at 10,000 commands/s", tail_live),
    Row("tail-hundred", "A hundred tails, live, at 5,000 commands/s", tail_hundred),
    Row("start", "Start with 10 million events", start),
    Row("size", "What accounts and commands take", size),
    overloaded_deposits("overload", 16),
    overloaded_deposits("overload-64", 64),
    Row(
        "overload-batches",
        "Twice as many transfers in batches as there can be, more than is taken in",
        overload(
            8190,
            [*TRANSFERS, "--accounts", "10000"],
            [*FLOOD_OF_TRANSFERS, "--accounts", "10000"],
        ),
    ),
    Row("footprint", "An empty ledger", footprint),
]
