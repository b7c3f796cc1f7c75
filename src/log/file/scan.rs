//! The scan: reads a log from its first byte to its last, checks everything, and says how it
//! ends. It changes nothing.
//!
//! # How a log ends
//! *Whole*: after the last group there are only zeros, or the last group is a seal.
//!
//! *Torn*: after the last whole group of the last segment there are bytes that are no whole
//! group, and no valid frame of a later group. A crash in the middle of a write leaves that: any
//! of the group's sectors may be there, missing, or garbage. The group was not acknowledged. (One
//! other thing looks the same: rot in the very last group if nothing was written after it. That
//! is why an idle writer witnesses its last group, and why a stop is written.)
//!
//! *Damaged*: anything else. A frame of a later group, found at any later sector of the segment,
//! proves that the broken group was durable once. So does a later segment, which is made only
//! after the one before it was sealed. A header is durable before its file has its name, and so
//! is the length of the file; neither can be torn.
//!
//! A stop is no exception: the next process may have died in its first write, right behind it.
//!
//! Before any of it is believed, the place is read once more, from the medium: a read that gave
//! what is somewhere else must not make the log shorter than it is.

use std::sync::Arc;

use crate::log::{Block, Damage, Head, LogId, chain};

use super::bytes::wide;
use super::catalog::{Catalog, Entry, open_file};
use super::checkpoint::{Place, Resume};
use super::disk::Disk;
use super::frame::{
    FRAME_BYTES_MAX, FrameFault, FrameHeader, HEADER_BYTES, Joint, Kind, Placed, Tie,
};
use super::index::Index;
use super::reader::Tip;
use super::segment::{self, SECTOR_BYTES, SegmentHeader, file_name};
use super::window::Window;
use super::{OpenError, TornTail, io_error};

/// Receives the log's id and each verified block in order, and may find it wrong.
pub(super) type Visit<'a> = &'a mut super::Visitor<'a>;

/// Receives how many bytes are done, and how many there are.
pub(super) type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What was found.
pub(super) struct Scanned {
    pub(super) log_id: LogId,
    pub(super) joint: Joint,
    pub(super) index: Index,
    pub(super) frame_count: u64,
    /// Where the newest frame of records is.
    pub(super) place: Option<Place>,
    /// How many bytes the segments before the last one have.
    pub(super) sealed_bytes: u64,
    /// How far the last segment is good.
    pub(super) end: End,
    pub(super) tail: Tail,
}

/// Where the last good group ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    pub(super) segment: u64,
    /// The version of its format.
    pub(super) format: u32,
    /// How long the file is.
    pub(super) length: u64,
    /// Where the next group goes.
    pub(super) offset: u64,
    /// The segment's newest group.
    pub(super) newest: Option<Newest>,
}

/// The newest group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newest {
    pub(super) kind: Kind,
    pub(super) offset: u64,
}

/// What comes after the last good group.
pub(super) enum Tail {
    Whole,
    Torn(TornTail),
    Damaged(Damage),
}

impl Resume {
    fn joint(&self) -> Joint {
        let next_position = self.mark.position.saturating_add(1);
        Joint { next_position, chain: self.mark.hash }
    }
}

impl Scanned {
    /// Before anything of what continues `joint` is read.
    fn new(log_id: LogId, joint: Joint, place: Option<Place>) -> Self {
        Self {
            log_id,
            joint,
            index: Index::default(),
            frame_count: 0,
            place,
            sealed_bytes: 0,
            end: End::default(),
            tail: Tail::Whole,
        }
    }

    pub(super) fn tip(&self) -> Tip {
        Tip { head: self.head(), place: self.place }
    }

    pub(super) fn head(&self) -> Head {
        Head {
            position: self.joint.position(),
            hash: self.joint.chain,
            bytes: self.sealed_bytes.saturating_add(self.end.offset),
        }
    }
}

