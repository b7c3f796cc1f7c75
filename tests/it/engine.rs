//! What keeps the ledgers of the servers under test: files, or with `DAYBOOK_TEST_ENGINE=postgres`
//! the database that `DAYBOOK_TEST_POSTGRES_URL` names, with a schema for each ledger.

use std::{path::Path, sync::OnceLock, thread, time::Duration};

use daybook::ops::config::{Config, DatabaseConfig, Security};
use tokio::runtime::Builder;
use tokio_postgres::NoTls;
use uuid::Uuid;

/// For how long a server in a process of its own owns its ledger after it was killed.
pub(crate) const LEASE: Duration = Duration::from_millis(500);

#[allow(clippy::disallowed_methods, reason = "whoever runs a test says over which engine")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The database to test with, if there is one.
pub(crate) fn server() -> Option<&'static str> {
    static SERVER: OnceLock<Option<String>> = OnceLock::new();
    SERVER.get_or_init(|| variable("DAYBOOK_TEST_POSTGRES_URL")).as_deref()
}

/// Whether all ledgers are to be in the database.
fn is_database() -> bool {
    match variable("DAYBOOK_TEST_ENGINE").as_deref() {
        None | Some("file") => false,
        Some("postgres") => true,
        Some(other) => panic!("DAYBOOK_TEST_ENGINE = {other}: file or postgres"),
    }
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
    let server = server().expect("DAYBOOK_TEST_POSTGRES_URL names a database");
    let schema = format!("ledger_{}", &blake3::hash(name.as_bytes()).to_hex()[..24]);
    execute(server, &format!("create schema if not exists {schema}"));
    let sign = if server.contains('?') { '&' } else { '?' };
    format!("{server}{sign}options=-csearch_path%3D{schema}")
}

/// Carries statements out.
pub(crate) fn execute(url: &str, sql: &str) {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let run = async move {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&sql).await.unwrap();
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // The caller may be in a runtime of its own, where nothing may block.
    thread::spawn(move || runtime.block_on(run)).join().unwrap();
}
