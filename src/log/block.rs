//! A block: some whole records that are stored, verified and read together.

use std::iter::Peekable;

use super::{ChainHash, FORMAT_VERSION, Group, Head, RECORD_BYTES_MAX, chain};

/// How many bytes of records one block may hold: enough that its header weighs a hundredth of a
/// block of many small records, little enough that one event is read, checked and found in a few
/// microseconds. The largest record fits twice.
pub(crate) const BLOCK_BYTES_MAX: usize = 8 * 1024;

/// Whole records of consecutive positions, verified. Never more than one frame of an engine.
#[derive(Clone, Debug)]
pub struct Block {
    format: u32,
    first_position: u64,
    last_position: u64,
    payload: Vec<u8>,
}

/// One record: the events of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The version of the format that it was written in, 1 to [`super::FORMAT_VERSION`].
    pub format: u32,
    /// The position of its first event.
    pub first_position: u64,
    /// How many events it has, 1 or more.
    pub event_count: u32,
    /// What it says, in the words of whoever appended it.
    pub bytes: &'a [u8],
}

impl Record<'_> {
    /// The position of its last event.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        self.first_position.saturating_add(u64::from(self.event_count)).saturating_sub(1)
    }
}

impl Block {
    /// Takes a payload of records that [`put_record`] wrote, with the positions it is said to
    /// have. `None` when it does not hold exactly that.
    pub(crate) fn parse(
        format: u32,
        first_position: u64,
        event_count: u32,
        payload: Vec<u8>,
    ) -> Option<Self> {
        let last_position = first_position.checked_add(u64::from(event_count))?.checked_sub(1)?;
        let block = Self { format, first_position, last_position, payload };
        let mut records = block.records();
        let end = records.by_ref().last()?.last_position();
        (records.rest.is_empty() && end == last_position).then_some(block)
    }

    /// The position of its first event.
    #[must_use]
    pub fn first_position(&self) -> u64 {
        self.first_position
    }

    /// The position of its last event.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        self.last_position
    }

    /// The version of the format that its records were written in.
    #[must_use]
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Its records as they are stored: each with its length and its events' count before it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// How many bytes its records take, their lengths included.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.payload.len()
    }

    /// Its records in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { format: self.format, next_position: self.first_position, rest: &self.payload }
    }

    /// The record that holds the event at `position`.
    #[must_use]
    pub fn record_at(&self, position: u64) -> Option<Record<'_>> {
        self.records()
            .find(|record| record.last_position() >= position)
            .filter(|record| record.first_position <= position)
    }
}

/// The records of a block, in order.
#[derive(Debug)]
pub struct Records<'a> {
    format: u32,
    next_position: u64,
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (record, rest) = take_record(self.format, self.next_position, self.rest)?;
        self.rest = rest;
        self.next_position = record.last_position().checked_add(1)?;
        Some(record)
    }
}

/// The bytes before a record in a payload: its length (u16) and how many events it has (u16),
/// both little-endian.
pub(crate) const RECORD_HEADER_BYTES: usize = 4;

/// How many events one record may have: what its count can say.
pub(crate) const RECORD_EVENTS_MAX: u32 = 0xffff;

/// How much [`put_block`] took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BlockCounts {
    pub(crate) event_count: u32,
    pub(crate) record_count: u16,
}

/// Appends the payload of one block: as many of the next records as fit. All engines split a
/// group here and nowhere else, so that they agree on its blocks and on the hash chain.
pub(crate) fn put_block<'a>(
    payload: &mut Vec<u8>,
    records: &mut Peekable<impl Iterator<Item = (u32, &'a [u8])>>,
) -> BlockCounts {
    let full = payload.len().saturating_add(BLOCK_BYTES_MAX);
    let fits = |payload: &Vec<u8>, bytes: &[u8]| {
        payload.len().saturating_add(RECORD_HEADER_BYTES).saturating_add(bytes.len()) <= full
    };
    let mut counts = BlockCounts::default();
    while let Some((event_count, bytes)) = records.next_if(|(_, bytes)| fits(payload, bytes)) {
        put_record(payload, event_count, bytes);
        counts.event_count = counts.event_count.saturating_add(event_count);
        counts.record_count = counts.record_count.saturating_add(1);
    }
    counts
}

/// The blocks of a group, each with the chain up to it, and how far the log has come with them.
pub(crate) fn blocks_of(group: &Group, mut head: Head) -> (Vec<(Block, ChainHash)>, Head) {
    let mut records = group.records().peekable();
    let mut blocks = Vec::new();
    let mut first_position = group.first_position();
    while records.peek().is_some() {
        let mut payload = Vec::new();
        let counts = put_block(&mut payload, &mut records);
        let hash = chain::extend(&head.hash, &payload);
        let Some(block) = Block::parse(FORMAT_VERSION, first_position, counts.event_count, payload)
        else {
            unreachable!("a payload that was just written is a block")
        };
        head = head.after(&block, hash);
        first_position = block.last_position().saturating_add(1);
        blocks.push((block, hash));
    }
    (blocks, head)
}

/// Writes a record into a payload.
fn put_record(payload: &mut Vec<u8>, event_count: u32, bytes: &[u8]) {
    let (Ok(length), Ok(event_count)) = (u16::try_from(bytes.len()), u16::try_from(event_count))
    else {
        unreachable!(
            "a group takes no record above {RECORD_BYTES_MAX} bytes or {RECORD_EVENTS_MAX} events"
        )
    };
    payload.extend_from_slice(&length.to_le_bytes());
    payload.extend_from_slice(&event_count.to_le_bytes());
    payload.extend_from_slice(bytes);
}

fn take_record(format: u32, first_position: u64, payload: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (header, rest) = payload.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    let [l0, l1, c0, c1] = *header;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    let event_count = u32::from(u16::from_le_bytes([c0, c1]));
    if length == 0 || event_count == 0 {
        return None;
    }
    let (bytes, rest) = rest.split_at_checked(length)?;
    Some((Record { format, first_position, event_count, bytes }, rest))
}
