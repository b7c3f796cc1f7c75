//! The engine on PostgreSQL: a log that several processes share, of which one at a time appends.
//!
//! It owns the tables, every statement, and what a connection's failure means. Who may append, and
//! what an append came to whose answer was lost, is decided in [`crate::log::shared`]; here is only
//! what that asks of a database. It must not know how a command is decided or a view is kept.
//!
//! ```text
//! Store ── one connection: append, touch, claim, seal, confirm, release
//! Members ─ one connection: join, renew, leave
//! Source ── a few connections: blocks by position
//! Vault ── one connection: checkpoints
//! Events ─ one connection: whether the rows for people say what the blocks say
//! ```
//! An append is one statement and one round trip: it advances the row of the head where partition,
//! epoch and position are as expected, and inserts blocks and events only if it did. The lock on
//! that row is held until the transaction is committed, and replicated where that is synchronous:
//! positions have no gaps, and who sees one of them sees all before it.

mod checkpoints;
mod compare;
mod rows;
mod schema;
mod session;
mod source;
mod store;
mod tls;

use std::{fmt, time::Duration};

use crate::log::ChainHash;

pub use checkpoints::Checkpoints;
pub use compare::Events;
pub use schema::{Found, READ_ONLY, SetUp, StartError, begin_migration, find, set_up, set_whole};
pub use source::Blocks;
pub use store::{Epochs, Nodes};
pub use tls::Tls;

/// The one partition that there is.
const PARTITION: i32 = 0;
/// How many partitions this version works with.
const PARTITIONS: i32 = 1;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long a statement may take that changes or reads little.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// How long an append may take, of the largest group and with a synchronous standby.
const APPEND_WITHIN: Duration = Duration::from_secs(10);
/// How long making the tables may take.
const SET_UP_WITHIN: Duration = Duration::from_secs(60);

/// Where the database is, and how it proves who it is.
#[derive(Clone)]
pub struct Database {
    config: tokio_postgres::Config,
    tls: Option<Tls>,
}

impl Database {
    /// Without TLS when `tls` is `None`.
    #[must_use]
    pub fn new(mut config: tokio_postgres::Config, tls: Option<Tls>) -> Self {
        use tokio_postgres::config::SslMode;
        let mode = if tls.is_some() { SslMode::Require } else { SslMode::Disable };
        config
            .ssl_mode(mode)
            .application_name("daybook")
            .connect_timeout(CONNECT_WITHIN)
            .tcp_user_timeout(CALL_WITHIN)
            .keepalives_idle(CALL_WITHIN);
        Self { config, tls }
    }
}

/// Never the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("hosts", &self.config.get_hosts()).finish_non_exhaustive()
    }
}

/// A hash of the chain as it is kept. Another length is no hash of anything.
fn hash_of(bytes: &[u8]) -> ChainHash {
    bytes.try_into().unwrap_or_default()
}

/// A number of ours as a `bigint`.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A `bigint` as a number of ours: none of them is negative.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
