//! Messages that arrive: how long the parts of one may take to come, and how much is kept of those
//! that are not whole yet, of all calls together.
//!
//! A message is kept until its last byte is there; that of a call that has only one until its
//! caller has ended what it says, since nothing becomes of it before, and nothing at all if the
//! caller gives up. Without a bound the streams of all connections could each keep one, for as long
//! as they like. And it is kept here: who decodes it takes memory for all that its first bytes
//! announce, and for all that is in it.

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
/// A message of up to so many bytes is kept whatever there is of others, in bytes: as many calls as
/// there may be have little of them together, and no large ones are in the way of small ones.
const SMALL_BYTES: usize = 1024;
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

    /// A body of one message, which is counted until the body ends.
    pub(super) fn watch_one(&self, body: Body) -> Body {
        Body::new(self.arriving(body, true, None))
    }

    /// A body whose messages are counted. `message_time` is how long one may take from its first
    /// byte to its last, if anything but the deadline of its call is to end it.
    pub(super) fn watch(&self, body: Body, message_time: Option<Duration>) -> Body {
        Body::new(self.arriving(body, false, message_time))
    }

    /// How many bytes a message has at most, its prefix included.
    fn whole_max(&self) -> usize {
        self.message_bytes_max.saturating_add(PREFIX_BYTES)
    }

    fn arriving(&self, body: Body, is_one: bool, message_time: Option<Duration>) -> Arriving {
        Arriving {
            body,
            is_one,
            place: Place::default(),
            ready: None,
            partial: Vec::new(),
            last: None,
            has_ended: false,
            kept: Kept { of_all: self.clone(), bytes: 0 },
            message_time,
            deadline: Deadline::after(None),
        }
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
            let most = self.of_all.whole_max().saturating_mul(MESSAGES_MAX);
            let all = kept.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            all <= most || bytes <= SMALL_BYTES
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
    /// Whether nothing is passed on before the end.
    is_one: bool,
    place: Place,
    /// What is passed on next.
    ready: Option<Bytes>,
    /// What has to wait: the beginning of a message that is not whole, or all so far where nothing
    /// is passed on before the end. Copied: what came is a part of a larger buffer, all of which
    /// would be kept.
    partial: Vec<u8>,
    /// What came after that: trailers, or an error.
    last: Option<Result<Frame<Bytes>, Status>>,
    has_ended: bool,
    kept: Kept,
    message_time: Option<Duration>,
    /// That of the message that has begun to come, if there is one.
    deadline: Deadline,
}

impl Arriving {
    /// Takes in what came.
    fn take(&mut self, bytes: Bytes) -> Result<(), Status> {
        if self.place.pass(&bytes) {
            self.deadline = Deadline::after(self.message_time);
        } else if self.place.came == 0 {
            self.deadline = Deadline::after(None);
        }
        // What is too large is refused by its first bytes.
        if self.place.length > self.kept.of_all.message_bytes_max {
            self.is_one = false;
            self.pass_on(bytes);
            return Ok(());
        }
        if self.is_one { self.take_of_one(bytes) } else { self.take_next(bytes) }
    }

    /// Takes in what came, and passes on what is whole.
    fn take_next(&mut self, mut bytes: Bytes) -> Result<(), Status> {
        let begun = self.place.came.min(bytes.len());
        let whole = bytes.split_to(bytes.len().saturating_sub(begun));
        if !whole.is_empty() {
            self.pass_on(whole);
        }
        self.keep(&bytes)
    }

    /// Takes in what came of a body that is passed on at its end. Of what goes on after its message
    /// who takes it decides, once that is more than a message may have.
    fn take_of_one(&mut self, bytes: Bytes) -> Result<(), Status> {
        // Many clients end with an empty piece.
        if !bytes.is_empty() {
            if self.ready.is_none() && self.partial.is_empty() {
                self.ready = Some(bytes);
            } else {
                self.wait()?;
                self.keep(&bytes)?;
            }
        }
        if self.body.is_end_stream() {
            self.end(None);
        } else if self.partial.len() > self.kept.of_all.whole_max() {
            self.is_one = false;
            self.pass_on(Bytes::new());
        }
        Ok(())
    }

    /// Keeps bytes that have to wait. Room is made for twice as many as there are, and no more than
    /// a message has.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let needed = self.partial.len().saturating_add(bytes.len());
        if needed > self.partial.capacity() {
            let twice = self.partial.capacity().saturating_mul(2).min(self.kept.of_all.whole_max());
            self.partial.reserve_exact(twice.max(needed).saturating_sub(self.partial.len()));
        }
        self.partial.extend_from_slice(bytes);
        if self.kept.set(self.partial.capacity()) {
            return Ok(());
        }
        self.partial = Vec::new();
        self.kept.set(0);
        Err(status::failed(Failure::Overloaded))
    }

    /// Keeps what came last, where it has to wait for the end.
    fn wait(&mut self) -> Result<(), Status> {
        match self.ready.take() {
            Some(ready) => self.keep(&ready),
            None => Ok(()),
        }
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
        if self.is_one && matches!(last, Some(Err(_))) {
            (self.ready, self.partial) = (None, Vec::new());
        } else if !self.partial.is_empty() {
            self.pass_on(Bytes::new());
        }
        self.last = last;
        self.has_ended = true;
        self.deadline = Deadline::after(None);
    }

    /// The next of what is passed on.
    fn next(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        if self.is_one && !self.has_ended {
            return None;
        }
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
            if self.has_ended {
                return Poll::Ready(None);
            }
            let came = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(came) => came,
                Poll::Pending if self.deadline.is_over(context) => {
                    self.deadline = Deadline::after(None);
                    return Poll::Ready(Some(Err(status::deadline_exceeded())));
                }
                Poll::Pending => {
                    self.wait()?;
                    return Poll::Pending;
                }
            };
            match came.map(|came| came.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.take(bytes)?,
                // No more comes of a message: it is passed on as it is, and refused.
                Some(Ok(Err(trailers))) => self.end(Some(Ok(trailers))),
                Some(Err(error)) => self.end(Some(Err(error))),
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
mod tests;
