//! The golden directories of format version 2, made as they were made: what is written today has
//! the same bytes as then. `tests/it/golden.rs` sees that they are read.
//!
//! When this fails because something is written in another way that every program of version 2
//! reads as well, say so in the commit and give this test a directory of the new kind beside the
//! old ones, which stay as they are. Its text is printed when the two differ.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    callers::Given,
    disk::{Image, SimDisk},
    node::Node,
};
use crate::{
    domain::{
        AccountId, Action, Amount, Balance, Command, CurrencyCode, Owner, PRINCIPAL_CHARS_MAX,
        Parties, Principal, Reason, RequestId, SagaId,
    },
    event_store::Outcome,
    log::file::Options,
    ops::ManualClock,
};

/// 2026-02-02 02:40:00 UTC, which is after all that version 1 has written.
const TIME: i64 = 1_770_000_000_000_000;
/// How much later each submission comes.
const BETWEEN: Duration = Duration::from_micros(1_234_567);
/// How many bytes stand in one line.
const LINE_BYTES: usize = 32;
const SECTOR: usize = 512;

/// The directory that a text tells of.
fn image(text: &str) -> Image {
    let (mut files, mut name) = (Image::new(), String::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["file", file, length] = words[..] {
            file.clone_into(&mut name);
            files.insert(name.clone(), vec![0; length.parse().unwrap()]);
        } else {
            let (at, hex): (usize, _) = (words[0].parse().unwrap(), words[1]);
            let byte = |index: usize| u8::from_str_radix(&hex[index..index + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            files.get_mut(&name).unwrap()[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    files
}

/// The text that tells of a directory.
fn text(files: &Image) -> String {
    let mut text = String::new();
    for (name, bytes) in files {
        writeln!(text, "file {name} {}", bytes.len()).unwrap();
        for (index, line) in bytes.chunks(LINE_BYTES).enumerate() {
            if let Some(last) = line.iter().rposition(|byte| *byte != 0) {
                write!(text, "{} ", index * LINE_BYTES).unwrap();
                line[..=last].iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
                text.push('\n');
            }
        }
    }
    text
}

/// A ledger that is written for keeping.
struct Writing {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    node: Node,
    requests: u128,
}

impl Writing {
    fn begin(files: &Image) -> Self {
        let (disk, clock) = (SimDisk::of(files, 0), Arc::new(ManualClock::new(TIME)));
        let node = Self::start(&disk, &clock);
        Self { disk, clock, node, requests: 0 }
    }

    fn start(disk: &SimDisk, clock: &Arc<ManualClock>) -> Node {
        let options = Options {
            first_segment_bytes: 8 * 1024,
            segment_bytes: 8 * 1024,
            group_bytes_max: 2 * 1024,
            ..Options::new([0x33; 16], TIME)
        };
        Node::start(disk, &options, 1 << 10, clock, 256).expect("a disk that does not fail")
    }

    /// What lies on the disk, but what a start makes anew.
    fn files(&self) -> Image {
        let mut files = self.disk.image();
        files.remove("spare.tmp");
        files
    }

    /// Commands that come in together, all of which are recorded.
    fn give(&mut self, name: &str, commands: Vec<Command>) {
        self.clock.advance(BETWEEN);
        let principal = (!name.is_empty()).then(|| Principal::new(name).unwrap());
        self.node.submit(Given { principal, commands });
        self.node.prepare();
        self.node.decide();
        let (given, answer) = self.node.answered().expect("small groups are committed at once");
        let answer = answer.expect("a disk that does not fail");
        assert_eq!(answer.outcomes.len(), given.commands.len());
        for (_, outcome) in answer.outcomes {
            assert!(matches!(outcome, Outcome::Recorded(_)), "{outcome:?}");
        }
        self.node.follow();
    }

    /// The same with a request id, which each command gets anew.
    fn once(&mut self, command: Command) -> Command {
        self.requests += 1;
        let request_id = Some(RequestId::new(Uuid::from_u128((0x4e9 << 100) + self.requests)));
        Command { request_id, ..command }
    }
}

fn account(number: u128) -> AccountId {
    AccountId::new(Uuid::from_u128(0xacc0_0000_0000_4000_8000_0000_0000_0000 + number))
}

fn plain(action: Action) -> Command {
    Command { request_id: None, action }
}

fn open(number: u128, owner: &str, minor: i64) -> Command {
    plain(Action::OpenAccount {
        account_id: account(number),
        account_id_given: true,
        owner: Owner::new(owner).unwrap(),
        currency: CurrencyCode::USD,
        initial_balance: Balance::new(minor).unwrap(),
        expected_version: None,
    })
}

fn deposit(number: u128, minor: i64, reason: &str) -> Command {
    plain(Action::DepositMoney {
        account_id: account(number),
        amount: Amount::new(minor).unwrap(),
        reason: Reason::new(reason).unwrap(),
        expected_version: None,
    })
}

fn withdraw(number: u128, minor: i64, expected_version: Option<u64>) -> Command {
    plain(Action::WithdrawMoney {
        account_id: account(number),
        amount: Amount::new(minor).unwrap(),
        reason: Reason::default(),
        expected_version,
    })
}

fn transfer(saga: Option<u128>, from: u128, to: u128, minor: i64) -> Command {
    plain(Action::TransferMoney {
        saga_id: saga.map(|id| SagaId::new(Uuid::from_u128(id))),
        parties: Parties::new(account(from), account(to)).unwrap(),
        amount: Amount::new(minor).unwrap(),
        reason: Reason::new("rent").unwrap(),
    })
}

fn close(number: u128) -> Command {
    plain(Action::CloseAccount { account_id: account(number), expected_version: None })
}

/// A log of version 2 from its beginning, with every kind of record by several callers and by
/// nobody known, in a few segments, closed in order.
fn stopped() -> Image {
    let mut bank = Writing::begin(&Image::new());
    bank.give("ada@example.com", vec![open(1, "Ada", 100_000), open(2, "Zoë 𐍈", 0)]);
    bank.give("", vec![open(3, "Carol", 0), close(3)]);
    let wages = bank.once(deposit(1, 25_000, "wages"));
    bank.give("Zoë 𐍈", vec![wages]);
    bank.give(&"🐚".repeat(PRINCIPAL_CHARS_MAX), vec![withdraw(1, 125, Some(2))]);
    let named = bank.once(transfer(Some(0x5a6a_0000), 1, 2, 700));
    bank.give("ada@example.com", vec![named, transfer(None, 2, 1, 1_000_000)]);
    bank.give("ada@example.com", vec![transfer(None, 1, 3, 70), transfer(None, 1, 9, 7)]);
    // An idle moment, and a restart.
    bank.node.sync();
    bank.node.stop();
    drop(bank.node);
    bank.node = Writing::start(&bank.disk, &bank.clock);
    for round in 0..14_u32 {
        let name = ["bob", "", "ada@example.com"][(round % 3) as usize];
        let minor = i64::from(round) + 1;
        bank.give(name, vec![deposit(2, minor, ""), transfer(None, 2, 1, minor)]);
    }
    bank.node.stop();
    bank.files()
}

/// A log that version 1 has begun, whose last write was torn then: it goes on with callers, has a
/// checkpoint, and in the end a write is torn again.
fn grown() -> Image {
    let mut bank = Writing::begin(&image(include_str!("../golden/v1/killed.txt")));
    bank.give("ada@example.com", vec![deposit(1, 5, "first of version 2")]);
    for round in 0..6_u32 {
        let name = ["", "bob"][(round % 2) as usize];
        bank.give(
            name,
            vec![transfer(None, 1, 2, i64::from(round) + 1), open(5 + u128::from(round), "Eve", 3)],
        );
    }
    bank.node.save(&mut |_| ()).expect("a disk that does not fail");
    let late = bank.once(withdraw(1, 2, None));
    bank.give("Zoë 𐍈", vec![late]);
    bank.node.sync();
    let before = bank.files();
    bank.give("nobody will know", (0..6).map(|_| deposit(2, 1, "never answered")).collect());
    let mut files = bank.files();
    for (name, bytes) in &mut files {
        tear(before.get(name), bytes);
    }
    files
}

/// Takes the last sector away of what was written since.
fn tear(before: Option<&Vec<u8>>, bytes: &mut [u8]) {
    let Some(before) = before else { return };
    if let Some(last) = (0..bytes.len()).rposition(|at| bytes[at] != before[at]) {
        let sector = last / SECTOR * SECTOR;
        assert!(bytes[..sector] != before[..sector], "the group has more than one sector");
        bytes[sector..sector + SECTOR].fill(0);
    }
}

#[test]
fn the_golden_directories_of_version_2_are_written_as_they_were() {
    let expected = BTreeMap::from([
        ("stopped", (stopped(), include_str!("../golden/v2/stopped.txt"))),
        ("grown", (grown(), include_str!("../golden/v2/grown.txt"))),
    ]);
    for (name, (files, golden)) in expected {
        assert_eq!(text(&image(golden)), golden, "{name}: a text has one form");
        let text = text(&files);
        assert!(text == golden, "{name} is written so now:\n{text}the end of {name}");
    }
}
