//! Daybook: an event-sourced bank ledger as a gRPC service.
//!
//! # The map of the house
//! | room | owns | must not know |
//! | --- | --- | --- |
//! | [`domain`] | money, accounts, transfers, the rules: pure functions | anything else |
//! | [`log`] | groups of records, positions, files, damage | what a record says |
//! | [`event_store`] | the one writer, entries and their bytes, request ids, history | gRPC |
//! | [`postgres`] | the tables and statements of the log on PostgreSQL | how a command is decided |
//! | [`views`] | what everything is now, the way to what it was, checkpoints | gRPC |
//! | [`proto`] | the protocol, generated, and its codec | anything else |
//! | [`access`] | credentials, the policy, what each principal may take | gRPC, the ledger |
//! | [`wire`] | parsing, rendering, statuses | how anything is decided |
//! | [`ops`] | configuration, telemetry, the clock | the bank |
//! | [`server`] | joins all rooms to a running service | – |
//! | [`cli`] | what a person at a terminal sees beside serving | – |
//!
//! Domain and log never meet; the event store joins them. A test reads the `use` lines and holds
//! every room to this.
//!
//! # The way of a command
//! ```text
//! wire: parse ─▶ mailbox ─▶ writer: decide in memory, encode ─▶ syncer: append, sync ─┬─▶ reply
//!                                                                                     └─▶ views,
//! wire: render ◀─ query: views, and the log by the chains of its accounts ◀──────────────  tails
//! ```
//!
//! # What always holds
//! - Nothing is answered or shown before it is durable; refusals wait as well, because they may
//!   rest on what is not durable yet.
//! - All events of a command are in one record, all records of a batch in one group, and a group
//!   is there as a whole or not at all.
//! - State is what the log folds to. What is kept in memory can be thrown away, and so can the
//!   checkpoint beside the log.
//! - With credentials, nothing of a call is looked at before it is known who calls; and who is
//!   limited to accounts cannot tell those of others from none.
//! - No command and no read costs more because an account has a long history or because there are
//!   many accounts.
//! - Every channel, page, batch, cache and message has a limit with a name.
//!
//! # Words
//! | word | meaning |
//! | --- | --- |
//! | event | an immutable fact about one account |
//! | version | the place of an event among those of its account: 1, 2, 3 … |
//! | position | the place of an event in the log: 1, 2, 3 … |
//! | command | a request to change something: accepted, and then recorded, or refused |
//! | refusal, failure | a rule said no; the infrastructure could not |
//! | entry | what one command recorded: its events and their context; one record of the log |
//! | group | the records that were committed together |
//! | saga | a workflow of steps with compensation; here, a money transfer |
//! | view | a read model that follows the log |
//! | checkpoint | what the log up to a position was folded into, to start from |
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::wildcard_enum_match_arm,
        reason = "a unit test that goes wrong here fails, which is its purpose"
    )
)]

pub mod access;
pub mod cli;
pub mod domain;
pub mod event_store;
pub mod log;
pub mod ops;
pub mod postgres;
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from the protos, which have the comments"
)]
pub mod proto;
pub mod server;
pub mod views;
pub mod wire;

/// The whole ledger in one thread, on a disk that has bad days.
#[cfg(test)]
#[path = "../tests/sim/mod.rs"]
mod sim;
