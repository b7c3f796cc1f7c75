//! Guarded calls: what becomes of a call when its caller has waited long enough, or when a defect
//! of ours panics in it. Neither may harm another call, and both have a status of their own.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes, http},
};

use super::{entrance::Visit, status};

/// The time until a call's deadline; never over where there is none.
pub(super) struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// Begins to wait.
    pub(super) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.map(|timeout| Box::pin(sleep(timeout))))
    }

    /// Whether it is over; if not, the task is woken when it is.
    pub(super) fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.0.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready())
    }
}

/// Does some work of a call, such as to poll it.
///
/// # Errors
/// An internal error when it panics. The panic itself was told by its hook.
pub(super) fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, Status> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| status::panicked())
}

/// Waits for what runs beside its call, in a task of its own.
///
/// # Errors
/// An internal error when it panics.
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Status> {
    let mut work = pin!(work);
    poll_fn(|context| match attempt(|| work.as_mut().poll(context)) {
        Ok(polled) => polled.map(Ok),
        Err(status) => Poll::Ready(Err(status)),
    })
    .await
}

/// How much longer than its caller said a stream goes on: nearly all callers look at their own
/// clock, and are not to be told the same by both at once, in one way or the other.
const STREAM_GRACE: Duration = Duration::from_millis(100);

/// The messages of a stream.
pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream that ends soon after its caller's deadline, when its caller is not let in any more,
/// and when it panics. Until then it has the place of its caller.
pub(super) fn guarded<T: 'static>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    timeout: Option<Duration>,
    visit: Option<Visit>,
) -> Messages<T> {
    let deadline = Deadline::after(timeout.map(|timeout| timeout.saturating_add(STREAM_GRACE)));
    let visit = visit.map(|visit| -> Ended { Box::pin(visit.ended()) });
    Box::pin(Guarded { messages: Some(Box::pin(messages)), deadline, visit })
}

/// The same answer of a service that is not ours. It ends as well when its caller is not let in any
/// more.
pub(super) fn attended(answer: http::Response<Body>, visit: Visit) -> http::Response<Body> {
    ending(answer, visit.ended(), None)
}

/// The same answer. It ends as well once there is something to end it with, and when it breaks off,
/// if there is something to say then.
pub(super) fn ending(
    answer: http::Response<Body>,
    ended: impl Future<Output = Status> + Send + 'static,
    broken: Option<Status>,
) -> http::Response<Body> {
    let ended: Ended = Box::pin(ended);
    answer.map(|body| Body::new(Ending { open: Some((body, ended)), broken }))
}

struct Ending {
    /// None once it was cut.
    open: Option<(Body, Ended)>,
    broken: Option<Status>,
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some((body, ended)) = &mut self.open else { return Poll::Ready(None) };
        let status = if let Poll::Ready(status) = ended.as_mut().poll(context) {
            status
        } else {
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Err(error))) => match self.broken.take() {
                    Some(status) => status,
                    None => return Poll::Ready(Some(Err(error))),
                },
                polled @ (Poll::Pending | Poll::Ready(None | Some(Ok(_)))) => return polled,
            }
        };
        self.open = None;
        Poll::Ready(Some(trailers(&status)))
    }

    fn is_end_stream(&self) -> bool {
        self.open.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map(|(body, _)| body.size_hint()).unwrap_or_default()
    }
}

/// The end of an answer that has begun.
fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = http::HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

/// Waits until a caller may not go on.
type Ended = Pin<Box<dyn Future<Output = Status> + Send>>;

struct Guarded<T> {
    /// None once it has ended.
    messages: Option<Messages<T>>,
    deadline: Deadline,
    visit: Option<Ended>,
}

impl<T> Stream for Guarded<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { messages, deadline, visit } = &mut *self;
        let Some(open) = messages else { return Poll::Ready(None) };
        let ended = visit.as_mut().map(|visit| visit.as_mut().poll(context));
        let status = if deadline.is_over(context) {
            status::deadline_exceeded()
        } else if let Some(Poll::Ready(status)) = ended {
            status
        } else {
            match attempt(|| open.as_mut().poll_next(context)) {
                Ok(polled) => return polled,
                Err(status) => status,
            }
        };
        *messages = None;
        *visit = None;
        Poll::Ready(Some(Err(status)))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::stream;
    use tonic::Code;

    use super::*;

    fn next<T>(messages: &mut Messages<T>) -> Poll<Option<Result<T, Status>>> {
        messages.as_mut().poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_stream_that_panics_ends_with_an_internal_error() {
        let mut left = 2;
        let mut messages = guarded(
            stream::poll_fn(move |_| {
                left -= 1;
                assert!(left > 0, "a defect");
                Poll::Ready(Some(Ok(left)))
            }),
            None,
            None,
        );
        assert!(matches!(next(&mut messages), Poll::Ready(Some(Ok(1)))));
        let Poll::Ready(Some(Err(status))) = next(&mut messages) else { panic!("it goes on") };
        assert_eq!((status.code(), status.message()), (Code::Internal, "an internal error"));
        assert!(matches!(next(&mut messages), Poll::Ready(None)));
    }

    #[tokio::test]
    async fn what_panics_beside_its_call_is_an_internal_error() {
        let works = caught(async {
            tokio::task::yield_now().await;
            7
        });
        assert_eq!(works.await.unwrap(), 7);
        let panics = caught(async {
            tokio::task::yield_now().await;
            panic!("a defect");
        });
        let status: Result<(), _> = panics.await;
        assert_eq!(status.unwrap_err().code(), Code::Internal);
    }

    #[tokio::test]
    async fn a_stream_ends_at_its_deadline() {
        let mut messages = guarded(stream::pending::<Result<(), _>>(), Some(Duration::ZERO), None);
        assert!(next(&mut messages).is_pending(), "its caller is to speak first");
        tokio::time::sleep(STREAM_GRACE + Duration::from_millis(2)).await;
        let Poll::Ready(Some(Err(status))) = next(&mut messages) else { panic!("it goes on") };
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(matches!(next(&mut messages), Poll::Ready(None)));
    }
}
