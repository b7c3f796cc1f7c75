//! Fields: writes a message of protobuf one field after another, where making the message first
//! would cost more than writing it.
//!
//! The encoding: <https://protobuf.dev/programming-guides/encoding/>. As there, what has its
//! default value is not written.

use prost::encoding::encode_varint;
use uuid::{Uuid, fmt::Hyphenated};

/// How a field is written whose value is a number of any length, and one with a length before it.
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;
/// How many low bits of a key tell that.
const WIRE_TYPE_BITS: u32 = 3;
/// How many bits of a length one byte has; the highest one says that more follow.
const LENGTH_BITS: u32 = 7;
const MORE: u8 = 0x80;

/// The fields of one message, in the order in which they are written. A number of a field must be
/// 1 to 15, as its key then has one byte: what is written often has such numbers.
pub struct Fields<'a>(&'a mut Vec<u8>);

impl<'a> Fields<'a> {
    /// Of the message whose bytes are added to these.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self(out)
    }

    fn key(&mut self, number: u8, wire_type: u8) {
        debug_assert!((1..=15).contains(&number), "{number}");
        self.0.push(number << WIRE_TYPE_BITS | wire_type);
    }

    /// An int64, or an int32 that is not negative.
    pub fn number(&mut self, number: u8, value: i64) {
        if value != 0 {
            self.key(number, VARINT);
            encode_varint(value.cast_unsigned(), self.0);
        }
    }

    /// A string.
    pub fn text(&mut self, number: u8, value: &str) {
        if !value.is_empty() {
            self.key(number, LENGTH_DELIMITED);
            encode_varint(u64::try_from(value.len()).unwrap_or(u64::MAX), self.0);
            self.0.extend_from_slice(value.as_bytes());
        }
    }

    /// A string that is a UUID in its usual form.
    pub fn id(&mut self, number: u8, value: Uuid) {
        self.text(number, value.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]));
    }

    /// A message, written by `fields`. It is there even when none of these is.
    pub fn message(&mut self, number: u8, fields: impl FnOnce(&mut Fields<'_>)) {
        self.key(number, LENGTH_DELIMITED);
        let mut at = self.0.len();
        // Room for the length of a small one, which is known only behind it. To write the length
        // there, and turn both round, makes a tail slower by a twelfth.
        self.0.push(0);
        let begin = self.0.len();
        fields(&mut Fields(self.0));
        let mut length = self.0.len().saturating_sub(begin);
        loop {
            let [low, ..] = length.to_le_bytes();
            length >>= LENGTH_BITS;
            let more = if length == 0 { 0 } else { MORE };
            if let Some(byte) = self.0.get_mut(at) {
                *byte = low & !MORE | more;
            }
            if length == 0 {
                return;
            }
            at = at.saturating_add(1);
            self.0.insert(at, 0);
        }
    }
}
