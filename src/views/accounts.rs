//! The accounts view: what every account is now.

use std::{hint::black_box, num::NonZeroU32};

use super::{SCAN_ENTRIES_MAX, frozen::Frozen, owners::Owners};
use crate::{
    domain::{
        Account, AccountId, AccountState, Compact, CurrencyCode, Fact, Inconsistent, Register,
        Rows, SagaId,
    },
    event_store::{Chain, Entry, EntryAccount, Versions},
};

/// All accounts, in the order of their opening.
#[derive(Debug)]
pub(super) struct Accounts {
    /// Knows the ids of these accounts, and perhaps of some that are not open here yet.
    register: Register,
    rows: Rows<Beside>,
    owners: Owners,
    /// One bit for each account: whether it is closed. Finding the next closed or open account
    /// looks at 64 of them at once.
    closed: Vec<u64>,
    closed_count: u64,
}

/// What reading needs of an account beside its state.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    pub(super) owner: u32,
    /// The next account of the same owner; it is never the first of all accounts, number 0.
    next_of_owner: Option<NonZeroU32>,
    pub(super) open_time_micros: i64,
    pub(super) update_time_micros: i64,
    pub(super) transaction_count: u64,
    /// The way back to its entries.
    pub(super) chain: Chain,
}

impl Beside {
    /// What is kept of an account beside its state, without its place among those of its owner.
    pub(super) fn new(owner: u32, open_time_micros: i64, chain: Chain) -> Self {
        Self {
            owner,
            next_of_owner: None,
            open_time_micros,
            update_time_micros: open_time_micros,
            transaction_count: 0,
            chain,
        }
    }
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
    /// None yet; `register` has their ids when they come.
    pub(super) fn new(register: Register) -> Self {
        Self {
            register,
            rows: Rows::default(),
            owners: Owners::default(),
            closed: Vec::new(),
            closed_count: 0,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.rows.count().into()
    }

    pub(super) fn open_count(&self) -> u64 {
        self.count().saturating_sub(self.closed_count)
    }

    pub(super) fn get(&self, account_id: AccountId) -> Option<AccountView> {
        self.view_of(self.register.find(account_id)?, account_id)
    }

    fn view(&self, number: u32) -> Option<AccountView> {
        self.view_of(number, self.register.id(number)?)
    }

    fn view_of(&self, number: u32, id: AccountId) -> Option<AccountView> {
        let beside = self.rows.beside(number)?;
        Some(AccountView {
            account: self.rows.account(number, id)?,
            owner: self.owners.at(beside.owner)?.name.clone(),
            open_time_micros: beside.open_time_micros,
            update_time_micros: beside.update_time_micros,
            newest_entry: beside.chain.newest(),
            transaction_count: beside.transaction_count,
        })
    }

    /// An account with what is kept beside it.
    pub(super) fn row(&self, number: u32) -> Option<(Account, &Beside)> {
        let account = self.rows.account(number, self.register.id(number)?)?;
        Some((account, self.rows.beside(number)?))
    }

    /// The name of an owner.
    pub(super) fn owner_name(&self, place: u32) -> Option<&str> {
        self.owners.at(place).map(|owner| &*owner.name)
    }

    /// Gives back the account that comes next by number. `owner_name` is the name of its owner if
    /// none of the accounts before has the same owner.
    pub(super) fn give_back(
        &mut self,
        account: &Account,
        beside: Beside,
        owner_name: Option<&str>,
    ) -> Result<(), Inconsistent> {
        let (number, owner) = (self.rows.count(), beside.owner);
        self.rows.push(account.compact(), beside);
        self.rows.set(number, account);
        if number.is_multiple_of(u64::BITS) {
            self.closed.push(0);
        }
        if let Some(name) = owner_name {
            if self.owners.count() != owner {
                return Err(Inconsistent);
            }
            self.owners.add_account(name, number);
        } else {
            let previous = self.owners.add_account_of(owner, number).ok_or(Inconsistent)?;
            self.follow_in_owner(previous, number);
        }
        if account.state() == AccountState::Closed {
            self.close(number, owner);
        }
        Ok(())
    }

    /// Notes that an account comes after another one of the same owner.
    fn follow_in_owner(&mut self, previous: u32, number: u32) {
        if let Some(beside) = self.rows.beside_mut(previous) {
            beside.next_of_owner = NonZeroU32::new(number);
        }
    }

    /// Makes folding what an entry says of an account faster.
    pub(super) fn warm(&self, number: u32) {
        self.rows.warm(number, |beside| {
            black_box(beside.update_time_micros);
            beside.chain.touch();
        });
    }

    /// Folds what an entry says of one of its accounts: the facts of one slot, in order. What the
    /// account was before is kept in `frozen`, as far as that wants it.
    pub(super) fn apply(
        &mut self,
        entry: &Entry,
        before: &EntryAccount,
        slot: usize,
        frozen: Option<&mut Frozen>,
    ) -> Result<(), Inconsistent> {
        let saga_id = entry.saga.map(|saga| saga.id);
        let number = before.number;
        if number == self.rows.count() {
            self.open(entry, slot)?;
        }
        let mut account = self.rows.account(number, before.id).ok_or(Inconsistent)?;
        if (account.version(), account.balance()) != (before.version, before.balance) {
            return Err(Inconsistent);
        }
        if let Some(frozen) = frozen.filter(|frozen| frozen.wants(number)) {
            frozen.keep(number, &account, self.rows.beside(number).ok_or(Inconsistent)?);
        }
        let mut transactions = 0_u64;
        for event in entry.events.iter().filter(|event| event.slot == slot) {
            account.evolve(&event.fact, saga_id)?;
            let counts = u64::from(event.fact.balance_after().is_some());
            transactions = transactions.saturating_add(counts);
        }
        self.rows.set(number, &account);
        let beside = self.rows.beside_mut(number).ok_or(Inconsistent)?;
        beside.transaction_count = beside.transaction_count.saturating_add(transactions);
        beside.update_time_micros = entry.time_micros;
        let versions = Versions { before: before.version, after: account.version() };
        beside.chain.advance(entry.first_position, versions);
        if account.state() == AccountState::Closed {
            let owner = beside.owner;
            self.close(number, owner);
        }
        Ok(())
    }

    fn open(&mut self, entry: &Entry, slot: usize) -> Result<(), Inconsistent> {
        let opening = entry.events.iter().find(|event| event.slot == slot).ok_or(Inconsistent)?;
        let Fact::AccountOpened { owner, .. } = &opening.fact else { return Err(Inconsistent) };
        let number = self.rows.count();
        let (owner, previous) = self.owners.add_account(owner.as_str(), number);
        if let Some(previous) = previous {
            self.follow_in_owner(previous, number);
        }
        if number.is_multiple_of(u64::BITS) {
            self.closed.push(0);
        }
        let beside = Beside::new(owner, entry.time_micros, Chain::default());
        self.rows.push(Compact::UNOPENED, beside);
        Ok(())
    }

    fn close(&mut self, number: u32, owner: u32) {
        let word = usize::try_from(number / u64::BITS).ok();
        if let Some(word) = word.and_then(|word| self.closed.get_mut(word)) {
            *word |= 1 << (number % u64::BITS);
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
                return u32::try_from(index).ok().filter(|number| *number < self.rows.count());
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
            let Some(number) = place.filter(|_| page.accounts.len() < limit) else { break };
            let Some(row) = self.rows.state(number) else { break };
            if state.is_none_or(|state| row.state() == state) {
                page.accounts.extend(self.view(number));
            }
            let next = self.rows.beside(number).and_then(|beside| beside.next_of_owner);
            place = next.map(NonZeroU32::get);
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
