//! Elsewhere: where calls go while the ledger is another process's. That one decides them as it
//! decides its own: who calls, by when, and under which request id goes along as it came.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    codegen::{
        BoxFuture, Service as _,
        http::{self, HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION},
    },
    transport::Channel,
};
use tracing::warn;

use super::{PassedOn, Queries, entrance::Visit, guarded, lane::Method, nearby::Nearby, status};

/// Says that a call has come from another process of the same ledger, and goes nowhere else.
const FORWARDED: HeaderName = HeaderName::from_static("daybook-forwarded");
/// How many connections to the owner calls are spread over: each takes a few hundred at once.
const CONNECTIONS: usize = 8;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Makes a connection to an address, when it is used first.
pub type Connect = Arc<dyn Fn(&str) -> Option<Channel> + Send + Sync>;

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
    nearby: Nearby,
}

struct Connections {
    address: String,
    channels: Vec<Channel>,
    next: AtomicUsize,
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
        Self { owner, connect, connections: Arc::default(), stopping, passed_on, nearby }
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
        let Some(mut channel) = self.channel(&address) else {
            self.passed_on.owner_unreachable.increment();
            return Err(Box::new((request, status::owner_unreachable(&address))));
        };
        let (request, stopping) = (outgoing(request), self.stopping.clone());
        let (owner, passed_on) = (self.owner.clone(), Arc::clone(&self.passed_on));
        Ok(Box::pin(async move {
            let answering = async {
                poll_fn(|context| channel.poll_ready(context)).await?;
                channel.call(request).await
            };
            let answer = tokio::select! {
                biased;
                answer = answering => answer.map_err(|error| error.to_string()),
                () = has_gone(owner.clone(), &address) => Err("it owns it no more".to_owned()),
            };
            Ok(match answer {
                Ok(answer) => {
                    passed_on.answered.increment();
                    let broken = Some(status::owner_unreachable(&address));
                    guarded::ending(answer, ended(visit, stopping, owner, address), broken)
                }
                Err(error) => {
                    passed_on.owner_unreachable.increment();
                    warn!(error, owner = address, "a call has no answer of the ledger's owner");
                    status::owner_unreachable(&address).into_http()
                }
            })
        }))
    }

    /// One of the connections to an address.
    fn channel(&self, address: &str) -> Option<Channel> {
        let mut kept = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.address != address) {
            let channels = std::iter::repeat_with(|| (self.connect)(address)).take(CONNECTIONS);
            let channels = channels.collect::<Option<Vec<Channel>>>()?;
            let (address, next) = (address.to_owned(), AtomicUsize::new(0));
            *kept = Some(Connections { address, channels, next });
        }
        let Connections { channels, next, .. } = kept.as_ref()?;
        let turn = next.fetch_add(1, Ordering::Relaxed).checked_rem(channels.len())?;
        channels.get(turn).cloned()
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

/// The same call, as it goes out: what only this process knows of it stays.
fn outgoing(request: Request) -> Request {
    let (parts, body) = request.into_parts();
    let mut sent = http::Request::new(body);
    *sent.method_mut() = parts.method;
    *sent.uri_mut() = parts.uri;
    *sent.version_mut() = parts.version;
    let mut headers: HeaderMap = parts.headers;
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    *sent.headers_mut() = headers;
    sent
}
