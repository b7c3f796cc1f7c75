//! The syncer: the thread that makes groups durable, one after another, and then lets their
//! answers out and their events be seen.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, RecvTimeoutError, SyncSender},
};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{error, warn};

use super::{
    actor::Input,
    doorbell::Doorbell,
    stage::{Answer, Failure, Pending, Stage},
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

/// Replies on their way into the runtime: those of one group travel together, so that the
/// runtime is woken once for all of them.
pub(super) type Replies = Vec<(oneshot::Sender<Result<Answer, Failure>>, Result<Answer, Failure>)>;

/// What the syncer tells, and whom.
pub(super) struct Outlets {
    pub(super) replies: mpsc::Sender<Replies>,
    pub(super) durable: watch::Sender<u64>,
    pub(super) status: watch::Sender<StoreStatus>,
    pub(super) has_room: Arc<AtomicBool>,
    pub(super) permits: Arc<Semaphore>,
    /// Wakes the follower of the log; full means that it is awake already.
    pub(super) follower: SyncSender<()>,
    pub(super) mailbox: mpsc::WeakSender<Input>,
    pub(super) doorbell: Arc<Doorbell>,
    /// Set when the store is to stop: then nobody waits for room any more.
    pub(super) stopping: Arc<AtomicBool>,
}

/// Syncs groups until the writer is gone, then closes the log.
pub(super) fn run(mut log: Box<dyn LogWriter>, groups: &Receiver<Stage>, outlets: &Outlets) {
    loop {
        match groups.recv_timeout(IDLE) {
            Ok(stage) => {
                let result = append(&mut *log, &stage, outlets);
                let latched = result.is_err();
                outlets.answer(stage.pending, result);
                outlets.wake_writer(latched);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(failure @ AppendError::Failed(_)) = log.witness() {
                    latch(outlets, &failure);
                    outlets.wake_writer(true);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
        outlets.tell_room(log.has_room());
    }
    if let Err(failure @ AppendError::Failed(_)) = log.close() {
        latch(outlets, &failure);
    }
    outlets.status.send_if_modified(|status| {
        let served = *status != StoreStatus::Latched;
        if served {
            *status = StoreStatus::Stopped;
        }
        served
    });
}

/// Makes a group durable and shows it, when there is room for it. Gives how far the log is durable
/// then. After an error no later group may follow: the state that it was decided on is not there.
fn append(log: &mut dyn LogWriter, stage: &Stage, outlets: &Outlets) -> Result<u64, Failure> {
    if stage.group.is_empty() {
        return Ok(*outlets.durable.borrow());
    }
    loop {
        match log.append(&stage.group) {
            Ok(head) => {
                outlets.durable.send_replace(head.position);
                let _awake_already = outlets.follower.try_send(());
                return Ok(head.position);
            }
            Err(AppendError::Full) if outlets.stopping.load(Ordering::Acquire) => {
                return Err(Failure::Stopping);
            }
            Err(AppendError::Full) => {
                outlets.tell_room(false);
                std::thread::sleep(ROOM_RETRY);
            }
            Err(failure @ (AppendError::Failed(_) | AppendError::Latched)) => {
                latch(outlets, &failure);
                return Err(Failure::Latched);
            }
        }
    }
}

fn latch(outlets: &Outlets, failure: &AppendError) {
    if outlets.status.send_replace(StoreStatus::Latched) != StoreStatus::Latched {
        error!(%failure, "the log is latched: commands are refused until a restart");
    }
}

impl Outlets {
    /// Lets the answers of a group out, and its places in the mailbox go.
    pub(super) fn answer(&self, pending: Vec<Pending>, result: Result<u64, Failure>) {
        let freed = pending.iter().map(|pending| pending.commands.len()).sum();
        let replies = pending.into_iter().map(|Pending { commands, outcomes, reply }| {
            (reply, result.map(|position| Answer { position, commands, outcomes }))
        });
        let _only_when_the_runtime_is_gone = self.replies.try_send(replies.collect());
        self.permits.add_permits(freed);
    }

    fn wake_writer(&self, latched: bool) {
        if let Some(mailbox) = self.mailbox.upgrade() {
            let _only_when_the_writer_is_gone = mailbox.try_send(Input::Synced { latched });
            self.doorbell.ring();
        }
    }

    fn tell_room(&self, has_room: bool) {
        if self.has_room.swap(has_room, Ordering::AcqRel) == has_room {
            return;
        }
        let status = if has_room { StoreStatus::Serving } else { StoreStatus::NoRoom };
        if has_room {
            warn!("the log has room again");
        } else {
            warn!("the log has no room: commands are refused until there is some");
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
