//! Checkpoints in files: see [`Checkpoints`](crate::log::Checkpoints).
//!
//! # The file, version 1
//! One sector, then the pieces one after another, framed by [`Framing`] with the sector's checksum.
//! Integers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | magic: `DAYBCKPT` |
//! | 8..12 | format version, u32: 1 |
//! | 12..16 | CRC-32C of the sector, these four bytes taken as zero |
//! | 16..32 | log id |
//! | 32..40 | the position that everything is true at, u64 |
//! | 40..72 | hash of the chain up to there |
//! | 72..80 | number of the segment that has this position, u64 |
//! | 80..88 | offset in it of the frame that ends with this position, u64 |
//! | 88..96 | how many bytes the segments before that one have, u64 |
//! | 96..512 | zero |

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use crc32c::crc32c;

use crate::log::checkpoint::{
    self, CheckpointFault, Framing, PIECE_BYTES_MAX, PIECE_HEADER_BYTES, Pieces,
};
use crate::log::{ChainHash, LogId};

use super::bytes::{Put, Take, wide};
use super::catalog::Catalog;
use super::disk::{Disk, DiskFile, read_up_to, write_all_at};
use super::frame::{FRAME_BYTES_MAX, FrameHeader, Kind, Tie};
use super::reader::Shared;
use super::segment::{SegmentHeader, file_name};
use super::window::Window;

/// The name of the checkpoint.
pub const CHECKPOINT_FILE: &str = "checkpoint";

/// The name of a checkpoint in the making.
const DRAFT_FILE: &str = "checkpoint.tmp";

const MAGIC: [u8; 8] = *b"DAYBCKPT";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 512;

/// How much of a checkpoint is written before it is synced: little enough that the log's own
/// syncs, on the same file system at the same time, do not wait long behind it.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;
/// How long to let others have the disk between two pieces.
const PIECE_INTERVAL: Duration = Duration::from_micros(100);

/// The end of a group of records: a place where reading the log can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The newest position before the place; 1 or more.
    pub(super) position: u64,
    pub(super) hash: ChainHash,
    pub(super) place: Place,
}

/// Where the frame is that ends with some position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// How many bytes the segments before that one have.
    pub(super) sealed_bytes: u64,
}

/// A mark that the log was found to have, and what its frame says.
#[derive(Clone, Copy, Debug)]
pub struct Resume {
    pub(super) mark: Mark,
    pub(super) group_offset: u64,
    pub(super) next_offset: u64,
}

impl Resume {
    /// The newest position before the place.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.mark.position
    }
}

/// A checkpoint that fits the log; its pieces are yet to be read.
pub struct Checkpoint {
    window: Window,
    resume: Resume,
    framing: Framing,
    offset: u64,
}

impl Mark {
    fn encode(&self, log_id: &LogId) -> [u8; HEADER_BYTES] {
        let mut sector = [0; HEADER_BYTES];
        self.put(log_id, &mut sector, 0);
        let checksum = crc32c(&sector);
        self.put(log_id, &mut sector, checksum);
        sector
    }

    fn put(&self, log_id: &LogId, sector: &mut [u8; HEADER_BYTES], checksum: u32) {
        let mut put = Put(sector);
        put.field(MAGIC);
        put.field(VERSION.to_le_bytes());
        put.field(checksum.to_le_bytes());
        put.field(*log_id);
        put.field(self.position.to_le_bytes());
        put.field(self.hash);
        put.field(self.place.segment.to_le_bytes());
        put.field(self.place.offset.to_le_bytes());
        put.field(self.place.sealed_bytes.to_le_bytes());
    }

    /// Reads a header that is to be one of the log with this id.
    fn decode(sector: &[u8; HEADER_BYTES], log_id: &LogId) -> Result<Self, CheckpointFault> {
        let mut take = Take(sector);
        if take.field() != MAGIC {
            return Err(CheckpointFault::Damaged);
        }
        let version = take.u32();
        let _checksum = take.u32();
        let found_id: LogId = take.field();
        let mark = Self {
            position: take.u64(),
            hash: take.field(),
            place: Place { segment: take.u64(), offset: take.u64(), sealed_bytes: take.u64() },
        };
        if version != VERSION {
            return Err(CheckpointFault::Version(version));
        }
        // There is one way to say each thing, so encoding again compares all of the sector.
        if mark.encode(&found_id) != *sector {
            return Err(CheckpointFault::Damaged);
        }
        if found_id == *log_id { Ok(mark) } else { Err(CheckpointFault::Foreign) }
    }

    /// Looks the mark up in the log.
    fn find(self, disk: &dyn Disk, catalog: &Catalog) -> Result<Resume, CheckpointFault> {
        let header = self.segment_header(catalog).ok_or(CheckpointFault::Foreign)?;
        let file = disk.open(&file_name(header.number))?;
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        let filled = read_up_to(&*file, &mut bytes, self.place.offset)?;
        bytes.truncate(filled);
        let tie = Tie::new(&header.log_id, header.number);
        let frame = self.frame(&bytes, tie).ok_or(CheckpointFault::Foreign)?;
        let (group_offset, next_offset) = (frame.group_offset, frame.next_offset());
        Ok(Resume { mark: self, group_offset, next_offset })
    }

