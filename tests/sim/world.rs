//! The world of one seed: a disk, a clock, a ledger that lives and dies on them, callers, readers,
//! and the model that judges all of it.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    io::ErrorKind,
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use super::{
    Tally,
    callers::Given,
    disk::{Faults, ReadFault, Rng, SimDisk},
    model::{Model, Told, end, rule},
    node::Node,
    rot::READS_OF_A_START,
};
use crate::{
    domain::Command,
    event_store::{Answer, Failure, Outcome, StoreStatus},
    log::file::{OpenError, Options, make_version_1},
    ops::{Clock as _, ManualClock},
    server::ServeError,
};

/// 2023-11-14 22:13:20 UTC.
const TIME: i64 = 1_700_000_000_000_000;
/// Largest groups of the simulation: no step submits more than fits.
const GROUP_BYTES_MAX: usize = 8 * 1024;
/// How many submissions may wait at once: together they fit into one group.
const SUBMISSIONS_MAX: usize = 8;

/// What a seed draws first: how its world is.
#[derive(Clone, Debug)]
pub(super) struct Knobs {
    lives: usize,
    steps: usize,
    pub(super) accounts: usize,
    pub(super) batch: usize,
    window: u64,
    small_commands_max: usize,
    segment_bytes: u64,
    /// How often things happen: one in so many steps; 0 for never.
    checkpoints: usize,
    backups: usize,
    stops: usize,
    pub(super) repeats: usize,
    clock_jumps: usize,
    /// Whether calls are short and interrupted, fail, and find no room.
    pub(super) short: bool,
    failures: bool,
    full: bool,
    /// How many submissions a program answered that knew format version 1 only, before all others.
    older: Option<usize>,
}

impl Knobs {
    fn draw(rng: &mut Rng) -> Self {
        let mut often = |most: usize| if rng.one_in(3) { 0 } else { 2 + rng.below(most) };
        let (checkpoints, stops) = (often(40), often(60));
        let (repeats, clock_jumps, backups) = (often(6), often(20), often(60));
        Self {
            lives: 2 + rng.below(8),
            steps: 10 + rng.below(80),
            accounts: 2 + rng.below(8),
            batch: 1 + rng.below(6),
            window: [1, 8, 30, 1_000][rng.below(4)],
            small_commands_max: [0, 2, 256][rng.below(3)],
            segment_bytes: 512 * (40 + rng.below(60)) as u64,
            checkpoints,
            backups,
            stops,
            repeats,
            clock_jumps,
            short: rng.one_in(3),
            failures: !rng.one_in(4),
            full: rng.one_in(4),
            older: rng.one_in(4).then(|| rng.below(12)),
        }
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) knobs: Knobs,
    pub(super) disk: SimDisk,
    /// Where backups are made.
    pub(super) backup: SimDisk,
    clock: Arc<ManualClock>,
    /// What is known to have been carried out.
    pub(super) model: Model,
    /// What may have been carried out since, in order: a beginning of it was.
    unknown: Vec<Given>,
    /// The request ids that were used, with their commands.
    pub(super) used: Vec<Command>,
    pub(super) requests: u128,
    /// Whether commands come with who gives them.
    pub(super) knows_callers: bool,
    /// How far the log was durable before the newest group, and whether that was witnessed since.
    pub(super) durable_before: u64,
    pub(super) is_witnessed: bool,
    /// What a tail was told, from position 1 on: accounts and their versions.
    pub(super) tailed: Vec<(Uuid, u64)>,
    digest: DefaultHasher,
    /// What draws which reads fail: one of its own, so that everything else is the same without.
    pub(super) mishaps: Rng,
    /// Whether what happens is told as it happens.
    is_told: bool,
    pub(super) tally: Tally,
}

/// What a seed gives: how much happened, and a digest of all answers.
pub(super) fn live(seed: u64, is_told: bool) -> (Tally, u64) {
    let mut rng = Rng(seed);
    let knobs = Knobs::draw(&mut rng);
    let mut world = World {
        disk: SimDisk::new(rng.next()),
        backup: SimDisk::new(rng.next()),
        clock: Arc::new(ManualClock::new(TIME)),
        model: Model::new(knobs.window),
        unknown: Vec::new(),
        used: Vec::new(),
        requests: 0,
        knows_callers: true,
        durable_before: 0,
        is_witnessed: true,
        tailed: Vec::new(),
        digest: DefaultHasher::new(),
        mishaps: Rng(!seed),
        is_told,
        tally: Tally::default(),
        knobs,
        rng,
    };
    world.tell(|| format!("{:#?}", world.knobs));
    if let Some(submissions) = world.knobs.older {
        world.older_life(submissions);
    }
    for _ in 0..world.knobs.lives {
        world.life();
    }
    world.last_life();
    world.restore();
    world.rot();
    (world.tally, world.digest.finish())
}

