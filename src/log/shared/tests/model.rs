//! A model of the shared medium: in memory, on a clock that stands still until it is moved, and
//! with an answer that is lost now and then.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::log::{
    Block, ChainHash, Head, LogId,
    guard::lock,
    shared::{
        Appended, CheckpointId, Durable, Keeper, Kept, Lease, Members, Monotonic, NodeId, Read,
        Source, Store, StoreError, Stored, Tip, Vault,
    },
};

pub(super) const TIME: Duration = Duration::from_secs(2);

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// None: it is carried out and answered.
    None,
    /// It does not arrive.
    Lost,
    /// It is carried out, and the answer is lost.
    Unanswered,
    /// It is carried out later, when [`Model::deliver`] says so, and has no answer.
    Late,
    /// There is no room for it.
    NoRoom,
}

/// The medium. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Model(Arc<Mutex<Medium>>);

struct Medium {
    log_id: LogId,
    now: Duration,
    tip: Tip,
    blocks: Vec<Stored>,
    nodes: BTreeMap<NodeId, Duration>,
    owner: Option<NodeId>,
    claims: u64,
    faults: VecDeque<Fault>,
    late: Vec<Append>,
    next_id: u8,
    /// How many blocks are read until it is read anew, if that is another server than the one that
    /// is written.
    left_behind: Option<usize>,
    /// How many reads fail from now on.
    failing_reads: usize,
    checkpoints: Vec<Stowed>,
}

/// A checkpoint, finished or not.
struct Stowed {
    kept: Kept,
    is_finished: bool,
    parts: BTreeMap<u32, Vec<u8>>,
}

#[derive(Clone)]
struct Append {
    epoch: u64,
    before: u64,
    blocks: Vec<Stored>,
    after: Head,
}

impl Medium {
    fn append(&mut self, append: &Append) -> Appended {
        if (append.epoch, append.before) != (self.tip.epoch, self.tip.head.position) {
            return Appended::Doubtful;
        }
        self.blocks.extend(append.blocks.iter().cloned());
        self.tip.head = append.after;
        Appended::Durable
    }

    /// Whether the log has a place.
    fn has(&self, head: &Head) -> bool {
        let ends = |block: &Stored| (block.last_position, block.hash) == (head.position, head.hash);
        self.blocks.iter().any(ends)
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|expires| *expires > self.now)
    }
}

impl Model {
    pub(crate) fn new(log_id: LogId) -> Self {
        let head = Head::start(&log_id);
        Self(Arc::new(Mutex::new(Medium {
            log_id,
            now: Duration::ZERO,
            tip: Tip { epoch: 0, head },
            blocks: Vec::new(),
            nodes: BTreeMap::new(),
            owner: None,
            claims: 0,
            faults: VecDeque::new(),
            late: Vec::new(),
            next_id: 0,
            left_behind: None,
            failing_reads: 0,
            checkpoints: Vec::new(),
        })))
    }

