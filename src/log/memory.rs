//! The engine that keeps everything in memory. Nothing survives the process; everything else is
//! as with files, the hash chain included.

use std::sync::{Arc, RwLock};

use super::block::blocks_of;
use super::guard::{read, write};
use super::{AppendError, Block, Group, Head, LogId, LogReader, LogWriter, ReadError};

/// Makes an empty log.
#[must_use]
pub fn open(log_id: LogId) -> (Box<dyn LogWriter>, Arc<dyn LogReader>) {
    let head = Head::start(&log_id);
    let log =
        Arc::new(MemoryLog { log_id, state: RwLock::new(State { head, blocks: Vec::new() }) });
    let writer = MemoryWriter { log: Arc::clone(&log), closed: false };
    (Box::new(writer), log)
}

/// What writer and readers share.
struct MemoryLog {
    log_id: LogId,
    state: RwLock<State>,
}

/// Head and blocks change together, so that no reader sees one without the other.
struct State {
    head: Head,
    blocks: Vec<Arc<Block>>,
}

struct MemoryWriter {
    log: Arc<MemoryLog>,
    closed: bool,
}

impl LogWriter for MemoryWriter {
    fn append(&mut self, group: &Group) -> Result<Head, AppendError> {
        if self.closed {
            return Err(AppendError::Latched);
        }
        let head = self.log.head();
        let next_position = head.position.saturating_add(1);
        assert_eq!(group.first_position(), next_position, "a group must continue the log");
        let (blocks, head) = blocks_of(group, head);
        let mut state = write(&self.log.state);
        state.blocks.extend(blocks.into_iter().map(|(block, _)| Arc::new(block)));
        state.head = head;
        Ok(head)
    }

    fn has_room(&mut self) -> bool {
        !self.closed
    }

    fn witness(&mut self) -> Result<(), AppendError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), AppendError> {
        self.closed = true;
        Ok(())
    }
}

impl LogReader for MemoryLog {
    fn log_id(&self) -> LogId {
        self.log_id
    }

    fn engine(&self) -> &'static str {
        "memory"
    }

    fn head(&self) -> Head {
        read(&self.state).head
    }

    fn block(&self, position: u64) -> Result<Arc<Block>, ReadError> {
        self.recent_block(position).ok_or_else(|| ReadError::beyond(position))
    }

    fn recent_block(&self, position: u64) -> Option<Arc<Block>> {
        let state = read(&self.state);
        let index = state.blocks.partition_point(|block| block.last_position() < position);
        state.blocks.get(index).filter(|block| block.first_position() <= position).cloned()
    }
}
