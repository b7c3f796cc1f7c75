//! The tail: follows the log from any position, from disk where it is behind and live where it is
//! not.
//!
//! A tail is a stream that is pulled: it reads on only when its client has taken what it was
//! given. A slow reader therefore holds one message and a position, nothing else, and the writer
//! never knows of it. What is read ahead for those that are behind they share.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use hashbrown::HashSet;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep},
};
use tonic::Status;

use super::{parse::Violations, reads::Reads, render, status};
use crate::{
    domain::AccountId,
    event_store::{Entry, StoreStatus},
    log::Block,
    proto::{self, TailMessage},
};

/// How many events one message holds before it is sent: enough to be cheap, few enough that a
/// stuck reader costs little.
const MESSAGE_EVENTS: usize = 64;
/// How many a large one holds, of a tail that is behind and takes each at once: it is woken less
/// often. Only a few tails at a time have them.
const LARGE_MESSAGE_EVENTS: usize = 256;
/// How soon a message is taken that is taken at once.
const TAKEN_AT_ONCE: Duration = Duration::from_millis(2);
/// How many accounts a filter may name.
const FILTER_ACCOUNTS_MAX: usize = 1_000;
/// How long a tail of another process's ledger waits before it looks whether there may be more that
/// it does not hear of.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a position may go untold when no event passes the filters.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Which events a tail passes on.
#[derive(Debug)]
struct Filter {
    /// Those of these accounts; of all when empty.
    accounts: HashSet<AccountId>,
    /// Those of these types; of all when empty.
    types: HashSet<i32>,
}

impl Filter {
    fn passes(&self, account: AccountId, kind: proto::EventType) -> bool {
        (self.accounts.is_empty() || self.accounts.contains(&account))
            && (self.types.is_empty() || self.types.contains(&i32::from(kind)))
    }
}

/// What a tail was asked for.
#[derive(Debug)]
pub(super) struct Question {
    after_position: Option<u64>,
    filter: Filter,
}

impl Question {
    /// # Errors
    /// INVALID_ARGUMENT with all that is wrong.
    pub(super) fn parse(request: &proto::TailEventsRequest) -> Result<Self, Status> {
        let mut wrong = Violations::default();
        let after_position = wrong.count("after_position", request.after_position);
        if request.account_ids.len() > FILTER_ACCOUNTS_MAX {
            let limit = format!("must have at most {FILTER_ACCOUNTS_MAX} items");
            wrong.note("account_ids", limit);
        }
        let named = request.account_ids.iter().take(FILTER_ACCOUNTS_MAX).enumerate();
        let accounts = named
            .filter_map(|(index, id)| wrong.account_id(&format!("account_ids[{index}]"), id))
            .collect();
        for (index, number) in request.event_types.iter().enumerate() {
            let known = proto::EventType::try_from(*number);
            let known = known.ok().filter(|kind| *kind != proto::EventType::Unspecified);
            let field = format!("event_types[{index}]");
            let _noted = wrong.check(&field, known.ok_or("must be a known type"));
        }
        let types = request.event_types.iter().copied().collect();
        let question = after_position
            .map(|after_position| Self { after_position, filter: Filter { accounts, types } });
        wrong.finish(question)
    }
}

/// A tail on its way.
struct Tail {
    reads: Reads,
    filter: Filter,
    /// How far the log is durable. Of the tail's own, to know what it has seen of it.
    durable: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    /// Everything up to here has been considered.
    position: u64,
    /// Everything up to here has been told.
    told: u64,
    /// When something was told, or the tail began.
    told_at: Instant,
    /// Whether the last message held as many events as it may.
    was_full: bool,
    /// The place of a tail that has large messages.
    large: Option<OwnedSemaphorePermit>,
}

/// The messages of a tail.
///
/// # Errors
/// OUT_OF_RANGE when it is to begin beyond the head of the log. Of a ledger that another process
/// owns: what only the owner can tell.
pub(super) fn tail(
    reads: &Reads,
    question: Question,
    stopping: watch::Receiver<bool>,
) -> Result<impl Stream<Item = Result<TailMessage, Status>> + use<>, Status> {
    reads.expect_known(question.after_position)?;
    let head = *reads.durable.borrow();
    let position = question.after_position.unwrap_or(head);
    // A read may have told of what is durable before whoever waits for that hears of it.
    if position > head.max(reads.history.log().head().position) {
        return Err(reads.missing(status::beyond_head("after_position", head)));
    }
    let tail = Tail {
        reads: reads.clone(),
        filter: question.filter,
        durable: reads.durable.clone(),
        stopping,
        position,
        told: position,
        told_at: Instant::now(),
        was_full: false,
        large: None,
    };
    Ok(stream::try_unfold(tail, async |mut tail| {
        let message = tail.next().await?;
        Ok(Some((message, tail)))
    }))
}

