//! The configuration of the server: parse first, resolve second.
//!
//! It owns every setting's name, default and range. A setting comes from a flag, else from its
//! environment variable, else from the configuration file, else from its default. The command
//! line parser reads the first two into [`ServeArgs`]; [`resolve`] reads the file, whose keys are
//! the same names, and gives a [`Config`]. It must not know who uses a setting, and nothing here
//! reads the process environment.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::BoolishValueParser;

use super::telemetry::{LogFilter, LogFormat};

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
    /// How long a stop waits for calls to end before it ends them.
    pub drain_grace: Duration,
    /// How a line of the server's own log looks.
    pub log_format: LogFormat,
    /// Which lines of it are written.
    pub log_level: LogFilter,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051),
            data_dir: PathBuf::from("./daybook-data"),
            ephemeral: false,
            request_id_window: 1_048_576,
            checkpoint_events: 8_388_608,
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

    /// How long a stop waits for calls to end, such as 500ms, 10s or 2m: at most 1h
    /// [default: 10s]
    #[arg(long, value_name = "DURATION", env = "DAYBOOK_DRAIN_GRACE", hide_env_values = true)]
    #[arg(value_parser = value::parse_drain_grace)]
    #[serde(deserialize_with = "value::drain_grace_in_file")]
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

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use clap::{CommandFactory as _, Parser as _};
    use tempfile::NamedTempFile;

    use super::*;

    #[derive(clap::Parser)]
    #[command(name = "daybook")]
    struct Parsed {
        #[command(flatten)]
        args: ServeArgs,
    }

    /// Every setting but the file: its key, its value in a file, and a flag with another value.
    const SETTINGS: [(&str, &str, &str); 8] = [
        ("listen", "\"127.0.0.1:1\"", "--listen=[::1]:2"),
        ("data_dir", "\"of-file\"", "--data-dir=of-flag"),
        ("ephemeral", "true", "--ephemeral=false"),
        ("request_id_window", "1024", "--request-id-window=16777216"),
        ("checkpoint_events", "1024", "--checkpoint-events=1099511627776"),
        ("drain_grace", "\"250ms\"", "--drain-grace=1h"),
        ("log_format", "\"text\"", "--log-format=json"),
        ("log_level", "\"warn\"", "--log-level=daybook=debug"),
    ];

    const ADDRESS: &str =
        "expected an IP address with a port, such as 127.0.0.1:50051 or [::1]:50051";
    const WINDOW: &str = "expected a whole number from 1024 to 16777216";
    const CHECKPOINT: &str = "expected a whole number from 1024 to 1099511627776";
    const DURATION: &str =
        "expected a whole number with a unit (ms, s, m or h), such as 500ms or 10s";
    const LEVEL: &str = "'inof' is neither a level (error, warn, info, debug, trace, off) nor a \
                         directive such as daybook::log=debug";

    fn parse(flags: &[&str]) -> ServeArgs {
        let line = std::iter::once("daybook").chain(flags.iter().copied());
        Parsed::try_parse_from(line).unwrap().args
    }

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn resolve_with_file(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let file = file(text);
        resolve(ServeArgs { config: Some(file.path().to_owned()), ..parse(flags) })
    }

    /// What is said about a file, without the file's name and the drawing of its line.
    fn complaint(text: &str) -> String {
        let ConfigError::Invalid { source, .. } = resolve_with_file(text, &[]).unwrap_err() else {
            panic!("{text} should be read");
        };
        source.message().to_owned()
    }

    /// What is said about a flag's value, without the advice to read the help.
    fn refusal(flag: &str, value: &str) -> String {
        let name = flag.split([' ', '[']).next().unwrap();
        let line = ["daybook".to_owned(), format!("{name}={value}")];
        let error = Parsed::try_parse_from(line).err().unwrap().to_string();
        error.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn of_file() -> Config {
        Config {
            listen: "127.0.0.1:1".parse().unwrap(),
            data_dir: "of-file".into(),
            ephemeral: true,
            request_id_window: 1_024,
            checkpoint_events: 1_024,
            drain_grace: Duration::from_millis(250),
            log_format: LogFormat::Text,
            log_level: "warn".parse().unwrap(),
        }
    }

    fn of_flags() -> Config {
        Config {
            listen: "[::1]:2".parse().unwrap(),
            data_dir: "of-flag".into(),
            ephemeral: false,
            request_id_window: 16_777_216,
            checkpoint_events: 1 << 40,
            drain_grace: Duration::from_secs(3_600),
            log_format: LogFormat::Json,
            log_level: "daybook=debug".parse().unwrap(),
        }
    }

    fn whole_file() -> String {
        SETTINGS.map(|(key, value, _)| format!("{key} = {value}")).join("\n")
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_the_defaults() {
        let flags = SETTINGS.map(|(_, _, flag)| flag);
        assert_eq!(resolve(parse(&[])).unwrap(), Config::default());
        assert_eq!(resolve(parse(&flags)).unwrap(), of_flags());
        assert_eq!(resolve_with_file("", &[]).unwrap(), Config::default());
        assert_eq!(resolve_with_file(&whole_file(), &[]).unwrap(), of_file());
        assert_eq!(resolve_with_file(&whole_file(), &flags).unwrap(), of_flags());
    }

    #[test]
    fn each_setting_is_overridden_by_itself() {
        for (index, (key, _, flag)) in SETTINGS.into_iter().enumerate() {
            let config = resolve_with_file(&whole_file(), &[flag]).unwrap();
            let (flags, file) = (fields(&of_flags()), fields(&of_file()));
            for (other, field) in fields(&config).into_iter().enumerate() {
                let expected = if other == index { &flags[other] } else { &file[other] };
                assert_eq!(&field, expected, "field {other} with {key} as a flag");
            }
        }
    }

    fn fields(config: &Config) -> [String; 8] {
        let Config {
            listen,
            data_dir,
            ephemeral,
            request_id_window,
            checkpoint_events,
            drain_grace,
            log_format,
            log_level,
        } = config;
        [
            listen.to_string(),
            data_dir.display().to_string(),
            ephemeral.to_string(),
            request_id_window.to_string(),
            checkpoint_events.to_string(),
            format!("{drain_grace:?}"),
            format!("{log_format:?}"),
            log_level.to_string(),
        ]
    }

    #[test]
    fn every_setting_has_a_flag_a_variable_and_a_key_of_one_name() {
        let command = Parsed::command();
        let named: Vec<_> = command
            .get_arguments()
            .map(|argument| {
                let key = argument.get_id().as_str();
                let variable = format!("DAYBOOK_{}", key.to_uppercase());
                assert_eq!(argument.get_long().unwrap(), key.replace('_', "-"));
                assert_eq!(argument.get_env().unwrap(), variable.as_str());
                key
            })
            .collect();
        let (config, keys) = named.split_first().unwrap();
        assert_eq!(*config, "config");
        assert_eq!(keys, SETTINGS.map(|(key, _, _)| key));
    }

    #[test]
    fn the_help_tells_each_default_and_variable() {
        let help = Parsed::command().term_width(1_000).render_long_help().to_string();
        let defaults = [
            ("CONFIG", "no file"),
            ("LISTEN", "127.0.0.1:50051"),
            ("DATA_DIR", "./daybook-data"),
            ("EPHEMERAL", "false"),
            ("REQUEST_ID_WINDOW", "1048576"),
            ("CHECKPOINT_EVENTS", "8388608"),
            ("DRAIN_GRACE", "10s"),
            ("LOG_FORMAT", "auto"),
            ("LOG_LEVEL", "info"),
        ];
        for (variable, default) in defaults {
            assert!(help.contains(&format!("[env: DAYBOOK_{variable}]")), "{variable}\n{help}");
            assert!(help.contains(&format!("[default: {default}]")), "{default}\n{help}");
        }
        let told = Config {
            listen: defaults[1].1.parse().unwrap(),
            data_dir: defaults[2].1.into(),
            ephemeral: defaults[3].1.parse().unwrap(),
            request_id_window: defaults[4].1.parse().unwrap(),
            checkpoint_events: defaults[5].1.parse().unwrap(),
            drain_grace: value::parse_drain_grace(defaults[6].1).unwrap(),
            log_format: clap::ValueEnum::from_str(defaults[7].1, false).unwrap(),
            log_level: defaults[8].1.parse().unwrap(),
        };
        assert_eq!(told, Config::default());
    }

    #[test]
    fn ephemeral_is_a_flag_that_may_also_bear_a_value() {
        for (flags, expected) in [
            (vec![], None),
            (vec!["--ephemeral"], Some(true)),
            (vec!["--ephemeral=true"], Some(true)),
            (vec!["--ephemeral=0"], Some(false)),
        ] {
            assert_eq!(parse(&flags).ephemeral, expected, "{flags:?}");
        }
    }

    #[test]
    fn a_bad_flag_is_told_with_its_value_and_what_is_right() {
        for (flag, value, right) in [
            ("--listen <ADDRESS>", "localhost", ADDRESS),
            ("--data-dir <DIR>", "", "expected the name of a directory"),
            ("--ephemeral[=<BOOL>]", "perhaps", "value was not a boolean"),
            ("--request-id-window <COUNT>", "1023", WINDOW),
            ("--request-id-window <COUNT>", "16777217", WINDOW),
            ("--checkpoint-events <COUNT>", "0", CHECKPOINT),
            ("--checkpoint-events <COUNT>", "1099511627777", CHECKPOINT),
            ("--drain-grace <DURATION>", "10", DURATION),
            ("--drain-grace <DURATION>", "61m", "expected at most 1h"),
            ("--log-level <FILTER>", "inof", LEVEL),
        ] {
            let told = format!("error: invalid value '{value}' for '{flag}': {right}");
            assert_eq!(refusal(flag, value), told);
        }
        assert_eq!(
            refusal("--log-format <FORMAT>", "xml"),
            "error: invalid value 'xml' for '--log-format <FORMAT>'\n  \
             [possible values: auto, text, json]"
        );
    }

    #[test]
    fn a_bad_value_in_the_file_is_told_with_what_is_right() {
        for (text, told) in [
            ("listen = 50051", "invalid type: integer `50051`, expected a string"),
            ("listen = 'localhost:50051'", ADDRESS),
            ("data_dir = ''", "expected the name of a directory"),
            ("ephemeral = 'yes'", "invalid type: string \"yes\", expected a boolean"),
            ("request_id_window = '4096'", WINDOW),
            ("request_id_window = 1023", WINDOW),
            ("checkpoint_events = 1023", CHECKPOINT),
            ("request_id_window = -5", WINDOW),
            ("request_id_window = 16777217", WINDOW),
            ("drain_grace = 10", "invalid type: integer `10`, expected a string"),
            ("drain_grace = '10'", DURATION),
            ("drain_grace = '2h'", "expected at most 1h"),
            ("log_format = 'xml'", "unknown variant `xml`, expected one of `auto`, `text`, `json`"),
            ("log_level = 'inof'", LEVEL),
            ("listen = '[::1]:1'\nlisten = '[::1]:2'", "duplicate key"),
            ("listen", "key with no value, expected `=`"),
        ] {
            assert_eq!(complaint(text), told, "{text}");
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_told_with_all_that_are_known() {
        let known = SETTINGS.map(|(key, _, _)| format!("`{key}`")).join(", ");
        for (text, key) in
            [("listne = '[::1]:1'", "listne"), ("config = 'a'", "config"), ("[serve]", "serve")]
        {
            assert_eq!(complaint(text), format!("unknown field `{key}`, expected one of {known}"));
        }
    }

    #[test]
    fn a_complaint_names_the_file_and_shows_the_line() {
        let text = "# The ledger of the till.\nrequest_id_window = 5\n";
        let error = resolve_with_file(text, &[]).unwrap_err().to_string();
        let (start, rest) = error.split_once(" is not right: ").unwrap();
        assert!(start.starts_with("the configuration file /"), "{error}");
        insta::assert_snapshot!(rest, @r"
        TOML parse error at line 2, column 21
          |
        2 | request_id_window = 5
          |                     ^
        expected a whole number from 1024 to 16777216
        ");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let resolve_path = |path: &Path| {
            let config = Some(path.to_owned());
            resolve(ServeArgs { config, ..ServeArgs::default() }).unwrap_err()
        };
        assert_eq!(
            resolve_path(Path::new("no/such/file.toml")).to_string(),
            "the configuration file no/such/file.toml could not be read: \
             No such file or directory (os error 2)"
        );

        let directory = tempfile::tempdir().unwrap();
        let error = resolve_path(directory.path());
        assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");

        let binary = file("");
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        let error = resolve_path(binary.path());
        assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
    }

    #[test]
    fn a_file_may_have_64_kib() {
        let longest = "#".repeat(64 * 1024);
        assert_eq!(resolve_with_file(&longest, &[]).unwrap(), Config::default());
        let longer = ["#", "ü"].map(|more| resolve_with_file(&(longest.clone() + more), &[]));
        assert!(longer.iter().all(|it| matches!(it, Err(ConfigError::TooLarge { .. }))));
    }
}
