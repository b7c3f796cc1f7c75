//! Messages that arrive: how long the parts of one may take to come, and how much is kept of those
//! that are not whole yet, of all calls together.
//!
//! A message is kept until its last byte is there. Without a bound the streams of all connections
//! could each keep almost a whole one, for as long as they like. And it is kept here: who decodes
//! it takes memory for all that its first bytes announce.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::Frame;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes},
};

use super::{guarded::Deadline, status};
use crate::event_store::Failure;

/// Of how many of the largest messages all but the last byte may be kept: at the usual size of
/// these, of a hundred batches that have as many commands as there can be.
const MESSAGES_MAX: usize = 8;
/// What gRPC says before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// How much is kept, of all calls, of messages that are not whole.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    kept: Arc<AtomicUsize>,
    message_bytes_max: usize,
}

impl Arrivals {
    /// Where a message may have so many bytes.
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self { kept: Arc::default(), message_bytes_max }
    }

    /// A body whose messages are counted. `message_time` is how long one may take from its first
    /// byte to its last, if anything but the deadline of its call is to end it.
    pub(super) fn watch(&self, body: Body, message_time: Option<Duration>) -> Body {
        Body::new(Arriving {
            body,
            place: Place::default(),
            ready: None,
            partial: Vec::new(),
            last: None,
            kept: Kept { of_all: self.clone(), bytes: 0 },
            message_time,
            deadline: Deadline::after(None),
        })
    }
}

/// What is kept of one message, until it is dropped.
struct Kept {
    of_all: Arrivals,
    bytes: usize,
}

