//! An entry: everything that one command recorded, with its place in the log.

use crate::domain::{
    AccountId, Action, Balance, Command, Event, Fact, Principal, RequestId, SagaId, TransferError,
};

/// What one accepted command recorded: its context, the accounts it touched, its events in order.
/// It is one record of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The position of its first event; the others follow without gaps.
    pub first_position: u64,
    /// When it was recorded, in microseconds since 1970 UTC. Never less than that of the entry
    /// before it.
    pub time_micros: i64,
    /// The idempotency key of its command.
    pub request_id: Option<RequestId>,
    /// The version that its command expected, kept to tell a repeat from another command.
    pub expected_version: Option<u64>,
    /// Whether the caller chose the id of the account or saga that the command made.
    pub id_given: bool,
    /// The saga that its events belong to.
    pub saga: Option<SagaLink>,
    /// Why the caller asked for it; may be empty.
    pub reason: Box<str>,
    /// Who gave its command, as the server knew its callers; none when it did not know them.
    pub principal: Option<Principal>,
    /// The accounts that its events are about.
    pub accounts: Vec<EntryAccount>,
    /// Its events, 1 or more.
    pub events: Vec<Event>,
}

/// An account of an entry, as it was just before the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryAccount {
    /// Its id.
    pub id: AccountId,
    /// Its number: how many accounts were opened before it. Whoever follows the log finds the
    /// account by it without looking the id up.
    pub number: u32,
    /// Its version before.
    pub version: u64,
    /// Its balance before.
    pub balance: Balance,
    /// The way back to the account's earlier entries.
    pub link: AccountLink,
}

/// The way from an entry back to the earlier entries of the same account: what makes the log its
/// own index. See `chain.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountLink {
    /// The first position of the account's entry before this one; 0 when there is none.
    pub previous: u64,
    /// The first position of an entry much further back; 0 when this entry has no such link.
    pub skip: u64,
}

/// A saga, and the way from its entry back to the saga before it that ended alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SagaLink {
    /// The saga's id.
    pub id: SagaId,
    /// The first position of the newest earlier entry whose saga ended alike; 0 when there is
    /// none.
    pub previous: u64,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaEnd {
    /// The money has moved.
    Completed,
    /// No money had moved.
    Failed(TransferError),
    /// The money was given back.
    Compensated(TransferError),
}

impl Entry {
    /// The position of its last event.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        let count = u64::try_from(self.events.len()).unwrap_or(u64::MAX);
        self.first_position.saturating_add(count).saturating_sub(1)
    }

    /// Its events with their positions, accounts and versions.
    pub fn numbered(&self) -> impl Iterator<Item = Numbered<'_>> {
        let mut versions = [0_u64; ACCOUNTS_MAX];
        (self.first_position..).zip(&self.events).filter_map(move |(position, event)| {
            let account = self.accounts.get(event.slot)?;
            let before = versions.get_mut(event.slot)?;
            *before = before.saturating_add(1);
            let version = account.version.saturating_add(*before);
            Some(Numbered { position, account, version, fact: &event.fact })
        })
    }

    /// How its saga ended, if it is one.
    #[must_use]
    pub fn saga_end(&self) -> Option<SagaEnd> {
        self.saga.and(saga_end(&self.events))
    }

    /// Whether `command` is the command that this entry answered.
    ///
    /// Who gave it is not compared, and the entry stays with whoever gave it first. A repeat asks
    /// what became of a command, and its answer must not depend on a credential that was renewed or
    /// renamed meanwhile: the command would be carried out, or refused, as another one. What
    /// somebody may ask for is judged before, by the accounts of the command, which are the same.
    #[must_use]
    pub fn answers(&self, command: &Command) -> bool {
        let Some(first) = self.events.first() else { return false };
        self.request_id == command.request_id
            && self.expected_version == command.action.expected_version()
            && *self.reason == *command.action.reason()
            && self.account_of(0).is_some_and(|id| self.did(id, &first.fact, &command.action))
    }

    fn account_of(&self, slot: usize) -> Option<AccountId> {
        self.accounts.get(slot).map(|account| account.id)
    }

    /// Whether the entry's first event on `account` is what `action` asks for.
    fn did(&self, account: AccountId, first: &Fact, action: &Action) -> bool {
        match (action, first) {
            (
                Action::OpenAccount {
                    account_id,
                    account_id_given,
                    owner,
                    currency,
                    initial_balance,
                    ..
                },
                Fact::AccountOpened { owner: o, currency: c, initial_balance: b },
            ) => {
                self.id_given == *account_id_given
                    && (!account_id_given || *account_id == account)
                    && (owner, currency, initial_balance) == (o, c, b)
            }
            (
                Action::DepositMoney { account_id, amount, .. },
                Fact::MoneyDeposited { amount: recorded, .. },
            )
            | (
                Action::WithdrawMoney { account_id, amount, .. },
                Fact::MoneyWithdrawn { amount: recorded, .. },
            ) => *account_id == account && amount == recorded,
            (
                Action::TransferMoney { saga_id, parties, amount, .. },
                Fact::TransferInitiated { to, amount: recorded },
            ) => {
                let given = self.saga.map(|saga| saga.id).filter(|_| self.id_given);
                *saga_id == given
                    && (parties.from(), parties.to()) == (account, *to)
                    && amount == recorded
            }
            (Action::CloseAccount { account_id, .. }, Fact::AccountClosed) => {
                *account_id == account
            }
            (
                Action::OpenAccount { .. }
                | Action::DepositMoney { .. }
                | Action::WithdrawMoney { .. }
                | Action::TransferMoney { .. }
                | Action::CloseAccount { .. },
                _,
            ) => false,
        }
    }
}

/// How many accounts one entry may touch.
pub(crate) const ACCOUNTS_MAX: usize = 2;
/// How many events one entry may have: a completed transfer has five.
pub(crate) const EVENTS_MAX: usize = 5;

/// How the transfer that these events tell of ended.
pub(crate) fn saga_end(events: &[Event]) -> Option<SagaEnd> {
    let returned = events
        .iter()
        .any(|event| matches!(event.fact, Fact::MoneyDeposited { compensation: true, .. }));
    match events.last()?.fact {
        Fact::TransferCompleted => Some(SagaEnd::Completed),
        Fact::TransferFailed { error } if returned => Some(SagaEnd::Compensated(error)),
        Fact::TransferFailed { error } => Some(SagaEnd::Failed(error)),
        Fact::AccountOpened { .. }
        | Fact::MoneyDeposited { .. }
        | Fact::MoneyWithdrawn { .. }
        | Fact::TransferInitiated { .. }
        | Fact::AccountClosed => None,
    }
}

/// An event with its place.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'a> {
    /// Its position in the log.
    pub position: u64,
    /// The account it is about, as it was before the entry.
    pub account: &'a EntryAccount,
    /// Its version: its place among the account's events.
    pub version: u64,
    /// What happened.
    pub fact: &'a Fact,
}
