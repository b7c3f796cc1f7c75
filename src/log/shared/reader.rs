//! The reading end: recent blocks from memory, others from the store, each checked against the
//! chain.

use std::sync::{
    Arc, Mutex, RwLock,
    atomic::{AtomicU64, Ordering},
};

use super::{Lease, Read, Source, StoreError, Stored};
use crate::log::{
    Block, ChainHash, Damage, Head, LogId, LogReader, ReadError, Scrubbed, chain,
    guard::{lock, read, write},
    recent::Recent,
};

/// How many blocks are read for who goes on from there: half a megabyte at most.
const RUN_BLOCKS: u32 = 64;

/// What the writer and all readers share.
pub(super) struct Shared {
    source: Arc<dyn Source>,
    lease: Arc<Lease>,
    head: RwLock<Head>,
    /// Where the log was begun to be followed: what comes before is left to the scrub.
    followed_from: u64,
    /// How far the log was read and verified when it was taken over, or up to now before that.
    verified: AtomicU64,
    scrubbed: Mutex<Scrubbed>,
    recent: Mutex<Recent>,
}

impl Shared {
    /// Nothing of the log is shown yet. It is followed from a position on.
    pub(super) fn new(source: Arc<dyn Source>, lease: Arc<Lease>, followed_from: u64) -> Self {
        let head = RwLock::new(Head::start(&source.log_id()));
        let (verified, scrubbed, recent) = Default::default();
        Self { source, lease, head, followed_from, verified, scrubbed, recent }
    }

    /// Notes that the log was verified from its beginning, and what was found.
    pub(super) fn note_scrubbed(&self, until: u64, damage: Option<Damage>) {
        let mut scrubbed = lock(&self.scrubbed);
        scrubbed.position = scrubbed.position.max(until);
        if scrubbed.damage.is_none() {
            scrubbed.damage = damage;
        }
    }

    pub(super) fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.source)
    }

    /// Shows the log up to `head`, which was read and verified so far; the blocks are the last of
    /// it.
    pub(super) fn show(&self, blocks: Vec<Arc<Block>>, head: Head) {
        self.verified.store(head.position, Ordering::Release);
        self.publish(blocks, head);
    }

    /// Shows blocks that have become durable, and the head after them.
    pub(super) fn publish(&self, blocks: Vec<Arc<Block>>, head: Head) {
        lock(&self.recent).push(blocks);
        *write(&self.head) = head;
    }

    fn read(&self, position: u64, count: u32) -> Result<Vec<Arc<Block>>, ReadError> {
        let head = self.head().position;
        if !(1..=head).contains(&position) {
            return Err(ReadError::beyond(position));
        }
        let mut found = self.source.read(position, head, count).map_err(unreadable)?;
        if found.blocks.is_empty() {
            // It may be where nothing is written any more, and be lacking only there.
            self.source.begin_anew();
            found = self.source.read(position, head, count).map_err(unreadable)?;
        }
        let blocks = verified(found, &self.source.log_id(), position)?;
        if blocks.first().is_none_or(|(block, _)| block.last_position() < position) {
            return Err(damaged(position, "there is no block").into());
        }
        Ok(blocks.into_iter().map(|(block, _)| Arc::new(block)).collect())
    }
}

impl LogReader for Shared {
    fn log_id(&self) -> LogId {
        self.source.log_id()
    }

    fn engine(&self) -> &'static str {
        self.source.engine()
    }

    fn head(&self) -> Head {
        *read(&self.head)
    }

    fn is_current(&self) -> bool {
        self.lease.owns()
    }

    fn scrubbed(&self) -> Scrubbed {
        let mut scrubbed = lock(&self.scrubbed).clone();
        if scrubbed.position >= self.followed_from {
            scrubbed.position = scrubbed.position.max(self.verified.load(Ordering::Acquire));
        }
        scrubbed
    }

    fn block(&self, position: u64) -> Result<Arc<Block>, ReadError> {
        if let Some(block) = self.recent_block(position) {
            return Ok(block);
        }
        self.read(position, 1)?.pop().ok_or_else(|| ReadError::beyond(position))
    }

    fn blocks(&self, position: u64) -> Result<Vec<Arc<Block>>, ReadError> {
        match self.recent_block(position) {
            Some(block) => Ok(vec![block]),
            None => self.read(position, RUN_BLOCKS),
        }
    }

    fn recent_block(&self, position: u64) -> Option<Arc<Block>> {
        lock(&self.recent).get(position)
    }
}

pub(super) fn unreadable(failure: StoreError) -> ReadError {
    ReadError::Io(std::io::Error::other(failure))
}

/// The blocks of what was read from `position` on, each with the chain up to it. They follow on
/// each other, and the chain says that they are those that were written.
pub(super) fn verified(
    found: Read,
    log_id: &LogId,
    position: u64,
) -> Result<Vec<(Block, ChainHash)>, Damage> {
    let mut hash = found.before.map_or_else(|| chain::start(log_id), |(_, hash)| hash);
    let mut next = found.blocks.first().map_or(position, |first| first.first_position);
    if next > position {
        return Err(damaged(position, "there is no block"));
    }
    let mut blocks = Vec::with_capacity(found.blocks.len());
    for Stored { first_position, last_position, format, hash: stored, payload } in found.blocks {
        if first_position != next {
            return Err(damaged(next, "there is no block"));
        }
        hash = chain::extend(&hash, &payload);
        if hash != stored {
            return Err(damaged(next, "the chain does not lead here"));
        }
        let count = last_position.checked_sub(first_position).and_then(|it| it.checked_add(1));
        let count = count.and_then(|count| u32::try_from(count).ok());
        let block = count.and_then(|count| Block::parse(format, first_position, count, payload));
        let Some(block) = block else { return Err(damaged(next, "the block is malformed")) };
        next = last_position.saturating_add(1);
        blocks.push((block, hash));
    }
    Ok(blocks)
}

pub(super) fn damaged(position: u64, what: &str) -> Damage {
    Damage::in_table("blocks", position, what)
}
