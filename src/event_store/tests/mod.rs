//! What the event store promises, with a log of the tests' own where a log must misbehave.

mod actor;
pub(crate) mod codec;
mod state;
#[cfg(feature = "shuttle")]
mod turns;

use uuid::Uuid;

use super::*;
use crate::{
    domain::{
        AccountId, Action, Amount, Balance, Command, CurrencyCode, Owner, Parties, Principal,
        Reason, Refusal, RequestId, SagaId,
    },
    log::{FORMAT_VERSION, Record},
};

const LOG_ID: crate::log::LogId = [7; 16];
/// 2023-11-14 22:13:20 UTC.
const TIME: i64 = 1_700_000_000_000_000;

fn codec() -> Codec {
    Codec::new(EventIds::new(LOG_ID))
}

fn state() -> State {
    State::new(codec(), 1 << 10)
}

fn account(number: u128) -> AccountId {
    AccountId::new(Uuid::from_u128(number + 1))
}

#[expect(clippy::unnecessary_wraps, reason = "as a command has it")]
fn request(number: u128) -> Option<RequestId> {
    Some(RequestId::new(Uuid::from_u128(number + (1 << 100))))
}

fn amount(minor: i64) -> Amount {
    Amount::new(minor).unwrap()
}

fn principal(name: &str) -> Principal {
    Principal::new(name).unwrap()
}

/// A record of the newest format.
fn record(first_position: u64, bytes: &[u8]) -> Record<'_> {
    Record { format: FORMAT_VERSION, first_position, event_count: 1, bytes }
}

fn plain(action: Action) -> Command {
    Command { request_id: None, action }
}

fn open(number: u128, initial: i64) -> Command {
    plain(Action::OpenAccount {
        account_id: account(number),
        account_id_given: true,
        owner: Owner::new("Ada").unwrap(),
        currency: CurrencyCode::USD,
        initial_balance: Balance::new(initial).unwrap(),
        expected_version: None,
    })
}

fn deposit(number: u128, minor: i64) -> Command {
    plain(Action::DepositMoney {
        account_id: account(number),
        amount: amount(minor),
        reason: Reason::new("pay").unwrap(),
        expected_version: None,
    })
}

fn withdraw(number: u128, minor: i64) -> Command {
    plain(Action::WithdrawMoney {
        account_id: account(number),
        amount: amount(minor),
        reason: Reason::default(),
        expected_version: None,
    })
}

fn transfer(saga_id: Option<SagaId>, from: u128, to: u128, minor: i64) -> Command {
    plain(Action::TransferMoney {
        saga_id,
        parties: Parties::new(account(from), account(to)).unwrap(),
        amount: amount(minor),
        reason: Reason::new("rent").unwrap(),
    })
}

fn close(number: u128) -> Command {
    plain(Action::CloseAccount { account_id: account(number), expected_version: None })
}

/// Random numbers that can be had again (xorshift64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Who gives a command: one of a few, or somebody unknown.
    fn principal(&mut self) -> Option<Principal> {
        let names = ["ada", "bob@example.com", "Çelik 🐚"];
        let name = names.get(usize::try_from(self.throw(5)).unwrap());
        name.map(|name| principal(name))
    }

    /// A command that is sometimes refused, over a few accounts.
    fn command(&mut self) -> Command {
        let one = u128::from(self.throw(12));
        let other = (one + 1 + u128::from(self.throw(11))) % 12;
        let minor = i64::try_from(self.throw(90)).unwrap() + 1;
        let mut command = match self.throw(20) {
            0..=2 => open(one, minor * 10),
            3..=8 => deposit(one, minor),
            9..=11 => withdraw(one, minor),
            12 => close(one),
            13 => {
                let saga_id = SagaId::new(Uuid::from_u128(u128::from(self.throw(1_000)) + 1));
                transfer(Some(saga_id), one, other, minor)
            }
            _ => transfer(None, one, other, minor),
        };
        if self.throw(3) == 0 {
            command.request_id = request(u128::from(self.throw(500)));
        }
        command
    }
}

/// A verdict, with the entry if there is one.
#[derive(Debug)]
enum Decided {
    Accepted(Entry),
    Replayed { position: u64 },
    Refused(Refusal),
}

fn decide(state: &mut State, command: &Command, now_micros: i64) -> Decided {
    decide_of(None, state, command, now_micros)
}

fn decide_of(
    principal: Option<&Principal>,
    state: &mut State,
    command: &Command,
    now_micros: i64,
) -> Decided {
    let mut entry = Entry::default();
    match state.decide(command, principal, now_micros, &mut entry) {
        Verdict::Accepted => Decided::Accepted(entry),
        Verdict::Replayed { position } => Decided::Replayed { position },
        Verdict::Refused(refusal) => Decided::Refused(refusal),
    }
}

/// The entries that so many random commands of a few principals record.
fn entries(state: &mut State, seed: u64, commands: usize) -> Vec<Entry> {
    let (mut dice, mut callers) = (Dice(seed), Dice(seed + 7_000));
    let mut entries = Vec::new();
    for step in 0..commands {
        let (command, principal) = (dice.command(), callers.principal());
        let decided = decide_of(principal.as_ref(), state, &command, TIME + step as i64);
        if let Decided::Accepted(entry) = decided {
            assert_eq!(entry.principal, principal);
            assert!(entry.answers(&command), "an entry answers the command that made it");
            entries.push(entry);
        }
    }
    entries
}
