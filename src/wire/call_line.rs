//! The line of a call: what the log of the process says of it.
//!
//! It is written when the call has ended: at debug, so that by default it costs nothing, and at
//! warn where the fault is the server's. Who makes the server fail again and again cannot fill a
//! disk with it. No line says what a call was about: no account, owner, amount or credential.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tonic::{Code, codegen::http::HeaderMap};
use tracing::{Level, debug, enabled, warn};

use super::{
    meter::CODES,
    methods::{METHODS, Method},
    status,
};

/// How many warnings are written in a second; more would only say the same.
const WARNINGS_PER_SECOND: u64 = 10;
/// How many characters of a request's id are told: a UUID has 36.
const REQUEST_ID_CHARS_MAX: usize = 64;
/// How long a trace's id is, and where it is in a `traceparent`: after the version.
const TRACE_ID_CHARS: usize = 32;
const TRACE_ID_START: usize = 3;

/// What is known of a call that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended<'a> {
    /// The place among [`METHODS`].
    pub(super) method: usize,
    pub(super) code: Code,
    pub(super) reason: Option<&'static str>,
    pub(super) took: Duration,
    pub(super) peer: Option<SocketAddr>,
    pub(super) principal: Option<&'a str>,
    pub(super) ids: &'a Ids,
}

/// What callers name their calls, to find them again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace: Option<Box<str>>,
    request: Option<Box<str>>,
}

impl Ids {
    /// Those of a request.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_trace = |id: &&str| {
            id.len() == TRACE_ID_CHARS && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let end = TRACE_ID_START.saturating_add(TRACE_ID_CHARS);
        let trace = text("traceparent").and_then(|text| text.get(TRACE_ID_START..end));
        let is_request = |id: &&str| {
            id.len() <= REQUEST_ID_CHARS_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let request = text("x-request-id").filter(is_request);
        Self { trace: trace.filter(is_trace).map(Box::from), request: request.map(Box::from) }
    }
}

/// Whether every call has a line now.
pub(super) fn is_wanted() -> bool {
    enabled!(target: "daybook::call", Level::DEBUG)
}

/// Whether it is the server's fault that a call ended so. That it starts or stops is none, nor what
/// its client sends.
pub(super) fn is_fault(code: Code, reason: Option<&'static str>) -> bool {
    match code {
        Code::Internal => reason != Some(status::MESSAGE_MALFORMED),
        Code::Unknown | Code::DataLoss => true,
        Code::Unavailable => !matches!(reason, Some("STARTING" | "STOPPING")),
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => false,
    }
}

/// Writes the line of a call.
pub(super) fn tell(call: &Ended<'_>, ration: &Ration) {
    let Ended { method, code, reason, took, peer, principal, ids } = *call;
    let Some(Method { service, name, full_name: _, kind: _ }) = METHODS.get(method) else { return };
    let code_name = usize::try_from(i32::from(code)).ok().and_then(|code| CODES.get(code));
    let code_name = code_name.copied().unwrap_or_default();
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let peer = peer.map(tracing::field::display);
    let (trace_id, request_id) = (ids.trace.as_deref(), ids.request.as_deref());
    if !is_fault(code, reason) {
        debug!(
            target: "daybook::call",
            service, name, code = code_name, reason, micros, peer, principal, trace_id, request_id,
            "call"
        );
        return;
    }
    if let Some(left_out) = ration.take() {
        warn!(
            target: "daybook::call",
            service, name, code = code_name, reason, micros, peer, principal, trace_id, request_id,
            left_out,
            "a call failed"
        );
    }
}

/// How many lines may still be written in this second.
#[derive(Debug)]
pub(super) struct Ration {
    begun: Instant,
    second: AtomicU64,
    used: AtomicU64,
    left_out: AtomicU64,
}

impl Default for Ration {
    fn default() -> Self {
        let (second, used, left_out) = Default::default();
        Self { begun: Instant::now(), second, used, left_out }
    }
}

impl Ration {
    /// Takes one, if there is one. Gives how many were wanted and not there since the last one.
    pub(super) fn take(&self) -> Option<u64> {
        self.take_in(self.begun.elapsed().as_secs())
    }

    fn take_in(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.used.store(0, Ordering::Relaxed);
        }
        if self.used.fetch_add(1, Ordering::Relaxed) < WARNINGS_PER_SECOND {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_warnings() {
        let ration = Ration::default();
        let taken: Vec<_> = (0..15).map(|_| ration.take_in(7)).collect();
        assert_eq!(taken.iter().flatten().count(), 10);
        assert_eq!(ration.take_in(8), Some(5));
        assert_eq!(ration.take_in(8), Some(0));
    }

    #[test]
    fn ids_are_taken_only_where_they_look_like_some() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            Ids::of(&headers)
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let found = of("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
        assert_eq!(found.trace.as_deref(), Some(trace));
        for bad in ["", "00", "00-4bf92f3577b34da6a3ce929d0e0e473", "00-\u{fc}\u{fc}"] {
            assert_eq!(of("traceparent", bad), Ids::default(), "{bad}");
        }
        assert_eq!(of("x-request-id", "a-1").request.as_deref(), Some("a-1"));
        for bad in ["a b", &"a".repeat(65)] {
            assert_eq!(of("x-request-id", bad), Ids::default(), "{bad}");
        }
    }

    #[test]
    fn only_what_the_server_is_to_blame_for_is_a_fault() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            let expected = [Code::Unknown, Code::Internal, Code::Unavailable, Code::DataLoss];
            assert_eq!(is_fault(code, None), expected.contains(&code), "{code:?}");
        }
        assert!(is_fault(Code::Unavailable, Some("LOG_FAILED")));
        assert!(!is_fault(Code::Unavailable, Some("STOPPING")));
        assert!(!is_fault(Code::Unavailable, Some("STARTING")));
    }
}
