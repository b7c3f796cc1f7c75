//! The front: sends each call to its service, and turns away what would wait too long.
//!
//! It stands before everything else, so that a call that is turned away costs next to nothing:
//! not even its message is read. First of all it asks at the entrance who calls. Health and
//! reflection are never turned away for want of a place, and neither are streams, whose clients are
//! held back instead.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::timeout;

use tonic::{
    Status,
    body::Body,
    codegen::{Body as _, BoxFuture, Bytes, Service, http},
    service::Routes,
};

use super::{
    Commands, Desk, Entrance, Late, Queries, deadline,
    entrance::Visit,
    guarded::{self, Deadline},
    metered::CallerName,
    status,
};
use crate::{
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

const COMMAND_SERVICE: &str = "/daybook.v1.CommandService/";
const QUERY_SERVICE: &str = "/daybook.v1.QueryService/";
/// The methods of both services that are streams.
const STREAMS: [&str; 2] = ["ExecuteStream", "TailEvents"];
const BATCH: &str = "ExecuteBatch";

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
    limits: Limits,
    commands_under_way: Arc<AtomicUsize>,
    queries_under_way: Arc<AtomicUsize>,
    /// What a call is turned away with.
    refused: Status,
}

/// The place of a call under way, until it is dropped.
struct Place(Arc<AtomicUsize>);

/// An answer that is still to come, by when, and the place that its call holds.
pub struct Answer {
    coming: BoxFuture<Response, Infallible>,
    deadline: Deadline,
    message_bytes_max: usize,
    _place: Option<Place>,
    /// Who it is for. Streams keep it themselves, until they end.
    visit: Option<Visit>,
}

impl Front {
    /// In front of the two services and of others, such as health; calls come in by `entrance`.
    /// `desk` is that of the command service.
    #[must_use]
    pub fn new(
        entrance: Entrance,
        commands: CommandServiceServer<Commands>,
        queries: QueryServiceServer<Queries>,
        others: Routes,
        desk: Late<Desk>,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Services {
            entrance,
            commands,
            queries,
            others,
            desk,
            limits,
            commands_under_way: Arc::default(),
            queries_under_way: Arc::default(),
            refused: status::failed(Failure::Overloaded),
        }))
    }

    /// A place for one more call of a service, if there is one.
    fn place(&self, under_way: &Arc<AtomicUsize>, method: &str) -> Option<Place> {
        let before = under_way.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(under_way));
        let fits = before < self.0.limits.calls && (method != BATCH || self.0.takes_batch());
        fits.then_some(place)
    }
}

impl Services {
    /// Whether a batch of any size can be carried out. Asked before the batch is read, which costs
    /// more than anything else that becomes of it.
    fn takes_batch(&self) -> bool {
        self.desk.get().map_or(true, |desk| desk.takes(self.limits.batch_commands))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Answer {
        let said = deadline::timeout(request.headers());
        let message_bytes_max = self.0.limits.message_bytes;
        let answer = |coming, timeout| {
            let deadline = Deadline::after(timeout);
            Answer { coming, deadline, message_bytes_max, _place: None, visit: None }
        };
        let visit = match self.0.entrance.admit(&mut request) {
            Ok(visit) => visit,
            Err(status) => {
                return answer(Box::pin(turned_away(request.into_body(), status)), said);
            }
        };
        let path = request.uri().path();
        let command = path.strip_prefix(COMMAND_SERVICE);
        let Some(method) = command.or_else(|| path.strip_prefix(QUERY_SERVICE)) else {
            let mut others = self.0.others.clone();
            let coming = Box::pin(async move { others.call(request).await });
            return Answer { visit, ..answer(coming, said) };
        };
        let is_command = command.is_some();
        let (mut place, mut timeout) = (None, said);
        if !STREAMS.contains(&method) {
            let of_commands = &self.0.commands_under_way;
            let of_queries = &self.0.queries_under_way;
            let under_way = if is_command { of_commands } else { of_queries };
            place = self.place(under_way, method);
            if place.is_none() {
                let refused = self.0.refused.clone().into_http();
                return answer(Box::pin(async move { Ok(refused) }), None);
            }
            let call_time = self.0.limits.call_time;
            timeout = Some(said.map_or(call_time, |said| said.min(call_time)));
        }
        let coming = if is_command {
            self.0.commands.clone().call(request)
        } else {
            self.0.queries.clone().call(request)
        };
        Answer { _place: place, visit, ..answer(coming, timeout) }
    }
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { coming, deadline, message_bytes_max, visit, .. } = &mut *self;
        let mut answer = match guarded::poll(|| coming.as_mut().poll(context)) {
            Ok(Poll::Ready(Ok(answer))) => explained(answer, *message_bytes_max),
            Ok(Poll::Pending) if deadline.is_over(context) => {
                status::deadline_exceeded().into_http()
            }
            Ok(Poll::Pending) => return Poll::Pending,
            Err(panicked) => panicked.into_http(),
        };
        if let Some(visit) = visit {
            let principal = visit.caller().principal().clone();
            answer.extensions_mut().insert(CallerName(principal));
        }
        Poll::Ready(Ok(answer))
    }
}

/// Hears a caller out that is not let in, as long as that takes little, and tells it so. To answer
/// while it still speaks would make HTTP/2 reset its call, and a connection on which that happens
/// often is closed, with all calls of others on it.
async fn turned_away(mut body: Body, status: Status) -> Result<Response, Infallible> {
    let hear_out = async {
        let mut heard: usize = 0;
        while heard < HEARD_OUT_BYTES_MAX {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            let Some(Ok(frame)) = frame else { return };
            heard = heard.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    let _heard_or_not = timeout(HEARD_OUT_WITHIN, hear_out).await;
    Ok(status.into_http())
}

/// The same answer; or ours, where the transport has refused a message in its own words.
fn explained(answer: Response, message_bytes_max: usize) -> Response {
    let is_out_of_range = answer.headers().get(Status::GRPC_STATUS).is_some_and(|it| it == "11");
    if !is_out_of_range {
        return answer;
    }
    match Status::from_header_map(answer.headers()) {
        Some(status) => status::of_transport(status, message_bytes_max).into_http(),
        None => answer,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    async fn status_of(coming: BoxFuture<Response, Infallible>, timeout: Duration) -> Status {
        let deadline = Deadline::after(Some(timeout));
        let answer = Answer { coming, deadline, message_bytes_max: 0, _place: None, visit: None };
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
