//! Checkpoints on the medium: in parts, of which those count that were finished.
//!
//! Any process can go on from one, whoever made it. Who is no owner any more may finish one as
//! well: it tells what the log was folded into up to a place that was durable.

use std::{io, sync::Arc, time::Duration};

use crc32c::crc32c;
use tracing::warn;

use super::{StoreError, reader::Shared};
use crate::log::{
    Head, LogId, LogReader as _,
    checkpoint::{self, CheckpointFault, Framing, Pieces},
};

/// The format of what is kept now.
const FORMAT: u32 = 1;
/// Once a part has so many bytes it is put: few calls, and little that is read at once.
const PART_BYTES: usize = 1024 * 1024;
/// How long to let others have the medium between two pieces of 16 KiB: at most 64 MB in a second.
const PIECE_INTERVAL: Duration = Duration::from_micros(250);

/// The id of a checkpoint, chosen at random and never used again.
pub type CheckpointId = [u8; 16];

/// A checkpoint that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its id.
    pub id: CheckpointId,
    /// The format of its parts.
    pub format: u32,
    /// How far the log had come.
    pub head: Head,
}

/// The end of the medium that keeps checkpoints. Its methods block, for a bounded time.
pub trait Vault: Send + Sync {
    /// Begins a checkpoint of a place in the log.
    ///
    /// # Errors
    /// [`StoreError`].
    fn begin(&self, format: u32, head: &Head) -> Result<CheckpointId, StoreError>;

    /// Adds a part, numbered from 0.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put(&self, id: CheckpointId, number: u32, part: &[u8]) -> Result<(), StoreError>;

    /// Makes it one that counts; `false` when it has been removed. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError`].
    fn finish(&self, id: CheckpointId) -> Result<bool, StoreError>;

    /// Those that nobody needs once this one counts: what is older than the one that counted
    /// before, which somebody may be reading; what was begun before it and is not finished; and
    /// those of a place that the log does not have.
    ///
    /// # Errors
    /// [`StoreError`].
    fn useless(&self, id: CheckpointId) -> Result<Vec<CheckpointId>, StoreError>;

    /// Removes one.
    ///
    /// # Errors
    /// [`StoreError`].
    fn remove(&self, id: CheckpointId) -> Result<(), StoreError>;

    /// The newest that counts and is of a place that the log has.
    ///
    /// # Errors
    /// [`StoreError`].
    fn newest(&self) -> Result<Option<Kept>, StoreError>;

    /// A part of one; `None` when it has no such part.
    ///
    /// # Errors
    /// [`StoreError`].
    fn part(&self, id: CheckpointId, number: u32) -> Result<Option<Vec<u8>>, StoreError>;
}

/// What the checksums of a checkpoint begin with.
fn seed(log_id: &LogId, head: &Head) -> u32 {
    let (position, bytes) = (head.position.to_le_bytes(), head.bytes.to_le_bytes());
    crc32c(&[&log_id[..], &position, &head.hash, &bytes].concat())
}

/// A checkpoint that is read.
pub struct Checkpoint {
    vault: Arc<dyn Vault>,
    kept: Kept,
    framing: Framing,
    next_part: u32,
    part: Vec<u8>,
    /// How much of that was read.
    offset: usize,
}

impl Checkpoint {
    /// The newest checkpoint of the log with this id; `None` when there is none. Whether the log
    /// has what it was folded from is not known yet.
    ///
    /// # Errors
    /// [`CheckpointFault`].
    pub fn find(vault: Arc<dyn Vault>, log_id: &LogId) -> Result<Option<Self>, CheckpointFault> {
        let Some(kept) = vault.newest().map_err(io::Error::other)? else { return Ok(None) };
        if kept.format != FORMAT {
            return Err(CheckpointFault::Version(kept.format));
        }
        let framing = Framing::new(seed(log_id, &kept.head));
        let (next_part, part, offset) = Default::default();
        Ok(Some(Self { vault, kept, framing, next_part, part, offset }))
    }

