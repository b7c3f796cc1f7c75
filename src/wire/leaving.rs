//! Answers on their way out: how much is kept of those that nobody takes, and for how long.
//!
//! HTTP/2 lets a client ask for an answer and take not a byte of it. What was answered then waits,
//! and a page or what came of a batch can be large.

use std::{
    cell::Cell,
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes, http},
};

use super::{Peer, guarded::Deadline};

/// How many bytes of large answers may wait until they are taken, before only those connections get
/// one that have taken all before it: hundreds of the longest pages.
const UNTAKEN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many may wait for one connection: dozens of the longest pages, or the largest answer.
const UNTAKEN_BYTES_MAX_EACH: usize = 4 * 1024 * 1024;

type Response = http::Response<Body>;

thread_local! {
    /// What the call that is polled now has told of its answer.
    static TOLD: Cell<Option<Told>> = const { Cell::new(None) };
}

/// What becomes of an answer, or of a part of one.
#[derive(Clone, Copy)]
enum Told {
    /// It waits until it is taken, at most so long.
    Waits(Duration),
    /// It was taken.
    Taken,
}

/// Without a transport, as in tests, nobody hears it.
fn tell(told: Told) {
    TOLD.set(Some(told));
}

/// Says how long the answer that this task has now may wait.
pub(super) fn is_taken_within(time: Duration) {
    tell(Told::Waits(time));
}

/// Serves one call to its end: until its answer was taken, or was not for too long. It is dropped
/// then, and so is the answer; the peer sees its call reset.
pub fn until_taken<C: Future<Output = ()>>(call: C) -> UntilTaken<C> {
    UntilTaken { call, deadline: Deadline::after(None) }
}

pin_project! {
    /// A call on its way to its end. Not an `async` function: that would hold the call three times,
    /// and every call is moved to its task in that size.
    pub struct UntilTaken<C> {
        #[pin]
        call: C,
        deadline: Deadline,
    }
}

impl<C: Future<Output = ()>> Future for UntilTaken<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        TOLD.set(None);
        if this.call.poll(context).is_ready() {
            return Poll::Ready(());
        }
        match TOLD.take() {
            Some(Told::Waits(time)) => *this.deadline = Deadline::after(Some(time)),
            Some(Told::Taken) => *this.deadline = Deadline::after(None),
            None => {}
        }
        if this.deadline.is_over(context) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// How many bytes of large answers wait until they are taken: of all, and of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Untaken {
    all: Arc<AtomicUsize>,
    of: Option<Peer>,
}

impl Untaken {
    /// As one connection sees it, if it is known which.
    pub(super) fn of(&self, peer: Option<&Peer>) -> Self {
        Self { all: Arc::clone(&self.all), of: peer.cloned() }
    }

    /// Whether there is no room for another one.
    pub(super) fn is_full(&self) -> bool {
        let all = self.all.load(Ordering::Relaxed);
        let own = self.of.as_ref().map_or(all, |peer| peer.untaken().load(Ordering::Relaxed));
        own >= UNTAKEN_BYTES_MAX_EACH || all >= UNTAKEN_BYTES_MAX && own > 0
    }

    fn counts(&self) -> impl Iterator<Item = &AtomicUsize> {
        std::iter::once(&*self.all).chain(self.of.as_ref().map(Peer::untaken))
    }

    /// The same answer, encoded and counted until its last byte was sent or is given up.
    pub(super) fn count(&self, answer: Response, context: &mut Context<'_>) -> Response {
        let (head, mut body) = answer.into_parts();
        if body.is_end_stream() {
            return Response::from_parts(head, body);
        }
        // Of one message all is there at once. What encoded it is dropped: it keeps more.
        let mut frames = VecDeque::new();
        let rest = loop {
            match Pin::new(&mut body).poll_frame(context) {
                Poll::Ready(Some(frame)) => frames.push_back(frame.map(|it| self.counted(it))),
                Poll::Ready(None) => break Body::empty(),
                Poll::Pending => break body,
            }
        };
        Response::from_parts(head, Body::new(Begun { frames, rest }))
    }

    fn counted(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        frame.map_data(|bytes| {
            for count in self.counts() {
                count.fetch_add(bytes.len(), Ordering::Relaxed);
            }
            // As many as they are: they came in a buffer that is larger.
            let bytes = bytes.to_vec().into_boxed_slice();
            Bytes::from_owner(Counted { bytes, by: self.clone() })
        })
    }
}

