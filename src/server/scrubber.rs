//! The scrubber: the thread that verifies the log again, slowly, beside everything else.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use tracing::{error, warn};

use crate::{
    log::{LogReader, Scrubber},
    ops::{Clock, Counter, Gauge},
};

/// How many bytes are read in a second: little beside what a disk gives, and 100 GB are done in two
/// hours.
const BYTES_PER_SECOND: u64 = 16 * 1024 * 1024;
/// How many bytes are read before there is a pause.
const RUN_BYTES: u64 = 256 * 1024;
/// How often to look whether there is more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long after one pass the next begins.
const PASS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// What is counted of verifying.
#[derive(Debug, Default)]
pub(super) struct ScrubFigures {
    /// How many segments were read and verified since the start, each time they were; where there
    /// are none, how often as much as one has.
    pub(super) segments: Counter,
    /// When nothing was left to verify, in seconds since 1970 UTC; 0 before it was so. It stands
    /// still while all is verified again, or cannot be.
    pub(super) caught_up: Gauge,
    /// 1 while segments cannot be read.
    pub(super) failing: Gauge,
}

/// Verifies what of the log is at rest, and each day all of it again, until `stop` is gone.
pub(super) fn run(
    mut scrubber: Box<dyn Scrubber>,
    log: &dyn LogReader,
    (clock, figures): (&dyn Clock, &ScrubFigures),
    stop: &Receiver<()>,
) {
    // What a start has found, it has told.
    let mut is_told = log.scrubbed().damage.is_some();
    let (mut begun, mut is_failing) = (Instant::now(), false);
    loop {
        let mut paused_at = 0;
        let mut pace = |done: u64| {
            let bytes = done.saturating_sub(paused_at);
            if bytes >= RUN_BYTES {
                paused_at = done;
                let _woken_by_a_stop = stop.recv_timeout(pause(bytes));
            }
        };
        let found_one = match scrubber.step(&mut pace) {
            Ok(found_one) => {
                is_failing = false;
                note(figures, clock, found_one);
                found_one
            }
            Err(failure) => {
                if !is_failing {
                    warn!(%failure, "the log cannot be verified");
                }
                is_failing = true;
                figures.failing.set(1);
                false
            }
        };
        if let Some(damage) = log.scrubbed().damage.filter(|_| !is_told) {
            error!(%damage, "the log is damaged: restore it from a backup");
            is_told = true;
        }
        let wait = if found_one { Duration::ZERO } else { LOOK_INTERVAL };
        if stop.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        // A pass over a large log may take longer than that, and has to end.
        if !found_one && begun.elapsed() >= PASS_INTERVAL {
            scrubber.restart();
            begun = Instant::now();
        }
    }
}

fn note(figures: &ScrubFigures, clock: &dyn Clock, found_one: bool) {
    figures.failing.set(0);
    if found_one {
        figures.segments.increment();
    } else {
        let seconds = clock.now_micros().div_euclid(1_000_000);
        figures.caught_up.set(u64::try_from(seconds).unwrap_or(0));
    }
}

/// How long to pause after so many bytes.
fn pause(bytes: u64) -> Duration {
    let micros = bytes.saturating_mul(1_000_000).checked_div(BYTES_PER_SECOND);
    Duration::from_micros(micros.unwrap_or(0))
}
