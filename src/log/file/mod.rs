//! The engine that keeps the log in files: durable, checksummed, hash-chained.
//!
//! # The format, version 2
//! A directory has segments named by their number (`00000000000000000001.seg`), the next segment
//! in the making ([`SPARE_FILE`]), a file to lock ([`LOCK_FILE`]), perhaps a checkpoint
//! ([`CHECKPOINT_FILE`]), and for a moment at a start a copy of the newest group ([`COPY_FILE`]),
//! or, while it is being restored, a file that says so ([`RESTORE_FILE`]).
//! Segment headers are described byte by byte in `segment.rs`, groups and frames in `frame.rs`,
//! the checkpoint in `checkpoint.rs`, the copy in `rewrite.rs`; what a damaged or torn log looks
//! like in `scan.rs`, and what opening does about it in `recovery.rs`. A log of version 1 goes on
//! in segments of version 2: `segment.rs` says what that is for, `writer.rs` how.
//!
//! # What the format assumes of the medium
//! - A sector of 512 bytes is written whole, or not at all, or is garbage afterwards; sectors
//!   beside it are untouched.
//! - Writes that are not synced persist in any subset and in any order.
//! - Once a sync of a file has returned, its bytes and its length are durable. When it fails,
//!   nothing is known, now or later.
//! - An entry in the directory is durable once a sync of the directory has returned.
//! - What is at rest may rot, vanish or be written over by a misdirected write. That is found and
//!   said; it is not repaired.
//!
//! Indexes live in memory and are made anew after each start.

use std::io;
use std::sync::Arc;

use crate::log::{Block, Damage, GROUP_BYTES_MAX, LogId, LogReader, LogWriter};

mod bytes;
mod catalog;
mod checkpoint;
mod copy;
mod disk;
mod frame;
mod index;
mod reader;
mod rebuild;
mod recovery;
mod rewrite;
mod scan;
mod scrub;
mod segment;
mod spare;
#[cfg(test)]
mod tests;
mod verify;
mod window;
mod writer;

pub use checkpoint::{CHECKPOINT_FILE, Checkpoint, Checkpoints, Resume};
pub use copy::{Copied, CopyError, RESTORE_FILE};
pub use disk::{Disk, DiskFile, LOCK_FILE, Lock, StdDisk};
pub use rebuild::Rebuild;
pub use recovery::Directory;
pub use rewrite::COPY_FILE;
pub use scrub::Scrubber;
pub use segment::SPARE_FILE;
#[cfg(test)]
pub(crate) use segment::make_version_1;
pub use spare::SpareMaker;
pub use verify::{AtRest, Verified};

use bytes::{align, wide};
use segment::SECTOR_BYTES;

/// How large a segment is: few enough files for years of use, and a spare that is soon made.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// How large the first segment is. It is made while a server waits to start.
pub const FIRST_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Is given the log's id and each verified block in order. What it says against a block is damage.
pub type Visitor<'a> = dyn FnMut(&LogId, &Arc<Block>) -> Result<(), String> + 'a;

/// How to open a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The id of the log if a new one has to be made. Chosen at random by the caller.
    pub new_log_id: LogId,
    /// What time it is, in microseconds since 1970: noted in segments made from now on, as
    /// information only.
    pub now_micros: i64,
    /// The length of the first segment of a new log.
    pub first_segment_bytes: u64,
    /// The length of segments made from now on. Those that are there keep theirs.
    pub segment_bytes: u64,
    /// The size of a group for which [`LogWriter::has_room`] answers. Smaller than
    /// [`GROUP_BYTES_MAX`] only for small segments, in tests and simulations.
    pub group_bytes_max: usize,
}

impl Options {
    /// The usual sizes.
    #[must_use]
    pub fn new(new_log_id: LogId, now_micros: i64) -> Self {
        Self {
            new_log_id,
            now_micros,
            first_segment_bytes: FIRST_SEGMENT_BYTES,
            segment_bytes: SEGMENT_BYTES,
            group_bytes_max: GROUP_BYTES_MAX,
        }
    }

    fn first_segment_length(&self) -> u64 {
        align(self.first_segment_bytes, SECTOR_BYTES)
    }

    fn segment_length(&self) -> u64 {
        align(self.segment_bytes, SECTOR_BYTES)
    }

    fn check(&self) -> Result<(), OpenError> {
        let needed_bytes = segment_bytes_needed(wide(self.group_bytes_max));
        let smallest = self.first_segment_bytes.min(self.segment_bytes);
        if smallest < needed_bytes {
            return Err(OpenError::SegmentTooSmall { needed_bytes });
        }
        Ok(())
    }
}

/// How long a segment has to be to take one group of `byte_count` bytes of records.
fn segment_bytes_needed(byte_count: u64) -> u64 {
    wide(segment::HEADER_BYTES)
        .saturating_add(frame::group_bytes_bound(byte_count))
        .saturating_add(writer::RESERVED_BYTES)
}

