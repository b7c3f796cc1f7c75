//! The tables: made, known again, and refused where they or the server are not fit for a ledger.

use tokio_postgres::error::SqlState;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Database, PARTITION, PARTITIONS, SET_UP_WITHIN,
    session::{CallError, Session, Use},
};
use crate::log::{Head, LogId, chain};

/// What this version makes and works with.
const VERSION: i32 = 1;
const TABLES: &str = include_str!("schema.sql");
/// What is added to tables that were made without.
const CHECKPOINTS: &str = include_str!("checkpoints.sql");
/// The first version of PostgreSQL that is tried.
const SERVER_VERSION_MIN: i32 = 150_000;

/// What is on where a server cannot be written, in [`StartError::Unsafe`].
pub const READ_ONLY: &str = "read_only";

/// A table, and what a node has to be allowed to do with it.
type Rights = (&'static str, &'static [&'static str]);

const RIGHTS: [Rights; 8] = [
    ("daybook_schema", &["select"]),
    ("partition_head", &["select", "update"]),
    ("nodes", &["select", "insert", "update", "delete"]),
    ("assignment", &["select", "update"]),
    ("blocks", &["select", "insert"]),
    ("events", &["select", "insert"]),
    ("checkpoints", &["select", "insert", "update", "delete"]),
    ("checkpoint_parts", &["select", "insert", "delete"]),
];

/// Why a database cannot carry a ledger.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no connection.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// It lets nobody in who says to be this user, or lacks something that it was asked for.
    #[error("the database refuses: {0}")]
    Refused(String),
    /// The server may lose what it has acknowledged, or cannot be written.
    #[error("the database server has {name} = {found}, and needs {needed}")]
    Unsafe {
        /// The setting.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        needed: &'static str,
    },
    /// The user lacks a right.
    #[error("the database user may not {right} on {table}: grant it, or name the user that may")]
    Right {
        /// The right.
        right: &'static str,
        /// On what.
        table: &'static str,
    },
    /// Nobody can be given rights who is not there.
    #[error("the database has no role {0:?}: create it first")]
    NoRole(String),
    /// There are no tables, and the user may not make them.
    #[error(
        "the database has no ledger, and the user may not make one ({0}): \
         run `daybook init` as a user that may"
    )]
    NoLedger(String),
    /// Something was added to the tables since they were made, and the user may not add it.
    #[error(
        "the ledger in the database was made by an earlier daybook, and the user may not add to it \
         ({0}): run `daybook init` as a user that may"
    )]
    Incomplete(String),
    /// The tables are those of a later version.
    #[error("the ledger in the database has version {found}, and this daybook knows {VERSION}")]
    Newer {
        /// Theirs.
        found: i32,
    },
    /// The log is divided otherwise.
    #[error("the ledger in the database has {found} partitions, and this daybook {PARTITIONS}")]
    Partitions {
        /// Theirs.
        found: i32,
    },
    /// A log was being copied into it, and that has not ended.
    #[error("migrating into the ledger in the database has not ended; run `daybook migrate` again")]
    Unfinished,
    /// It has another log than the one that is to go on in it.
    #[error(
        "the database has another ledger: its log is {found}, not {expected}; \
         name a database without a ledger"
    )]
    OtherLog {
        /// The id of that one.
        found: Uuid,
        /// The id that was expected.
        expected: Uuid,
    },
}

impl From<CallError> for StartError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(text) | CallError::GivenUp(text) => Self::Unreachable(text),
            CallError::NoRoom => Self::Refused("it has no room".into()),
            CallError::Refused(_, text) => Self::Refused(text),
        }
    }
}

/// How to make the tables of a ledger if there are none.
#[derive(Clone, Debug)]
pub struct SetUp<'a> {
    /// The id of the log, if it is a new one.
    pub new_log_id: LogId,
    /// A role that is to have the rights that a node needs, and no others.
    pub grant: Option<&'a str>,
}

/// Makes the tables of a ledger unless they are there, and sees that everything is fit for one.
/// Gives the id of its log. Blocks.
///
/// # Errors
/// [`StartError`]; nothing was changed then.
pub fn set_up(database: &Database, how: &SetUp<'_>) -> Result<LogId, StartError> {
    let mut session = open(database)?;
    if let Some(role) = how.grant {
        expect_role(&mut session, role)?;
    }
    make(&mut session, how.new_log_id, true)?;
    let [schema, tables @ ..] = RIGHTS;
    check_rights(&mut session, &[schema])?;
    let (log_id, is_whole) = known(&mut session)?;
    if !is_whole {
        return Err(StartError::Unfinished);
    }
    complete(&mut session)?;
    if let Some(role) = how.grant {
        grant(&mut session, role)?;
    }
    check_rights(&mut session, &tables)?;
    head(&mut session)?;
    Ok(log_id)
}

