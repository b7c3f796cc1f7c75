//! The hash chain: one hash that stands for every record so far, in order.
//!
//! The chain of an empty log is `BLAKE3(log id)`. Each block extends it:
//! `BLAKE3(chain before ‖ BLAKE3(payload))`. A payload says how many events each of its records
//! has, so positions follow from it and need no hashing of their own. Where and when the records
//! were written takes no part: the same records in the same groups have the same chain in every
//! engine, and a backup or a restart does not change it.

use super::{ChainHash, LogId};

/// The chain of a log without records. The log id is in it, so that no two logs share a hash.
pub(crate) fn start(log_id: &LogId) -> ChainHash {
    blake3::hash(log_id).into()
}

/// The chain after one more block.
pub(crate) fn extend(before: &ChainHash, payload: &[u8]) -> ChainHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(blake3::hash(payload).as_bytes());
    hasher.finalize().into()
}
