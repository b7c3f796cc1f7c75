//! Elsewhere: where calls go while the ledger is another process's. That one decides them as it
//! decides its own: who calls, by when, and under which request id goes along as it came.

use std::{
    convert::Infallible,
    error::Error,
    future::{pending, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use hyper::body::Frame;
use tokio::sync::{oneshot, watch};
use tonic::{
    Status, TimeoutExpired,
    body::Body,
    codegen::{
        Body as HttpBody, BoxFuture, Bytes, Service as _,
        http::{self, HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION},
    },
    transport::{self, Channel, Endpoint},
};
use tracing::warn;

use super::{
    PassedOn, Peer, Queries, call_line::Ration, entrance::Visit, guarded, lane::Method,
    nearby::Nearby, status,
};

/// Says that a call has come from another process of the same ledger, and goes nowhere else; and
/// where it came from before, if that is known.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("daybook-forwarded");
/// Over how many connections to the owner calls are spread: each takes a few hundred at once.
const CONNECTIONS: usize = 8;
/// Over how many further ones streams of commands go, one each: less than the connections that a
/// server takes from one address.
const STREAMS_ALONE_MAX: usize = 64;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Knows how to connect to an address.
pub type Connect = Arc<dyn Fn(&str) -> Option<Endpoint> + Send + Sync>;

/// Whose the ledger is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// Nobody's, or it is not known whose.
    #[default]
    Unknown,
    /// Another process's, which is reached at this address.
    Other(String),
    /// This process's, or about to be.
    Ours,
}

/// Where the owner of the ledger is, while that is another process. Cheap to clone.
#[derive(Clone)]
pub struct Elsewhere {
    owner: watch::Receiver<Whose>,
    connect: Connect,
    connections: Arc<Mutex<Option<Connections>>>,
    stopping: watch::Receiver<bool>,
    pub(super) passed_on: Arc<PassedOn>,
    warnings: Arc<Ration>,
    nearby: Nearby,
}

struct Connections {
    address: String,
    endpoint: Endpoint,
    lines: Vec<Line>,
    next: usize,
    /// A copy is with each stream that has a connection of its own.
    alone: Arc<()>,
}

/// A connection to the owner. Each call that goes over it has a copy.
#[derive(Clone)]
struct Line {
    channel: Channel,
    calls: Arc<()>,
}

impl Connections {
    fn new(address: &str, endpoint: Endpoint) -> Self {
        // Each is made when it is used first.
        let line = || Line { channel: endpoint.connect_lazy(), calls: Arc::default() };
        let lines = std::iter::repeat_with(line).take(CONNECTIONS).collect();
        Self { address: address.to_owned(), endpoint, lines, next: 0, alone: Arc::default() }
    }

    /// The one for one more call: of those with the fewest, each in turn. A stream of commands has
    /// one of its own: what waits in it until its answers are taken would fill the window that all
    /// calls of a connection have together.
    fn line(&mut self, method: Method) -> Option<Line> {
        if method == Method::CommandStream && Arc::strong_count(&self.alone) <= STREAMS_ALONE_MAX {
            let calls = Arc::clone(&self.alone);
            return Some(Line { channel: self.endpoint.connect_lazy(), calls });
        }
        self.next = self.next.wrapping_add(1).checked_rem(self.lines.len())?;
        let (before, after) = self.lines.split_at_checked(self.next)?;
        let in_turn = after.iter().chain(before);
        in_turn.min_by_key(|line| Arc::strong_count(&line.calls)).cloned()
    }
}

impl Elsewhere {
    /// Follows where the owner is, until `stopping` says so: then answers that go on end. Counts
    /// what becomes of calls. Reads are answered by `queries` where that is possible, once they
    /// have something to read, from messages of at most `message_bytes_max`.
    #[must_use]
    pub fn new(
        owner: watch::Receiver<Whose>,
        connect: Connect,
        stopping: watch::Receiver<bool>,
        passed_on: Arc<PassedOn>,
        queries: Queries,
        message_bytes_max: usize,
    ) -> Self {
        let nearby = Nearby::new(queries, message_bytes_max);
        let (connections, warnings) = Default::default();
        Self { owner, connect, connections, stopping, passed_on, warnings, nearby }
    }

    /// Takes a call while the ledger is another process's; gives it back where nobody can answer.
    ///
    /// # Errors
    /// The status of a call that nobody can answer.
    pub(super) fn take(
        &self,
        method: Method,
        request: Request,
    ) -> Result<BoxFuture<Response, Infallible>, Box<(Request, Status)>> {
        if self.nearby.may_answer(method) {
            Ok(self.nearby.answer(request, self.clone()))
        } else {
            self.forward(request)
        }
    }

    /// Sends a call to the owner; gives it back where there is none, or none is known.
    ///
    /// # Errors
    /// The status of a call that cannot go there.
    pub(super) fn forward(
        &self,
        request: Request,
    ) -> Result<BoxFuture<Response, Infallible>, Box<(Request, Status)>> {
        let Whose::Other(address) = self.owner.borrow().clone() else {
            self.passed_on.owner_unknown.increment();
            return Err(Box::new((request, status::starting())));
        };
        let visit = request.extensions().get::<Visit>().cloned();
        let is_of_certificate = visit.is_some() && !request.headers().contains_key(AUTHORIZATION);
        if request.headers().contains_key(&FORWARDED) || is_of_certificate {
            self.passed_on.not_owner.increment();
            return Err(Box::new((request, status::not_owner(&address))));
        }
        let Some(mut line) = self.line(&address, Method::of(request.uri().path())) else {
            self.passed_on.owner_unreachable.increment();
            return Err(Box::new((request, status::owner_unreachable(&address))));
        };
        let (given_up, waits) = oneshot::channel();
        let (request, stopping) = (outgoing(request, waits), self.stopping.clone());
        let (owner, passed_on) = (self.owner.clone(), Arc::clone(&self.passed_on));
        let warnings = Arc::clone(&self.warnings);
        Ok(Box::pin(async move {
            let answering = async {
                poll_fn(|context| line.channel.poll_ready(context)).await?;
                line.channel.call(request).await
            };
            let answer = tokio::select! {
                biased;
                answer = answering => answer.map_err(Unanswered::of),
                () = has_gone(owner.clone(), &address) => Err(Unanswered::Taken),
            };
            Ok(match answer {
                Ok(answer) => {
                    passed_on.answered.increment();
                    let broken = Some(status::owner_unreachable(&address));
                    let ended = ended(visit, stopping, owner, address);
                    let ended = async move {
                        let _until_then = (line, given_up);
                        ended.await
                    };
                    guarded::ending(answer, ended, broken)
                }
                Err(Unanswered::Late) => status::deadline_exceeded().into_http(),
                Err(why) => {
                    passed_on.owner_unreachable.increment();
                    if let Some(left_out) = warnings.take() {
                        let error = why.to_string();
                        let what = "a call has no answer of the ledger's owner";
                        warn!(error, owner = address, left_out, "{what}");
                    }
                    status::owner_unreachable(&address).into_http()
                }
            })
        }))
    }

    /// A connection to an address, for one more call.
    fn line(&self, address: &str, method: Method) -> Option<Line> {
        let mut kept = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.address != address) {
            *kept = Some(Connections::new(address, (self.connect)(address)?));
        }
        kept.as_mut()?.line(method)
    }
}

