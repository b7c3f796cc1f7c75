//! Chains: how the entries of one account lead back to each other, so that the log is its own
//! index and no history is kept in memory.
//!
//! Each entry links to the entry before it on the same account. An entry with which the account's
//! version reaches or passes a multiple of [`SKIP_STRIDE`] is a mark, numbered m = version /
//! stride, and links also to the mark whose number is m without its lowest set bit (if that is not
//! 0), as the nodes of a Fenwick tree do (P. Fenwick, "A new data structure for cumulative
//! frequency tables", 1994). Going back to any earlier entry takes O(log² n) steps, and the writer
//! needs to remember one position for each set bit of m.

use std::hint::black_box;

use super::entry::{AccountLink, EVENTS_MAX};

/// Every so many versions of an account, one of its entries has a link that leads far back. A
/// smaller stride makes time travel faster and entries larger: at 16 a link costs less than a
/// fifth of a byte an entry. It is more than an entry can have events, so that no mark is missed.
const SKIP_STRIDE: u64 = 16;

const _: () = assert!(EVENTS_MAX < 16, "an entry passes one multiple of the stride at most");

/// The newest end of an account's chain: what its next entry links to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    newest: u64,
    /// For each set bit of the newest mark's number, from the highest: the position of the mark
    /// whose number has that bit and those above it. Of exact size, for there may be millions.
    marks: Box<[u64]>,
}

/// The versions of an account before and after an entry.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

impl Versions {
    /// The number of the mark that the entry is, if it is one.
    fn mark(self) -> Option<u64> {
        let mark = self.after / SKIP_STRIDE;
        (mark > self.before / SKIP_STRIDE).then_some(mark)
    }
}

impl Chain {
    /// The end of a chain that was kept elsewhere: what [`Chain::newest`] and [`Chain::marks`]
    /// told.
    #[must_use]
    pub fn kept(newest: u64, marks: &[u64]) -> Self {
        Self { newest, marks: marks.into() }
    }

    /// The first position of the newest entry; 0 before the first.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The first positions of the entries that later ones may link far back to, the oldest first.
    #[must_use]
    pub fn marks(&self) -> &[u64] {
        &self.marks
    }

    /// Brings it closer to the processor.
    pub fn touch(&self) {
        black_box(self.newest);
    }

    /// The links of the entry that comes next.
    pub(super) fn next_link(&self, versions: Versions) -> AccountLink {
        AccountLink { previous: self.newest, skip: self.skip(versions).unwrap_or(0) }
    }

    fn skip(&self, versions: Versions) -> Option<u64> {
        let index = kept_marks(versions.mark()?).checked_sub(1)?;
        self.marks.get(index).copied()
    }

    /// Adds the next entry, which has its first event at `position`.
    pub fn advance(&mut self, position: u64, versions: Versions) {
        self.newest = position;
        if let Some(mark) = versions.mark() {
            let kept = self.marks.get(..kept_marks(mark)).unwrap_or(&self.marks);
            self.marks = [kept, &[position]].concat().into();
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
        let mut marks = vec![0];
        let (mut version, mut previous) = (0, 0);
        for step in 1..=20_000_u64 {
            let (position, after) = (step * 10, version + 1 + step % 4);
            let versions = Versions { before: version, after };
            let link = chain.next_link(versions);
            assert_eq!(link.previous, previous);
            let mark = after / SKIP_STRIDE;
            if mark > version / SKIP_STRIDE {
                assert_eq!(mark, marks.len() as u64, "no mark is missed");
                assert_eq!(link.skip, marks[(mark & (mark - 1)) as usize]);
                marks.push(position);
            } else {
                assert_eq!(link.skip, 0);
            }
            chain.advance(position, versions);
            (version, previous) = (after, position);
        }
        assert!(marks.len() > 2_000);
    }
}
