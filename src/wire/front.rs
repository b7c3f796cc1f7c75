//! The front: sends each call to its service, and turns away what would wait too long.
//!
//! It stands before everything else, so that a call that is turned away costs next to nothing:
//! not even its message is read. First of all it asks at the entrance who calls. Health is counted
//! for itself, so that it answers whatever load there is. The clients of a stream that was opened
//! are held back instead.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::timeout;

use tonic::{
    Status,
    body::Body,
    codegen::{
        Body as _, BoxFuture, Bytes, Service,
        http::{self, HeaderValue},
    },
    service::Routes,
};

use super::{
    Commands, Desk, Elsewhere, Entrance, Late, Peer, Queries,
    arriving::Arrivals,
    deadline,
    entrance::Visit,
    form,
    guarded::{self, Deadline},
    held::Held,
    lane::{Lanes, Method, Place},
    leaving::{self, Untaken},
    metered::Named,
    status,
};
use crate::{
    domain::Principal,
    event_store::Failure,
    ops::config::Limits,
    proto::{
        command_service_server::CommandServiceServer, query_service_server::QueryServiceServer,
    },
};

/// How much is heard, in bytes, of what a caller says that is not let in: any message but a large
/// batch.
const HEARD_OUT_BYTES_MAX: usize = 64 * 1024;
/// And for how long: what is on its way arrives by then, also from afar.
const HEARD_OUT_WITHIN: Duration = Duration::from_millis(250);

/// How a server says which compressions it takes.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Takes all calls of a server. Cheap to clone, which is done for every call.
#[derive(Clone)]
pub struct Front(Arc<Services>);

/// What is behind the front.
struct Services {
    entrance: Entrance,
    commands: CommandServiceServer<Commands>,
    queries: QueryServiceServer<Queries>,
    others: Routes,
    /// Where commands go, once the ledger is recovered.
    desk: Late<Desk>,
    /// Where all calls go until then, if it is known.
    elsewhere: Option<Elsewhere>,
    limits: Limits,
    lanes: Lanes,
    arrivals: Arrivals,
    untaken: Untaken,
    /// What a call is turned away with, and what a stream is.
    refused: Status,
    stream_refused: Status,
}

/// An answer that is still to come, by when, and what becomes of it.
pub struct Answer {
    coming: BoxFuture<Response, Infallible>,
    deadline: Deadline,
    message_bytes_max: usize,
    /// Who it is for. Streams keep it themselves, until they end.
    visit: Option<Visit>,
    then: Then,
}

/// What becomes of an answer.
enum Then {
    /// Nothing more: its call was turned away.
    Nothing,
    /// It is one message, and its peer has so long to take it.
    Message { place: Place, time: Duration },
    /// As well, and it may be large. If there is no room for it, it is given up if it was only
    /// read; a command was carried out.
    Large { place: Place, time: Duration, untaken: Untaken, was_read: bool },
    /// A tail has a place of its own as soon as it was opened.
    Tail { place: Place },
    /// A stream keeps its place to its end. Its peer has so long to take each part of it, if that
    /// keeps anything but the part.
    Stream { place: Place, each_within: Option<Duration> },
}

impl Front {
    /// In front of the two services and of others, such as health; calls come in by `entrance`.
    /// `desk` is that of the command service; while there is none, calls go `elsewhere`.
    #[must_use]
    pub fn new(
        entrance: Entrance,
        (commands, desk): (CommandServiceServer<Commands>, Late<Desk>),
        queries: QueryServiceServer<Queries>,
        others: Routes,
        elsewhere: Option<Elsewhere>,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Services {
            entrance,
            commands,
            queries,
            others,
            desk,
            elsewhere,
            lanes: Lanes::default(),
            arrivals: Arrivals::new(limits.message_bytes),
            untaken: Untaken::default(),
            limits,
            refused: status::failed(Failure::Overloaded),
            stream_refused: status::too_many_streams(),
        }))
    }
}

