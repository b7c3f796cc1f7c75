//! Committing: groups are made durable, one after another, and then their answers are let out and
//! their events can be seen. The syncer is the thread that does so while the writer goes on.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{error, warn};

use super::{
    doorbell::Doorbell,
    figures::{self, Figures},
    stage::{Answer, Failure, Pending, Stage, places},
    writer::Input,
};
use crate::log::{AppendError, LogWriter};

/// After so long without a group the newest one is witnessed: it bounds how long the end of the
/// log is such that a torn write and later damage look alike.
const IDLE: Duration = Duration::from_millis(100);
/// How often room for a group is looked for while there is none.
const ROOM_RETRY: Duration = Duration::from_millis(250);

/// Whether commands can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStatus {
    /// They can.
    Serving,
    /// The log has no room; they can again once there is some.
    NoRoom,
    /// The log or the store has failed; only a restart helps.
    Latched,
    /// The log is damaged; it is open for reading up to the damage.
    Damaged,
    /// The store has stopped.
    Stopped,
}

impl StoreStatus {
    /// What it means, for a log that has not failed, whether it has room. Tells if it has none.
    pub(crate) fn of_room(has_room: bool) -> Self {
        if has_room {
            return Self::Serving;
        }
        warn!("the log has no room: commands are refused until there is some");
        Self::NoRoom
    }
}

/// What became of a group, on its way into the runtime. All of it travels together, so that the
/// runtime is woken once.
pub(crate) struct Settled {
    /// How far the log is durable now; unknown when the group could not be committed.
    pub(crate) durable: Option<u64>,
    pub(crate) replies: Vec<Reply>,
}

/// An answer, and where it is to go.
pub(crate) type Reply = (oneshot::Sender<Result<Answer, Failure>>, Result<Answer, Failure>);

/// What the syncer tells, and whom.
pub(crate) struct Outlets {
    pub(crate) settled: mpsc::Sender<Settled>,
    pub(crate) status: watch::Sender<StoreStatus>,
    pub(crate) has_room: AtomicBool,
    pub(crate) permits: Arc<Semaphore>,
    /// Wakes the follower of the log; full means that it is awake already.
    pub(crate) follower: SyncSender<()>,
    pub(crate) mailbox: mpsc::WeakSender<Input>,
    pub(crate) doorbell: Arc<Doorbell>,
    /// Set when the store is to stop: then nobody waits for room any more.
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) figures: Arc<Figures>,
}

/// Makes groups durable and shows them, on the thread that asks: the syncer's, and for a small
/// group the writer's own.
pub(crate) struct Committer {
    log: Mutex<Box<dyn LogWriter>>,
    outlets: Outlets,
    /// How far the log is durable.
    position: AtomicU64,
    /// Whether a group was committed since the syncer looked last.
    active: AtomicBool,
}

impl Committer {
    /// For a log that is durable up to `position`.
    pub(crate) fn new(log: Box<dyn LogWriter>, position: u64, outlets: Outlets) -> Self {
        let (position, active) = (AtomicU64::new(position), AtomicBool::new(false));
        Self { log: Mutex::new(log), outlets, position, active }
    }

    pub(crate) fn outlets(&self) -> &Outlets {
        &self.outlets
    }

    /// Commits a group when there is room for it, and waits till then. Says whether the log is
    /// latched: no later group may follow, since the state that it was decided on is not there.
    pub(crate) fn commit(&self, stage: &mut Stage) -> bool {
        loop {
            if let Some(latched) = self.try_commit(stage) {
                return latched;
            }
            if self.outlets.stopping.load(Ordering::Acquire) {
                return self.finish(stage, Err(Failure::Stopping));
            }
            self.outlets.tell_room(false);
            // The writer is to refuse what comes, however little.
            self.outlets.doorbell.ring();
            thread::sleep(ROOM_RETRY);
        }
    }

    /// The same without waiting for room: `None` when there is none, and then the group is as it
    /// was.
    pub(crate) fn try_commit(&self, stage: &mut Stage) -> Option<bool> {
        match self.append(stage) {
            Ok(position) => Some(self.finish(stage, Ok(position))),
            Err(AppendError::Full) => None,
            Err(failure @ (AppendError::Failed(_) | AppendError::Latched)) => {
                self.latch(&failure);
                Some(self.finish(stage, Err(Failure::Latched)))
            }
        }
    }

