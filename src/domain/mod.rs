//! The domain: what a ledger may do, and nothing else.
//!
//! It owns money, accounts, transfers and the rules between them, as pure functions: decide what
//! a command does to a state, and fold what was done into the state. It must not know time,
//! randomness, threads, the log or the wire: whatever it needs comes in with the command. So the
//! same code runs live, on replay, on time travel and in simulation.

mod account;
mod command;
mod decision;
mod event;
mod id;
mod ledger;
mod money;
mod pending;
mod refusal;
mod register;
mod rows;
mod text;
mod transfer;

#[cfg(test)]
mod tests;

pub use account::{Account, AccountState, Compact, Inconsistent};
pub use command::{Action, Command, Parties};
pub use decision::{Decision, Touched};
pub use event::{COMPENSATION, Event, EventKind, Fact};
pub use id::{AccountId, IdError, RequestId, SagaId};
pub use ledger::{Context, Ledger};
pub use money::{AMOUNT_MAX_MINOR, Amount, Balance, CurrencyCode};
pub use refusal::Refusal;
pub use register::Register;
pub use rows::Rows;
pub use text::{
    OWNER_CHARS_MAX, Owner, PRINCIPAL_CHARS_MAX, Principal, REASON_CHARS_MAX, Reason, TextError,
};
pub use transfer::{StepOutcome, TransferError, TransferPhase, next_phase};