impl Services {
    /// Begins a call: takes it in and sends it to its service, or turns it away.
    fn begin(&self, mut request: Request) -> Answer {
        let said = deadline::timeout(request.headers());
        let turned_away = |request: Request, refused| {
            self.answer(Box::pin(turned_away(request.into_body(), refused)), said)
        };
        if let Some(refused) = form::refusal(&request) {
            return turned_away(request, refused);
        }
        let visit = match self.entrance.admit(&mut request) {
            Ok(visit) => visit,
            Err(status) => return turned_away(request, status.into_http()),
        };
        let method = Method::of(request.uri().path());
        let then = match self.take_in(method, request.extensions().get()) {
            Ok(then) => then,
            Err(refused) => {
                let refused = refused.clone().into_http();
                return self.answer(Box::pin(async move { Ok(refused) }), None);
            }
        };
        // What is opened only has to begin within that time.
        let call_time = self.limits.call_time;
        let timeout = Some(said.map_or(call_time, |said| said.min(call_time)));
        let coming = self.send(method, request);
        Answer { visit, then, ..self.answer(coming, timeout) }
    }

    /// An answer for nobody in particular, of which nothing becomes.
    fn answer(&self, coming: BoxFuture<Response, Infallible>, timeout: Option<Duration>) -> Answer {
        let (deadline, message_bytes_max) = (Deadline::after(timeout), self.limits.message_bytes);
        Answer { coming, deadline, message_bytes_max, visit: None, then: Then::Nothing }
    }

    /// What becomes of the answer to a call that is taken in.
    ///
    /// # Errors
    /// What it is turned away with.
    fn take_in(&self, method: Method, peer: Option<&Peer>) -> Result<Then, &Status> {
        let is_stream = matches!(method, Method::CommandStream | Method::Other);
        let refused = if is_stream { &self.stream_refused } else { &self.refused };
        let place = self.lanes.place(method, &self.limits).ok_or(refused)?;
        if method == Method::Batch && !self.takes_batch() {
            return Err(refused);
        }
        let time = self.limits.call_time;
        Ok(match method {
            Method::Batch | Method::Page => {
                let untaken = self.untaken.of(peer);
                if untaken.is_full() {
                    return Err(refused);
                }
                Then::Large { place, time, untaken, was_read: method == Method::Page }
            }
            Method::Command | Method::Query | Method::Check => Then::Message { place, time },
            Method::Tail => Then::Tail { place },
            Method::CommandStream => Then::Stream { place, each_within: Some(time) },
            Method::Other => Then::Stream { place, each_within: None },
        })
    }

    /// Whether a batch of any size can be carried out. Asked before the batch is read, which costs
    /// more than anything else that becomes of it.
    fn takes_batch(&self) -> bool {
        self.desk.get().map_or(true, |desk| desk.takes(self.limits.batch_commands))
    }

    /// Sends a call to its service, or as it comes to the owner of the ledger.
    fn send(&self, method: Method, request: Request) -> BoxFuture<Response, Infallible> {
        let is_ours = !matches!(method, Method::Check | Method::Other);
        if let Some(elsewhere) = self.elsewhere.as_ref().filter(|_| is_ours)
            && !self.desk.is_there()
        {
            return elsewhere.take(method, request).unwrap_or_else(|back| {
                let (request, refused) = *back;
                Box::pin(turned_away(request.into_body(), refused.into_http()))
            });
        }
        let call_time = self.limits.call_time;
        let mut request = request.map(|body| match method {
            Method::CommandStream | Method::Other => self.arrivals.watch(body, Some(call_time)),
            Method::Batch
            | Method::Command
            | Method::Page
            | Method::Query
            | Method::Tail
            | Method::Check => self.arrivals.watch_one(body),
        });
        if method == Method::CommandStream {
            let held = Held::default();
            request = request.map(|body| held.watch(body, call_time));
            request.extensions_mut().insert(held);
        }
        match method {
            Method::Batch | Method::Command | Method::CommandStream => {
                self.commands.clone().call(request)
            }
            Method::Page | Method::Query | Method::Tail => self.queries.clone().call(request),
            Method::Check | Method::Other => {
                let mut others = self.others.clone();
                let visit = request.extensions().get::<Visit>().cloned();
                Box::pin(async move {
                    let answer = others.call(request).await?;
                    Ok(match visit {
                        Some(visit) => guarded::attended(answer, visit),
                        None => answer,
                    })
                })
            }
        }
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// Runs in the task of the connection, which a panic would end with all calls on it.
    fn call(&mut self, request: Request) -> Answer {
        let services = &self.0;
        guarded::attempt(|| services.begin(request)).unwrap_or_else(|panicked| {
            let panicked = panicked.into_http();
            services.answer(Box::pin(async move { Ok(panicked) }), None)
        })
    }
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { coming, deadline, message_bytes_max, visit: _, then } = &mut *self;
        let answer = match guarded::attempt(|| coming.as_mut().poll(context)) {
            Ok(Poll::Ready(Ok(answer))) => explained(answer, *message_bytes_max),
            Ok(Poll::Pending) if deadline.is_over(context) => {
                status::deadline_exceeded().into_http()
            }
            Ok(Poll::Pending) => return Poll::Pending,
            Err(panicked) => panicked.into_http(),
        };
        let then = std::mem::replace(then, Then::Nothing);
        Poll::Ready(Ok(then.with(answer, context)))
    }
}

