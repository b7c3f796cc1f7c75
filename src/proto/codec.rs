//! The codec: how messages become bytes and back, as gRPC wants to have it done.

use std::marker::PhantomData;

use prost::{Message, bytes::Buf as _};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// How much room there is at first for what is encoded, in bytes: as tonic has it.
const ENCODE_BUFFER_BYTES: usize = 8 * 1024;
/// How much of a stream is encoded before it is sent, in bytes: less than a message of a tail, so
/// that of one that is not read no second is encoded.
const ENCODE_YIELD_BYTES: usize = 8 * 1024;

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
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
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

impl<T: Message, U> Encoder for SliceCodec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Else the buffer grows by doubling, and is kept with its room as long as it waits.
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ENCODE_BUFFER_BYTES, ENCODE_YIELD_BYTES)
    }
}

impl<T, U: Message + Default> Decoder for SliceCodec<T, U> {
    type Item = U;
    type Error = Status;

    /// # Errors
    /// INTERNAL, as the status codes of gRPC have it, when the bytes are no such message.
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let length = buffer.remaining();
        let decoded = match buffer.chunk().get(..length) {
            Some(message) => {
                let decoded = U::decode(message);
                buffer.advance(length);
                decoded
            }
            None => U::decode(buffer),
        };
        decoded.map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
