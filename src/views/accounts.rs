//! The accounts view: what every account is now.

use std::{hash::BuildHasher, num::NonZeroU32};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{SCAN_ENTRIES_MAX, owners::Owners};
use crate::{
    domain::{Account, AccountId, AccountState, CurrencyCode, Fact, Inconsistent, SagaId},
    event_store::{Entry, EntryAccount},
};

/// All accounts, in the order of their opening.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    rows: Vec<Row>,
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    owners: Owners,
    /// One bit for each account: whether it is closed. Finding the next closed or open account
    /// looks at 64 of them at once.
    closed: Vec<u64>,
    closed_count: u64,
}

/// An account, with what reading needs beside its state.
#[derive(Debug)]
struct Row {
    account: Account,
    owner: u32,
    /// The next account of the same owner; it is never the first of all accounts, number 0.
    next_of_owner: Option<NonZeroU32>,
    open_time_micros: i64,
    update_time_micros: i64,
    /// The first position of its newest entry: the beginning of the way back.
    newest_entry: u64,
    transaction_count: u64,
}

/// What an account is, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Its state.
    pub account: Account,
    /// Whom it belongs to.
    pub owner: Box<str>,
    /// When it was opened, in microseconds since 1970 UTC.
    pub open_time_micros: i64,
    /// When its newest event was recorded, in microseconds since 1970 UTC.
    pub update_time_micros: i64,
    /// The first position of its newest entry in the log.
    pub newest_entry: u64,
    /// How many of its events changed its balance.
    pub transaction_count: u64,
}

/// Which accounts to list.
#[derive(Clone, Debug, Default)]
pub struct AccountFilter {
    /// Only those of this owner.
    pub owner: Option<Box<str>>,
    /// Only those in this state.
    pub state: Option<AccountState>,
}

/// Some accounts, and where to go on.
#[derive(Clone, Debug, Default)]
pub struct AccountPage {
    /// The accounts, in the order of their opening.
    pub accounts: Vec<AccountView>,
    /// The place to begin the next page at; `None` on the last page.
    pub next: Option<u32>,
    /// How many accounts pass the filter in all.
    pub total: u64,
}

impl Accounts {
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.rows.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn open_count(&self) -> u64 {
        self.count().saturating_sub(self.closed_count)
    }

    fn row(&self, place: u32) -> Option<&Row> {
        self.rows.get(usize::try_from(place).ok()?)
    }

    fn find(&self, account_id: AccountId) -> Option<u32> {
        let hash = self.hasher.hash_one(account_id);
        let is_it =
            |place: &u32| self.row(*place).is_some_and(|row| row.account.id() == account_id);
        self.places.find(hash, is_it).copied()
    }

    pub(super) fn get(&self, account_id: AccountId) -> Option<AccountView> {
        self.view(self.find(account_id)?)
    }

    fn view(&self, place: u32) -> Option<AccountView> {
        let row = self.row(place)?;
        Some(AccountView {
            account: row.account.clone(),
            owner: self.owners.at(row.owner)?.name.clone(),
            open_time_micros: row.open_time_micros,
            update_time_micros: row.update_time_micros,
            newest_entry: row.newest_entry,
            transaction_count: row.transaction_count,
        })
    }

    /// Folds what an entry says of one of its accounts: the facts of one slot, in order.
    pub(super) fn apply(
        &mut self,
        entry: &Entry,
        before: &EntryAccount,
        slot: usize,
    ) -> Result<(), Inconsistent> {
        let saga_id = entry.saga.map(|saga| saga.id);
        let index = usize::try_from(before.number).map_err(|_| Inconsistent)?;
        if index == self.rows.len() {
            self.open(entry, before, slot)?;
        }
        let row = self.rows.get_mut(index).ok_or(Inconsistent)?;
        if row.account.id() != before.id {
            return Err(Inconsistent);
        }
        for event in entry.events.iter().filter(|event| event.slot == slot) {
            row.account.evolve(&event.fact, saga_id)?;
            let counts = u64::from(event.fact.balance_after().is_some());
            row.transaction_count = row.transaction_count.saturating_add(counts);
        }
        row.update_time_micros = entry.time_micros;
        row.newest_entry = entry.first_position;
        if row.account.state() == AccountState::Closed {
            let owner = row.owner;
            self.close(index, owner);
        }
        Ok(())
    }

