//! The message of a tail as the server has it: in bytes from the beginning.

use prost::bytes::BufMut;

use super::{Fields, codec::Outgoing};

/// What one event takes, in bytes, about.
const EVENT_BYTES: usize = 192;

/// A [`TailEventsResponse`](super::TailEventsResponse) whose events were never anything but bytes:
/// a tail that is behind passes on millions of them in a second, and a value with its strings for
/// each is most of what that takes.
#[derive(Debug, Default)]
pub struct TailMessage {
    bytes: Vec<u8>,
    event_count: usize,
}

impl TailMessage {
    /// Adds an event, written by `fields`.
    pub fn add_event(&mut self, fields: impl FnOnce(&mut Fields<'_>)) {
        self.bytes.reserve(EVENT_BYTES);
        Fields::new(&mut self.bytes).message(1, fields);
        self.event_count = self.event_count.saturating_add(1);
    }

    /// How many events it has.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.event_count
    }

    /// Ends it: all up to this position has been considered.
    pub fn end(&mut self, position: i64) {
        Fields::new(&mut self.bytes).number(2, position);
    }

    /// What it is on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outgoing for TailMessage {
    fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    fn put(self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.bytes);
    }
}