/// Why the owner has not answered.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// The deadline of the call is over.
    #[error("in time")]
    Late,
    /// The ledger is another one's.
    #[error("it owns it no more")]
    Taken,
    /// The connection has failed.
    #[error("{0}")]
    Broken(transport::Error),
}

impl Unanswered {
    fn of(error: transport::Error) -> Self {
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        if { causes }.any(<dyn Error>::is::<TimeoutExpired>) {
            Self::Late
        } else {
            Self::Broken(error)
        }
    }
}

/// Waits until the ledger is somebody else's than this owner's. One that is cut off may never
/// answer, nor notice: whoever waits for it would do so for ever.
async fn has_gone(mut owner: watch::Receiver<Whose>, address: &str) {
    let is_another = |whose: &Whose| match whose {
        Whose::Unknown => false,
        Whose::Other(now) => now != address,
        Whose::Ours => true,
    };
    if owner.wait_for(is_another).await.is_err() {
        // Nobody follows it any more: the server stops.
        pending::<()>().await;
    }
}

/// Waits until the caller is not let in any more, the ledger is not this owner's, or the server
/// stops.
async fn ended(
    visit: Option<Visit>,
    mut stopping: watch::Receiver<bool>,
    owner: watch::Receiver<Whose>,
    address: String,
) -> Status {
    let visited = async {
        match visit {
            Some(visit) => visit.ended().await,
            None => pending().await,
        }
    };
    tokio::select! {
        status = visited => status,
        _ = stopping.wait_for(|stopping| *stopping) => status::stopping(),
        () = has_gone(owner, &address) => status::owner_unreachable(&address),
    }
}

/// What a caller says, as long as somebody waits for the answer. The call is reset then at both
/// ends: nothing that is said later is carried out, and heard by nobody.
struct Outgoing {
    body: Body,
    waits: oneshot::Receiver<Infallible>,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if Pin::new(&mut self.waits).poll(context).is_ready() {
            return Poll::Ready(Some(Err(Status::cancelled("nobody waits for the answer"))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The same call, as it goes out: what only this process knows of it stays.
fn outgoing(request: Request, waits: oneshot::Receiver<Infallible>) -> Request {
    let (parts, body) = request.into_parts();
    let mut sent = http::Request::new(Body::new(Outgoing { body, waits }));
    *sent.method_mut() = parts.method;
    *sent.uri_mut() = parts.uri;
    *sent.version_mut() = parts.version;
    let mut headers: HeaderMap = parts.headers;
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.address().to_string());
    let peer = peer.and_then(|peer| HeaderValue::try_from(peer).ok());
    headers.insert(FORWARDED, peer.unwrap_or(HeaderValue::from_static("-")));
    *sent.headers_mut() = headers;
    sent
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A caller that may go on.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[test]
    fn nothing_more_is_said_once_nobody_waits_for_the_answer() {
        let (given_up, waits) = oneshot::channel();
        let mut outgoing = Outgoing { body: Body::new(Silent), waits };
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut outgoing).poll_frame(&mut context).is_pending());
        drop(given_up);
        let polled = Pin::new(&mut outgoing).poll_frame(&mut context);
        assert!(matches!(polled, Poll::Ready(Some(Err(_)))), "both ends are reset by that");
    }
}
