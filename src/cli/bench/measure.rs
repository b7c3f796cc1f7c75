//! What is measured: counts, the time that each call took, and what the ledger must hold then.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::delivery::Deliveries;
use crate::cli::CliError;

/// The longest time that is told apart from longer ones, in microseconds: a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
/// How many digits of a time are kept.
const LATENCY_DIGITS: u8 = 3;

/// Times, told apart to three digits.
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> Result<Self, CliError> {
        let histogram = Histogram::new_with_max(LATENCY_MICROS_MAX, LATENCY_DIGITS);
        histogram.map(Self).map_err(|_| CliError::Usage("no histogram of so many digits"))
    }

    pub(super) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// What this part of all times is not longer than, in microseconds.
    pub(super) fn micros(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// How many times there are.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }
}

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
    /// The newest position that the answer tells; 0 when it tells none.
    pub(super) position: i64,
}

impl Done {
    /// One read.
    pub(super) const READ: Self = Self::one(1, 0, 0);
    /// One command that left nothing behind.
    pub(super) const REFUSED: Self = Self::one(0, 1, 0);
    /// One transfer that failed in its first step: that is recorded.
    pub(super) const FAILED: Self = Self::one(0, 1, 2);
    /// One transfer that completed.
    pub(super) const TRANSFER: Self = Self::one(1, 0, 5);

    const fn one(accepted: u64, refused: u64, events: u64) -> Self {
        Self { accepted, refused, money_minor: 0, events, position: 0 }
    }

    /// One deposit, or withdrawal if negative.
    pub(super) const fn moved(money_minor: i64) -> Self {
        Self { money_minor, ..Self::one(1, 0, 1) }
    }

    /// The same, told at a position.
    pub(super) fn at(self, position: i64) -> Self {
        Self { position, ..self }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            accepted: self.accepted.saturating_add(other.accepted),
            refused: self.refused.saturating_add(other.refused),
            money_minor: self.money_minor.saturating_add(other.money_minor),
            events: self.events.saturating_add(other.events),
            position: self.position.max(other.position),
        }
    }
}

/// How a call ended without an answer to its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The server was too busy, or its disk is full: nothing happened.
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
    /// Calls of unknown outcome.
    pub(super) unknown_calls: u64,
    /// How long calls took that were answered, from when they were due. In the measured time.
    pub(super) latency: Times,
    /// How long it took to be told that the server was too busy, from when the call was sent: how
    /// long it had waited here before does not tell how fast the server refuses. In the measured
    /// time.
    pub(super) shed: Times,
    /// What a tail tells of the answers, if there is one. In the measured time.
    pub(super) deliveries: Option<Deliveries>,
}

/// One measure, shared by all clients: they run on one thread.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Measure>>);

impl Shared {
    /// With or without a tail beside the load.
    pub(super) fn new(is_tailed: bool) -> Result<Self, CliError> {
        Ok(Self(Arc::new(Mutex::new(Measure {
            measured: Done::default(),
            all: Done::default(),
            unknown_calls: 0,
            latency: Times::new()?,
            shed: Times::new()?,
            deliveries: is_tailed.then(Deliveries::new).transpose()?,
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
    /// Takes a call that ends now: whether within the measured time, when it was due and when it
    /// was sent.
    pub(super) fn take(
        &mut self,
        ended: Result<Done, Lost>,
        counts: bool,
        due: Instant,
        sent: Instant,
    ) {
        match ended {
            Ok(done) => {
                self.all = self.all.plus(done);
                if counts {
                    self.measured = self.measured.plus(done);
                    self.latency.add(due.elapsed());
                    self.answered(done.position);
                }
            }
            Err(Lost::Shed) if counts => self.shed.add(sent.elapsed()),
            Err(Lost::Shed) => {}
            Err(Lost::Unknown) => self.unknown_calls = self.unknown_calls.saturating_add(1),
        }
    }

    /// Notes that an answer tells a position now.
    fn answered(&mut self, position: i64) {
        if let Some(deliveries) = self.deliveries.as_mut().filter(|_| position > 0) {
            deliveries.answered(position, Instant::now());
        }
    }

    /// Notes that the first tail is told everything up to a position now.
    pub(super) fn told(&mut self, position: i64) {
        if let Some(deliveries) = &mut self.deliveries {
            deliveries.told(position, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Intent: an answer counts from when its call was due, a refusal for overload from when it was
    /// sent, and only the answer as accepted.
    #[test]
    fn answers_count_from_when_they_were_due() {
        let measure = Shared::new(false).unwrap();
        let mut measure = measure.lock();
        let sent = Instant::now();
        let due = sent.checked_sub(Duration::from_secs(5)).unwrap();
        measure.take(Ok(Done::moved(1)), true, due, sent);
        measure.take(Err(Lost::Shed), true, due, sent);
        measure.take(Err(Lost::Shed), false, due, sent);
        assert_eq!((measure.measured.accepted, measure.all.accepted), (1, 1));
        assert_eq!((measure.latency.count(), measure.shed.count()), (1, 1));
        assert!(measure.latency.micros(1.0) >= 5_000_000);
        assert!(measure.shed.micros(1.0) < 5_000_000);
    }
}
