//! Folding the whole log at once, as at a start.

use super::{
    Books,
    checkpoint::{RestoreError, restore},
};
use crate::{
    domain::Inconsistent,
    event_store::{Codec, EventIds, Few, Malformed, ReplayError, State},
    log::{Block, LogId, file::Checkpoint},
};

/// State and books in the making, block by block.
pub struct Fold {
    request_id_window: u64,
    /// There is none before the first block.
    folded: Option<(State, Books)>,
    few: Few,
}

/// Why a block cannot be folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// A record is not an entry.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An entry does not follow for deciding.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// An entry does not follow for reading.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
}

impl Fold {
    /// Nothing yet. Request ids will be remembered for `request_id_window` positions.
    #[must_use]
    pub fn new(request_id_window: u64) -> Self {
        Self { request_id_window, folded: None, few: Few::default() }
    }

    /// What a checkpoint tells, to go on from. The request ids of before are still to be recalled.
    ///
    /// # Errors
    /// [`RestoreError`] when the checkpoint is of no use.
    pub fn resume(
        log_id: LogId,
        request_id_window: u64,
        checkpoint: &mut Checkpoint,
    ) -> Result<Self, RestoreError> {
        let folded = Some(restore(log_id, request_id_window, checkpoint)?);
        Ok(Self { request_id_window, folded, few: Few::default() })
    }

    /// Nothing yet, to fold as this one would have.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(self.request_id_window)
    }

    /// Folds the block of the log that comes next.
    ///
    /// # Errors
    /// [`FoldError`] when it is not what follows on the blocks before it.
    pub fn add(&mut self, log_id: &LogId, block: &Block) -> Result<(), FoldError> {
        let window = self.request_id_window;
        let (state, books) = self.folded.get_or_insert_with(|| nothing(*log_id, window));
        let (codec, mut records) = (*state.codec(), block.records());
        loop {
            let entries = self.few.decode(&codec, &mut records)?;
            if entries.is_empty() {
                return Ok(());
            }
            state.warm_entries(entries);
            books.warm(entries);
            for entry in entries {
                state.replay(entry)?;
                books.apply(entry)?;
            }
        }
    }

    /// What the blocks of the log with this id add up to.
    #[must_use]
    pub fn finish(self, log_id: LogId) -> (State, Books) {
        self.folded.unwrap_or_else(|| nothing(log_id, self.request_id_window))
    }
}

fn nothing(log_id: LogId, request_id_window: u64) -> (State, Books) {
    let codec = Codec::new(EventIds::new(log_id));
    let state = State::new(codec, request_id_window);
    let books = Books::new(state.register().clone());
    (state, books)
}
