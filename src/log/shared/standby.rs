//! Standing by: following the log until it can be taken over, and taking it over.

use std::sync::Arc;

use tracing::warn;

use super::{
    Checkpoints, Follower, Lease, NodeId, Scrub, Source, Store, StoreError, Vault,
    reader::{Shared, damaged},
    writer::Writer,
};
use crate::log::{Block, Damage, Head, LogId, LogReader, LogWriter, ReadError};

/// How many blocks are read at once.
pub(super) const READ_BLOCKS: u32 = 256;

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

/// What was found of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It is durable, and shown.
    Shown,
    /// It is not what is durable: the medium has lost it. What follows on what is shown is read
    /// next.
    Lost,
    /// This process is no member now, and cannot know.
    NoMember,
}

/// Follows a log that another process may own.
pub struct Standby {
    follower: Follower,
    lease: Arc<Lease>,
    /// Where the log was begun to be read.
    begun: Head,
    is_at_end: bool,
    was_behind: bool,
    /// How far the log is known to have come where it is written, since it was read anew.
    known: u64,
    /// How far it had come when it was claimed: nothing behind that is this process's.
    claimed: Option<u64>,
    shared: Arc<Shared>,
}

/// The two ends of a log.
pub type Ends = (Box<dyn LogWriter>, Arc<dyn LogReader>);

/// Who may append from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub(super) node: NodeId,
    pub(super) epoch: u64,
    /// How far the log had come when it was sealed.
    pub(super) head: Head,
}

