//! The engine whose medium several processes share, of which one at a time may append.
//!
//! It owns who that is and how an append is made certain, and knows nothing of the medium: that is
//! behind [`Store`], [`Members`], [`Source`] and [`Vault`], which a database implements and a test
//! models.
//!
//! ```text
//! node ─ joins, renews ─▶ Members ─ while that lasts ─▶ Lease ─ claims ─▶ epoch ─ seals ─▶ Store
//!                                                        │                                  │
//!                     reads: what is shown is current ◀──┘       append(epoch, position) ◀──┘
//! ```
//! - Writes are safe whatever clocks do: the head of the log bears the epoch of its owner, an
//!   append names epoch and position, and who seals the log under a newer epoch makes every older
//!   one's append do nothing.
//! - Reads are current as long as the lease is, counted on a clock of this process from before it
//!   was asked for, and given up a quarter before it ends elsewhere.
//! - What is read of a log that another process owns is shown once a write of this one is durable
//!   where the same log is found: everything before that is durable by then as well.
//! - Whether an append has happened whose answer was lost is found out by a write to the head,
//!   which waits for whatever is under way there, and never by a guess.

use std::time::Duration;

use super::{Block, ChainHash, Head, LogId};

mod checkpoint;
mod follower;
mod import;
mod lease;
mod reader;
mod scrub;
mod standby;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub use checkpoint::{Checkpoint, CheckpointId, Checkpoints, Kept, Vault};
pub use follower::Follower;
pub use import::Import;
pub use lease::{Keeper, Lease, Membership, Monotonic};
pub use scrub::Scrub;
pub use standby::{Confirmed, Ends, Owner, Standby, StandbyError};

/// The id of a process that takes part, chosen at random and never used again.
pub type NodeId = [u8; 16];

/// Where the log stands, and who may append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The epoch of the newest owner that has sealed the log.
    pub epoch: u64,
    /// How far the log has come.
    pub head: Head,
}

/// Why the medium did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There was no answer, or one that says to try again. Whether it was done is unknown.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// There is no room. Nothing was done.
    #[error("the store has no room")]
    NoRoom,
    /// It refused, and will again. Nothing was done.
    #[error("the store refuses: {0}")]
    Refused(String),
}

/// What became of an append that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// All of it is durable.
    Durable,
    /// The head was not where and whose it was said to be, or it is not certain to be durable.
    Doubtful,
}

/// What is durable of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The chain up to and including the block that ends where it was asked for; `None` when no
    /// block does.
    pub chain: Option<ChainHash>,
    /// How far the log has come. That much can be read where writes arrive, durable or not.
    pub position: u64,
}

/// The end of the medium that writes the log. Its methods block, for a bounded time.
pub trait Store: Send {
    /// Appends blocks if the head is at `before` and of this epoch, and moves it to `after`: all
    /// of it or nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    fn append(
        &mut self,
        epoch: u64,
        before: &Head,
        blocks: &[(Block, ChainHash)],
        after: &Head,
    ) -> Result<Appended, StoreError>;

    /// Writes the head as it is, and gives it. Waits for whatever else is writing it, and until
    /// what it gives is durable.
    ///
    /// # Errors
    /// [`StoreError`].
    fn touch(&mut self) -> Result<Tip, StoreError>;

    /// Makes a node the owner if there is none that is alive, or if it is the owner. Gives its
    /// epoch, which is newer than all before it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn claim(&mut self, node: NodeId) -> Result<Option<u64>, StoreError>;

    /// Where the owner is reached, as it said itself, if there is one that is alive.
    ///
    /// # Errors
    /// [`StoreError`].
    fn owner(&mut self) -> Result<Option<String>, StoreError>;

    /// Keeps all older epochs from appending, and gives the head after the last that did; `None`
    /// when the log was sealed by this epoch or a newer one before.
    ///
    /// # Errors
    /// [`StoreError`].
    fn seal(&mut self, epoch: u64) -> Result<Option<Head>, StoreError>;

    /// Waits until everything that could be read before is durable, whoever wrote it: it may be
    /// read before that when who wrote it waits no more. Gives what is durable at `position`;
    /// `None` when nobody can say, because the node that asks is not alive.
    ///
    /// # Errors
    /// [`StoreError`].
    fn confirm(&mut self, node: NodeId, position: u64) -> Result<Option<Durable>, StoreError>;

    /// Gives the log up, so that another node need not wait.
    ///
    /// # Errors
    /// [`StoreError`].
    fn release(&mut self, node: NodeId, epoch: u64) -> Result<(), StoreError>;
}

/// Who takes part. Its methods block, for a bounded time.
pub trait Members: Send {
    /// Adds a node, alive for `time` unless it is renewed.
    ///
    /// # Errors
    /// [`StoreError`].
    fn join(&mut self, node: NodeId, time: Duration) -> Result<(), StoreError>;

    /// Lets a node live for `time` from now on; `false` when its time was over.
    ///
    /// # Errors
    /// [`StoreError`].
    fn renew(&mut self, node: NodeId, time: Duration) -> Result<bool, StoreError>;

    /// Removes a node.
    ///
    /// # Errors
    /// [`StoreError`].
    fn leave(&mut self, node: NodeId) -> Result<(), StoreError>;
}

/// A block as the medium has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The position of its first event.
    pub first_position: u64,
    /// The position of its last event.
    pub last_position: u64,
    /// The version of the format of its records.
    pub format: u32,
    /// The chain up to and including it.
    pub hash: ChainHash,
    /// Its records.
    pub payload: Vec<u8>,
}

/// The end of the medium that reads the log; many threads share it. Its methods block, for a
/// bounded time.
pub trait Source: Send + Sync {
    /// The id of the log.
    fn log_id(&self) -> LogId;

    /// The name of the engine.
    fn engine(&self) -> &'static str;

    /// The block that holds `position` and those that follow, as far as they end at `until` or
    /// before: `count` of them, and fewer only where there are no more. With what comes before the
    /// first of them.
    ///
    /// # Errors
    /// [`StoreError`].
    fn read(&self, position: u64, until: u64, count: u32) -> Result<Read, StoreError>;

    /// Reads over new connections from now on: what the old ones show may be a server of the
    /// medium that nothing is written to any more.
    fn begin_anew(&self);
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The last position before the first block, or before where it would be, and the chain up to
    /// there; `None` where the log begins.
    pub before: Option<(u64, ChainHash)>,
    /// The blocks, in order.
    pub blocks: Vec<Stored>,
}
