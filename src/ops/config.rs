//! The configuration of the server: parse first, resolve second.
//!
//! It owns every setting's name, default and range. A setting comes from a flag, else from its
//! environment variable, else from the configuration file, else from its default.
//! [`read_command_line`] reads the first two into [`ServeArgs`]; [`resolve`] reads the file, whose
//! keys are the same names, and gives a [`Config`]. It must not know who uses a setting, and
//! nothing here reads the process environment but [`environment`], and the parser for
//! `command_line`.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::telemetry::{LogFilter, LogFormat};

mod access;
mod addresses;
mod args;
mod command_line;
mod database;
pub mod environment;
mod limits;
#[cfg(test)]
mod tests;
mod value;

pub use access::JwtConfig;
pub use args::ServeArgs;
pub use command_line::{read_command_line, unknown_variables};
pub use database::{DatabaseConfig, DatabaseUrl, Engine, Security};
pub use limits::Limits;
use limits::fitted;

/// How large a configuration file may be: many times all keys with their comments, and little
/// enough to read whatever the path turns out to name.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The server's settings, complete and within their ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where calls are accepted.
    pub listen: SocketAddr,
    /// Whether others than this machine's own programs may call without TLS, or unknown.
    pub insecure: bool,
    /// What the server proves itself with; without it nothing is encrypted.
    pub tls: Option<TlsFiles>,
    /// Where the log is that several processes share; without it, the log is this one's alone.
    pub database: Option<DatabaseConfig>,
    /// The directory of the log and of what is derived from it. Unused when `ephemeral`, and with
    /// a database.
    pub data_dir: PathBuf,
    /// Whether everything is kept in memory only, and gone when the process ends.
    pub ephemeral: bool,
    /// For how many of the newest positions the server knows which request id caused them.
    pub request_id_window: u64,
    /// After how many events a checkpoint is made, unless there are so many accounts that it would
    /// cost more than reading the events again.
    pub checkpoint_events: u64,
    /// How long a stop goes on taking calls after health has said that it should get none.
    pub drain_delay: Duration,
    /// How long a stop waits then for calls to end before it ends them.
    pub drain_grace: Duration,
    /// How much clients may take of the server.
    pub limits: Limits,
    /// How a line of the server's own log looks.
    pub log_format: LogFormat,
    /// Which lines of it are written.
    pub log_level: LogFilter,
    /// Where probes and scrapers are answered, who are not asked who they are; nowhere unless told.
    pub operations_listen: Option<SocketAddr>,
    /// The file that says who may call; none lets everybody call everything.
    pub credentials: Option<PathBuf>,
    /// By what JWTs are believed; none are without it.
    pub jwt: Option<JwtConfig>,
    /// Whether the server describes itself to generic clients.
    pub reflection: bool,
    /// How many calls of one principal may be under way at once.
    pub calls_per_principal: u32,
    /// How many calls a principal may begin in a second; 0 for any number.
    pub rate_per_principal: u32,
    /// How many tails of one principal may be open at once.
    pub tails_per_principal: u32,
}

/// Where certificates and keys are kept, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of clients. With it, who has no certificate of theirs is not let in.
    pub client_ca: Option<PathBuf>,
}

/// As a configuration file that gives the same.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, data_dir, ephemeral, request_id_window, checkpoint_events, .. } = self;
        let Self { insecure, tls, limits, drain_delay, drain_grace, log_format, log_level, .. } =
            self;
        writeln!(f, "listen = \"{listen}\"")?;
        writeln!(f, "insecure = {insecure}")?;
        if let Some(TlsFiles { certificate, key, client_ca }) = tls {
            writeln!(f, "tls_certificate = {}", quoted_path(certificate))?;
            writeln!(f, "tls_key = {}", quoted_path(key))?;
            if let Some(client_ca) = client_ca {
                writeln!(f, "tls_client_ca = {}", quoted_path(client_ca))?;
            }
        }
        self.tell_engine(f)?;
        writeln!(f, "data_dir = {}", quoted_path(data_dir))?;
        writeln!(f, "ephemeral = {ephemeral}")?;
        writeln!(f, "request_id_window = {request_id_window}")?;
        writeln!(f, "checkpoint_events = {checkpoint_events}")?;
        writeln!(f, "drain_delay = \"{}ms\"", drain_delay.as_millis())?;
        writeln!(f, "drain_grace = \"{}ms\"", drain_grace.as_millis())?;
        write!(f, "{limits}")?;
        writeln!(f, "log_format = \"{log_format}\"")?;
        writeln!(f, "log_level = {}", quoted(&log_level.to_string()))?;
        if let Some(operations_listen) = self.operations_listen {
            writeln!(f, "operations_listen = \"{operations_listen}\"")?;
        }
        self.tell_access(f)
    }
}

/// A text as TOML has it: as JSON, which leaves one control character as it is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// The name of a file as TOML has it.
fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051),
            insecure: false,
            tls: None,
            database: None,
            data_dir: PathBuf::from("./daybook-data"),
            ephemeral: false,
            request_id_window: 1_048_576,
            checkpoint_events: 8_388_608,
            drain_delay: Duration::ZERO,
            drain_grace: Duration::from_secs(10),
            limits: Limits::default(),
            log_format: LogFormat::Auto,
            log_level: LogFilter::default(),
            operations_listen: None,
            credentials: None,
            jwt: None,
            reflection: true,
            calls_per_principal: 8_192,
            rate_per_principal: 0,
            tails_per_principal: 32,
        }
    }
}

