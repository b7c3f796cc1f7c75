//! The books: all views together, folded from one entry at a time.

use super::{
    AccountFilter, AccountPage, AccountView, SagaState,
    accounts::{Accounts, Beside},
    checkpoint,
    frozen::Frozen,
    sagas::Sagas,
};
use crate::{
    domain::{Account, AccountId, Inconsistent, Register, SagaId},
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
    /// The position to freeze at, when it is still to come.
    freeze_at: Option<u64>,
    frozen: Option<Frozen>,
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
        Self::resumed(register, (0, 0), 0, Sagas::default())
    }

    /// Books up to a position, without their accounts and named sagas, which are to be given back
    /// one after another.
    pub(super) fn resumed(
        register: Register,
        (position, time_micros): (u64, i64),
        transaction_count: u64,
        sagas: Sagas,
    ) -> Self {
        let accounts = Accounts::new(register);
        let (freeze_at, frozen) = (None, None);
        Self { accounts, sagas, transaction_count, position, time_micros, freeze_at, frozen }
    }

    pub(super) fn give_back_account(
        &mut self,
        account: &Account,
        beside: Beside,
        owner_name: Option<&str>,
    ) -> Result<(), Inconsistent> {
        self.accounts.give_back(account, beside, owner_name)
    }

    pub(super) fn give_back_saga(&mut self, saga_id: SagaId, position: u64) {
        self.sagas.give_back(saga_id, position);
    }

    /// How many sagas have an id that a caller chose.
    pub(super) fn named_saga_count(&self) -> u64 {
        u64::try_from(self.sagas.named().len()).unwrap_or(u64::MAX)
    }

    /// Asks for the books as they are right after a position, in pieces; says whether that is
    /// still to be had. They are frozen when they have come there.
    pub(super) fn freeze_at(&mut self, position: u64) -> bool {
        self.thaw();
        self.freeze_at = Some(position);
        self.freeze_if_due();
        self.position <= position
    }

    fn freeze_if_due(&mut self) {
        if self.freeze_at == Some(self.position) {
            self.freeze_at = None;
            let summary =
                checkpoint::summary(self.position, self.time_micros, self.transaction_count);
            self.frozen = Some(Frozen::new(&self.accounts, &self.sagas, summary));
        }
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// The next piece of the frozen books; `None` after the last one.
    pub(super) fn next_frozen_piece(&mut self) -> Option<Vec<u8>> {
        self.frozen.as_mut()?.next_piece(&self.accounts, &self.sagas)
    }

    /// Forgets what was frozen, and what was to be.
    pub(super) fn thaw(&mut self) {
        (self.freeze_at, self.frozen) = (None, None);
    }

    /// Makes folding the entries faster: brings what that looks up closer to the processor. Asked
    /// for many entries in turn, the waits for memory overlap.
    pub fn warm(&self, entries: &[Entry]) {
        for account in entries.iter().flat_map(|entry| &entry.accounts) {
            self.accounts.warm(account.number);
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
            self.accounts.apply(entry, account, slot, self.frozen.as_mut())?;
        }
        self.sagas.apply(entry);
        let transactions =
            entry.events.iter().filter(|event| event.fact.balance_after().is_some()).count();
        let transactions = u64::try_from(transactions).unwrap_or(0);
        self.transaction_count = self.transaction_count.saturating_add(transactions);
        self.position = entry.last_position();
        self.time_micros = entry.time_micros;
        self.freeze_if_due();
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
