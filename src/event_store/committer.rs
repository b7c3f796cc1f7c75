//! Committing: groups are made durable, one after another, and then their answers are let out and
//! their events can be seen. The syncer is the thread that does so while the writer goes on.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{error, warn};

use super::{
    doorbell::Doorbell,
    figures::{self, Figures},
    stage::{Answer, Failure, Pending, Stage, places},
    turns::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Receiver,
        thread,
    },
    writer::Input,
};
use crate::log::{AppendError, LogWriter};

/// After so long without a group the newest one is witnessed: it bounds how long the end of the
/// log is such that a torn write and later damage look alike.
const IDLE: Duration = Duration::from_millis(100);
/// How often a group is tried again while the log has no room or cannot be reached.
const RETRY: Duration = Duration::from_millis(250);

/// Whether commands can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStatus {
    /// They can.
    Serving,
    /// The log has no room; they can again once there is some.
    NoRoom,
    /// The log cannot be reached, or is not certain to be this process's; they can again once it
    /// is.
    Unreachable,
    /// The log or the store has failed; only a restart helps.
    Latched,
    /// The log belongs to another process now.
    Fenced,
    /// The log is damaged; it is open for reading up to the damage.
    Damaged,
    /// The store has stopped.
    Stopped,
}

impl StoreStatus {
    /// What it means, for a log that has not failed, whether it can be reached and has room.
    pub(crate) fn of(log: &mut dyn LogWriter) -> Result<Self, AppendError> {
        Ok(match (log.owns()?, log.has_room()) {
            (true, true) => Self::Serving,
            (true, false) => Self::NoRoom,
            (false, _) => Self::Unreachable,
        })
    }

    /// Why commands are refused that could be carried out later.
    pub(crate) fn obstacle(self) -> Option<Failure> {
        match self {
            Self::NoRoom => Some(Failure::NoRoom),
            Self::Unreachable => Some(Failure::Unreachable),
            Self::Serving | Self::Latched | Self::Fenced | Self::Damaged | Self::Stopped => None,
        }
    }

    /// Whether a failure was told already.
    fn is_final(self) -> bool {
        matches!(self, Self::Latched | Self::Fenced)
    }

    /// Whether it can still become another one by itself.
    fn may_pass(self) -> bool {
        self == Self::Serving || self.obstacle().is_some()
    }

    fn tell(self) {
        match self {
            Self::Serving => warn!("commands are carried out again"),
            Self::NoRoom => {
                warn!("the log has no room: commands are refused until there is some");
            }
            Self::Unreachable => {
                warn!("the log cannot be reached: commands are refused until it can");
            }
            Self::Latched | Self::Fenced | Self::Damaged | Self::Stopped => {}
        }
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
        let committer = Self { log: Mutex::new(log), outlets, position, active };
        committer.look();
        committer
    }

    pub(crate) fn outlets(&self) -> &Outlets {
        &self.outlets
    }

    /// Commits a group when there is room for it and the log can be reached, and waits till then.
    /// Says whether the log is latched: no later group may follow, since the state that it was
    /// decided on is not there.
    pub(crate) fn commit(&self, stage: &mut Stage) -> bool {
        loop {
            let obstacle = match self.try_commit(stage) {
                Ok(latched) => return latched,
                Err(obstacle) => obstacle,
            };
            if self.outlets.stopping.load(Ordering::Acquire) {
                // What cannot be reached may have the group.
                let is_certain = obstacle == StoreStatus::NoRoom;
                let failure = if is_certain { Failure::Stopping } else { Failure::Latched };
                return self.finish(stage, Err(failure));
            }
            self.outlets.tell(obstacle);
            // The writer is to refuse what comes, however little.
            self.outlets.doorbell.ring();
            thread::sleep(RETRY);
        }
    }

    /// The same without waiting: fails with what is in the way, and then the group is as it was.
    pub(crate) fn try_commit(&self, stage: &mut Stage) -> Result<bool, StoreStatus> {
        match self.append(stage) {
            Ok(position) => Ok(self.finish(stage, Ok(position))),
            Err(AppendError::Full) => Err(StoreStatus::NoRoom),
            Err(AppendError::Unreachable(_)) => Err(StoreStatus::Unreachable),
            Err(
                failure @ (AppendError::Failed(_) | AppendError::Fenced(_) | AppendError::Latched),
            ) => {
                self.latch(&failure);
                Ok(self.finish(stage, Err(Failure::Latched)))
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
        self.look() || result.is_err()
    }

    /// Notes that the newest group is durable, if there was no other one since the last call. Says
    /// whether the log is latched.
    pub(crate) fn witness_if_idle(&self) -> bool {
        if self.active.swap(false, Ordering::AcqRel) {
            return false;
        }
        let result = self.log().and_then(|mut log| log.witness());
        self.look() || self.latches(result)
    }

    /// Closes the log.
    pub(crate) fn close(&self) {
        let result = self.log().and_then(|mut log| log.close());
        if self.latches(result) {
            return;
        }
        self.outlets.status.send_if_modified(|status| {
            let served = !status.is_final();
            if served {
                *status = StoreStatus::Stopped;
            }
            served
        });
    }

    /// Looks whether the log takes more, and tells it. Says whether it is latched.
    fn look(&self) -> bool {
        let status = self.log().and_then(|mut log| StoreStatus::of(&mut **log));
        self.latches(status.map(|status| self.outlets.tell(status)))
    }

    /// The log. Who panicked while holding it has left it in an unknown state.
    fn log(&self) -> Result<MutexGuard<'_, Box<dyn LogWriter>>, AppendError> {
        self.log.lock().map_err(|_| AppendError::Latched)
    }

    fn latches(&self, result: Result<(), AppendError>) -> bool {
        match result {
            Err(failure @ (AppendError::Failed(_) | AppendError::Fenced(_))) => {
                self.latch(&failure);
                true
            }
            Ok(())
            | Err(AppendError::Latched | AppendError::Full | AppendError::Unreachable(_)) => false,
        }
    }

    fn latch(&self, failure: &AppendError) {
        let is_fenced = matches!(failure, AppendError::Fenced(_));
        let status = if is_fenced { StoreStatus::Fenced } else { StoreStatus::Latched };
        let is_news = self.outlets.status.send_if_modified(|current| {
            let is_news = !current.is_final();
            if is_news {
                *current = status;
            }
            is_news
        });
        if is_news {
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
        let freed = pending.iter().map(|pending| places(pending.commands.len())).sum();
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

    /// Says whether the log takes more, unless it has failed.
    fn tell(&self, status: StoreStatus) {
        let is_news = self.status.send_if_modified(|current| {
            let is_news = current.may_pass() && *current != status;
            if is_news {
                *current = status;
            }
            is_news
        });
        if is_news {
            status.tell();
        }
    }

    /// Why commands are refused now that could be carried out later.
    pub(crate) fn obstacle(&self) -> Option<Failure> {
        self.status.borrow().obstacle()
    }
}
