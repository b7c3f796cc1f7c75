//! The bank that is measured: accounts, commands, groups and logs that are the same in every run.
#![allow(dead_code, reason = "each program that measures uses its part")]

use std::sync::Arc;

use daybook::{
    domain::{
        AccountId, Action, Amount, Balance, Command, CurrencyCode, Owner, Parties, Reason,
        RequestId,
    },
    event_store::{Codec, Entry, EventIds, REQUEST_ID_WINDOW_DEFAULT, State, Verdict},
    log::{Block, Group, LogId, LogWriter, memory},
};
use uuid::Uuid;

/// The id of every log here.
pub(crate) const LOG_ID: LogId = [7; 16];
/// When everything happens: 2023-11-14 22:13:20 UTC.
pub(crate) const TIME_MICROS: i64 = 1_700_000_000_000_000;
/// How many commands a group has: as many as the largest batch.
pub(crate) const BATCH_COMMANDS: usize = 8_190;
/// What an account begins with: enough for all that is taken from it.
const INITIAL_MINOR: i64 = 1_000_000_000;
/// What each command moves at most.
const AMOUNT_MINOR_MAX: u64 = 1_000;

/// The entries' codec.
pub(crate) fn codec() -> Codec {
    Codec::new(EventIds::new(LOG_ID))
}

/// The id of an account, or with another `kind` of something else. The bits are spread as those
/// of random ids are.
pub(crate) fn id(kind: u64, number: u64) -> Uuid {
    let spread = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    uuid::Builder::from_random_bytes(
        (u128::from(spread) << 64 | u128::from(spread ^ kind)).to_be_bytes(),
    )
    .into_uuid()
}

/// Makes commands that are all accepted, on random accounts of so many.
pub(crate) struct Commands {
    accounts: u64,
    /// The state of xorshift64: the same numbers in every run.
    random: u64,
    /// How many request ids were given out.
    requests: u64,
}

impl Commands {
    pub(crate) fn new(accounts: u64) -> Self {
        Self { accounts, random: 0x2545_f491_4f6c_dd1d, requests: 0 }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    fn amount(&mut self) -> Amount {
        let minor = i64::try_from(self.below(AMOUNT_MINOR_MAX)).unwrap() + 1;
        Amount::new(minor).unwrap()
    }

    /// The commands that open the accounts.
    pub(crate) fn openings(&self) -> Vec<Command> {
        (0..self.accounts).map(opening).collect()
    }

    /// The next transfers.
    pub(crate) fn transfers(&mut self, count: usize) -> Vec<Command> {
        (0..count).map(|_| self.transfer()).collect()
    }

    fn transfer(&mut self) -> Command {
        let from = self.below(self.accounts);
        let to = (from + 1 + self.below(self.accounts - 1)) % self.accounts;
        let action = Action::TransferMoney {
            saga_id: None,
            parties: Parties::new(account(from), account(to)).unwrap(),
            amount: self.amount(),
            reason: Reason::default(),
        };
        Command { request_id: None, action }
    }

    /// The next deposits, each with a request id and a reason.
    pub(crate) fn deposits(&mut self, count: usize) -> Vec<Command> {
        (0..count).map(|_| self.deposit()).collect()
    }

    fn deposit(&mut self) -> Command {
        self.requests += 1;
        let action = Action::DepositMoney {
            account_id: account(self.below(self.accounts)),
            amount: self.amount(),
            reason: Reason::new("wages").unwrap(),
            expected_version: None,
        };
        Command { request_id: Some(RequestId::new(id(1, self.requests))), action }
    }
}

/// The id of an account.
pub(crate) fn account(number: u64) -> AccountId {
    AccountId::new(id(0, number))
}

fn opening(number: u64) -> Command {
    let action = Action::OpenAccount {
        account_id: account(number),
        account_id_given: true,
        owner: Owner::new("Ada").unwrap(),
        currency: CurrencyCode::USD,
        initial_balance: Balance::new(INITIAL_MINOR).unwrap(),
        expected_version: None,
    };
    Command { request_id: None, action }
}

/// A state with open accounts, and the memory that deciding uses again.
pub(crate) struct Bank {
    pub(crate) state: State,
    entry: Entry,
}

impl Bank {
    /// Before anything has happened.
    pub(crate) fn new() -> Self {
        Self { state: State::new(codec(), REQUEST_ID_WINDOW_DEFAULT), entry: Entry::default() }
    }

    /// With the accounts of `commands` open.
    pub(crate) fn open(commands: &Commands) -> Self {
        let mut bank = Self::new();
        for command in commands.openings() {
            bank.decide(&command);
        }
        bank
    }

    /// Decides a command, which must be accepted, and gives what it recorded.
    pub(crate) fn decide(&mut self, command: &Command) -> &Entry {
        let verdict = self.state.decide(command, None, TIME_MICROS, &mut self.entry);
        assert!(matches!(verdict, Verdict::Accepted), "{verdict:?}");
        &self.entry
    }

    /// Decides commands, and encodes what they record into one group, as the writer does.
    pub(crate) fn decide_group(&mut self, commands: &[Command]) -> Group {
        let mut group = Group::new(self.state.next_position());
        let codec = *self.state.codec();
        for command in commands {
            let entry = self.decide(command);
            let event_count = u32::try_from(entry.events.len()).unwrap();
            group.push(event_count, |bytes| codec.encode(entry, bytes));
        }
        group
    }

    /// Opens the accounts of `commands`, and writes that to a log.
    pub(crate) fn open_in(&mut self, commands: &Commands, log: &mut dyn LogWriter) {
        for openings in commands.openings().chunks(BATCH_COMMANDS) {
            log.append(&self.decide_group(openings)).unwrap();
        }
    }

    /// All that opening the accounts of `commands` and then `count` transfers record. No group has
    /// both.
    pub(crate) fn groups(commands: &mut Commands, count: usize) -> Vec<Group> {
        let mut bank = Self::new();
        let (openings, transfers) = (commands.openings(), commands.transfers(count));
        let batches = openings.chunks(BATCH_COMMANDS).chain(transfers.chunks(BATCH_COMMANDS));
        batches.map(|batch| bank.decide_group(batch)).collect()
    }
}

/// The blocks of a log that has these groups.
pub(crate) fn blocks(groups: &[Group]) -> Vec<Arc<Block>> {
    let (mut writer, reader) = memory::open(LOG_ID);
    for group in groups {
        writer.append(group).unwrap();
    }
    let mut blocks: Vec<Arc<Block>> = Vec::new();
    let mut next = 1;
    while next <= reader.head().position {
        let block = reader.block(next).unwrap();
        next = block.last_position() + 1;
        blocks.push(block);
    }
    blocks
}

/// The entries of a log that has these groups.
pub(crate) fn entries(groups: &[Group]) -> Vec<Entry> {
    let (codec, blocks) = (codec(), blocks(groups));
    let records = blocks.iter().flat_map(|block| block.records());
    records.map(|record| codec.decode(&record).unwrap()).collect()
}
