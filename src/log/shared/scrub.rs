//! The scrub: reads the log again from its beginning, block by block, each checked against the
//! chain. It changes nothing.

use std::{io, sync::Arc};

use super::{Follower, Source, reader::Shared};
use crate::log::{Damage, Head, LogReader as _, ReadError, Scrubber};

/// How many blocks are read at once: a quarter of a megabyte at most.
const READ_BLOCKS: u32 = 32;
/// How many bytes make a step: as many as a segment of the log in files has.
const STEP_BYTES: u64 = 64 * 1024 * 1024;

/// Verifies the log: what a start has left out because there was a checkpoint, and all of it
/// whenever it is restarted.
pub struct Scrub {
    source: Arc<dyn Source>,
    shared: Arc<Shared>,
    follower: Follower,
    /// Where this pass ends.
    until: Head,
}

impl Scrub {
    pub(super) fn new(source: Arc<dyn Source>, shared: Arc<Shared>, until: Head) -> Self {
        Self { follower: Follower::new(Arc::clone(&source)), source, shared, until }
    }

    /// Verifies the blocks that come next. Gives how many bytes they have.
    fn read(&mut self) -> Result<u64, ReadError> {
        let before = self.follower.head();
        let mut blocks = self.follower.next(self.until.position, READ_BLOCKS)?;
        if blocks.is_empty() {
            // It may be a server that nothing is written to any more, and be lacking only there.
            self.source.begin_anew();
            blocks = self.follower.next(self.until.position, READ_BLOCKS)?;
        }
        let is_behind = blocks.is_empty() && self.follower.head().position < self.until.position;
        if is_behind || self.follower.is_behind() {
            return Err(io::Error::other("a server of the medium was left behind").into());
        }
        let head = self.follower.head();
        if head.position >= self.until.position {
            self.follower.check_end(&self.until)?;
        }
        Ok(head.bytes.saturating_sub(before.bytes))
    }

    fn is_at_end(&self) -> bool {
        self.follower.head().position >= self.until.position
    }
}

impl Scrubber for Scrub {
    fn restart(&mut self) {
        self.follower = Follower::new(Arc::clone(&self.source));
        self.until = self.shared.head();
    }

    fn step(&mut self, pace: &mut dyn FnMut(u64)) -> io::Result<bool> {
        if self.is_at_end() {
            return Ok(false);
        }
        let mut done = 0_u64;
        while done < STEP_BYTES && !self.is_at_end() {
            match self.read() {
                Ok(bytes) => done = done.saturating_add(bytes),
                Err(ReadError::Damaged(damage)) => {
                    self.end_with(damage);
                    return Ok(true);
                }
                Err(ReadError::Io(error)) => return Err(error),
            }
            pace(done);
        }
        self.shared.note_scrubbed(self.follower.head().position, None);
        Ok(true)
    }
}

impl Scrub {
    /// What comes behind damage is not followed.
    fn end_with(&mut self, damage: Damage) {
        let head = self.follower.head();
        self.until = head;
        self.shared.note_scrubbed(head.position, Some(damage));
    }
}