/// Reads a whole log, or what comes after a place in it.
pub(super) fn scan(
    disk: &dyn Disk,
    catalog: &Catalog,
    from: Option<&Resume>,
    visit: Visit<'_>,
    progress: Progress<'_>,
) -> Result<Scanned, OpenError> {
    let log_id = catalog.log_id();
    let beginning = Joint { next_position: 1, chain: chain::start(&log_id) };
    let joint = from.map_or(beginning, Resume::joint);
    let scanned = Scanned::new(log_id, joint, from.map(|from| from.mark.place));
    let bytes = (0, catalog.byte_count());
    let (window, pending) = (Window::new(), Vec::new());
    let until = u64::MAX;
    let mut scan = Scanner { disk, visit, progress, bytes, window, pending, until, scanned };
    let mut expected = 1_u64;
    for (index, entry) in catalog.entries.iter().enumerate() {
        let is_last = index.saturating_add(1) == catalog.entries.len();
        let damage = match from.filter(|from| expected <= from.mark.place.segment) {
            Some(from) => scan.resume_segment(from, expected, entry, is_last)?,
            None => scan.read_segment(file_name(expected), expected, entry, is_last)?,
        };
        if let Some(damage) = damage {
            scan.scanned.tail = Tail::Damaged(damage);
            break;
        }
        expected = expected.saturating_add(1);
    }
    Ok(scan.scanned)
}

/// One segment that is read by itself.
pub(super) struct Alone<'a> {
    /// The log that it has to be of.
    pub(super) log_id: LogId,
    /// The name of the file, which may not be its final one.
    pub(super) name: &'a str,
    pub(super) entry: &'a Entry,
    /// Whether the log may end in it.
    pub(super) is_last: bool,
    /// The first group that goes beyond this position is not read, nor what comes after it.
    pub(super) until: u64,
}

/// Reads one segment, as if what its header says were true of those before. `pace` is told how
/// many bytes are done.
pub(super) fn scan_segment(
    disk: &dyn Disk,
    alone: &Alone<'_>,
    pace: &mut dyn FnMut(u64),
) -> Result<Scanned, OpenError> {
    let Alone { log_id, name, entry, is_last, until } = *alone;
    let told = entry.header.as_ref().ok();
    let joint = Joint {
        next_position: told.map_or(1, |header| header.first_position),
        chain: told.map_or([0; 32], |header| header.chain_before),
    };
    let mut scan = Scanner {
        disk,
        visit: &mut |_, _| Ok(()),
        progress: &mut |done, _| pace(done),
        bytes: (0, entry.length),
        window: Window::new(),
        pending: Vec::new(),
        until,
        scanned: Scanned::new(log_id, joint, None),
    };
    if let Some(damage) = scan.read_segment(name.to_owned(), entry.number, entry, is_last)? {
        scan.scanned.tail = Tail::Damaged(damage);
    }
    Ok(scan.scanned)
}

struct Scanner<'a> {
    disk: &'a dyn Disk,
    visit: Visit<'a>,
    progress: Progress<'a>,
    /// The bytes of the segments before this one, and of all.
    bytes: (u64, u64),
    window: Window,
    /// The blocks of the group that is being read: nothing of it counts before its last frame.
    pending: Vec<Placed>,
    until: u64,
    scanned: Scanned,
}

/// What was found where a group should begin.
enum Found {
    Group {
        kind: Kind,
        next_offset: u64,
    },
    /// No group, and why the frame at this offset is none.
    Broken(u64, FrameFault),
}

