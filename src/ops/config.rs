//! The configuration of the server: parse first, resolve second.
//!
//! It owns every setting's name, default and range. A setting comes from a flag, else from its
//! environment variable, else from the configuration file, else from its default. The command
//! line parser reads the first two into [`ServeArgs`]; [`resolve`] reads the file, whose keys are
//! the same names, and gives a [`Config`]. It must not know who uses a setting, and nothing here
//! reads the process environment.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::BoolishValueParser;

use super::telemetry::{LogFilter, LogFormat};

#[cfg(test)]
mod tests;
mod value;

/// How large a configuration file may be: many times all keys with their comments, and little
/// enough to read whatever the path turns out to name.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The server's settings, complete and within their ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where calls are accepted. Loopback unless told otherwise, because calls are not
    /// authenticated.
    pub listen: SocketAddr,
    /// The directory of the log and of what is derived from it. Unused when `ephemeral`.
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
    /// How a line of the server's own log looks.
    pub log_format: LogFormat,
    /// Which lines of it are written.
    pub log_level: LogFilter,
}

/// As a configuration file that gives the same.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, data_dir, ephemeral, request_id_window, checkpoint_events, .. } = self;
        let Self { drain_delay, drain_grace, log_format, log_level, .. } = self;
        writeln!(f, "listen = \"{listen}\"")?;
        writeln!(f, "data_dir = {:?}", data_dir.display().to_string())?;
        writeln!(f, "ephemeral = {ephemeral}")?;
        writeln!(f, "request_id_window = {request_id_window}")?;
        writeln!(f, "checkpoint_events = {checkpoint_events}")?;
        writeln!(f, "drain_delay = \"{}ms\"", drain_delay.as_millis())?;
        writeln!(f, "drain_grace = \"{}ms\"", drain_grace.as_millis())?;
        writeln!(f, "log_format = \"{log_format}\"")?;
        writeln!(f, "log_level = \"{log_level}\"")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051),
            data_dir: PathBuf::from("./daybook-data"),
            ephemeral: false,
            request_id_window: 1_048_576,
            checkpoint_events: 8_388_608,
            drain_delay: Duration::ZERO,
            drain_grace: Duration::from_secs(10),
            log_format: LogFormat::Auto,
            log_level: LogFilter::default(),
        }
    }
}

/// The settings that one source gives: the command line with the environment, or the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeArgs {
    /// A TOML file with settings. Its keys are the long flags below, with _ for -. A flag or an
    /// environment variable overrides the file [default: no file]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_CONFIG", hide_env_values = true)]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where to accept calls: an IP address and a port, 0 for any free port
    /// [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS", env = "DAYBOOK_LISTEN", hide_env_values = true)]
    #[arg(value_parser = value::parse_listen)]
    #[serde(deserialize_with = "value::listen_in_file")]
    pub listen: Option<SocketAddr>,

    /// The directory that keeps the ledger; created when missing [default: ./daybook-data]
    #[arg(long, value_name = "DIR", env = "DAYBOOK_DATA_DIR", hide_env_values = true)]
    #[arg(value_parser = value::parse_data_dir)]
    #[serde(deserialize_with = "value::data_dir_in_file")]
    pub data_dir: Option<PathBuf>,

    /// Keep everything in memory only: nothing survives the process [default: false]
    #[arg(long, value_name = "BOOL", env = "DAYBOOK_EPHEMERAL", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub ephemeral: Option<bool>,

    /// For how many of the newest events request ids are remembered: 1024 to 16777216
    /// [default: 1048576]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_REQUEST_ID_WINDOW", hide_env_values = true)]
    #[arg(value_parser = value::parse_request_id_window)]
    #[serde(deserialize_with = "value::request_id_window_in_file")]
    pub request_id_window: Option<u64>,

    /// After how many events a checkpoint is made, which the next start begins from: 1024 to
    /// 1099511627776 [default: 8388608]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_CHECKPOINT_EVENTS", hide_env_values = true)]
    #[arg(value_parser = value::parse_checkpoint_events)]
    #[serde(deserialize_with = "value::checkpoint_events_in_file")]
    pub checkpoint_events: Option<u64>,

    /// How long a stop goes on taking calls after health has said that it should get none, such
    /// as 500ms, 10s or 2m: at most 1h [default: 0s]
    #[arg(long, value_name = "DURATION", env = "DAYBOOK_DRAIN_DELAY", hide_env_values = true)]
    #[arg(value_parser = value::parse_drain_time)]
    #[serde(deserialize_with = "value::drain_time_in_file")]
    pub drain_delay: Option<Duration>,

    /// How long a stop waits then for calls to end, such as 500ms, 10s or 2m: at most 1h
    /// [default: 10s]
    #[arg(long, value_name = "DURATION", env = "DAYBOOK_DRAIN_GRACE", hide_env_values = true)]
    #[arg(value_parser = value::parse_drain_time)]
    #[serde(deserialize_with = "value::drain_time_in_file")]
    pub drain_grace: Option<Duration>,

    /// How the server's log looks; auto means text on a terminal and JSON elsewhere
    /// [default: auto]
    #[arg(long, value_name = "FORMAT", env = "DAYBOOK_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<LogFormat>,

    /// Which lines the server logs: error, warn, info, debug, trace, off, or directives such as
    /// info,daybook=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "DAYBOOK_LOG_LEVEL", hide_env_values = true)]
    #[serde(deserialize_with = "value::log_level_in_file")]
    pub log_level: Option<LogFilter>,
}

/// Why there is no configuration. A mistake of whoever started the process: bad usage.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or may not be read, or is not text.
    #[error("the configuration file {} could not be read: {source}", path.display())]
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
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
}

/// Completes what the command line and the environment gave with the configuration file, if one
/// is named, and with the defaults.
///
/// # Errors
/// [`ConfigError`] when the file cannot be read or is not right in every key and value.
pub fn resolve(args: ServeArgs) -> Result<Config, ConfigError> {
    let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let default = Config::default();
    Ok(Config {
        listen: args.listen.or(file.listen).unwrap_or(default.listen),
        data_dir: args.data_dir.or(file.data_dir).unwrap_or(default.data_dir),
        ephemeral: args.ephemeral.or(file.ephemeral).unwrap_or(default.ephemeral),
        request_id_window: args
            .request_id_window
            .or(file.request_id_window)
            .unwrap_or(default.request_id_window),
        checkpoint_events: args
            .checkpoint_events
            .or(file.checkpoint_events)
            .unwrap_or(default.checkpoint_events),
        drain_delay: args.drain_delay.or(file.drain_delay).unwrap_or(default.drain_delay),
        drain_grace: args.drain_grace.or(file.drain_grace).unwrap_or(default.drain_grace),
        log_format: args.log_format.or(file.log_format).unwrap_or(default.log_format),
        log_level: args.log_level.or(file.log_level).unwrap_or(default.log_level),
    })
}

fn read_file(path: &Path) -> Result<ServeArgs, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?.take(FILE_BYTES_MAX.saturating_add(1));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    if file.limit() == 0 {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let text = io::read_to_string(&*bytes).map_err(unreadable)?;
    toml::from_str(&text)
        .map_err(|source| ConfigError::Invalid { path: path.to_owned(), source: Box::new(source) })
}
