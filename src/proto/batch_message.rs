//! The message of a batch, alone or in a stream, as the server has it at first: in bytes.

use prost::bytes::{Buf as _, Bytes};
use tonic::{Status, codec::DecodeBuf};

use super::{ExecuteBatchRequest, codec::Incoming};

/// An [`ExecuteBatchRequest`] whose commands are still bytes, or what a stream has in its place and
/// is the same on the wire: to decode thousands of them takes milliseconds, in which the thread
/// that carries all calls would do nothing else.
#[derive(Clone, Debug, Default)]
pub struct BatchMessage(Bytes);

impl BatchMessage {
    /// How many bytes it has.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.0.len()
    }

    /// How many fields it has: as many as commands, or a few more. One that has too many is not
    /// counted to its end.
    #[must_use]
    pub fn field_count(&self) -> usize {
        super::codec::field_count(&self.0, super::codec::FIELDS_MAX)
    }

    /// The message.
    ///
    /// # Errors
    /// As any message has them that is decoded: INTERNAL when the bytes are none, OUT_OF_RANGE when
    /// it has too many fields.
    pub fn decode(self) -> Result<ExecuteBatchRequest, Status> {
        super::codec::decode(&self.0)
    }
}

/// Of the bytes of the message.
impl From<Vec<u8>> for BatchMessage {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Incoming for BatchMessage {
    fn take(buffer: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Ok(Self(buffer.copy_to_bytes(buffer.remaining())))
    }
}
