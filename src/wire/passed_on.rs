//! How many calls came while the ledger was another process's, by what became of them.

use crate::ops::Counter;

/// Counts of such calls. Those whose callers left before are in none of them.
#[derive(Debug, Default)]
pub struct PassedOn {
    /// They were not: a read that this server could answer by itself.
    pub(super) answered_nearby: Counter,
    /// The owner has begun to answer, whatever it says.
    pub(super) answered: Counter,
    /// Nobody knows where the owner is.
    pub(super) owner_unknown: Counter,
    /// The owner did not answer.
    pub(super) owner_unreachable: Counter,
    /// May not be passed on: another process did already, or only this one knows who calls.
    pub(super) not_owner: Counter,
}

impl PassedOn {
    /// All of them, each with its name.
    #[must_use]
    pub fn get(&self) -> [(&'static str, u64); 5] {
        [
            ("answered_nearby", self.answered_nearby.get()),
            ("answered", self.answered.get()),
            ("owner_unknown", self.owner_unknown.get()),
            ("owner_unreachable", self.owner_unreachable.get()),
            ("not_owner", self.not_owner.get()),
        ]
    }
}
