//! The protocol `daybook.v1`, generated from the protos.

mod codec;

pub use codec::{SliceCodec, TOO_MANY_FIELDS};

tonic::include_proto!("daybook.v1");

/// The protos as a descriptor set, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("daybook_descriptor");
