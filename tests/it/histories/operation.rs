//! An operation: what a client asked, when, and what it was told.

use std::time::Instant;

use daybook::proto::{
    Account, Event, GetAccountRequest, ListAccountEventsRequest, ListAccountsRequest,
    batch_command::Command, get_account_request::AsOf,
};

use crate::crash::call::{Verdict, request_id};

/// The owner of the accounts among which money only moves.
pub(super) const BANK: &str = "The Bank";

/// Monotonic time since a run began, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a run ends within 500 years")
    }
}

/// One call, or one message of a tail.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// When it was about to be sent. 0 for what nobody asked for: the message of a tail.
    pub(super) called: u64,
    /// When its answer was there; `None` when none came.
    pub(super) returned: Option<u64>,
    /// Between which two moments of rest it was called: they are counted from 0.
    pub(super) window: usize,
    pub(super) deed: Deed,
}

/// What was asked, and told.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// A command, sent once. Its repeats are operations of their own.
    Command { command: Command, verdict: Verdict },
    /// A read of one account. `told` is the account and the position; `None` when there was none.
    Account { request: GetAccountRequest, told: Option<(Account, i64)> },
    /// A page of accounts and its position.
    Accounts { request: ListAccountsRequest, told: Vec<Account>, position: i64 },
    /// A page of an account's events, its version and the position.
    Events { request: ListAccountEventsRequest, told: Vec<Event>, version: i64, position: i64 },
    /// The figures: how many accounts there are, and the position.
    Stats { min_position: Option<i64>, account_count: i64, position: i64 },
    /// What all accounts of the bank held right after a position, read one by one.
    Sum { position: i64, sum: i64 },
    /// The position of a message of a tail.
    Tailed { position: i64 },
}

impl Deed {
    /// The position that a read must have seen, if it said so.
    pub(super) fn min_position(&self) -> Option<i64> {
        match self {
            Self::Account { request, .. } => request.min_position,
            Self::Accounts { request, .. } => request.min_position,
            Self::Events { request, .. } => request.min_position,
            Self::Stats { min_position, .. } => *min_position,
            Self::Command { .. } | Self::Sum { .. } | Self::Tailed { .. } => None,
        }
    }

    /// Whether it reads an earlier moment.
    pub(super) fn as_of(&self) -> Option<&AsOf> {
        match self {
            Self::Account { request, .. } => request.as_of.as_ref(),
            _ => None,
        }
    }
}

/// What no two commands share, and their events bear: the `request_id`, or the text of those few
/// deposits and withdrawals that have none.
pub(super) fn key(command: &Command) -> &str {
    match (request_id(command), command) {
        ("", Command::DepositMoney(request)) => &request.reason,
        ("", Command::WithdrawMoney(request)) => &request.reason,
        (id, _) => id,
    }
}

/// The accounts that a command concerns; a transfer's source first.
pub(super) fn accounts(command: &Command) -> Vec<&str> {
    match command {
        Command::OpenAccount(request) => vec![&request.account_id],
        Command::DepositMoney(request) => vec![&request.account_id],
        Command::WithdrawMoney(request) => vec![&request.account_id],
        Command::CloseAccount(request) => vec![&request.account_id],
        Command::TransferMoney(request) => vec![&request.from_account_id, &request.to_account_id],
    }
}
