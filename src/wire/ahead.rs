//! What was read ahead for tails that are behind: shared by all of them, so that a tail that is not
//! read keeps nothing but its position, and what one has read is there for others beside it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::log::Block;

/// How many bytes of blocks are kept: what eight tails that each read elsewhere go on with. With
/// more of them some is read twice.
const AHEAD_BYTES_MAX: usize = 1024 * 1024;

/// Blocks by their first position, the oldest of them given up first.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Blocks>);

#[derive(Default)]
struct Blocks {
    by_position: BTreeMap<u64, Arc<Block>>,
    /// The first positions, as they came.
    order: VecDeque<u64>,
    byte_count: usize,
}

impl Ahead {
    /// The block that holds a position, if it is here.
    pub(super) fn get(&self, position: u64) -> Option<Arc<Block>> {
        let blocks = self.blocks();
        let (_, block) = blocks.by_position.range(..=position).next_back()?;
        (position <= block.last_position()).then(|| Arc::clone(block))
    }

    /// Keeps blocks for a while.
    pub(super) fn put(&self, read: Vec<Arc<Block>>) {
        let mut blocks = self.blocks();
        for block in read {
            let position = block.first_position();
            blocks.byte_count = blocks.byte_count.saturating_add(block.byte_count());
            match blocks.by_position.insert(position, block) {
                None => blocks.order.push_back(position),
                Some(same) => blocks.give_up(&same),
            }
        }
        while blocks.byte_count > AHEAD_BYTES_MAX {
            let Some(oldest) = blocks.order.pop_front() else { break };
            if let Some(oldest) = blocks.by_position.remove(&oldest) {
                blocks.give_up(&oldest);
            }
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    fn give_up(&mut self, block: &Block) {
        self.byte_count = self.byte_count.saturating_sub(block.byte_count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Group, memory};

    /// Blocks of a log, one for each position.
    fn blocks(count: u64, record_bytes: usize) -> Vec<Arc<Block>> {
        let (mut log, reader) = memory::open([7; 16]);
        (1..=count)
            .map(|position| {
                let mut group = Group::new(position);
                group.push(1, |bytes| bytes.resize(bytes.len() + record_bytes, 7));
                log.append(&group).unwrap();
                reader.block(position).unwrap()
            })
            .collect()
    }

    #[test]
    fn the_oldest_blocks_are_given_up() {
        let (ahead, count) = (Ahead::default(), 3_000);
        let all = blocks(count, 4_000);
        assert!(ahead.get(1).is_none());
        for few in all.chunks(7) {
            ahead.put(few.to_vec());
            // What is there already takes no more room.
            ahead.put(few.to_vec());
            let newest = few.last().unwrap().last_position();
            assert_eq!(ahead.get(newest).unwrap().last_position(), newest);
        }
        assert!(ahead.get(count + 1).is_none());
        let kept = (1..=count).filter(|position| ahead.get(*position).is_some()).count();
        let most = AHEAD_BYTES_MAX / 4_000;
        assert!(kept <= most && kept > most - 50, "{kept} of {most}");
        assert!(ahead.get(1).is_none() && ahead.get(count).is_some());
        assert_eq!(ahead.blocks().byte_count, kept * all[0].byte_count());
    }
}
