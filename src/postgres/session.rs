//! A connection that is used by one thread at a time, and waits there.

use std::{
    collections::HashMap,
    error::Error as _,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client, Connection, Error, NoTls, Row, Statement, error::SqlState, types::ToSql,
};

use super::{CALL_WITHIN, CONNECT_WITHIN, Database};
use crate::log::shared::StoreError;

/// How often a statement is tried that the database gave up for others' sake.
const TRIES: u32 = 5;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Whatever is acknowledged has to be durable: the server must be one that can promise it. No
    /// statement is ever cancelled here: an append that is cancelled while it waits for a standby
    /// is reported as done.
    Write,
    Read,
}

impl Use {
    fn settings(self) -> &'static str {
        match self {
            // Waiting for a lock ends before anything was done. What is checked below holds for as
            // long as the session: the server may be told otherwise meanwhile.
            Self::Write => {
                "set statement_timeout = 0; set lock_timeout = '4s';
                select set_config(name, setting, false) from pg_settings
                where name = 'synchronous_commit'"
            }
            Self::Read => "set statement_timeout = '5s'; set lock_timeout = '4s'",
        }
    }
}

/// Why a call came to nothing, or nothing certain.
#[derive(Debug)]
pub(super) enum CallError {
    /// The connection is gone, or what answers cannot write now. What was done is unknown.
    Unreachable(String),
    /// The medium is full. Nothing was done.
    NoRoom,
    /// The database gave it up for others' sake. Nothing was done.
    GivenUp(String),
    /// The database refuses it. Nothing was done.
    Refused(SqlState, String),
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            return Self::Unreachable(format!("{error}{cause}"));
        };
        let (code, text) = (said.code(), said.message().to_owned());
        if *code == SqlState::DISK_FULL {
            return Self::NoRoom;
        }
        // The classes of the codes: 08 connections, 25P0 sessions and transactions that took too
        // long, 53 too little of something, 54 too much of it, 57P an operator's doing, 58 the
        // system. All of it may pass.
        let passing = ["08", "25P0", "53", "54", "57P", "58"];
        if passing.iter().any(|class| code.code().starts_with(class)) {
            return Self::Unreachable(text);
        }
        match *code {
            SqlState::READ_ONLY_SQL_TRANSACTION | SqlState::QUERY_CANCELED => {
                Self::Unreachable(text)
            }
            SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::LOCK_NOT_AVAILABLE => Self::GivenUp(text),
            _ => Self::Refused(code.clone(), text),
        }
    }
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(text) | CallError::GivenUp(text) => Self::Unreachable(text),
            CallError::NoRoom => Self::NoRoom,
            CallError::Refused(_, text) => Self::Refused(text),
        }
    }
}

/// One connection, and the runtime that it lives in, which runs while somebody waits for it.
pub(super) struct Session {
    /// Always there, until the session is dropped.
    runtime: Option<Runtime>,
    client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Whether the server has warned of anything since that was asked last.
    warned: Arc<AtomicBool>,
}