    /// The next calls to the store meet these.
    pub(super) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.0).faults.extend(faults);
    }

    /// After so many calls that are carried out, one meets this.
    pub(super) fn fail_after(&self, count: usize, fault: Fault) {
        let faults = std::iter::repeat_n(Fault::None, count).chain([fault]);
        lock(&self.0).faults.extend(faults);
    }

    /// Gives whether any was left.
    pub(super) fn forget_faults(&self) -> bool {
        let mut medium = lock(&self.0);
        let faults = &mut medium.faults;
        let is_left = !faults.is_empty();
        faults.clear();
        is_left
    }

    /// Carries out what was late.
    pub(super) fn deliver(&self) {
        let mut medium = lock(&self.0);
        for append in std::mem::take(&mut medium.late) {
            let _nobody_hears_it = medium.append(&append);
        }
    }

    pub(super) fn pass(&self, time: Duration) {
        lock(&self.0).now += time;
    }

    pub(super) fn tip(&self) -> Tip {
        lock(&self.0).tip
    }

    pub(super) fn damage(&self, index: usize) {
        lock(&self.0).blocks[index].payload[5] ^= 1;
    }

    /// How many checkpoints there are, finished or not.
    pub(super) fn checkpoint_count(&self) -> usize {
        lock(&self.0).checkpoints.len()
    }

    /// The parts of the newest checkpoint.
    pub(super) fn parts(&self) -> BTreeMap<u32, Vec<u8>> {
        lock(&self.0).checkpoints.last().unwrap().parts.clone()
    }

    /// Changes the parts of the newest checkpoint.
    pub(super) fn change_parts(&self, change: impl FnOnce(&mut BTreeMap<u32, Vec<u8>>)) {
        change(&mut lock(&self.0).checkpoints.last_mut().unwrap().parts);
    }

    /// Lets who reads it read a server that nothing is written to any more, after so many blocks.
    pub(super) fn leave_behind(&self, count: usize) {
        lock(&self.0).left_behind = Some(count);
    }

    /// So many reads fail from now on.
    pub(crate) fn fail_reads(&self, count: usize) {
        lock(&self.0).failing_reads = count;
    }

    /// Loses the newest block, which was not durable.
    pub(super) fn fail_over(&self) {
        let mut medium = lock(&self.0);
        medium.blocks.pop().unwrap();
        let last = medium.blocks.last().unwrap();
        (medium.tip.head.position, medium.tip.head.hash) = (last.last_position, last.hash);
    }

    /// A process that takes part: its lease, and what keeps it.
    pub(super) fn member(&self) -> (Arc<Lease>, Keeper) {
        let clock = self.clone();
        self.member_by(Arc::new(move || lock(&clock.0).now))
    }

    /// The same, by a clock of its own.
    pub(super) fn member_by(&self, now: Monotonic) -> (Arc<Lease>, Keeper) {
        let (ids, lease) = (self.clone(), Lease::new(now));
        let new_id = move || {
            let mut medium = lock(&ids.0);
            medium.next_id += 1;
            [medium.next_id; 16]
        };
        let members = Box::new(self.clone());
        (Arc::clone(&lease), Keeper::new(members, lease, TIME, Box::new(new_id)))
    }

    fn call<T>(&self, run: impl FnOnce(&mut Medium) -> T) -> Result<T, StoreError> {
        let mut medium = lock(&self.0);
        match medium.faults.pop_front() {
            None | Some(Fault::None) => Ok(run(&mut medium)),
            Some(Fault::Lost | Fault::Late) => Err(StoreError::Unreachable("lost".into())),
            Some(Fault::Unanswered) => {
                let _lost = run(&mut medium);
                Err(StoreError::Unreachable("unanswered".into()))
            }
            Some(Fault::NoRoom) => Err(StoreError::NoRoom),
        }
    }
}

impl Store for Model {
    fn append(
        &mut self,
        epoch: u64,
        before: &Head,
        blocks: &[(Block, ChainHash)],
        after: &Head,
    ) -> Result<Appended, StoreError> {
        let blocks = blocks.iter().map(|(block, hash)| Stored {
            first_position: block.first_position(),
            last_position: block.last_position(),
            format: block.format(),
            hash: *hash,
            payload: block.payload().to_vec(),
        });
        let append =
            Append { epoch, before: before.position, blocks: blocks.collect(), after: *after };
        if lock(&self.0).faults.front() == Some(&Fault::Late) {
            lock(&self.0).late.push(append.clone());
        }
        self.call(|medium| medium.append(&append))
    }

    fn touch(&mut self) -> Result<Tip, StoreError> {
        self.call(|medium| medium.tip)
    }

    fn claim(&mut self, node: NodeId) -> Result<Option<u64>, StoreError> {
        self.call(|medium| {
            let is_taken =
                medium.owner.is_some_and(|owner| owner != node && medium.is_alive(owner));
            (!is_taken).then(|| {
                medium.owner = Some(node);
                medium.claims += 1;
                medium.claims
            })
        })
    }

    fn owner(&mut self) -> Result<Option<String>, StoreError> {
        self.call(|medium| medium.owner.filter(|owner| medium.is_alive(*owner)))
            .map(|owner| owner.map(|owner| format!("{owner:?}")))
    }

    fn seal(&mut self, epoch: u64) -> Result<Option<Head>, StoreError> {
        self.call(|medium| {
            (medium.tip.epoch < epoch).then(|| {
                medium.tip.epoch = epoch;
                medium.tip.head
            })
        })
    }

    fn confirm(&mut self, node: NodeId, position: u64) -> Result<Option<Durable>, StoreError> {
        self.call(|medium| {
            let found = medium.blocks.iter().find(|block| block.last_position == position);
            let chain = found.map(|block| block.hash);
            let durable = Durable { chain, position: medium.tip.head.position };
            medium.is_alive(node).then_some(durable)
        })
    }

    fn release(&mut self, node: NodeId, epoch: u64) -> Result<(), StoreError> {
        self.call(|medium| {
            if medium.owner == Some(node) && medium.claims == epoch {
                medium.owner = None;
            }
        })
    }
}

