//! The appending end: one group at a time, written, synced, then shown.
//!
//! Invariants:
//! - A group is begun only after the sync of the one before has returned.
//! - The head moves after a sync, never before; the state here moves with it.
//! - The first write or sync that fails is the last: what the medium holds is unknown then, and
//!   a second sync that succeeds would prove nothing.
//! - Records are appended to a segment of the newest format only. A log that ends in an older one
//!   gets a new segment before its next group, as if the older one were full: nothing of it is
//!   changed but that it is sealed.
//! - Whatever records are appended, their segment keeps room for the frames that must always be
//!   possible: a witness, a stop and a seal.

use std::io;
use std::sync::Arc;

use crate::log::{AppendError, FORMAT_VERSION, Group, Head, LogReader, LogWriter};

use super::bytes::wide;
use super::disk::{Disk, DiskFile, write_all_at};
use super::frame::{Encoder, Joint, Kind, Placed, Tie};
use super::reader::Shared;
use super::segment::{self, SECTOR_BYTES, SPARE_FILE, SegmentHeader, file_name};
use super::spare::{Shelf, Spare};

/// The room that records leave in a segment, for a witness, a stop and a seal after them. There
/// is never more than one of each between two groups of records.
pub(super) const RESERVED_BYTES: u64 = 3 * SECTOR_BYTES;

/// The segment that is appended to.
pub(super) struct Current {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) number: u64,
    /// The version of its format.
    pub(super) format: u32,
    /// How long the file is.
    pub(super) length: u64,
    /// Where the next group goes.
    pub(super) end: u64,
    /// What the newest group in the segment is; none if it has no group.
    pub(super) newest: Option<Kind>,
}

/// Whether the writer may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Closed,
    Failed,
}

/// The one writer of a log.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    shelf: Arc<Shelf>,
    current: Current,
    joint: Joint,
    /// How many bytes the segments before the current one have.
    sealed_bytes: u64,
    /// The room that a group of the largest size takes.
    group_room: u64,
    created_micros: i64,
    /// One buffer for all groups, so that appending allocates nothing but what is kept.
    buffer: Vec<u8>,
    state: State,
}

