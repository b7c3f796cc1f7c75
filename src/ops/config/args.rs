//! The settings as their sources give them: the command line with the environment, or the file.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::builder::BoolishValueParser;

use super::{
    super::telemetry::{LogFilter, LogFormat},
    DatabaseUrl, Engine, value,
};

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

    /// Let others than this machine's own programs call without TLS, or without saying who they
    /// are [default: false]
    #[arg(long, value_name = "BOOL", env = "DAYBOOK_INSECURE", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub insecure: Option<bool>,

    /// The server's certificate and those that it was signed with, as PEM. Read again when it
    /// changes, and at SIGHUP, as are the next two [default: no TLS]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_TLS_CERTIFICATE", hide_env_values = true)]
    #[arg(value_parser = value::parse_file)]
    #[serde(deserialize_with = "value::file_in_file")]
    pub tls_certificate: Option<PathBuf>,

    /// The private key of that certificate, as PEM [default: no TLS]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_TLS_KEY", hide_env_values = true)]
    #[arg(value_parser = value::parse_file)]
    #[serde(deserialize_with = "value::file_in_file")]
    pub tls_key: Option<PathBuf>,

    /// The authorities whose certificates clients must have, as PEM [default: clients need none]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_TLS_CLIENT_CA", hide_env_values = true)]
    #[arg(value_parser = value::parse_file)]
    #[serde(deserialize_with = "value::file_in_file")]
    pub tls_client_ca: Option<PathBuf>,

    /// What keeps the ledger: files of this machine, or tables of a PostgreSQL database that
    /// several processes share [default: file]
    #[arg(long, value_name = "ENGINE", env = "DAYBOOK_ENGINE", hide_env_values = true)]
    pub engine: Option<Engine>,

    /// The database of the engine postgres, such as `postgres://user@host/database`, with several
    /// hosts and the parameters of its clients; sslmode is verify-full, which sslrootcert gives
    /// the authorities for, or disable, as by default on this machine. It may hold a password:
    /// rather give it in the environment than on the command line [default: none]
    #[arg(long, value_name = "URL", env = "DAYBOOK_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,

    /// For how long a process of the engine postgres owns the ledger unless it renews that, such
    /// as 2s: 500ms to 1m. Another one takes over after that [default: 2s]
    #[arg(long, value_name = "DURATION", env = "DAYBOOK_LEASE", hide_env_values = true)]
    #[arg(value_parser = value::parse_lease)]
    #[serde(deserialize_with = "value::lease_in_file")]
    pub lease: Option<Duration>,

    /// How other servers of the same ledger reach this one, such as `https://10.0.0.7:50051`: they
    /// pass on to it what they are asked for while it owns the ledger [default: http or, with
    /// TLS, https and the address that it listens on]
    #[arg(long, value_name = "URL", env = "DAYBOOK_ADVERTISE", hide_env_values = true)]
    #[arg(value_parser = value::parse_advertise)]
    #[serde(deserialize_with = "value::advertise_in_file")]
    pub advertise: Option<String>,

    /// The authorities that the certificates of those others are believed by, as PEM [default:
    /// those of the system]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_CLUSTER_CA", hide_env_values = true)]
    #[arg(value_parser = value::parse_file)]
    #[serde(deserialize_with = "value::file_in_file")]
    pub cluster_ca: Option<PathBuf>,

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
    #[arg(value_parser = value::parse_number::<1_024, 16_777_216>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1_024, 16_777_216>")]
    pub request_id_window: Option<u64>,

    /// After how many events a checkpoint is made, which the next start begins from: 1024 to
    /// 1099511627776 [default: 8388608]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_CHECKPOINT_EVENTS", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1_024, 1_099_511_627_776>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1_024, 1_099_511_627_776>")]
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

    /// How many connections there may be at once; who comes then waits: 1 to 65536 [default: 1024]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_CONNECTIONS", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub max_connections: Option<u64>,

    /// How many of them may come from one address; one more is closed: 1 to 65536 [default: 256]
    #[arg(
        long,
        value_name = "COUNT",
        env = "DAYBOOK_MAX_CONNECTIONS_PER_ADDRESS",
        hide_env_values = true
    )]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub max_connections_per_address: Option<u64>,

    /// How many calls one connection may have open at once; others wait at the client: 1 to 65536
    /// [default: 256]
    #[arg(
        long,
        value_name = "COUNT",
        env = "DAYBOOK_MAX_STREAMS_PER_CONNECTION",
        hide_env_values = true
    )]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub max_streams_per_connection: Option<u64>,

    /// How long a connection is used before its client is asked to open another, such as 30m or
    /// 12h; its open calls go on; 0s for ever: at most 720h [default: 0s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "DAYBOOK_MAX_CONNECTION_AGE",
        hide_env_values = true
    )]
    #[arg(value_parser = value::parse_connection_age)]
    #[serde(deserialize_with = "value::connection_age_in_file")]
    pub max_connection_age: Option<Duration>,

    /// How many calls of the command service, and how many of the query service, may be under way
    /// at once, streams not counted; more are refused: 1 to 1048576 [default: 16384]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_CALLS", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 1_048_576>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 1_048_576>")]
    pub max_calls: Option<u64>,

    /// How long a call may take that is no stream, whatever its deadline, and then again its peer
    /// to take the answer; how long a message of a stream may take to come, and an answer of a
    /// stream of commands to be taken, such as 500ms or 10s: 100ms to 1h [default: 10s]
    #[arg(long, value_name = "DURATION", env = "DAYBOOK_MAX_CALL_TIME", hide_env_values = true)]
    #[arg(value_parser = value::parse_call_time)]
    #[serde(deserialize_with = "value::call_time_in_file")]
    pub max_call_time: Option<Duration>,

    /// How large a message of a client may be, in bytes: 16384 to 4194304 [default: 4194304]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_MESSAGE_BYTES", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<16_384, 4_194_304>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 16_384, 4_194_304>")]
    pub max_message_bytes: Option<u64>,

    /// How large the metadata of a call may be, in bytes: 4096 to 1048576 [default: 16384]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_HEADER_BYTES", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<4_096, 1_048_576>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 4_096, 1_048_576>")]
    pub max_header_bytes: Option<u64>,

    /// How many tails there may be at once; more are refused: 1 to 65536 [default:
    /// 1024]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_TAILS", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub max_tails: Option<u64>,

    /// How many streams of commands there may be at once; more are refused: 1 to 65536
    /// [default: 64]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_COMMAND_STREAMS", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub max_command_streams: Option<u64>,

    /// How many streams of other kinds there may be at once: watches of health, and reflection;
    /// more are refused: 1 to 65536 [default: 1024]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_STREAMS", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub max_streams: Option<u64>,

    /// How many commands a batch may have: 1 to 8190 [default: 8190]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_MAX_BATCH_COMMANDS", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 8_190>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 8_190>")]
    pub max_batch_commands: Option<u64>,

    /// How the server's log looks; auto means text on a terminal and JSON elsewhere
    /// [default: auto]
    #[arg(long, value_name = "FORMAT", env = "DAYBOOK_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<LogFormat>,

    /// Which lines the server logs: error, warn, info, debug, trace, off, or directives such as
    /// info,daybook=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "DAYBOOK_LOG_LEVEL", hide_env_values = true)]
    #[serde(deserialize_with = "value::log_level_in_file")]
    pub log_level: Option<LogFilter>,

    /// Where to answer probes and scrapers, in plaintext and whoever they are: health, and metrics
    /// at /metrics. Not at the address of --listen; for a network that only they can reach
    /// [default: nowhere]
    #[arg(long, value_name = "ADDRESS", env = "DAYBOOK_OPERATIONS_LISTEN", hide_env_values = true)]
    #[arg(value_parser = value::parse_listen)]
    #[serde(deserialize_with = "value::listen_in_file")]
    pub operations_listen: Option<SocketAddr>,

    /// A TOML file that says who may call and what, of mode 0600, or 0640 and root's; read again
    /// when it changes. With it nobody else may call anything but health [default: everybody may
    /// call everything]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_CREDENTIALS", hide_env_values = true)]
    #[arg(value_parser = value::parse_file)]
    #[serde(deserialize_with = "value::file_in_file")]
    pub credentials: Option<PathBuf>,

    /// A JWK set, the keys of an issuer of JWTs that are bearer tokens; read again when it changes.
    /// Given together with --jwt-issuer, --jwt-audience and --credentials, which says whose each
    /// `sub` is [default: no JWTs]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_JWT_KEYS", hide_env_values = true)]
    #[arg(value_parser = value::parse_file)]
    #[serde(deserialize_with = "value::file_in_file")]
    pub jwt_keys: Option<PathBuf>,

    /// Who must have issued a JWT: its `iss` [default: no JWTs]
    #[arg(long, value_name = "NAME", env = "DAYBOOK_JWT_ISSUER", hide_env_values = true)]
    #[arg(value_parser = value::parse_jwt_name)]
    #[serde(deserialize_with = "value::jwt_name_in_file")]
    pub jwt_issuer: Option<String>,

    /// Whom a JWT must be for: one of its `aud` [default: no JWTs]
    #[arg(long, value_name = "NAME", env = "DAYBOOK_JWT_AUDIENCE", hide_env_values = true)]
    #[arg(value_parser = value::parse_jwt_name)]
    #[serde(deserialize_with = "value::jwt_name_in_file")]
    pub jwt_audience: Option<String>,

    /// Describe the server to generic clients, such as grpcurl; with --credentials, to readers
    /// [default: true]
    #[arg(long, value_name = "BOOL", env = "DAYBOOK_REFLECTION", hide_env_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub reflection: Option<bool>,

    /// How many calls of one principal may be under way at once: 1 to 65536. Only with
    /// --credentials [default: 8192]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_CALLS_PER_PRINCIPAL", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub calls_per_principal: Option<u64>,

    /// How many calls a principal may begin in a second, and at once after a quiet one: 0 to
    /// 1000000, 0 for any number. A batch is one call. Only with --credentials [default: 0]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_RATE_PER_PRINCIPAL", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<0, 1_000_000>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 0, 1_000_000>")]
    pub rate_per_principal: Option<u64>,

    /// How many tails of one principal may be open at once: 1 to 65536. Only with --credentials
    /// [default: 32]
    #[arg(long, value_name = "COUNT", env = "DAYBOOK_TAILS_PER_PRINCIPAL", hide_env_values = true)]
    #[arg(value_parser = value::parse_number::<1, 65_536>)]
    #[serde(deserialize_with = "value::number_in_file::<_, 1, 65_536>")]
    pub tails_per_principal: Option<u64>,
}

impl ServeArgs {
    /// Completes these by those of a source that has less to say.
    pub(super) fn or(self, other: Self) -> Self {
        macro_rules! first {
            ($($field:ident),* $(,)?) => {
                Self { config: self.config, $($field: self.$field.or(other.$field)),* }
            };
        }
        first!(
            listen,
            insecure,
            tls_certificate,
            tls_key,
            tls_client_ca,
            engine,
            database_url,
            lease,
            advertise,
            cluster_ca,
            data_dir,
            ephemeral,
            request_id_window,
            checkpoint_events,
            drain_delay,
            drain_grace,
            max_connections,
            max_connections_per_address,
            max_streams_per_connection,
            max_connection_age,
            max_calls,
            max_call_time,
            max_message_bytes,
            max_header_bytes,
            max_tails,
            max_command_streams,
            max_streams,
            max_batch_commands,
            log_format,
            log_level,
            operations_listen,
            credentials,
            jwt_keys,
            jwt_issuer,
            jwt_audience,
            reflection,
            calls_per_principal,
            rate_per_principal,
            tails_per_principal,
        )
    }
}
