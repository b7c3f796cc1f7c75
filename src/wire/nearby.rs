//! Nearby: reads and tails that a server answers by itself while the ledger is another's. It
//! follows the log, and may answer whoever says how new what is read has to be, or where to begin;
//! all others ask the owner.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::Frame;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, BoxFuture, Bytes, Service as _, http},
};

use super::{
    Elsewhere, Late, Queries, Reads,
    arriving::{Arrivals, Kept},
    lane::Method,
    status,
};
use crate::proto::query_service_server::QueryServiceServer;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Answers reads from what this process has followed of a log that is another's. Cheap to clone.
#[derive(Clone)]
pub(super) struct Nearby {
    queries: QueryServiceServer<Queries>,
    /// Once the log was read to its end for the first time.
    reads: Late<Arc<Reads>>,
    /// What is kept of questions while they may have to be asked again.
    arrivals: Arrivals,
}

impl Nearby {
    pub(super) fn new(queries: Queries, message_bytes_max: usize) -> Self {
        let reads = queries.reads.clone();
        let arrivals = Arrivals::new(message_bytes_max);
        Self { queries: queries.served(message_bytes_max), reads, arrivals }
    }

    /// Whether it may have an answer to such a call.
    pub(super) fn may_answer(&self, method: Method) -> bool {
        let is_read = matches!(method, Method::Page | Method::Query | Method::Tail);
        is_read && self.reads.is_there()
    }

    /// Answers a call, or sends it to the owner.
    pub(super) fn answer(
        &self,
        request: Request,
        elsewhere: Elsewhere,
    ) -> BoxFuture<Response, Infallible> {
        let (mut queries, arrivals) = (self.queries.clone(), self.arrivals.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (heard, _kept) = match hear(body, &arrivals).await {
                Ok(heard) => heard,
                Err(status) => return Ok(status.into_http()),
            };
            let again =
                || Request::from_parts(parts.clone(), Body::new(Heard(Some(heard.clone()))));
            let answer = queries.call(again()).await?;
            if !answer.extensions().get().is_some_and(status::is_for_the_owner) {
                elsewhere.passed_on.answered_nearby.increment();
                return Ok(answer);
            }
            match elsewhere.forward(again()) {
                Ok(answering) => answering.await,
                Err(back) => Ok(back.1.into_http()),
            }
        })
    }
}

/// All that a caller says; of what is too much, as much as shows that it is. It is counted until
/// the other half is dropped.
async fn hear(mut body: Body, arrivals: &Arrivals) -> Result<(Bytes, Kept), Status> {
    let mut heard = Vec::new();
    while heard.len() <= arrivals.message_bytes_max() {
        match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(frame) => heard.extend_from_slice(frame?.data_ref().map_or(&[], |data| data)),
            None => break,
        }
    }
    let kept = arrivals.keep(heard.capacity())?;
    Ok((heard.into(), kept))
}

/// What was heard, to be said again.
struct Heard(Option<Bytes>);

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}
