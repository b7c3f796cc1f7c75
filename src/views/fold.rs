//! Folding the whole log at once, as at a start, or while another process goes on with it.

use std::sync::Arc;

use super::{
    Books, Views,
    checkpoint::{RestoreError, is_told_by, restore},
};
use crate::{
    domain::Inconsistent,
    event_store::{Codec, EventIds, Few, History, HistoryError, Malformed, ReplayError, State},
    log::{Block, CheckpointFault, LogId, Pieces},
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
        checkpoint: &mut dyn Pieces,
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
        fold(state, books, &mut self.few, block)
    }

    /// Whether a checkpoint of the place that was folded to tells what the blocks add up to.
    ///
    /// # Errors
    /// [`CheckpointFault`] when it cannot be read.
    pub fn is_told_by(&mut self, checkpoint: &mut dyn Pieces) -> Result<bool, CheckpointFault> {
        let Some((_, books)) = &mut self.folded else { return Ok(false) };
        is_told_by(books, checkpoint)
    }

    /// What the blocks of the log with this id add up to.
    #[must_use]
    pub fn finish(self, log_id: LogId) -> (State, Books) {
        self.folded.unwrap_or_else(|| nothing(log_id, self.request_id_window))
    }
}

/// State and books of a log that another process owns: the books can be read while they follow.
pub struct Following {
    state: State,
    views: Arc<Views>,
    few: Few,
}

impl Following {
    /// Of the log with this id, from its beginning. Request ids will be remembered for
    /// `request_id_window` positions.
    #[must_use]
    pub fn new(log_id: LogId, request_id_window: u64) -> Self {
        let (state, books) = nothing(log_id, request_id_window);
        Self { state, views: Arc::new(Views::new(books)), few: Few::default() }
    }

    /// From a checkpoint on. The request ids of before are still to be recalled.
    ///
    /// # Errors
    /// [`RestoreError`] when the checkpoint is of no use.
    pub fn resume(
        log_id: LogId,
        request_id_window: u64,
        checkpoint: &mut dyn Pieces,
    ) -> Result<Self, RestoreError> {
        let (state, books) = restore(log_id, request_id_window, checkpoint)?;
        Ok(Self { state, views: Arc::new(Views::new(books)), few: Few::default() })
    }

    /// Reads the request ids again that are to be remembered, up to the position of the checkpoint.
    ///
    /// # Errors
    /// [`HistoryError`] when the log cannot be read there.
    pub fn recall(&mut self, history: &History, until: u64) -> Result<(), HistoryError> {
        self.state.recall(history, until)
    }

    /// Folds the block of the log that comes next.
    ///
    /// # Errors
    /// [`FoldError`] when it is not what follows on the blocks before it.
    pub fn add(&mut self, block: &Block) -> Result<(), FoldError> {
        self.views.change(|books| fold(&mut self.state, books, &mut self.few, block))
    }

    /// The books, as they are read.
    #[must_use]
    pub fn views(&self) -> &Arc<Views> {
        &self.views
    }

    /// To go on with as the owner of the log.
    #[must_use]
    pub fn end(self) -> (State, Arc<Views>) {
        (self.state, self.views)
    }
}

fn fold(
    state: &mut State,
    books: &mut Books,
    few: &mut Few,
    block: &Block,
) -> Result<(), FoldError> {
    let (codec, mut records) = (*state.codec(), block.records());
    loop {
        let entries = few.decode(&codec, &mut records)?;
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

fn nothing(log_id: LogId, request_id_window: u64) -> (State, Books) {
    let codec = Codec::new(EventIds::new(log_id));
    let state = State::new(codec, request_id_window);
    let books = Books::new(state.register().clone());
    (state, books)
}
