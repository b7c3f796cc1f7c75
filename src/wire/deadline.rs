//! Deadlines: how long the caller of a call waits for it.

use std::time::Duration;

use tonic::codegen::http::HeaderMap;

/// The header that tells it, also as metadata.
pub(super) const TIMEOUT_HEADER: &str = "grpc-timeout";

/// How long the caller waits from when the call came in; `None` for as long as it takes, and when
/// the header is none that the protocol knows.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(TIMEOUT_HEADER)?.to_str().ok()?)
}

/// Reads at most eight digits and a unit.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if count.len() > 8 || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = count.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.checked_mul(3_600)?)),
        "M" => Some(Duration::from_secs(count.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (text, nanos) in [
            ("0n", 0),
            ("7n", 7),
            ("7u", 7_000),
            ("250m", 250_000_000),
            ("10S", 10_000_000_000),
            ("2M", 120_000_000_000),
            ("1H", 3_600_000_000_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "10", "10s", "-1S", "+1S", "1.5S", " 1S", "123456789n", "1é"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
