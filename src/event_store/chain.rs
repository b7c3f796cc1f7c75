//! Chains: how the entries of one account lead back to each other, so that the log is its own
//! index and no history is kept in memory.
//!
//! The entries of an account are numbered 1, 2, 3 …: their ordinals. Each one links to the entry
//! before it. Every [`SKIP_STRIDE`]th entry is a mark, numbered m = ordinal / stride, and links
//! also to the mark whose number is m without its lowest set bit (if that is not 0), as the nodes
//! of a Fenwick tree do (P. Fenwick, "A new data structure for cumulative frequency tables",
//! 1994). Going back to any earlier entry takes O(log² n) steps, and the writer needs to remember
//! one position for each set bit of m.

use super::entry::AccountLink;

/// Every so many entries of an account, one has a link that leads far back. A smaller stride makes
/// time travel faster and entries larger: at 16 a link costs a fifth of a byte an entry.
pub const SKIP_STRIDE: u64 = 16;

/// The number of a mark; `None` for an entry that is none.
fn mark(ordinal: u64) -> Option<u64> {
    (ordinal.is_multiple_of(SKIP_STRIDE) && ordinal > 0).then_some(ordinal / SKIP_STRIDE)
}

/// Whether the entry with this ordinal has a skip link.
pub(super) fn has_skip(ordinal: u64) -> bool {
    mark(ordinal).is_some_and(|mark| mark.count_ones() > 1)
}

/// The newest end of an account's chain.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The ordinal of the newest entry; 0 before the first.
    ordinal: u64,
    /// Its position.
    newest: u64,
    /// For each set bit of the newest mark's number, from the highest: the position of the mark
    /// whose number has that bit and those above it. Boxed, for most accounts have none.
    #[expect(clippy::box_collection, reason = "a word instead of three in each account")]
    marks: Option<Box<Vec<u64>>>,
}

impl Chain {
    /// The links of the entry that comes next.
    pub(super) fn next_link(&self) -> AccountLink {
        let ordinal = self.ordinal.saturating_add(1);
        AccountLink { ordinal, previous: self.newest, skip: self.skip_of(ordinal).unwrap_or(0) }
    }

    fn skip_of(&self, ordinal: u64) -> Option<u64> {
        let kept = kept_marks(mark(ordinal)?);
        let index = kept.checked_sub(1)?;
        self.marks.as_ref()?.get(index).copied()
    }

    /// Adds the next entry, which has its first event at `position`.
    pub(super) fn advance(&mut self, position: u64) {
        self.ordinal = self.ordinal.saturating_add(1);
        self.newest = position;
        if let Some(mark) = mark(self.ordinal) {
            let marks = self.marks.get_or_insert_default();
            marks.truncate(kept_marks(mark));
            marks.push(position);
        }
    }
}

/// How many of the marks remembered before this one stay valid: its set bits but the lowest.
fn kept_marks(mark: u64) -> usize {
    usize::try_from(mark.count_ones().saturating_sub(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_links_to_those_it_should() {
        let mut chain = Chain::default();
        for ordinal in 1..=5_000_u64 {
            let link = chain.next_link();
            assert_eq!(link.ordinal, ordinal);
            assert_eq!(link.previous, (ordinal - 1) * 10);
            let mark = ordinal / SKIP_STRIDE;
            let target = mark & mark.saturating_sub(1);
            let expected = if ordinal % SKIP_STRIDE == 0 { target * SKIP_STRIDE * 10 } else { 0 };
            assert_eq!(link.skip, expected, "ordinal {ordinal}");
            assert_eq!(link.skip != 0, has_skip(ordinal));
            chain.advance(ordinal * 10);
        }
    }
}