/// What a writer begins with.
pub(super) struct Start {
    pub(super) current: Current,
    pub(super) joint: Joint,
    pub(super) sealed_bytes: u64,
    pub(super) group_room: u64,
    pub(super) created_micros: i64,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        shelf: Arc<Shelf>,
        start: Start,
    ) -> Self {
        let Start { current, joint, sealed_bytes, group_room, created_micros } = start;
        let (buffer, state) = (Vec::new(), State::Ready);
        Self {
            disk,
            shared,
            shelf,
            current,
            joint,
            sealed_bytes,
            group_room,
            created_micros,
            buffer,
            state,
        }
    }

    /// Whether that many bytes of records can go into the current segment.
    fn fits(&self, byte_count: u64) -> bool {
        let needed = self.current.end.saturating_add(byte_count).saturating_add(RESERVED_BYTES);
        let takes_records = !self.is_sealed() && self.current.format == FORMAT_VERSION;
        takes_records && needed <= self.current.length
    }

    fn is_sealed(&self) -> bool {
        self.current.newest == Some(Kind::Seal)
    }

    /// Encodes a group into the buffer for where the segment ends now.
    fn encode(&mut self, group: &Group) -> Vec<Placed> {
        self.encoder().records(group)
    }

    fn encoder(&mut self) -> Encoder<'_> {
        Encoder {
            tie: Tie::new(&self.shared.log_id(), self.current.number),
            offset: self.current.end,
            joint: self.joint,
            buffer: &mut self.buffer,
        }
    }

    /// Writes and syncs what is in the buffer, then moves on.
    fn commit(&mut self, kind: Kind, blocks: Vec<Placed>) -> io::Result<Head> {
        write_all_at(&*self.current.file, &self.buffer, self.current.end)?;
        self.current.file.sync_data()?;
        self.current.end = self.current.end.saturating_add(wide(self.buffer.len()));
        self.current.newest = Some(kind);
        if let Some(newest) = blocks.last() {
            let next_position = newest.block.last_position().saturating_add(1);
            self.joint = Joint { next_position, chain: newest.chain };
        }
        let head = self.head();
        self.shared.publish(blocks, head, self.current.number, self.sealed_bytes);
        Ok(head)
    }

    fn head(&self) -> Head {
        Head {
            position: self.joint.position(),
            hash: self.joint.chain,
            bytes: self.sealed_bytes.saturating_add(self.current.end),
        }
    }

    /// Appends a frame without records.
    fn mark(&mut self, kind: Kind) -> io::Result<()> {
        self.encoder().mark(kind);
        self.commit(kind, Vec::new()).map(|_| ())
    }

    /// Ends the current segment and makes the spare the current one. Each step is durable before
    /// the next begins; a crash in between leaves a log that ends with the seal.
    fn roll(&mut self, spare: Spare) -> io::Result<()> {
        if !self.is_sealed() {
            self.mark(Kind::Seal)?;
        }
        let header = SegmentHeader {
            format: FORMAT_VERSION,
            log_id: self.shared.log_id(),
            number: self.current.number.saturating_add(1),
            first_position: self.joint.next_position,
            length: spare.length,
            created_micros: self.created_micros,
            chain_before: self.joint.chain,
        };
        begin_segment(&*self.disk, &*spare.file, &header)?;
        self.sealed_bytes = self.sealed_bytes.saturating_add(self.current.end);
        self.current = Current {
            file: spare.file,
            number: header.number,
            format: header.format,
            length: header.length,
            end: wide(segment::HEADER_BYTES),
            newest: None,
        };
        self.shared.push_segment(&header);
        self.shelf.request();
        Ok(())
    }

    fn try_append(&mut self, group: &Group) -> Result<Head, AppendError> {
        // The payload alone must fit; whether the headers do as well is known when encoded.
        if self.fits(wide(group.byte_count())) {
            let blocks = self.encode(group);
            if self.fits(wide(self.buffer.len())) {
                return self.commit(Kind::Records, blocks).map_err(AppendError::Failed);
            }
        }
        let in_new_segment = super::segment_bytes_needed(wide(group.byte_count()));
        let Some(spare) = self.shelf.take(in_new_segment) else {
            return Err(AppendError::Full);
        };
        self.roll(spare).map_err(AppendError::Failed)?;
        let blocks = self.encode(group);
        self.commit(Kind::Records, blocks).map_err(AppendError::Failed)
    }

    /// Marks the log if `kind` would say anything new.
    fn mark_once(&mut self, kind: Kind, is_said: bool) -> Result<(), AppendError> {
        if is_said {
            return Ok(());
        }
        self.mark(kind).map_err(|error| self.latch(AppendError::Failed(error)))
    }

    /// Takes note of a failure that is for ever.
    fn latch(&mut self, error: AppendError) -> AppendError {
        if matches!(error, AppendError::Failed(_)) {
            self.state = State::Failed;
        }
        error
    }

    fn check(&self, allowed: &[State]) -> Result<(), AppendError> {
        if allowed.contains(&self.state) { Ok(()) } else { Err(AppendError::Latched) }
    }
}

impl LogWriter for Writer {
    fn append(&mut self, group: &Group) -> Result<Head, AppendError> {
        self.check(&[State::Ready])?;
        let next_position = self.joint.next_position;
        assert_eq!(group.first_position(), next_position, "a group must continue the log");
        if group.is_empty() {
            return Ok(self.head());
        }
        self.try_append(group).map_err(|error| self.latch(error))
    }

    fn has_room(&mut self) -> bool {
        self.state == State::Ready && (self.fits(self.group_room) || self.shelf.is_ready())
    }

    fn witness(&mut self) -> Result<(), AppendError> {
        self.check(&[State::Ready, State::Closed])?;
        self.mark_once(Kind::Witness, self.current.newest != Some(Kind::Records))
    }

    fn close(&mut self) -> Result<(), AppendError> {
        self.check(&[State::Ready, State::Closed])?;
        let is_said = matches!(self.current.newest, Some(Kind::Stop | Kind::Seal));
        self.mark_once(Kind::Stop, is_said)?;
        self.state = State::Closed;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shelf.close();
    }
}

/// Makes a zeroed file the segment that `header` tells of. Durable when it returns, and only then
/// may a group be written to it.
pub(super) fn begin_segment(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    header: &SegmentHeader,
) -> io::Result<()> {
    write_all_at(file, &header.encode(), 0)?;
    file.sync_data()?;
    disk.rename(SPARE_FILE, &file_name(header.number))?;
    disk.sync_dir()
}
