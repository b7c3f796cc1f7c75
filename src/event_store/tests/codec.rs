//! The bytes of entries: they never change, they have one form, and nothing else is taken.

use proptest::prelude::*;

use super::*;
use crate::domain::{
    AMOUNT_MAX_MINOR, Event, Fact, OWNER_CHARS_MAX, PRINCIPAL_CHARS_MAX, REASON_CHARS_MAX,
    TransferError,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec().encode(entry, &mut bytes);
    bytes
}

/// One command of each kind that is recorded, in an order in which all are accepted; the last two
/// are of principals.
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
        deposit(2, 4),
        transfer(None, 1, 2, 7),
    ];
    let unknown = commands.len() - 2;
    let principals = [principal("ada@example.com"), principal("Zoë 𐍈")];
    commands[2].request_id = request(0);
    if let Action::WithdrawMoney { expected_version, .. } = &mut commands[3].action {
        *expected_version = Some(2);
    }
    commands[unknown].request_id = request(1);
    let principals = [None; 9].into_iter().chain(principals.iter().map(Some));
    let entry = |(command, principal)| match decide_of(principal, &mut state, command, TIME) {
        Decided::Accepted(entry) => entry,
        verdict => panic!("{command:?}: {verdict:?}"),
    };
    commands.iter().zip(principals).map(entry).collect()
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
    3100401e18240a060000000010000000000000000000000001037061790f616461406578616d706c
      652e636f6d010000000000000000000000000000000301050708010204
    3400401e18240a06000e0472656e74095a6fc3ab20f0908d88020000000000000000000000000000
      0002000a8403120000000000000000000000000000000301060b0205050701040712070616
    ");
}

