//! Recent blocks: what views and subscribers that keep up are going to ask for.

use std::{collections::VecDeque, sync::Arc};

use super::Block;

/// How many bytes of recent blocks are kept: two fifths of the largest group.
const RECENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The newest blocks of a log, the oldest first.
#[derive(Default)]
pub(super) struct Recent {
    blocks: VecDeque<Arc<Block>>,
    /// How many bytes they have.
    byte_count: usize,
}

impl Recent {
    /// Adds blocks that follow on those before them.
    pub(super) fn push(&mut self, blocks: impl IntoIterator<Item = Arc<Block>>) {
        for block in blocks {
            self.byte_count = self.byte_count.saturating_add(weight(&block));
            self.blocks.push_back(block);
        }
        while self.byte_count > RECENT_BYTES_MAX {
            let Some(oldest) = self.blocks.pop_front() else { break };
            self.byte_count = self.byte_count.saturating_sub(weight(&oldest));
        }
    }

    /// The block that holds a position, if it is one of them.
    pub(super) fn get(&self, position: u64) -> Option<Arc<Block>> {
        let index = self.blocks.partition_point(|block| block.last_position() < position);
        self.blocks.get(index).filter(|block| block.first_position() <= position).cloned()
    }
}

/// What a block takes in memory: small ones are not free.
fn weight(block: &Block) -> usize {
    block.byte_count().saturating_add(size_of::<Block>())
}
