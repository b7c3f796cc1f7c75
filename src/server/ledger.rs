//! The ledger as a whole: recovered from its log, started, and stopped.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    thread::{Builder, JoinHandle},
};

use tokio::sync::watch;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{ServeError, checkpointer::Checkpointer};
use crate::{
    event_store::{self, EventStore, History, HistoryError, Parts, State, Stopper},
    log::{
        LogReader, LogWriter,
        file::{self, Checkpoint, Checkpoints, Directory, Resume, SpareMaker, StdDisk},
        memory,
    },
    ops::{Clock, config::Config},
    views::{Books, Fold, RestoreError, Views, follow},
    wire::Reads,
};

/// A ledger that was recovered and does not run yet.
pub(super) struct Ledger {
    state: State,
    books: Books,
    reader: Arc<dyn LogReader>,
    writer: Option<Box<dyn LogWriter>>,
    files: Option<Files>,
    clock: Arc<dyn Clock>,
}

/// What a log in files wants done beside reading and writing.
struct Files {
    preparer: SpareMaker,
    checkpoints: Checkpoints,
    /// After how many events a checkpoint is due.
    checkpoint_events: u64,
    /// The position of the checkpoint that the ledger was recovered from; 0 without one.
    checkpoint: u64,
}

/// A ledger that runs.
pub(super) struct Running {
    store: EventStore,
    reads: Arc<Reads>,
    position: u64,
    stopper: Option<Stopper>,
    threads: Vec<JoinHandle<()>>,
    checkpointer: Option<RunningCheckpointer>,
}

/// The checkpointer's thread, and what ends it.
struct RunningCheckpointer {
    stopping: Arc<AtomicBool>,
    stop: blocking::Sender<()>,
    thread: JoinHandle<()>,
}

impl Ledger {
    /// Opens the log and folds it into state and books. Blocks.
    pub(super) fn recover(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, ServeError> {
        let new_log_id = *Uuid::now_v7().as_bytes();
        if config.ephemeral {
            let (writer, reader) = memory::open(new_log_id);
            let (state, books) = Fold::new(config.request_id_window).finish(new_log_id);
            return Ok(Self { state, books, reader, writer: Some(writer), files: None, clock });
        }
        let options = file::Options::new(new_log_id, clock.now_micros());
        let take = || {
            let disk = StdDisk::open(&config.data_dir).map_err(ServeError::Directory)?;
            Ok::<_, ServeError>(Directory::take(Arc::new(disk), &options)?)
        };
        let directory = take()?;
        let Some((fold, resume)) = checkpoint(&directory, config.request_id_window) else {
            let fold = Fold::new(config.request_id_window);
            return Self::open(config, directory, fold, None, clock);
        };
        let position = resume.position();
        let mut ledger = Self::open(config, directory, fold, Some(resume), Arc::clone(&clock))?;
        if let Err(failure) = ledger.recall(position) {
            warn!(%failure, "the log before the checkpoint cannot be read: reading all of it");
            drop(ledger);
            let fold = Fold::new(config.request_id_window);
            return Self::open(config, take()?, fold, None, clock);
        }
        Ok(ledger)
    }

    /// Opens the log, and folds all of it, or what comes after a checkpoint.
    fn open(
        config: &Config,
        directory: Directory,
        mut fold: Fold,
        from: Option<Resume>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        let checkpoint = from.as_ref().map_or(0, Resume::position);
        let opened = directory.open(from, &mut |log_id, block| {
            fold.add(log_id, block).map_err(|wrong| wrong.to_string())
        })?;
        if let Some(torn) = &opened.torn {
            warn!(file = torn.file, bytes = torn.bytes, "an unfinished group was cut");
        }
        if let Some(damage) = &opened.damage {
            error!(%damage, "the log is damaged; it can be read up to there, and not written");
        }
        let (state, books) = fold.finish(opened.reader.log_id());
        let file::Opened { reader, mut writer, mut preparer, checkpoints, torn: _, damage: _ } =
            opened;
        if let (Some(writer), Some(preparer)) = (&mut writer, &mut preparer)
            && !writer.has_room()
            && let Err(error) = preparer.prepare()
        {
            // Nobody is told that there is no room only because nobody has made any yet.
            warn!(%error, "cannot prepare the next segment of the log");
        }
        let checkpoint_events = config.checkpoint_events;
        let files =
            preparer.map(|preparer| Files { preparer, checkpoints, checkpoint_events, checkpoint });
        Ok(Self { state, books, reader, writer, files, clock })
    }

    /// Reads the request ids again that were recorded up to a checkpoint.
    fn recall(&mut self, checkpoint: u64) -> Result<(), HistoryError> {
        self.state.recall(&History::new(Arc::clone(&self.reader)), checkpoint)
    }

    /// Starts its threads.
    pub(super) fn start(self) -> io::Result<Running> {
        let Self { state, books, reader, writer, files, clock } = self;
        let position = books.position();
        let history = History::new(reader);
        let views = Arc::new(Views::new(books));
        let (durable_sender, durable) = watch::channel(position);
        let (wake, wakes) = blocking::sync_channel(1);
        let parts = Parts { state, log: writer, clock, follower: wake, durable: durable_sender };
        let (store, stopper) = event_store::start(parts)?;
        let reads = Reads::new(Arc::clone(&views), history.clone(), durable, store.clone());
        let mut threads = Vec::new();
        let followed = Arc::clone(&views);
        threads.push(spawn("daybook-views", move || follow(&history, &followed, &wakes))?);
        let mut checkpointer = None;
        if let Some(files) = files {
            let preparer = files.preparer;
            threads.push(spawn("daybook-spare", move || preparer.run())?);
            let stopping = Arc::new(AtomicBool::new(false));
            let runs = Checkpointer {
                views,
                checkpoints: files.checkpoints,
                events: files.checkpoint_events,
                newest: files.checkpoint,
                stopping: Arc::clone(&stopping),
            };
            let (stop, told) = blocking::channel();
            let thread = spawn("daybook-checkpoint", move || runs.run(&told))?;
            checkpointer = Some(RunningCheckpointer { stopping, stop, thread });
        }
        Ok(Running { store, reads: Arc::new(reads), position, stopper, threads, checkpointer })
    }
}

/// What the checkpoint of a directory adds up to, and where it goes on; `None` when there is none
/// or it is of no use.
fn checkpoint(directory: &Directory, request_id_window: u64) -> Option<(Fold, Resume)> {
    let restore = |mut checkpoint: Checkpoint| {
        let fold = Fold::resume(directory.log_id(), request_id_window, &mut checkpoint)?;
        Ok((fold, checkpoint.resume()))
    };
    match directory.checkpoint().map_err(Into::into).and_then(|it| it.map(restore).transpose()) {
        Ok(Some((fold, resume))) => {
            info!(position = resume.position(), "going on from the checkpoint");
            Some((fold, resume))
        }
        Ok(None) => None,
        Err(fault) => {
            let fault: RestoreError = fault;
            warn!(%fault, "reading the whole log instead of the checkpoint");
            None
        }
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
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.stopping.store(true, Ordering::Release);
        }
        if let Some(stopper) = self.stopper {
            stopper.stop();
        }
        for thread in self.threads {
            let _a_panic_was_reported_by_its_hook = thread.join();
        }
        if let Some(RunningCheckpointer { stopping: _, stop, thread }) = self.checkpointer {
            drop(stop);
            let _a_panic_was_reported_by_its_hook = thread.join();
        }
    }
}
