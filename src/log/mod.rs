//! The log: the durable sequence of records that everything else is folded from.
//!
//! It owns groups, records and positions, and knows nothing of what a record says: no account,
//! no money, no event. One record holds the events of one command; one group holds the records
//! that were committed together, and is all there or not there at all.
//!
//! Three engines implement the seam: [`memory`] (nothing survives the process), [`mod@file`]
//! (durable, hash-chained segment files) and [`shared`] (a medium that several processes share,
//! one of which owns the log). One conformance suite holds all of them to it.

use std::{io, sync::Arc};

mod block;
pub(crate) mod chain;
mod checkpoint;
pub mod file;
mod group;
pub(crate) mod guard;
pub mod memory;
mod recent;
pub mod shared;

#[cfg(test)]
mod conformance;

pub use block::{Block, Record};
pub use checkpoint::{CheckpointFault, Checkpoints, Draft, PIECE_BYTES_MAX, Pieces};
pub use group::Group;

/// The id of a log, chosen at random when it is created and written in all its files.
pub type LogId = [u8; 16];

/// A hash of the chain: it stands for all records before it.
pub type ChainHash = [u8; 32];

/// The version of the format that records are written in now. What one may say depends on the
/// version that it was written in: see [`Record::format`].
pub const FORMAT_VERSION: u32 = 2;

/// How large one record may be: an event with the longest texts is well below it, and a reader
/// can bound its memory by it.
pub const RECORD_BYTES_MAX: usize = 4 * 1024;

/// How many bytes of records one group may hold, their lengths included. A batch of 8,190
/// commands in a message of 4 MiB stays below it, whoever gives them and behind whatever waits
/// already; a segment always has room for one such group.
pub const GROUP_BYTES_MAX: usize = 10 * 1024 * 1024;

/// How far the log has come: everything up to here is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest durable position; 0 in an empty log.
    pub position: u64,
    /// The hash of the chain up to and including everything durable.
    pub hash: ChainHash,
    /// How many bytes the log takes on its medium, space that is only preallocated not counted.
    pub bytes: u64,
}

impl Head {
    /// Of a log without records.
    #[must_use]
    pub fn start(log_id: &LogId) -> Self {
        Self { position: 0, hash: chain::start(log_id), bytes: 0 }
    }

    /// How far it has come with one more block, and the chain up to that.
    fn after(self, block: &Block, hash: ChainHash) -> Self {
        let byte_count = u64::try_from(block.byte_count()).unwrap_or(u64::MAX);
        Self { position: block.last_position(), hash, bytes: self.bytes.saturating_add(byte_count) }
    }
}

