//! What comes late: services are reachable before the ledger is recovered, and say so.

use std::sync::{Arc, OnceLock};

use tonic::Status;

use super::status;

/// Something that is there once the ledger is recovered. Cheap to clone.
pub struct Late<T>(Arc<OnceLock<T>>);

impl<T> Late<T> {
    /// Brings it. The first one stays.
    pub fn set(&self, value: T) {
        let _the_first_stays = self.0.set(value);
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.get().is_some()
    }

    /// It, if it is there.
    ///
    /// # Errors
    /// UNAVAILABLE while the ledger is being recovered.
    pub(super) fn get(&self) -> Result<&T, Status> {
        self.0.get().ok_or_else(status::starting)
    }
}

impl<T> Default for Late<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Late<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
