//! Deliveries: how long after an answer a tail tells what was answered.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::measure::Times;
use crate::cli::CliError;

/// How many answers wait for the tail at most; it is far behind then, and more are not timed.
const UNTOLD_MAX: usize = 1_000_000;

/// What a load was answered, and what a tail has told of it.
pub(super) struct Deliveries {
    /// Everything up to here has been told.
    position: i64,
    /// Answers that were not told yet: their positions, and when they came.
    untold: BTreeSet<(i64, Instant)>,
    /// How long answers waited until they were told; nothing when the tail was first.
    pub(super) times: Times,
    /// Answers that were not timed.
    pub(super) untimed: u64,
}

impl Deliveries {
    /// Nothing was told yet.
    pub(super) fn new() -> Result<Self, CliError> {
        Ok(Self { position: 0, untold: BTreeSet::new(), times: Times::new()?, untimed: 0 })
    }

    /// An answer came that tells this position.
    pub(super) fn answered(&mut self, position: i64, now: Instant) {
        if position <= self.position {
            self.times.add(Duration::ZERO);
        } else if self.untold.len() < UNTOLD_MAX {
            self.untold.insert((position, now));
        } else {
            self.untimed = self.untimed.saturating_add(1);
        }
    }

    /// The tail has told everything up to this position.
    pub(super) fn told(&mut self, position: i64, now: Instant) {
        self.position = position;
        while let Some((answered, at)) = self.untold.first().copied()
            && answered <= position
        {
            self.untold.pop_first();
            self.times.add(now.duration_since(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Intent: a delivery counts from its answer, whatever the order of the answers, and as nothing
    /// when the tail was first.
    #[test]
    fn a_delivery_counts_from_its_answer() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut deliveries = Deliveries::new().unwrap();
        deliveries.told(2, at(0));
        deliveries.answered(2, at(1));
        assert_eq!((deliveries.times.count(), deliveries.times.micros(1.0)), (1, 0));
        deliveries.answered(4, at(1));
        deliveries.answered(3, at(2));
        deliveries.told(3, at(3));
        assert_eq!((deliveries.times.count(), deliveries.times.micros(1.0)), (2, 1_000));
        deliveries.told(9, at(8));
        assert_eq!(deliveries.times.count(), 3);
        assert!(deliveries.times.micros(1.0).abs_diff(7_000) < 10);
    }
}
