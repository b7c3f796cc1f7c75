//! The texts of settings: one parser each, for the flag, the variable and the file alike.
//!
//! It owns each setting's range. It must not know where a text came from: who shows an error adds
//! the place.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hyper::Uri;
use serde::{Deserialize as _, Deserializer, de::Error as _};

use super::{super::telemetry::LogFilterError, LogFilter};

/// How long a stop may wait for calls: longer, and an operator would think that it hangs.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// How old a connection may be made to get: whoever wants more wants no limit.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How short the longest call may be made: some syncs of a slow disk.
const CALL_TIME_MIN: Duration = Duration::from_millis(100);

/// How long a call may be let wait: longer, and its client would be gone.
const CALL_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// How short a lease may be, for a database that answers at once, and how long before waiting for
/// another process to take over is worse than starting one by hand.
const LEASE_MIN: Duration = Duration::from_millis(500);
const LEASE_MAX: Duration = Duration::from_secs(60);

/// How many characters the issuer and the audience of a JWT may have.
const JWT_NAME_CHARS_MAX: usize = 512;

/// The units of a duration in configuration, and how many milliseconds each has.
const DURATION_UNITS: [(&str, u64); 4] =
    [("ms", 1), ("s", 1_000), ("m", 60 * 1_000), ("h", 60 * 60 * 1_000)];

/// What the text of a setting should have been.
#[derive(Debug, thiserror::Error)]
pub(super) enum ValueError {
    #[error("expected an IP address with a port, such as 127.0.0.1:50051 or [::1]:50051")]
    Address,
    #[error("expected the name of a directory")]
    DataDir,
    #[error("expected the name of a file")]
    File,
    #[error("expected a whole number from {min} to {max}")]
    Number { min: u64, max: u64 },
    #[error("expected a whole number with a unit (ms, s, m or h), such as 500ms or 10s")]
    Duration,
    #[error("expected at most {}h", DRAIN_TIME_MAX.as_secs() / 3_600)]
    DrainTime,
    #[error("expected at most {}h", CONNECTION_AGE_MAX.as_secs() / 3_600)]
    ConnectionAge,
    #[error("expected {}ms to {}h", CALL_TIME_MIN.as_millis(), CALL_TIME_MAX.as_secs() / 3_600)]
    CallTime,
    #[error("expected {}ms to {}s", LEASE_MIN.as_millis(), LEASE_MAX.as_secs())]
    Lease,
    #[error("expected http:// or https:// with a host and a port, such as https://10.0.0.7:50051")]
    Advertise,
    #[error("expected 1 to {JWT_NAME_CHARS_MAX} characters, none of them a control character")]
    JwtName,
    #[error("{0}")]
    LogFilter(#[from] LogFilterError),
}

pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| ValueError::Address)
}

pub(super) fn parse_data_dir(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() { Err(ValueError::DataDir) } else { Ok(PathBuf::from(text)) }
}

pub(super) fn parse_file(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() { Err(ValueError::File) } else { Ok(PathBuf::from(text)) }
}

/// A whole number within a range.
pub(super) fn parse_number<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, ValueError> {
    let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
    number.ok_or(ValueError::Number { min: MIN, max: MAX })
}

pub(super) fn parse_connection_age(text: &str) -> Result<Duration, ValueError> {
    let age = parse_duration(text).ok_or(ValueError::Duration)?;
    if age > CONNECTION_AGE_MAX { Err(ValueError::ConnectionAge) } else { Ok(age) }
}

pub(super) fn parse_call_time(text: &str) -> Result<Duration, ValueError> {
    let time = parse_duration(text).ok_or(ValueError::Duration)?;
    let fits = (CALL_TIME_MIN..=CALL_TIME_MAX).contains(&time);
    if fits { Ok(time) } else { Err(ValueError::CallTime) }
}

pub(super) fn parse_lease(text: &str) -> Result<Duration, ValueError> {
    let time = parse_duration(text).ok_or(ValueError::Duration)?;
    if (LEASE_MIN..=LEASE_MAX).contains(&time) { Ok(time) } else { Err(ValueError::Lease) }
}