impl Session {
    pub(super) fn open(database: &Database, purpose: Use) -> Result<Self, CallError> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|error| CallError::Unreachable(error.to_string()))?;
        let warned = Arc::new(AtomicBool::new(false));
        let connecting = async {
            let warned = Arc::clone(&warned);
            let client = if let Some(tls) = &database.tls {
                let (client, connection) = database.config.connect(tls.clone()).await?;
                tokio::spawn(drive(connection, warned));
                client
            } else {
                let (client, connection) = database.config.connect(NoTls).await?;
                tokio::spawn(drive(connection, warned));
                client
            };
            client.batch_execute(purpose.settings()).await?;
            Ok::<_, Error>(client)
        };
        // Each host of several may take as long.
        let hosts = u32::try_from(database.config.get_hosts().len()).unwrap_or(1).max(1);
        let within = CONNECT_WITHIN.saturating_mul(hosts.saturating_add(1));
        let connected = runtime.block_on(async { timeout(within, connecting).await });
        let client =
            connected.map_err(|_| CallError::Unreachable("no connection in time".into()))??;
        let mut session =
            Self { runtime: Some(runtime), client, statements: HashMap::new(), warned };
        if purpose == Use::Write {
            super::schema::check_server(&mut session)?;
        }
        Ok(session)
    }

    /// Runs a call to its end, or until it has taken too long; then the session is of no use any
    /// more.
    pub(super) fn run<T>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, CallError> {
        let Some(runtime) = &self.runtime else { unreachable!("it is taken when it is dropped") };
        match runtime.block_on(async { timeout(within, call).await }) {
            Ok(result) => Ok(result?),
            Err(_) => Err(CallError::Unreachable("no answer in time".into())),
        }
    }

    fn statement(&mut self, sql: &'static str) -> Result<Statement, CallError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.run(CALL_WITHIN, self.client.prepare(sql))?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) fn query(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, CallError> {
        let statement = self.statement(sql)?;
        self.run(CALL_WITHIN, self.client.query(&statement, values))
    }

    pub(super) fn execute(
        &mut self,
        within: Duration,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, CallError> {
        let statement = self.statement(sql)?;
        self.run(within, self.client.execute(&statement, values))
    }

    /// Several statements, as one transaction unless they say otherwise.
    pub(super) fn batch(&mut self, within: Duration, sql: &str) -> Result<(), CallError> {
        self.run(within, self.client.batch_execute(sql))
    }

    /// Makes a change that somebody rests on. What the server warns of when it commits may not be
    /// durable, whatever it says.
    pub(super) fn certainly<T>(
        &mut self,
        what: &str,
        change: impl FnOnce(&mut Self) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        self.take_warned();
        let changed = change(self)?;
        if self.take_warned() {
            return Err(CallError::Unreachable(format!("{what} is not certain to be durable")));
        }
        Ok(changed)
    }

    /// Whether the server has warned of anything since the last call.
    pub(super) fn take_warned(&self) -> bool {
        self.warned.swap(false, Ordering::AcqRel)
    }
}

/// A runtime must not wait for its threads where others are running.
impl Drop for Session {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Carries a connection, and notes what the server says beside its answers, before the answer that
/// it goes with.
async fn drive<S, T>(mut connection: Connection<S, T>, warned: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message {
            warned.store(true, Ordering::Release);
            tracing::warn!(code = notice.code().code(), "the database warns: {}", notice.message());
        }
    }
}

/// A server that lets nobody in, or is not fit for a ledger, may be another one next time: a ledger
/// that is served does not end by it, and nothing was done.
fn not_now(error: CallError) -> CallError {
    match error {
        CallError::Refused(_, text) => CallError::Unreachable(text),
        CallError::Unreachable(_) | CallError::NoRoom | CallError::GivenUp(_) => error,
    }
}

/// A session that is opened when it is needed, and again after it was lost.
pub(super) struct Link {
    database: Database,
    purpose: Use,
    session: Option<Session>,
}

impl Link {
    pub(super) fn new(database: Database, purpose: Use) -> Self {
        Self { database, purpose, session: None }
    }

    /// Whether there is a session.
    pub(super) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Makes a call that may be made any number of times. A session that was lost while nobody
    /// used it is replaced.
    pub(super) fn call<T>(
        &mut self,
        run: impl Fn(&mut Session) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let was_open = self.is_open();
        match self.call_once(&run) {
            Err(CallError::Unreachable(_)) if was_open => self.call_once(&run),
            result => result,
        }
    }

    /// Makes a call once, unless the database says that nothing was done.
    pub(super) fn call_once<T>(
        &mut self,
        run: impl Fn(&mut Session) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut tries = 0_u32;
        loop {
            let session = match &mut self.session {
                Some(session) => session,
                closed => {
                    closed.insert(Session::open(&self.database, self.purpose).map_err(not_now)?)
                }
            };
            tries = tries.saturating_add(1);
            match run(session) {
                Err(CallError::GivenUp(_)) if tries < TRIES => {}
                Err(error @ CallError::Unreachable(_)) => {
                    self.session = None;
                    return Err(error);
                }
                result => return result,
            }
        }
    }
}