impl Owner {
    /// Makes this process the owner, if there is no other one that is alive.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn claim(lease: &Lease, store: &mut dyn Store) -> Result<Option<Self>, StoreError> {
        let Some(node) = lease.node() else { return Ok(None) };
        let Some(epoch) = store.claim(node)? else { return Ok(None) };
        let sealed = store.seal(epoch)?;
        Ok(sealed.map(|head| Self { node, epoch, head }))
    }

    /// Gives the log up, so that others need not wait.
    ///
    /// # Errors
    /// [`StoreError`]; others wait until the lease ends then.
    pub fn release(&self, store: &mut dyn Store) -> Result<(), StoreError> {
        store.release(self.node, self.epoch)
    }

    /// How far the log has come.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

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
        Self::following(Follower::new(Arc::clone(&source)), source, lease)
    }

    /// The log was read up to a place before; `None` when it does not have that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn resume(
        source: Arc<dyn Source>,
        lease: Arc<Lease>,
        head: Head,
    ) -> Result<Option<Self>, StoreError> {
        let follower = Follower::resume(Arc::clone(&source), head)?;
        Ok(follower.map(|follower| Self::following(follower, source, lease)))
    }

    /// The same log, of which nothing is read yet.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(self.shared.source(), Arc::clone(&self.lease))
    }

    fn following(follower: Follower, source: Arc<dyn Source>, lease: Arc<Lease>) -> Self {
        let begun = follower.head();
        let shared = Arc::new(Shared::new(source, Arc::clone(&lease), begun.position));
        let (is_at_end, was_behind, known, claimed) = Default::default();
        Self { follower, lease, begun, is_at_end, was_behind, known, claimed, shared }
    }

    /// Shows the log as far as [`Standby::confirm`] has found it to be durable.
    #[must_use]
    pub fn reader(&self) -> Arc<dyn LogReader> {
        self.shared.clone()
    }

    /// Reads what was read before the log is shown.
    #[must_use]
    pub fn reader_of_read(&self) -> Arc<dyn LogReader> {
        let shared = Shared::new(self.shared.source(), Arc::clone(&self.lease), 0);
        shared.show(Vec::new(), self.follower.head());
        Arc::new(shared)
    }

    /// Makes checkpoints of the log as it is shown.
    #[must_use]
    pub fn checkpoints(&self, vault: Arc<dyn Vault>) -> Checkpoints {
        Checkpoints::new(vault, Arc::clone(&self.shared))
    }

    /// Verifies what was not read because the log was resumed.
    #[must_use]
    pub fn scrub(&self) -> Scrub {
        Scrub::new(self.shared.source(), Arc::clone(&self.shared), self.begun)
    }

    /// The id of the log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.follower.log_id()
    }

    /// How far the log was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.follower.head().position
    }

    /// The blocks that come next, in order; none when there are no more now. When there must be
    /// more, it was the wrong server that was read, and another one is next time.
    ///
    /// # Errors
    /// [`ReadError`] when they cannot be read, or are not those that were written.
    pub fn follow(&mut self) -> Result<Vec<Arc<Block>>, ReadError> {
        let blocks = self.follower.next(self.claimed.unwrap_or(u64::MAX), READ_BLOCKS)?;
        self.is_at_end = u32::try_from(blocks.len()).is_ok_and(|count| count < READ_BLOCKS);
        let is_short = blocks.is_empty() && self.position() < self.claimed.unwrap_or(self.known);
        self.was_behind = is_short || self.follower.is_behind();
        if self.was_behind {
            warn!("what is read of the log is not where it is written: connecting anew");
            self.begin_anew();
        }
        Ok(blocks.into_iter().map(Arc::new).collect())
    }

    /// Whether [`Standby::follow`] gave all that there was when it last read the log.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Waits until all that was read is durable, and shows it: `blocks` are the last of it, which
    /// are kept for who is going to read them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn confirm(
        &mut self,
        store: &mut dyn Store,
        blocks: &[Arc<Block>],
    ) -> Result<Confirmed, StoreError> {
        let head = self.follower.head();
        if head.position > 0 {
            let Some(node) = self.lease.node() else { return Ok(Confirmed::NoMember) };
            let Some(durable) = store.confirm(node, head.position)? else {
                return Ok(Confirmed::NoMember);
            };
            if durable.chain != Some(head.hash) {
                self.follower.go_back(self.shared.head());
                self.begin_anew();
                return Ok(Confirmed::Lost);
            }
            self.known = durable.position;
        }
        self.shared.show(blocks.to_vec(), head);
        Ok(Confirmed::Shown)
    }

    /// Whether the medium has what was shown, which was durable: it may have been restored, or
    /// another one have taken its place. `None` when this process is no member now, and cannot
    /// know.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn has_shown(&self, store: &mut dyn Store) -> Result<Option<bool>, StoreError> {
        self.has(store, &self.shared.head())
    }

    /// The same for what was read, shown or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn has_read(&self, store: &mut dyn Store) -> Result<Option<bool>, StoreError> {
        self.has(store, &self.follower.head())
    }

    fn has(&self, store: &mut dyn Store, head: &Head) -> Result<Option<bool>, StoreError> {
        if head.position == 0 {
            return Ok(Some(true));
        }
        let Some(node) = self.lease.node() else { return Ok(None) };
        let durable = store.confirm(node, head.position)?;
        Ok(durable.map(|durable| durable.chain == Some(head.hash)))
    }

    /// Whether what [`Standby::follow`] read last was not where the log is written.
    #[must_use]
    pub fn was_behind(&self) -> bool {
        self.was_behind
    }

    /// Reads over new connections from now on, and knows nothing of where the log ends.
    fn begin_anew(&mut self) {
        self.follower.begin_anew();
        (self.is_at_end, self.known) = (false, 0);
    }

    /// Makes this process the owner, if there is no other one; then what [`Standby::follow`] gives
    /// comes to an end, at the position of the owner.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn claim(&mut self, store: &mut dyn Store) -> Result<Option<Owner>, StoreError> {
        let owner = Owner::claim(&self.lease, store)?;
        self.claimed = owner.map(|owner| owner.position());
        Ok(owner)
    }

    /// The log of an owner, once it was followed to the owner's position.
    ///
    /// # Errors
    /// [`Damage`] when what was followed is not what the head stands for.
    pub fn take(self, store: Box<dyn Store>, owner: Owner) -> Result<Ends, Damage> {
        let head = self.follower.head();
        if (head.position, head.hash) != (owner.head.position, owner.head.hash) {
            return Err(damaged(head.position, "the head stands for another log"));
        }
        let writer = Writer::take(store, Arc::clone(&self.shared), self.lease, owner);
        Ok((Box::new(writer), self.shared))
    }
}