impl Scanner<'_> {
    /// Reads one segment. Returns the damage in it.
    fn read_segment(
        &mut self,
        name: String,
        expected: u64,
        entry: &Entry,
        is_last: bool,
    ) -> Result<Option<Damage>, OpenError> {
        let header = match self.check_header(expected, entry) {
            Ok(header) => header,
            Err(what) => return Ok(Some(self.damage(name, 0, what))),
        };
        self.window.turn_to(open_file(self.disk, &name)?);
        self.scanned.sealed_bytes =
            self.scanned.sealed_bytes.saturating_add(self.scanned.end.offset);
        let SegmentHeader { format, number, length, .. } = *header;
        let offset = wide(segment::HEADER_BYTES);
        self.scanned.end = End { segment: number, format, length, offset, newest: None };
        self.scanned.index.push_segment(header);
        let damage = self.read_groups(&name, is_last)?;
        self.pass(entry);
        Ok(damage)
    }

    /// Passes over a segment, or reads what a segment has after the place to go on from. The
    /// headers up to there have been checked.
    fn resume_segment(
        &mut self,
        from: &Resume,
        expected: u64,
        entry: &Entry,
        is_last: bool,
    ) -> Result<Option<Damage>, OpenError> {
        let Ok(header) = &entry.header else { unreachable!("the header has been checked") };
        let SegmentHeader { format, number, length, .. } = *header;
        let (mark, mut damage) = (&from.mark, None);
        self.scanned.index.push_unseen(header, mark.position.saturating_add(1));
        if expected == mark.place.segment {
            let name = file_name(expected);
            self.window.turn_to(open_file(self.disk, &name)?);
            self.scanned.sealed_bytes = mark.place.sealed_bytes;
            let newest = Some(Newest { kind: Kind::Records, offset: from.group_offset });
            let offset = from.next_offset;
            self.scanned.end = End { segment: number, format, length, offset, newest };
            damage = self.read_groups(&name, is_last)?;
        }
        self.pass(entry);
        Ok(damage)
    }

    /// Notes that a segment is done.
    fn pass(&mut self, entry: &Entry) {
        self.bytes.0 = self.bytes.0.saturating_add(entry.length);
        (self.progress)(self.bytes.0, self.bytes.1);
    }

    /// A header that continues the segments before it, or why there is none.
    fn check_header<'e>(
        &self,
        expected: u64,
        entry: &'e Entry,
    ) -> Result<&'e SegmentHeader, String> {
        if entry.number != expected {
            return Err("the segment is missing".to_owned());
        }
        let header = entry.header.as_ref().map_err(ToString::to_string)?;
        let Joint { next_position, chain } = self.scanned.joint;
        let problem = if header.number != expected {
            "the header is that of another segment"
        } else if header.log_id != self.scanned.log_id {
            "the header is that of another log"
        } else if header.first_position != next_position || header.chain_before != chain {
            "the segment does not continue the one before it"
        } else if !entry.is_whole() {
            "the file has not the length that its header tells"
        } else {
            return Ok(header);
        };
        Err(problem.to_owned())
    }

    fn damage(&self, file: String, offset: u64, what: String) -> Damage {
        Damage { file, offset, position: self.scanned.joint.next_position, what }
    }

    /// Reads the groups of the segment that the window looks at.
    fn read_groups(&mut self, name: &str, is_last: bool) -> Result<Option<Damage>, OpenError> {
        let tie = Tie::new(&self.scanned.log_id, self.scanned.end.segment);
        let mut read_again_at = None;
        loop {
            let start = self.scanned.end.offset;
            match self.read_group(tie, start).map_err(|error| io_error(name, error))? {
                Found::Group { .. } if self.is_beyond() => return Ok(None),
                Found::Group { kind, next_offset } => {
                    if let Some(damage) = self.take_group(name) {
                        return Ok(Some(damage));
                    }
                    self.scanned.end.offset = next_offset;
                    self.scanned.end.newest = Some(Newest { kind, offset: start });
                    if kind == Kind::Seal {
                        return Ok(None);
                    }
                }
                Found::Broken(..) if read_again_at != Some(start) => {
                    read_again_at = Some(start);
                    self.window.forget(start);
                    continue;
                }
                Found::Broken(offset, fault) if !is_last => {
                    return Ok(Some(self.damage(name.to_owned(), offset, fault.to_string())));
                }
                Found::Broken(offset, fault) => {
                    let judged = self.judge(tie, name, offset, fault);
                    return judged.map_err(|error| io_error(name, error));
                }
            }
            let done = self.bytes.0.saturating_add(self.window.read_until());
            (self.progress)(done.min(self.bytes.1), self.bytes.1);
        }
    }

    /// Reads the group that begins at `start`; its blocks are pending then.
    fn read_group(&mut self, tie: Tie, start: u64) -> std::io::Result<Found> {
        self.pending.clear();
        let group = self.scanned.joint;
        let (format, mut joint, mut offset) = (self.scanned.end.format, group, start);
        loop {
            let bytes = self.window.get(offset, FRAME_BYTES_MAX)?;
            let place = (start, offset);
            let (header, block) = match read_frame(bytes, format, tie, place, &group, &joint) {
                Ok(frame) => frame,
                Err(fault) => return Ok(Found::Broken(offset, fault)),
            };
            joint = Joint { next_position: header.next_position(), chain: header.chain };
            let next_offset = header.next_offset();
            if let Some(block) = block {
                self.pending.push(Placed { offset, block, chain: header.chain });
            }
            if header.is_last {
                return Ok(Found::Group { kind: header.kind, next_offset });
            }
            offset = next_offset;
        }
    }

    /// Whether the pending blocks go beyond what is to be read.
    fn is_beyond(&self) -> bool {
        self.pending.last().is_some_and(|last| last.block.last_position() > self.until)
    }

    /// Takes the pending blocks as read. A block that the visitor finds wrong is damage, and the
    /// log ends before it.
    fn take_group(&mut self, name: &str) -> Option<Damage> {
        let frames = self.pending.len().max(1);
        self.scanned.frame_count = self.scanned.frame_count.saturating_add(wide(frames));
        let (segment, sealed_bytes) = (self.scanned.end.segment, self.scanned.sealed_bytes);
        for Placed { offset, block, chain } in self.pending.drain(..) {
            let position = block.first_position();
            if let Err(what) = (self.visit)(&self.scanned.log_id, &block) {
                return Some(Damage { file: name.to_owned(), offset, position, what });
            }
            self.scanned.index.push(position, offset);
            let next_position = block.last_position().saturating_add(1);
            self.scanned.joint = Joint { next_position, chain };
            self.scanned.place = Some(Place { segment, offset, sealed_bytes });
        }
        None
    }

    /// Says what it means that the last segment has no whole group where its next one should
    /// begin: the end of the log, a torn tail, or damage.
    fn judge(
        &mut self,
        tie: Tie,
        name: &str,
        offset: u64,
        fault: FrameFault,
    ) -> std::io::Result<Option<Damage>> {
        let start = self.scanned.end.offset;
        let content_end = self.window.end_of_content(start)?;
        if start >= self.scanned.end.length {
            // There is always room for a seal, so a segment does not just end.
            return Ok(Some(self.damage(name.to_owned(), start, fault.to_string())));
        }
        if content_end == start {
            return Ok(None);
        }
        let is_end = fault == FrameFault::Absent && offset == start;
        let fault = if is_end { FrameFault::AfterEnd } else { fault };
        if self.has_later_group(tie, start, content_end)? {
            return Ok(Some(self.damage(name.to_owned(), offset, fault.to_string())));
        }
        self.scanned.tail = Tail::Torn(TornTail {
            file: name.to_owned(),
            offset: start,
            bytes: content_end.saturating_sub(start),
            position: self.scanned.joint.next_position,
        });
        Ok(None)
    }

    /// Whether a sector after the broken group at `start` begins with a valid frame of any group
    /// but that one. Groups begin at sectors, so no later group is missed.
    fn has_later_group(&mut self, tie: Tie, start: u64, end: u64) -> std::io::Result<bool> {
        let mut offset = start.saturating_add(SECTOR_BYTES);
        while offset < end {
            let bytes = self.window.get(offset, HEADER_BYTES)?;
            let header = bytes
                .first_chunk::<HEADER_BYTES>()
                .and_then(|header| FrameHeader::decode(header, tie, offset).ok());
            if header.is_some_and(|header| header.group_offset != start) {
                return Ok(true);
            }
            offset = offset.saturating_add(SECTOR_BYTES);
        }
        Ok(false)
    }
}

