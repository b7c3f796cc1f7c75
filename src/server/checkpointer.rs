//! The checkpointer: the thread that makes checkpoints, beside everything else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    log::Checkpoints,
    ops::{Clock, Counter, Gauge},
    views::{Views, save},
};

/// How often to look whether a checkpoint is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long after one could not be made another is tried, and twice as long each time after that:
/// where there is no room, what was begun takes some until it is cleaned away.
const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);
/// So many accounts are told in a few milliseconds, and cost nothing beside their events.
const FREE_ACCOUNTS: u64 = 10_000;
/// How many events each further account is to have behind it on average: then checkpoints add
/// less than a fifth to what the log writes.
const EVENTS_PER_ACCOUNT: u64 = 16;
/// How many events are worth a checkpoint when the server stops: fewer are read in a few
/// hundredths of a second.
const FINAL_EVENTS: u64 = 100_000;
/// How long a stop may take for its checkpoint. Without one the next start reads more.
const FINAL_TIME_MAX: Duration = Duration::from_secs(5);

/// What is counted of checkpoints.
#[derive(Debug, Default)]
pub(super) struct CheckpointFigures {
    /// How many were made since the start.
    pub(super) made: Counter,
    /// How many could not be made, or were given up for a stop.
    pub(super) failed: Counter,
    /// How long the newest one took, in nanoseconds; 0 before one was made.
    pub(super) nanos: Gauge,
    /// When it was made, in seconds since 1970 UTC; 0 before one was made.
    pub(super) time: Gauge,
    /// Its position, also when an earlier process has made it; 0 when there is none.
    pub(super) position: Gauge,
}

/// Makes checkpoints of the views.
pub(super) struct Checkpointer {
    pub(super) views: Arc<Views>,
    pub(super) checkpoints: Box<dyn Checkpoints>,
    /// After how many events a checkpoint is due.
    pub(super) events: u64,
    /// The position of the newest checkpoint; 0 when there is none.
    pub(super) newest: u64,
    /// When the last one could not be made, if it could not, and for how long none is tried then.
    pub(super) failed: Option<(Instant, Duration)>,
    /// Set when the server is to stop.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) figures: Arc<CheckpointFigures>,
}

impl Checkpointer {
    /// Makes checkpoints until `stop` is gone, and a last one then. All that was recorded is shown
    /// by the views by then.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        while stop.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if self.is_due() {
                let stopping = Arc::clone(&self.stopping);
                self.save(&mut |pause| {
                    thread::sleep(pause);
                    !stopping.load(Ordering::Acquire)
                });
            }
        }
        if self.events_since() >= self.events.min(FINAL_EVENTS) {
            let begin = Instant::now();
            self.save(&mut |pause| {
                thread::sleep(pause);
                begin.elapsed() < FINAL_TIME_MAX
            });
        }
    }

    fn events_since(&self) -> u64 {
        self.views.books().position().saturating_sub(self.newest)
    }

    fn is_due(&self) -> bool {
        if self.failed.is_some_and(|(failed, pause)| failed.elapsed() < pause) {
            return false;
        }
        let accounts = self.views.books().totals().account_count.saturating_sub(FREE_ACCOUNTS);
        self.events_since() >= self.events.max(accounts.saturating_mul(EVENTS_PER_ACCOUNT))
    }

    fn save(&mut self, goes_on: &mut dyn FnMut(Duration) -> bool) {
        let begin = Instant::now();
        match save(&self.views, &*self.checkpoints, goes_on) {
            Ok(position) => {
                (self.newest, self.failed) = (position, None);
                self.note(position, begin.elapsed());
                info!(position, millis = millis(begin), "checkpoint");
            }
            Err(failure) => {
                let pause = self.failed.map_or(RETRY_MIN, |(_, pause)| pause.saturating_mul(2));
                self.failed = Some((Instant::now(), pause.min(RETRY_MAX)));
                self.figures.failed.increment();
                warn!(%failure, "no checkpoint was made: a start will take longer");
            }
        }
    }

    fn note(&self, position: u64, took: Duration) {
        let seconds = self.clock.now_micros().div_euclid(1_000_000);
        self.figures.time.set(u64::try_from(seconds).unwrap_or(0));
        self.figures.nanos.set(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.figures.position.set(position);
        self.figures.made.increment();
    }
}

fn millis(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}
