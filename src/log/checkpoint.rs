//! Checkpoints: what the log up to a place was folded into, kept beside it, so that a start need
//! read only what came after.
//!
//! An engine keeps pieces of bytes and the place that they belong to; what they say is the matter
//! of whoever folded. A checkpoint is derived and disposable: one that is missing, damaged, of
//! another format, or of a place that the log does not have is left alone, and the start reads the
//! whole log. A new one takes the place of the old one when it is durable, and not before.

use std::{io, time::Duration};

use crc32c::{crc32c, crc32c_append};

/// How large a piece may be: bounds what is read before its checksum has been seen.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A piece's length and its checksum, each a u32.
pub(crate) const PIECE_HEADER_BYTES: usize = 8;

/// Why a checkpoint is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFault {
    /// It is not what was written.
    #[error("the checkpoint is damaged or not finished")]
    Damaged,
    /// It is of a format that this program does not know.
    #[error("the checkpoint is of format version {0}")]
    Version(u32),
    /// The log does not have what it was folded from.
    #[error("the checkpoint is not one of this log as it is")]
    Foreign,
    /// The medium failed.
    #[error("the checkpoint cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Where checkpoints of a log are made.
pub trait Checkpoints: Send {
    /// Begins a checkpoint of what the log up to where it ends now was folded into; `None` when it
    /// has no record. Nothing is written yet.
    fn begin(&self) -> Option<Box<dyn Draft>>;
}

/// A checkpoint in the making. It counts only when [`Draft::finish`] has returned.
pub trait Draft {
    /// The position that everything in it is true at.
    fn position(&self) -> u64;

    /// How long to let others have the medium between two pieces.
    fn pause(&self) -> Duration;

    /// Adds a piece.
    ///
    /// # Errors
    /// When it cannot be written.
    ///
    /// # Panics
    /// When the piece is empty or has more than [`PIECE_BYTES_MAX`] bytes: that is a defect of the
    /// caller.
    fn push(&mut self, piece: &[u8]) -> io::Result<()>;

    /// Puts it in the place of the one before. Durable when it returns.
    ///
    /// # Errors
    /// When that failed; then the one before may still be the one that counts.
    fn finish(self: Box<Self>) -> io::Result<()>;

    /// Gives back its room instead.
    ///
    /// # Errors
    /// When that failed.
    fn discard(self: Box<Self>) -> io::Result<()>;
}

/// A checkpoint that fits its log; its pieces are yet to be read.
pub trait Pieces {
    /// The position that everything in it is true at.
    fn position(&self) -> u64;

    /// The next piece; `None` after the last one.
    ///
    /// # Errors
    /// [`CheckpointFault`]; then nothing that was read of it may be used.
    fn next_piece(&mut self) -> Result<Option<&[u8]>, CheckpointFault>;
}

/// Pieces as bytes, one after another: the length (u32), the CRC-32C (u32) of the seed, the piece's
/// number (u64, from 0), its length and its bytes, and the bytes. Integers are little-endian. A
/// piece of length 0 ends them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framing {
    seed: u32,
    number: u64,
}

impl Framing {
    /// From the first piece on. The seed stands for what the checkpoint is of.
    pub(crate) fn new(seed: u32) -> Self {
        Self { seed, number: 0 }
    }

    /// The bytes of the piece that comes next.
    ///
    /// # Panics
    /// As [`Draft::push`].
    pub(crate) fn frame(&mut self, piece: &[u8]) -> Vec<u8> {
        assert!((1..=PIECE_BYTES_MAX).contains(&piece.len()), "a piece of {} bytes", piece.len());
        self.put(piece)
    }

    /// The bytes that end the pieces.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.put(&[])
    }

    fn put(&mut self, piece: &[u8]) -> Vec<u8> {
        let (length, checksum) = (length(piece), self.checksum(piece).to_le_bytes());
        self.number = self.number.saturating_add(1);
        [&length[..], &checksum, piece].concat()
    }

    /// The piece that comes next, which the bytes begin with.
    pub(crate) fn unframe<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], CheckpointFault> {
        let field = |bytes: &'b [u8]| {
            let (field, rest) = bytes.split_first_chunk().ok_or(CheckpointFault::Damaged)?;
            Ok::<_, CheckpointFault>((u32::from_le_bytes(*field), rest))
        };
        let (length, rest) = field(bytes)?;
        let (checksum, rest) = field(rest)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= PIECE_BYTES_MAX);
        let piece = length.and_then(|length| rest.get(..length)).ok_or(CheckpointFault::Damaged)?;
        if checksum != self.checksum(piece) {
            return Err(CheckpointFault::Damaged);
        }
        self.number = self.number.saturating_add(1);
        Ok(piece)
    }

    fn checksum(&self, piece: &[u8]) -> u32 {
        let head = crc32c_append(crc32c(&self.seed.to_le_bytes()), &self.number.to_le_bytes());
        crc32c_append(crc32c_append(head, &length(piece)), piece)
    }
}

fn length(piece: &[u8]) -> [u8; 4] {
    let Ok(length) = u32::try_from(piece.len()) else {
        unreachable!("a piece has at most {PIECE_BYTES_MAX} bytes")
    };
    length.to_le_bytes()
}
