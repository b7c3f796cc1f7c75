//! Events: immutable facts about one account.

use super::{AccountId, Amount, Balance, CurrencyCode, Owner, TransferError};

/// The reason that is told for money that a failed transfer gave back.
pub const COMPENSATION: &str = "compensation";

/// One event of a decision: which of the accounts it touched, and what happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The place of the account in its decision's `touched`.
    pub slot: usize,
    /// What happened.
    pub fact: Fact,
}

/// What happened to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It was opened.
    AccountOpened {
        /// Whom it belongs to.
        owner: Owner,
        /// The currency of all its amounts.
        currency: CurrencyCode,
        /// What it began with.
        initial_balance: Balance,
    },
    /// Money was added.
    MoneyDeposited {
        /// How much.
        amount: Amount,
        /// The balance right after.
        balance: Balance,
        /// Whether a failed transfer gave its own money back.
        compensation: bool,
    },
    /// Money was taken.
    MoneyWithdrawn {
        /// How much.
        amount: Amount,
        /// The balance right after.
        balance: Balance,
    },
    /// A transfer from it began.
    TransferInitiated {
        /// Where the money is to go.
        to: AccountId,
        /// How much.
        amount: Amount,
    },
    /// A transfer from it or to it ended well.
    TransferCompleted,
    /// A transfer from it ended without effect.
    TransferFailed {
        /// Why.
        error: TransferError,
    },
    /// It was closed for ever.
    AccountClosed,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// [`Fact::AccountOpened`]
    AccountOpened,
    /// [`Fact::MoneyDeposited`]
    MoneyDeposited,
    /// [`Fact::MoneyWithdrawn`]
    MoneyWithdrawn,
    /// [`Fact::TransferInitiated`]
    TransferInitiated,
    /// [`Fact::TransferCompleted`]
    TransferCompleted,
    /// [`Fact::TransferFailed`]
    TransferFailed,
    /// [`Fact::AccountClosed`]
    AccountClosed,
}

impl Fact {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::AccountOpened { .. } => EventKind::AccountOpened,
            Self::MoneyDeposited { .. } => EventKind::MoneyDeposited,
            Self::MoneyWithdrawn { .. } => EventKind::MoneyWithdrawn,
            Self::TransferInitiated { .. } => EventKind::TransferInitiated,
            Self::TransferCompleted => EventKind::TransferCompleted,
            Self::TransferFailed { .. } => EventKind::TransferFailed,
            Self::AccountClosed => EventKind::AccountClosed,
        }
    }

    /// The balance right after, for the facts that set it: those that are transactions.
    #[must_use]
    pub fn balance_after(&self) -> Option<Balance> {
        match self {
            Self::AccountOpened { initial_balance: balance, .. }
            | Self::MoneyDeposited { balance, .. }
            | Self::MoneyWithdrawn { balance, .. } => Some(*balance),
            Self::TransferInitiated { .. }
            | Self::TransferCompleted
            | Self::TransferFailed { .. }
            | Self::AccountClosed => None,
        }
    }
}
