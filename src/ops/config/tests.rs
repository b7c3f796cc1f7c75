//! What every setting takes, refuses, and is called.

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
const SETTINGS: [(&str, &str, &str); 39] = [
    ("listen", "\"127.0.0.1:1\"", "--listen=[::1]:2"),
    ("insecure", "true", "--insecure=false"),
    ("tls_certificate", "\"of-file.pem\"", "--tls-certificate=of-flag.pem"),
    ("tls_key", "\"of-file.key\"", "--tls-key=of-flag.key"),
    ("tls_client_ca", "\"of-file.ca\"", "--tls-client-ca=of-flag.ca"),
    ("engine", "\"file\"", "--engine=postgres"),
    ("database_url", "\"postgres://localhost/file\"", "--database-url=postgres://localhost/flag"),
    ("lease", "\"1s\"", "--lease=1m"),
    ("advertise", "\"http://file:1\"", "--advertise=https://flag:2"),
    ("cluster_ca", "\"of-file\"", "--cluster-ca=of-flag"),
    ("data_dir", "\"of-file\"", "--data-dir=of-flag"),
    ("ephemeral", "true", "--ephemeral=false"),
    ("request_id_window", "1024", "--request-id-window=16777216"),
    ("checkpoint_events", "1024", "--checkpoint-events=1099511627776"),
    ("drain_delay", "\"1s\"", "--drain-delay=0ms"),
    ("drain_grace", "\"250ms\"", "--drain-grace=1h"),
    ("max_connections", "1", "--max-connections=65536"),
    ("max_connections_per_address", "1", "--max-connections-per-address=65536"),
    ("max_streams_per_connection", "1", "--max-streams-per-connection=65536"),
    ("max_connection_age", "\"1s\"", "--max-connection-age=720h"),
    ("max_calls", "1", "--max-calls=1048576"),
    ("max_call_time", "\"100ms\"", "--max-call-time=1h"),
    ("max_message_bytes", "16384", "--max-message-bytes=4194303"),
    ("max_header_bytes", "4096", "--max-header-bytes=1048576"),
    ("max_tails", "1", "--max-tails=65536"),
    ("max_command_streams", "1", "--max-command-streams=65536"),
    ("max_streams", "1", "--max-streams=65536"),
    ("max_batch_commands", "1", "--max-batch-commands=8189"),
    ("log_format", "\"text\"", "--log-format=json"),
    ("log_level", "\"warn\"", "--log-level=daybook=debug"),
    ("operations_listen", "\"127.0.0.1:3\"", "--operations-listen=[::1]:4"),
    ("credentials", "\"of-file\"", "--credentials=of-flag"),
    ("jwt_keys", "\"keys-of-file\"", "--jwt-keys=keys-of-flag"),
    ("jwt_issuer", "\"https://of-file\"", "--jwt-issuer=https://of-flag"),
    ("jwt_audience", "\"of-file\"", "--jwt-audience=of-flag"),
    ("reflection", "false", "--reflection=true"),
    ("calls_per_principal", "1", "--calls-per-principal=65536"),
    ("rate_per_principal", "7", "--rate-per-principal=1000000"),
    ("tails_per_principal", "1", "--tails-per-principal=65536"),
];

const ADDRESS: &str = "expected an IP address with a port, such as 127.0.0.1:50051 or [::1]:50051";
const WINDOW: &str = "expected a whole number from 1024 to 16777216";
const CHECKPOINT: &str = "expected a whole number from 1024 to 1099511627776";
const DURATION: &str = "expected a whole number with a unit (ms, s, m or h), such as 500ms or 10s";
const JWT_NAME: &str = "expected 1 to 512 characters, none of them a control character";
const PLACES: &str = "expected a whole number from 1 to 65536";
const RATE: &str = "expected a whole number from 0 to 1000000";
const LEVEL: &str = "'inof' is neither a level (error, warn, info, debug, trace, off) nor a \
                     directive such as daybook::log=debug";