/// Bytes that are counted until they are dropped.
struct Counted {
    bytes: Box<[u8]>,
    by: Untaken,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for count in self.by.counts() {
            count.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}

/// A body whose first frames are there.
struct Begun {
    frames: VecDeque<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl HttpBody for Begun {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }
}

/// The same answer, with something that is kept until the end of it. Each part of it may wait so
/// long until it is taken, if anything is said of that.
pub(super) fn holding<T>(answer: Response, held: T, each_within: Option<Duration>) -> Response
where
    T: Send + Unpin + 'static,
{
    // Who never asks for the first part takes nothing.
    if let Some(time) = each_within {
        is_taken_within(time);
    }
    answer.map(|body| Body::new(Holding { body, _held: held, each_within }))
}

struct Holding<T> {
    body: Body,
    _held: T,
    each_within: Option<Duration>,
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Some(time) = self.each_within {
            // Who asks for more has taken what there was.
            tell(if polled.is_ready() { Told::Waits(time) } else { Told::Taken });
        }
        polled
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
    use std::{future::poll_fn, task::Waker};

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_given_up_in_time() {
        let held = Arc::new(());
        let answered = Arc::clone(&held);
        let call = async move {
            is_taken_within(Duration::from_millis(20));
            std::future::pending::<()>().await;
            drop(answered);
        };
        until_taken(call).await;
        assert_eq!(Arc::strong_count(&held), 1, "nothing of it is kept");
        // One that says nothing, such as a stream, goes on.
        let endless = until_taken(std::future::pending());
        assert!(tokio::time::timeout(Duration::from_millis(60), endless).await.is_err());
    }

    /// A body that has so many parts, and no end.
    struct Parts(usize);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let Some(left) = self.0.checked_sub(1) else { return Poll::Pending };
            self.0 = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part")))))
        }
    }

    #[tokio::test]
    async fn a_stream_is_given_up_when_a_part_of_it_is_not_taken_in_time() {
        const PARTS: usize = 5;
        let within = Duration::from_millis(40);
        // Takes so many parts, and asks for more only if it takes them all.
        let call = |taken: usize| async move {
            let answer = holding(Response::new(Body::new(Parts(PARTS))), (), Some(within));
            assert!(TOLD.get().is_some(), "it waits from the beginning");
            let mut body = answer.into_body();
            for _ in 0..taken {
                let part = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
                assert!(part.is_some());
                tokio::time::sleep(within / 4).await;
            }
            poll_fn(|context| match taken {
                PARTS => Pin::new(&mut body).poll_frame(context).map(|_| ()),
                _ => Poll::Pending,
            })
            .await;
        };
        until_taken(call(PARTS - 1)).await;
        // One that waits for its next part goes on, however long there is none.
        assert!(tokio::time::timeout(within * 4, until_taken(call(PARTS))).await.is_err());
    }

    fn connection() -> Peer {
        Peer::new(([127, 0, 0, 1], 1).into(), None)
    }

    /// An answer of so many bytes, counted.
    fn answer(untaken: &Untaken, bytes: usize) -> Body {
        let frames = VecDeque::from([Ok(Frame::data(Bytes::from(vec![7; bytes])))]);
        let body = Body::new(Begun { frames, rest: Body::empty() });
        let mut context = Context::from_waker(Waker::noop());
        untaken.count(Response::new(body), &mut context).into_body()
    }

    #[tokio::test]
    async fn large_answers_count_until_their_last_byte_is_dropped() {
        let untaken = Untaken::default().of(Some(&connection()));
        let mut body = answer(&untaken, UNTAKEN_BYTES_MAX_EACH);
        assert!(untaken.is_full());
        let taken = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let taken = taken.unwrap().unwrap().into_data().unwrap();
        assert_eq!(taken.len(), UNTAKEN_BYTES_MAX_EACH);
        assert!(body.is_end_stream());
        let rest = taken.slice(1..2);
        drop((taken, body));
        assert!(untaken.is_full(), "a part of it is still to be sent");
        drop(rest);
        assert!(!untaken.is_full());
    }

    #[test]
    fn who_takes_nothing_is_in_the_way_of_nobody_else() {
        let all = Untaken::default();
        let greedy: Vec<_> = (0..16).map(|_| all.of(Some(&connection()))).collect();
        let half = UNTAKEN_BYTES_MAX_EACH / 2;
        let kept: Vec<_> = greedy.iter().map(|greedy| answer(greedy, half)).collect();
        assert!(greedy.iter().all(Untaken::is_full), "together they have all that there may be");
        let other = all.of(Some(&connection()));
        assert!(!other.is_full());
        let small = answer(&other, 1);
        assert!(other.is_full(), "one at a time");
        drop(small);
        assert!(!other.is_full());
        drop(kept);
        assert!(!greedy.iter().any(Untaken::is_full));
        assert_eq!(all.all.load(Ordering::Relaxed), 0);
    }
}
