//! The reading end: what is durable, from memory while it is recent, else from the files.
//!
//! A reader never sees bytes that are not durable: it asks the head first, and the head moves
//! after a sync has returned. Every block that comes from a file is checked against its header
//! and its checksums. The hash chain is not, since it needs all that came before: that is done
//! when the log is opened, and by verification.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, RwLock};

use crate::log::guard::{lock, read, write};
use crate::log::recent::Recent;
use crate::log::{Block, Damage, Head, LogId, LogReader, ReadError, Scrubbed};

use super::bytes::{narrow, wide};
use super::checkpoint::{Mark, Place};
use super::disk::{Disk, DiskFile, read_up_to};
use super::frame::{
    self, FRAME_BYTES_MAX, FrameFault, FrameHeader, Kind, Placed, Tie, WRITTEN_BYTES_MAX,
};
use super::index::{Entry, Index, Location, Lookup, SPACING_BYTES, note};
use super::segment::{self, SegmentHeader, file_name};
use super::window::Window;

/// How much is read beyond one block for who goes on from there.
const RUN_BYTES: usize = 128 * 1024;

/// How many segments are kept open for reading. A log may have thousands, a process has often no
/// more than a thousand descriptors, and most of them are for connections.
const OPEN_FILES_MAX: usize = 128;

/// What the writer and all readers of a log share.
pub(super) struct Shared {
    log_id: LogId,
    disk: Arc<dyn Disk>,
    tip: RwLock<Tip>,
    index: RwLock<Index>,
    recent: Mutex<Recent>,
    files: Mutex<OpenFiles>,
    scrubbed: Mutex<Scrubbed>,
    /// Keeps everybody else out of the directory as long as anybody here uses it.
    _lock: Box<dyn Send + Sync>,
}

