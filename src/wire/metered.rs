//! Metered calls: what stands before everything else, and sees each call begin and end.
//!
//! It decides nothing and changes no answer. A call ends when its status is known: with the answer,
//! for a stream with its last word, and where the caller has left before, when that is noticed.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use hyper::body::{Frame, SizeHint};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Bytes, Service, http},
};

use super::{
    Peer,
    call_line::{self, Ended, Ids},
    guarded,
    meter::{self, Meter, STATUS_NAMES},
    methods::{self, METHODS},
};
use crate::{
    domain::Principal,
    ops::traces::{CallSpan, Headers, Traces},
};

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// A service whose calls are counted. Cheap to clone.
#[derive(Clone)]
pub struct Metered<S> {
    service: S,
    meter: Meter,
}

impl<S> Metered<S> {
    /// Counts the calls of `service` with `meter`.
    #[must_use]
    pub fn new(service: S, meter: Meter) -> Self {
        Self { service, meter }
    }
}

impl<S> Service<Request> for Metered<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Named + Unpin,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // A call that cannot be counted is carried out all the same.
        let call = guarded::attempt(|| Call::begin(self.meter.clone(), &request)).ok();
        Answer { call, coming: self.service.call(request) }
    }
}

/// An answer that is still to come, and for whom.
pub trait Named {
    /// Who the call is from, if anybody has found that out: the line of the call tells it.
    fn caller(&self) -> Option<&Principal>;
}

/// A call that has begun. Dropped before its end is known, its caller has left.
struct Call {
    meter: Meter,
    method: usize,
    begun: Instant,
    peer: Option<Peer>,
    principal: Option<Principal>,
    /// None where nobody wants them.
    ids: Ids,
    /// None where there are no traces, and once it has ended.
    span: Option<CallSpan>,
    has_ended: bool,
}

impl Call {
    fn begin(meter: Meter, request: &Request) -> Self {
        let method = methods::place(request.uri().path());
        meter.begin(method);
        let peer = request.extensions().get::<Peer>().cloned();
        let is_wanted = call_line::is_wanted();
        let ids = if is_wanted { Ids::of(request.headers()) } else { Ids::default() };
        let span = meter.traces().map(|traces| begin_span(traces, method, request));
        let (principal, begun) = (None, Instant::now());
        Self { meter, method, begun, peer, principal, ids, span, has_ended: false }
    }

    fn is_stream(&self) -> bool {
        METHODS.get(self.method).is_some_and(|method| method.kind.is_stream())
    }

    fn end(&mut self, code: Code, reason: Option<&'static str>) {
        if code != Code::Ok {
            self.meter.refuse(reason);
        }
        self.close(code, reason);
    }

    fn close(&mut self, code: Code, reason: Option<&'static str>) {
        self.has_ended = true;
        let took = self.begun.elapsed();
        self.meter.end(self.method, code, took);
        let has_line = call_line::is_fault(code, reason) || call_line::is_wanted();
        if let Some(span) = self.span.take() {
            if has_line && self.ids.trace.is_none() {
                self.ids.trace = Some(span.trace_id().into());
            }
            span.end(status_name(code));
        }
        if has_line {
            let peer: Option<SocketAddr> = self.peer.as_ref().map(Peer::address);
            let principal = self.principal.as_ref().map(Principal::as_str);
            let (method, ids) = (self.method, &self.ids);
            let ended = Ended { method, code, reason, took, peer, principal, ids };
            call_line::tell(&ended, self.meter.warnings());
        }
    }
}

fn begin_span(traces: &Traces, method: usize, request: &Request) -> CallSpan {
    let known = METHODS.get(method).filter(|method| **method != methods::OTHER);
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let peer = request.extensions().get::<Peer>();
    let peer = peer.map(|peer| (peer.host(), peer.address().port()));
    traces.begin(known.map(|method| method.full_name), &Headers(&header), peer)
}

fn status_name(code: Code) -> &'static str {
    let number = usize::try_from(i32::from(code)).ok();
    number.and_then(|number| STATUS_NAMES.get(number)).copied().unwrap_or_default()
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.has_ended {
            self.close(Code::Cancelled, None);
        }
    }
}

