//! The engine on PostgreSQL: what a server says of a database that is not fit, what people find in
//! the tables, servers that take a ledger over from each other, and ledgers that come from files
//! and go back.
//!
//! `DAYBOOK_TEST_FAULTS` sets how many faults the cluster meets, `DAYBOOK_TEST_SEED` by which
//! chance. The tests of the API run over this engine as well: see `tests/postgres/suite`.

use crate::engine;

mod cluster;
mod fencing;
mod migrate;
mod passing;
mod rows;
mod starts;
mod takeover;
mod verify;

/// The URL of a new ledger; `None` where there is no database.
fn new_ledger() -> Option<String> {
    engine::server()?;
    Some(engine::ledger(&uuid::Uuid::now_v7().to_string()))
}
