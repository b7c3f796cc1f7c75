//! The index: where in which segment to begin looking for a position.
//!
//! It is sparse and in memory only, made while the log is read on start and while it is appended
//! to; what a start did not read is made when somebody first looks there. One entry of 16 bytes
//! stands for 8 KiB of log or more: a log of 100 GB takes 200 MB at most.

use super::segment::SegmentHeader;

/// How far apart entries are at least: one read of this much and one block finds any record.
pub(super) const SPACING_BYTES: u64 = 8 * 1024;

/// The entries of all segments, in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    format: u32,
    first_position: u64,
    /// The first position from which on all frames have been seen.
    seen_from: u64,
    entries: Vec<Entry>,
}

/// A frame of records begins here, and this is its first position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) position: u64,
    pub(super) offset: u64,
}

/// What is known of where a position is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Begin here.
    At(Location),
    /// In this segment, whose frames before some position have not been seen.
    Unseen { segment: u64, seen_from: u64 },
}

/// A frame at or before the one that holds a position, less than [`SPACING_BYTES`] before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    /// The version of the segment's format.
    pub(super) format: u32,
    pub(super) offset: u64,
}

impl Index {
    /// How many segments there are.
    pub(super) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Begins a segment.
    pub(super) fn push_segment(&mut self, header: &SegmentHeader) {
        self.push_unseen(header, header.first_position);
    }

    /// Begins a segment of which the frames before a position will not be noted now.
    pub(super) fn push_unseen(&mut self, header: &SegmentHeader, seen_from: u64) {
        if let Some(before) = self.segments.last_mut() {
            before.entries.shrink_to_fit();
        }
        let SegmentHeader { number, format, first_position, .. } = *header;
        let entries = Vec::new();
        self.segments.push(Segment { number, format, first_position, seen_from, entries });
    }

    /// Adds the entries of the frames of a segment that had not been seen.
    pub(super) fn fill(&mut self, number: u64, unseen: Vec<Entry>) {
        let segment = self.segments.iter_mut().find(|segment| segment.number == number);
        if let Some(segment) = segment.filter(|it| it.seen_from != it.first_position) {
            let seen = std::mem::replace(&mut segment.entries, unseen);
            segment.entries.extend(seen);
            segment.seen_from = segment.first_position;
        }
    }

    /// Notes where a frame of records begins in the newest segment.
    pub(super) fn push(&mut self, position: u64, offset: u64) {
        let Some(segment) = self.segments.last_mut() else {
            unreachable!("frames are in segments")
        };
        note(&mut segment.entries, Entry { position, offset });
    }

    /// Where to begin looking for a position.
    pub(super) fn locate(&self, position: u64) -> Option<Lookup> {
        let after = self.segments.partition_point(|segment| segment.first_position <= position);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let Segment { number, format, seen_from, .. } = *segment;
        if position < seen_from {
            return Some(Lookup::Unseen { segment: number, seen_from });
        }
        let after = segment.entries.partition_point(|entry| entry.position <= position);
        let entry = segment.entries.get(after.checked_sub(1)?)?;
        Some(Lookup::At(Location { segment: number, format, offset: entry.offset }))
    }
}

/// Adds an entry, unless the one before it is near enough.
pub(super) fn note(entries: &mut Vec<Entry>, entry: Entry) {
    let is_near = |last: &Entry| last.offset.saturating_add(SPACING_BYTES) > entry.offset;
    if !entries.last().is_some_and(is_near) {
        entries.push(entry);
    }
}
