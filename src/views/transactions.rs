//! Transactions: the events that changed balances, newest first, as the lines of a statement.

use std::sync::Arc;

use super::{AccountView, Recorded, SCAN_ENTRIES_MAX};
use crate::{
    domain::{AccountId, Balance, Fact, SagaId},
    event_store::{Cursor, Entry, HistoryError, Numbered},
};

/// What kind of change of a balance a transaction was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionKind {
    /// The account was opened with the balance.
    Opening,
    /// Money was deposited.
    Deposit,
    /// Money was withdrawn.
    Withdrawal,
    /// Money came from another account.
    TransferIn,
    /// Money went to another account.
    TransferOut,
    /// Money that a failed transfer had taken came back.
    Compensation,
}

/// A change of a balance.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its event.
    pub recorded: Recorded,
    /// Its position in the log.
    pub position: u64,
    /// The account.
    pub account_id: AccountId,
    /// What kind of change it was.
    pub kind: TransactionKind,
    /// By how much, without sign, in minor units.
    pub amount_minor: i64,
    /// The balance right after.
    pub balance_after: Balance,
    /// The transfer that it belongs to.
    pub saga_id: Option<SagaId>,
}

/// Some transactions, and where to go on.
#[derive(Debug, Default)]
pub struct TransactionPage {
    /// The transactions, newest first.
    pub transactions: Vec<Transaction>,
    /// The next page's transactions lie before this position; `None` on the last page.
    pub next: Option<u64>,
}

/// The transactions of an account that lie before a position. May block on I/O.
///
/// # Errors
/// [`HistoryError`] when the log cannot be read.
pub fn list_account_transactions(
    cursor: &mut Cursor,
    account: &AccountView,
    before: u64,
    limit: usize,
) -> Result<TransactionPage, HistoryError> {
    let id = account.account.id();
    let mut page = TransactionPage::default();
    let too_new = |entry: &Entry, _: &_| entry.first_position >= before;
    let mut found = cursor.back_to(id, account.newest_entry, too_new)?;
    for _ in 0..SCAN_ENTRIES_MAX {
        let Some(entry) = found else { return Ok(page) };
        let own = entry.accounts.iter().find(|account| account.id == id);
        let link = own.ok_or(HistoryError::Missing(entry.first_position))?.link;
        let entry = Arc::new(entry);
        if page.add(&entry, before, limit, |event| event.account.id == id) {
            return Ok(page);
        }
        if link.previous == 0 {
            page.next = None;
            return Ok(page);
        }
        page.next = Some(entry.first_position);
        found = Some(cursor.entry(link.previous)?);
    }
    Ok(page)
}

/// The transactions of all accounts that lie before a position. May block on I/O.
///
/// # Errors
/// [`HistoryError`] when the log cannot be read.
pub fn list_transactions(
    cursor: &mut Cursor,
    before: u64,
    limit: usize,
) -> Result<TransactionPage, HistoryError> {
    let mut page = TransactionPage::default();
    let mut last = before.saturating_sub(1);
    let mut looked_at: usize = 0;
    while last > 0 && looked_at < SCAN_ENTRIES_MAX {
        let block = cursor.block(last)?;
        let records: Vec<_> =
            block.records().take_while(|record| record.first_position <= last).collect();
        for record in records.iter().rev() {
            looked_at = looked_at.saturating_add(1);
            let entry = Arc::new(cursor.entry(record.first_position)?);
            if page.add(&entry, before, limit, |_| true) {
                return Ok(page);
            }
        }
        last = block.first_position().saturating_sub(1);
        page.next = (last > 0).then_some(block.first_position());
    }
    Ok(page)
}

impl TransactionPage {
    /// Adds the transactions of an entry, newest first, that lie before a position. Tells whether
    /// the page is full, and then where to go on.
    fn add(
        &mut self,
        entry: &Arc<Entry>,
        before: u64,
        limit: usize,
        wanted: impl Fn(&Numbered<'_>) -> bool,
    ) -> bool {
        let numbered = entry.numbered().enumerate();
        let mut found: Vec<_> = numbered
            .filter(|(_, event)| event.position < before && wanted(event))
            .filter_map(|(index, event)| transaction(entry, index, &event))
            .collect();
        found.reverse();
        for transaction in found {
            if self.transactions.len() >= limit {
                self.next = Some(transaction.position.saturating_add(1));
                return true;
            }
            self.transactions.push(transaction);
        }
        false
    }
}

/// The transaction that an event is, if it changed a balance.
fn transaction(entry: &Arc<Entry>, index: usize, event: &Numbered<'_>) -> Option<Transaction> {
    let in_transfer = entry.saga.is_some();
    let (kind, amount_minor) = match event.fact {
        Fact::AccountOpened { initial_balance, .. } => {
            (TransactionKind::Opening, initial_balance.minor())
        }
        Fact::MoneyDeposited { compensation: true, amount, .. } => {
            (TransactionKind::Compensation, amount.minor())
        }
        Fact::MoneyDeposited { amount, .. } if in_transfer => {
            (TransactionKind::TransferIn, amount.minor())
        }
        Fact::MoneyDeposited { amount, .. } => (TransactionKind::Deposit, amount.minor()),
        Fact::MoneyWithdrawn { amount, .. } if in_transfer => {
            (TransactionKind::TransferOut, amount.minor())
        }
        Fact::MoneyWithdrawn { amount, .. } => (TransactionKind::Withdrawal, amount.minor()),
        Fact::TransferInitiated { .. }
        | Fact::TransferCompleted
        | Fact::TransferFailed { .. }
        | Fact::AccountClosed => return None,
    };
    Some(Transaction {
        recorded: Recorded { entry: Arc::clone(entry), index },
        position: event.position,
        account_id: event.account.id,
        kind,
        amount_minor,
        balance_after: event.fact.balance_after()?,
        saga_id: entry.saga.map(|saga| saga.id),
    })
}