/// Makes the tables of a ledger whose log comes from elsewhere, unless they are there, and sees
/// that everything is fit for that. Blocks.
///
/// # Errors
/// [`StartError`], also when they have another log; nothing was changed then.
pub fn begin_migration(database: &Database, log_id: LogId) -> Result<(), StartError> {
    let mut session = open(database)?;
    make(&mut session, log_id, false)?;
    let [schema, ..] = RIGHTS;
    check_rights(&mut session, &[schema])?;
    let (found, _) = known(&mut session)?;
    if found != log_id {
        let (found, expected) = (Uuid::from_bytes(found), Uuid::from_bytes(log_id));
        return Err(StartError::OtherLog { found, expected });
    }
    complete(&mut session)?;
    check_rights(&mut session, &RIGHTS)?;
    check_rights(&mut session, &[("daybook_schema", &["update"])])
}

/// Notes whether all of a log is there that comes from elsewhere. While it is not, nobody begins
/// to serve it. Durable when it returns. Blocks.
///
/// # Errors
/// [`StartError`].
pub fn set_whole(database: &Database, is_whole: bool) -> Result<(), StartError> {
    let mut session = Session::open(database, Use::Write)?;
    session.certainly("whether the log is whole", |session| {
        session.execute(SET_UP_WITHIN, "update daybook_schema set is_whole = $1", &[&is_whole])
    })?;
    Ok(())
}

/// A ledger as it is found in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The id of its log.
    pub log_id: LogId,
    /// How far that has come.
    pub head: Head,
    /// Whether all of it is there: not so after a migration into it that has not ended.
    pub is_whole: bool,
    /// Whether there is room for checkpoints: not so in tables of an earlier version.
    pub has_checkpoints: bool,
}

/// Looks what ledger a database has, if it has one, and changes nothing. Blocks.
///
/// # Errors
/// [`StartError`].
pub fn find(database: &Database) -> Result<Option<Found>, StartError> {
    let mut session = Session::open(database, Use::Read)?;
    if !is_there(&mut session, "daybook_schema")? {
        return Ok(None);
    }
    let [schema, ..] = RIGHTS;
    check_rights(&mut session, &[schema, ("partition_head", &["select"])])?;
    let (log_id, is_whole) = known(&mut session)?;
    let head = head(&mut session)?;
    let has_checkpoints = is_there(&mut session, "checkpoints")?;
    Ok(Some(Found { log_id, head, is_whole, has_checkpoints }))
}

fn head(session: &mut Session) -> Result<Head, StartError> {
    let head = super::store::head(session)?;
    head.ok_or_else(|| StartError::Refused("the log has no head".into()))
}

/// Makes the tables of a ledger unless they are there.
fn make(session: &mut Session, log_id: LogId, is_whole: bool) -> Result<(), StartError> {
    if is_there(session, "daybook_schema")? {
        return Ok(());
    }
    match made(create(session, log_id, is_whole))? {
        Made::New => info!("the ledger's tables are made"),
        Made::Before if is_there(session, "daybook_schema")? => {}
        Made::Before => {
            let text = "it has a table of another use that is named like one of a ledger's";
            return Err(StartError::Refused(text.into()));
        }
        Made::Forbidden(text) => return Err(StartError::NoLedger(text)),
    }
    Ok(())
}

/// Adds what tables lack that an earlier version has made.
fn complete(session: &mut Session) -> Result<(), StartError> {
    if is_there(session, "checkpoints")? {
        return Ok(());
    }
    match made(session.batch(SET_UP_WITHIN, CHECKPOINTS))? {
        Made::New => info!("the ledger's tables have room for checkpoints now"),
        Made::Before => {}
        Made::Forbidden(text) => return Err(StartError::Incomplete(text)),
    }
    Ok(())
}

/// What became of making tables.
enum Made {
    New,
    /// Another node was faster.
    Before,
    Forbidden(String),
}

fn made(result: Result<(), CallError>) -> Result<Made, CallError> {
    match result {
        Ok(()) => Ok(Made::New),
        Err(CallError::Refused(code, _)) if is_duplicate(&code) => Ok(Made::Before),
        Err(CallError::Refused(code, text)) if code == SqlState::INSUFFICIENT_PRIVILEGE => {
            Ok(Made::Forbidden(text))
        }
        Err(error) => Err(error),
    }
}

/// The log of tables that this version works with, and whether all of it is there.
fn known(session: &mut Session) -> Result<(LogId, bool), StartError> {
    let found =
        session.query("select version, partitions, log_id, is_whole from daybook_schema", &[])?;
    let Some(row) = found.first() else {
        return Err(StartError::Refused("daybook_schema is empty".into()));
    };
    let part = |index| row.try_get::<_, i32>(index).map_err(CallError::from);
    let (version, partitions) = (part(0)?, part(1)?);
    if version > VERSION {
        return Err(StartError::Newer { found: version });
    }
    if partitions != PARTITIONS {
        return Err(StartError::Partitions { found: partitions });
    }
    let log_id: Uuid = row.try_get(2).map_err(CallError::from)?;
    let is_whole: bool = row.try_get(3).map_err(CallError::from)?;
    Ok((*log_id.as_bytes(), is_whole))
}

/// Opens a session that may write, and says what is in the way rather than that something is.
fn open(database: &Database) -> Result<Session, StartError> {
    // One that reads asks nothing of the server.
    let mut session = Session::open(database, Use::Read)?;
    if let Some(found) = unfit(&mut session)? {
        return Err(found);
    }
    warn_of_checksums(&mut session)?;
    session.batch(SET_UP_WITHIN, "set statement_timeout = 0")?;
    Ok(session)
}

