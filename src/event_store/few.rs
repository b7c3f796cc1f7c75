//! A few entries at a time: decoding some before folding them lets the waits for memory overlap.

use super::{Codec, Entry, codec::Malformed};
use crate::log::Record;

/// How many entries are decoded at once: enough that what they will look up is on its way from
/// memory together, few enough that the first is still in the nearest cache when it is folded.
const FEW: usize = 32;

/// Decodes records, a few at a time, into memory that is used again.
#[derive(Debug)]
pub struct Few {
    entries: Vec<Entry>,
}

impl Default for Few {
    fn default() -> Self {
        Self { entries: std::iter::repeat_with(Entry::default).take(FEW).collect() }
    }
}

impl Few {
    /// The entries of the records that come next; none when there are no further records.
    ///
    /// # Errors
    /// [`Malformed`] when one of them is not an entry.
    pub fn decode<'a>(
        &mut self,
        codec: &Codec,
        records: &mut impl Iterator<Item = Record<'a>>,
    ) -> Result<&[Entry], Malformed> {
        let mut count = 0_usize;
        for (entry, record) in self.entries.iter_mut().zip(records) {
            codec.decode_into(&record, entry)?;
            count = count.saturating_add(1);
        }
        Ok(self.entries.get(..count).unwrap_or(&[]))
    }
}
