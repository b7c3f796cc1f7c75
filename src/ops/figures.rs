//! Figures: what is counted while the server works, for whoever asks later.
//!
//! It owns counting: a few atomic operations, no lock, nothing allocated. It must not know what is
//! counted or how it is shown; that is [`exposition`](super::exposition).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is replaced.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now; 0 before it was set.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now. A clone counts the same.
#[derive(Clone, Debug, Default)]
pub struct Presence(Arc<AtomicU64>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Present(Arc<AtomicU64>);

impl Presence {
    /// One more has come.
    #[must_use]
    pub fn enter(&self) -> Present {
        self.0.fetch_add(1, Ordering::Relaxed);
        Present(Arc::clone(&self.0))
    }

    /// How many are there.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How values are distributed: how many are at most as large as each of some bounds.
#[derive(Debug)]
pub struct Histogram {
    /// Ascending.
    bounds: &'static [u64],
    /// How many values are at most their bound and above the one before it; the last ones are above
    /// all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram holds at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// The bounds, ascending.
    pub bounds: &'static [u64],
    /// How many values belong to each bound and not to the one before it; then those above all.
    pub counts: Vec<u64>,
    /// What all values add up to.
    pub sum: u64,
}

impl Histogram {
    /// Of no values, with ascending bounds.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        let counts = bounds.iter().chain([&u64::MAX]).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn record(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What it holds. Values that are recorded meanwhile may be in the sum and not yet in the
    /// counts, or the other way round.
    #[must_use]
    pub fn get(&self) -> Distribution {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Distribution { bounds: self.bounds, counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

impl Distribution {
    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |count, more| count.saturating_add(*more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[1, 10, 100]);
        for value in [0, 1, 2, 10, 11, 100, 101, 1_000] {
            histogram.record(value);
        }
        let found = histogram.get();
        assert_eq!((found.counts.as_slice(), found.sum), (&[2, 2, 2, 2][..], 1_225));
        assert_eq!(found.count(), 8);
    }

    #[test]
    fn who_has_left_is_not_counted() {
        let presence = Presence::default();
        let (one, other) = (presence.enter(), presence.clone().enter());
        assert_eq!(presence.get(), 2);
        drop(one);
        assert_eq!(presence.get(), 1);
        drop(other);
        assert_eq!(presence.get(), 0);
    }
}
