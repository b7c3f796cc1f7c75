//! The one end that appends, for as long as the log is this process's.

use std::{io, sync::Arc};

use tracing::{info, warn};

use super::{Appended, Lease, NodeId, Owner, Store, StoreError, Tip, reader::Shared};
use crate::log::{
    AppendError, Block, ChainHash, Group, Head, LogReader as _, LogWriter, block::blocks_of,
};

/// How often an append is tried at once: it may find that the one before has happened, or not.
const TRIES: u32 = 4;

/// The writer of a log that this process has sealed.
pub(super) struct Writer {
    store: Box<dyn Store>,
    shared: Arc<Shared>,
    lease: Arc<Lease>,
    /// The node that the log was sealed for, and the epoch that it was sealed under.
    node: NodeId,
    epoch: u64,
    /// Where the head is if the append before has happened, of which that is unknown.
    doubt: Option<Head>,
    is_full: bool,
    end: Option<End>,
}

/// Why nothing is appended any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Failed,
    Fenced,
}

impl Writer {
    /// Of a log that is this process's from now on, and was read up to its head.
    pub(super) fn take(
        store: Box<dyn Store>,
        shared: Arc<Shared>,
        lease: Arc<Lease>,
        owner: Owner,
    ) -> Self {
        let Owner { node, epoch, head } = owner;
        shared.show(Vec::new(), head);
        lease.set_owner(Some((node, epoch)));
        let (doubt, is_full, end) = (None, false, None);
        Self { store, shared, lease, node, epoch, doubt, is_full, end }
    }

    /// Makes sure that the log is still this process's, as far as its lease tells. If that has
    /// ended meanwhile it is claimed anew, and is the same log if nobody else has appended.
    fn own(&mut self) -> Result<(), AppendError> {
        let Some(node) = self.lease.node() else {
            return Err(AppendError::Unreachable("the lease has ended".into()));
        };
        if node == self.node {
            return Ok(());
        }
        let claimed = self.store.claim(node);
        let Some(epoch) = self.done(claimed)? else {
            return Err(self.fenced("the log has another owner"));
        };
        let sealed = self.store.seal(epoch);
        let Some(head) = self.done(sealed)? else {
            return Err(self.fenced("the log has a newer owner"));
        };
        let known = self.shared.head();
        if !is_at(&head, &known) && !self.doubt.is_some_and(|doubt| is_at(&head, &doubt)) {
            return Err(self.fenced("another owner has appended to the log"));
        }
        (self.node, self.epoch) = (node, epoch);
        self.lease.set_owner(Some((node, epoch)));
        info!(epoch, "the log is ours again");
        Ok(())
    }

    /// Finds out whether the append that was not certain has happened.
    fn resolve(&mut self, before: &Head, doubt: &Head) -> Result<bool, AppendError> {
        let touched = self.store.touch();
        let Tip { epoch, head } = self.done(touched)?;
        if epoch > self.epoch {
            return Err(self.fenced("the log has a newer owner"));
        }
        let is_there = is_at(&head, doubt);
        if epoch < self.epoch || !(is_there || is_at(&head, before)) {
            return Err(self.failed(format!(
                "the head is at {} of epoch {epoch}, where nobody can have moved it",
                head.position
            )));
        }
        self.doubt = None;
        Ok(is_there)
    }

    fn try_append(
        &mut self,
        before: &Head,
        blocks: &[(Block, ChainHash)],
        after: &Head,
    ) -> Result<bool, AppendError> {
        self.own()?;
        if let Some(doubt) = self.doubt
            && self.resolve(before, &doubt)?
        {
            return Ok(true);
        }
        // From here on it may be there.
        self.doubt = Some(*after);
        match self.store.append(self.epoch, before, blocks, after) {
            Ok(Appended::Durable) => {
                (self.doubt, self.is_full) = (None, false);
                Ok(true)
            }
            Ok(Appended::Doubtful) => Ok(false),
            Err(StoreError::Unreachable(text)) => {
                warn!(text, "an append has no answer: asking what became of it");
                Ok(false)
            }
            Err(StoreError::NoRoom) => {
                (self.doubt, self.is_full) = (None, true);
                Err(AppendError::Full)
            }
            Err(StoreError::Refused(text)) => Err(self.failed(text)),
        }
    }

    fn make_durable(
        &mut self,
        before: &Head,
        blocks: &[(Block, ChainHash)],
        after: &Head,
    ) -> Result<(), AppendError> {
        for _ in 0..TRIES {
            if self.try_append(before, blocks, after)? {
                return Ok(());
            }
        }
        Err(AppendError::Unreachable("an append is not certain yet".into()))
    }

    /// Appends blocks that there are already, up to `after`; none of them is kept in memory.
    /// Without blocks it finds the log to be this process's.
    pub(super) fn append_blocks(
        &mut self,
        blocks: &[(Block, ChainHash)],
        after: Head,
    ) -> Result<(), AppendError> {
        if self.end.is_some() {
            return Err(AppendError::Latched);
        }
        if blocks.is_empty() {
            return self.own();
        }
        let before = self.shared.head();
        self.make_durable(&before, blocks, &after)?;
        self.shared.publish(Vec::new(), after);
        Ok(())
    }

    /// What the store says to anything but an append.
    fn done<T>(&mut self, result: Result<T, StoreError>) -> Result<T, AppendError> {
        result.map_err(|failure| match failure {
            StoreError::Unreachable(text) => AppendError::Unreachable(text),
            StoreError::NoRoom => AppendError::Full,
            StoreError::Refused(text) => self.failed(text),
        })
    }

    fn fenced(&mut self, why: &'static str) -> AppendError {
        self.end = Some(End::Fenced);
        self.lease.set_owner(None);
        AppendError::Fenced(why)
    }

    fn failed(&mut self, text: String) -> AppendError {
        self.end = Some(End::Failed);
        AppendError::Failed(io::Error::other(text))
    }
}

fn is_at(head: &Head, expected: &Head) -> bool {
    (head.position, head.hash) == (expected.position, expected.hash)
}

impl LogWriter for Writer {
    fn append(&mut self, group: &Group) -> Result<Head, AppendError> {
        if self.end.is_some() {
            return Err(AppendError::Latched);
        }
        let before = self.shared.head();
        let next_position = before.position.saturating_add(1);
        assert_eq!(group.first_position(), next_position, "a group must continue the log");
        if group.is_empty() {
            return Ok(before);
        }
        let (blocks, after) = blocks_of(group, before);
        self.make_durable(&before, &blocks, &after)?;
        let blocks = blocks.into_iter().map(|(block, _)| Arc::new(block)).collect();
        self.shared.publish(blocks, after);
        Ok(after)
    }

    fn has_room(&mut self) -> bool {
        self.end.is_none() && !self.is_full
    }

    fn owns(&mut self) -> Result<bool, AppendError> {
        if self.end.is_some() {
            return Ok(false);
        }
        match self.own() {
            Ok(()) => Ok(true),
            Err(AppendError::Unreachable(_) | AppendError::Full) => Ok(false),
            Err(
                failure @ (AppendError::Failed(_) | AppendError::Fenced(_) | AppendError::Latched),
            ) => Err(failure),
        }
    }

    fn witness(&mut self) -> Result<(), AppendError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), AppendError> {
        if self.end.is_none() {
            self.end = Some(End::Closed);
            self.lease.set_owner(None);
            if let Err(failure) = self.store.release(self.node, self.epoch) {
                warn!(%failure, "the log is not given up: others wait until the lease ends");
            }
        }
        Ok(())
    }
}