impl Named for Answer {
    fn caller(&self) -> Option<&Principal> {
        self.visit.as_ref().map(|visit| visit.caller().principal())
    }
}

impl Then {
    fn with(self, answer: Response, context: &mut Context<'_>) -> Response {
        match self {
            Self::Nothing => answer,
            Self::Message { place, time } => {
                leaving::is_taken_within(time);
                drop(place);
                answer
            }
            Self::Large { place, time, untaken, was_read } => {
                leaving::is_taken_within(time);
                drop(place);
                if was_read && untaken.is_full() {
                    status::failed(Failure::Overloaded).into_http()
                } else {
                    untaken.count(answer, context)
                }
            }
            Self::Tail { place } => {
                drop(place);
                answer
            }
            Self::Stream { place, each_within } => leaving::holding(answer, place, each_within),
        }
    }
}

/// Hears a caller out that is not let in, as long as that takes little, and tells it so. To answer
/// while it still speaks would make HTTP/2 reset its call, and a connection on which that happens
/// often is closed, with all calls of others on it.
async fn turned_away(mut body: Body, refused: Response) -> Result<Response, Infallible> {
    let hear_out = async {
        let mut heard: usize = 0;
        while heard < HEARD_OUT_BYTES_MAX {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            let Some(Ok(frame)) = frame else { return };
            heard = heard.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    let _heard_or_not = timeout(HEARD_OUT_WITHIN, hear_out).await;
    Ok(refused)
}

/// The same answer; or ours, where the transport has refused a message in its own words.
fn explained(answer: Response, message_bytes_max: usize) -> Response {
    // OUT_OF_RANGE, UNIMPLEMENTED and INTERNAL.
    let code = answer.headers().get(Status::GRPC_STATUS).map(HeaderValue::as_bytes);
    if !matches!(code, Some(b"11" | b"12" | b"13")) {
        return answer;
    }
    let Some(status) = Status::from_header_map(answer.headers()) else { return answer };
    if !status.details().is_empty() {
        return answer;
    }
    let mut explained = status::of_transport(status, message_bytes_max).into_http();
    if let Some(encodings) = answer.headers().get(ACCEPT_ENCODING) {
        explained.headers_mut().insert(ACCEPT_ENCODING, encodings.clone());
    }
    explained
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    async fn status_of(coming: BoxFuture<Response, Infallible>, timeout: Duration) -> Status {
        let deadline = Deadline::after(Some(timeout));
        let answer =
            Answer { coming, deadline, message_bytes_max: 0, visit: None, then: Then::Nothing };
        let Ok(response) = answer.await;
        Status::from_header_map(response.headers()).expect("a status")
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_internal_error() {
        let coming = Box::pin(async { panic!("a defect") });
        let status = status_of(coming, Duration::from_secs(10)).await;
        assert_eq!((status.code(), status.message()), (Code::Internal, "an internal error"));
        assert!(!status.details().is_empty(), "with a reason");
    }

    #[tokio::test]
    async fn a_call_ends_at_its_deadline() {
        let status = status_of(Box::pin(std::future::pending()), Duration::from_millis(1)).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
}
