//! The codec: whatever bytes are taken as an entry are the bytes that the entry has.
#![no_main]

use daybook::{
    domain::Principal,
    event_store::{Codec, Entry, EventIds, State},
    log::{FORMAT_VERSION, Record},
};
use daybook_fuzz::{bank::LOG_ID, has_canary};
use libfuzzer_sys::fuzz_target;

/// How many positions request ids are remembered for; no matter here.
const REQUEST_ID_WINDOW: u64 = 1_024;

/// The newest position that there can be: callers know positions as signed numbers.
const POSITION_MAX: u64 = (1 << 63) - 1;

fuzz_target!(|data: &[u8]| {
    let Some((position, bytes)) = data.split_first_chunk() else { return };
    check(u64::from_le_bytes(*position).min(POSITION_MAX), bytes);
});

fn check(position: u64, bytes: &[u8]) {
    let codec = Codec::new(EventIds::new(LOG_ID));
    let record = Record { format: FORMAT_VERSION, first_position: position, event_count: 1, bytes };
    let decoded = codec.decode(&record);
    // Version 1 knew all of it but principals.
    let older = codec.decode(&Record { format: 1, ..record });
    let same = decoded.clone().ok().filter(|entry| entry.principal.is_none());
    assert_eq!(older.ok(), same);
    let Ok(entry) = decoded else { return };
    let mut encoded = Vec::new();
    codec.encode(&entry, &mut encoded);
    // Planted: the encoder is said to lose what belongs to a transfer.
    let expected = if has_canary() && entry.saga.is_some() { &[] } else { bytes };
    assert_eq!(encoded, expected, "an entry has one encoding: {entry:?}");
    // Memory that is used again makes no difference.
    let mut again = entry.clone();
    again.reason = "left over".into();
    again.principal = Principal::new("left over").ok();
    again.accounts.reverse();
    assert_eq!(codec.decode_into(&record, &mut again), Ok(()));
    assert_eq!(again, entry);
    assert!(entry.numbered().count() <= entry.events.len());
    replay(codec, &entry);
}

/// What is read may not follow on the state, but that is found, whatever it says.
fn replay(codec: Codec, entry: &Entry) {
    let mut state = State::new(codec, REQUEST_ID_WINDOW);
    if state.replay(entry).is_ok() {
        assert_eq!(state.next_position(), entry.last_position() + 1);
    }
}
