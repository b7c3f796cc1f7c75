//! Commands: requests to change something, already parsed.

use super::{AccountId, Amount, Balance, CurrencyCode, Owner, Reason, RequestId, SagaId};

/// A request to change the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The idempotency key, if the caller gave one.
    pub request_id: Option<RequestId>,
    /// What to do.
    pub action: Action,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open an account.
    OpenAccount {
        /// The new account's id.
        account_id: AccountId,
        /// Whether the caller chose the id; else the server did, and a repeat has another one.
        account_id_given: bool,
        /// Whom the account belongs to.
        owner: Owner,
        /// Its currency.
        currency: CurrencyCode,
        /// What it begins with.
        initial_balance: Balance,
        /// The version that the account is expected to have.
        expected_version: Option<u64>,
    },
    /// Add money.
    DepositMoney {
        /// The account.
        account_id: AccountId,
        /// How much.
        amount: Amount,
        /// Why.
        reason: Reason,
        /// The version that the account is expected to have.
        expected_version: Option<u64>,
    },
    /// Take money.
    WithdrawMoney {
        /// The account.
        account_id: AccountId,
        /// How much.
        amount: Amount,
        /// Why.
        reason: Reason,
        /// The version that the account is expected to have.
        expected_version: Option<u64>,
    },
    /// Move money between accounts.
    TransferMoney {
        /// The saga's id, if the caller chose one.
        saga_id: Option<SagaId>,
        /// From where to where.
        parties: Parties,
        /// How much.
        amount: Amount,
        /// Why.
        reason: Reason,
    },
    /// Close an account.
    CloseAccount {
        /// The account.
        account_id: AccountId,
        /// The version that the account is expected to have.
        expected_version: Option<u64>,
    },
}

impl Action {
    /// The version that the command expects its account to have.
    #[must_use]
    pub fn expected_version(&self) -> Option<u64> {
        match self {
            Self::OpenAccount { expected_version, .. }
            | Self::DepositMoney { expected_version, .. }
            | Self::WithdrawMoney { expected_version, .. }
            | Self::CloseAccount { expected_version, .. } => *expected_version,
            Self::TransferMoney { .. } => None,
        }
    }

    /// The accounts that it names: one, or the two of a transfer.
    pub fn accounts(&self) -> impl Iterator<Item = AccountId> {
        let (one, other) = match self {
            Self::OpenAccount { account_id, .. }
            | Self::DepositMoney { account_id, .. }
            | Self::WithdrawMoney { account_id, .. }
            | Self::CloseAccount { account_id, .. } => (*account_id, None),
            Self::TransferMoney { parties, .. } => (parties.from, Some(parties.to)),
        };
        std::iter::once(one).chain(other)
    }

    /// Why the caller asks for it; empty when nobody said.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::DepositMoney { reason, .. }
            | Self::WithdrawMoney { reason, .. }
            | Self::TransferMoney { reason, .. } => reason.as_str(),
            Self::OpenAccount { .. } | Self::CloseAccount { .. } => "",
        }
    }
}

/// The two accounts of a transfer. They differ: nobody can transfer to himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parties {
    from: AccountId,
    to: AccountId,
}

impl Parties {
    /// Two different accounts; `None` when they are the same.
    #[must_use]
    pub fn new(from: AccountId, to: AccountId) -> Option<Self> {
        (from != to).then_some(Self { from, to })
    }

    /// Where the money comes from.
    #[must_use]
    pub const fn from(&self) -> AccountId {
        self.from
    }

    /// Where the money goes.
    #[must_use]
    pub const fn to(&self) -> AccountId {
        self.to
    }
}