/// A log that was opened.
pub struct Opened {
    /// The end that appends. There is none when damage was found: the log can be read up to the
    /// last good position, and nothing on the medium has been changed.
    pub writer: Option<Box<dyn LogWriter>>,
    /// The end that reads.
    pub reader: Arc<dyn LogReader>,
    /// The first damage that was found.
    pub damage: Option<Damage>,
    /// The incomplete group that was cut from the end.
    pub torn: Option<TornTail>,
    /// Makes the next segments; to be run on a thread of its own. There is one if there is a
    /// writer.
    pub preparer: Option<SpareMaker>,
    /// Where checkpoints of the log are made.
    pub checkpoints: Checkpoints,
    /// Verifies the segments that were not read now, and later all again; to be run on a thread of
    /// its own.
    pub scrubber: Scrubber,
}

/// An incomplete group at the end of a log. None of it was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The name of the file, without its directory.
    pub file: String,
    /// The offset in the file where the group begins.
    pub offset: u64,
    /// How many bytes there are from there to the last one that is not zero.
    pub bytes: u64,
    /// The first position that is not kept.
    pub position: u64,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("the directory is in use by another process ({holder})")]
    Locked {
        /// What it says about itself; empty if it says nothing.
        holder: String,
    },
    /// The log is of a format that this program does not know. Nothing was changed.
    #[error("{file} is of format version {found}; this program knows version {supported}")]
    UnknownVersion {
        /// The file that says so.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version that is known here.
        supported: u32,
    },
    /// There is no log to verify.
    #[error("there is no log in the directory")]
    NoLog,
    /// The last start ended while it was making the newest group durable. Nothing is lost: the
    /// next start finishes that, and only then can the log be verified.
    #[error("the last start of this log was interrupted; start it again before it is verified")]
    Unfinished,
    /// A log was being restored into the directory, and that has not ended.
    #[error("restoring into this directory has not ended; restore again, into an empty one")]
    HalfRestored,
    /// The options ask for segments that cannot take the largest group.
    #[error("a segment must have at least {needed_bytes} bytes")]
    SegmentTooSmall {
        /// How many bytes it needs.
        needed_bytes: u64,
    },
    /// The medium failed.
    #[error("{context}: {source}")]
    Io {
        /// Which file, or what was being done.
        context: String,
        /// How it failed.
        source: io::Error,
    },
}

/// Opens the log in a directory, and makes one if there is none.
///
/// Every byte is read once, and `visit` is given the log's id and each verified block in order.
/// When it finds a block wrong, that is damage, described by its text. A torn tail is cut. When
/// this returns a writer, everything that the reader shows is durable and witnessed.
///
/// # Errors
/// [`OpenError`]; damage is none of them, see [`Opened::damage`].
pub fn open(
    disk: Arc<dyn Disk>,
    options: &Options,
    visit: &mut Visitor<'_>,
) -> Result<Opened, OpenError> {
    Directory::take(disk, options)?.open(None, visit)
}

/// Verifies the log in a directory that nobody uses at the moment, and changes nothing.
///
/// `progress` is told how many bytes are done and how many there are; `visit` is given the log's
/// id and each verified block in order, and may find it wrong.
///
/// # Errors
/// [`OpenError`]; damage is none of them, see [`Verified::damage`].
pub fn verify(
    disk: &dyn Disk,
    progress: &mut dyn FnMut(u64, u64),
    visit: &mut Visitor<'_>,
) -> Result<Verified, OpenError> {
    AtRest::take(disk)?.verify(progress, visit)
}

/// Brings a backup up to date, or makes one: a directory with a beginning of the log, up to what
/// was durable when this was called, or later. The log may be in use.
///
/// `progress` is told how many bytes are done and how many there are. `wait` is called to give the
/// process that uses the log a moment to say what is durable, about 50 ms, at most twenty times.
/// Everything that is copied is verified, and durable when this returns.
///
/// # Errors
/// [`CopyError`]. What is in the target is still a beginning of the log then.
pub fn back_up(
    source: &dyn Disk,
    target: &dyn Disk,
    progress: &mut dyn FnMut(u64, u64),
    wait: &mut dyn FnMut(),
) -> Result<Copied, CopyError> {
    copy::back_up(source, target, progress, wait)
}

/// Makes a log from a backup, or from another log that nobody uses, in a directory without files.
/// With `until` it has only those groups that had ended by that position.
///
/// `progress` is told how many bytes are done and how many there are; `visit` is given the whole
/// of the restored log, and may find it wrong. Everything is durable when this returns.
///
/// # Errors
/// [`CopyError`]. The target cannot be opened then.
pub fn restore(
    source: &dyn Disk,
    target: &dyn Disk,
    until: Option<u64>,
    progress: &mut dyn FnMut(u64, u64),
    visit: &mut Visitor<'_>,
) -> Result<Copied, CopyError> {
    copy::restore(source, target, until, progress, visit)
}

fn lock_directory(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, OpenError> {
    match disk.try_lock().map_err(|error| io_error("locking the directory", error))? {
        Lock::Held(guard) => Ok(guard),
        Lock::Taken(holder) => Err(OpenError::Locked { holder }),
    }
}

fn io_error(context: &str, source: io::Error) -> OpenError {
    OpenError::Io { context: context.to_owned(), source }
}