/// An answer that is still to come.
pub struct Answer<F> {
    /// None once it is there, and where counting it has panicked.
    call: Option<Call>,
    coming: F,
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response, Infallible>> + Named + Unpin,
{
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(answer) = ready!(Pin::new(&mut self.coming).poll(context));
        let Some(mut call) = self.call.take() else { return Poll::Ready(Ok(answer)) };
        call.principal = self.coming.caller().cloned();
        match code(answer.headers()) {
            Some(code) => call.end(code, reason_of(&answer)),
            // Without a status it is no answer of gRPC.
            None if answer.status() != http::StatusCode::OK => call.end(Code::Unknown, None),
            None if call.is_stream() => {
                return Poll::Ready(Ok(answer.map(|body| Body::new(Stream { body, call }))));
            }
            // What follows is the one message, and that all is well.
            None => call.end(Code::Ok, None),
        }
        Poll::Ready(Ok(answer))
    }
}

/// The code that headers or trailers tell.
fn code(headers: &http::HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Why a call was answered without a message.
fn reason_of(answer: &Response) -> Option<&'static str> {
    match answer.extensions().get::<Status>() {
        Some(status) => meter::reason(status),
        None => meter::reason(&Status::from_header_map(answer.headers())?),
    }
}

/// The messages of a stream, and its end.
struct Stream {
    body: Body,
    call: Call,
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    let reason = status.as_ref().and_then(meter::reason);
                    self.call.end(status.map_or(Code::Unknown, |status| status.code()), reason);
                }
            }
            Some(Err(status)) => self.call.end(status.code(), meter::reason(status)),
            None if !self.call.has_ended => self.call.end(Code::Unknown, None),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {

    use tracing::instrument::WithSubscriber as _;
    use tracing_subscriber::{Layer as _, filter::Targets, fmt, layer::SubscriberExt as _};

    use super::*;
    use crate::{ops::telemetry::tests::Lines, wire::status};

    /// Answers everything in one way, for a caller with a name.
    #[derive(Clone)]
    struct Always(Status);

    /// What it answers, and for whom.
    struct Answered(Status, Principal);

    impl Future for Answered {
        type Output = Result<Response, Infallible>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(self.0.clone().into_http()))
        }
    }

    impl Named for Answered {
        fn caller(&self) -> Option<&Principal> {
            Some(&self.1)
        }
    }

    impl Service<Request> for Always {
        type Response = Response;
        type Error = Infallible;
        type Future = Answered;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request) -> Self::Future {
            Answered(self.0.clone(), Principal::new("teller").unwrap())
        }
    }

    /// What is logged of so many calls that are answered with a status.
    async fn lines(level: &str, status: Status, calls: usize) -> Vec<serde_json::Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
        let layer = layer.with_filter(level.parse::<Targets>().unwrap());
        let subscriber = tracing_subscriber::registry().with(layer);
        let mut service = Metered::new(Always(status), Meter::default());
        async {
            for _ in 0..calls {
                let mut request = Request::new(Body::empty());
                *request.uri_mut() = "/daybook.v1.QueryService/GetStats".parse().unwrap();
                let peer = Peer::new("192.0.2.7:99".parse().unwrap(), None);
                request.extensions_mut().insert(peer);
                let headers = request.headers_mut();
                let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
                headers.insert("traceparent", parent.parse().unwrap());
                headers.insert("x-request-id", "r-5".parse().unwrap());
                headers.insert("authorization", "Bearer CANARY".parse().unwrap());
                service.call(request).await.unwrap();
            }
        }
        .with_subscriber(subscriber)
        .await;
        let text = lines.text();
        assert!(!text.contains("CANARY"), "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn every_call_has_a_line_at_debug() {
        let lines = lines("daybook::call=debug", status::beyond_head("position", 7), 1).await;
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        for (field, value) in [
            ("level", "DEBUG"),
            ("service", "daybook.v1.QueryService"),
            ("name", "GetStats"),
            ("code", "OutOfRange"),
            ("reason", "BEYOND_HEAD"),
            ("peer", "192.0.2.7:99"),
            ("principal", "teller"),
            ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("request_id", "r-5"),
        ] {
            assert_eq!(line[field], value, "{field}: {line}");
        }
        assert!(line["micros"].is_u64(), "{line}");
    }

    #[tokio::test]
    async fn by_default_only_faults_have_lines_and_not_too_many() {
        let refused = status::beyond_head("position", 7);
        assert_eq!(lines("info", refused, 20).await, Vec::<serde_json::Value>::new());
        assert_eq!(lines("info", status::starting(), 20).await, Vec::<serde_json::Value>::new());
        let lines = lines("info", status::panicked(), 100).await;
        // A second may begin meanwhile.
        assert!((10..=20).contains(&lines.len()), "{}", lines.len());
        assert_eq!((&lines[0]["level"], &lines[0]["code"]), (&"WARN".into(), &"Internal".into()));
    }
}
