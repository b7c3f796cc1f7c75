//! The index: where in which segment to begin looking for a position.
//!
//! It is sparse and in memory only, made while the log is read on start and while it is appended
//! to. One entry of 16 bytes stands for 16 KiB of log or more: a log of 100 GB takes 100 MB.

/// How far apart entries are at least: one read of this much and one block finds any record.
pub(super) const SPACING_BYTES: u64 = 16 * 1024;

/// The entries of all segments, in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    first_position: u64,
    entries: Vec<Entry>,
}

/// A frame of records begins here, and this is its first position.
#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u64,
    offset: u64,
}

/// A frame at or before the one that holds a position, less than [`SPACING_BYTES`] before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

impl Index {
    /// Begins a segment.
    pub(super) fn push_segment(&mut self, number: u64, first_position: u64) {
        if let Some(before) = self.segments.last_mut() {
            before.entries.shrink_to_fit();
        }
        self.segments.push(Segment { number, first_position, entries: Vec::new() });
    }

    /// Notes where a frame of records begins in the newest segment.
    pub(super) fn push(&mut self, position: u64, offset: u64) {
        let Some(segment) = self.segments.last_mut() else {
            unreachable!("frames are in segments")
        };
        let due = segment
            .entries
            .last()
            .is_none_or(|last| last.offset.saturating_add(SPACING_BYTES) <= offset);
        if due {
            segment.entries.push(Entry { position, offset });
        }
    }

    /// Where to begin looking for a position.
    pub(super) fn locate(&self, position: u64) -> Option<Location> {
        let after = self.segments.partition_point(|segment| segment.first_position <= position);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let after = segment.entries.partition_point(|entry| entry.position <= position);
        let entry = segment.entries.get(after.checked_sub(1)?)?;
        Some(Location { segment: segment.number, offset: entry.offset })
    }
}
