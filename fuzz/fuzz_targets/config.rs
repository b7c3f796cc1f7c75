//! The configuration file: whatever it holds, it is refused with a text that names the file, or it
//! gives settings within their ranges, and says the same again when they are written as a file.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock, time::Duration};

use daybook::ops::config::{Config, ConfigError, ServeArgs, resolve};
use daybook_fuzz::has_canary;
use libfuzzer_sys::fuzz_target;

/// The file that each text is put in. Each process has its own.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("daybook-fuzz-{}.toml", std::process::id());
    std::env::temp_dir().join(name)
});

/// The largest file that is read.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Begins a text that is to come after a comment, so long that half of it is beyond the limit.
/// There is no other use for it: no file is right that begins with it.
const FAR: u8 = b'~';

fuzz_target!(|text: &[u8]| {
    match text.split_first() {
        Some((&FAR, rest)) => {
            let comment = vec![b'#'; FILE_BYTES_MAX.saturating_sub(rest.len() / 2)];
            check(&[&comment, rest].concat());
        }
        Some(_) | None => check(text),
    }
});

fn check(text: &[u8]) {
    match resolve_text(text) {
        Ok(config) => {
            assert!(text.len() <= FILE_BYTES_MAX);
            check_ranges(&config);
            let again = config.to_string();
            // A password is told to nobody.
            if config.database.is_none() || !again.contains("***") {
                assert_eq!(resolve_text(again.as_bytes()).ok(), Some(config), "{again}");
            }
        }
        Err(error) => check_error(text, &error),
    }
}

fn resolve_text(text: &[u8]) -> Result<Config, ConfigError> {
    fs::write(&*FILE, text).expect("the file can be written");
    let resolved = resolve(ServeArgs { config: Some(FILE.clone()), ..ServeArgs::default() });
    fs::remove_file(&*FILE).expect("the file can be removed");
    resolved
}

fn check_ranges(config: &Config) {
    // Planted: fewer events between checkpoints are said to be refused.
    let checkpoint_events_min = if has_canary() { 1_000_000 } else { 1_024 };
    assert!((1_024..=16_777_216).contains(&config.request_id_window), "{config:?}");
    assert!((checkpoint_events_min..=1 << 40).contains(&config.checkpoint_events), "{config:?}");
    assert!(config.drain_grace <= Duration::from_hours(1), "{config:?}");
    assert!(!config.data_dir.as_os_str().is_empty(), "{config:?}");
    assert!(config.jwt.is_none() || config.credentials.is_some(), "{config:?}");
    assert!((1..=65_536).contains(&config.calls_per_principal), "{config:?}");
    assert!((1..=65_536).contains(&config.tails_per_principal), "{config:?}");
    assert!(config.rate_per_principal <= 1_000_000, "{config:?}");
    assert!((16_384..=4_194_304).contains(&config.limits.message_bytes), "{config:?}");
    assert!((1..=8_190).contains(&config.limits.batch_commands), "{config:?}");
    let is_public = !config.listen.ip().is_loopback();
    assert!(!is_public || config.insecure || config.tls.is_some(), "{config:?}");
}

fn check_error(text: &[u8], error: &ConfigError) {
    let names_file = error.to_string().contains(&*FILE.to_string_lossy());
    match error {
        // What these are about may come from anywhere: they name the settings instead.
        ConfigError::Needs(set, missing) => {
            assert!(set != missing && error.to_string().contains(missing), "{error}");
            return;
        }
        ConfigError::Excludes(one, other) => {
            assert!(one != other && error.to_string().contains(other), "{error}");
            return;
        }
        ConfigError::DatabaseUrl { what } => {
            assert!(!what.is_empty() && error.to_string().starts_with("database_url"), "{error}");
            return;
        }
        ConfigError::Insecure { listen, .. } => {
            assert!(!listen.ip().is_loopback(), "{error}");
            return;
        }
        ConfigError::OneAddress { listen, operations_listen } => {
            assert!(listen.port() != 0 && listen.port() == operations_listen.port(), "{error}");
            return;
        }
        ConfigError::NotText { .. } => assert!(std::str::from_utf8(text).is_err(), "{error}"),
        ConfigError::Unreadable { .. } => panic!("{error}"),
        ConfigError::TooLarge { .. } => assert!(text.len() > FILE_BYTES_MAX, "{error}"),
        ConfigError::Invalid { source, .. } => assert!(!source.message().is_empty(), "{error}"),
    }
    assert!(names_file, "{error}");
}