impl World {
    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{}", what());
        }
    }

    fn options(&self) -> Options {
        Options {
            first_segment_bytes: self.knobs.segment_bytes,
            segment_bytes: self.knobs.segment_bytes,
            group_bytes_max: GROUP_BYTES_MAX,
            ..Options::new([7; 16], TIME)
        }
    }

    pub(super) fn start(&self) -> Result<Node, ServeError> {
        self.start_on(&self.disk)
    }

    pub(super) fn start_on(&self, disk: &SimDisk) -> Result<Node, ServeError> {
        let Knobs { window, small_commands_max, .. } = self.knobs;
        Node::start(disk, &self.options(), window, &self.clock, small_commands_max)
    }

    /// The life of a program that knew format version 1 and no callers, on a disk that does not
    /// fail.
    fn older_life(&mut self, submissions: usize) {
        let mut node = self.start().expect("nothing is wrong with the disk yet");
        self.check_start(&node);
        self.knows_callers = false;
        for _ in 0..submissions {
            self.submit(&mut node);
            self.settle(&mut node);
        }
        self.knows_callers = true;
        self.end(node);
        let mut image = self.disk.image();
        make_version_1(&mut image);
        self.disk = SimDisk::of(&image, self.rng.next());
        self.tally.older += 1;
    }

    /// A start, some work while things go wrong, and an end: in order, by a kill, by a power cut.
    fn life(&mut self) {
        let fail_after = self.knobs.failures.then(|| {
            let kinds = [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::TimedOut];
            (self.rng.below(120), kinds[self.rng.below(kinds.len())])
        });
        self.tell(|| format!("a life; calls of the disk fail after: {fail_after:?}"));
        let fail_sync_after =
            (self.knobs.failures && self.mishaps.one_in(3)).then(|| self.mishaps.below(20));
        let short = self.knobs.short;
        self.disk.set_faults(Faults { fail_after, fail_sync_after, short, capacity: None });
        let is_unreadable = self.mishaps.one_in(4);
        if is_unreadable {
            self.fail_a_read(READS_OF_A_START, &[ReadFault::Error, ReadFault::End]);
        }
        let started = self.start();
        self.end_read_fault(is_unreadable);
        match started {
            Ok(mut node) => {
                self.check_start(&node);
                self.work(&mut node);
                self.end(node);
            }
            Err(ServeError::Open(OpenError::Io { .. })) => {
                self.tally.failed_starts += 1;
            }
            Err(error) => panic!("a start failed: {error}"),
        }
        self.tally.disk_failures = self.disk.failures();
        self.tally.failed_syncs = self.disk.failed_syncs();
        if self.rng.one_in(2) {
            self.tell(|| "the power is cut".to_owned());
            self.disk.crash();
            self.tally.power_cuts += 1;
        } else {
            self.disk.set_faults(Faults::default());
            self.tally.kills += 1;
        }
    }

    /// Without faults everything goes on, and everything that was acknowledged is there.
    fn last_life(&mut self) {
        self.disk.set_faults(Faults::default());
        let mut node = self.start().expect("nothing is wrong with the disk any more");
        self.check_start(&node);
        assert_eq!(node.status(), StoreStatus::Serving);
        for _ in 0..4 {
            self.submit(&mut node);
            self.settle(&mut node);
        }
        assert!(!node.is_waiting(), "everything is answered when nothing goes wrong");
        node.follow();
        for _ in 0..4 {
            self.read(&node);
        }
        node.stop();
        self.hear(&mut node);
        self.is_witnessed = true;
        self.durable_before = node.durable_before();
    }

    /// What a start shows must be what was acknowledged, and perhaps a beginning of what was under
    /// way: whole submissions.
    fn check_start(&mut self, node: &Node) {
        assert_eq!(node.damage, None, "nothing was damaged");
        let head = node.books().position();
        let (from, torn) = (node.checkpoint, node.is_torn);
        self.tell(|| format!("started at {head}, from the checkpoint {from}, torn: {torn}"));
        let mut model = self.model.clone();
        let mut unknown = std::mem::take(&mut self.unknown).into_iter();
        while model.head < head {
            let given = unknown.next().expect("there is more than was ever asked for");
            for command in &given.commands {
                model.carry_out(given.name(), command);
            }
            self.tally.kept_unknown += 1;
        }
        assert_eq!(
            model.head, head,
            "something acknowledged is lost, or half of something is there"
        );
        self.model = model;
        self.tally.torn += u64::from(node.is_torn);
        self.tally.from_checkpoint += u64::from(node.checkpoint > 0);
        // The newest group was written again, and witnessed.
        self.is_witnessed = true;
        self.durable_before = head;
        self.check_all(node);
        self.check_tail();
        head.hash(&mut self.digest);
    }

    fn work(&mut self, node: &mut Node) {
        for _ in 0..self.rng.below(self.knobs.steps) {
            self.step(node);
            if self.chance(self.knobs.stops) {
                return;
            }
        }
    }

    pub(super) fn chance(&mut self, one_in: usize) -> bool {
        one_in > 0 && self.rng.one_in(one_in)
    }

    fn step(&mut self, node: &mut Node) {
        match self.rng.below(16) {
            0..6 => self.submit(node),
            6..9 => node.decide(),
            9..12 => {
                node.sync();
                self.note_unwitnessed();
            }
            12 => {
                node.follow();
                self.tail(node);
            }
            13 => node.prepare(),
            _ => {
                if node.books().position() == self.model.head {
                    self.read(node);
                    self.read_badly(node);
                }
            }
        }
        self.hear(node);
        if self.chance(self.knobs.clock_jumps) {
            self.jump();
        }
        if self.knobs.full && self.rng.one_in(20) {
            self.fill_disk(node);
        }
        if self.chance(self.knobs.checkpoints) {
            self.checkpoint(node);
        }
        if self.chance(self.knobs.backups) {
            self.back_up(node);
            self.hear(node);
        }
    }

    /// The newest group may be one that nothing tells to be durable.
    pub(super) fn note_unwitnessed(&mut self) {
        self.is_witnessed = false;
    }

    fn checkpoint(&mut self, node: &mut Node) {
        node.follow();
        let saved = node.save(&mut |node| {
            if self.rng.one_in(2) {
                self.submit(node);
            }
            node.decide();
            node.sync();
            self.hear(node);
        });
        self.tell(|| format!("a checkpoint: {saved:?}"));
        self.tally.checkpoints += u64::from(saved.is_ok_and(|position| position > 0));
        self.note_unwitnessed();
    }

    /// The disk has no room for a while: commands are refused, everything else goes on, and when
    /// there is room again there are commands again.
    fn fill_disk(&mut self, node: &mut Node) {
        if node.status() == StoreStatus::Latched {
            return;
        }
        let used = self.disk.image().values().map(Vec::len).sum();
        self.disk.set_capacity(Some(used));
        for _ in 0..12 {
            self.submit(node);
            node.decide();
            node.sync();
            self.hear(node);
        }
        self.tally.fulls += u64::from(node.status() == StoreStatus::NoRoom);
        node.follow();
        self.read(node);
        self.disk.set_capacity(None);
        for _ in 0..3 {
            node.prepare();
            node.sync();
            node.decide();
            self.hear(node);
        }
    }

    fn jump(&mut self) {
        let now = self.clock.now_micros();
        match self.rng.below(3) {
            0 => self.clock.set((now - 3_600_000_000).max(1)),
            1 => self.clock.set(now + 86_400_000_000),
            _ => self.clock.advance(Duration::from_micros(self.rng.next() % 5_000_000)),
        }
    }

    /// The end of a life: in order, or in the middle of whatever is going on.
    fn end(&mut self, mut node: Node) {
        if self.rng.one_in(3) {
            node.stop();
            self.hear(&mut node);
            self.tally.stops += 1;
        }
        self.durable_before = node.durable_before();
        self.unknown.extend(node.unanswered());
    }

    fn settle(&mut self, node: &mut Node) {
        for _ in 0..20 {
            node.prepare();
            node.decide();
            node.sync();
            self.hear(node);
        }
    }

    fn submit(&mut self, node: &mut Node) {
        if node.waiting_count() >= SUBMISSIONS_MAX {
            return;
        }
        let given = self.given();
        self.tell(|| format!("submitted: {given:?}"));
        node.submit(given);
    }

    /// Takes the answers that are there, and judges them.
    fn hear(&mut self, node: &mut Node) {
        while let Some((given, result)) = node.answered() {
            match result {
                Ok(answer) => self.judge(&given, &answer),
                Err(Failure::NoRoom) => self.tally.no_room += 1,
                Err(Failure::Stopping) => {}
                Err(Failure::Latched) => {
                    self.tell(|| format!("latched: {given:?}"));
                    self.tally.latched += 1;
                    self.unknown.push(given);
                }
                Err(failure @ (Failure::Overloaded | Failure::Unreachable | Failure::Damaged)) => {
                    panic!("{failure}")
                }
            }
        }
    }

    fn judge(&mut self, given: &Given, answer: &Answer) {
        let commands = &given.commands;
        assert!(self.unknown.is_empty(), "acknowledged after the log had failed");
        let outcomes: BTreeMap<usize, &Outcome> =
            answer.outcomes.iter().map(|(index, outcome)| (*index, outcome)).collect();
        assert_eq!(answer.commands, *commands, "the commands are given back");
        for (index, command) in commands.iter().enumerate() {
            let told = match outcomes[&index] {
                Outcome::Recorded(entry) => {
                    assert!(entry.answers(command), "the entry is that of another command");
                    assert_eq!(entry.principal, given.principal, "somebody else is named");
                    let count = entry.events.len() as u64;
                    let end = end(entry.saga_end());
                    Told::Recorded { first: entry.first_position, count, end }
                }
                Outcome::Replayed { position } => Told::Replayed { position: *position },
                Outcome::Refused(refusal) => Told::Refused(rule(refusal)),
            };
            assert_eq!(told, self.model.carry_out(given.name(), command), "{command:?}");
            self.tally.replayed += u64::from(matches!(told, Told::Replayed { .. }));
            self.tally.refused += u64::from(matches!(told, Told::Refused(_)));
            self.tally.commands += 1;
            self.tell(|| format!("answered: {told:?} to {command:?}"));
            format!("{told:?}").hash(&mut self.digest);
        }
        assert!(answer.position >= self.model.head, "answered before it was durable");
    }
}
