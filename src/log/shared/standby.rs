//! Standing by: following the log until it can be taken over, and taking it over.

use std::sync::Arc;

use super::{
    Lease, NodeId, Source, Store, StoreError,
    reader::{Shared, damaged, unreadable, verified},
    writer::Writer,
};
use crate::log::{Block, Damage, Head, LogId, LogReader, LogWriter, ReadError, chain};

/// How many blocks are read at once.
const READ_BLOCKS: u32 = 256;

/// Why the log cannot be followed or taken over.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Damage> for StandbyError {
    fn from(damage: Damage) -> Self {
        Self::Read(damage.into())
    }
}

/// Follows a log that another process may own.
pub struct Standby {
    source: Arc<dyn Source>,
    lease: Arc<Lease>,
    /// How far it was read.
    head: Head,
}

/// The two ends of a log.
pub type Ends = (Box<dyn LogWriter>, Arc<dyn LogReader>);

/// Who may append from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    node: NodeId,
    epoch: u64,
    /// How far the log had come when it was sealed.
    head: Head,
}

impl Owner {
    /// How far the log has come.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.head.position
    }

    /// The epoch that it was sealed under.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Standby {
    /// Nothing of the log is read yet.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, lease: Arc<Lease>) -> Self {
        let hash = chain::start(&source.log_id());
        Self { source, lease, head: Head { position: 0, hash, bytes: 0 } }
    }

    /// The id of the log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.source.log_id()
    }

    /// How far the log was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.head.position
    }

    /// The blocks that come next, in order; none when there are no more now.
    ///
    /// # Errors
    /// [`ReadError`] when they cannot be read, or are not those that were written.
    pub fn follow(&mut self) -> Result<Vec<Block>, ReadError> {
        let next = self.head.position.saturating_add(1);
        let found = self.source.read(next, u64::MAX, READ_BLOCKS).map_err(unreadable)?;
        if found.blocks.first().is_some_and(|first| first.first_position < next) {
            return Err(damaged(next, "the blocks overlap").into());
        }
        if found.before.is_some_and(|before| before != self.head.hash) {
            return Err(damaged(next, "the chain is not what it was").into());
        }
        let mut blocks = Vec::new();
        for (block, hash) in verified(found, &self.source.log_id(), next)? {
            self.head = self.head.after(&block, hash);
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// Makes this process the owner, if there is no other one; then what [`Standby::follow`] gives
    /// comes to an end, at the position of the owner.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn claim(&self, store: &mut dyn Store) -> Result<Option<Owner>, StoreError> {
        let Some(node) = self.lease.node() else { return Ok(None) };
        let Some(epoch) = store.claim(node)? else { return Ok(None) };
        let sealed = store.seal(epoch)?;
        Ok(sealed.map(|head| Owner { node, epoch, head }))
    }

    /// The log of an owner, once it was followed to the owner's position.
    ///
    /// # Errors
    /// [`Damage`] when what was followed is not what the head stands for.
    pub fn take(self, store: Box<dyn Store>, owner: Owner) -> Result<Ends, Damage> {
        if (self.head.position, self.head.hash) != (owner.head.position, owner.head.hash) {
            return Err(damaged(self.head.position, "the head stands for another log"));
        }
        self.lease.set_owner(Some(owner.node));
        let shared = Arc::new(Shared::new(self.source, Arc::clone(&self.lease), owner.head));
        let place = (owner.node, owner.epoch);
        let writer = Writer::new(store, Arc::clone(&shared), self.lease, place);
        Ok((Box::new(writer), shared))
    }
}
