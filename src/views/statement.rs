//! Statements: the events of one account, page by page.

use std::sync::Arc;

use super::AccountView;
use crate::event_store::{Cursor, Entry, HistoryError, Numbered};

/// Which way a list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the oldest to the newest.
    OldestFirst,
    /// From the newest to the oldest.
    NewestFirst,
}

/// An event of an entry.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The event's place among the events of the entry.
    pub index: usize,
}

impl Recorded {
    /// The event with its place in the log.
    #[must_use]
    pub fn numbered(&self) -> Option<Numbered<'_>> {
        self.entry.numbered().nth(self.index)
    }
}

/// Some events of an account, and where to go on.
#[derive(Debug)]
pub struct EventPage {
    /// The events, in the order asked for.
    pub events: Vec<Recorded>,
    /// Oldest first: the next page's events come after this version. Newest first: before it.
    /// `None` on the last page.
    pub next: Option<u64>,
}

/// The events of an account with versions above `after` and below `before`. May block on I/O.
///
/// # Errors
/// [`HistoryError`] when the log cannot be read.
pub fn list_events(
    cursor: &mut Cursor,
    account: &AccountView,
    (after, before): (u64, u64),
    direction: Direction,
    limit: u64,
) -> Result<EventPage, HistoryError> {
    let newest = account.account.version().min(before.saturating_sub(1));
    if newest <= after {
        return Ok(EventPage { events: Vec::new(), next: None });
    }
    let page = match direction {
        Direction::OldestFirst => (after, newest.min(after.saturating_add(limit))),
        Direction::NewestFirst => (after.max(newest.saturating_sub(limit)), newest),
    };
    let mut events = newest_first(cursor, account, page)?;
    let next = match direction {
        Direction::OldestFirst => {
            events.reverse();
            (page.1 < newest).then_some(page.1)
        }
        Direction::NewestFirst => (page.0 > after).then_some(page.0.saturating_add(1)),
    };
    Ok(EventPage { events, next })
}

/// The events with versions above `after` up to `last`, the newest first.
fn newest_first(
    cursor: &mut Cursor,
    account: &AccountView,
    (after, last): (u64, u64),
) -> Result<Vec<Recorded>, HistoryError> {
    let id = account.account.id();
    let found = cursor.back_to(id, account.newest_entry, |_, before| before.version >= last)?;
    let mut events = Vec::new();
    let mut entry = Arc::new(found.ok_or(HistoryError::Missing(account.newest_entry))?);
    loop {
        let wanted = |event: &Numbered<'_>| {
            event.account.id == id && event.version > after && event.version <= last
        };
        let numbered = entry.numbered().enumerate();
        let mut indexes: Vec<usize> =
            numbered.filter(|(_, event)| wanted(event)).map(|(index, _)| index).collect();
        indexes.reverse();
        events
            .extend(indexes.into_iter().map(|index| Recorded { entry: Arc::clone(&entry), index }));
        let own = entry.accounts.iter().find(|account| account.id == id);
        let own = own.ok_or(HistoryError::Missing(entry.first_position))?;
        if own.version <= after {
            return Ok(events);
        }
        entry = Arc::new(cursor.entry(own.link.previous)?);
    }
}
