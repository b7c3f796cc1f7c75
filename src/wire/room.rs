//! Room: how many commands of streams there may be at once whose answers were not taken.
//!
//! Whether there is room is asked before a batch is read, not after it: one that is decoded and
//! then waits takes megabytes, and each stream could have one. How many commands it has nobody
//! knows by then, so the last batch may be more than there was room for. For the same reason
//! nothing is read of a caller that would have to wait for its turn then.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures_util::{Stream, StreamExt as _};
use tokio::{sync::Notify, time::sleep};

use crate::access::Caller;

/// Room for so many commands, and for one batch more.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    taken: AtomicUsize,
    /// Tells that there is some again.
    freed: Notify,
}

/// What was taken of a room, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Arc<Room>,
    commands: usize,
}

impl Room {
    /// Where batches are read until there are more than `most` commands.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// Whether one more batch may be read.
    pub(super) fn is_free(&self) -> bool {
        self.taken.load(Ordering::Acquire) <= self.most
    }

    /// Takes room for a batch that was read.
    pub(super) fn take(self: &Arc<Self>, commands: usize) -> Taken {
        self.taken.fetch_add(commands, Ordering::AcqRel);
        Taken { room: Arc::clone(self), commands }
    }

    /// Waits until one more batch may be read. Others that wait may be quicker.
    async fn freed(&self) {
        loop {
            let mut freed = pin!(self.freed.notified());
            // From now on it is told, also what comes while it is looked.
            freed.as_mut().enable();
            if self.is_free() {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Room { most, taken, freed } = &*self.room;
        let before = taken.fetch_sub(self.commands, Ordering::AcqRel);
        if before > *most && before.saturating_sub(self.commands) <= *most {
            freed.notify_waiters();
        }
    }
}

/// The next batch of a stream, which is not read before there is room for it and its caller may
/// give it: whoever gets a batch has to take both before anything else. `held` is told whenever the
/// stream is not read.
///
/// Between the look and the batch nobody else gets one where all calls are carried by one thread,
/// as they are; on several, each of them might get one.
pub(super) async fn next<S: Stream + Unpin>(
    batches: &mut S,
    rooms: &[Arc<Room>; 2],
    caller: Option<&Caller>,
    held: impl Fn(),
) -> Option<S::Item> {
    let is_early = || caller.and_then(Caller::is_early);
    loop {
        let batch = poll_fn(|context| {
            if rooms.iter().all(|room| room.is_free()) && is_early().is_none() {
                batches.poll_next_unpin(context).map(Some)
            } else {
                Poll::Ready(None)
            }
        });
        if let Some(batch) = batch.await {
            return batch;
        }
        held();
        while let Some(time) = is_early() {
            sleep(time).await;
        }
        for room in rooms {
            room.freed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::Future as _, pin::Pin, task::Context};

    use super::*;

    /// Batches without end, and how many of them were read.
    struct Batches<'a>(&'a Cell<usize>);

    impl Stream for Batches<'_> {
        type Item = usize;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<usize>> {
            self.0.set(self.0.get() + 1);
            Poll::Ready(Some(self.0.get()))
        }
    }

    #[tokio::test]
    async fn nothing_is_read_while_there_is_no_room() {
        // It is the room of the stream, then that of all: in both cases the batch that fills it is
        // read, and no other one, until there is so much as one command's place again.
        for full in [0, 1] {
            let rooms = [Room::new(100), Room::new(100)];
            let (read, held) = (Cell::new(0), Cell::new(0));
            let mut batches = Batches(&read);
            let count_held = || held.set(held.get() + 1);
            let one = rooms[full].take(100);
            assert_eq!(next(&mut batches, &rooms, None, count_held).await, Some(1));
            let last = rooms[full].take(8_000);
            {
                let mut second = pin!(next(&mut batches, &rooms, None, count_held));
                let mut poll = || {
                    let mut context = Context::from_waker(std::task::Waker::noop());
                    second.as_mut().poll(&mut context)
                };
                assert!(poll().is_pending());
                drop(one);
                assert!(poll().is_pending());
                assert_eq!((read.get(), held.get()), (1, 1), "it was not even asked");
                drop(last);
                assert_eq!(poll(), Poll::Ready(Some(2)));
            }
            assert_eq!(rooms[full].taken.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn many_that_wait_come_in_one_after_another() {
        // Each batch fills the room again, so that the others find none and wait on.
        const STREAMS: usize = 64;
        let all = Room::new(10);
        let first = all.take(11);
        let streams: Vec<_> = (0..STREAMS)
            .map(|_| {
                let all = Arc::clone(&all);
                let rooms = [Room::new(usize::MAX), Arc::clone(&all)];
                tokio::spawn(async move {
                    let mut batches = futures_util::stream::iter(0..3);
                    while next(&mut batches, &rooms, None, || {}).await.is_some() {
                        let taken = all.take(20);
                        assert_eq!(all.taken.load(Ordering::Relaxed), 20, "one at a time");
                        tokio::task::yield_now().await;
                        drop(taken);
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(streams.iter().all(|stream| !stream.is_finished()));
        drop(first);
        for stream in streams {
            stream.await.unwrap();
        }
    }

    #[tokio::test]
    async fn small_batches_of_many_streams_are_beside_each_other() {
        let all = Room::new(64);
        let mut kept = Vec::new();
        for _ in 0..64 {
            let rooms = [Room::new(1), Arc::clone(&all)];
            let mut batches = futures_util::stream::iter([1]);
            assert_eq!(next(&mut batches, &rooms, None, || unreachable!()).await, Some(1));
            kept.push(rooms.map(|room| room.take(1)));
        }
        assert!(all.is_free(), "and for one more");
    }
}
