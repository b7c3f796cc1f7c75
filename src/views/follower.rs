//! The follower: the thread that keeps the books up with the log, and the books as they are
//! shared with readers.

use std::{
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Books;
use crate::{
    domain::Inconsistent,
    event_store::{Cursor, Few, History, HistoryError, Malformed},
    log::ReadError,
};

/// How long to wait before the log is read again where it could not be, unless it goes on before
/// that: as long as callers are told to wait.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often what is read may not be what was written before it counts as damaged: a read may have
/// given what is somewhere else.
const MISREADS_MAX: u32 = 2;

/// The books, shared.
#[derive(Debug)]
pub struct Views {
    books: RwLock<Books>,
    position: watch::Sender<u64>,
    /// Set when the books cannot be kept up with the log any more.
    failed: AtomicBool,
    /// Set while the log cannot be read where the books go on.
    waits: AtomicBool,
}

/// The books are not as far as they should be: what they would answer is too old to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BehindError {
    /// They never will be.
    #[error("the views can no longer follow the log")]
    Failed,
    /// They cannot be now: the medium failed, and is tried again.
    #[error("the log cannot be read where the views go on")]
    Unreadable,
}

/// Why the books cannot be kept.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
}

impl FollowError {
    /// Whether something else was read than was written, and nothing was folded.
    fn is_of_the_read(&self) -> bool {
        matches!(self, Self::History(HistoryError::Log(ReadError::Damaged(_))))
    }

    /// Whether the medium failed, which may pass, and nothing was folded.
    fn may_pass(&self) -> bool {
        matches!(self, Self::History(HistoryError::Log(ReadError::Io(_))))
    }
}

impl Views {
    /// Shares books that have been folded from the log so far.
    #[must_use]
    pub fn new(books: Books) -> Self {
        let (position, _) = watch::channel(books.position());
        let (failed, waits) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { books: RwLock::new(books), position, failed, waits }
    }

    /// The books as they are now. They stand still while they are held: not for long.
    pub fn books(&self) -> RwLockReadGuard<'_, Books> {
        self.books.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn books_mut(&self) -> RwLockWriteGuard<'_, Books> {
        self.books.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the books have come to their end.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Waits until the books have come to their end.
    pub async fn failed(&self) {
        let mut progress = self.position.subscribe();
        // The sender lives as long as this.
        let _failed = progress.wait_for(|_| self.has_failed()).await;
    }

    /// Waits until the books have reached a position.
    ///
    /// # Errors
    /// [`BehindError`] when they never will, or the log cannot be read now.
    pub async fn reach(&self, position: u64) -> Result<(), BehindError> {
        if *self.position.borrow() >= position {
            return Ok(());
        }
        let mut progress = self.position.subscribe();
        let waits = || self.waits.load(Ordering::Acquire);
        let enough = |reached: &u64| *reached >= position || self.has_failed() || waits();
        let reached = progress.wait_for(enough).await.map_err(|_| BehindError::Failed)?;
        if *reached >= position {
            Ok(())
        } else if self.has_failed() {
            Err(BehindError::Failed)
        } else {
            Err(BehindError::Unreadable)
        }
    }

    /// Says that the books have come to their end.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.position.send_modify(|_| ());
    }

    /// Says whether the books wait until the log can be read. Gives whether that is news.
    fn set_waits(&self, waits: bool) -> bool {
        let is_news = self.waits.swap(waits, Ordering::AcqRel) != waits;
        if is_news {
            self.position.send_modify(|_| ());
        }
        is_news
    }

    /// Folds the block of the log that comes next.
    fn advance(
        &self,
        history: &History,
        cursor: &mut Cursor,
        few: &mut Few,
    ) -> Result<(), FollowError> {
        let next = self.position.borrow().saturating_add(1);
        let block = cursor.block(next)?;
        let mut records = block.records().skip_while(|record| record.first_position < next);
        self.change(|books| {
            loop {
                let entries = few.decode(history.codec(), &mut records)?;
                if entries.is_empty() {
                    return Ok(());
                }
                books.warm(entries);
                for entry in entries {
                    books.apply(entry)?;
                }
            }
        })
    }

    /// Changes the books, and tells how far they are then, unless that fails.
    pub(super) fn change<E>(
        &self,
        change: impl FnOnce(&mut Books) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut books = self.books_mut();
        change(&mut books)?;
        let position = books.position();
        drop(books);
        self.position.send_replace(position);
        Ok(())
    }
}

/// Reads are not to wait for who has panicked.
struct FailOnPanic<'a>(&'a Views);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail();
        }
    }
}

