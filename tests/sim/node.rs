//! One life of the ledger: everything between the mailbox and the disk, as the server joins it,
//! driven step by step in one thread.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering, mpsc as blocking},
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{callers::Given, disk::SimDisk};
use crate::{
    event_store::{
        Answer, Committer, Detail, Failure, History, Input, Outlets, Settled, Stage, StoreStatus,
        Submission, Writer,
    },
    log::{
        Damage,
        file::{Checkpoints, Directory, Options, SpareMaker},
    },
    ops::ManualClock,
    server::{
        ServeError,
        recovery::{Recovered, recover},
    },
    views::{Books, SaveError, Views, follow, save},
};

/// How many answers may wait to be taken.
const OUTBOX: usize = 1_024;

/// A submission that has no answer yet.
struct Waiting {
    given: Given,
    answer: oneshot::Receiver<Result<Answer, Failure>>,
}

pub(super) struct Node {
    pub(super) views: Arc<Views>,
    pub(super) history: History,
    pub(super) damage: Option<Damage>,
    pub(super) is_torn: bool,
    /// The position of the checkpoint that it came from; 0 without one.
    pub(super) checkpoint: u64,
    checkpoints: Checkpoints,
    store: Option<Store>,
}

/// The writing side. A damaged log has none.
struct Store {
    writer: Writer,
    committer: Arc<Committer>,
    outbox: mpsc::Receiver<Settled>,
    /// What the syncer has.
    group: Option<Stage>,
    preparer: SpareMaker,
    waiting: VecDeque<Waiting>,
    status: watch::Receiver<StoreStatus>,
    /// Held for the committer, which keeps a weak end.
    _mailbox: mpsc::Sender<Input>,
    durable: u64,
    /// How far it was durable before the newest group.
    durable_before: u64,
}

impl Node {
    /// Starts on what the disk holds.
    pub(super) fn start(
        disk: &SimDisk,
        options: &Options,
        window: u64,
        clock: &Arc<ManualClock>,
        small_commands_max: usize,
    ) -> Result<Self, ServeError> {
        let take = || Ok(Directory::take(disk.shared(), options)?);
        let Recovered { state, books, opened, checkpoint, was_refuted } = recover(&take, window)?;
        assert!(!was_refuted, "a checkpoint tells something else than the log");
        let position = books.position();
        let history = History::new(Arc::clone(&opened.reader));
        let views = Arc::new(Views::new(books));
        let (damage, is_torn) = (opened.damage, opened.torn.is_some());
        let store = opened.writer.zip(opened.preparer).map(|(log, preparer)| {
            let (settled, outbox) = mpsc::channel(OUTBOX);
            let (mailbox, _) = mpsc::channel(1);
            let (status_sender, status) = watch::channel(StoreStatus::Serving);
            let (follower, _) = blocking::sync_channel(1);
            let outlets = Outlets {
                settled,
                status: status_sender,
                permits: Arc::new(Semaphore::new(0)),
                follower,
                mailbox: mailbox.downgrade(),
                doorbell: Arc::default(),
                stopping: Arc::default(),
                figures: Arc::default(),
            };
            let committer = Arc::new(Committer::new(log, position, outlets));
            let writer =
                Writer::new(state, clock.clone(), Arc::clone(&committer), small_commands_max);
            Store {
                writer,
                committer,
                outbox,
                group: None,
                preparer,
                waiting: VecDeque::new(),
                status,
                _mailbox: mailbox,
                durable: position,
                durable_before: position,
            }
        });
        let checkpoints = opened.checkpoints;
        Ok(Self { views, history, damage, is_torn, checkpoint, checkpoints, store })
    }

    /// How far everything was durable before the newest group that is.
    pub(super) fn durable_before(&self) -> u64 {
        self.store.as_ref().map_or(0, |store| store.durable_before)
    }

    pub(super) fn status(&self) -> StoreStatus {
        self.store.as_ref().map_or(StoreStatus::Damaged, |store| *store.status.borrow())
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.store.as_ref().map_or(0, |store| store.waiting.len())
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.store.as_ref().is_some_and(|store| !store.waiting.is_empty())
    }

