//! The books: all views together, folded from one entry at a time.

use super::{AccountFilter, AccountPage, AccountView, SagaState, accounts::Accounts, sagas::Sagas};
use crate::{
    domain::{AccountId, Inconsistent, Register, SagaId},
    event_store::{Entry, EventIds},
};

/// What the log adds up to, for reading.
#[derive(Debug)]
pub struct Books {
    accounts: Accounts,
    sagas: Sagas,
    transaction_count: u64,
    position: u64,
    time_micros: i64,
}

/// The figures of the whole ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// How many accounts were ever opened.
    pub account_count: u64,
    /// How many accounts are open.
    pub open_account_count: u64,
    /// How many events changed a balance.
    pub transaction_count: u64,
    /// How many sagas are in each state, by ascending state.
    pub saga_counts: [(SagaState, u64); SagaState::ALL.len()],
    /// How many events there are: the position that all this is true at.
    pub position: u64,
}

impl Books {
    /// Of an empty log. `register` has the ids of the accounts of the entries that will come.
    #[must_use]
    pub fn new(register: Register) -> Self {
        Self {
            accounts: Accounts::new(register),
            sagas: Sagas::default(),
            transaction_count: 0,
            position: 0,
            time_micros: 0,
        }
    }

    /// Folds an entry. Entries must come in order and without gaps.
    ///
    /// # Errors
    /// [`Inconsistent`] when the entry does not follow on those before it; the books are then
    /// without meaning.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Inconsistent> {
        if Some(entry.first_position) != self.position.checked_add(1) {
            return Err(Inconsistent);
        }
        for (slot, account) in entry.accounts.iter().enumerate() {
            self.accounts.apply(entry, account, slot)?;
        }
        self.sagas.apply(entry);
        let transactions =
            entry.events.iter().filter(|event| event.fact.balance_after().is_some()).count();
        let transactions = u64::try_from(transactions).unwrap_or(0);
        self.transaction_count = self.transaction_count.saturating_add(transactions);
        self.position = entry.last_position();
        self.time_micros = entry.time_micros;
        Ok(())
    }

    /// The position that everything here is true at.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// When the newest entry was recorded, in microseconds since 1970 UTC; 0 when there is none.
    #[must_use]
    pub fn time_micros(&self) -> i64 {
        self.time_micros
    }

    /// An account.
    #[must_use]
    pub fn account(&self, account_id: AccountId) -> Option<AccountView> {
        self.accounts.get(account_id)
    }

    /// The accounts that pass a filter, from a place on.
    #[must_use]
    pub fn accounts(&self, filter: &AccountFilter, from: u32, limit: usize) -> AccountPage {
        self.accounts.list(filter, from, limit)
    }

    /// The first positions of the newest sagas in a state, or in each.
    #[must_use]
    pub fn newest_sagas(&self, state: Option<SagaState>) -> Vec<u64> {
        self.sagas.newest(state)
    }

    /// The position that a saga's id leads to, if there can be such a saga.
    #[must_use]
    pub fn locate_saga(&self, saga_id: SagaId, ids: &EventIds) -> Option<u64> {
        self.sagas.locate(saga_id, ids).filter(|position| *position <= self.position)
    }

    /// The figures of the whole ledger.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            account_count: self.accounts.count(),
            open_account_count: self.accounts.open_count(),
            transaction_count: self.transaction_count,
            saga_counts: SagaState::ALL.map(|state| (state, self.sagas.count(state))),
            position: self.position,
        }
    }
}