impl Kept {
    /// Keeps so much from now on. Gives whether there is room.
    fn set(&mut self, bytes: usize) -> bool {
        let kept = &self.of_all.kept;
        let before = self.bytes;
        self.bytes = bytes;
        if bytes > before {
            let more = bytes.saturating_sub(before);
            let most = self.of_all.message_bytes_max.saturating_mul(MESSAGES_MAX);
            kept.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= most
        } else {
            kept.fetch_sub(before.saturating_sub(bytes), Ordering::Relaxed);
            true
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Where in a message the bytes of a body have got to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    /// How much of it came, its prefix included; 0 between two messages.
    came: usize,
    /// What its prefix has said so far of its length.
    length: usize,
}

impl Place {
    /// Goes on by what came. Gives whether the message that is not whole yet has begun in that.
    fn pass(&mut self, came: &[u8]) -> bool {
        let mut bytes = came;
        while let Some((first, rest)) = bytes.split_first() {
            if self.came < PREFIX_BYTES {
                // The first byte tells of compression, the next four of the length.
                let byte = if self.came == 0 { 0 } else { usize::from(*first) };
                self.length = self.length.wrapping_shl(8) | byte;
                self.came = self.came.saturating_add(1);
                bytes = rest;
            } else {
                let whole = PREFIX_BYTES.saturating_add(self.length);
                let left = whole.saturating_sub(self.came).min(bytes.len());
                self.came = self.came.saturating_add(left);
                bytes = bytes.get(left..).unwrap_or_default();
            }
            if self.came == PREFIX_BYTES.saturating_add(self.length) && self.came >= PREFIX_BYTES {
                *self = Self::default();
            }
        }
        (1..=came.len()).contains(&self.came)
    }
}

/// The body of a request.
struct Arriving {
    body: Body,
    place: Place,
    /// What is passed on next.
    ready: Option<Bytes>,
    /// The beginning of a message that is not whole. Copied: what came is a part of a larger
    /// buffer, all of which would be kept.
    partial: Vec<u8>,
    /// What came after that: trailers, or an error.
    last: Option<Result<Frame<Bytes>, Status>>,
    kept: Kept,
    message_time: Option<Duration>,
    /// That of the message that has begun to come, if there is one.
    deadline: Deadline,
}

impl Arriving {
    /// Takes in what came.
    fn take(&mut self, mut bytes: Bytes) -> Result<(), Status> {
        if self.place.pass(&bytes) {
            self.deadline = Deadline::after(self.message_time);
        } else if self.place.came == 0 {
            self.deadline = Deadline::after(None);
        }
        let begun = self.place.came.min(bytes.len());
        let whole = bytes.split_to(bytes.len().saturating_sub(begun));
        if !whole.is_empty() {
            self.pass_on(whole);
        }
        // What is too large is refused by its first bytes.
        if self.place.length > self.kept.of_all.message_bytes_max {
            self.pass_on(bytes);
            return Ok(());
        }
        self.partial.extend_from_slice(&bytes);
        if self.kept.set(self.partial.capacity()) {
            return Ok(());
        }
        self.partial = Vec::new();
        self.kept.set(0);
        Err(status::failed(Failure::Overloaded))
    }

    /// Passes on what was kept, and these.
    fn pass_on(&mut self, bytes: Bytes) {
        let mut before = match (self.ready.take(), self.partial.is_empty()) {
            (None, true) => {
                self.ready = Some(bytes);
                return;
            }
            (None, false) => std::mem::take(&mut self.partial),
            (Some(ready), _) => [&*ready, &std::mem::take(&mut self.partial)].concat(),
        };
        before.extend_from_slice(&bytes);
        self.ready = Some(before.into());
    }

    /// Takes in what comes last.
    fn end(&mut self, last: Option<Result<Frame<Bytes>, Status>>) {
        self.pass_on(Bytes::new());
        self.last = last;
        self.deadline = Deadline::after(None);
    }

    /// The next of what is passed on.
    fn next(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        let ready = self.ready.take().filter(|ready| !ready.is_empty());
        ready.map(|ready| Ok(Frame::data(ready))).or_else(|| self.last.take())
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(next) = self.next() {
                return Poll::Ready(Some(next));
            }
            let came = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(came) => came,
                Poll::Pending if self.deadline.is_over(context) => {
                    self.deadline = Deadline::after(None);
                    return Poll::Ready(Some(Err(status::deadline_exceeded())));
                }
                Poll::Pending => return Poll::Pending,
            };
            match came.map(|came| came.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.take(bytes)?,
                // No more comes of a message: it is passed on as it is, and refused.
                Some(Ok(Err(trailers))) => self.end(Some(Ok(trailers))),
                Some(Err(error)) => self.end(Some(Err(error))),
                None if self.partial.is_empty() => return Poll::Ready(None),
                None => self.end(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_none = self.ready.is_none() && self.partial.is_empty() && self.last.is_none();
        has_none && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::mpsc;
    use tonic::Code;

    use super::*;

    /// A body that says what it is given.
    struct Given(mpsc::UnboundedReceiver<Vec<u8>>);

    impl HttpBody for Given {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(context).map(|bytes| Some(Ok(Frame::data(bytes?.into()))))
        }
    }

    /// A body under watch, and what gives it its bytes.
    fn watched(
        arrivals: &Arrivals,
        message_time: Option<Duration>,
    ) -> (mpsc::UnboundedSender<Vec<u8>>, Body) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, arrivals.watch(Body::new(Given(receiver)), message_time))
    }

    async fn next(body: &mut Body) -> Result<usize, Code> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        let frame = frame.expect("it has not ended").map_err(|status| status.code())?;
        Ok(frame.into_data().expect("data").len())
    }

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(5 + length, 7);
        bytes
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let bytes: Vec<u8> = [0, 1, 300, 0, 70_000].into_iter().flat_map(message).collect();
        for size in [1, 2, 3, 5, 6, 299, 306, 1_000, bytes.len()] {
            let mut place = Place::default();
            for piece in bytes.chunks(size) {
                place.pass(piece);
            }
            assert_eq!(place, Place::default(), "pieces of {size}");
            place.pass(&message(10)[..7]);
            assert_eq!(place, Place { came: 7, length: 10 }, "pieces of {size}");
        }
    }

    /// Whether there is nothing to be had of it now.
    async fn is_waiting(body: &mut Body) -> bool {
        poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context).is_pending())).await
    }

    #[tokio::test]
    async fn a_message_is_passed_on_when_it_is_whole() {
        let (sender, mut body) = watched(&Arrivals::new(100), None);
        let both = [message(10), message(20)].concat();
        sender.send(both[..3].to_vec()).unwrap();
        assert!(is_waiting(&mut body).await);
        sender.send(both[3..25].to_vec()).unwrap();
        assert_eq!(next(&mut body).await, Ok(15));
        assert!(is_waiting(&mut body).await, "ten bytes of the second one");
        sender.send(both[25..].to_vec()).unwrap();
        assert_eq!(next(&mut body).await, Ok(25));
        // One that is too large is refused at once by who is told its length.
        sender.send(message(101)[..7].to_vec()).unwrap();
        assert_eq!(next(&mut body).await, Ok(7));
        // Of one that ends too early all that came is passed on.
        let (sender, mut body) = watched(&Arrivals::new(100), None);
        sender.send(message(10)[..7].to_vec()).unwrap();
        assert!(is_waiting(&mut body).await);
        drop(sender);
        assert_eq!(next(&mut body).await, Ok(7));
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
    }

    #[tokio::test]
    async fn only_so_much_is_kept_of_messages_that_are_not_whole() {
        let arrivals = Arrivals::new(100);
        let mut others = Vec::new();
        for _ in 0..8 {
            let (sender, mut body) = watched(&arrivals, None);
            sender.send(message(100)[..100].to_vec()).unwrap();
            assert!(is_waiting(&mut body).await);
            others.push((sender, body));
        }
        let (sender, mut body) = watched(&arrivals, None);
        sender.send(message(90)).unwrap();
        assert_eq!(next(&mut body).await, Ok(95), "what comes as a whole is not kept");
        sender.send(message(50)[..40].to_vec()).unwrap();
        assert_eq!(next(&mut body).await, Err(Code::ResourceExhausted));
        // One that is whole makes room, and so does one that is given up.
        let (first, mut of_first) = others.pop().unwrap();
        first.send(message(100)[100..].to_vec()).unwrap();
        assert_eq!(next(&mut of_first).await, Ok(105));
        let (sender, mut body) = watched(&arrivals, None);
        sender.send(message(50)[..40].to_vec()).unwrap();
        assert!(is_waiting(&mut body).await);
        drop((others, body));
        assert_eq!(arrivals.kept.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_message_begins_once() {
        let mut place = Place::default();
        assert!(place.pass(&message(100)[..50]));
        assert!(!place.pass(&message(100)[50..51]), "more of it");
        let rest_and_next = [&message(100)[51..], &message(20)[..10]].concat();
        assert!(place.pass(&rest_and_next), "the next one");
        assert!(!place.pass(&message(20)[10..]), "there is none");
        assert!(!place.pass(&message(20)), "it came as a whole");
        assert!(!place.pass(&[]));
        assert!(place.pass(&[0]), "its first byte");
    }

    #[tokio::test]
    async fn a_message_that_has_begun_takes_only_so_long() {
        let time = Duration::from_millis(20);
        let arrivals = Arrivals::new(1_000);
        let (sender, mut body) = watched(&arrivals, Some(time));
        for _ in 0..2 {
            let nothing = tokio::time::timeout(time * 3, next(&mut body)).await;
            assert!(nothing.is_err(), "between messages there is time");
            sender.send(message(100)).unwrap();
            assert_eq!(next(&mut body).await, Ok(105));
        }
        sender.send(message(100)[..50].to_vec()).unwrap();
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded));
        // Of a call that has a deadline of its own there is no other.
        let (sender, mut body) = watched(&arrivals, None);
        sender.send(message(100)[..50].to_vec()).unwrap();
        assert!(tokio::time::timeout(time * 3, next(&mut body)).await.is_err());
    }
}
