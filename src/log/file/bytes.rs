//! Numbers and fields: conversions that cannot lose anything, and cursors over fixed headers.

/// How a length in memory counts in a file.
pub(super) fn wide(length: usize) -> u64 {
    let Ok(length) = u64::try_from(length) else {
        unreachable!("a length in memory has at most 64 bits")
    };
    length
}

/// How a length in a file counts in memory. Only for lengths that are bounded already.
pub(super) fn narrow(length: u64) -> usize {
    let Ok(length) = usize::try_from(length) else {
        unreachable!("lengths are bounded before they reach memory")
    };
    length
}

/// The next multiple of `step`, a power of two, that is not below `offset`.
pub(super) fn align(offset: u64, step: u64) -> u64 {
    let Some(aligned) = offset.checked_next_multiple_of(step) else {
        unreachable!("offsets lie inside a file")
    };
    aligned
}

/// Writes the fields of a header one after another.
pub(super) struct Put<'a>(pub(super) &'a mut [u8]);

impl Put<'_> {
    pub(super) fn field<const N: usize>(&mut self, bytes: [u8; N]) {
        let Some((field, rest)) = std::mem::take(&mut self.0).split_first_chunk_mut::<N>() else {
            unreachable!("a header has room for its fields")
        };
        *field = bytes;
        self.0 = rest;
    }
}

/// Reads the fields of a header one after another.
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl Take<'_> {
    pub(super) fn field<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else {
            unreachable!("a header has all its fields")
        };
        self.0 = rest;
        *field
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.field())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.field())
    }
}
