//! Tests of messages that arrive: in which pieces, of how many calls, and for how long.

use std::{collections::VecDeque, future::poll_fn};

use tokio::sync::mpsc;
use tonic::Code;

use super::*;

/// A body that says what it is given.
struct Given(mpsc::UnboundedReceiver<Vec<u8>>);

/// A body that says these pieces, and knows with the last one that it has ended.
struct Pieces(VecDeque<Result<Vec<u8>, Status>>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece?.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

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
    let arrivals = Arrivals::new(10_000);
    let mut others = Vec::new();
    for _ in 0..8 {
        let (sender, mut body) = watched(&arrivals, None);
        sender.send(message(10_000)[..10_000].to_vec()).unwrap();
        assert!(is_waiting(&mut body).await);
        others.push((sender, body));
    }
    let (sender, mut body) = watched(&arrivals, None);
    sender.send(message(90)).unwrap();
    assert_eq!(next(&mut body).await, Ok(95), "what comes as a whole is not kept");
    sender.send(message(5_000)[..4_000].to_vec()).unwrap();
    assert_eq!(next(&mut body).await, Err(Code::ResourceExhausted));
    // One that is whole makes room, and so does one that is given up.
    let (first, mut of_first) = others.pop().unwrap();
    first.send(message(10_000)[10_000..].to_vec()).unwrap();
    assert_eq!(next(&mut of_first).await, Ok(10_005));
    let (sender, mut body) = watched(&arrivals, None);
    sender.send(message(5_000)[..4_000].to_vec()).unwrap();
    assert!(is_waiting(&mut body).await);
    drop((others, body));
    assert_eq!(arrivals.kept.load(Ordering::Relaxed), 0);
}

/// A body of one message, and what gives it its bytes.
fn of_one(arrivals: &Arrivals) -> (mpsc::UnboundedSender<Vec<u8>>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, arrivals.watch_one(Body::new(Given(receiver))))
}

#[tokio::test]
async fn the_message_of_a_call_that_has_one_is_passed_on_at_the_end() {
    let arrivals = Arrivals::new(100);
    // However it comes, and whatever follows it, all of it is passed on at once.
    for cuts in [&[25][..], &[3, 25], &[3, 15, 20, 25]] {
        let (sender, mut body) = of_one(&arrivals);
        let both = [message(10), message(5)].concat();
        let mut from = 0;
        for &to in cuts {
            sender.send(both[from..to].to_vec()).unwrap();
            assert!(is_waiting(&mut body).await, "it may go on");
            from = to;
        }
        assert!(arrivals.kept.load(Ordering::Relaxed) >= both.len());
        drop(sender);
        assert_eq!(next(&mut body).await, Ok(both.len()));
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
    }
    assert_eq!(arrivals.kept.load(Ordering::Relaxed), 0);
    // One that is too large is refused at once by who is told its length, and so is what goes
    // on and on.
    let (sender, mut body) = of_one(&arrivals);
    sender.send(message(101)[..7].to_vec()).unwrap();
    assert_eq!(next(&mut body).await, Ok(7));
    let (sender, mut body) = of_one(&arrivals);
    for _ in 0..20 {
        sender.send(message(1)).unwrap();
    }
    assert_eq!(next(&mut body).await, Ok(108));
}

#[tokio::test]
async fn a_message_that_ends_with_an_empty_piece_is_passed_on_as_it_came() {
    let arrivals = Arrivals::new(10_000);
    let pieces = [Ok(message(10)), Ok(Vec::new())];
    let mut body = arrivals.watch_one(Body::new(Pieces(pieces.into())));
    assert_eq!(next(&mut body).await, Ok(15));
    assert_eq!(arrivals.kept.load(Ordering::Relaxed), 0, "nothing had to wait");
    assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
}

#[tokio::test]
async fn nothing_is_passed_on_of_a_call_that_is_given_up() {
    let pieces = [Ok(message(10)), Err(Status::cancelled("by its caller"))];
    let mut body = Arrivals::new(10_000).watch_one(Body::new(Pieces(pieces.into())));
    assert_eq!(next(&mut body).await, Err(Code::Cancelled));
    assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
}

#[tokio::test]
async fn small_messages_are_taken_beside_large_ones() {
    let arrivals = Arrivals::new(10_000);
    let mut others = Vec::new();
    for _ in 0..8 {
        let (sender, mut body) = of_one(&arrivals);
        for piece in message(10_000).chunks(700) {
            sender.send(piece.to_vec()).unwrap();
        }
        assert!(is_waiting(&mut body).await, "it takes no more room than it has bytes");
        others.push((sender, body));
    }
    let (sender, mut body) = of_one(&arrivals);
    sender.send(message(2_000)).unwrap();
    assert_eq!(next(&mut body).await, Err(Code::ResourceExhausted));
    let (sender, mut body) = of_one(&arrivals);
    sender.send(message(500)).unwrap();
    assert!(is_waiting(&mut body).await);
    drop(sender);
    assert_eq!(next(&mut body).await, Ok(505));
}

#[tokio::test]
async fn whole_messages_of_calls_that_have_not_ended_are_counted() {
    let arrivals = Arrivals::new(10_000);
    let mut others = Vec::new();
    for _ in 0..8 {
        let (sender, mut body) = of_one(&arrivals);
        sender.send(message(10_000)).unwrap();
        assert!(is_waiting(&mut body).await);
        others.push((sender, body));
    }
    let (sender, mut body) = of_one(&arrivals);
    sender.send(message(10_000)).unwrap();
    assert_eq!(next(&mut body).await, Err(Code::ResourceExhausted));
    drop(others.pop());
    let (sender, mut body) = of_one(&arrivals);
    sender.send(message(10_000)).unwrap();
    assert!(is_waiting(&mut body).await);
    drop(sender);
    assert_eq!(next(&mut body).await, Ok(10_005));
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