impl Tail {
    /// The next message: as soon as events have passed the filter and there are no more at hand,
    /// or when it is time to tell how far the log has been considered.
    async fn next(&mut self) -> Result<TailMessage, Status> {
        let most = self.message_events();
        let mut message = TailMessage::default();
        loop {
            if *self.stopping.borrow() {
                return Err(status::stopping());
            }
            let head = *self.durable.borrow_and_update();
            while self.position < head && message.event_count() < most {
                self.read_block(&mut message, most).await?;
                if message.event_count() == 0 && self.is_time() {
                    break;
                }
            }
            let progress = self.position > self.told && self.is_time();
            if message.event_count() > 0 || progress {
                self.told = self.position;
                self.told_at = Instant::now();
                self.was_full = message.event_count() >= most;
                message.end(render::number(self.position));
                return Ok(message);
            }
            if self.position == head {
                self.reads.expect_waiting()?;
            }
            self.wait().await;
        }
    }

    /// How many events the next message may hold. Who asks for it has taken the last one.
    fn message_events(&mut self) -> usize {
        let is_fast = self.was_full && self.told_at.elapsed() <= TAKEN_AT_ONCE;
        if !is_fast {
            self.large = None;
        } else if self.large.is_none() {
            self.large = Arc::clone(&self.reads.large_tails).try_acquire_owned().ok();
        }
        if self.large.is_some() { LARGE_MESSAGE_EVENTS } else { MESSAGE_EVENTS }
    }

    fn is_time(&self) -> bool {
        self.told_at.elapsed() >= PROGRESS_INTERVAL
    }

    /// Waits for more of the log, for the end, for the log to be out of reach, for the time to tell
    /// the position, or to look again whether the log is followed.
    async fn wait(&mut self) {
        let untold = self.position > self.told;
        let rest = PROGRESS_INTERVAL.saturating_sub(self.told_at.elapsed());
        tokio::select! {
            Ok(()) = self.durable.changed() => {}
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
            Ok(_) = self.reads.status.wait_for(|status| *status == StoreStatus::Unreachable) => {}
            () = sleep(rest), if untold => {}
            () = sleep(LOOK_INTERVAL), if !untold && self.reads.is_of_another() => {}
        }
    }

    /// Adds the events of the block that comes next, to its end or until the message is full.
    /// The events of one entry stay together.
    async fn read_block(&mut self, message: &mut TailMessage, most: usize) -> Result<(), Status> {
        let next = self.position.saturating_add(1);
        let block = self.block(next).await?;
        let mut entry = Entry::default();
        for record in block.records().skip_while(|record| record.last_position() < next) {
            let decoded = self.reads.history.decode_into(&record, &mut entry);
            decoded.map_err(|failure| status::unreadable(&failure))?;
            self.add(&entry, next, message);
            self.position = entry.last_position();
            if message.event_count() >= most {
                break;
            }
        }
        Ok(())
    }

    /// The block that holds a position. It is not kept here: most tails are not read for most of
    /// the time.
    async fn block(&self, position: u64) -> Result<Arc<Block>, Status> {
        let Reads { history, ahead, .. } = &self.reads;
        if let Some(block) = history.log().recent_block(position).or_else(|| ahead.get(position)) {
            return Ok(block);
        }
        // Nobody else can be asked any more.
        let read = self.reads.in_log(move |cursor| cursor.blocks(position)).await?;
        let read = read.map_err(|failure| status::unreadable(&failure))?;
        let block = read.first().cloned();
        ahead.put(read);
        block.ok_or_else(|| status::internal("a block without its records"))
    }

    fn add(&self, entry: &Entry, from: u64, message: &mut TailMessage) {
        let ids = self.reads.history.codec().ids();
        for event in entry.numbered() {
            let kind = render::event_type(event.fact.kind());
            if event.position >= from && self.filter.passes(event.account.id, kind) {
                message.add_event(|fields| render::put_event(fields, ids, entry, &event));
            }
        }
    }
}
