//! Event ids: UUIDv7s that follow from the log's id, the position and the time, so that they
//! need no space in the log and lead back to the position.

use uuid::Uuid;

use crate::log::LogId;

/// How many bits of a UUIDv7 hold the position: all of `rand_b` (RFC 9562, section 5.7).
const POSITION_BITS: u32 = 62;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;
/// How many bits of a UUIDv7 hold the log's tag: all of `rand_a`.
const TAG_MASK: u64 = 0x0fff;
/// The version of a UUIDv7, in its place in the higher half.
const VERSION: u64 = 0x7000;
/// The variant of RFC 9562, in its place in the lower half.
const VARIANT: u64 = 0b10 << POSITION_BITS;
/// Spreads neighbouring positions over all bits. Odd, so that it has an inverse; the value is
/// 2^62 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4).
const SPREAD: u64 = 0x278d_de6e_5fd2_9f3b;
const SPREAD_INVERSE: u64 = inverse(SPREAD);

/// The inverse of an odd number modulo 2^62, by Newton's iteration.
const fn inverse(odd: u64) -> u64 {
    let mut inverse: u64 = 1;
    let mut round = 0;
    while round < 6 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        #[expect(clippy::arithmetic_side_effects, reason = "six rounds, when this is compiled")]
        {
            round += 1;
        }
    }
    inverse & POSITION_MASK
}

/// Makes and reads the event ids of one log.
#[derive(Clone, Copy, Debug)]
pub struct EventIds {
    /// The 12 bits of `rand_a`: they tell this log from others.
    tag: u64,
    /// Mixed into positions, so that the ids of two logs differ.
    key: u64,
}

impl EventIds {
    /// The ids of the log with this id.
    #[must_use]
    pub fn new(log_id: LogId) -> Self {
        let hash = blake3::derive_key("daybook 2026 event ids", &log_id);
        let mut words = hash.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next().unwrap_or(0);
        Self { tag: word() & TAG_MASK, key: word() & POSITION_MASK }
    }

    /// The id of the event at `position`, recorded at `time_micros`.
    #[must_use]
    pub fn at(&self, position: u64, time_micros: i64) -> Uuid {
        let millis = u64::try_from(time_micros / 1_000).unwrap_or(0);
        let random = ((position ^ self.key).wrapping_mul(SPREAD)) & POSITION_MASK;
        let high = (millis << 16) | VERSION | self.tag;
        Uuid::from_u64_pair(high, VARIANT | random)
    }

    /// The position that an id names, if it looks like one of this log's. An id of somebody
    /// else's making seldom does (its 12 bits of `rand_a` have to agree), and then names a
    /// position that hardly any log reaches: whoever asks compares it with the head, and at last
    /// with the id that the event at the position has.
    #[must_use]
    pub fn position_of(&self, id: Uuid) -> Option<u64> {
        let (high, low) = id.as_u64_pair();
        let tagged = high & 0xffff == VERSION | self.tag;
        let variant = low & !POSITION_MASK == VARIANT;
        let position =
            ((low & POSITION_MASK).wrapping_mul(SPREAD_INVERSE) & POSITION_MASK) ^ self.key;
        (tagged && variant && position > 0).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: i64 = 1_700_000_000_123_456;

    proptest! {
        #[test]
        fn an_id_leads_back_to_its_position(log_id: [u8; 16], position in 1..=POSITION_MASK) {
            let ids = EventIds::new(log_id);
            let id = ids.at(position, TIME);
            prop_assert_eq!(id.get_version_num(), 7);
            prop_assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(ids.position_of(id), Some(position));
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            prop_assert_eq!((seconds, nanos), (1_700_000_000, 123_000_000));
        }

        #[test]
        fn foreign_ids_are_not_taken_for_own(bytes: [u8; 16]) {
            let foreign = uuid::Builder::from_random_bytes(bytes).into_uuid();
            let position = EventIds::new([7; 16]).position_of(foreign);
            prop_assert!(position.is_none_or(|far| far > 1 << 40));
        }
    }

    #[test]
    fn ids_never_change() {
        let id = EventIds::new([1; 16]).at(1, TIME);
        insta::assert_snapshot!(id, @"018bcfe5-687b-7cf3-a606-fee6c6652a99");
        let id = EventIds::new([1; 16]).at(2, TIME);
        insta::assert_snapshot!(id, @"018bcfe5-687b-7cf3-af5d-639ba6ed4ce8");
    }
}
