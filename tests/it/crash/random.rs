//! Chance: a small generator whose every number follows from a seed.

use uuid::{Builder, Uuid};

/// A xorshift64* generator (Vigna, 2016).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds are spread, and the state must not be 0.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    /// A seed that nobody chose.
    pub(crate) fn fresh_seed() -> u64 {
        Uuid::now_v7().as_u64_pair().1 & 0xffff_ffff
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// An amount from 1 to `most`.
    pub(crate) fn amount(&mut self, most: u64) -> i64 {
        i64::try_from(self.below(most)).expect("amounts are small") + 1
    }

    /// A place in something that has `len` places.
    pub(crate) fn place(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("a place is a usize")
    }

    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// An id, as text.
    pub(crate) fn id(&mut self) -> String {
        let bytes = (u128::from(self.next()) << 64 | u128::from(self.next())).to_be_bytes();
        Builder::from_random_bytes(bytes).into_uuid().to_string()
    }
}