/// Keeps the views up with the log until whoever wakes it is gone. Where the log cannot be read it
/// is tried again, and reads that need more are refused meanwhile. When it is damaged there or
/// does not add up, however often it is read, it says so and stops: reads are refused from then on.
pub fn follow(history: &History, views: &Views, wake: &Receiver<()>) {
    let _fail_on_panic = FailOnPanic(views);
    let (mut cursor, mut few) = (history.cursor(), Few::default());
    let mut misreads = 0_u32;
    while wake.recv().is_ok() {
        while *views.position.borrow() < history.log().head().position {
            match views.advance(history, &mut cursor, &mut few) {
                Ok(()) => {
                    misreads = 0;
                    if views.set_waits(false) {
                        info!("the views follow the log again");
                    }
                }
                Err(failure)
                    if failure.may_pass()
                        || failure.is_of_the_read() && misreads < MISREADS_MAX =>
                {
                    misreads = misreads.saturating_add(u32::from(failure.is_of_the_read()));
                    if views.set_waits(true) {
                        warn!(%failure, "the views wait until the log can be read");
                    }
                    let woken = wake.recv_timeout(RETRY_INTERVAL);
                    if woken == Err(RecvTimeoutError::Disconnected) {
                        return;
                    }
                }
                Err(failure) => {
                    error!(%failure, "the views can no longer follow the log");
                    views.fail();
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, atomic::AtomicUsize, mpsc::sync_channel},
        thread,
    };

    use super::*;
    use crate::{
        domain::{AccountId, Action, Balance, Command, CurrencyCode, Owner},
        event_store::{Entry, Verdict},
        log::{Block, Damage, Group, Head, LogId, LogReader, memory},
        views::Fold,
    };

    const LOG_ID: LogId = [7; 16];

    /// A log whose medium fails so many times, or gives something else.
    struct Unread {
        log: Arc<dyn LogReader>,
        failures: AtomicUsize,
        is_misread: bool,
    }

    impl LogReader for Unread {
        fn log_id(&self) -> LogId {
            self.log.log_id()
        }

        fn engine(&self) -> &'static str {
            self.log.engine()
        }

        fn head(&self) -> Head {
            self.log.head()
        }

        fn block(&self, position: u64) -> Result<Arc<Block>, ReadError> {
            let one_less = |left: usize| left.checked_sub(1);
            match self.failures.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less) {
                Ok(_) if self.is_misread => {
                    Err(Damage::in_table("log", position, "injected").into())
                }
                Ok(_) => Err(io::Error::other("injected").into()),
                Err(_) => self.log.block(position),
            }
        }

        fn recent_block(&self, _position: u64) -> Option<Arc<Block>> {
            None
        }
    }

    /// A log with one account, and the books of before that.
    fn one_account(failures: usize) -> (Arc<Unread>, Views) {
        let (mut writer, log) = memory::open(LOG_ID);
        let (mut state, books) = Fold::new(1024).finish(LOG_ID);
        let action = Action::OpenAccount {
            account_id: AccountId::new(uuid::Uuid::from_u128(1)),
            account_id_given: true,
            owner: Owner::new("Ada").unwrap(),
            currency: CurrencyCode::USD,
            initial_balance: Balance::new(5).unwrap(),
            expected_version: None,
        };
        let (command, mut entry) = (Command { request_id: None, action }, Entry::default());
        let verdict = state.decide(&command, None, 1_700_000_000_000_000, &mut entry);
        assert!(matches!(verdict, Verdict::Accepted));
        let mut group = Group::new(1);
        group.push(1, |bytes| state.codec().encode(&entry, bytes));
        writer.append(&group).unwrap();
        let failures = AtomicUsize::new(failures);
        (Arc::new(Unread { log, failures, is_misread: false }), Views::new(books))
    }

    /// Whoever reads meanwhile is told that the log cannot be read now, and not for ever.
    #[tokio::test]
    async fn what_cannot_be_read_now_is_read_again() {
        let (log, views) = one_account(usize::MAX);
        let (history, views) = (History::new(log.clone()), Arc::new(views));
        let (wake, wakes) = sync_channel(1);
        let follower = thread::spawn({
            let views = Arc::clone(&views);
            move || follow(&history, &views, &wakes)
        });
        wake.send(()).unwrap();
        assert_eq!(views.reach(1).await, Err(BehindError::Unreadable));
        log.failures.store(0, Ordering::Release);
        while let Err(behind) = views.reach(1).await {
            assert_eq!(behind, BehindError::Unreadable);
            // The log goes on, and so it is tried again.
            let _it_is_awake = wake.try_send(());
            tokio::task::yield_now().await;
        }
        drop(wake);
        follower.join().unwrap();
    }

    /// What is read wrong once may be right the next time; what is wrong each time is damaged.
    #[test]
    fn what_is_read_wrong_is_read_again() {
        for (failures, is_damaged) in [(2, false), (3, true)] {
            let (log, views) = one_account(failures);
            let log = Arc::into_inner(log).unwrap();
            let history = History::new(Arc::new(Unread { is_misread: true, ..log }));
            let (wake, wakes) = sync_channel(1);
            thread::scope(|scope| {
                let (history, views) = (&history, &views);
                scope.spawn(move || follow(history, views, &wakes));
                while !views.has_failed() && *views.position.borrow() == 0 {
                    // It is tried again at once then.
                    let _it_is_awake_or_gone = wake.try_send(());
                    thread::yield_now();
                }
                drop(wake);
            });
            assert_eq!(views.has_failed(), is_damaged, "{failures}");
        }
    }

    #[test]
    fn who_waits_for_the_log_ends_when_nobody_wakes_it_any_more() {
        let (log, views) = one_account(usize::MAX);
        let (wake, wakes) = sync_channel(1);
        wake.send(()).unwrap();
        drop(wake);
        follow(&History::new(log), &views, &wakes);
        assert!(!views.has_failed());
    }
}
