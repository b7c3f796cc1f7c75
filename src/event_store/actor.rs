//! The actor: the handle that takes submissions, the mailbox, and the writer's thread.
//!
//! ```text
//! handle ─ mailbox ─▶ writer: decides into the stage ─▶ syncer: append, sync ─▶ replies, readers
//!                        ▲                                  │
//!                        └────────── synced ────────────────┘
//! ```
//! One group is on its way to the disk at a time. While it is, the writer decides what has come
//! in since into the next one: groups grow by themselves when the disk or the traffic wants it.
//! A small group goes there from the writer's own thread.

use std::{
    io,
    sync::{Arc, mpsc::SyncSender},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch},
    task::yield_now,
};

use super::{
    committer::{self, Committer, Outlets, Settled, StoreStatus},
    doorbell::Doorbell,
    figures::Figures,
    stage::{Answer, Detail, Failure, Stage, Submission, places},
    state::State,
    turns::{
        self,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking, thread,
    },
    writer::{Input, SMALL_COMMANDS_MAX, Writer},
};
use crate::{
    domain::{Command, Principal},
    log::LogWriter,
    ops::Clock,
};

/// How many commands may be on their way at once, in the mailbox or in a group: eight full
/// batches. It bounds the memory of overload, and at full speed the wait stays below a second.
pub const MAILBOX_COMMANDS_MAX: usize = 8 * 8_192;
/// Places in the mailbox beside those of the commands: for the syncer's word and for stopping.
const MAILBOX_SPARE: usize = 8;

/// How many replies are handed out at least before others have their turn. All at once, the
/// clients would idle until the last answer is written, and then the server until the last client
/// has called again.
const REPLIES_AT_ONCE: usize = 16;
/// In how many parts the replies of a large group are handed out: each costs a write to a client.
const REPLY_PARTS: usize = 4;

/// The handle of the event store. Cheap to clone.
#[derive(Clone)]
pub struct EventStore {
    mailbox: mpsc::Sender<Input>,
    doorbell: Arc<Doorbell>,
    permits: Arc<Semaphore>,
    status: watch::Receiver<StoreStatus>,
    stopping: Arc<AtomicBool>,
    figures: Arc<Figures>,
}

/// Places in the mailbox, until they are dropped.
#[derive(Debug)]
pub struct Places(OwnedSemaphorePermit);

/// Stops the event store.
pub struct Stopper {
    mailbox: mpsc::Sender<Input>,
    doorbell: Arc<Doorbell>,
    stopping: Arc<AtomicBool>,
    writer: thread::JoinHandle<()>,
    syncer: thread::JoinHandle<()>,
}

/// What the store is started from.
pub struct Parts {
    /// The state that the whole log adds up to.
    pub state: State,
    /// The end of the log that appends; without it the store refuses all commands.
    pub log: Option<Box<dyn LogWriter>>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Wakes whoever follows the log, after each group.
    pub follower: SyncSender<()>,
    /// Is told how far the log is durable, before the answers that rest on it.
    pub durable: watch::Sender<u64>,
}

/// Starts the writer and the syncer. The handle gives answers on the runtime that this is called
/// in.
///
/// # Errors
/// When the system gives no thread.
pub fn start(parts: Parts) -> io::Result<(EventStore, Option<Stopper>)> {
    start_with(parts, SMALL_COMMANDS_MAX)
}

/// As [`start`], where groups of more than so many commands are left to the syncer.
pub(super) fn start_with(
    parts: Parts,
    small_commands_max: usize,
) -> io::Result<(EventStore, Option<Stopper>)> {
    let Parts { state, log, clock, follower, durable } = parts;
    let permits = Arc::new(Semaphore::new(MAILBOX_COMMANDS_MAX));
    let (mailbox, inputs) = mpsc::channel(MAILBOX_COMMANDS_MAX.saturating_add(MAILBOX_SPARE));
    let figures = Arc::new(Figures::default());
    figures.decided.set(*durable.borrow());
    let Some(log) = log else {
        let (_, status) = watch::channel(StoreStatus::Damaged);
        let (doorbell, stopping) = (Arc::default(), Arc::default());
        return Ok((EventStore { mailbox, doorbell, permits, status, stopping, figures }, None));
    };
    let (status_sender, status) = watch::channel(StoreStatus::Serving);
    let (settled, outbox) = mpsc::channel(MAILBOX_COMMANDS_MAX.saturating_add(MAILBOX_SPARE));
    let position = *durable.borrow();
    turns::spawn(deliver(outbox, durable));
    let (group_sender, groups) = blocking::sync_channel(1);
    let (doorbell, stopping) = (Arc::new(Doorbell::default()), Arc::new(AtomicBool::new(false)));
    let outlets = Outlets {
        settled,
        status: status_sender,
        permits: Arc::clone(&permits),
        follower,
        mailbox: mailbox.downgrade(),
        doorbell: Arc::clone(&doorbell),
        stopping: Arc::clone(&stopping),
        figures: Arc::clone(&figures),
    };
    let committer = Arc::new(Committer::new(log, position, outlets));
    let shared = Arc::clone(&committer);
    let syncer = thread::Builder::new().name("daybook-syncer".into()).spawn(move || {
        let _latch = LatchOnPanic(shared.outlets());
        committer::run(&shared, &groups);
    })?;
    let writer = thread::Builder::new().name("daybook-writer".into()).spawn(move || {
        let outlets = committer.outlets();
        let _latch = LatchOnPanic(outlets);
        let writer = Writer::new(state, clock, Arc::clone(&committer), small_commands_max);
        write(writer, outlets, inputs, &group_sender);
    })?;
    let stopper = Stopper {
        mailbox: mailbox.clone(),
        doorbell: Arc::clone(&doorbell),
        stopping: Arc::clone(&stopping),
        writer,
        syncer,
    };
    let store = EventStore { mailbox, doorbell, permits, status, stopping, figures };
    Ok((store, Some(stopper)))
}