/// Reads the frame at the beginning of `bytes`, which must continue `joint`, in a group that
/// began at `group`. `format` is that of the segment, `place` the offset of the group and that of
/// the frame.
fn read_frame(
    bytes: &[u8],
    format: u32,
    tie: Tie,
    place: (u64, u64),
    group: &Joint,
    joint: &Joint,
) -> Result<(FrameHeader, Option<Arc<Block>>), FrameFault> {
    let (group_offset, offset) = place;
    let (header, rest) = bytes.split_first_chunk().ok_or(FrameFault::EndOfFile)?;
    let header = FrameHeader::decode(header, tie, offset)?;
    if header.group_offset != group_offset {
        return Err(FrameFault::Place);
    }
    if header.first_position != joint.next_position || header.witness != group.position() {
        return Err(FrameFault::Positions);
    }
    let payload = rest.get(..header.payload_bytes()).ok_or(FrameFault::EndOfFile)?;
    let (block, chain) = match header.kind {
        Kind::Records => {
            (Some(header.block(format, payload)?), chain::extend(&joint.chain, payload))
        }
        Kind::Witness | Kind::Seal | Kind::Stop => (None, joint.chain),
    };
    if header.chain != chain {
        return Err(FrameFault::Chain);
    }
    Ok((header, block))
}