/// Why there is no configuration. But for a file that cannot be read, bad usage by whoever started
/// the process.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or may not be read.
    #[error("the configuration file {} could not be read: {source}", path.display())]
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no text.
    #[error("the configuration file {} is not UTF-8", path.display())]
    NotText {
        /// The file, as it was named.
        path: PathBuf,
    },
    /// The file is larger than any configuration.
    #[error("the configuration file {} has more than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file, as it was named.
        path: PathBuf,
    },
    /// The file is not TOML, or has a key or a value that is not right.
    #[error("the configuration file {} is not right: {source}", path.display())]
    Invalid {
        /// The file, as it was named.
        path: PathBuf,
        /// The place, the line and what is right there.
        source: Box<toml::de::Error>,
    },
    /// One setting is of no use without another.
    #[error("{0} needs {1}")]
    Needs(&'static str, &'static str),
    /// One setting contradicts another.
    #[error("{0} cannot be together with {1}")]
    Excludes(&'static str, &'static str),
    /// The URL of the database cannot be used.
    #[error("database_url is not right: {what}")]
    DatabaseUrl {
        /// What is wrong with it, never what is in it.
        what: String,
    },
    /// Anybody who reaches the address could read or command.
    #[error(
        "listen = \"{listen}\" is not a loopback address and needs {lacks}, or insecure = true \
        (--insecure) to let anybody in who can reach it"
    )]
    Insecure {
        /// The address.
        listen: SocketAddr,
        /// The setting that would do.
        lacks: &'static str,
    },
    /// Calls and probes cannot be taken at one address.
    #[error(
        "listen = \"{listen}\" and operations_listen = \"{operations_listen}\" need different \
        ports, or different addresses"
    )]
    OneAddress {
        /// Where calls should come in.
        listen: SocketAddr,
        /// Where probes should.
        operations_listen: SocketAddr,
    },
}

/// Completes what the command line and the environment gave with the configuration file, if one
/// is named, and with the defaults.
///
/// # Errors
/// [`ConfigError`] when the file cannot be read or is not right in every key and value.
pub fn resolve(args: ServeArgs) -> Result<Config, ConfigError> {
    let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let (given, default) = (args.or(file), Config::default());
    let config = Config {
        tls: tls(&given)?,
        jwt: access::jwt(&given)?,
        database: database::database(&given)?,
        limits: Limits::of(&given),
        listen: given.listen.unwrap_or(default.listen),
        insecure: given.insecure.unwrap_or(default.insecure),
        data_dir: given.data_dir.unwrap_or(default.data_dir),
        ephemeral: given.ephemeral.unwrap_or(default.ephemeral),
        request_id_window: given.request_id_window.unwrap_or(default.request_id_window),
        checkpoint_events: given.checkpoint_events.unwrap_or(default.checkpoint_events),
        drain_delay: given.drain_delay.unwrap_or(default.drain_delay),
        drain_grace: given.drain_grace.unwrap_or(default.drain_grace),
        log_format: given.log_format.unwrap_or(default.log_format),
        log_level: given.log_level.unwrap_or(default.log_level),
        operations_listen: given.operations_listen,
        reflection: given.reflection.unwrap_or(default.reflection),
        calls_per_principal: fitted(given.calls_per_principal, default.calls_per_principal),
        rate_per_principal: fitted(given.rate_per_principal, default.rate_per_principal),
        tails_per_principal: fitted(given.tails_per_principal, default.tails_per_principal),
        credentials: given.credentials,
    };
    config.expect_secure()?;
    config.expect_apart()?;
    Ok(config)
}

/// The files of TLS, of which some need others.
fn tls(given: &ServeArgs) -> Result<Option<TlsFiles>, ConfigError> {
    let ServeArgs { tls_certificate, tls_key, tls_client_ca, .. } = given.clone();
    match (tls_certificate, tls_key, tls_client_ca) {
        (Some(certificate), Some(key), client_ca) => {
            Ok(Some(TlsFiles { certificate, key, client_ca }))
        }
        (None, None, None) => Ok(None),
        (Some(_), None, _) => Err(ConfigError::Needs("tls_certificate", "tls_key")),
        (None, Some(_), _) => Err(ConfigError::Needs("tls_key", "tls_certificate")),
        (None, None, Some(_)) => Err(ConfigError::Needs("tls_client_ca", "tls_certificate")),
    }
}

impl Config {
    /// The directory that keeps the ledger, if one does.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        (!self.ephemeral && self.database.is_none()).then_some(&self.data_dir)
    }

    /// Others than this machine's own programs are let in only where what they say is encrypted and
    /// they prove who they are, unless that was asked for.
    fn expect_secure(&self) -> Result<(), ConfigError> {
        let Self { listen, tls, credentials, .. } = self;
        let lacks = match tls {
            None => "tls_certificate",
            Some(TlsFiles { client_ca: None, .. }) if credentials.is_none() => {
                "credentials or tls_client_ca"
            }
            Some(_) => return Ok(()),
        };
        if self.insecure || listen.ip().is_loopback() {
            return Ok(());
        }
        Err(ConfigError::Insecure { listen: *listen, lacks })
    }
}

fn read_file(path: &Path) -> Result<ServeArgs, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?.take(FILE_BYTES_MAX.saturating_add(1));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    if file.limit() == 0 {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| ConfigError::NotText { path: path.to_owned() })?;
    toml::from_str(&text)
        .map_err(|source| ConfigError::Invalid { path: path.to_owned(), source: Box::new(source) })
}