/// A thread that panics has found a defect: nothing may be acknowledged after it.
struct LatchOnPanic<'a>(&'a Outlets);

impl Drop for LatchOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.status.send_replace(StoreStatus::Latched);
            // Nobody gives back what the commands hold that are lost with it.
            self.0.permits.close();
            // For the writer, which waits for the syncer.
            self.0.wake_writer(true);
        }
    }
}

/// Tells how far the log is durable, and hands replies to those who wait for them, on the
/// runtime's own thread, some at a time: the first answers are on their way to their clients while
/// the others are still being written.
async fn deliver(mut outbox: mpsc::Receiver<Settled>, durable: watch::Sender<u64>) {
    while let Some(Settled { durable: position, replies }) = outbox.recv().await {
        if let Some(position) = position {
            durable.send_if_modified(|known| std::mem::replace(known, position) != position);
        }
        let at_once = (replies.len() / REPLY_PARTS).max(REPLIES_AT_ONCE);
        for (number, (reply, result)) in (1_usize..).zip(replies) {
            let _caller_may_have_left = reply.send(result);
            if number.is_multiple_of(at_once) {
                yield_now().await;
            }
        }
    }
}

impl EventStore {
    /// Carries out commands of a principal in order, in one group; answers when it is durable.
    /// What they record says who gave them; without a principal, nothing of it.
    ///
    /// What was submitted is carried out also when the caller does not wait for the answer.
    ///
    /// # Errors
    /// [`Failure`]; at once with [`Failure::Overloaded`] when the mailbox is full.
    pub async fn execute(
        &self,
        principal: Option<Principal>,
        commands: Vec<Command>,
        detail: Detail,
    ) -> Result<Answer, Failure> {
        self.execute_from(i64::MIN, principal, commands, detail).await
    }

    async fn execute_from(
        &self,
        not_before_micros: i64,
        principal: Option<Principal>,
        commands: Vec<Command>,
        detail: Detail,
    ) -> Result<Answer, Failure> {
        self.permits
            .try_acquire_many(weight(commands.len()))
            .map_err(|error| self.no_permits(&error))?
            .forget();
        let answer = self.submit(not_before_micros, principal, commands, detail)?;
        answer.await.unwrap_or_else(|_| Err(self.failure()))
    }

    /// Places in the mailbox for so many commands, which are still to be made of what was received.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] when the mailbox has not so many.
    pub fn reserve(&self, commands: usize) -> Result<Places, Failure> {
        let permits = Arc::clone(&self.permits).try_acquire_many_owned(weight(commands));
        Ok(Places(permits.map_err(|error| self.no_permits(&error))?))
    }