/// The head, and where its newest record is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tip {
    pub(super) head: Head,
    /// None in a log without records.
    pub(super) place: Option<Place>,
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        lock: Box<dyn Send + Sync>,
        log_id: LogId,
        tip: Tip,
        index: Index,
    ) -> Self {
        Self {
            log_id,
            disk,
            tip: RwLock::new(tip),
            index: RwLock::new(index),
            recent: Mutex::default(),
            files: Mutex::default(),
            scrubbed: Mutex::default(),
            _lock: lock,
        }
    }

    /// Begins a segment.
    pub(super) fn push_segment(&self, header: &SegmentHeader) {
        write(&self.index).push_segment(header);
    }

    pub(super) fn id(&self) -> LogId {
        self.log_id
    }

    /// The end of the log as a place to go on from.
    pub(super) fn mark(&self) -> Option<Mark> {
        let Tip { head, place } = *read(&self.tip);
        Some(Mark { position: head.position, hash: head.hash, place: place? })
    }

    /// The segment of the newest record.
    pub(super) fn newest_segment(&self) -> Option<u64> {
        read(&self.tip).place.map(|place| place.segment)
    }

    /// Notes that the log was verified from one position to another, and what was found.
    pub(super) fn note_scrubbed(&self, from: u64, to: u64, damage: Option<Damage>) {
        let mut scrubbed = lock(&self.scrubbed);
        if damage.is_none() && from <= scrubbed.position.saturating_add(1) {
            scrubbed.position = scrubbed.position.max(to);
        }
        if scrubbed.damage.is_none() {
            scrubbed.damage = damage;
        }
    }

    /// Shows blocks that have become durable, and the head after them. `sealed_bytes` is how many
    /// bytes the segments before theirs have.
    pub(super) fn publish(&self, blocks: Vec<Placed>, head: Head, segment: u64, sealed_bytes: u64) {
        let place =
            blocks.last().map(|newest| Place { segment, offset: newest.offset, sealed_bytes });
        let mut index = write(&self.index);
        for placed in &blocks {
            index.push(placed.block.first_position(), placed.offset);
        }
        drop(index);
        lock(&self.recent).push(blocks.into_iter().map(|placed| placed.block));
        let mut tip = write(&self.tip);
        *tip = Tip { head, place: place.or(tip.place) };
    }

    /// Finds and reads the frame that holds a position, and those after it within `more` bytes.
    fn read_blocks(&self, position: u64, more: usize) -> Result<Vec<Arc<Block>>, ReadError> {
        let head = self.head().position;
        let location = self.locate(position)?;
        let file = self.file(location.segment)?;
        // The frame begins less than one spacing after the entry.
        let length = narrow(SPACING_BYTES).saturating_add(WRITTEN_BYTES_MAX).saturating_add(more);
        let mut bytes = vec![0; length];
        let filled = read_up_to(&*file, &mut bytes, location.offset)?;
        bytes.truncate(filled);
        let tie = Tie::new(&self.log_id, location.segment);
        let chunk = Chunk { bytes, format: location.format, start: location.offset, tie };
        let found = chunk.find(position);
        if matches!(found, Err((_, FrameFault::EndOfFile))) && more < FRAME_BYTES_MAX {
            // A frame as large as they were once.
            return self.read_blocks(position, FRAME_BYTES_MAX);
        }
        let (block, mut offset) =
            found.map_err(|(offset, fault)| damaged(location.segment, offset, position, fault))?;
        let mut blocks = vec![block];
        // What is not whole, or wrong, or not durable yet is left for who asks for it.
        while more > 0
            && let Ok((header, block)) = chunk.frame(offset)
            && header.next_position() <= head.saturating_add(1)
        {
            blocks.extend(block);
            offset = header.next_offset();
        }
        Ok(blocks)
    }

    /// Where to begin looking for a position. Reads a part of a segment that has not been read
    /// since the start.
    fn locate(&self, position: u64) -> Result<Location, ReadError> {
        loop {
            let lookup = read(&self.index).locate(position);
            match lookup {
                Some(Lookup::At(location)) => return Ok(location),
                Some(Lookup::Unseen { segment, seen_from }) => {
                    let tie = Tie::new(&self.log_id, segment);
                    let unseen = list_frames(self.file(segment)?, tie, seen_from)?;
                    let unseen = unseen
                        .map_err(|(offset, fault)| damaged(segment, offset, position, fault))?;
                    write(&self.index).fill(segment, unseen);
                }
                None => unreachable!("the index knows every position up to the head"),
            }
        }
    }

    fn file(&self, segment: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = lock(&self.files).get(segment) {
            return Ok(file);
        }
        let file = self.disk.open(&file_name(segment))?;
        lock(&self.files).push(segment, Arc::clone(&file));
        Ok(file)
    }
}

fn damaged(segment: u64, offset: u64, position: u64, fault: FrameFault) -> ReadError {
    let file = file_name(segment);
    ReadError::Damaged(Damage { file, offset, position, what: fault.to_string() })
}

/// Index entries for the frames of a segment that begin before a position, up to its seal. Only
/// headers are looked at; the offset of the first one that is none is the error.
fn list_frames(
    file: Arc<dyn DiskFile>,
    tie: Tie,
    until: u64,
) -> io::Result<Result<Vec<Entry>, (u64, FrameFault)>> {
    let (mut window, mut entries) = (Window::new(), Vec::new());
    window.turn_to(file);
    let mut offset = wide(segment::HEADER_BYTES);
    loop {
        let bytes = window.get(offset, frame::HEADER_BYTES)?;
        let header = bytes.first_chunk().ok_or(FrameFault::EndOfFile);
        let header = match header.and_then(|header| FrameHeader::decode(header, tie, offset)) {
            Ok(header) => header,
            Err(fault) => return Ok(Err((offset, fault))),
        };
        if header.first_position >= until || header.kind == Kind::Seal {
            return Ok(Ok(entries));
        }
        if header.kind == Kind::Records {
            note(&mut entries, Entry { position: header.first_position, offset });
        }
        offset = header.next_offset();
    }
}