    /// Puts commands into the mailbox.
    pub(super) fn submit(&mut self, given: Given) {
        let Some(store) = &mut self.store else { return };
        let (reply, answer) = oneshot::channel();
        let Given { principal, commands } = given.clone();
        let (not_before_micros, detail) = (i64::MIN, Detail::All);
        let submission = Submission { principal, commands, not_before_micros, detail, reply };
        store.writer.take(Input::Commands(submission));
        store.waiting.push_back(Waiting { given, answer });
    }

    /// The writer takes its turn.
    pub(super) fn decide(&mut self) {
        let Some(store) = &mut self.store else { return };
        if let Some(group) = store.writer.step() {
            assert!(store.group.replace(group).is_none(), "two groups on their way at once");
        }
    }

    /// The syncer takes its turn.
    pub(super) fn sync(&mut self) {
        let Some(store) = &mut self.store else { return };
        let Some(mut group) = store.group.take() else {
            if store.committer.witness_if_idle() {
                store.writer.take(Input::Synced { latched: true });
            }
            return;
        };
        let is_stopping = store.committer.outlets().stopping.load(Ordering::Acquire);
        let committed = if is_stopping {
            Ok(store.committer.commit(&mut group))
        } else {
            store.committer.try_commit(&mut group)
        };
        match committed {
            Ok(latched) => store.writer.take(Input::Synced { latched }),
            Err(_) => store.group = Some(group),
        }
    }

    /// The next submission that has its answer, in the order in which they came in.
    pub(super) fn answered(&mut self) -> Option<(Given, Result<Answer, Failure>)> {
        let store = self.store.as_mut()?;
        while let Ok(Settled { durable, replies }) = store.outbox.try_recv() {
            if let Some(position) = durable.filter(|position| *position != store.durable) {
                store.durable_before = std::mem::replace(&mut store.durable, position);
            }
            for (reply, result) in replies {
                let _the_test_keeps_the_other_end = reply.send(result);
            }
        }
        let result = store.waiting.front_mut()?.answer.try_recv().ok()?;
        let waiting = store.waiting.pop_front()?;
        Some((waiting.given, result))
    }

    /// Those who would have got an answer, had the process lived on.
    pub(super) fn unanswered(&mut self) -> Vec<Given> {
        let Some(store) = &mut self.store else { return Vec::new() };
        store.waiting.drain(..).map(|waiting| waiting.given).collect()
    }

    /// The views take their turn.
    pub(super) fn follow(&self) {
        let (wake, wakes) = blocking::sync_channel(1);
        wake.send(()).unwrap();
        drop(wake);
        follow(&self.history, &self.views, &wakes);
    }

    /// Makes the next segment, if one is wanted.
    pub(super) fn prepare(&mut self) {
        if let Some(store) = &mut self.store {
            let _no_room_is_said_elsewhere = store.preparer.prepare();
        }
    }

    /// Makes a checkpoint; `meanwhile` happens between its pieces.
    pub(super) fn save(&mut self, meanwhile: &mut dyn FnMut(&mut Self)) -> Result<u64, SaveError> {
        let (views, checkpoints) = (Arc::clone(&self.views), self.checkpoints.clone());
        save(&views, &checkpoints, &mut |_| {
            meanwhile(self);
            self.follow();
            true
        })
    }

    /// Stops in order: what has come in is carried out, and the log is closed.
    pub(super) fn stop(&mut self) {
        let Some(store) = &mut self.store else { return };
        store.committer.outlets().stopping.store(true, Ordering::Release);
        store.writer.take(Input::Stop);
        for _ in 0..1_000 {
            if self.store.as_ref().is_none_or(|store| store.writer.is_done()) {
                break;
            }
            self.decide();
            self.sync();
        }
        let Some(store) = &mut self.store else { return };
        store.writer.refuse_all(Failure::Stopping);
        store.committer.close();
    }

    pub(super) fn books(&self) -> std::sync::RwLockReadGuard<'_, Books> {
        self.views.books()
    }
}