pub(super) fn parse(flags: &[&str]) -> ServeArgs {
    let line = std::iter::once("daybook").chain(flags.iter().copied());
    Parsed::try_parse_from(line).unwrap().args
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

pub(super) fn resolve_with_file(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
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
        insecure: true,
        tls: Some(TlsFiles {
            certificate: "of-file.pem".into(),
            key: "of-file.key".into(),
            client_ca: Some("of-file.ca".into()),
        }),
        database: None,
        data_dir: "of-file".into(),
        ephemeral: true,
        request_id_window: 1_024,
        checkpoint_events: 1_024,
        drain_delay: Duration::from_secs(1),
        drain_grace: Duration::from_millis(250),
        limits: Limits {
            connections: 1,
            connections_per_address: 1,
            streams_per_connection: 1,
            connection_age: Duration::from_secs(1),
            calls: 1,
            call_time: Duration::from_millis(100),
            message_bytes: 16_384,
            header_bytes: 4_096,
            tails: 1,
            command_streams: 1,
            streams: 1,
            batch_commands: 1,
        },
        log_format: LogFormat::Text,
        log_level: "warn".parse().unwrap(),
        operations_listen: Some("127.0.0.1:3".parse().unwrap()),
        credentials: Some("of-file".into()),
        jwt: Some(JwtConfig {
            keys: "keys-of-file".into(),
            issuer: "https://of-file".into(),
            audience: "of-file".into(),
        }),
        reflection: false,
        calls_per_principal: 1,
        rate_per_principal: 7,
        tails_per_principal: 1,
    }
}

