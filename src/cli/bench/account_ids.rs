//! The ids of a benchmark's accounts.

use uuid::Uuid;

/// Ids that follow on one another like numbers: they are computed when they are needed, so that
/// choosing among millions does not cost the client a wait for its own memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountIds {
    first: Uuid,
    count: usize,
}

/// How many ids have the same beginning, a UUIDv7 of the run: more than there can be accounts.
const IDS_BITS: u32 = 32;

impl AccountIds {
    /// So many ids that no other run has.
    pub(super) fn new(count: usize) -> Self {
        let first = Uuid::now_v7().as_u128() >> IDS_BITS << IDS_BITS;
        Self { first: Uuid::from_u128(first), count }
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        self.count
    }

    /// The id at a place.
    pub(super) fn at(self, index: usize) -> Uuid {
        let index = u128::try_from(index).unwrap_or(u128::MAX);
        Uuid::from_u128(self.first.as_u128() | index)
    }

    /// All of them, in order.
    pub(super) fn iter(self) -> impl Iterator<Item = Uuid> + Send {
        (0..self.count).map(move |index| self.at(index))
    }
}
