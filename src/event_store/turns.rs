//! What threads share, wait by, and are: of the standard library and the runtime; or, in a build
//! with the feature `shuttle`, of a scheduler that chooses whose turn it is, so that a test can try
//! many orders of turns and repeat the one that failed.
//!
//! What never waits (the mailbox, the answers, what is watched) is the same in both.

#[cfg(not(feature = "shuttle"))]
pub(super) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic, mpsc},
    thread,
};

#[cfg(feature = "shuttle")]
pub(super) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, atomic, mpsc},
    thread,
};

/// Runs a task beside its caller.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(not(feature = "shuttle"))]
    tokio::spawn(task);
    #[cfg(feature = "shuttle")]
    drop(shuttle::future::spawn(task));
}
