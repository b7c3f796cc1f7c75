//! The model: a ledger so plain that it can be checked by reading it. It knows nothing of the code
//! that it judges but the commands.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{
    domain::{Action, Command, Refusal, TransferError},
    event_store::SagaEnd,
};

/// The largest balance, in minor units.
const BALANCE_MAX: i64 = 1_000_000_000_000_000;

/// What must come of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// So many events, from this position on; and of a transfer, how it ended.
    Recorded { first: u64, count: u64, end: &'static str },
    /// What was recorded at this position under the same request id.
    Replayed { position: u64 },
    /// A rule, by name.
    Refused(&'static str),
}

/// Everything that was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) accounts: BTreeMap<Uuid, Account>,
    /// The sagas whose callers chose their ids.
    sagas: BTreeSet<Uuid>,
    /// The request ids, oldest first, with the position of what was recorded.
    requests: Vec<(u64, Uuid)>,
    /// For how many of the newest positions request ids count.
    window: u64,
    /// The position of the newest event.
    pub(super) head: u64,
    /// Who caused the event at each position, from 1.
    pub(super) principals: Vec<Option<String>>,
}

/// An account: every event of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) currency: u64,
    pub(super) is_closed: bool,
    /// By version, from 1: the position, and the balance right after.
    pub(super) events: Vec<(u64, i64)>,
}

impl Account {
    pub(super) fn balance(&self) -> i64 {
        self.events.last().map_or(0, |(_, balance)| *balance)
    }

    pub(super) fn version(&self) -> u64 {
        self.events.len() as u64
    }

    /// The version and the balance right after a position.
    pub(super) fn at(&self, position: u64) -> (u64, i64) {
        let count = self.events.partition_point(|(place, _)| *place <= position);
        (count as u64, count.checked_sub(1).map_or(0, |index| self.events[index].1))
    }
}

impl Model {
    pub(super) fn new(window: u64) -> Self {
        Self { window, ..Self::default() }
    }

    /// All money at a position.
    pub(super) fn money_at(&self, position: u64) -> i64 {
        self.accounts.values().map(|account| account.at(position).1).sum()
    }

    /// Carries a command of somebody out, and tells what must have come of it.
    pub(super) fn carry_out(&mut self, principal: Option<&str>, command: &Command) -> Told {
        let request_id = command.request_id.map(crate::domain::RequestId::uuid);
        if let Some(request_id) = request_id
            && let Some((position, _)) =
                self.requests.iter().rev().find(|(_, id)| *id == request_id)
            && position + self.window > self.head
        {
            return Told::Replayed { position: *position };
        }
        let first = self.head + 1;
        match self.act(&command.action) {
            Ok((count, end)) => {
                self.requests.extend(request_id.map(|request_id| (first, request_id)));
                assert_eq!(self.head, first + count - 1);
                self.principals.resize(self.head as usize, principal.map(str::to_owned));
                Told::Recorded { first, count, end }
            }
            Err(rule) => Told::Refused(rule),
        }
    }

    /// Adds an event. It changes the balance by `change`.
    fn event(&mut self, id: Uuid, change: i64) {
        self.head += 1;
        let head = self.head;
        let account = self.accounts.get_mut(&id).unwrap();
        account.events.push((head, account.balance() + change));
    }