    /// As [`EventStore::execute`], for commands that there are places for; of which there are
    /// enough.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn execute_in(
        &self,
        Places(mut places): Places,
        principal: Option<Principal>,
        commands: Vec<Command>,
        detail: Detail,
    ) -> Result<Answer, Failure> {
        let needed = usize::try_from(weight(commands.len())).unwrap_or(usize::MAX);
        places.split(needed).ok_or(Failure::Overloaded)?.forget();
        // The others are free at once.
        drop(places);
        let answer = self.submit(i64::MIN, principal, commands, detail)?;
        answer.await.unwrap_or_else(|_| Err(self.failure()))
    }

    /// Waits until nothing can be recorded with a time up to `time_micros` any more, which must not
    /// be later than the clock and the newest event.
    ///
    /// # Errors
    /// [`Failure`] when that may still change, or is unknown: of a log that has failed, a restart
    /// may show more, and of one that is damaged, a backup.
    pub async fn settle(&self, time_micros: i64) -> Result<(), Failure> {
        let after = time_micros.saturating_add(1);
        match self.execute_from(after, None, Vec::new(), Detail::Exceptions).await {
            Ok(_) | Err(Failure::Stopping) => Ok(()),
            Err(
                failure @ (Failure::Latched
                | Failure::Damaged
                | Failure::Overloaded
                | Failure::NoRoom
                | Failure::Unreachable),
            ) => Err(failure),
        }
    }

    /// As [`EventStore::execute`], but waits for places in the mailbox first, and gives the
    /// answer as a future of its own: for streams, whose senders can be held back.
    ///
    /// # Errors
    /// [`Failure`] when the store takes no commands.
    pub async fn execute_patiently(
        &self,
        principal: Option<Principal>,
        commands: Vec<Command>,
        detail: Detail,
    ) -> Result<impl Future<Output = Result<Answer, Failure>> + use<>, Failure> {
        let permits = self.permits.acquire_many(weight(commands.len())).await;
        permits.map_err(|_| self.failure())?.forget();
        let answer = self.submit(i64::MIN, principal, commands, detail)?;
        let store = self.clone();
        Ok(async move { answer.await.unwrap_or_else(|_| Err(store.failure())) })
    }

    /// Whether so many commands are not refused for want of places in the mailbox now.
    #[must_use]
    pub fn takes(&self, commands: usize) -> bool {
        self.permits.is_closed() || self.permits.available_permits() >= commands
    }

    fn submit(
        &self,
        not_before_micros: i64,
        principal: Option<Principal>,
        commands: Vec<Command>,
        detail: Detail,
    ) -> Result<oneshot::Receiver<Result<Answer, Failure>>, Failure> {
        let (reply, answer) = oneshot::channel();
        let count = commands.len();
        let submission = Submission { principal, commands, not_before_micros, detail, reply };
        if self.mailbox.try_send(Input::Commands(submission)).is_err() {
            self.permits.add_permits(places(count));
            return Err(self.failure());
        }
        self.doorbell.ring_for(count);
        Ok(answer)
    }

    /// Why there are no places in the mailbox.
    fn no_permits(&self, error: &TryAcquireError) -> Failure {
        match error {
            TryAcquireError::NoPermits => Failure::Overloaded,
            TryAcquireError::Closed => self.failure(),
        }
    }

    /// Why a submission got no answer.
    fn failure(&self) -> Failure {
        let status = *self.status.borrow();
        match status {
            StoreStatus::Stopped => Failure::Stopping,
            StoreStatus::Serving | StoreStatus::NoRoom | StoreStatus::Unreachable
                if self.stopping.load(Ordering::Acquire) =>
            {
                Failure::Stopping
            }
            // A defect has ended the writer, and is about to latch the store.
            StoreStatus::Serving
            | StoreStatus::NoRoom
            | StoreStatus::Unreachable
            | StoreStatus::Latched
            | StoreStatus::Fenced => Failure::Latched,
            StoreStatus::Damaged => Failure::Damaged,
        }
    }

    /// How many commands are on their way now, of [`MAILBOX_COMMANDS_MAX`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        MAILBOX_COMMANDS_MAX.saturating_sub(self.permits.available_permits())
    }

    /// What the store has counted since it was started.
    #[must_use]
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Whether the log was found damaged when it was opened: what lies behind that is unknown.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        *self.status.borrow() == StoreStatus::Damaged
    }

    /// Whether commands can be carried out, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<StoreStatus> {
        self.status.clone()
    }
}

fn weight(commands: usize) -> u32 {
    u32::try_from(places(commands)).unwrap_or(u32::MAX)
}

impl Stopper {
    /// Carries out what is in the mailbox, syncs it, closes the log, and ends the threads. What
    /// arrives later is refused, and so is what the log has no room for. Blocks until all is
    /// durable.
    pub fn stop(self) {
        let Self { mailbox, doorbell, stopping, writer, syncer } = self;
        stopping.store(true, Ordering::Release);
        let _only_when_the_writer_is_gone = mailbox.blocking_send(Input::Stop);
        doorbell.ring();
        drop(mailbox);
        for thread in [writer, syncer] {
            let _a_panic_was_reported_by_its_hook = thread.join();
        }
    }
}

/// The writer's thread: until it is told to stop and everything before that is answered.
fn write(
    mut writer: Writer,
    outlets: &Outlets,
    mut inputs: mpsc::Receiver<Input>,
    groups: &blocking::SyncSender<Stage>,
) {
    while !writer.is_done() {
        if writer.is_waiting()
            && let Some(input) = wait(&mut inputs, outlets, writer.is_syncing())
        {
            writer.take(input);
        }
        while let Ok(input) = inputs.try_recv() {
            writer.take(input);
        }
        if let Some(stage) = writer.step()
            && let Err(blocking::SendError(stage)) = groups.send(stage)
        {
            outlets.answer(stage.pending, Err(Failure::Latched));
            writer.take(Input::Synced { latched: true });
        }
    }
    inputs.close();
    while let Ok(input) = inputs.try_recv() {
        writer.take(input);
    }
    writer.refuse_all(Failure::Stopping);
}

/// What comes in next, if something does before the bell rings. What trickles in during a sync can
/// wait; not while the group waits for room.
fn wait(inputs: &mut mpsc::Receiver<Input>, outlets: &Outlets, is_syncing: bool) -> Option<Input> {
    let can_wait = is_syncing && outlets.obstacle().is_none();
    let here = inputs.try_recv().ok();
    here.or_else(|| outlets.doorbell.sleep(can_wait, || inputs.try_recv().ok()))
}
