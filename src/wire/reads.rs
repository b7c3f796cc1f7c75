//! What every read needs: the views, the log, and waiting for them to be new enough.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tonic::{Status, metadata::MetadataMap};

use super::{
    Refusals,
    ahead::Ahead,
    aside::Aside,
    deadline::{self, TIMEOUT_HEADER},
    page_token::{PageTokens, Place},
    status,
};
use crate::{
    domain::AccountId,
    event_store::{Cursor, EventStore, Failure, History, HistoryError, StoreStatus},
    views::Views,
};

/// How long a read waits for a position at most, when its caller's deadline is not earlier.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How many reads of the log there may be at once, with their results until somebody turns to them;
/// others wait for their turn. A page that was read and waits to be encoded takes about half a
/// megabyte, and each of the threads that read keeps more of what it had than that: with 16 of them
/// thousands of pages asked for at once took up to 276 MiB, with 4 of them 106. What is read is in
/// the page cache most of the time, and then more would only take the processor in turns.
const LOG_READS_MAX: usize = 4;

/// How many tails may have large messages at once. One that stops taking them keeps a place, and a
/// message of a few dozen kilobytes.
const LARGE_TAILS_MAX: usize = 16;

/// Whose the ledger is that is read.
#[derive(Clone)]
enum Ledger {
    /// This process's.
    Ours(EventStore),
    /// Another process's. Says whether what is known of it is new enough to be told to anybody.
    Others(KeepsUp),
}

/// Says whether a log is followed closely.
pub type KeepsUp = Arc<dyn Fn() -> bool + Send + Sync>;

/// The reading side of the ledger. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    pub(super) views: Arc<Views>,
    pub(super) history: History,
    pub(super) durable: watch::Receiver<u64>,
    pub(super) tokens: PageTokens,
    pub(super) ahead: Arc<Ahead>,
    /// Places of tails with large messages.
    pub(super) large_tails: Arc<Semaphore>,
    /// Of the commands of batches, whose calls are not refused.
    pub(super) refusals: Arc<Refusals>,
    /// How it is about the log.
    pub(super) status: watch::Receiver<StoreStatus>,
    ledger: Ledger,
    /// How long a call may take.
    call_time: Duration,
    /// Where the log is read.
    aside: Aside,
}

impl Reads {
    /// Reads from views and log; `durable` tells how far the log is durable. `store` is asked only
    /// whether the recent past can still change, and whether the log can be reached.
    #[must_use]
    pub fn new(
        views: Arc<Views>,
        history: History,
        durable: watch::Receiver<u64>,
        store: EventStore,
        call_time: Duration,
    ) -> Self {
        let status = store.status();
        Self::of(Ledger::Ours(store), status, (views, history, durable), call_time)
    }

    /// Reads from views and log of a ledger that another process owns, which are known up to
    /// `durable` and while `keeps_up` says so. Of what is newer only the owner can tell.
    #[must_use]
    pub fn nearby(
        views: Arc<Views>,
        history: History,
        durable: watch::Receiver<u64>,
        keeps_up: KeepsUp,
        call_time: Duration,
    ) -> Self {
        let (_, status) = watch::channel(StoreStatus::Serving);
        Self::of(Ledger::Others(keeps_up), status, (views, history, durable), call_time)
    }

    fn of(
        ledger: Ledger,
        status: watch::Receiver<StoreStatus>,
        (views, history, durable): (Arc<Views>, History, watch::Receiver<u64>),
        call_time: Duration,
    ) -> Self {
        let tokens = PageTokens::new(history.log().log_id());
        let aside = Aside::new(LOG_READS_MAX);
        let large_tails = Arc::new(Semaphore::new(LARGE_TAILS_MAX));
        Self {
            views,
            history,
            durable,
            tokens,
            ahead: Arc::default(),
            large_tails,
            refusals: Arc::default(),
            status,
            ledger,
            call_time,
            aside,
        }
    }

    /// What commands of batches were refused for.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Waits until nothing can be recorded with a time up to `time_micros` any more, which must
    /// not be later than the clock and the newest event. What was recorded before the newest event
    /// that is shown is settled already; for a later time the writer has to finish what it has
    /// begun.
    pub(super) async fn settle(&self, time_micros: i64) -> Result<(), Status> {
        if time_micros < self.views.books().time_micros() {
            return Ok(());
        }
        self.ours()?.settle(time_micros).await.map_err(|failure| match failure {
            Failure::Latched => status::not_settled(),
            Failure::Damaged
            | Failure::Overloaded
            | Failure::NoRoom
            | Failure::Unreachable
            | Failure::Stopping => self.missing(status::failed(failure)),
        })
    }

    /// What a tail may do that has told of all that is known: wait for more. Not where a damaged
    /// log ends, nor while there may be more of it unseen.
    pub(super) fn expect_waiting(&self) -> Result<(), Status> {
        match &self.ledger {
            Ledger::Ours(_) => {
                self.expect_more()?;
                self.expect_reachable()
            }
            Ledger::Others(keeps_up) if keeps_up() => Ok(()),
            Ledger::Others(_) => Err(status::not_current()),
        }
    }

