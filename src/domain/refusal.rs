//! Refusals: a rule said no, and nothing happened.

use super::{AccountId, Balance, SagaId};

/// Why a command was refused. The variants stand in the order in which they are tested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such account.
    #[error("account {account_id} does not exist")]
    AccountNotFound {
        /// The account that was named.
        account_id: AccountId,
    },
    /// The account was opened before.
    #[error("account {account_id} exists already")]
    AccountExists {
        /// The account that was named.
        account_id: AccountId,
    },
    /// The saga was begun before, or its id is that of another event.
    #[error("saga {saga_id} exists already")]
    SagaExists {
        /// The saga that was named.
        saga_id: SagaId,
    },
    /// The account has not the version that was expected.
    #[error("account {account_id} has version {actual}, not {expected}")]
    VersionMismatch {
        /// The account.
        account_id: AccountId,
        /// The version that the command named.
        expected: u64,
        /// The version that the account has.
        actual: u64,
    },
    /// The account is closed.
    #[error("account {account_id} is closed")]
    AccountClosed {
        /// The account.
        account_id: AccountId,
    },
    /// The account has less than what is asked for.
    #[error("account {account_id} has insufficient funds")]
    InsufficientFunds {
        /// The account.
        account_id: AccountId,
    },
    /// Only an empty account can be closed.
    #[error("account {account_id} cannot be closed: it holds {} minor units", balance.minor())]
    BalanceNotZero {
        /// The account.
        account_id: AccountId,
        /// What it holds.
        balance: Balance,
    },
    /// A transfer from the account has not ended.
    #[error("account {account_id} cannot be closed: a transfer from it is pending")]
    TransferPending {
        /// The account.
        account_id: AccountId,
    },
    /// The two accounts of a transfer have different currencies.
    #[error("accounts {from} and {to} have different currencies")]
    CurrencyMismatch {
        /// Where the money would have come from.
        from: AccountId,
        /// Where it would have gone.
        to: AccountId,
    },
    /// The balance would go above 10^15.
    #[error("the balance of account {account_id} would exceed 10^15 minor units")]
    BalanceLimit {
        /// The account.
        account_id: AccountId,
    },
    /// The ledger holds as many accounts as it can number.
    #[error("the ledger can hold no more accounts")]
    AccountLimit,
}
