//! Numbers of few bytes, and the reader of records.

use uuid::Uuid;

use super::codec::Malformed;

/// The bits of a byte that hold a part of the number; the highest says that more follow.
const PART_BITS: u32 = 7;
const MORE: u8 = 0x80;

/// Appends a number as LEB128: seven bits a byte, lowest first.
pub(crate) fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= PART_BITS;
        if rest == 0 {
            out.push(low & !MORE);
            return;
        }
        out.push(low | MORE);
    }
}

/// Reads a record from its beginning to its end.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

const SHORT: Malformed = Malformed("it ends too early");

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*array)
    }

    /// A UUID that is not nil.
    pub(crate) fn id(&mut self) -> Result<Uuid, Malformed> {
        let id = Uuid::from_bytes(self.array()?);
        if id.is_nil() { Err(Malformed("a nil id")) } else { Ok(id) }
    }

    /// A number in its fewest bytes.
    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        match self.rest.split_first() {
            Some((byte, rest)) if byte & MORE == 0 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            Some(_) => self.longer_number(),
            None => Err(SHORT),
        }
    }

    fn longer_number(&mut self) -> Result<u64, Malformed> {
        let mut number: u64 = 0;
        let mut shift: u32 = 0;
        loop {
            let byte = self.byte()?;
            let part = u64::from(byte & !MORE);
            let placed = part << shift;
            if placed >> shift != part {
                return Err(Malformed("a number out of range"));
            }
            number |= placed;
            if byte & MORE == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded { Err(Malformed("a padded number")) } else { Ok(number) };
            }
            shift = shift.saturating_add(PART_BITS);
            if shift >= u64::BITS {
                return Err(Malformed("a number out of range"));
            }
        }
    }

    /// A text that is not empty and has at most `bytes_max` bytes.
    pub(crate) fn text(&mut self, bytes_max: usize) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length == 0 || length > bytes_max {
            return Err(Malformed("a text of a wrong length"));
        }
        let (text, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| Malformed("a text that is not UTF-8"))
    }

    /// That nothing is left.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("it goes on too long")) }
    }
}