/// Some bytes of a segment, from the beginning of a frame on.
struct Chunk {
    bytes: Vec<u8>,
    /// The version of the segment's format.
    format: u32,
    /// Where in the segment they begin.
    start: u64,
    tie: Tie,
}

impl Chunk {
    /// The header of the frame at an offset, and the bytes after it.
    fn header(&self, offset: u64) -> Result<(FrameHeader, &[u8]), FrameFault> {
        let from = narrow(offset.saturating_sub(self.start));
        let rest = self.bytes.get(from..).unwrap_or_default();
        let (header, rest) =
            rest.split_first_chunk::<{ frame::HEADER_BYTES }>().ok_or(FrameFault::EndOfFile)?;
        Ok((FrameHeader::decode(header, self.tie, offset)?, rest))
    }

    /// The frame at an offset, and its block if it has records.
    fn frame(&self, offset: u64) -> Result<(FrameHeader, Option<Arc<Block>>), FrameFault> {
        let (header, rest) = self.header(offset)?;
        let is_block = header.kind == Kind::Records;
        let payload = rest.get(..header.payload_bytes()).ok_or(FrameFault::EndOfFile)?;
        let block = is_block.then(|| header.block(self.format, payload)).transpose()?;
        Ok((header, block))
    }

    /// Hops from frame to frame to the one that holds a position. Gives its block, and where the
    /// next frame begins; or the offset of the frame that is wrong.
    fn find(&self, position: u64) -> Result<(Arc<Block>, u64), (u64, FrameFault)> {
        let mut offset = self.start;
        loop {
            let (header, _) = self.header(offset).map_err(|fault| (offset, fault))?;
            if header.first_position > position {
                return Err((offset, FrameFault::Positions));
            }
            if position < header.next_position() {
                let (header, block) = self.frame(offset).map_err(|fault| (offset, fault))?;
                let block = block.ok_or((offset, FrameFault::Positions))?;
                return Ok((block, header.next_offset()));
            }
            offset = header.next_offset();
        }
    }
}

impl LogReader for Shared {
    fn log_id(&self) -> LogId {
        self.log_id
    }

    fn engine(&self) -> &'static str {
        "file"
    }

    fn head(&self) -> Head {
        read(&self.tip).head
    }

    fn segment_count(&self) -> usize {
        read(&self.index).segment_count()
    }

    fn scrubbed(&self) -> Scrubbed {
        lock(&self.scrubbed).clone()
    }

    fn block(&self, position: u64) -> Result<Arc<Block>, ReadError> {
        if position == 0 || position > self.head().position {
            return Err(ReadError::beyond(position));
        }
        if let Some(block) = self.recent_block(position) {
            return Ok(block);
        }
        let first = self.read_blocks(position, 0)?.into_iter().next();
        first.ok_or_else(|| ReadError::beyond(position))
    }

    fn blocks(&self, position: u64) -> Result<Vec<Arc<Block>>, ReadError> {
        if position == 0 || position > self.head().position {
            return Err(ReadError::beyond(position));
        }
        match self.recent_block(position) {
            Some(block) => Ok(vec![block]),
            None => self.read_blocks(position, RUN_BYTES),
        }
    }

    fn recent_block(&self, position: u64) -> Option<Arc<Block>> {
        lock(&self.recent).get(position)
    }
}

/// Files that are open for reading, the one used last at the end.
#[derive(Default)]
struct OpenFiles {
    files: VecDeque<(u64, Arc<dyn DiskFile>)>,
}

impl OpenFiles {
    fn get(&mut self, segment: u64) -> Option<Arc<dyn DiskFile>> {
        let index = self.files.iter().position(|(number, _)| *number == segment)?;
        let entry = self.files.remove(index)?;
        let file = Arc::clone(&entry.1);
        self.files.push_back(entry);
        Some(file)
    }

    fn push(&mut self, segment: u64, file: Arc<dyn DiskFile>) {
        self.files.push_back((segment, file));
        if self.files.len() > OPEN_FILES_MAX {
            self.files.pop_front();
        }
    }
}
