//! A token bucket: how often something may happen, with one second's worth at once.

use std::time::Duration;

use tokio::time::Instant;

/// How much may come at once, as the time in which it would come at the given rate.
const BURST: Duration = Duration::from_secs(1);

/// Fills at a rate, and holds what comes in a second.
#[derive(Debug)]
pub(super) struct Bucket {
    /// After how long one more fits.
    interval: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl Bucket {
    /// Takes `per_second` a second, at least 1; as many at once when nothing came for a second.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let interval = BURST.checked_div(per_second.max(1)).unwrap_or(BURST);
        Self { interval, full_at: now }
    }

    /// Takes one.
    ///
    /// # Errors
    /// After how long there is one again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.full_at = self.full_after_one(now)?;
        Ok(())
    }

    /// Whether one could be taken.
    ///
    /// # Errors
    /// As [`Bucket::take`].
    pub(super) fn has_one(&self, now: Instant) -> Result<(), Duration> {
        self.full_after_one(now).map(|_| ())
    }

    fn full_after_one(&self, now: Instant) -> Result<Instant, Duration> {
        let full_at = self.full_at.max(now).checked_add(self.interval);
        let Some(full_at) = full_at else { return Err(BURST) };
        let over = full_at.saturating_duration_since(now).saturating_sub(BURST);
        if over.is_zero() { Ok(full_at) } else { Err(over) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_one_second_and_fills_at_its_rate() {
        let begin = Instant::now();
        for rate in [1_u32, 3, 10, 1_000] {
            let mut bucket = Bucket::new(rate, begin);
            for _ in 0..rate {
                assert_eq!(bucket.has_one(begin), Ok(()), "{rate}");
                assert_eq!(bucket.take(begin), Ok(()), "{rate}");
            }
            assert_eq!(bucket.has_one(begin), bucket.take(begin), "{rate}");
            let wait = bucket.take(begin).unwrap_err();
            assert!(!wait.is_zero() && wait <= BURST / rate, "{rate}: {wait:?}");
            let almost = begin + wait - Duration::from_nanos(1);
            assert_eq!(bucket.take(almost), Err(Duration::from_nanos(1)), "{rate}");
            assert_eq!(bucket.take(begin + wait), Ok(()), "{rate}");
            assert!(bucket.take(begin + wait).is_err(), "one came, and no more: {rate}");
            let later = begin + Duration::from_secs(3_600);
            let taken = (0..2 * rate).filter(|_| bucket.take(later).is_ok()).count();
            assert_eq!(taken, rate as usize, "never more than one second's worth");
        }
    }
}
