//! Attempts: how often a connection may show a token that nobody has signed.
//!
//! Who forges a token needs a few bytes for it, and to find that out takes as long as many calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::bucket::Bucket;

/// How many a second, and as many at once: a client that has one that is not good any more gets a
/// new one.
const PER_SECOND: u32 = 20;

/// What is left to one connection.
#[derive(Debug)]
pub struct Attempts(Mutex<Bucket>);

impl Default for Attempts {
    fn default() -> Self {
        Self(Mutex::new(Bucket::new(PER_SECOND, Instant::now())))
    }
}

impl Attempts {
    /// Whether there is one more.
    pub(super) fn are_left(&self) -> bool {
        self.bucket().has_one(Instant::now()).is_ok()
    }

    /// Counts one that was in vain.
    pub(super) fn count(&self) {
        let _whether_or_not = self.bucket().take(Instant::now());
    }

    /// Nothing can panic while it is locked.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
