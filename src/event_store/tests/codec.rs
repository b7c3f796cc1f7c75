//! The bytes of entries: they never change, they have one form, and nothing else is taken.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec().encode(entry, &mut bytes);
    bytes
}

/// One command of each kind that is recorded, in an order in which all are accepted.
fn one_of_each() -> Vec<Entry> {
    let mut state = state();
    let named = SagaId::new(Uuid::from_u128(0x5a6a));
    let mut commands = vec![
        open(1, 100),
        open(2, 0),
        deposit(1, 300),
        withdraw(1, 5),
        transfer(None, 1, 2, 7),
        transfer(Some(named), 1, 99, 7),
        transfer(None, 2, 1, 1_000_000),
        open(3, 0),
        close(3),
    ];
    commands[2].request_id = request(0);
    if let Action::WithdrawMoney { expected_version, .. } = &mut commands[3].action {
        *expected_version = Some(2);
    }
    let entry = |command: &Command| match decide(&mut state, command, TIME) {
        Decided::Accepted(entry) => entry,
        verdict => panic!("{command:?}: {verdict:?}"),
    };
    commands.iter().map(entry).collect()
}

#[test]
fn the_bytes_of_every_kind_of_entry_never_change() {
    let lines = |entry: &Entry| {
        let lines: Vec<String> = encoded(entry).chunks(40).map(hex).collect();
        lines.join("\n  ")
    };
    let entries: Vec<String> = one_of_each().iter().map(lines).collect();
    insta::assert_snapshot!(entries.join("\n"), @r"
    0800401e18240a06000100000000000000000000000000000002000000010103416461e4ac0164
    0800401e18240a06000100000000000000000000000000000003010000010103416461e4ac0100
    1100401e18240a060000000010000000000000000000000000037061790100000000000000000000
      000000000002000164040102ac02
    0200401e18240a06000201000000000000000000000000000000020002900302010405
    1400401e18240a0600000472656e74020000000000000000000000000000000200038b0302000000
      000000000000000000000000030101000605050701040712070616
    1c00401e18240a06000000000000000000000000000000005a6a0472656e74010000000000000000
      0000000000000002000684030a040507ff00000000000000000000000000000064040703070702
    1400401e18240a0600000472656e740100000000000000000000000000000003010307120205c084
      3dff000000000000000000000000000000020701
    0800401e18240a06000100000000000000000000000000000004020000010103416461e4ac0100
    0000401e18240a06000100000000000000000000000000000004020100020108
    ");
}

#[test]
fn entries_survive_encoding() {
    for entry in one_of_each() {
        assert_eq!(codec().decode(entry.first_position, &encoded(&entry)), Ok(entry));
    }
    for seed in 1..20 {
        for entry in entries(&mut state(), seed, 2_000) {
            assert_eq!(codec().decode(entry.first_position, &encoded(&entry)), Ok(entry));
        }
    }
}

/// Whatever bytes are taken as an entry are the bytes that the entry has.
#[test]
fn changed_bytes_are_refused_or_mean_something_else_in_their_one_form() {
    for entry in one_of_each() {
        let bytes = encoded(&entry);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = codec().decode(entry.first_position, &changed) {
                assert_eq!(encoded(&other), changed);
                assert_ne!(other, entry);
            }
        }
        for length in 0..bytes.len() {
            assert!(codec().decode(entry.first_position, &bytes[..length]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(codec().decode(entry.first_position, &longer).is_err());
    }
}

#[test]
fn links_do_not_lead_before_the_log() {
    let transfer = one_of_each().remove(4);
    assert!(codec().decode(1, &encoded(&transfer)).is_err());
}

#[test]
fn garbage_is_no_entry() {
    let mut dice = Dice(99);
    for _ in 0..20_000 {
        let length = dice.throw(120) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| dice.throw(256) as u8).collect();
        if let Ok(entry) = codec().decode(1 << 20, &bytes) {
            assert_eq!(encoded(&entry), bytes);
        }
    }
}

#[test]
fn a_transfer_and_a_deposit_take_few_bytes() {
    let mut state = state();
    entries(&mut state, 3, 3_000);
    let mut largest = |command: Command| match decide(&mut state, &command, TIME + 9_999) {
        Decided::Accepted(entry) => encoded(&entry).len(),
        verdict => panic!("{verdict:?}"),
    };
    assert!(largest(open(50, 1_000_000)) < 100);
    assert!(largest(open(51, 1_000_000)) < 100);
    let mut command = deposit(50, 1_000);
    command.request_id = request(7_000);
    assert!(largest(command) <= 64);
    let mut command = transfer(None, 50, 51, 1_000);
    command.request_id = request(7_001);
    assert!(largest(command) <= 116);
}
