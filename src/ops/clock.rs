//! The wall clock, as something that is passed in.
//!
//! It is the only file that asks the system for the time of day. Everybody else is handed a
//! [`Clock`], so that a test can say what time it is. A wall clock may jump in either direction:
//! whoever needs times that never decrease must see to it.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Tells the time of day.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970-01-01 00:00 UTC; negative before it. Reading it twice may give a
    /// smaller number the second time.
    fn now_micros(&self) -> i64;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now_micros(&self) -> i64 {
        micros_since_epoch(SystemTime::now())
    }
}

/// A clock that stands still until it is told to move. For tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    /// What the clock shows. Atomic, because the test that sets it and the thread that reads it
    /// share the clock.
    micros: AtomicI64,
}

impl ManualClock {
    /// A clock that shows `micros` since the epoch.
    #[must_use]
    pub fn new(micros: i64) -> Self {
        Self { micros: AtomicI64::new(micros) }
    }

    /// Makes it show `micros` since the epoch, which may be earlier than what it showed.
    pub fn set(&self, micros: i64) {
        self.micros.store(micros, Ordering::SeqCst);
    }

    /// Moves it forward. It stops at the largest time that it can show.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        // Only one test drives a clock, so that nothing is lost between the two steps.
        self.set(self.now_micros().saturating_add(by));
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.micros.load(Ordering::SeqCst)
    }
}

fn micros_since_epoch(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_micros()).map_or(i64::MIN, i64::saturating_neg)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2020-01-01 00:00 UTC: no machine that runs these tests is set earlier.
    const YEAR_2020_MICROS: i64 = 1_577_836_800_000_000;

    #[test]
    fn the_system_clock_counts_microseconds() {
        let now = SystemClock.now_micros();
        assert!((YEAR_2020_MICROS..YEAR_2020_MICROS * 3).contains(&now), "{now}");
    }

    #[test]
    fn times_before_the_epoch_are_negative() {
        let two_seconds = Duration::from_secs(2);
        assert_eq!(micros_since_epoch(UNIX_EPOCH + two_seconds), 2_000_000);
        assert_eq!(micros_since_epoch(UNIX_EPOCH), 0);
        assert_eq!(micros_since_epoch(UNIX_EPOCH - two_seconds), -2_000_000);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(5);
        assert_eq!([clock.now_micros(), clock.now_micros()], [5, 5]);
        clock.advance(Duration::from_millis(1));
        assert_eq!(clock.now_micros(), 1_005);
        clock.set(-7);
        assert_eq!(clock.now_micros(), -7);
        clock.set(i64::MAX);
        clock.advance(Duration::from_micros(1));
        assert_eq!(clock.now_micros(), i64::MAX);
    }
}
