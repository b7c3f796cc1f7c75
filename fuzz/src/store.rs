//! The services over a log in memory, as a server has them.

use std::sync::{Arc, mpsc as blocking};

use daybook::{
    event_store::{self, History, Parts, Stopper},
    log::{LogReader, memory},
    ops::{ManualClock, config::Limits},
    views::{Books, Fold, Views},
    wire::{self, Desk, Reads},
};
use tokio::{runtime, sync::watch};

use crate::bank::{LOG_ID, REQUEST_ID_WINDOW, Step, TIME_MICROS, group_of, state};

/// How long after the last command the time is that the services know.
const LATER_MICROS: i64 = 1_000_000;

/// A running store with its services.
pub struct Store {
    /// The command service.
    pub commands: wire::Commands,
    /// The query service.
    pub queries: wire::Queries,
    reader: Arc<dyn LogReader>,
    stopper: Option<Stopper>,
    _stopping: watch::Sender<bool>,
}

/// The runtime that the calls of one target run in.
///
/// # Panics
/// When the system has no means for one.
#[must_use]
pub fn new_runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

impl Store {
    /// Starts a store in which these steps have been carried out. To be called in a runtime.
    ///
    /// # Panics
    /// When the system has no means for it.
    #[must_use]
    pub fn start(steps: &[Step]) -> Self {
        let mut state = state();
        let (mut log, reader) = memory::open(LOG_ID);
        for few in steps.chunks(8) {
            let group = group_of(&mut state, few);
            if !group.is_empty() {
                log.append(&group).expect("memory takes every group");
            }
        }
        let clock = Arc::new(ManualClock::new(TIME_MICROS + LATER_MICROS));
        let views = Arc::new(Views::new(books(&*reader)));
        let (durable_sender, durable) = watch::channel(reader.head().position);
        // Nobody follows: no call here reads what it has written.
        let (follower, _) = blocking::sync_channel(1);
        let parts = Parts {
            state,
            log: Some(log),
            clock: clock.clone(),
            follower,
            durable: durable_sender,
        };
        let (store, stopper) = event_store::start(parts).expect("threads");
        let history = History::new(Arc::clone(&reader));
        let (limits, (stopping_sender, stopping)) = (Limits::default(), watch::channel(false));
        let reads = Reads::new(views, history, durable, store.clone(), limits.call_time);
        let reads = Arc::new(reads);
        let commands = wire::Commands::new(limits.clone(), stopping.clone());
        commands.desk.set(Desk::new(store, Arc::clone(&reads)));
        let queries = wire::Queries::new(&limits, clock, stopping);
        queries.reads.set(reads);
        Self { commands, queries, reader, stopper, _stopping: stopping_sender }
    }

    /// Stops it, and gives what its log adds up to.
    #[must_use]
    pub fn stop(mut self) -> Books {
        if let Some(stopper) = self.stopper.take() {
            stopper.stop();
        }
        books(&*self.reader)
    }
}

/// What a log adds up to.
fn books(reader: &dyn LogReader) -> Books {
    let mut fold = Fold::new(REQUEST_ID_WINDOW);
    let (mut next, last) = (1, reader.head().position);
    while next <= last {
        let block = reader.block(next).expect("memory keeps every block");
        fold.add(&LOG_ID, &block).expect("what was recorded follows on what was before");
        next = block.last_position() + 1;
    }
    fold.finish(LOG_ID).1
}
