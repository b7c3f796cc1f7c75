//! Rows: what is kept in memory of every account.

use std::hint::black_box;

use hashbrown::HashMap;

use super::{Account, AccountId, Compact, pending::Pending};

/// One row for each account, by its number: its state, and what the owner of the rows keeps beside
/// it. There may be millions, so a row has neither the id, which the register knows, nor the
/// pending transfers, which hardly any account has.
#[derive(Debug)]
pub struct Rows<T> {
    rows: Vec<Row<T>>,
    /// Of the accounts that have some.
    pending: HashMap<u32, Pending>,
}

#[derive(Debug)]
struct Row<T> {
    state: Compact,
    beside: T,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), pending: HashMap::new() }
    }
}

impl<T> Rows<T> {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    fn get(&self, number: u32) -> Option<&Row<T>> {
        self.rows.get(usize::try_from(number).ok()?)
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Row<T>> {
        self.rows.get_mut(usize::try_from(number).ok()?)
    }

    /// The state of an account, without its pending transfers.
    #[must_use]
    pub fn state(&self, number: u32) -> Option<&Compact> {
        self.get(number).map(|row| &row.state)
    }

    /// An account, to work with. `id` is the one that the register has for the number.
    #[must_use]
    pub fn account(&self, number: u32, id: AccountId) -> Option<Account> {
        let state = self.get(number)?.state;
        let pending = if self.pending.is_empty() { None } else { self.pending.get(&number) };
        Some(Account::new(id, state, pending.cloned().unwrap_or_default()))
    }

    /// What is kept beside an account.
    #[must_use]
    pub fn beside(&self, number: u32) -> Option<&T> {
        self.get(number).map(|row| &row.beside)
    }

    /// The same, to change it.
    pub fn beside_mut(&mut self, number: u32) -> Option<&mut T> {
        self.get_mut(number).map(|row| &mut row.beside)
    }

    /// Brings a row closer to the processor; `touch` does so for what is kept beside the account.
    pub fn warm(&self, number: u32, touch: impl Fn(&T)) {
        if let Some(row) = self.get(number) {
            black_box(row.state.version());
            touch(&row.beside);
        }
    }

    /// Adds the next account, and what is kept beside it.
    pub fn push(&mut self, state: Compact, beside: T) {
        self.rows.push(Row { state, beside });
    }

    /// Keeps a new state of an account.
    pub fn set(&mut self, number: u32, account: &Account) {
        if let Some(row) = self.get_mut(number) {
            row.state = account.compact();
        }
        let pending = account.pending_set();
        if !pending.is_empty() {
            self.pending.insert(number, pending.clone());
        } else if !self.pending.is_empty() {
            self.pending.remove(&number);
        }
    }
}
