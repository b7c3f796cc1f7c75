//! Streams that are held back: the time in which a message has to come does not pass while nobody
//! reads it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::Frame;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes},
};

use super::{guarded::Deadline, status};

/// Whether a stream was not read for a while. In the extensions of its request; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<AtomicBool>);

impl Held {
    /// Says that it is not read now.
    pub(super) fn hold(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was not read, since this was asked last.
    fn was_held(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// The same body. A message whose time was over when it was read again has as long once more:
    /// `body` is one that goes on after it has told that the time is over.
    pub(super) fn watch(&self, body: Body, message_time: Duration) -> Body {
        let (held, deadline) = (self.clone(), Deadline::after(None));
        Body::new(Resumed { body, held, message_time, deadline })
    }
}

struct Resumed {
    body: Body,
    held: Held,
    message_time: Duration,
    /// That of a message that has its time once more.
    deadline: Deadline,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Err(status)))
                    if status.code() == Code::DeadlineExceeded && self.held.was_held() =>
                {
                    self.deadline = Deadline::after(Some(self.message_time));
                }
                Poll::Ready(frame) => {
                    self.held.was_held();
                    self.deadline = Deadline::after(None);
                    return Poll::Ready(frame);
                }
                Poll::Pending if self.deadline.is_over(context) => {
                    let was_held = self.held.was_held();
                    self.deadline = Deadline::after(was_held.then_some(self.message_time));
                    if !was_held {
                        return Poll::Ready(Some(Err(status::deadline_exceeded())));
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::poll_fn};

    use super::*;

    /// A body whose first parts are these, and of which no more comes.
    struct Parts(VecDeque<Result<&'static [u8], Status>>);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.pop_front() {
                Some(part) => Poll::Ready(Some(part.map(|it| Frame::data(it.into())))),
                None => Poll::Pending,
            }
        }
    }

    async fn next(body: &mut Body) -> Result<usize, Code> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await.unwrap();
        Ok(frame.map_err(|status| status.code())?.into_data().unwrap().len())
    }

    fn watched(held: &Held, parts: [Result<&'static [u8], Status>; 2], time: Duration) -> Body {
        held.watch(Body::new(Parts(parts.into())), time)
    }

    #[tokio::test]
    async fn a_message_has_its_time_once_more_when_it_was_held() {
        let over = || Err(status::deadline_exceeded());
        let (held, time) = (Held::default(), Duration::from_millis(20));
        let mut body = watched(&held, [over(), Ok(b"rest")], time);
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded), "it was not");

        let mut body = watched(&held, [over(), Ok(b"rest")], time);
        held.hold();
        assert_eq!(next(&mut body).await, Ok(4));
        // The next one has no more of that, and one that never comes ends.
        let mut body = watched(&held, [over(), over()], time);
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded));
        let mut body = watched(&held, [Ok(b"one"), over()], time);
        held.hold();
        assert_eq!(next(&mut body).await, Ok(3));
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded), "of the one before");
        let begun = tokio::time::Instant::now();
        let mut body = watched(&held, [Ok(b"one"), over()], time);
        assert_eq!(next(&mut body).await, Ok(3));
        held.hold();
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded));
        assert!(begun.elapsed() >= time);
        // Nor does another error count as the end of the time.
        let mut body = watched(&held, [Err(Status::cancelled("")), Ok(b"rest")], time);
        held.hold();
        assert_eq!(next(&mut body).await, Err(Code::Cancelled));
    }
}