    fn open(
        &mut self,
        entry: &Entry,
        before: &EntryAccount,
        slot: usize,
    ) -> Result<(), Inconsistent> {
        let opening = entry.events.iter().find(|event| event.slot == slot).ok_or(Inconsistent)?;
        let Fact::AccountOpened { owner, .. } = &opening.fact else { return Err(Inconsistent) };
        let place = u32::try_from(self.rows.len()).map_err(|_| Inconsistent)?;
        let (owner, previous) = self.owners.add_account(owner.as_str(), place);
        if let Some(index) = previous.and_then(|previous| usize::try_from(previous).ok())
            && let Some(row) = self.rows.get_mut(index)
        {
            row.next_of_owner = NonZeroU32::new(place);
        }
        if self.rows.len().is_multiple_of(64) {
            self.closed.push(0);
        }
        self.rows.push(Row {
            account: Account::unopened(before.id),
            owner,
            next_of_owner: None,
            open_time_micros: entry.time_micros,
            update_time_micros: entry.time_micros,
            newest_entry: entry.first_position,
            transaction_count: 0,
        });
        let (rows, hasher) = (&self.rows, &self.hasher);
        let hash_of = |place: &u32| {
            let row = usize::try_from(*place).ok().and_then(|place| rows.get(place));
            row.map_or(0, |row| hasher.hash_one(row.account.id()))
        };
        self.places.insert_unique(hasher.hash_one(before.id), place, hash_of);
        Ok(())
    }

    fn close(&mut self, index: usize, owner: u32) {
        if let Some(word) = self.closed.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
        self.closed_count = self.closed_count.saturating_add(1);
        if let Some(owner) = self.owners.at_mut(owner) {
            owner.closed_count = owner.closed_count.saturating_add(1);
        }
    }

    /// The accounts that pass a filter, from a place on.
    pub(super) fn list(&self, filter: &AccountFilter, from: u32, limit: usize) -> AccountPage {
        match &filter.owner {
            Some(owner) => self.list_of_owner(owner, filter.state, from, limit),
            None => self.list_all(filter.state, from, limit),
        }
    }

    fn list_all(&self, state: Option<AccountState>, from: u32, limit: usize) -> AccountPage {
        let mut places = std::iter::successors(self.next_in(state, from), |place| {
            self.next_in(state, place.checked_add(1)?)
        });
        let accounts = places.by_ref().take(limit).filter_map(|place| self.view(place)).collect();
        let total = match state {
            None => self.count(),
            Some(AccountState::Active) => self.open_count(),
            Some(AccountState::Closed) => self.closed_count,
        };
        AccountPage { accounts, next: places.next(), total }
    }

    /// The first account from a place on that is in a state.
    fn next_in(&self, state: Option<AccountState>, from: u32) -> Option<u32> {
        let first = usize::try_from(from).ok()?;
        let words = self.closed.get(first / 64..)?;
        let mut mask = u64::MAX << (first % 64);
        for (word, base) in words.iter().zip((first / 64..).map(|index| index.saturating_mul(64))) {
            let hits = mask
                & match state {
                    None => u64::MAX,
                    Some(AccountState::Active) => !word,
                    Some(AccountState::Closed) => *word,
                };
            mask = u64::MAX;
            if hits != 0 {
                let offset = usize::try_from(hits.trailing_zeros()).ok()?;
                let index = base.checked_add(offset)?;
                return if index < self.rows.len() { u32::try_from(index).ok() } else { None };
            }
        }
        None
    }

    fn list_of_owner(
        &self,
        owner: &str,
        state: Option<AccountState>,
        from: u32,
        limit: usize,
    ) -> AccountPage {
        let Some((_, owner)) = self.owners.find(owner) else { return AccountPage::default() };
        let closed = owner.closed_count;
        let total = match state {
            None => owner.account_count,
            Some(AccountState::Active) => owner.account_count.saturating_sub(closed),
            Some(AccountState::Closed) => closed,
        };
        let mut page = AccountPage { total: u64::from(total), ..AccountPage::default() };
        let mut place = Some(from.max(owner.first_account));
        for _ in 0..SCAN_ENTRIES_MAX {
            let Some(row) = place.and_then(|place| self.row(place)) else { break };
            if page.accounts.len() >= limit {
                break;
            }
            if state.is_none_or(|state| row.account.state() == state) {
                page.accounts.extend(place.and_then(|place| self.view(place)));
            }
            place = row.next_of_owner.map(NonZeroU32::get);
        }
        page.next = place;
        page
    }
}

impl AccountView {
    /// Its currency.
    #[must_use]
    pub fn currency(&self) -> CurrencyCode {
        self.account.currency()
    }

    /// The transfers from it that have begun and not ended.
    #[must_use]
    pub fn pending(&self) -> Vec<SagaId> {
        self.account.pending().collect()
    }
}
