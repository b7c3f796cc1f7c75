//! The window of request ids: which commands were accepted lately, and where they are recorded.
//!
//! It is rebuilt from the log and bounded by positions, not by time, so that what it remembers
//! does not depend on any clock.

use std::{collections::VecDeque, ops::RangeInclusive};

use hashbrown::HashMap;

use crate::domain::RequestId;

/// How many positions back request ids are remembered unless configured otherwise: hours of
/// ordinary traffic, in less than 70 MB when every event has its own.
pub const REQUEST_ID_WINDOW_DEFAULT: u64 = 1 << 20;
/// What may be configured: below, retries after a restart would find nothing; above, memory would
/// grow beyond a gigabyte.
pub const REQUEST_ID_WINDOW_RANGE: RangeInclusive<u64> = 1 << 10..=1 << 24;

/// The request ids of the newest positions.
#[derive(Debug)]
pub(super) struct Window {
    span: u64,
    positions: HashMap<RequestId, u64>,
    oldest_first: VecDeque<(u64, RequestId)>,
}

impl Window {
    /// A window over the newest `span` positions.
    pub(super) fn new(span: u64) -> Self {
        Self { span, positions: HashMap::new(), oldest_first: VecDeque::new() }
    }

    /// The position of the first event recorded under a request id that is remembered.
    pub(super) fn find(&self, request_id: RequestId) -> Option<u64> {
        self.positions.get(&request_id).copied()
    }

    /// Remembers the request id of an entry.
    pub(super) fn insert(&mut self, request_id: RequestId, first_position: u64) {
        self.positions.insert(request_id, first_position);
        self.oldest_first.push_back((first_position, request_id));
    }

    /// The oldest position that is remembered when `head` is the newest.
    pub(super) fn oldest(&self, head: u64) -> u64 {
        head.saturating_sub(self.span).saturating_add(1)
    }

    /// Remembers older entries than those that it has, in order.
    pub(super) fn recall(&mut self, entries: Vec<(u64, RequestId)>) {
        for (position, request_id) in entries.into_iter().rev() {
            self.positions.entry(request_id).or_insert(position);
            self.oldest_first.push_front((position, request_id));
        }
    }

    /// Forgets the entries that do not begin within the newest `span` positions up to `head`.
    pub(super) fn advance(&mut self, head: u64) {
        while let Some((position, request_id)) = self.oldest_first.front()
            && position.saturating_add(self.span) <= head
        {
            // It may have been used again since, in a time when fewer were remembered.
            if self.positions.get(request_id) == Some(position) {
                self.positions.remove(request_id);
            }
            self.oldest_first.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_id_is_remembered_for_exactly_the_span() {
        let id = RequestId::new(Uuid::from_u128(7));
        let mut window = Window::new(10);
        window.insert(id, 5);
        window.advance(14);
        assert_eq!(window.find(id), Some(5), "position 5 is the oldest of the newest ten");
        window.advance(15);
        assert_eq!(window.find(id), None);
        assert!(window.oldest_first.is_empty());
    }
}
