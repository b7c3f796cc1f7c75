//! Time travel: what an account was at an earlier moment.

use super::AccountView;
use crate::{
    domain::{Account, AccountId, Inconsistent},
    event_store::{Cursor, Entry, EntryAccount, HistoryError},
};

/// A moment in the life of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Right after its event of this version.
    Version(u64),
    /// Right after this position of the log.
    Position(u64),
    /// After all events that were recorded up to this time, in microseconds since 1970 UTC.
    Time(i64),
}

/// Why an account cannot be told as of a moment.
#[derive(Debug, thiserror::Error)]
pub enum AsOfError {
    /// The account has not so many events.
    #[error("the account has no version above {version}")]
    Beyond {
        /// How many it has.
        version: u64,
    },
    /// The account was not open yet.
    #[error("the account was not open then")]
    BeforeOpening,
    /// The log could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The log says what cannot be.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
}

/// The account as it was at a moment, and the position of its newest event then. `now` is the
/// account as it is: a position or a time must not lie beyond what it has seen. May block on I/O.
///
/// # Errors
/// [`AsOfError`].
pub fn account_as_of(
    cursor: &mut Cursor,
    now: &AccountView,
    as_of: AsOf,
) -> Result<(AccountView, u64), AsOfError> {
    if let AsOf::Version(version) = as_of
        && version > now.account.version()
    {
        return Err(AsOfError::Beyond { version: now.account.version() });
    }
    let id = now.account.id();
    let too_new = |entry: &Entry, _: &EntryAccount| !entry_has(entry, id, as_of);
    let entry = cursor.back_to(id, now.newest_entry, too_new)?;
    fold(&entry.ok_or(AsOfError::BeforeOpening)?, now, as_of)
}

/// Whether a moment has seen an event with this place.
fn has_seen(as_of: AsOf, position: u64, version: u64, time_micros: i64) -> bool {
    match as_of {
        AsOf::Version(last) => version <= last,
        AsOf::Position(last) => position <= last,
        AsOf::Time(last) => time_micros <= last,
    }
}

/// Whether a moment has seen the first event that an entry has on an account.
fn entry_has(entry: &Entry, id: AccountId, as_of: AsOf) -> bool {
    let mut events = entry.numbered().filter(|event| event.account.id == id);
    events
        .next()
        .is_some_and(|event| has_seen(as_of, event.position, event.version, entry.time_micros))
}

/// Folds the events of the entry that the moment has seen on the account as it was before it.
fn fold(entry: &Entry, now: &AccountView, as_of: AsOf) -> Result<(AccountView, u64), AsOfError> {
    let id = now.account.id();
    let before = entry.accounts.iter().find(|account| account.id == id);
    let before = before.ok_or(HistoryError::Missing(entry.first_position))?;
    let mut newest_position = entry.first_position;
    let mut account = match before.version {
        0 => Account::unopened(id),
        version => Account::resumed(id, now.currency(), before.balance, version),
    };
    for event in entry.numbered().filter(|event| event.account.id == id) {
        if has_seen(as_of, event.position, event.version, entry.time_micros) {
            account.evolve(event.fact, entry.saga.map(|saga| saga.id))?;
            newest_position = event.position;
        }
    }
    let then = AccountView {
        account,
        update_time_micros: entry.time_micros,
        newest_entry: entry.first_position,
        ..now.clone()
    };
    Ok((then, newest_position))
}
