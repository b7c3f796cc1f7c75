//! What is measured: counts, and the time that each call took.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::CliError;

/// The longest time that is told apart from longer ones, in microseconds: a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
/// How many digits of a time are kept.
const LATENCY_DIGITS: u8 = 3;

/// The counts of one client or of all, and the times of the calls that were measured.
pub(super) struct Measure {
    /// Commands that were accepted while it was measured.
    pub(super) accepted: u64,
    /// Commands that were accepted before or after: they count for the money.
    pub(super) unmeasured: u64,
    /// Commands that were refused.
    pub(super) refused: u64,
    /// Calls that failed as a whole.
    pub(super) failed_calls: u64,
    latency_micros: Histogram<u64>,
}

impl Measure {
    pub(super) fn new() -> Result<Self, CliError> {
        let latency_micros = Histogram::new_with_max(LATENCY_MICROS_MAX, LATENCY_DIGITS)
            .map_err(|error| CliError::Unsound(error.to_string()))?;
        Ok(Self { accepted: 0, unmeasured: 0, refused: 0, failed_calls: 0, latency_micros })
    }

    /// Takes the time of a call.
    pub(super) fn took(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_micros.saturating_record(micros);
    }

    /// Takes what a call did: how many commands were accepted and how many refused. Those that do
    /// not count for the throughput count for the money all the same.
    pub(super) fn count(&mut self, (accepted, refused): (u64, u64), counts: bool) {
        let sum = if counts { &mut self.accepted } else { &mut self.unmeasured };
        *sum = sum.saturating_add(accepted);
        self.refused = self.refused.saturating_add(refused);
    }

    /// Takes a call that failed as a whole.
    pub(super) fn fail(&mut self) {
        self.failed_calls = self.failed_calls.saturating_add(1);
    }

    /// Adds what another client has measured.
    pub(super) fn add(&mut self, other: &Self) -> Result<(), CliError> {
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.unmeasured = self.unmeasured.saturating_add(other.unmeasured);
        self.refused = self.refused.saturating_add(other.refused);
        self.failed_calls = self.failed_calls.saturating_add(other.failed_calls);
        self.latency_micros
            .add(&other.latency_micros)
            .map_err(|error| CliError::Unsound(error.to_string()))
    }

    /// Accepted commands a second.
    pub(super) fn rate(&self, seconds: u64) -> u64 {
        self.accepted.checked_div(seconds).unwrap_or(0)
    }

    /// The times of the calls in words.
    pub(super) fn latency(&self) -> String {
        let at = |percentile| self.latency_micros.value_at_quantile(percentile);
        format!(
            "p50 {} µs, p90 {} µs, p99 {} µs, max {} µs",
            at(0.5),
            at(0.9),
            at(0.99),
            self.latency_micros.max()
        )
    }
}
