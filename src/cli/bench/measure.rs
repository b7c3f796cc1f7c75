//! What is measured: counts, the time that each call took, and what the ledger must hold then.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;

use crate::cli::CliError;

/// The longest time that is told apart from longer ones, in microseconds: a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
/// How many digits of a time are kept.
const LATENCY_DIGITS: u8 = 3;

/// What the commands of a call came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Commands, or reads, that were answered as asked for.
    pub(super) accepted: u64,
    /// Commands that a rule refused.
    pub(super) refused: u64,
    /// What they added to the money of the accounts, in minor units.
    pub(super) money_minor: i64,
    /// How many events they recorded.
    pub(super) events: u64,
}

impl Done {
    /// One read.
    pub(super) const READ: Self = Self { accepted: 1, refused: 0, money_minor: 0, events: 0 };
    /// One command that left nothing behind.
    pub(super) const REFUSED: Self = Self { accepted: 0, refused: 1, money_minor: 0, events: 0 };
    /// One transfer that failed in its first step: that is recorded.
    pub(super) const FAILED: Self = Self { accepted: 0, refused: 1, money_minor: 0, events: 2 };
    /// One transfer that completed.
    pub(super) const TRANSFER: Self = Self { accepted: 1, refused: 0, money_minor: 0, events: 5 };

    /// One deposit, or withdrawal if negative.
    pub(super) const fn moved(money_minor: i64) -> Self {
        Self { accepted: 1, refused: 0, money_minor, events: 1 }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            accepted: self.accepted.saturating_add(other.accepted),
            refused: self.refused.saturating_add(other.refused),
            money_minor: self.money_minor.saturating_add(other.money_minor),
            events: self.events.saturating_add(other.events),
        }
    }
}

/// How a call ended without an answer to its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The server was too busy: nothing happened.
    Shed,
    /// Nobody knows what happened.
    Unknown,
}

/// The counts of all clients, and the times of their calls.
pub(super) struct Measure {
    /// What came to an end within the measured time.
    pub(super) measured: Done,
    /// What came to an end at any time: what the accounts must show.
    pub(super) all: Done,
    /// Calls that the server was too busy for, in the measured time.
    pub(super) shed_calls: u64,
    /// Calls of unknown outcome.
    pub(super) unknown_calls: u64,
    latency_micros: Histogram<u64>,
}

/// One measure, shared by all clients: they run on one thread.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Measure>>);

impl Shared {
    pub(super) fn new() -> Result<Self, CliError> {
        let latency_micros = Histogram::new_with_max(LATENCY_MICROS_MAX, LATENCY_DIGITS)
            .map_err(|_| CliError::Usage("no histogram of so many digits"))?;
        Ok(Self(Arc::new(Mutex::new(Measure {
            measured: Done::default(),
            all: Done::default(),
            shed_calls: 0,
            unknown_calls: 0,
            latency_micros,
        }))))
    }

    /// What was measured, now that all clients have ended.
    pub(super) fn into_inner(self) -> Result<Measure, CliError> {
        let measure = Arc::into_inner(self.0).map(Mutex::into_inner);
        let measure = measure.ok_or_else(|| CliError::Call("a client goes on".to_owned()))?;
        Ok(measure.unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Measure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measure {
    /// Takes a call that has ended: whether within the measured time, and how long it took.
    pub(super) fn take(&mut self, ended: Result<Done, Lost>, counts: bool, took: Duration) {
        match ended {
            Ok(done) => {
                self.all = self.all.plus(done);
                if counts {
                    self.measured = self.measured.plus(done);
                    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    self.latency_micros.saturating_record(micros);
                }
            }
            Err(Lost::Shed) => {
                self.shed_calls = self.shed_calls.saturating_add(u64::from(counts));
            }
            Err(Lost::Unknown) => self.unknown_calls = self.unknown_calls.saturating_add(1),
        }
    }

    /// What this part of all calls did not take longer than, in microseconds.
    pub(super) fn latency_micros(&self, quantile: f64) -> u64 {
        self.latency_micros.value_at_quantile(quantile)
    }
}
