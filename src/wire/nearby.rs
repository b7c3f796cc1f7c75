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

use super::{Elsewhere, Late, Queries, Reads, lane::Method, status};
use crate::proto::query_service_server::QueryServiceServer;

/// How much of a question is kept while the answer is looked for, in bytes: the owner may have to
/// be asked it again. A larger one, such as for a tail of hundreds of accounts, goes to the owner.
const HEARD_BYTES_MAX: usize = 8 * 1024;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Answers reads from what this process has followed of a log that is another's. Cheap to clone.
#[derive(Clone)]
pub(super) struct Nearby {
    queries: QueryServiceServer<Queries>,
    /// Once the log was read to its end for the first time.
    reads: Late<Arc<Reads>>,
}

impl Nearby {
    pub(super) fn new(queries: Queries, message_bytes_max: usize) -> Self {
        let reads = queries.reads.clone();
        Self { queries: queries.served(message_bytes_max), reads }
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
        let mut queries = self.queries.clone();
        Box::pin(async move {
            let (parts, mut body) = request.into_parts();
            let heard = match hear(&mut body).await {
                Ok(heard) => heard,
                Err(status) => return Ok(status.into_http()),
            };
            if heard.len() > HEARD_BYTES_MAX {
                let whole = Body::new(Heard { heard: Some(heard), rest: Some(body) });
                return ask(&elsewhere, Request::from_parts(parts, whole)).await;
            }
            let again = || {
                let whole = Body::new(Heard { heard: Some(heard.clone()), rest: None });
                Request::from_parts(parts.clone(), whole)
            };
            let answer = queries.call(again()).await?;
            if !answer.extensions().get().is_some_and(status::is_for_the_owner) {
                elsewhere.passed_on.answered_nearby.increment();
                return Ok(answer);
            }
            ask(&elsewhere, again()).await
        })
    }
}

/// Asks the owner.
async fn ask(elsewhere: &Elsewhere, request: Request) -> Result<Response, Infallible> {
    match elsewhere.forward(request) {
        Ok(answering) => answering.await,
        Err(back) => Ok(back.1.into_http()),
    }
}

/// All that a caller says; of what is too much, as much as shows that it is.
async fn hear(body: &mut Body) -> Result<Bytes, Status> {
    let mut heard = Vec::new();
    while heard.len() <= HEARD_BYTES_MAX {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            Some(frame) => heard.extend_from_slice(frame?.data_ref().map_or(&[], |data| data)),
            None => break,
        }
    }
    Ok(heard.into())
}

/// What was heard, to be said again, and what was not heard yet.
struct Heard {
    heard: Option<Bytes>,
    rest: Option<Body>,
}

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match (self.heard.take(), &mut self.rest) {
            (Some(heard), _) => Poll::Ready(Some(Ok(Frame::data(heard)))),
            (None, Some(rest)) => Pin::new(rest).poll_frame(context),
            (None, None) => Poll::Ready(None),
        }
    }
}
