//! History: finds earlier entries in the log, by position or along the chain of an account.

use std::sync::Arc;

use super::{Codec, Entry, EntryAccount, EventIds, Malformed};
use crate::{
    domain::AccountId,
    log::{Block, LogReader, ReadError, Record},
};

/// Why history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The log could not give the bytes.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The log gave bytes that are not an entry.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The log has no such entry, though another one leads to it.
    #[error("no entry at position {0}")]
    Missing(u64),
}

/// The entries of the log, for reading. Cheap to clone. Its methods may block on I/O.
#[derive(Clone)]
pub struct History {
    reader: Arc<dyn LogReader>,
    codec: Codec,
}

impl History {
    /// Over the log behind `reader`.
    #[must_use]
    pub fn new(reader: Arc<dyn LogReader>) -> Self {
        let codec = Codec::new(EventIds::new(reader.log_id()));
        Self { reader, codec }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &dyn LogReader {
        &*self.reader
    }

    /// How entries become bytes.
    #[must_use]
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Begins to read.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { history: self.clone(), block: None }
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`HistoryError::Malformed`] when its bytes are not an entry.
    pub fn decode(&self, record: &Record<'_>) -> Result<Entry, HistoryError> {
        Ok(self.codec.decode(record)?)
    }

    /// Decodes a record into the memory of another entry.
    ///
    /// # Errors
    /// As [`History::decode`]; the entry is then without meaning.
    pub fn decode_into(&self, record: &Record<'_>, entry: &mut Entry) -> Result<(), HistoryError> {
        Ok(self.codec.decode_into(record, entry)?)
    }
}

/// Reads entries one after another, and keeps the block that the last one came from, because the
/// next one is often near.
pub struct Cursor {
    history: History,
    block: Option<Arc<Block>>,
}

impl Cursor {
    /// The entry that holds the event at `position`, which must lie between 1 and the head.
    ///
    /// # Errors
    /// [`HistoryError`] when it cannot be read.
    pub fn entry(&mut self, position: u64) -> Result<Entry, HistoryError> {
        let block = self.block(position)?;
        let record = block.record_at(position).ok_or(HistoryError::Missing(position))?;
        self.history.decode(&record)
    }

    /// The block that holds `position`.
    ///
    /// # Errors
    /// [`HistoryError`] when it cannot be read.
    pub fn block(&mut self, position: u64) -> Result<Arc<Block>, HistoryError> {
        let holds = |block: &&Arc<Block>| {
            (block.first_position()..=block.last_position()).contains(&position)
        };
        if let Some(block) = self.block.as_ref().filter(holds) {
            return Ok(Arc::clone(block));
        }
        let block = self.history.reader.block(position)?;
        self.block = Some(Arc::clone(&block));
        Ok(block)
    }

    /// The block that holds `position`, and some that follow it.
    ///
    /// # Errors
    /// [`HistoryError`] when they cannot be read.
    pub fn blocks(&self, position: u64) -> Result<Vec<Arc<Block>>, HistoryError> {
        Ok(self.history.reader.blocks(position)?)
    }

    /// The newest entry of an account that is not too new, going back along its chain from the
    /// entry that begins at `newest`; `None` when all are too new. What is too new must be newer
    /// than all that is not.
    ///
    /// # Errors
    /// [`HistoryError`] when an entry cannot be read.
    pub fn back_to(
        &mut self,
        account_id: AccountId,
        newest: u64,
        too_new: impl Fn(&Entry, &EntryAccount) -> bool,
    ) -> Result<Option<Entry>, HistoryError> {
        let mut position = newest;
        while position != 0 {
            let entry = self.entry(position)?;
            let account = account_of(&entry, account_id)?;
            if !too_new(&entry, account) {
                return Ok(Some(entry));
            }
            position = account.link.previous;
            if account.link.skip != 0 {
                let far = self.entry(account.link.skip)?;
                if too_new(&far, account_of(&far, account_id)?) {
                    position = account.link.skip;
                }
            }
        }
        Ok(None)
    }
}

/// What an entry says of an account that its chain goes through.
fn account_of(entry: &Entry, account_id: AccountId) -> Result<&EntryAccount, HistoryError> {
    let account = entry.accounts.iter().find(|account| account.id == account_id);
    account.ok_or(HistoryError::Missing(entry.first_position))
}
