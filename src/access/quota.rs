//! Quotas: how much of the server one principal may take at once, so that none is in the way of
//! the others.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{bucket::Bucket, lock};

/// When to try again what has no place: by then a few groups of commands have passed.
const RETRY_PLACE: Duration = Duration::from_millis(50);
/// When to try again for a tail, which may stay open for days.
const RETRY_TAIL: Duration = Duration::from_secs(1);

/// What each principal may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls under way at once, streams of commands among them.
    pub calls: u32,
    /// Calls begun in a second, and as many at once; 0 for any number.
    pub rate: u32,
    /// Open tails.
    pub tails: u32,
}

/// What a principal has too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the principal's quota {quota} of {limit} is used up")]
pub struct Exceeded {
    /// Which quota, by the name of its setting.
    pub quota: &'static str,
    /// How much it is.
    pub limit: u32,
    /// When to try again.
    pub retry: Duration,
}

/// What one principal has taken.
#[derive(Debug)]
pub(super) struct Quota {
    limits: Limits,
    calls: AtomicU32,
    tails: AtomicU32,
    /// None where there is no rate.
    bucket: Option<Mutex<Bucket>>,
}

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub struct Place {
    quota: Arc<Quota>,
    is_tail: bool,
}

impl Quota {
    pub(super) fn new(limits: Limits) -> Self {
        let bucket = (limits.rate > 0).then(|| Bucket::new(limits.rate, Instant::now()));
        Self {
            limits,
            calls: AtomicU32::new(0),
            tails: AtomicU32::new(0),
            bucket: bucket.map(Mutex::new),
        }
    }

    /// Counts one more call against the rate.
    ///
    /// # Errors
    /// [`Exceeded`] when it comes too early.
    pub(super) fn pace(&self, now: Instant) -> Result<(), Exceeded> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let mut bucket = lock(bucket);
        let limit = self.limits.rate;
        let exceeded = |retry| Exceeded { quota: "rate_per_principal", limit, retry };
        bucket.take(now).map_err(exceeded)
    }

    /// Whether one more call would come too early, and when it would not.
    pub(super) fn is_early(&self, now: Instant) -> Option<Duration> {
        lock(self.bucket.as_ref()?).has_one(now).err()
    }

    /// A place for one more call or tail.
    ///
    /// # Errors
    /// [`Exceeded`] when there is none.
    pub(super) fn place(self: &Arc<Self>, is_tail: bool) -> Result<Place, Exceeded> {
        let Limits { calls, rate: _, tails } = self.limits;
        let (limit, quota, retry) = if is_tail {
            (tails, "tails_per_principal", RETRY_TAIL)
        } else {
            (calls, "calls_per_principal", RETRY_PLACE)
        };
        let place = Place { quota: Arc::clone(self), is_tail };
        let before = place.taken().fetch_add(1, Ordering::Relaxed);
        if before < limit { Ok(place) } else { Err(Exceeded { quota, limit, retry }) }
    }
}

impl Place {
    fn taken(&self) -> &AtomicU32 {
        if self.is_tail { &self.quota.tails } else { &self.quota.calls }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken().fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(calls: u32, rate: u32, tails: u32) -> Arc<Quota> {
        Arc::new(Quota::new(Limits { calls, rate, tails }))
    }

    #[test]
    fn places_are_counted_until_they_are_given_back() {
        let quota = quota(2, 0, 1);
        let calls: Vec<_> = (0..2).map(|_| quota.place(false).unwrap()).collect();
        for _ in 0..3 {
            let exceeded = quota.place(false).unwrap_err();
            assert_eq!((exceeded.quota, exceeded.limit), ("calls_per_principal", 2));
        }
        let tail = quota.place(true).unwrap();
        let exceeded = quota.place(true).unwrap_err();
        assert_eq!((exceeded.quota, exceeded.limit), ("tails_per_principal", 1));
        drop((calls, tail));
        assert!(quota.place(false).is_ok() && quota.place(true).is_ok());
        assert_eq!(quota.calls.load(Ordering::Relaxed), 0, "nothing is counted twice");
    }

    #[test]
    fn a_rate_lets_one_seconds_worth_through_at_once() {
        let quota = quota(1, 5, 1);
        let now = Instant::now() + Duration::from_secs(1);
        for _ in 0..5 {
            quota.pace(now).unwrap();
        }
        let exceeded = quota.pace(now).unwrap_err();
        assert_eq!(quota.is_early(now), Some(exceeded.retry));
        assert_eq!((exceeded.quota, exceeded.limit), ("rate_per_principal", 5));
        assert_eq!(exceeded.retry, Duration::from_millis(200));
        let later = now + exceeded.retry;
        assert_eq!(quota.is_early(later), None);
        quota.pace(later).unwrap();
        assert!(quota.pace(later).is_err());
    }

    #[test]
    fn without_a_rate_nothing_is_paced() {
        let quota = quota(1, 0, 1);
        assert!((0..100_000).all(|_| quota.pace(Instant::now()).is_ok()));
        assert_eq!(quota.is_early(Instant::now()), None);
    }
}
