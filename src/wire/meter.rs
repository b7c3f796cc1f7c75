//! The meter: counts calls and what they are refused for.
//!
//! A call costs a few atomic operations; of each pair of method and code that was never seen there
//! is nothing. What is counted has an end: the methods, the codes and the reasons that there are.

use std::{
    error, fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{call_line::Ration, methods::METHODS, status};
use crate::ops::{Counter, Histogram, figures::Distribution, traces::Traces};

/// How long calls take, in nanoseconds: from reads in memory, by groups on a disk, to callers that
/// have given up.
const CALL_NANOS: &[u64] = &[
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The codes by their numbers, in the words of the exporters for gRPC that came first, which
/// dashboards ask for.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The codes as gRPC itself spells them, by their numbers.
pub(super) const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What a reason counts as that is none of the following ones.
const OTHER: &str = "OTHER";

/// Every reason that an `ErrorInfo` of ours gives.
const REASONS: [&str; 43] = [
    "OVERLOADED",
    "INSUFFICIENT_FUNDS",
    "VERSION_MISMATCH",
    "ACCOUNT_NOT_FOUND",
    "INVALID_FIELDS",
    "ACCOUNT_CLOSED",
    "ACCOUNT_EXISTS",
    "ACCOUNT_LIMIT",
    "ACCOUNT_NOT_ALLOWED",
    "BALANCE_LIMIT",
    "BALANCE_NOT_ZERO",
    "BEYOND_HEAD",
    "BEYOND_VERSION",
    "COMPRESSION_UNSUPPORTED",
    "CREDENTIALS_INVALID",
    "CREDENTIALS_MISSING",
    "CURRENCY_MISMATCH",
    "DEADLINE_EXCEEDED",
    "DESTINATION_CLOSED",
    "DESTINATION_NOT_FOUND",
    "INTERNAL",
    "LOG_DAMAGED",
    "LOG_FAILED",
    "LOG_FULL",
    "LOG_UNREACHABLE",
    "LOG_UNREADABLE",
    status::MESSAGE_MALFORMED,
    "MESSAGE_TOO_LARGE",
    "METHOD_UNKNOWN",
    "NOT_OWNER",
    "OWNER_UNREACHABLE",
    "POSITION_NOT_REACHED",
    "QUOTA_EXCEEDED",
    "REQUEST_ID_REUSED",
    "ROLE_INSUFFICIENT",
    "SAGA_EXISTS",
    "SAGA_NOT_FOUND",
    "STARTING",
    "STOPPING",
    "TOO_MANY_STREAMS",
    "TOO_MANY_TAILS",
    "TRANSFER_PENDING",
    OTHER,
];

/// The reason of a status, kept beside its details so that it can be counted without reading them
/// again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reason(pub(super) &'static str);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl error::Error for Reason {}

/// The reason that a status gives, if it is one of ours.
pub(super) fn reason(status: &Status) -> Option<&'static str> {
    if let Some(Reason(reason)) = error::Error::source(status).and_then(|it| it.downcast_ref()) {
        return Some(reason);
    }
    let told = status.get_details_error_info()?.reason;
    REASONS.into_iter().find(|reason| *reason == told)
}

/// Counts refusals by their reason.
#[derive(Debug)]
pub struct Refusals([Counter; REASONS.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Refusals {
    pub(super) fn count(&self, reason: Option<&'static str>) {
        let reason = reason.unwrap_or(OTHER);
        let place = REASONS.iter().position(|known| *known == reason);
        if let Some(count) = place.map_or(self.0.last(), |place| self.0.get(place)) {
            count.increment();
        }
    }

    /// Each reason, and how often it was given.
    pub fn get(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.0.iter().map(Counter::get))
    }
}

/// Counts calls. A clone counts the same.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    methods: [OfMethod; METHODS.len()],
    refusals: Refusals,
    warnings: Ration,
    traces: Option<Traces>,
}

/// What is counted of one method.
#[derive(Debug, Default)]
struct OfMethod {
    started: Counter,
    /// By code; those that were never answered take no room.
    handled: [OnceLock<Histogram>; CODES.len()],
}

impl Meter {
    /// Makes spans of calls as well, if there are traces.
    #[must_use]
    pub fn new(traces: Option<Traces>) -> Self {
        Self(Arc::new(Counts { traces, ..Counts::default() }))
    }

    /// Where spans are made, if anywhere.
    pub(super) fn traces(&self) -> Option<&Traces> {
        self.0.traces.as_ref()
    }

    pub(super) fn begin(&self, method: usize) {
        if let Some(of) = self.0.methods.get(method) {
            of.started.increment();
        }
    }

    pub(super) fn end(&self, method: usize, code: Code, took: Duration) {
        let code = usize::try_from(i32::from(code)).unwrap_or_default();
        let handled = self.0.methods.get(method).and_then(|of| of.handled.get(code));
        if let Some(handled) = handled {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            handled.get_or_init(|| Histogram::new(CALL_NANOS)).record(nanos);
        }
    }

    /// The warnings that may be written of calls.
    pub(super) fn warnings(&self) -> &Ration {
        &self.0.warnings
    }

    pub(super) fn refuse(&self, reason: Option<&'static str>) {
        self.0.refusals.count(reason);
    }

    /// Each reason that calls were refused for, commands of batches not counted, and how often.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.refusals.get()
    }

    /// How many calls of each of [`METHODS`] have begun.
    pub fn started(&self) -> impl Iterator<Item = u64> {
        self.0.methods.iter().map(|of| of.started.get())
    }

    /// How long the calls of each of [`METHODS`] took that have ended with each of [`CODES`], in
    /// nanoseconds; None where there were none.
    pub fn handled(&self) -> impl Iterator<Item = [Option<Distribution>; CODES.len()]> {
        self.0.methods.iter().map(|of| of.handled.each_ref().map(|it| it.get().map(Histogram::get)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Literals in capitals are reasons where statuses are made, and where those of transfers are
    /// named.
    #[test]
    fn every_reason_of_the_wire_is_counted_by_its_name() {
        let source = concat!(include_str!("status.rs"), include_str!("../domain/transfer.rs"));
        let literals: Vec<_> = source.split('"').skip(1).step_by(2).collect();
        let is_reason = |text: &&&str| {
            text.len() > 4 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        };
        let reasons: Vec<_> = literals.iter().filter(is_reason).collect();
        assert!(reasons.len() > 20, "{reasons:?}");
        for reason in reasons {
            assert!(REASONS.contains(reason), "{reason} would be counted as {OTHER}");
        }
        let readme = fs::read_to_string("README.md").unwrap();
        for reason in REASONS.iter().filter(|reason| **reason != OTHER) {
            assert!(source.contains(&format!("\"{reason}\"")), "nothing is refused for {reason}");
            assert!(readme.contains(&format!("`{reason}`")), "{reason} is not in the README");
        }
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let refusals = Refusals::default();
        refusals.count(Some("STARTING"));
        refusals.count(Some("STARTING"));
        refusals.count(Some("NOT_OURS"));
        refusals.count(None);
        let counted: Vec<_> = refusals.get().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("STARTING", 2), (OTHER, 2)]);
    }

    #[test]
    fn codes_are_named_by_their_numbers() {
        for (number, name) in (0..).zip(CODES) {
            let code = format!("{:?}", Code::from_i32(number));
            let spelt = match code.as_str() {
                "Ok" => "OK",
                "Cancelled" => "Canceled",
                other => other,
            };
            assert_eq!(spelt, name);
            let in_capitals = STATUS_NAMES[usize::try_from(number).unwrap()].replace('_', "");
            let cancelled = if name == "Canceled" { "CANCELLED" } else { name };
            assert_eq!(in_capitals, cancelled.to_uppercase());
        }
    }
}
