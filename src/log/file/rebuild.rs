//! Rebuilding: a log in files from the blocks of a log that another engine has kept.
//!
//! Positions, blocks and the chain are what they were. A segment has the format of its records, as
//! in the directory that they may have come from: where that changes, a segment ends before it is
//! full. Each block is a group: which of them were committed together, nobody knows any more.
//!
//! What is being rebuilt is no log yet, however much of it is there: see [`RESTORE_FILE`]. So
//! nothing has to be durable before all of it is.
//!
//! [`RESTORE_FILE`]: super::RESTORE_FILE

use std::io;
use std::sync::Arc;

use crate::log::{Block, Damage, FORMAT_VERSION, chain};

use super::bytes::wide;
use super::catalog::Catalog;
use super::copy::{mark, refuse_files, unmark};
use super::disk::{Disk, DiskFile, write_all_at};
use super::frame::{Encoder, Joint, Kind, PAYLOAD_BYTES_MAX, Tie};
use super::scan::{Progress, Tail, Visit, scan};
use super::segment::{self, FORMATS, SegmentHeader, file_name};
use super::writer::begin_segment;
use super::{CopyError, OpenError, Options, Verified, io_error, lock_directory, spare};

/// A log in the making, in a directory that has nothing else.
pub struct Rebuild<'a> {
    target: &'a dyn Disk,
    options: Options,
    /// There is none before the directory is written to.
    lock: Option<Box<dyn Send + Sync>>,
    joint: Joint,
    segment: Option<Segment>,
    /// How many segments there are.
    segments: u64,
    /// One buffer for all groups.
    buffer: Vec<u8>,
}

/// The segment that is written to.
struct Segment {
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    /// Where the next group goes.
    end: u64,
}

impl<'a> Rebuild<'a> {
    /// For a log with the id and the lengths of the options. Nothing is made before the first
    /// block comes.
    ///
    /// # Errors
    /// [`CopyError::NotEmpty`], or [`CopyError::Open`] when the directory cannot be looked at.
    pub fn new(target: &'a dyn Disk, options: &Options) -> Result<Self, CopyError> {
        refuse_files(target)?;
        let joint = Joint { next_position: 1, chain: chain::start(&options.new_log_id) };
        Ok(Self {
            target,
            options: options.clone(),
            lock: None,
            joint,
            segment: None,
            segments: 0,
            buffer: Vec::new(),
        })
    }

    /// Adds the block that comes next.
    ///
    /// # Errors
    /// [`CopyError::Open`] when the directory cannot be written, [`CopyError::Damaged`] when a log
    /// in files has no such blocks.
    pub fn push(&mut self, block: &Block) -> Result<(), CopyError> {
        let what = if block.first_position() != self.joint.next_position {
            "the block does not follow on those before it"
        } else if !FORMATS.contains(&block.format()) {
            "the block is of an unknown format version"
        } else if block.byte_count() > PAYLOAD_BYTES_MAX {
            "the block is too large for a frame"
        } else {
            return Ok(self.add(block)?);
        };
        Err(Damage::in_table("blocks", block.first_position(), what).into())
    }

    fn add(&mut self, block: &Block) -> Result<(), OpenError> {
        let needed = super::segment_bytes_needed(wide(block.byte_count()));
        let fits = |segment: &Segment| {
            let room = segment.header.length.saturating_sub(segment.end);
            segment.header.format == block.format() && needed <= room
        };
        let segment = match self.segment.take() {
            Some(segment) if fits(&segment) => segment,
            full => {
                if let Some(full) = full {
                    self.mark(full, Kind::Seal)?;
                }
                self.begin(block.format(), needed)?
            }
        };
        let encoder = encoder(&segment, self.joint, &mut self.buffer);
        self.joint = encoder.block(block);
        self.write(segment)
    }

    /// Begins the next segment, with room for so many bytes at least.
    fn begin(&mut self, format: u32, needed: u64) -> Result<Segment, OpenError> {
        if self.lock.is_none() {
            self.lock = Some(lock_directory(self.target)?);
            mark(self.target)?;
        }
        let number = self.segments.saturating_add(1);
        let usual = match number {
            1 => self.options.first_segment_length(),
            _ => self.options.segment_length(),
        };
        let length = super::align(usual.max(needed), segment::SECTOR_BYTES);
        let header = SegmentHeader {
            format,
            log_id: self.options.new_log_id,
            number,
            first_position: self.joint.next_position,
            length,
            created_micros: self.options.now_micros,
            chain_before: self.joint.chain,
        };
        let begin = || {
            let file = spare::make(self.target, length, length)?;
            begin_segment(self.target, &*file, &header)?;
            Ok(file)
        };
        let file = begin().map_err(|error| io_error(&file_name(number), error))?;
        self.segments = number;
        Ok(Segment { file, header, end: wide(segment::HEADER_BYTES) })
    }

    /// Writes what is in the buffer.
    fn write(&mut self, segment: Segment) -> Result<(), OpenError> {
        let written = write_all_at(&*segment.file, &self.buffer, segment.end);
        written.map_err(|error| io_error(&file_name(segment.header.number), error))?;
        let end = segment.end.saturating_add(wide(self.buffer.len()));
        self.segment = Some(Segment { end, ..segment });
        Ok(())
    }

    /// Ends a segment: durable when it returns.
    fn mark(&mut self, segment: Segment, kind: Kind) -> Result<(), OpenError> {
        encoder(&segment, self.joint, &mut self.buffer).mark(kind);
        let (file, number) = (Arc::clone(&segment.file), segment.header.number);
        self.write(segment)?;
        let synced = || -> io::Result<()> {
            file.sync_data()?;
            // What is verified is what is on the medium, not what the kernel remembers.
            file.forget(0);
            Ok(())
        };
        synced().map_err(|error| io_error(&file_name(number), error))
    }

    /// Closes the log in order, and makes it one: verified, given to `visit` block by block, and
    /// durable when this returns. `progress` is told how many bytes are done and how many there
    /// are.
    ///
    /// # Errors
    /// [`CopyError`]. The directory cannot be opened then.
    pub fn finish(
        mut self,
        progress: Progress<'_>,
        visit: Visit<'_>,
    ) -> Result<Verified, CopyError> {
        let segment = match self.segment.take() {
            Some(segment) => segment,
            None => self.begin(FORMAT_VERSION, 0)?,
        };
        self.mark(segment, Kind::Stop)?;
        let catalog = Catalog::read(self.target)?;
        let scanned = scan(self.target, &catalog, None, visit, progress)?;
        let head = scanned.head();
        match scanned.tail {
            Tail::Whole => {}
            Tail::Damaged(damage) => return Err(damage.into()),
            Tail::Torn(torn) => {
                let what = "the group is not whole".to_owned();
                let (file, offset, position) = (torn.file, torn.offset, torn.position);
                return Err(Damage { file, offset, position, what }.into());
            }
        }
        unmark(self.target)?;
        Ok(Verified {
            log_id: scanned.log_id,
            head,
            is_stopped: true,
            segments: self.segments,
            frames: scanned.frame_count,
            torn: None,
            damage: None,
        })
    }
}

fn encoder<'a>(segment: &Segment, joint: Joint, buffer: &'a mut Vec<u8>) -> Encoder<'a> {
    let tie = Tie::new(&segment.header.log_id, segment.header.number);
    Encoder { buffer, tie, offset: segment.end, joint }
}
