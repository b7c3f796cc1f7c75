//! Attempts: how often a token whose signature is wrong may come over a connection.
//!
//! Who forges a token needs a few bytes for it, and to find that out takes as long as many calls.
//! A connection may be that of many callers, behind a proxy, who are all told to come again when
//! one of them does that very often, and who are known already are let in all the same.

use std::sync::Mutex;

use tokio::time::Instant;

use super::{bucket::Bucket, lock};

/// How many a second, and as many at once: to verify them takes a hundredth of a processor.
const PER_SECOND: u32 = 100;

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
        lock(&self.0).has_one(Instant::now()).is_ok()
    }

    /// Counts one that was in vain.
    pub(super) fn count(&self) {
        let _whether_or_not = lock(&self.0).take(Instant::now());
    }
}