    /// The header of its segment, if the headers up to there are those of one log.
    fn segment_header<'c>(&self, catalog: &'c Catalog) -> Option<&'c SegmentHeader> {
        let (mut found, mut first_position) = (None, 0);
        for (expected, entry) in (1..=self.place.segment).zip(&catalog.entries) {
            let header = entry.header.as_ref().ok()?;
            let fits = entry.number == expected
                && header.number == expected
                && header.log_id == catalog.log_id()
                && (first_position..=self.position).contains(&header.first_position)
                && entry.is_whole();
            first_position = header.first_position;
            found = Some(header).filter(|_| fits);
            found?;
        }
        found.filter(|header| header.number == self.place.segment)
    }

    /// The frame that ends with the position, if that is what the bytes at its place are.
    fn frame(&self, bytes: &[u8], tie: Tie) -> Option<FrameHeader> {
        let (header, rest) = bytes.split_first_chunk()?;
        let header = FrameHeader::decode(header, tie, self.place.offset).ok()?;
        let ends = header.kind == Kind::Records
            && header.is_last
            && header.next_position() == self.position.checked_add(1)?
            && header.chain == self.hash;
        let payload = rest.get(..header.payload_bytes())?;
        (ends && header.matches(payload)).then_some(header)
    }
}

impl Checkpoint {
    /// Looks for a checkpoint that fits the log; `None` when there is none at all.
    pub(super) fn find(
        disk: &dyn Disk,
        catalog: &Catalog,
    ) -> Result<Option<Self>, CheckpointFault> {
        let file = match disk.open(CHECKPOINT_FILE) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut sector = [0; HEADER_BYTES];
        if read_up_to(&*file, &mut sector, 0)? < HEADER_BYTES {
            return Err(CheckpointFault::Damaged);
        }
        let resume = Mark::decode(&sector, &catalog.log_id())?.find(disk, catalog)?;
        let mut window = Window::new();
        window.turn_to(file);
        let (framing, offset) = (Framing::new(crc32c(&sector)), wide(HEADER_BYTES));
        Ok(Some(Self { window, resume, framing, offset }))
    }

    /// The place in the log that it belongs to.
    #[must_use]
    pub fn resume(&self) -> Resume {
        self.resume
    }
}

impl Pieces for Checkpoint {
    fn position(&self) -> u64 {
        self.resume.position()
    }

    fn next_piece(&mut self) -> Result<Option<&[u8]>, CheckpointFault> {
        let bytes = self.window.get(self.offset, PIECE_HEADER_BYTES + PIECE_BYTES_MAX)?;
        let piece = self.framing.unframe(bytes)?;
        self.offset =
            self.offset.saturating_add(wide(PIECE_HEADER_BYTES)).saturating_add(wide(piece.len()));
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

/// Where checkpoints of an open log are made. Cheap to clone.
#[derive(Clone)]
pub struct Checkpoints {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shared: Arc<Shared>,
}

/// A checkpoint in the making.
struct Draft {
    disk: Arc<dyn Disk>,
    mark: Mark,
    log_id: LogId,
    /// There is none before the first piece.
    file: Option<DraftFile>,
}

/// Its file.
struct DraftFile {
    file: Arc<dyn DiskFile>,
    framing: Framing,
    length: u64,
    synced: u64,
}

impl checkpoint::Checkpoints for Checkpoints {
    fn begin(&self) -> Option<Box<dyn checkpoint::Draft>> {
        let (disk, log_id) = (Arc::clone(&self.disk), self.shared.id());
        Some(Box::new(Draft { disk, mark: self.shared.mark()?, log_id, file: None }))
    }
}

/// Removes a checkpoint that was not finished, if there is one.
pub(super) fn remove_draft(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(DRAFT_FILE) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Draft {
    fn file(&mut self) -> io::Result<&mut DraftFile> {
        let file = match self.file.take() {
            Some(file) => file,
            None => DraftFile::create(&*self.disk, &self.mark, &self.log_id)?,
        };
        Ok(self.file.insert(file))
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        let file = self.file()?;
        let end = file.framing.end();
        file.write(&end)?;
        file.file.sync_data()?;
        self.disk.rename(DRAFT_FILE, CHECKPOINT_FILE)?;
        self.disk.sync_dir()
    }
}

impl DraftFile {
    fn create(disk: &dyn Disk, mark: &Mark, log_id: &LogId) -> io::Result<Self> {
        remove_draft(disk)?;
        let header = mark.encode(log_id);
        let file = disk.create(DRAFT_FILE)?;
        write_all_at(&*file, &header, 0)?;
        let framing = Framing::new(crc32c(&header));
        Ok(Self { file, framing, length: wide(HEADER_BYTES), synced: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all_at(&*self.file, bytes, self.length)?;
        self.length = self.length.saturating_add(wide(bytes.len()));
        Ok(())
    }
}

impl checkpoint::Draft for Draft {
    fn position(&self) -> u64 {
        self.mark.position
    }

    fn pause(&self) -> Duration {
        PIECE_INTERVAL
    }

    fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        let file = self.file()?;
        let framed = file.framing.frame(piece);
        file.write(&framed)?;
        if file.length.saturating_sub(file.synced) >= SYNC_BYTES {
            file.file.sync_data()?;
            file.synced = file.length;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let put = self.put_in_place();
        if put.is_err() {
            remove_draft(&*self.disk)?;
        }
        put
    }

    fn discard(self: Box<Self>) -> io::Result<()> {
        remove_draft(&*self.disk)
    }
}