    /// How far the log had come.
    #[must_use]
    pub fn head(&self) -> Head {
        self.kept.head
    }
}

impl Pieces for Checkpoint {
    fn position(&self) -> u64 {
        self.kept.head.position
    }

    fn next_piece(&mut self) -> Result<Option<&[u8]>, CheckpointFault> {
        if self.offset == self.part.len() {
            let part = self.vault.part(self.kept.id, self.next_part).map_err(io::Error::other)?;
            self.part = part.ok_or(CheckpointFault::Damaged)?;
            self.next_part = self.next_part.saturating_add(1);
            self.offset = 0;
        }
        let rest = self.part.get(self.offset..).unwrap_or_default();
        let piece = self.framing.unframe(rest)?;
        let taken = checkpoint::PIECE_HEADER_BYTES.saturating_add(piece.len());
        self.offset = self.offset.saturating_add(taken);
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

/// Where checkpoints of a log are made.
pub struct Checkpoints {
    vault: Arc<dyn Vault>,
    shared: Arc<Shared>,
}

impl Checkpoints {
    pub(super) fn new(vault: Arc<dyn Vault>, shared: Arc<Shared>) -> Self {
        Self { vault, shared }
    }
}

impl checkpoint::Checkpoints for Checkpoints {
    fn begin(&self) -> Option<Box<dyn checkpoint::Draft>> {
        let (head, vault) = (self.shared.head(), Arc::clone(&self.vault));
        if head.position == 0 {
            return None;
        }
        let framing = Framing::new(seed(&self.shared.log_id(), &head));
        let (begun, part, next_part) = Default::default();
        Some(Box::new(Draft { vault, head, framing, begun, part, next_part }))
    }
}

/// A checkpoint in the making.
struct Draft {
    vault: Arc<dyn Vault>,
    head: Head,
    framing: Framing,
    /// There is none before the first part.
    begun: Option<CheckpointId>,
    /// What is not put yet.
    part: Vec<u8>,
    next_part: u32,
}

impl Draft {
    fn put(&mut self) -> Result<CheckpointId, StoreError> {
        let id = match self.begun {
            Some(id) => id,
            None => *self.begun.insert(self.vault.begin(FORMAT, &self.head)?),
        };
        self.vault.put(id, self.next_part, &self.part)?;
        self.part.clear();
        self.next_part = self.next_part.saturating_add(1);
        Ok(id)
    }

    fn put_last(&mut self) -> Result<CheckpointId, StoreError> {
        let end = self.framing.end();
        self.part.extend(end);
        self.put()
    }

    /// Removes those that are of no use any more.
    fn remove_useless(&self, id: CheckpointId) {
        let useless = self.vault.useless(id);
        let removed = useless.and_then(|useless| {
            useless.into_iter().try_for_each(|useless| self.vault.remove(useless))
        });
        if let Err(failure) = removed {
            warn!(%failure, "older checkpoints are not removed");
        }
    }

    fn remove(&self) -> io::Result<()> {
        self.begun.map_or(Ok(()), |id| self.vault.remove(id)).map_err(io::Error::other)
    }
}

impl checkpoint::Draft for Draft {
    fn position(&self) -> u64 {
        self.head.position
    }

    fn pause(&self) -> Duration {
        PIECE_INTERVAL
    }

    fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        let framed = self.framing.frame(piece);
        self.part.extend(framed);
        if self.part.len() >= PART_BYTES {
            self.put().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let id = match self.put_last() {
            Ok(id) => id,
            Err(failure) => {
                if let Err(failure) = self.remove() {
                    // What is not finished is removed with the next one.
                    warn!(%failure, "a checkpoint that was not finished is not removed");
                }
                return Err(io::Error::other(failure));
            }
        };
        // Without an answer it may count, and stays.
        if !self.vault.finish(id).map_err(io::Error::other)? {
            return Err(io::Error::other("it was removed before it was finished"));
        }
        self.remove_useless(id);
        Ok(())
    }

    fn discard(self: Box<Self>) -> io::Result<()> {
        self.remove()
    }
}
