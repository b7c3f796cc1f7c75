//! Tails that break and go on: some with filters, all across kills, and what they were told is
//! compared with the log.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use daybook::proto::{Event, EventType, TailEventsRequest, event::Payload};
use prost::Message as _;
use tokio::{sync::watch, time::timeout};
use tonic::transport::Channel;

use super::{
    client::Shared,
    operation::{Deed, Operation},
};
use crate::crash::{audit::Reader, random::Random};

/// A tail breaks off by itself after at most so many messages.
const MESSAGES_MAX: u64 = 60;
/// How long a tail waits for a message before it looks whether it is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Where tails connect to, and how far they are to go.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    /// The server that is there now.
    pub(super) channel: Option<Channel>,
    /// The head of the log, once it is final.
    pub(super) end: Option<i64>,
}

/// One message: how far it says that the log was considered, and its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) position: i64,
    /// The position of each event, and what stands for its content.
    pub(super) events: Vec<(i64, u64)>,
}

/// A tail and all that it was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail {
    /// What it asks for; where to begin is where it goes on after each break.
    pub(super) request: TailEventsRequest,
    /// Behind which position it began.
    pub(super) begun: i64,
    pub(super) told: Vec<Told>,
    /// How often it went on after a break.
    pub(super) resumes: usize,
}

impl Tail {
    pub(super) fn new(account_ids: Vec<String>, event_types: &[EventType]) -> Self {
        let event_types = event_types.iter().map(|kind| i32::from(*kind)).collect();
        let request = TailEventsRequest { after_position: Some(0), account_ids, event_types };
        Self { request, ..Self::default() }
    }

    fn position(&self) -> i64 {
        self.told.last().map_or(self.begun, |told| told.position)
    }

    /// Follows the log over all breaks until its end is known and reached. Gives also when it was
    /// told of which position.
    pub(super) async fn follow(
        mut self,
        shared: Arc<Shared>,
        mut course: watch::Receiver<Course>,
        mut random: Random,
    ) -> (Self, Vec<Operation>) {
        let mut seen = Vec::new();
        loop {
            let now = course.borrow_and_update().clone();
            if now.end.is_some_and(|end| self.position() >= end) {
                return (self, seen);
            }
            let messages = 1 + random.below(MESSAGES_MAX);
            match now.channel {
                Some(channel) => self.listen(channel, messages, &shared, &mut seen, &course).await,
                None => course.changed().await.expect("the run goes on"),
            }
        }
    }

    /// Takes some messages, or fewer when the stream breaks.
    async fn listen(
        &mut self,
        channel: Channel,
        messages: u64,
        shared: &Shared,
        seen: &mut Vec<Operation>,
        course: &watch::Receiver<Course>,
    ) {
        self.request.after_position = Some(self.position());
        let mut reader = Reader::new(channel);
        let asked = reader.tail_events(self.request.clone());
        // A server that was killed just now does not answer.
        let Ok(Ok(stream)) = timeout(LOOK_AGAIN, asked).await else { return };
        self.resumes += usize::from(!self.told.is_empty());
        let mut stream = stream.into_inner();
        for _ in 0..messages {
            let message = match timeout(LOOK_AGAIN, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => panic!("a tail has no end of its own"),
                Ok(Err(_)) => return tokio::task::yield_now().await,
                Err(_) if course.has_changed().unwrap_or(true) => return,
                Err(_) => continue,
            };
            let position = message.position;
            seen.push(Operation {
                called: 0,
                returned: Some(shared.clock.now()),
                window: shared.window.load(Ordering::Relaxed),
                deed: Deed::Tailed { position },
            });
            let events = message.events.iter().map(|event| (event.position, digest(event)));
            self.told.push(Told { position, events: events.collect() });
        }
    }

    /// Whether an event passes the filters.
    fn passes(&self, event: &Event) -> bool {
        let TailEventsRequest { account_ids, event_types, .. } = &self.request;
        (account_ids.is_empty() || account_ids.contains(&event.account_id))
            && (event_types.is_empty() || event_types.contains(&i32::from(kind(event))))
    }
}

/// What stands for the content of an event.
pub(super) fn digest(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    event.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

fn kind(event: &Event) -> EventType {
    match event.payload {
        None => EventType::Unspecified,
        Some(Payload::AccountOpened(_)) => EventType::AccountOpened,
        Some(Payload::MoneyDeposited(_)) => EventType::MoneyDeposited,
        Some(Payload::MoneyWithdrawn(_)) => EventType::MoneyWithdrawn,
        Some(Payload::TransferInitiated(_)) => EventType::TransferInitiated,
        Some(Payload::TransferCompleted(_)) => EventType::TransferCompleted,
        Some(Payload::TransferFailed(_)) => EventType::TransferFailed,
        Some(Payload::AccountClosed(_)) => EventType::AccountClosed,
    }
}

/// Compares what a tail was told with the log: between any two positions that it was told it got
/// all events that pass its filters, once and in order, and at the end it was told of all. Gives
/// how many events that were.
///
/// # Errors
/// The message that is not so.
pub(super) fn check(tail: &Tail, log: &[Event]) -> Result<usize, String> {
    let place = |position: i64| usize::try_from(position).expect("a position is a count");
    let mut position = tail.begun;
    let mut count = 0;
    for told in &tail.told {
        if told.position < position || place(told.position) > log.len() {
            return Err(format!("at {} after {position}, of {}", told.position, log.len()));
        }
        let run = &log[place(position)..place(told.position)];
        let wanted = run.iter().filter(|event| tail.passes(event));
        let wanted = wanted.map(|event| (event.position, digest(event)));
        if !wanted.eq(told.events.iter().copied()) {
            return Err(format!("not what the log has from {position} on: {told:?}"));
        }
        count += told.events.len();
        position = told.position;
    }
    if place(position) != log.len() {
        return Err(format!("ended at {position} of {}", log.len()));
    }
    Ok(count)
}
