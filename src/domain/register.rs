//! The register: which accounts there are, by their numbers and by their ids.

use std::{
    hash::BuildHasher,
    hint::black_box,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::AccountId;

/// Numbers the accounts in the order of their opening, from 0, and finds the number of an id.
///
/// Whoever keeps something of every account keeps it by number, and shares one register with the
/// others: ids are the largest part of what is known of an account. It only ever grows. An account
/// may be in here before whoever asks has heard of it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Register(Arc<RwLock<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    ids: Vec<AccountId>,
    /// Finds a number by the id. It holds numbers of 4 bytes and not the ids again.
    by_id: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Register {
    /// The number of an account.
    #[must_use]
    pub fn find(&self, account_id: AccountId) -> Option<u32> {
        self.read().find(account_id)
    }

    /// Brings what [`Register::find`] looks at closer to the processor. `go_on` is told the numbers
    /// that the accounts have, nearly always: they are guesses, for warming more.
    ///
    /// The lock is taken once for all: taking it waits for whatever is still on its way from
    /// memory, so that nothing would overlap.
    pub(super) fn warm(&self, accounts: impl Iterator<Item = AccountId>, go_on: impl Fn(u32)) {
        let numbers = self.read();
        accounts.filter_map(|account_id| numbers.warm(account_id)).for_each(go_on);
    }

    /// The same for [`Register::id`].
    pub(super) fn warm_numbers(&self, known: impl Iterator<Item = u32>, go_on: impl Fn(u32)) {
        let numbers = self.read();
        for number in known {
            black_box(numbers.id(number));
            go_on(number);
        }
    }

    /// The account with a number.
    #[must_use]
    pub fn id(&self, number: u32) -> Option<AccountId> {
        self.read().id(number)
    }

    /// Gives the next number to an account that has none; `None` when there is no further number.
    #[must_use]
    pub fn add(&self, account_id: AccountId) -> Option<u32> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).add(account_id)
    }

    fn read(&self) -> RwLockReadGuard<'_, Numbers> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn find(&self, account_id: AccountId) -> Option<u32> {
        let hash = self.hasher.hash_one(account_id);
        self.by_id.find(hash, |number| self.id(*number) == Some(account_id)).copied()
    }

    /// Finds a number that a part of the hash fits. Whoever goes on to what is kept under it does
    /// not have to wait for the id first.
    fn warm(&self, account_id: AccountId) -> Option<u32> {
        let number = *self.by_id.find(self.hasher.hash_one(account_id), |_| true)?;
        black_box(self.id(number));
        Some(number)
    }

    fn id(&self, number: u32) -> Option<AccountId> {
        self.ids.get(usize::try_from(number).ok()?).copied()
    }

    fn add(&mut self, account_id: AccountId) -> Option<u32> {
        let number = u32::try_from(self.ids.len()).ok()?;
        self.ids.push(account_id);
        let (ids, hasher) = (&self.ids, &self.hasher);
        let hash_of = |number: &u32| {
            let id = usize::try_from(*number).ok().and_then(|number| ids.get(number));
            id.map_or(0, |id| hasher.hash_one(id))
        };
        self.by_id.insert_unique(hasher.hash_one(account_id), number, hash_of);
        Some(number)
    }
}