pub(super) fn parse_advertise(text: &str) -> Result<String, ValueError> {
    let uri: Uri = text.parse().map_err(|_| ValueError::Advertise)?;
    let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
    let is_bare = uri.path_and_query().is_none_or(|it| it == "/");
    let is_whole = uri.port_u16().is_some_and(|port| port > 0) && !text.contains('@');
    let trimmed = text.trim_end_matches('/');
    if is_known && is_bare && is_whole {
        Ok(trimmed.to_owned())
    } else {
        Err(ValueError::Advertise)
    }
}

pub(super) fn parse_jwt_name(text: &str) -> Result<String, ValueError> {
    let fits = (1..=JWT_NAME_CHARS_MAX).contains(&text.chars().count());
    let is_name = fits && !text.chars().any(char::is_control);
    if is_name { Ok(text.to_owned()) } else { Err(ValueError::JwtName) }
}

pub(super) fn parse_drain_time(text: &str) -> Result<Duration, ValueError> {
    let time = parse_duration(text).ok_or(ValueError::Duration)?;
    if time > DRAIN_TIME_MAX { Err(ValueError::DrainTime) } else { Ok(time) }
}

/// A whole number and its unit, with nothing between or around them.
fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let (_, unit_ms) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(unit_ms)?))
}

pub(super) fn listen_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<SocketAddr>, D::Error> {
    text_in_file(value, parse_listen)
}

pub(super) fn data_dir_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<PathBuf>, D::Error> {
    text_in_file(value, parse_data_dir)
}

pub(super) fn drain_time_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Duration>, D::Error> {
    text_in_file(value, parse_drain_time)
}

pub(super) fn log_level_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<LogFilter>, D::Error> {
    text_in_file(value, |text| Ok(text.parse::<LogFilter>()?))
}

pub(super) fn file_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<PathBuf>, D::Error> {
    text_in_file(value, parse_file)
}

pub(super) fn connection_age_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Duration>, D::Error> {
    text_in_file(value, parse_connection_age)
}

pub(super) fn call_time_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Duration>, D::Error> {
    text_in_file(value, parse_call_time)
}

pub(super) fn lease_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Duration>, D::Error> {
    text_in_file(value, parse_lease)
}

pub(super) fn advertise_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<String>, D::Error> {
    text_in_file(value, parse_advertise)
}

pub(super) fn jwt_name_in_file<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<String>, D::Error> {
    text_in_file(value, parse_jwt_name)
}

/// A number of the file; its digits pass the same check as a flag's.
pub(super) fn number_in_file<'de, D, const MIN: u64, const MAX: u64>(
    value: D,
) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    let otherwise = ValueError::Number { min: MIN, max: MAX };
    let number = i64::deserialize(value).map_err(|_| D::Error::custom(otherwise))?;
    parse_number::<MIN, MAX>(&number.to_string()).map(Some).map_err(D::Error::custom)
}

/// A string of the file, through the parser that the flag has.
fn text_in_file<'de, D, T>(
    value: D,
    parse: fn(&str) -> Result<T, ValueError>,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
{
    parse(&String::deserialize(value)?).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_advertised_can_be_reached() {
        for good in ["http://10.0.0.7:50051", "https://db-0.ledger:1", "http://[::1]:5"] {
            assert_eq!(parse_advertise(good).unwrap(), good);
        }
        assert_eq!(parse_advertise("http://h:1/").unwrap(), "http://h:1");
        for bad in
            ["", "h:1", "http://h", "ftp://h:1", "http://h:0", "http://h:1/p", "http://u@h:1"]
        {
            assert!(parse_advertise(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, expected_ms) in
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(expected_ms)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "10 s", " 10s", "10S", "1s ", "1d", "٣s"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
        assert_eq!(parse_duration("18446744073709551615h"), None);
        assert_eq!(parse_duration("18446744073709551616ms"), None);
    }
}
