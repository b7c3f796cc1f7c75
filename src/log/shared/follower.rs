//! Following the log from its beginning, block by block, each checked against the chain.

use std::sync::Arc;

use super::{
    Source, StoreError,
    reader::{damaged, unreadable, verified},
};
use crate::log::{Block, Damage, Head, LogId, ReadError};

/// Reads a log in order, whoever owns it.
pub struct Follower {
    source: Arc<dyn Source>,
    /// How far it was read.
    head: Head,
    /// Whether what was read last ends before that.
    is_behind: bool,
}

impl Follower {
    /// Nothing of the log is read yet.
    #[must_use]
    pub fn new(source: Arc<dyn Source>) -> Self {
        let head = Head::start(&source.log_id());
        Self { source, head, is_behind: false }
    }

    /// Goes on from a place that was come to before; `None` when the log does not have it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn resume(source: Arc<dyn Source>, head: Head) -> Result<Option<Self>, StoreError> {
        let found = source.read(head.position.saturating_add(1), u64::MAX, 1)?;
        let is_there = found.before == Some((head.position, head.hash));
        Ok(is_there.then_some(Self { source, head, is_behind: false }))
    }

    /// The id of the log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.source.log_id()
    }

    /// How far the log was read.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The blocks that come next, in order, `count` at most, as far as they end at `until` or
    /// before; none when there are no more now.
    ///
    /// # Errors
    /// [`ReadError`] when they cannot be read, or are not those that were written.
    pub fn next(&mut self, until: u64, count: u32) -> Result<Vec<Block>, ReadError> {
        let next = self.head.position.saturating_add(1);
        let found = self.source.read(next, until, count).map_err(unreadable)?;
        if found.blocks.first().is_some_and(|first| first.first_position < next) {
            return Err(damaged(next, "the blocks overlap").into());
        }
        // There are several servers, and this one may have been left behind.
        let ends = found.before.map_or(0, |(position, _)| position);
        self.is_behind = found.blocks.is_empty() && ends < self.head.position;
        if self.is_behind {
            return Ok(Vec::new());
        }
        if found.before.is_some_and(|(_, hash)| hash != self.head.hash) {
            return Err(damaged(next, "the chain is not what it was").into());
        }
        let mut blocks = Vec::new();
        for (block, hash) in verified(found, &self.log_id(), next)? {
            self.head = self.head.after(&block, hash);
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// Reads again what follows on a place that it has come to before.
    pub(super) fn go_back(&mut self, head: Head) {
        self.head = head;
    }

    /// Whether what was read last ends before what was read earlier.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Reads over new connections from now on.
    pub(super) fn begin_anew(&self) {
        self.source.begin_anew();
    }

    /// Finds the log to end where its head is said to be, and nowhere before.
    ///
    /// # Errors
    /// [`Damage`] when the head stands for something else than what was read.
    pub fn check_end(&self, head: &Head) -> Result<(), Damage> {
        let next = self.head.position.saturating_add(1);
        if self.head.position < head.position {
            return Err(damaged(next, "there is no block"));
        }
        if self.head == *head {
            return Ok(());
        }
        Err(damaged(self.head.position, "the head stands for another log"))
    }
}