#[test]
fn entries_survive_encoding() {
    for entry in one_of_each() {
        assert_eq!(codec().decode(&record(entry.first_position, &encoded(&entry))), Ok(entry));
    }
    for seed in 1..20 {
        for entry in entries(&mut state(), seed, 2_000) {
            assert_eq!(codec().decode(&record(entry.first_position, &encoded(&entry))), Ok(entry));
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
            if let Ok(other) = codec().decode(&record(entry.first_position, &changed)) {
                assert_eq!(encoded(&other), changed);
                assert_ne!(other, entry);
            }
        }
        for length in 0..bytes.len() {
            assert!(codec().decode(&record(entry.first_position, &bytes[..length])).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(codec().decode(&record(entry.first_position, &longer)).is_err());
    }
}

#[test]
fn links_do_not_lead_before_the_log() {
    let transfer = one_of_each().remove(4);
    assert!(codec().decode(&record(1, &encoded(&transfer))).is_err());
}

/// An entry without a principal is the same in both formats; one with a principal is none in
/// version 1, whose programs would call it damage.
#[test]
fn a_record_of_version_1_names_no_principal() {
    for entry in one_of_each() {
        let bytes = encoded(&entry);
        let older = Record { format: 1, ..record(entry.first_position, &bytes) };
        if entry.principal.is_none() {
            assert_eq!(codec().decode(&older), Ok(entry));
        } else {
            assert_eq!(codec().decode(&older), Err(Malformed("unknown flags")));
        }
    }
}

/// An entry of a principal, with another name in its bytes.
fn renamed(name: &[u8]) -> Result<Entry, Malformed> {
    let entry = Entry { principal: Some(principal("?")), ..one_of_each().remove(0) };
    let mut bytes = encoded(&entry);
    let at = bytes.windows(2).position(|two| two == *b"\x01?").unwrap();
    let mut named = Vec::new();
    put_number(&mut named, name.len() as u64);
    named.extend_from_slice(name);
    bytes.splice(at..at + 2, named);
    codec().decode(&record(entry.first_position, &bytes))
}

#[test]
fn a_principal_in_the_log_is_one_that_there_can_be() {
    let longest = "🐚".repeat(PRINCIPAL_CHARS_MAX);
    for name in ["a", "ada@example.com", "Zoë 𐍈", &longest] {
        let entry = renamed(name.as_bytes()).unwrap();
        assert_eq!(entry.principal, Some(principal(name)));
    }
    let too_long = ["a".repeat(PRINCIPAL_CHARS_MAX + 1), "🐚".repeat(PRINCIPAL_CHARS_MAX + 1)];
    for name in ["", "two\nlines", "\u{7f}", &too_long[0], &too_long[1]] {
        assert!(renamed(name.as_bytes()).is_err(), "{name:?}");
    }
    assert!(renamed(b"\xff").is_err());
}

/// What was in an entry's memory before is not taken for what a record says.
#[test]
fn memory_that_is_used_again_makes_no_difference() {
    let mut again = Entry::default();
    let all = one_of_each();
    for entry in all.iter().chain(all.iter().rev()) {
        let bytes = encoded(entry);
        codec().decode_into(&record(entry.first_position, &bytes), &mut again).unwrap();
        assert_eq!(again, *entry);
    }
}

#[test]
fn garbage_is_no_entry() {
    let mut dice = Dice(99);
    for _ in 0..20_000 {
        let length = dice.throw(120) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| dice.throw(256) as u8).collect();
        if let Ok(entry) = codec().decode(&record(1 << 20, &bytes)) {
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

/// Any text of a person, up to the longest.
fn any_text(chars_min: usize, chars_max: usize) -> impl Strategy<Value = String> {
    let text = |chars| prop::collection::vec(any::<char>(), chars);
    let chars = prop_oneof![Just(chars_min), chars_min..20, Just(chars_max)];
    let printed = |letter: char| if letter.is_control() { 'x' } else { letter };
    chars.prop_flat_map(text).prop_map(move |text| text.into_iter().map(printed).collect())
}

fn any_principal() -> impl Strategy<Value = Principal> {
    any_text(1, PRINCIPAL_CHARS_MAX).prop_map(|name| principal(&name))
}

/// Any number, most of them small.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, any::<u64>()]
}

fn any_minor(least: i64) -> impl Strategy<Value = i64> {
    prop_oneof![least..300, Just(AMOUNT_MAX_MINOR), least..=AMOUNT_MAX_MINOR]
}

/// An account before the entry at `position`, with links that lead back.
fn any_account(number: u128, position: u64) -> impl Strategy<Value = EntryAccount> {
    let skip = prop_oneof![Just(0), 1..position];
    let link = (1..position, skip).prop_map(|(previous, skip)| AccountLink { previous, skip });
    (any::<u32>(), any_number(), any_minor(0), link).prop_map(
        move |(place, version, minor, link)| EntryAccount {
            id: account(number),
            number: place,
            version,
            balance: Balance::new(minor).unwrap(),
            link: if version == 0 { AccountLink::default() } else { link },
        },
    )
}

/// What a fact is made of, but for its balance, which follows from the one before.
type Parts = (u8, String, String, i64, i64, usize, u128);

fn any_parts() -> impl Strategy<Value = Parts> {
    let (initial, minor) = (any_minor(0), any_minor(1));
    (0..8_u8, any_text(1, OWNER_CHARS_MAX), "[A-Z]{3,10}", initial, minor, 0..4_usize, 0..4_u128)
}

/// The fact after a balance; `None` where there is none.
fn fact(
    (kind, owner, currency, initial, minor, error, to): &Parts,
    before: Balance,
) -> Option<Fact> {
    let amount = amount(*minor);
    let errors = [
        TransferError::InsufficientFunds,
        TransferError::DestinationNotFound,
        TransferError::DestinationClosed,
        TransferError::BalanceLimit,
    ];
    let added = |compensation| {
        let balance = before.plus(amount)?;
        Some(Fact::MoneyDeposited { amount, balance, compensation })
    };
    Some(match kind {
        0 => Fact::AccountOpened {
            owner: Owner::new(owner).unwrap(),
            currency: CurrencyCode::parse(currency).unwrap(),
            initial_balance: Balance::new(*initial).unwrap(),
        },
        1 | 2 => added(*kind == 2)?,
        3 => Fact::MoneyWithdrawn { amount, balance: before.minus(amount)? },
        4 => Fact::TransferInitiated { to: account(*to), amount },
        5 => Fact::TransferCompleted,
        6 => Fact::TransferFailed { error: errors[*error] },
        _ => Fact::AccountClosed,
    })
}

/// The events that these facts are, as far as the balances go.
fn events_of(accounts: &[EntryAccount], facts: &[(usize, Parts)]) -> Vec<Event> {
    let mut balances: Vec<Balance> = accounts.iter().map(|account| account.balance).collect();
    let mut events = vec![Event { slot: 0, fact: Fact::TransferCompleted }];
    for (slot, parts) in facts {
        let slot = slot % accounts.len();
        if let Some(fact) = fact(parts, balances[slot]) {
            balances[slot] = fact.balance_after().unwrap_or(balances[slot]);
            events.push(Event { slot, fact });
        }
    }
    events
}

/// Any entry that can be written, whether or not a command records such a one.
pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
    // No log has more positions, and twice a way back is still a number.
    let position = prop_oneof![2..1_000_u64, 2..1_u64 << 62];
    let entry = |first_position: u64| {
        let accounts = (any_account(1, first_position), any_account(2, first_position));
        let facts = prop::collection::vec((0..2_usize, any_parts()), 0..5);
        let ids = (any::<u128>(), any::<u128>(), any::<bool>(), any::<bool>(), any::<bool>());
        let texts = (any_text(0, REASON_CHARS_MAX), prop::option::of(any_principal()));
        let rest = (0..=i64::MAX, prop::option::of(any_number()), texts, 0..first_position);
        (accounts, facts, ids, rest, any::<bool>()).prop_map(
            move |(
                (one, other),
                facts,
                ids,
                (time_micros, expected_version, (reason, principal), previous),
                alone,
            )| {
                let accounts = if alone { vec![one] } else { vec![one, other] };
                let (request, saga, has_request, has_saga, id_given) = ids;
                let own = codec().ids().at(first_position, time_micros);
                let id = if id_given { Uuid::from_u128(saga | 1) } else { own };
                Entry {
                    first_position,
                    time_micros,
                    request_id: has_request.then(|| RequestId::new(Uuid::from_u128(request | 1))),
                    expected_version,
                    id_given,
                    saga: has_saga.then(|| SagaLink { id: SagaId::new(id), previous }),
                    reason: reason.into(),
                    principal,
                    events: events_of(&accounts, &facts),
                    accounts,
                }
            },
        )
    };
    position.prop_flat_map(entry)
}

proptest! {
    /// Every kind of event, every flag, the longest texts, the largest numbers, all links.
    #[test]
    fn any_entry_survives_encoding(entry in any_entry()) {
        let bytes = encoded(&entry);
        prop_assert_eq!(codec().decode(&record(entry.first_position, &bytes)), Ok(entry));
    }
}
