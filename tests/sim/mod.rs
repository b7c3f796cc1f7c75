//! Deterministic simulation: the domain, the event store, the file engine, recovery, checkpoints
//! and views as the server joins them, in one thread, on a disk that fails, tears and forgets,
//! driven by one seed and judged by a plain model.
//!
//! `SIM_SEED=7 cargo test --lib sim -- --nocapture` lives one seed again and tells all of it;
//! `SIM_SEEDS=20000 cargo test --release --lib sim` lives so many of them.

mod backups;
mod callers;
pub(crate) mod disk;
mod golden;
mod model;
mod node;
mod readers;
mod rot;
mod world;

use std::env;

/// How many seeds an ordinary run lives.
const SEEDS_DEFAULT: u64 = 300;
/// Each so many seeds one is lived twice, and must be the same.
const TWICE_EVERY: u64 = 50;

/// What happened: a run in which nothing happened proves nothing.
#[derive(Clone, Debug, Default)]
struct Tally {
    commands: u64,
    refused: u64,
    replayed: u64,
    positions: u64,
    power_cuts: u64,
    kills: u64,
    stops: u64,
    failed_starts: u64,
    torn: u64,
    kept_unknown: u64,
    disk_failures: u64,
    failed_syncs: u64,
    read_failures: u64,
    reads_refused: u64,
    latched: u64,
    no_room: u64,
    fulls: u64,
    checkpoints: u64,
    from_checkpoint: u64,
    backups: u64,
    reads: u64,
    sums: u64,
    tails: u64,
    damages: u64,
    damages_told: u64,
    principals: u64,
    older: u64,
}

impl Tally {
    /// All counts, with how often each must have happened in a thousand seeds.
    fn counts(&self) -> [(&'static str, u64, u64); 27] {
        [
            ("commands", self.commands, 30_000),
            ("refused", self.refused, 5_000),
            ("replayed", self.replayed, 300),
            ("positions read again", self.positions, 100_000),
            ("power cuts", self.power_cuts, 1_000),
            ("kills", self.kills, 1_000),
            ("stops in order", self.stops, 500),
            ("failed starts", self.failed_starts, 50),
            ("torn groups", self.torn, 20),
            ("unanswered and there", self.kept_unknown, 50),
            ("failed calls of the disk", self.disk_failures, 500),
            ("of them syncs", self.failed_syncs, 500),
            ("failed reads of the disk", self.read_failures, 500),
            ("reads refused for that", self.reads_refused, 200),
            ("latched", self.latched, 100),
            ("refused for want of room", self.no_room, 50),
            ("full disks", self.fulls, 5),
            ("checkpoints", self.checkpoints, 500),
            ("starts from a checkpoint", self.from_checkpoint, 300),
            ("backups", self.backups, 500),
            ("reads", self.reads, 1_000),
            ("sums of all money", self.sums, 1_000),
            ("reads of a tail", self.tails, 1_000),
            ("damages", self.damages, 2_500),
            ("damages told", self.damages_told, 1_000),
            ("positions with a principal", self.principals, 50_000),
            ("logs of version 1", self.older, 100),
        ]
    }

    fn add(&mut self, other: &Self) {
        let Self {
            commands,
            refused,
            replayed,
            positions,
            power_cuts,
            kills,
            stops,
            failed_starts,
            torn,
            kept_unknown,
            disk_failures,
            failed_syncs,
            read_failures,
            reads_refused,
            latched,
            no_room,
            fulls,
            checkpoints,
            from_checkpoint,
            backups,
            reads,
            sums,
            tails,
            damages,
            damages_told,
            principals,
            older,
        } = other;
        self.commands += commands;
        self.refused += refused;
        self.replayed += replayed;
        self.positions += positions;
        self.power_cuts += power_cuts;
        self.kills += kills;
        self.stops += stops;
        self.failed_starts += failed_starts;
        self.torn += torn;
        self.kept_unknown += kept_unknown;
        self.disk_failures += disk_failures;
        self.failed_syncs += failed_syncs;
        self.read_failures += read_failures;
        self.reads_refused += reads_refused;
        self.latched += latched;
        self.no_room += no_room;
        self.fulls += fulls;
        self.checkpoints += checkpoints;
        self.from_checkpoint += from_checkpoint;
        self.backups += backups;
        self.reads += reads;
        self.sums += sums;
        self.tails += tails;
        self.damages += damages;
        self.damages_told += damages_told;
        self.principals += principals;
        self.older += older;
    }
}

/// A setting of a test, from the environment of whoever runs it.
#[expect(clippy::disallowed_methods, reason = "this is a setting of a test")]
pub(crate) fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Lives one seed. What goes wrong in it is told with the command that shows it again.
fn live(seed: u64) -> (Tally, u64) {
    let again = format!("SIM_SEED={seed} cargo test --lib sim -- --nocapture");
    let lived = std::panic::catch_unwind(|| world::live(seed, false));
    lived.unwrap_or_else(|_| panic!("to see it again: {again}"))
}

#[test]
fn whatever_happens_the_ledger_keeps_what_it_promised() {
    if let Some(seed) = number("SIM_SEED") {
        world::live(seed, true);
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let mut all = Tally::default();
    for seed in 0..seeds {
        let (tally, digest) = live(seed);
        all.add(&tally);
        if seed % TWICE_EVERY == 0 {
            assert_eq!(live(seed).1, digest, "seed {seed} is not the same twice");
        }
    }
    for (what, count, least) in all.counts() {
        println!("{what}: {count}");
        assert!(count >= least * seeds / 1_000, "too few to prove anything: {what}: {all:?}");
    }
}