fn of_flags() -> Config {
    Config {
        listen: "[::1]:2".parse().unwrap(),
        insecure: false,
        tls: Some(TlsFiles {
            certificate: "of-flag.pem".into(),
            key: "of-flag.key".into(),
            client_ca: Some("of-flag.ca".into()),
        }),
        database: Some(DatabaseConfig {
            url: "postgres://localhost/flag".parse().unwrap(),
            security: Security::None,
            lease: Duration::from_secs(60),
            advertise: Some("https://flag:2".into()),
            cluster_ca: Some("of-flag".into()),
        }),
        data_dir: "of-flag".into(),
        ephemeral: false,
        request_id_window: 16_777_216,
        checkpoint_events: 1 << 40,
        drain_delay: Duration::ZERO,
        drain_grace: Duration::from_secs(3_600),
        limits: Limits {
            connections: 65_536,
            connections_per_address: 65_536,
            streams_per_connection: 65_536,
            connection_age: Duration::from_secs(720 * 3_600),
            calls: 1_048_576,
            call_time: Duration::from_secs(3_600),
            message_bytes: 4_194_303,
            header_bytes: 1_048_576,
            tails: 65_536,
            command_streams: 65_536,
            streams: 65_536,
            batch_commands: 8_189,
        },
        log_format: LogFormat::Json,
        log_level: "daybook=debug".parse().unwrap(),
        operations_listen: Some("[::1]:4".parse().unwrap()),
        credentials: Some("of-flag".into()),
        jwt: Some(JwtConfig {
            keys: "keys-of-flag".into(),
            issuer: "https://of-flag".into(),
            audience: "of-flag".into(),
        }),
        reflection: true,
        calls_per_principal: 65_536,
        rate_per_principal: 1_000_000,
        tails_per_principal: 65_536,
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
fn settings_are_told_as_a_file_that_gives_them() {
    for config in [Config::default(), of_file(), of_flags()] {
        assert_eq!(resolve_with_file(&config.to_string(), &[]).unwrap(), config);
    }
}

#[test]
fn texts_of_any_kind_are_told_as_a_file_that_gives_them() {
    for text in ["it's", "a \"b\"", "a\\b", "{}", "\u{200b}é\u{301}\u{10348}", "\u{7f}\t\n\u{1}"] {
        let mut config = of_file();
        config.data_dir = text.into();
        config.credentials = Some(text.into());
        let jwt = config.jwt.as_mut().unwrap();
        jwt.keys = text.into();
        if !text.chars().any(char::is_control) {
            jwt.issuer = text.into();
        }
        config.log_level = "day\"book=info".parse().unwrap();
        assert_eq!(resolve_with_file(&config.to_string(), &[]).unwrap(), config);
    }
}

#[test]
fn each_setting_is_overridden_by_itself() {
    let settings = || SETTINGS.into_iter().filter(|(key, ..)| !database::KEYS.contains(key));
    let (flags, file) = (fields(&of_flags()), fields(&of_file()));
    assert_eq!(file.len(), settings().count());
    for (index, (key, _, flag)) in settings().enumerate() {
        let config = resolve_with_file(&whole_file(), &[flag]).unwrap();
        for (other, field) in fields(&config).into_iter().enumerate() {
            let expected = if other == index { &flags[other] } else { &file[other] };
            assert_eq!(&field, expected, "field {other} with {key} as a flag");
        }
    }
}

/// The settings as lines, in the order of [`SETTINGS`], but [`database::KEYS`].
fn fields(config: &Config) -> Vec<String> {
    let is_told = |line: &&str| !database::KEYS.contains(&line.split(' ').next().unwrap());
    config.to_string().lines().filter(is_told).map(ToOwned::to_owned).collect()
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
        ("INSECURE", "false"),
        ("EPHEMERAL", "false"),
        ("REQUEST_ID_WINDOW", "1048576"),
        ("CHECKPOINT_EVENTS", "8388608"),
        ("DRAIN_DELAY", "0s"),
        ("DRAIN_GRACE", "10s"),
        ("MAX_CONNECTIONS", "1024"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "256"),
        ("MAX_STREAMS_PER_CONNECTION", "256"),
        ("MAX_CONNECTION_AGE", "0s"),
        ("MAX_CALLS", "16384"),
        ("MAX_CALL_TIME", "10s"),
        ("MAX_MESSAGE_BYTES", "4194304"),
        ("MAX_HEADER_BYTES", "16384"),
        ("MAX_TAILS", "1024"),
        ("MAX_BATCH_COMMANDS", "8190"),
        ("LOG_FORMAT", "auto"),
        ("LOG_LEVEL", "info"),
        ("OPERATIONS_LISTEN", "nowhere"),
        ("CREDENTIALS", "everybody may call everything"),
        ("JWT_KEYS", "no JWTs"),
        ("JWT_ISSUER", "no JWTs"),
        ("JWT_AUDIENCE", "no JWTs"),
        ("REFLECTION", "true"),
        ("CALLS_PER_PRINCIPAL", "8192"),
        ("RATE_PER_PRINCIPAL", "0"),
        ("TAILS_PER_PRINCIPAL", "32"),
    ];
    for variable in ["TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA"] {
        assert!(help.contains(&format!("[env: DAYBOOK_{variable}]")), "{variable}\n{help}");
    }
    for (variable, default) in defaults {
        assert!(help.contains(&format!("[env: DAYBOOK_{variable}]")), "{variable}\n{help}");
        assert!(help.contains(&format!("[default: {default}]")), "{default}\n{help}");
    }
    let told = defaults[1..]
        .iter()
        .filter(|(_, default)| !default.contains(' ') && *default != "nowhere")
        .map(|(variable, default)| {
            format!("--{}={default}", variable.to_lowercase().replace('_', "-"))
        });
    let told: Vec<_> = told.collect();
    let told = resolve(parse(&told.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
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
        ("--tls-key <FILE>", "", "expected the name of a file"),
        ("--max-connections <COUNT>", "0", "expected a whole number from 1 to 65536"),
        ("--max-batch-commands <COUNT>", "8191", "expected a whole number from 1 to 8190"),
        ("--max-call-time <DURATION>", "99ms", "expected 100ms to 1h"),
        ("--max-connection-age <DURATION>", "721h", "expected at most 720h"),
        ("--drain-delay <DURATION>", "1d", DURATION),
        ("--drain-grace <DURATION>", "10", DURATION),
        ("--drain-grace <DURATION>", "61m", "expected at most 1h"),
        ("--log-level <FILTER>", "inof", LEVEL),
        ("--operations-listen <ADDRESS>", "9464", ADDRESS),
        ("--credentials <FILE>", "", "expected the name of a file"),
        ("--jwt-keys <FILE>", "", "expected the name of a file"),
        ("--jwt-issuer <NAME>", "", JWT_NAME),
        ("--jwt-audience <NAME>", "", JWT_NAME),
        ("--reflection <BOOL>", "perhaps", "value was not a boolean"),
        ("--calls-per-principal <COUNT>", "0", PLACES),
        ("--calls-per-principal <COUNT>", "65537", PLACES),
        ("--rate-per-principal <COUNT>", "1000001", RATE),
        ("--rate-per-principal <COUNT>", "-1", RATE),
        ("--tails-per-principal <COUNT>", "0", PLACES),
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
        ("operations_listen = ':9464'", ADDRESS),
        ("credentials = ''", "expected the name of a file"),
        ("credentials = 1", "invalid type: integer `1`, expected a string"),
        ("jwt_issuer = ''", JWT_NAME),
        ("calls_per_principal = 0", PLACES),
        ("rate_per_principal = 1.5", RATE),
        ("tails_per_principal = '3'", PLACES),
        ("listen = '[::1]:1'\nlisten = '[::1]:2'", "duplicate key"),
        ("listen", "key with no value, expected `=`"),
    ] {
        assert_eq!(complaint(text), told, "{text}");
    }
}

#[test]
fn what_needs_another_setting_says_which() {
    for (flags, told) in [
        (vec!["--tls-certificate=a"], "tls_certificate needs tls_key"),
        (vec!["--tls-key=a"], "tls_key needs tls_certificate"),
        (vec!["--tls-client-ca=a"], "tls_client_ca needs tls_certificate"),
    ] {
        assert_eq!(resolve(parse(&flags)).unwrap_err().to_string(), told);
    }
}

#[test]
fn others_are_let_in_only_by_tls_with_certificates_or_on_purpose() {
    let told = |lacks: &str| {
        format!(
            "listen = \"0.0.0.0:1\" is not a loopback address and needs {lacks}, or \
             insecure = true (--insecure) to let anybody in who can reach it"
        )
    };
    let public = "--listen=0.0.0.0:1";
    let tls = ["--tls-certificate=a", "--tls-key=b"];
    let [certificate, key] = tls;
    let refused = |flags: &[&str]| resolve(parse(flags)).unwrap_err().to_string();
    assert_eq!(refused(&[public]), told("tls_certificate"));
    assert_eq!(refused(&[public, certificate, key]), told("credentials or tls_client_ca"));
    for flags in [
        &[public, "--insecure"][..],
        &[public, certificate, key, "--tls-client-ca=c"],
        &[public, certificate, key, "--credentials=d"],
        &["--listen=[::1]:1", certificate, key],
        &["--listen=127.0.0.9:1"],
    ] {
        assert!(resolve(parse(flags)).is_ok(), "{flags:?}");
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
    assert!(matches!(error, ConfigError::NotText { .. }), "{error}");
}

#[test]
fn a_file_may_have_64_kib() {
    let longest = "#".repeat(64 * 1024);
    assert_eq!(resolve_with_file(&longest, &[]).unwrap(), Config::default());
    let longer = ["#", "ü"].map(|more| resolve_with_file(&(longest.clone() + more), &[]));
    assert!(longer.iter().all(|it| matches!(it, Err(ConfigError::TooLarge { .. }))));
}