    /// The account, if it is open and has the version.
    fn usable(&self, id: Uuid, expected: Option<u64>) -> Result<&Account, &'static str> {
        let account = self.accounts.get(&id).ok_or("not found")?;
        if expected.is_some_and(|expected| expected != account.version()) {
            return Err("version");
        }
        if account.is_closed { Err("closed") } else { Ok(account) }
    }

    /// Gives how many events there are then, and how a transfer ended; or the rule that is against
    /// it.
    fn act(&mut self, action: &Action) -> Result<(u64, &'static str), &'static str> {
        match action {
            Action::OpenAccount {
                account_id, currency, initial_balance, expected_version, ..
            } => {
                let id = account_id.uuid();
                if self.accounts.contains_key(&id) {
                    return Err("exists");
                }
                if expected_version.is_some_and(|expected| expected != 0) {
                    return Err("version");
                }
                let currency = currency.packed();
                let account = Account { currency, is_closed: false, events: Vec::new() };
                self.accounts.insert(id, account);
                self.event(id, initial_balance.minor());
                Ok((1, ""))
            }
            Action::DepositMoney { account_id, amount, expected_version, .. } => {
                let account = self.usable(account_id.uuid(), *expected_version)?;
                if account.balance() + amount.minor() > BALANCE_MAX {
                    return Err("limit");
                }
                self.event(account_id.uuid(), amount.minor());
                Ok((1, ""))
            }
            Action::WithdrawMoney { account_id, amount, expected_version, .. } => {
                let account = self.usable(account_id.uuid(), *expected_version)?;
                if account.balance() < amount.minor() {
                    return Err("funds");
                }
                self.event(account_id.uuid(), -amount.minor());
                Ok((1, ""))
            }
            Action::CloseAccount { account_id, expected_version } => {
                let account = self.usable(account_id.uuid(), *expected_version)?;
                if account.balance() != 0 {
                    return Err("not empty");
                }
                self.event(account_id.uuid(), 0);
                self.accounts.get_mut(&account_id.uuid()).unwrap().is_closed = true;
                Ok((1, ""))
            }
            Action::TransferMoney { saga_id, parties, amount, .. } => {
                let saga_id = saga_id.map(crate::domain::SagaId::uuid);
                let (from, to) = (parties.from().uuid(), parties.to().uuid());
                self.transfer(saga_id, from, to, amount.minor())
            }
        }
    }

    fn transfer(
        &mut self,
        saga_id: Option<Uuid>,
        from: Uuid,
        to: Uuid,
        minor: i64,
    ) -> Result<(u64, &'static str), &'static str> {
        let source = self.accounts.get(&from).ok_or("not found")?;
        if saga_id.is_some_and(|saga_id| self.sagas.contains(&saga_id)) {
            return Err("saga exists");
        }
        if source.is_closed {
            return Err("closed");
        }
        let target = self.accounts.get(&to);
        if target.is_some_and(|target| target.currency != source.currency) {
            return Err("currency");
        }
        let has_funds = source.balance() >= minor;
        let obstacle = match target {
            None => Some("nobody there"),
            Some(target) if target.is_closed => Some("closed"),
            Some(target) if target.balance() + minor > BALANCE_MAX => Some("limit"),
            Some(_) => None,
        };
        self.sagas.extend(saga_id);
        // It begins; it takes the money; it gives it, or gives it back; and it ends.
        self.event(from, 0);
        if !has_funds {
            self.event(from, 0);
            return Ok((2, "no funds"));
        }
        self.event(from, -minor);
        if let Some(obstacle) = obstacle {
            self.event(from, minor);
            self.event(from, 0);
            return Ok((4, obstacle));
        }
        self.event(to, minor);
        self.event(from, 0);
        self.event(to, 0);
        Ok((5, "done"))
    }
}

/// How a transfer ended, by the model's name; empty for what is none.
pub(super) fn end(end: Option<SagaEnd>) -> &'static str {
    match end {
        None => "",
        Some(SagaEnd::Completed) => "done",
        Some(SagaEnd::Failed(error) | SagaEnd::Compensated(error)) => match error {
            TransferError::InsufficientFunds => "no funds",
            TransferError::DestinationNotFound => "nobody there",
            TransferError::DestinationClosed => "closed",
            TransferError::BalanceLimit => "limit",
        },
    }
}

/// The rule of a refusal, by the model's name.
pub(super) fn rule(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::AccountNotFound { .. } => "not found",
        Refusal::AccountExists { .. } => "exists",
        Refusal::SagaExists { .. } => "saga exists",
        Refusal::VersionMismatch { .. } => "version",
        Refusal::AccountClosed { .. } => "closed",
        Refusal::InsufficientFunds { .. } => "funds",
        Refusal::BalanceNotZero { .. } => "not empty",
        Refusal::TransferPending { .. } => "pending",
        Refusal::CurrencyMismatch { .. } => "currency",
        Refusal::BalanceLimit { .. } => "limit",
        Refusal::AccountLimit => "accounts",
    }
}
