//! The ledger as a whole: recovered from its log, started, and stopped.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use tokio::sync::watch;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    ServeError,
    checkpointer::Checkpointer,
    metrics::Sources,
    recovery::{self, Recovered},
    scrubber,
    shared::{self, Around},
    standby::Owned,
};
use crate::{
    event_store::{self, EventStore, History, Parts, State, Stopper},
    log::{
        Checkpoints, LogReader, LogWriter, Scrubber,
        file::{self, Directory, SpareMaker, StdDisk},
        memory,
        shared::Membership,
    },
    ops::{Clock, config::Config},
    views::{Books, Fold, Views, follow},
    wire::Reads,
};

/// A ledger that was recovered and does not run yet.
pub(super) struct Ledger {
    state: State,
    views: Arc<Views>,
    /// Tells how far the log is durable.
    durable: watch::Sender<u64>,
    reader: Arc<dyn LogReader>,
    writer: Option<Box<dyn LogWriter>>,
    upkeep: Option<Upkeep>,
    membership: Option<Membership>,
    clock: Arc<dyn Clock>,
}

/// What a durable log wants done beside reading and writing.
struct Upkeep {
    /// Where it is kept in files.
    preparer: Option<SpareMaker>,
    checkpoints: Box<dyn Checkpoints>,
    /// After how many events a checkpoint is due.
    checkpoint_events: u64,
    /// The position of the newest checkpoint; 0 without one.
    checkpoint: u64,
    scrubber: Box<dyn Scrubber>,
}

/// A ledger that runs.
pub(super) struct Running {
    store: EventStore,
    reads: Arc<Reads>,
    sources: Sources,
    position: u64,
    stopper: Option<Stopper>,
    threads: Vec<JoinHandle<()>>,
    checkpointer: Option<RunningCheckpointer>,
    /// The scrubber runs until this is dropped.
    scrub: Option<blocking::Sender<()>>,
    membership: Option<Membership>,
}

/// The checkpointer's thread, and what ends it.
struct RunningCheckpointer {
    stopping: Arc<AtomicBool>,
    stop: blocking::Sender<()>,
    thread: JoinHandle<()>,
}

impl Ledger {
    /// Opens the log and folds it into state and books. Blocks.
    pub(super) fn recover(
        config: &Config,
        clock: Arc<dyn Clock>,
        around: &Around,
    ) -> Result<Self, ServeError> {
        let new_log_id = *Uuid::now_v7().as_bytes();
        if config.ephemeral {
            warn!(
                "ephemeral: everything is kept in memory only, and is gone when the process ends"
            );
            let (writer, reader) = memory::open(new_log_id);
            let (state, books) = Fold::new(config.request_id_window).finish(new_log_id);
            return Ok(Self::alone(state, books, reader, Some(writer), None, clock));
        }
        if let Some(database) = &config.database {
            let owned = shared::recover(config, database, around)?;
            let Owned { state, views, durable, reader, checkpoint, .. } = owned;
            let (writer, membership) = (Some(owned.writer), Some(owned.membership));
            let upkeep = Some(Upkeep {
                preparer: None,
                checkpoints: Box::new(owned.checkpoints),
                checkpoint_events: config.checkpoint_events,
                checkpoint,
                scrubber: Box::new(owned.scrub),
            });
            return Ok(Self { state, views, durable, reader, writer, upkeep, membership, clock });
        }
        let options = file::Options::new(new_log_id, clock.now_micros());
        let take = || {
            let disk = StdDisk::open(&config.data_dir).map_err(ServeError::Directory)?;
            Ok(Directory::take(Arc::new(disk), &options)?)
        };
        let Recovered { state, books, opened, checkpoint, was_refuted } =
            recovery::recover(&take, config.request_id_window)?;
        if was_refuted {
            error!("the checkpoint did not fit the log, which is a defect: please report it");
        }
        let file::Opened { reader, writer, preparer, checkpoints, scrubber, .. } = opened;
        let checkpoint_events = config.checkpoint_events;
        let upkeep = preparer.map(|preparer| Upkeep {
            preparer: Some(preparer),
            checkpoints: Box::new(checkpoints),
            checkpoint_events,
            checkpoint,
            scrubber: Box::new(scrubber),
        });
        Ok(Self::alone(state, books, reader, writer, upkeep, clock))
    }

