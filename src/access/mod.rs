//! Access: who calls, and what that one may do.
//!
//! It owns the credentials (tokens, names of certificates, subjects of JWTs and the keys that sign
//! them), the policy (which role may call which method), and how much of the server each principal
//! may take at once. Of the bank it knows account ids and the names of principals. It must not know
//! what a call does, nor gRPC: the wire asks it, and turns what it says into statuses.
//!
//! No token is ever kept: of those in the file only hashes are known, and one that is presented is
//! forgotten when its call has been let in. Nothing here prints what a file says, only where it is
//! wrong.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod attempts;
mod audit;
mod believed;
mod bucket;
mod caller;
mod certificate;
mod credentials;
mod file;
mod gate;
mod jwt;
pub mod policy;
mod quota;
mod token;
mod trust;
mod watch;

/// A certificate by its name among those of the tests.
#[cfg(test)]
pub(crate) use certificate::tests::der as certificate_for_tests;

/// Signs JWTs for tests, those of the whole service as well.
#[cfg(test)]
#[path = "../../tests/issuer/mod.rs"]
mod issuer;

pub use attempts::Attempts;
pub use audit::{Audit, Origin};
pub use caller::Caller;
pub use certificate::CertificateNames;
pub use file::LoadError;
pub use gate::{Denial, Denied, Gate, Identity};
pub use policy::Role;
pub use quota::{Exceeded, Limits, Place};
pub use token::{TOKEN_BYTES_MAX, TokenError, hash_of, new_token};
pub use trust::Trust;

/// Locks what this room keeps: nothing can panic while it is locked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