fn is_there(session: &mut Session, table: &str) -> Result<bool, CallError> {
    let rows = session.query("select to_regclass($1) is not null", &[&table])?;
    rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
}

fn create(session: &mut Session, log_id: LogId, is_whole: bool) -> Result<(), CallError> {
    let id = Uuid::from_bytes(log_id);
    let hash = blake3::Hash::from_bytes(chain::start(&log_id)).to_hex();
    // All of it is one transaction: it is sent as one text.
    let all = format!(
        "{TABLES}
        {CHECKPOINTS}
        insert into daybook_schema (version, log_id, partitions, is_whole)
            values ({VERSION}, '{id}', {PARTITIONS}, {is_whole});
        insert into partition_head (partition, epoch, position, hash, bytes)
            values ({PARTITION}, 0, 0, '\\x{hash}', 0);
        insert into assignment (partition, epoch) values ({PARTITION}, 0);"
    );
    session.batch(SET_UP_WITHIN, &all)
}

fn is_duplicate(code: &SqlState) -> bool {
    [
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::DUPLICATE_FUNCTION,
        SqlState::UNIQUE_VIOLATION,
    ]
    .contains(code)
}

fn expect_role(session: &mut Session, role: &str) -> Result<(), StartError> {
    let found = session.query("select from pg_roles where rolname = $1", &[&role])?;
    if found.is_empty() { Err(StartError::NoRole(role.into())) } else { Ok(()) }
}

fn grant(session: &mut Session, role: &str) -> Result<(), CallError> {
    let quoted = session.query("select quote_ident($1)", &[&role])?;
    let role: String = quoted.first().map_or(Ok(String::new()), |row| row.try_get(0))?;
    let grants =
        RIGHTS.map(|(table, rights)| format!("grant {} on {table} to {role}", rights.join(", ")));
    session.batch(SET_UP_WITHIN, &grants.join(";"))
}

fn check_rights(session: &mut Session, rights: &[Rights]) -> Result<(), StartError> {
    for (table, rights) in rights {
        for right in *rights {
            let rows = session.query("select has_table_privilege($1, $2)", &[table, right])?;
            let has = rows.first().map_or(Ok(false), |row| row.try_get(0));
            if !has.map_err(CallError::from)? {
                return Err(StartError::Right { right, table });
            }
        }
    }
    Ok(())
}

/// Sees that what the server acknowledges is durable, each time somebody connects in order to
/// write: it may be another server than before.
pub(super) fn check_server(session: &mut Session) -> Result<(), CallError> {
    match unfit(session)? {
        None => Ok(()),
        // Another one may be about to become the one that is written.
        Some(found @ StartError::Unsafe { name: READ_ONLY, .. }) => {
            Err(CallError::Unreachable(found.to_string()))
        }
        Some(found) => {
            Err(CallError::Refused(SqlState::INVALID_PARAMETER_VALUE, found.to_string()))
        }
    }
}

/// What is wrong with the server, if anything is.
fn unfit(session: &mut Session) -> Result<Option<StartError>, CallError> {
    let rows = session.query(
        "select current_setting('server_version_num')::integer, current_setting('fsync'),
            current_setting('full_page_writes'), current_setting('synchronous_commit'),
            current_setting('server_encoding'),
            pg_is_in_recovery() or current_setting('transaction_read_only')::boolean",
        &[],
    )?;
    let Some(row) = rows.first() else { return Ok(None) };
    let version: i32 = row.try_get(0)?;
    let [fsync, full_page_writes, synchronous_commit, encoding]: [String; 4] =
        [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?];
    let read_only: bool = row.try_get(5)?;
    let unsafe_setting =
        |name, found: String, needed| Ok(Some(StartError::Unsafe { name, found, needed }));
    if version < SERVER_VERSION_MIN {
        return unsafe_setting("server_version_num", version.to_string(), "150000 or more");
    }
    if fsync != "on" {
        return unsafe_setting("fsync", fsync, "on");
    }
    if full_page_writes != "on" {
        return unsafe_setting("full_page_writes", full_page_writes, "on");
    }
    if !["on", "remote_apply"].contains(&synchronous_commit.as_str()) {
        return unsafe_setting("synchronous_commit", synchronous_commit, "on or remote_apply");
    }
    if encoding != "UTF8" {
        return unsafe_setting("server_encoding", encoding, "UTF8");
    }
    if read_only {
        return unsafe_setting(READ_ONLY, "on".into(), "a server that can be written");
    }
    Ok(None)
}

/// Tells when the server does not check what it reads from its disk.
fn warn_of_checksums(session: &mut Session) -> Result<(), CallError> {
    let rows = session.query("select current_setting('data_checksums')::boolean", &[])?;
    if rows.first().map_or(Ok(true), |row| row.try_get(0))? {
        return Ok(());
    }
    warn!("the database server has data_checksums = off: it may not notice damage by itself");
    Ok(())
}