/// What keeps a member has no faults of its own: a test lets it step or not.
impl Members for Model {
    fn join(&mut self, node: NodeId, time: Duration) -> Result<(), StoreError> {
        let mut medium = lock(&self.0);
        let expires = medium.now + time;
        medium.nodes.insert(node, expires);
        Ok(())
    }

    fn renew(&mut self, node: NodeId, time: Duration) -> Result<bool, StoreError> {
        let mut medium = lock(&self.0);
        let (is_alive, expires) = (medium.is_alive(node), medium.now + time);
        if is_alive {
            medium.nodes.insert(node, expires);
        }
        Ok(is_alive)
    }

    fn leave(&mut self, node: NodeId) -> Result<(), StoreError> {
        lock(&self.0).nodes.remove(&node);
        Ok(())
    }
}

impl Source for Model {
    fn log_id(&self) -> LogId {
        lock(&self.0).log_id
    }

    fn engine(&self) -> &'static str {
        "model"
    }

    fn read(&self, position: u64, until: u64, count: u32) -> Result<Read, StoreError> {
        let mut medium = lock(&self.0);
        if let Some(rest) = medium.failing_reads.checked_sub(1) {
            medium.failing_reads = rest;
            return Err(StoreError::Unreachable("it fails".into()));
        }
        let count_there = medium.left_behind.unwrap_or(usize::MAX).min(medium.blocks.len());
        let there = &medium.blocks[..count_there];
        let first = there.partition_point(|block| block.last_position < position);
        let before = first.checked_sub(1).map(|index| &there[index]);
        let before = before.map(|block| (block.last_position, block.hash));
        let rest = there[first..].iter();
        let blocks = rest.take(count as usize).take_while(|block| block.last_position <= until);
        Ok(Read { before, blocks: blocks.cloned().collect() })
    }

    fn begin_anew(&self) {
        lock(&self.0).left_behind = None;
    }
}

impl Vault for Model {
    fn begin(&self, format: u32, head: &Head) -> Result<CheckpointId, StoreError> {
        self.call(|medium| {
            medium.next_id += 1;
            let kept = Kept { id: [medium.next_id; 16], format, head: *head };
            medium.checkpoints.push(Stowed { kept, is_finished: false, parts: BTreeMap::new() });
            kept.id
        })
    }

    fn put(&self, id: CheckpointId, number: u32, part: &[u8]) -> Result<(), StoreError> {
        self.call(|medium| {
            let stowed = medium.checkpoints.iter_mut().find(|it| it.kept.id == id);
            stowed.unwrap().parts.insert(number, part.to_vec());
        })
    }

    fn finish(&self, id: CheckpointId) -> Result<bool, StoreError> {
        self.call(|medium| {
            let found = medium.checkpoints.iter_mut().find(|it| it.kept.id == id);
            found.map(|stowed| stowed.is_finished = true).is_some()
        })
    }

    fn useless(&self, id: CheckpointId) -> Result<Vec<CheckpointId>, StoreError> {
        self.call(|medium| {
            let all = &medium.checkpoints;
            let position = all.iter().find(|it| it.kept.id == id).unwrap().kept.head.position;
            let others = || all.iter().filter(|it| it.kept.id != id);
            let is_older = |it: &&Stowed| it.kept.head.position <= position;
            let counts = |it: &&Stowed| it.is_finished && medium.has(&it.kept.head);
            let before = others().filter(is_older).filter(counts);
            let before = before.max_by_key(|it| it.kept.head.position).map(|it| it.kept.id);
            let is_useless =
                |it: &&Stowed| is_older(it) || it.is_finished && !medium.has(&it.kept.head);
            let useless = others().filter(is_useless).map(|it| it.kept.id);
            useless.filter(|id| Some(*id) != before).collect()
        })
    }

    fn remove(&self, id: CheckpointId) -> Result<(), StoreError> {
        self.call(|medium| medium.checkpoints.retain(|it| it.kept.id != id))
    }

    fn newest(&self) -> Result<Option<Kept>, StoreError> {
        self.call(|medium| {
            let finished = medium.checkpoints.iter().filter(|it| it.is_finished);
            let kept = finished.map(|it| it.kept).filter(|kept| medium.has(&kept.head));
            kept.max_by_key(|kept| kept.head.position)
        })
    }

    fn part(&self, id: CheckpointId, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.call(|medium| {
            let stowed = medium.checkpoints.iter().find(|it| it.kept.id == id);
            stowed.and_then(|it| it.parts.get(&number).cloned())
        })
    }
}
