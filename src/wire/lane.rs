//! Lanes: which calls are counted together, so that none is in the way of another kind.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::ops::config::Limits;

const COMMAND_SERVICE: &str = "/daybook.v1.CommandService/";
const QUERY_SERVICE: &str = "/daybook.v1.QueryService/";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const BATCH: &str = "ExecuteBatch";
/// Of the command service the method that is a stream.
const STREAM: &str = "ExecuteStream";
/// That of the query service. It has a limit of its own once its question was read.
const TAIL: &str = "TailEvents";
/// What the methods begin with whose answers are pages.
const PAGES: &str = "List";

/// What is known of a call by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// A batch of commands: large, and so may be its answer.
    Batch,
    /// Another call of the command service.
    Command,
    /// A stream of commands.
    CommandStream,
    /// A page of a list, which may be large.
    Page,
    /// Another call of the query service.
    Query,
    /// A tail.
    Tail,
    /// A check of health.
    Check,
    /// A watch of health, reflection, or what nobody knows.
    Other,
}

impl Method {
    pub(super) fn of(path: &str) -> Self {
        if let Some(method) = path.strip_prefix(COMMAND_SERVICE) {
            return match method {
                BATCH => Self::Batch,
                STREAM => Self::CommandStream,
                _ => Self::Command,
            };
        }
        if let Some(method) = path.strip_prefix(QUERY_SERVICE) {
            return match method {
                TAIL => Self::Tail,
                method if method.starts_with(PAGES) => Self::Page,
                _ => Self::Query,
            };
        }
        if path == HEALTH_CHECK { Self::Check } else { Self::Other }
    }
}

/// How many calls of each lane there are.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    commands: Arc<AtomicUsize>,
    queries: Arc<AtomicUsize>,
    /// Tails that are not open yet: reads that wait are not in their way.
    tails: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
    command_streams: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
}

impl Lanes {
    /// A place for one more call, if there is one.
    pub(super) fn place(&self, method: Method, limits: &Limits) -> Option<Place> {
        let (lane, most) = match method {
            Method::Batch | Method::Command => (&self.commands, limits.calls),
            Method::Page | Method::Query => (&self.queries, limits.calls),
            Method::Tail => (&self.tails, limits.calls),
            Method::Check => (&self.checks, limits.calls),
            Method::CommandStream => (&self.command_streams, limits.command_streams),
            Method::Other => (&self.streams, limits.streams),
        };
        let before = lane.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(lane));
        (before < most).then_some(place)
    }
}

/// The place of a call, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_methods() {
        for (path, method) in [
            ("/daybook.v1.CommandService/ExecuteBatch", Method::Batch),
            ("/daybook.v1.CommandService/DepositMoney", Method::Command),
            ("/daybook.v1.CommandService/ExecuteStream", Method::CommandStream),
            ("/daybook.v1.QueryService/ListAccountEvents", Method::Page),
            ("/daybook.v1.QueryService/GetStats", Method::Query),
            ("/daybook.v1.QueryService/TailEvents", Method::Tail),
            ("/grpc.health.v1.Health/Check", Method::Check),
            ("/grpc.health.v1.Health/Watch", Method::Other),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Method::Other),
            ("/daybook.v1.CommandService", Method::Other),
            ("*", Method::Other),
        ] {
            assert_eq!(Method::of(path), method, "{path}");
        }
    }

    #[test]
    fn lanes_do_not_share_their_places() {
        let (lanes, limits) = (
            Lanes::default(),
            Limits { calls: 2, command_streams: 1, streams: 1, ..Limits::default() },
        );
        let place = |method| lanes.place(method, &limits);
        let (first, _second) = (place(Method::Batch).unwrap(), place(Method::Command).unwrap());
        assert!(place(Method::Command).is_none());
        let _streams = (place(Method::CommandStream).unwrap(), place(Method::Other).unwrap());
        assert!(place(Method::CommandStream).is_none());
        assert!(place(Method::Other).is_none());
        let _queries = (place(Method::Query).unwrap(), place(Method::Page).unwrap());
        assert!(place(Method::Query).is_none());
        assert!(place(Method::Tail).is_some());
        assert!(place(Method::Check).is_some());
        drop(first);
        assert!(place(Method::Batch).is_some());
    }
}