    fn append(&self, stage: &Stage) -> Result<u64, AppendError> {
        if stage.group.is_empty() {
            return Ok(self.position.load(Ordering::Acquire));
        }
        let begun = Instant::now();
        let head = self.log()?.append(&stage.group)?;
        self.outlets.figures.append_nanos.record(figures::nanos(begun.elapsed()));
        self.position.store(head.position, Ordering::Release);
        Ok(head.position)
    }

    /// Gives the answers of a group.
    fn finish(&self, stage: &mut Stage, result: Result<u64, Failure>) -> bool {
        self.active.store(true, Ordering::Release);
        self.outlets.answer(std::mem::take(&mut stage.pending), result);
        let _awake_already = self.outlets.follower.try_send(());
        self.look_for_room();
        result.is_err()
    }

    /// Notes that the newest group is durable, if there was no other one since the last call. Says
    /// whether the log is latched.
    pub(crate) fn witness_if_idle(&self) -> bool {
        if self.active.swap(false, Ordering::AcqRel) {
            return false;
        }
        let result = self.log().and_then(|mut log| log.witness());
        self.look_for_room();
        self.latches(result)
    }

    /// Closes the log.
    pub(crate) fn close(&self) {
        let result = self.log().and_then(|mut log| log.close());
        if self.latches(result) {
            return;
        }
        self.outlets.status.send_if_modified(|status| {
            let served = *status != StoreStatus::Latched;
            if served {
                *status = StoreStatus::Stopped;
            }
            served
        });
    }

    fn look_for_room(&self) {
        if let Ok(mut log) = self.log() {
            self.outlets.tell_room(log.has_room());
        }
    }

    /// The log. Who panicked while holding it has left it in an unknown state.
    fn log(&self) -> Result<MutexGuard<'_, Box<dyn LogWriter>>, AppendError> {
        self.log.lock().map_err(|_| AppendError::Latched)
    }

    fn latches(&self, result: Result<(), AppendError>) -> bool {
        match result {
            Err(failure @ AppendError::Failed(_)) => {
                self.latch(&failure);
                true
            }
            Ok(()) | Err(AppendError::Latched | AppendError::Full) => false,
        }
    }

    fn latch(&self, failure: &AppendError) {
        if self.outlets.status.send_replace(StoreStatus::Latched) != StoreStatus::Latched {
            error!(%failure, "the log is latched: commands are refused until a restart");
        }
    }
}

/// Commits groups until the writer is gone, then closes the log.
pub(crate) fn run(committer: &Committer, groups: &Receiver<Stage>) {
    loop {
        match groups.recv_timeout(IDLE) {
            Ok(mut stage) => {
                let latched = committer.commit(&mut stage);
                committer.outlets.wake_writer(latched);
            }
            Err(RecvTimeoutError::Timeout) => {
                if committer.witness_if_idle() {
                    committer.outlets.wake_writer(true);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    committer.close();
}

impl Outlets {
    /// Lets the answers of a group out, and its places in the mailbox go.
    pub(crate) fn answer(&self, pending: Vec<Pending>, result: Result<u64, Failure>) {
        let freed = pending.iter().map(|pending| places(&pending.commands)).sum();
        let commands: usize = pending.iter().map(|pending| pending.commands.len()).sum();
        if result.is_ok() && commands > 0 {
            self.figures.group_commands.record(u64::try_from(commands).unwrap_or(u64::MAX));
        }
        let replies = pending.into_iter().map(|Pending { commands, outcomes, reply }| {
            (reply, result.map(|position| Answer { position, commands, outcomes }))
        });
        let settled = Settled { durable: result.ok(), replies: replies.collect() };
        let _only_when_the_runtime_is_gone = self.settled.try_send(settled);
        self.permits.add_permits(freed);
    }

    /// Says that no group is on its way any more.
    pub(crate) fn wake_writer(&self, latched: bool) {
        if let Some(mailbox) = self.mailbox.upgrade() {
            let _only_when_the_writer_is_gone = mailbox.try_send(Input::Synced { latched });
            self.doorbell.ring();
        }
    }

    fn tell_room(&self, has_room: bool) {
        // A log that has failed has no room either, and that is not the reason.
        if *self.status.borrow() == StoreStatus::Latched {
            return;
        }
        if self.has_room.swap(has_room, Ordering::AcqRel) == has_room {
            return;
        }
        let status = StoreStatus::of_room(has_room);
        if has_room {
            warn!("the log has room again");
        }
        self.status.send_if_modified(|current| {
            let changes = *current != StoreStatus::Latched && *current != status;
            if changes {
                *current = status;
            }
            changes
        });
    }
}
