//! The ledger as a whole: recovered from its log, started, and stopped.

use std::{
    io,
    sync::{Arc, mpsc as blocking},
    thread::{Builder, JoinHandle},
};

use tokio::sync::watch;
use tracing::{error, warn};
use uuid::Uuid;

use super::ServeError;
use crate::{
    event_store::{self, EventStore, History, Parts, State, Stopper},
    log::{
        LogReader, LogWriter,
        file::{self, SpareMaker, StdDisk},
        memory,
    },
    ops::{Clock, config::Config},
    views::{Books, Fold, Views, follow},
    wire::Reads,
};

/// A ledger that was recovered and does not run yet.
pub(super) struct Ledger {
    state: State,
    books: Books,
    reader: Arc<dyn LogReader>,
    writer: Option<Box<dyn LogWriter>>,
    preparer: Option<SpareMaker>,
    clock: Arc<dyn Clock>,
}

/// A ledger that runs.
pub(super) struct Running {
    store: EventStore,
    reads: Arc<Reads>,
    position: u64,
    stopper: Option<Stopper>,
    threads: Vec<JoinHandle<()>>,
}

impl Ledger {
    /// Opens the log and folds it into state and books. Blocks.
    pub(super) fn recover(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, ServeError> {
        let new_log_id = *Uuid::now_v7().as_bytes();
        let mut fold = Fold::new(config.request_id_window);
        if config.ephemeral {
            let (writer, reader) = memory::open(new_log_id);
            let (state, books) = fold.finish(new_log_id);
            return Ok(Self { state, books, reader, writer: Some(writer), preparer: None, clock });
        }
        let disk = Arc::new(StdDisk::open(&config.data_dir).map_err(ServeError::Directory)?);
        let options = file::Options::new(new_log_id, clock.now_micros());
        let opened = file::open(disk, &options, &mut |log_id, block| {
            fold.add(log_id, block).map_err(|wrong| wrong.to_string())
        })?;
        if let Some(torn) = &opened.torn {
            warn!(file = torn.file, bytes = torn.bytes, "an unfinished group was cut");
        }
        if let Some(damage) = &opened.damage {
            error!(%damage, "the log is damaged; it can be read up to there, and not written");
        }
        let (state, books) = fold.finish(opened.reader.log_id());
        let file::Opened { reader, writer, preparer, torn: _, damage: _ } = opened;
        Ok(Self { state, books, reader, writer, preparer, clock })
    }

    /// Starts its threads.
    pub(super) fn start(self) -> io::Result<Running> {
        let Self { state, books, reader, writer, preparer, clock } = self;
        let position = books.position();
        let history = History::new(reader);
        let views = Arc::new(Views::new(books));
        let (durable_sender, durable) = watch::channel(position);
        let (wake, wakes) = blocking::sync_channel(1);
        let parts = Parts { state, log: writer, clock, follower: wake, durable: durable_sender };
        let (store, stopper) = event_store::start(parts)?;
        let reads = Reads::new(Arc::clone(&views), history.clone(), durable, store.clone());
        let mut threads = Vec::new();
        threads.push(spawn("daybook-views", move || follow(&history, &views, &wakes))?);
        if let Some(preparer) = preparer {
            threads.push(spawn("daybook-spare", move || preparer.run())?);
        }
        Ok(Running { store, reads: Arc::new(reads), position, stopper, threads })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(run)
}

impl Running {
    pub(super) fn store(&self) -> &EventStore {
        &self.store
    }

    pub(super) fn reads(&self) -> &Arc<Reads> {
        &self.reads
    }

    /// The position that it was recovered to.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Makes all that was begun durable, closes the log, and ends the threads. Blocks.
    pub(super) fn stop(self) {
        if let Some(stopper) = self.stopper {
            stopper.stop();
        }
        for thread in self.threads {
            let _a_panic_was_reported_by_its_hook = thread.join();
        }
    }
}