    /// The event store, which only the owner of the ledger has.
    pub(super) fn ours(&self) -> Result<&EventStore, Status> {
        match &self.ledger {
            Ledger::Ours(store) => Ok(store),
            Ledger::Others(_) => Err(status::for_the_owner()),
        }
    }

    /// What a question about something is answered with that is not there: `status`; but of a
    /// damaged log it may lie behind the damage, and of another process's it may have come since.
    pub(super) fn missing(&self, status: Status) -> Status {
        self.expect_more().err().unwrap_or(status)
    }

    /// What a question about an account is answered with that is not there.
    pub(super) fn account_missing(&self, account_id: AccountId) -> Status {
        self.missing(status::account_not_found(account_id))
    }

    /// DATA_LOSS where a damaged log ends. Where another process's ends the owner may know more.
    pub(super) fn expect_more(&self) -> Result<(), Status> {
        if self.ours()?.is_damaged() {
            Err(status::behind_damage(*self.durable.borrow()))
        } else {
            Ok(())
        }
    }

    /// Waits until the views show all that was durable when the call came in, and `min_position`
    /// as well. Fails while another process may have made more durable. Of a ledger that another
    /// process owns, nothing is waited for: see [`Reads::expect_known`].
    pub(super) async fn wait(
        &self,
        metadata: &MetadataMap,
        min_position: Option<u64>,
    ) -> Result<(), Status> {
        self.wait_to_go_on(metadata, min_position, &Place::default()).await
    }

    /// As [`Reads::wait`], and until as much is known as where the list came from that is gone on
    /// with: that may have been another process.
    pub(super) async fn wait_to_go_on(
        &self,
        metadata: &MetadataMap,
        min_position: Option<u64>,
        from: &Place,
    ) -> Result<(), Status> {
        if self.is_of_another() {
            return self.expect_known(min_position.map(|position| position.max(from.position)));
        }
        self.expect_current()?;
        let durable = *self.durable.borrow();
        let position = durable.max(min_position.unwrap_or(0)).max(from.position);
        if position > durable {
            self.expect_more()?;
        }
        let wait = self.patience(metadata);
        match timeout(wait, self.views.reach(position)).await {
            // That may have changed while the read waited.
            Ok(Ok(())) => self.expect_current(),
            Ok(Err(behind)) => Err(status::views_behind(behind)),
            Err(_) => Err(status::position_not_reached(position)),
        }
    }

    /// Of a ledger that another process owns, only who says how new what is told has to be may be
    /// told what is known here.
    pub(super) fn expect_known(&self, min_position: Option<u64>) -> Result<(), Status> {
        let Ledger::Others(keeps_up) = &self.ledger else { return Ok(()) };
        let known = *self.durable.borrow();
        if min_position.is_some_and(|position| position <= known) && keeps_up() {
            Ok(())
        } else {
            Err(status::for_the_owner())
        }
    }

    /// Whether another process owns the ledger, as far as is known here.
    pub(super) fn is_of_another(&self) -> bool {
        matches!(self.ledger, Ledger::Others(_))
    }

    /// What a read is answered with for which the log could not be read: `status`; but the owner
    /// may be able to.
    pub(super) fn unread(&self, status: Status) -> Status {
        self.ours().err().unwrap_or(status)
    }

    /// UNAVAILABLE while the log cannot be reached: another process may append to it unseen.
    fn expect_reachable(&self) -> Result<(), Status> {
        if *self.status.borrow() == StoreStatus::Unreachable {
            Err(status::not_current())
        } else {
            Ok(())
        }
    }

    fn expect_current(&self) -> Result<(), Status> {
        if self.history.log().is_current() { Ok(()) } else { Err(status::not_current()) }
    }

    /// How long a read may wait: as long as its caller and the server do, less a tenth, so that the
    /// answer that says why is still heard.
    fn patience(&self, metadata: &MetadataMap) -> Duration {
        let said =
            metadata.get(TIMEOUT_HEADER).and_then(|text| deadline::parse(text.to_str().ok()?));
        let call = said.map_or(self.call_time, |said| said.min(self.call_time));
        let most = call.checked_mul(9).and_then(|nine| nine.checked_div(10)).unwrap_or(call);
        most.min(WAIT_MAX)
    }

    /// Runs a read of the log where it may block, when it is its turn.
    pub(super) async fn in_log<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Cursor) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let mut cursor = self.history.cursor();
        self.aside.run(move || read(&mut cursor)).await
    }

    /// As [`Reads::in_log`], for what fails only if the log cannot be read.
    pub(super) async fn read_log<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Cursor) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Status> {
        self.in_log(read).await?.map_err(|failure| self.unread(status::unreadable(&failure)))
    }
}
