//! Taking in the blocks of another medium as they are: with their positions, their formats and the
//! chain that they have there.

use std::sync::Arc;

use super::{Lease, Owner, Source, Store, reader::Shared, writer::Writer};
use crate::log::{AppendError, Block, ChainHash, Head, LogWriter as _, chain};

/// How many bytes of blocks are appended at once: enough that the round trips weigh little, and
/// a tenth of what the largest group has.
const APPEND_BYTES: usize = 1024 * 1024;
/// How many events: the medium may write each by itself, and has a bounded time for all of them.
const APPEND_EVENTS: u64 = 16 * 1024;

/// The end of an owned log that takes blocks in.
pub struct Import {
    writer: Writer,
    /// How far the log is durable.
    durable: Head,
    /// How far it will have come with what waits.
    head: Head,
    waiting: Vec<(Block, ChainHash)>,
    waiting_bytes: usize,
}

impl Import {
    /// Goes on where the log of `owner` ends.
    #[must_use]
    pub fn new(
        source: Arc<dyn Source>,
        store: Box<dyn Store>,
        lease: Arc<Lease>,
        owner: Owner,
    ) -> Self {
        let nobody_reads_it = Arc::new(Shared::new(source, Arc::clone(&lease), 0));
        let writer = Writer::take(store, nobody_reads_it, lease, owner);
        let head = owner.head;
        Self { writer, durable: head, head, waiting: Vec::new(), waiting_bytes: 0 }
    }

    /// How far the log is durable.
    #[must_use]
    pub fn durable(&self) -> Head {
        self.durable
    }

    /// Takes the block that comes next; one that is there already is passed over. Says whether so
    /// much waits that it is time to append it.
    pub fn push(&mut self, block: &Block) -> bool {
        if block.last_position() > self.head.position {
            let hash = chain::extend(&self.head.hash, block.payload());
            self.head = self.head.after(block, hash);
            self.waiting_bytes = self.waiting_bytes.saturating_add(block.byte_count());
            self.waiting.push((block.clone(), hash));
        }
        let events = self.head.position.saturating_sub(self.durable.position);
        self.waiting_bytes >= APPEND_BYTES || events >= APPEND_EVENTS
    }

    /// Appends what waits, if anything does, and finds the log to be this process's still. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`AppendError`]. After one that passes another try may succeed, and appends nothing twice.
    pub fn append(&mut self) -> Result<Head, AppendError> {
        self.writer.append_blocks(&self.waiting, self.head)?;
        (self.durable, self.waiting_bytes) = (self.head, 0);
        self.waiting.clear();
        Ok(self.durable)
    }

    /// Gives the log up, so that others need not wait.
    pub fn close(&mut self) {
        let _it_tells_nothing = self.writer.close();
    }
}
