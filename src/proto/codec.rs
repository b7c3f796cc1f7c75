//! The codec: how messages become bytes and back, as gRPC wants to have it done.

use std::marker::PhantomData;

use prost::{
    DecodeError, Message,
    bytes::{Buf as _, BufMut},
    encoding::decode_varint,
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// How much room there is at first for what is encoded, in bytes: as tonic has it.
const ENCODE_BUFFER_BYTES: usize = 8 * 1024;
/// How much of a stream is encoded before it is sent, in bytes: less than a message of a tail, so
/// that of one that is not read no second is encoded.
const ENCODE_YIELD_BYTES: usize = 8 * 1024;
/// How many fields a message may have, not counting those of the messages in it: more than twice as
/// many as the largest batch has commands. A command of two bytes takes a hundred times as many
/// once it is decoded, and four mebibytes of such commands must not be.
pub(super) const FIELDS_MAX: usize = 20_000;
/// How many bytes a field has at least: what it is, and something.
const FIELD_BYTES_MIN: usize = 2;
/// How the end of a group is written.
const GROUP_END: u64 = 4;
/// What the codec says of a message that has more.
pub const TOO_MANY_FIELDS: &str = "the message has too many fields";

/// What can be sent.
pub trait Outgoing {
    /// How many bytes it is on the wire.
    fn byte_count(&self) -> usize;

    /// Adds these bytes to a buffer that has room for them.
    fn put(self, buffer: &mut impl BufMut);
}

impl<T: Message> Outgoing for T {
    fn byte_count(&self) -> usize {
        self.encoded_len()
    }

    fn put(self, buffer: &mut impl BufMut) {
        self.encode_raw(buffer);
    }
}

/// What can be received.
pub trait Incoming: Sized {
    /// The message that the buffer holds.
    ///
    /// # Errors
    /// What its caller is told when it holds none.
    fn take(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status>;
}

impl<T: Message + Default> Incoming for T {
    fn take(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        let length = buffer.remaining();
        let Some(message) = buffer.chunk().get(..length) else {
            return T::decode(buffer).map_err(undecodable);
        };
        let decoded = decode(message);
        buffer.advance(length);
        decoded
    }
}

/// The message that these bytes are.
///
/// # Errors
/// INTERNAL, as the status codes of gRPC have it, when they are none; OUT_OF_RANGE, as tonic has it
/// for what is too large, with [`TOO_MANY_FIELDS`].
pub(super) fn decode<T: Message + Default>(message: &[u8]) -> Result<T, Status> {
    if has_too_many_fields(message) {
        return Err(Status::out_of_range(TOO_MANY_FIELDS));
    }
    T::decode(message).map_err(undecodable)
}

fn undecodable(error: DecodeError) -> Status {
    Status::internal(error.to_string())
}

/// Encodes and decodes as `tonic_prost::ProstCodec` does, but decodes from a slice: prost asks a
/// buffer anew at each field, and a slice answers for nothing. Messages of many small fields, such
/// as batches, take a tenth less of all that the server does for them.
#[derive(Clone, Copy, Debug)]
pub struct SliceCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SliceCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SliceCodec<T, U>
where
    T: Outgoing + Send + 'static,
    U: Incoming + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SliceCodec<T, U>;
    type Decoder = SliceCodec<T, U>;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

impl<T: Outgoing, U> Encoder for SliceCodec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Else the buffer grows by doubling, and is kept with its room as long as it waits.
        buffer.reserve(item.byte_count());
        item.put(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ENCODE_BUFFER_BYTES, ENCODE_YIELD_BYTES)
    }
}

impl<T, U: Incoming> Decoder for SliceCodec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::take(buffer).map(Some)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Whether a message has more fields than any of ours. What is no message has as many as can be
/// read.
fn has_too_many_fields(message: &[u8]) -> bool {
    // Most are too small for that, and are not looked through.
    message.len() > FIELDS_MAX.saturating_mul(FIELD_BYTES_MIN)
        && field_count(message, FIELDS_MAX) > FIELDS_MAX
}

/// How many fields a message has; no more are counted once there are more than `most`.
pub(super) fn field_count(mut message: &[u8], most: usize) -> usize {
    let mut fields = 0_usize;
    while fields <= most
        && let Some(is_field) = skip_field(&mut message)
    {
        fields = fields.saturating_add(usize::from(is_field));
    }
    fields
}

/// Goes on to the next field; None at the end, and where there is none. False for the end of a
/// group, whose beginning was the field.
fn skip_field(message: &mut &[u8]) -> Option<bool> {
    let kind = decode_varint(message).ok()? & 7;
    let bytes = match kind {
        // A number of any length.
        0 => {
            decode_varint(message).ok()?;
            0
        }
        1 => 8,
        2 => usize::try_from(decode_varint(message).ok()?).ok()?,
        // The beginning of a group, and its end.
        3 | GROUP_END => 0,
        5 => 4,
        _ => return None,
    };
    *message = message.get(bytes..)?;
    Some(kind != GROUP_END)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        BatchCommand, DepositMoneyRequest, ExecuteBatchRequest, batch_command::Command,
    };

    #[test]
    fn fields_are_counted_as_they_are_written() {
        let command = |reason: &str| {
            let deposit = DepositMoneyRequest { reason: reason.to_owned(), ..Default::default() };
            BatchCommand { command: Some(Command::DepositMoney(deposit)) }
        };
        let batch = |count: usize, reason: &str| {
            let commands = vec![command(reason); count];
            ExecuteBatchRequest { commands, return_results: true }.encode_to_vec()
        };
        for reason in ["", "rent", &"x".repeat(200)] {
            assert!(!has_too_many_fields(&batch(FIELDS_MAX - 1, reason)), "{reason}");
            assert!(has_too_many_fields(&batch(FIELDS_MAX, reason)), "{reason}");
        }
        // A number, eight bytes, four bytes, a group with nothing in it, and some of any length.
        let kinds: [&[u8]; 5] = [
            &[0x08, 0xff, 0x01],
            &[0x09, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x0d, 1, 2, 3, 4],
            &[0x0b, 0x0c],
            &[0x0a, 2, 0, 0],
        ];
        for bytes in kinds {
            let most = bytes.repeat(FIELDS_MAX);
            assert!(!has_too_many_fields(&most), "{bytes:?}");
            assert!(has_too_many_fields(&[&most, bytes].concat()), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_counted_as_far_as_it_can_be_read() {
        let many = [0x0a, 0].repeat(FIELDS_MAX);
        for end in [&[0x0a][..], &[0x0a, 1], &[0x09, 1], &[0x0f, 1], &[0x08, 0x80], &[0xff; 11]] {
            assert!(!has_too_many_fields(&[&many, end].concat()), "{end:?}");
            assert!(has_too_many_fields(&[&many, &[0x0a, 0][..], end].concat()), "{end:?}");
        }
    }
}
