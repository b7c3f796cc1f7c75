//! A group: the records that are committed together.

use super::RECORD_BYTES_MAX;
use super::block::{RECORD_EVENTS_MAX, RECORD_HEADER_BYTES};

/// Records in order, ready to be appended as a whole.
#[derive(Debug)]
pub struct Group {
    first_position: u64,
    next_position: u64,
    bytes: Vec<u8>,
    records: Vec<Span>,
}

/// Where a record ends in the bytes of its group, and how many positions it takes.
#[derive(Clone, Copy, Debug)]
struct Span {
    end: usize,
    event_count: u32,
}

impl Group {
    /// An empty group whose first event will take `first_position`.
    #[must_use]
    pub fn new(first_position: u64) -> Self {
        Self {
            first_position,
            next_position: first_position,
            bytes: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Adds a record of `event_count` events, 1 or more, whose bytes `encode` appends.
    ///
    /// # Panics
    /// When `encode` wrote nothing or more than [`RECORD_BYTES_MAX`], or the record has no event or
    /// more than 65,535: that is a defect of the caller, and such a record must not reach the
    /// medium.
    pub fn push(&mut self, event_count: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        let length = self.bytes.len().saturating_sub(start);
        assert!((1..=RECORD_BYTES_MAX).contains(&length), "a record of {length} bytes");
        assert!((1..=RECORD_EVENTS_MAX).contains(&event_count), "a record of {event_count} events");
        self.records.push(Span { end: self.bytes.len(), event_count });
        self.next_position = self.next_position.saturating_add(u64::from(event_count));
    }

    /// The position of the group's first event.
    #[must_use]
    pub fn first_position(&self) -> u64 {
        self.first_position
    }

    /// The position that the event after the group's last one will take.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        self.next_position
    }

    /// Whether the group has no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many bytes its records take in blocks: the bytes of each, and its length before it.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        let lengths = self.records.len().saturating_mul(RECORD_HEADER_BYTES);
        self.bytes.len().saturating_add(lengths)
    }

    /// Its records in order: how many events each has, and its bytes.
    pub fn records(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut start = 0;
        self.records.iter().map(move |span| {
            let record = self.bytes.get(start..span.end).unwrap_or_default();
            start = span.end;
            (span.event_count, record)
        })
    }
}
