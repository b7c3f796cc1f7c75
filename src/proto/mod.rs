//! The protocol `daybook.v1`, generated from the protos.

mod batch_message;
mod codec;
mod fields;
mod tail_message;

pub use batch_message::BatchMessage;
pub use codec::{Incoming, Outgoing, SliceCodec, TOO_MANY_FIELDS};
pub use fields::Fields;
pub use tail_message::TailMessage;

tonic::include_proto!("daybook.v1");
include!(concat!(env!("OUT_DIR"), "/services/daybook.v1.rs"));

/// The protos as a descriptor set, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("daybook_descriptor");
