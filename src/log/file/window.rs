//! A window that moves over a file: each byte is read once, in large pieces, and what is asked
//! for is handed out without a copy.

use std::io;
use std::sync::Arc;

use super::bytes::{narrow, wide};
use super::disk::{DiskFile, read_up_to};

/// How much is read at once: large enough for the full speed of a disk.
const WINDOW_BYTES: usize = 1024 * 1024;

/// How much is compared with zeros at once.
const ZEROS: [u8; 4096] = [0; 4096];

/// One buffer, for one file after another.
pub(super) struct Window {
    buffer: Vec<u8>,
    file: Option<Arc<dyn DiskFile>>,
    /// Where in the file the buffer begins, and how much of it is filled.
    start: u64,
    filled: usize,
    /// Whether the file has no more.
    is_at_end: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; WINDOW_BYTES], file: None, start: 0, filled: 0, is_at_end: false }
    }

    /// Turns to another file.
    pub(super) fn turn_to(&mut self, file: Arc<dyn DiskFile>) {
        self.file = Some(file);
        (self.start, self.filled, self.is_at_end) = (0, 0, false);
    }

    /// Forgets what was read of the file from an offset on: what is asked for next is read from the
    /// medium. What is before it stays as it was read, also if the medium lacks it.
    pub(super) fn forget(&mut self, offset: u64) {
        if let Some(file) = &self.file {
            file.forget(offset);
        }
        (self.start, self.filled, self.is_at_end) = (offset, 0, false);
    }

    /// How far the file has been read.
    pub(super) fn read_until(&self) -> u64 {
        self.start.saturating_add(wide(self.filled))
    }

    /// The bytes at an offset: `count` of them, which is far below the size of the window, or
    /// fewer where the file ends.
    pub(super) fn get(&mut self, offset: u64, count: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(wide(count));
        if offset < self.start || (end > self.read_until() && !self.is_at_end) {
            self.refill(offset)?;
        }
        let from = narrow(offset.saturating_sub(self.start)).min(self.filled);
        let until = from.saturating_add(count).min(self.filled);
        Ok(self.buffer.get(from..until).unwrap_or_default())
    }

    /// The offset after the last byte that is not zero, from `offset` to the end of the file;
    /// `offset` itself if all are zero.
    pub(super) fn end_of_content(&mut self, offset: u64) -> io::Result<u64> {
        let (mut at, mut end) = (offset, offset);
        loop {
            let piece = self.get(at, ZEROS.len())?;
            if piece.is_empty() {
                return Ok(end);
            }
            let is_zero = ZEROS.get(..piece.len()) == Some(piece);
            if let Some(last) = piece.iter().rposition(|byte| *byte != 0).filter(|_| !is_zero) {
                end = at.saturating_add(wide(last)).saturating_add(1);
            }
            at = at.saturating_add(wide(piece.len()));
        }
    }

    /// Makes the window begin at `offset`; what it has from there on is kept.
    fn refill(&mut self, offset: u64) -> io::Result<()> {
        let Some(file) = &self.file else { unreachable!("a window looks at a file") };
        let kept = if offset >= self.start && offset < self.read_until() {
            let from = narrow(offset.saturating_sub(self.start));
            self.buffer.copy_within(from..self.filled, 0);
            self.filled.saturating_sub(from)
        } else {
            0
        };
        (self.start, self.filled) = (offset, kept);
        let rest = self.buffer.get_mut(kept..).unwrap_or_default();
        let rest_length = rest.len();
        let count = read_up_to(&**file, rest, offset.saturating_add(wide(kept)))?;
        self.is_at_end = count < rest_length;
        self.filled = kept.saturating_add(count);
        Ok(())
    }
}
