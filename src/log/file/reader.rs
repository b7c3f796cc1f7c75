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
use crate::log::{Block, Damage, Head, LogId, LogReader, ReadError};

use super::bytes::narrow;
use super::disk::{Disk, DiskFile, read_up_to};
use super::frame::{self, FRAME_BYTES_MAX, FrameFault, FrameHeader, Kind, Placed, Tie};
use super::index::{Index, Location, SPACING_BYTES};
use super::segment::file_name;

/// How many bytes of recent blocks are kept: what views and subscribers that keep up are going to
/// ask for, and half of the largest group.
const RECENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many segments are kept open for reading. A log may have thousands, a process has often no
/// more than a thousand descriptors, and most of them are for connections.
const OPEN_FILES_MAX: usize = 128;

/// What the writer and all readers of a log share.
pub(super) struct Shared {
    log_id: LogId,
    disk: Arc<dyn Disk>,
    head: RwLock<Head>,
    index: RwLock<Index>,
    recent: Mutex<Recent>,
    files: Mutex<OpenFiles>,
    /// Keeps everybody else out of the directory as long as anybody here uses it.
    _lock: Box<dyn Send + Sync>,
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        lock: Box<dyn Send + Sync>,
        log_id: LogId,
        head: Head,
        index: Index,
    ) -> Self {
        Self {
            log_id,
            disk,
            head: RwLock::new(head),
            index: RwLock::new(index),
            recent: Mutex::default(),
            files: Mutex::default(),
            _lock: lock,
        }
    }

    /// Begins a segment.
    pub(super) fn push_segment(&self, number: u64, first_position: u64) {
        write(&self.index).push_segment(number, first_position);
    }

    /// Shows blocks that have become durable, and the head after them.
    pub(super) fn publish(&self, blocks: Vec<Placed>, head: Head) {
        let mut index = write(&self.index);
        for placed in &blocks {
            index.push(placed.block.first_position(), placed.offset);
        }
        drop(index);
        lock(&self.recent).push(blocks);
        *write(&self.head) = head;
    }

    /// Finds and reads the frame that holds a position.
    fn read_block(&self, position: u64) -> Result<Arc<Block>, ReadError> {
        let Some(location) = read(&self.index).locate(position) else {
            unreachable!("the index knows every position up to the head")
        };
        let file = self.file(location.segment)?;
        // The frame begins less than one spacing after the entry.
        let mut chunk = vec![0; narrow(SPACING_BYTES).saturating_add(FRAME_BYTES_MAX)];
        let filled = read_up_to(&*file, &mut chunk, location.offset)?;
        chunk.truncate(filled);
        let tie = Tie::new(&self.log_id, location.segment);
        find_block(&chunk, location, tie, position).map_err(|(offset, fault)| {
            let file = file_name(location.segment);
            ReadError::Damaged(Damage { file, offset, position, what: fault.to_string() })
        })
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

/// Hops from frame to frame, beginning at the start of `chunk`, to the one that holds `position`.
fn find_block(
    chunk: &[u8],
    location: Location,
    tie: Tie,
    position: u64,
) -> Result<Arc<Block>, (u64, FrameFault)> {
    let mut offset = location.offset;
    loop {
        let from = narrow(offset.saturating_sub(location.offset));
        let rest = chunk.get(from..).unwrap_or_default();
        let Some((header, rest)) = rest.split_first_chunk::<{ frame::HEADER_BYTES }>() else {
            return Err((offset, FrameFault::EndOfFile));
        };
        let header = FrameHeader::decode(header, tie, offset).map_err(|fault| (offset, fault))?;
        if header.first_position > position {
            return Err((offset, FrameFault::Positions));
        }
        if header.kind == Kind::Records && position < header.next_position() {
            let payload = rest.get(..header.payload_bytes());
            let payload = payload.ok_or((offset, FrameFault::EndOfFile))?;
            return header.block(payload).map_err(|fault| (offset, fault));
        }
        offset = header.next_offset();
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
        *read(&self.head)
    }

    fn block(&self, position: u64) -> Result<Arc<Block>, ReadError> {
        if position == 0 || position > self.head().position {
            return Err(ReadError::beyond(position));
        }
        self.recent_block(position).map_or_else(|| self.read_block(position), Ok)
    }

    fn recent_block(&self, position: u64) -> Option<Arc<Block>> {
        lock(&self.recent).get(position)
    }
}

/// The newest blocks, consecutive.
#[derive(Default)]
struct Recent {
    blocks: VecDeque<Arc<Block>>,
    /// How many bytes they have.
    byte_count: usize,
}

impl Recent {
    fn push(&mut self, blocks: Vec<Placed>) {
        for Placed { block, .. } in blocks {
            self.byte_count = self.byte_count.saturating_add(weight(&block));
            self.blocks.push_back(block);
        }
        while self.byte_count > RECENT_BYTES_MAX {
            let Some(oldest) = self.blocks.pop_front() else { break };
            self.byte_count = self.byte_count.saturating_sub(weight(&oldest));
        }
    }

    fn get(&self, position: u64) -> Option<Arc<Block>> {
        let index = self.blocks.partition_point(|block| block.last_position() < position);
        self.blocks.get(index).filter(|block| block.first_position() <= position).cloned()
    }
}

/// What a block takes in memory: small ones are not free.
fn weight(block: &Block) -> usize {
    block.byte_count().saturating_add(size_of::<Block>())
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
