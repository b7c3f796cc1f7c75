//! The integration tests: one binary, so that the crate is linked once.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that goes wrong here fails, which is its purpose"
)]
mod access;
mod backups;
mod bad_input;
mod bench;
mod commands;
mod commands_beside;
mod crash;
mod edges;
mod engine;
mod golden;
mod histories;
#[path = "../issuer/mod.rs"]
mod issuer;
mod limits;
mod operations;
mod overload;
mod pipes;
mod planted;
mod postgres;
mod principals;
mod process;
mod reads;
mod seed_defects;
mod service;
mod tail;
mod tidy;
mod tls;
