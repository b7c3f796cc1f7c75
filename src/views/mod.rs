//! The views: read models folded from the entries of the log.
//!
//! They own what the accounts, sagas and totals are now, in memory, and the way to what they were,
//! in the log. They follow the log with a position of their own, can be rebuilt from it at any
//! time, and never make a command fail. They must not know how a question came in or how its
//! answer is rendered.

mod accounts;
mod as_of;
mod books;
mod checkpoint;
mod fold;
mod follower;
mod frozen;
mod owners;
mod sagas;
mod statement;
mod transactions;

pub use accounts::{AccountFilter, AccountPage, AccountView};
pub use as_of::{AsOf, AsOfError, account_as_of};
pub use books::{Books, Totals};
pub use checkpoint::{RestoreError, SaveError, save};
pub use fold::{Fold, FoldError, Following};
pub use follower::{BehindError, Views, follow};
pub use sagas::{SagaFilter, SagaPage, SagaState, SagaView, StepState, find_saga, list_sagas};
pub use statement::{Direction, EventPage, Recorded, list_events};
pub use transactions::{
    Transaction, TransactionKind, TransactionPage, list_account_transactions, list_transactions,
};

/// How many entries one page may look at to find what passes its filter. A page that finds less
/// than it was asked for says where to go on, so that no read takes long.
pub const SCAN_ENTRIES_MAX: usize = 4_096;
