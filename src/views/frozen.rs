//! Frozen books: what they were at one moment, told piece by piece while they go on.
//!
//! Nothing is copied at that moment. An account that changes before it has been told is kept as it
//! was until it is told; so memory grows with what changes meanwhile, and never beyond one more
//! row an account.

use hashbrown::HashMap;

use super::{
    accounts::{Accounts, Beside},
    sagas::Sagas,
};
use crate::{
    domain::{Account, AccountState},
    event_store::put_number,
};

/// Once a piece has so many bytes it is told: little enough that whoever waits for the books does
/// not wait long, and always less than a checkpoint takes at once.
const PIECE_BYTES: usize = 16 * 1024;

/// What a piece holds, by its first byte: the figures of the whole ledger.
pub(super) const SUMMARY: u8 = 1;
/// Named sagas, in the order of their beginning.
pub(super) const SAGAS: u8 = 2;
/// Accounts, in the order of their opening.
pub(super) const ACCOUNTS: u8 = 3;

/// The bit of an account's state that says that it is closed.
pub(super) const CLOSED: u8 = 1;
/// The bit that says that its owner's name follows: no account before has this owner.
pub(super) const NEW_OWNER: u8 = 2;

/// How far frozen books have been told, and what they were where that is not yet and has changed.
#[derive(Debug)]
pub(super) struct Frozen {
    /// The first piece, until it is told.
    summary: Option<Vec<u8>>,
    next_saga: usize,
    saga_count: usize,
    next_account: u32,
    account_count: u32,
    /// How many owners the accounts that were told have.
    owner_count: u32,
    kept: HashMap<u32, (Account, Beside)>,
}

impl Frozen {
    /// Freezes accounts and sagas as they are. `summary` goes before what they say.
    pub(super) fn new(accounts: &Accounts, sagas: &Sagas, mut summary: Vec<u8>) -> Self {
        let account_count = u32::try_from(accounts.count()).unwrap_or(u32::MAX);
        put_number(&mut summary, account_count.into());
        let saga_count = sagas.named().len();
        put_number(&mut summary, u64::try_from(saga_count).unwrap_or(u64::MAX));
        for ended in sagas.all_ended() {
            put_number(&mut summary, ended.count);
            put_number(&mut summary, ended.newest);
        }
        Self {
            summary: Some(summary),
            next_saga: 0,
            saga_count,
            next_account: 0,
            account_count,
            owner_count: 0,
            kept: HashMap::new(),
        }
    }

    /// Whether an account that is about to change must be kept as it is.
    pub(super) fn wants(&self, number: u32) -> bool {
        (self.next_account..self.account_count).contains(&number)
    }

    /// Keeps an account as it is, unless it was kept before.
    pub(super) fn keep(&mut self, number: u32, account: &Account, beside: &Beside) {
        self.kept.entry(number).or_insert_with(|| (account.clone(), beside.clone()));
    }

    /// The next piece; `None` after the last one.
    pub(super) fn next_piece(&mut self, accounts: &Accounts, sagas: &Sagas) -> Option<Vec<u8>> {
        if let Some(summary) = self.summary.take() {
            return Some(summary);
        }
        let mut piece = vec![SAGAS];
        let until = self.saga_count;
        while self.next_saga < until && piece.len() < PIECE_BYTES {
            let (id, position) = sagas.named().get(self.next_saga)?;
            piece.extend_from_slice(id.bytes());
            put_number(&mut piece, *position);
            self.next_saga = self.next_saga.saturating_add(1);
        }
        if piece.len() > 1 {
            return Some(piece);
        }
        let mut piece = vec![ACCOUNTS];
        while self.next_account < self.account_count && piece.len() < PIECE_BYTES {
            self.put_next_account(accounts, &mut piece)?;
        }
        Some(piece).filter(|piece| piece.len() > 1)
    }

    fn put_next_account(&mut self, accounts: &Accounts, piece: &mut Vec<u8>) -> Option<()> {
        let number = self.next_account;
        if let Some((account, beside)) = self.kept.remove(&number) {
            self.put_account(accounts, &account, &beside, piece)?;
        } else {
            let (account, beside) = accounts.row(number)?;
            self.put_account(accounts, &account, beside, piece)?;
        }
        self.next_account = number.saturating_add(1);
        Some(())
    }

    fn put_account(
        &mut self,
        accounts: &Accounts,
        account: &Account,
        beside: &Beside,
        piece: &mut Vec<u8>,
    ) -> Option<()> {
        assert!(account.pending().next().is_none(), "a transfer ends where it begins");
        let is_new_owner = beside.owner == self.owner_count;
        let closed = account.state() == AccountState::Closed;
        piece.push(if closed { CLOSED } else { 0 } | if is_new_owner { NEW_OWNER } else { 0 });
        piece.extend_from_slice(account.id().bytes());
        put_number(piece, beside.owner.into());
        if is_new_owner {
            let name = accounts.owner_name(beside.owner)?;
            put_number(piece, u64::try_from(name.len()).ok()?);
            piece.extend_from_slice(name.as_bytes());
            self.owner_count = self.owner_count.saturating_add(1);
        }
        put_number(piece, account.currency().packed());
        put_number(piece, u64::try_from(account.balance().minor()).ok()?);
        put_number(piece, account.version());
        put_number(piece, beside.transaction_count);
        put_number(piece, u64::try_from(beside.open_time_micros).ok()?);
        put_number(piece, u64::try_from(beside.update_time_micros).ok()?);
        put_number(piece, beside.chain.newest());
        put_number(piece, u64::try_from(beside.chain.marks().len()).ok()?);
        for mark in beside.chain.marks() {
            put_number(piece, *mark);
        }
        Some(())
    }
}
