//! What keeps the ledgers of the servers under test: files, or with `DAYBOOK_TEST_ENGINE=postgres`
//! a database, with a schema for each ledger. It is the one that `DAYBOOK_TEST_POSTGRES_URL` names,
//! or one of a server that is started for the tests where PostgreSQL is installed. With
//! `DAYBOOK_TEST_ENGINE=postgres-passing` those who are asked do not own the ledger, and pass on
//! what they are asked.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use daybook::ops::config::{Config, DatabaseConfig, Security};
use tokio::runtime::Builder;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use uuid::Uuid;

/// For how long a server in a process of its own owns its ledger after it was killed.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

#[allow(clippy::disallowed_methods, reason = "whoever runs a test says over which engine")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A server of databases.
pub(crate) struct Database {
    pub(crate) url: String,
    /// Where the files of a server are that was started for the tests.
    directory: PathBuf,
    /// Keeps the server as long as this lives.
    keeper: Option<Child>,
}

/// The URL of the database to test with. Without one, says so and gives `None`; in CI that is a
/// failure.
pub(crate) fn server() -> Option<&'static str> {
    static DATABASE: OnceLock<Option<Database>> = OnceLock::new();
    let found = DATABASE.get_or_init(|| {
        let named = variable("DAYBOOK_TEST_POSTGRES_URL");
        let named = named.map(|url| Database { url, directory: PathBuf::new(), keeper: None });
        named.or_else(|| Database::start(&[]))
    });
    Some(&found.as_ref()?.url)
}

impl Database {
    /// A server of its own, which ends with this value or the tests. Without PostgreSQL, says so
    /// and gives `None`; in CI that is a failure.
    pub(crate) fn start(flags: &[&str]) -> Option<Self> {
        let started = Self::try_start(flags);
        if started.is_none() {
            assert_ne!(variable("CI").as_deref(), Some("true"), "PostgreSQL is not installed");
            // Past the harness, which shows nothing of a test that passes.
            let _nobody_may_read_it = writeln!(
                std::io::stderr(),
                "left out: no DAYBOOK_TEST_POSTGRES_URL, or PostgreSQL is not installed"
            );
        }
        started
    }

    fn try_start(flags: &[&str]) -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/with");
        let told = "echo $DAYBOOK_TEST_POSTGRES_URL; echo $DAYBOOK_TEST_POSTGRES_DIRECTORY; cat";
        let mut keeper = Command::new(script)
            .args(flags)
            .args(["sh", "-c", told])
            // Open until this process ends, however it does.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(keeper.stdout.take()?).lines().map_while(Result::ok);
        let (url, directory) = (lines.next()?, PathBuf::from(lines.next()?));
        Some(Self { url, directory, keeper: Some(keeper) })
    }

    /// Crashes the server: what is in its memory is gone. It is started again, unless another one
    /// stands by for it.
    pub(crate) fn crash(&self) {
        let text = fs::read_to_string(self.directory.join("postmaster.pid"));
        // It may be about to start.
        let Ok(text) = text else { return };
        let pid = text.lines().next().unwrap();
        let sent = Command::new("kill").args(["-QUIT", pid]).status();
        assert!(sent.unwrap().success(), "the server can be crashed");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            drop(keeper.stdin.take());
            let _it_takes_its_servers_along = keeper.wait();
        }
    }
}

/// Whether all ledgers are to be in the database.
fn is_database() -> bool {
    match variable("DAYBOOK_TEST_ENGINE").as_deref() {
        None | Some("file") => false,
        Some("postgres" | "postgres-passing") => true,
        Some(other) => {
            panic!("DAYBOOK_TEST_ENGINE = {other}: file, postgres or postgres-passing")
        }
    }
}

/// Whether a server in the test is to be one that owns no ledger, and passes on what it is asked.
pub(crate) fn is_passing() -> bool {
    variable("DAYBOOK_TEST_ENGINE").as_deref() == Some("postgres-passing")
}

/// The name of the engine that keeps what is not to be gone with its process.
pub(crate) fn name() -> &'static str {
    if is_database() { "postgres" } else { "file" }
}

/// The URL of the ledger that would else be in this directory, when it is to be in the database.
pub(crate) fn of_directory(data_dir: &Path) -> Option<String> {
    is_database().then(|| ledger(&data_dir.display().to_string()))
}

/// Sets a configuration to a ledger in the database, when it is to be there, that would else be in
/// memory or in its directory.
pub(crate) fn choose(config: &mut Config) {
    let url = if config.ephemeral {
        is_database().then(|| ledger(&Uuid::now_v7().to_string()))
    } else {
        of_directory(&config.data_dir)
    };
    let Some(url) = url else { return };
    config.ephemeral = false;
    // Many tests at once may take all of the processor for some time.
    let (url, lease) = (url.parse().unwrap(), Duration::from_secs(30));
    let (security, advertise, cluster_ca) = (Security::None, None, None);
    config.database = Some(DatabaseConfig { url, security, lease, advertise, cluster_ca });
}

/// The URL of the ledger of this name. Its schema is made if it is not there.
pub(crate) fn ledger(name: &str) -> String {
    ledger_of(server().expect("there is a database"), name)
}

/// The URL of a ledger on a server.
pub(crate) fn ledger_of(server: &str, name: &str) -> String {
    let schema = format!("ledger_{}", &blake3::hash(name.as_bytes()).to_hex()[..24]);
    execute(server, &format!("create schema if not exists {schema}"));
    let sign = if server.contains('?') { '&' } else { '?' };
    format!("{server}{sign}options=-csearch_path%3D{schema}")
}

/// Carries statements out.
pub(crate) fn execute(url: &str, sql: &str) {
    if let Err(error) = try_execute(url, sql) {
        panic!("{sql}: {error}");
    }
}

/// As [`execute`].
///
/// # Errors
/// What the database says.
pub(crate) fn try_execute(url: &str, sql: &str) -> Result<(), String> {
    let sql = sql.to_owned();
    ask(url, async move |client| client.batch_execute(&sql).await)
}

/// The first column of what a statement gives, as texts.
///
/// # Errors
/// What the database says.
pub(crate) fn query(url: &str, sql: &str) -> Result<Vec<String>, String> {
    let sql = sql.to_owned();
    let rows = ask(url, async move |client| client.simple_query(&sql).await)?;
    let texts = rows.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(texts.collect())
}

fn ask<T: Send + 'static>(
    url: &str,
    question: impl AsyncFnOnce(Client) -> Result<T, tokio_postgres::Error> + Send + 'static,
) -> Result<T, String> {
    let url = url.to_owned();
    // The caller may be in a runtime of its own, where nothing may block.
    let asking = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            question(client).await
        })
    });
    asking.join().unwrap().map_err(|error| {
        error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
    })
}