/// Why a group was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A write or a sync failed. Whether the group will be there after a restart is unknown; the
    /// writer must not be used again.
    #[error("the log failed to write or to sync: {0}")]
    Failed(#[source] io::Error),
    /// The writer has failed before and appends nothing any more.
    #[error("the log is latched after an earlier failure")]
    Latched,
    /// There is no room for the group; nothing was written, and the writer stays usable.
    #[error("the log has no room for the group")]
    Full,
    /// The medium cannot be reached, or is not certain to be this process's now. The group may be
    /// there already or not; trying the same group again finds that out and appends it at most
    /// once.
    #[error("the log cannot be reached: {0}")]
    Unreachable(String),
    /// The log belongs to another process, for good. Whether a group whose append was not certain
    /// is there, only that one knows; the writer must not be used again.
    #[error("the log belongs to another process now: {0}")]
    Fenced(&'static str),
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes on the medium are not those that were written. They are never served.
    #[error("{0}")]
    Damaged(#[from] Damage),
    /// The medium could not be read.
    #[error("the log could not be read: {0}")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// The answer to a caller who asked for a position that is not in the log.
    pub(crate) fn beyond(position: u64) -> Self {
        let text = format!("position {position} is not between 1 and the head");
        Self::Io(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

/// A place in the log whose bytes are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damage in {file} at byte {offset}, position {position}: {what}")]
pub struct Damage {
    /// The name of the file, without its directory.
    pub file: String,
    /// The offset in the file where the damaged frame or header begins.
    pub offset: u64,
    /// The first position that cannot be trusted.
    pub position: u64,
    /// What is wrong there.
    pub what: String,
}

impl Damage {
    /// Of a log whose blocks are in no file, but in a table.
    pub(crate) fn in_table(table: &str, position: u64, what: impl Into<String>) -> Self {
        Self { file: table.to_owned(), offset: 0, position, what: what.into() }
    }
}

/// What was verified of a log since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Every byte up to this position was read and verified at least once.
    pub position: u64,
    /// The first damage that was found, by the start or since.
    pub damage: Option<Damage>,
}

/// Verifies what a log has at rest, part by part: what was found is told by
/// [`LogReader::scrubbed`].
pub trait Scrubber: Send {
    /// Begins again at the beginning of the log.
    fn restart(&mut self);

    /// Verifies the next part: a segment, or as much as one has. Gives whether there was one that
    /// was not verified yet. `pace` is told how many bytes of it are done, and may wait.
    ///
    /// # Errors
    /// When it cannot be read. Damage is none of them.
    fn step(&mut self, pace: &mut dyn FnMut(u64)) -> io::Result<bool>;
}

/// The one end of a log that appends. Its methods block.
pub trait LogWriter: Send {
    /// Appends a group as a whole, and advances the head that the readers see.
    ///
    /// When it returns `Ok`, all of the group is durable. When it returns an error, readers see
    /// nothing of it; see [`AppendError`] for what may be on the medium.
    ///
    /// # Errors
    /// [`AppendError::Failed`] or [`AppendError::Fenced`] once, then [`AppendError::Latched`] for
    /// ever; or [`AppendError::Full`] or [`AppendError::Unreachable`], after which another try of
    /// the same group may succeed.
    fn append(&mut self, group: &Group) -> Result<Head, AppendError>;

    /// Whether a group of [`GROUP_BYTES_MAX`] can be appended now. Asked before commands are
    /// decided, so that a full medium refuses them and loses nothing.
    fn has_room(&mut self) -> bool;

    /// Whether the medium can be reached and the log is this process's, as far as is known. Asked
    /// as [`LogWriter::has_room`] is.
    ///
    /// # Errors
    /// [`AppendError::Failed`] or [`AppendError::Fenced`], as [`LogWriter::append`].
    fn owns(&mut self) -> Result<bool, AppendError> {
        Ok(true)
    }

    /// Notes on the medium that the newest group is durable, when that is not noted yet. To be
    /// called when the writer has been idle for a moment. Durable when it returns.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    fn witness(&mut self) -> Result<(), AppendError>;

    /// Marks the log as stopped cleanly. Durable when it returns; nothing is appended after it:
    /// a try is [`AppendError::Latched`].
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    fn close(&mut self) -> Result<(), AppendError>;
}

/// The end of a log that reads; many readers share it. It shows only what is durable.
pub trait LogReader: Send + Sync {
    /// The id of the log.
    fn log_id(&self) -> LogId;

    /// The name of the engine: `file`, `memory` or `postgres`.
    fn engine(&self) -> &'static str;

    /// How far the log has come.
    fn head(&self) -> Head;

    /// Whether what it shows is certain to be all there is: not so while another process may own
    /// the log.
    fn is_current(&self) -> bool {
        true
    }

    /// How many segments it has; 0 where it is not kept in files.
    fn segment_count(&self) -> usize {
        0
    }

    /// What was verified since the log was opened. Of a log that is not kept on a medium, all.
    fn scrubbed(&self) -> Scrubbed {
        Scrubbed { position: self.head().position, damage: None }
    }

    /// The block that holds `position`, which must lie between 1 and the head. May block on I/O.
    ///
    /// # Errors
    /// [`ReadError`] when the block is damaged or cannot be read. A position outside the log is
    /// [`io::ErrorKind::InvalidInput`].
    fn block(&self, position: u64) -> Result<Arc<Block>, ReadError>;

    /// That block and some of those that follow it, as many as one longer read gives: for who goes
    /// on from there.
    ///
    /// # Errors
    /// As [`LogReader::block`].
    fn blocks(&self, position: u64) -> Result<Vec<Arc<Block>>, ReadError> {
        Ok(vec![self.block(position)?])
    }

    /// The same block, if it is at hand without I/O.
    fn recent_block(&self, position: u64) -> Option<Arc<Block>>;
}