    /// One that no other process has to do with.
    fn alone(
        state: State,
        books: Books,
        reader: Arc<dyn LogReader>,
        writer: Option<Box<dyn LogWriter>>,
        upkeep: Option<Upkeep>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (durable, _) = watch::channel(books.position());
        let views = Arc::new(Views::new(books));
        Self { state, views, durable, reader, writer, upkeep, membership: None, clock }
    }

    /// Starts its threads.
    pub(super) fn start(self, call_time: Duration) -> io::Result<Running> {
        let Self { state, views, durable, reader, writer, upkeep, membership, clock } = self;
        let position = views.books().position();
        let history = History::new(reader);
        let durable_receiver = durable.subscribe();
        let (wake, wakes) = blocking::sync_channel(1);
        let parts =
            Parts { state, log: writer, clock: Arc::clone(&clock), follower: wake, durable };
        let (store, stopper) = event_store::start(parts)?;
        let (shown, log) = (Arc::clone(&views), history.clone());
        let reads = Arc::new(Reads::new(shown, log, durable_receiver, store.clone(), call_time));
        let sources =
            Sources::new(store.clone(), Arc::clone(&reads), Arc::clone(&views), history.clone());
        let mut threads = Vec::new();
        let followed = Arc::clone(&views);
        let followed_log = history.clone();
        threads.push(spawn("daybook-views", move || follow(&followed_log, &followed, &wakes))?);
        let (mut checkpointer, mut scrub) = (None, None);
        if let Some(upkeep) = upkeep {
            if let Some(preparer) = upkeep.preparer {
                threads.push(spawn("daybook-spare", move || preparer.run())?);
            }
            let (stop, told) = blocking::channel();
            scrub = Some(stop);
            let (scrubber, log) = (upkeep.scrubber, history.clone());
            let (told_by, figures) = (Arc::clone(&clock), Arc::clone(&sources.scrub));
            let scrubs = move || scrubber::run(scrubber, log.log(), (&*told_by, &*figures), &told);
            threads.push(spawn("daybook-scrub", scrubs)?);
            let stopping = Arc::new(AtomicBool::new(false));
            let runs = Checkpointer {
                views,
                checkpoints: upkeep.checkpoints,
                events: upkeep.checkpoint_events,
                newest: upkeep.checkpoint,
                failed: None,
                stopping: Arc::clone(&stopping),
                clock,
                figures: Arc::clone(&sources.checkpoints),
            };
            runs.figures.position.set(runs.newest);
            let (stop, told) = blocking::channel();
            let thread = spawn("daybook-checkpoint", move || runs.run(&told))?;
            checkpointer = Some(RunningCheckpointer { stopping, stop, thread });
        }
        Ok(Running {
            store,
            reads,
            sources,
            position,
            stopper,
            threads,
            checkpointer,
            scrub,
            membership,
        })
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

    pub(super) fn views(&self) -> Arc<Views> {
        Arc::clone(&self.sources.views)
    }

    /// Where metrics come from.
    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Says what is served, and where it is.
    pub(super) fn tell_serving(&self, config: &Config) {
        let log_id = Uuid::from_bytes(self.sources.history.log().log_id());
        // Whoever has given another path than was meant sees it here.
        let path = config.directory().and_then(|path| std::path::absolute(path).ok());
        let data_dir = path.as_ref().map(|path| tracing::field::display(path.display()));
        info!(position = self.position, %log_id, data_dir, "serving");
    }

    /// Makes all that was begun durable, closes the log, and ends the threads. Blocks.
    pub(super) fn stop(self) {
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.stopping.store(true, Ordering::Release);
        }
        if let Some(stopper) = self.stopper {
            stopper.stop();
        }
        drop(self.scrub);
        drop(self.membership);
        for thread in self.threads {
            let _a_panic_was_reported_by_its_hook = thread.join();
        }
        if let Some(RunningCheckpointer { stopping: _, stop, thread }) = self.checkpointer {
            drop(stop);
            let _a_panic_was_reported_by_its_hook = thread.join();
        }
    }
}
