//! The follower: the thread that keeps the books up with the log, and the books as they are
//! shared with readers.

use std::sync::{
    PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, Ordering},
    mpsc::Receiver,
};

use tokio::sync::watch;
use tracing::error;

use super::Books;
use crate::{
    domain::Inconsistent,
    event_store::{Cursor, Few, History, HistoryError, Malformed},
};

/// The books, shared.
#[derive(Debug)]
pub struct Views {
    books: RwLock<Books>,
    position: watch::Sender<u64>,
    /// Set when the books cannot be kept up with the log any more.
    failed: AtomicBool,
}

/// The books no longer follow the log: what they would answer is too old to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the views can no longer follow the log")]
pub struct ViewsFailed;

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

impl Views {
    /// Shares books that have been folded from the log so far.
    #[must_use]
    pub fn new(books: Books) -> Self {
        let (position, _) = watch::channel(books.position());
        Self { books: RwLock::new(books), position, failed: AtomicBool::new(false) }
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

    /// Waits until the books have reached a position.
    ///
    /// # Errors
    /// [`ViewsFailed`] when they never will.
    pub async fn reach(&self, position: u64) -> Result<(), ViewsFailed> {
        if *self.position.borrow() >= position {
            return Ok(());
        }
        let mut progress = self.position.subscribe();
        let enough = |reached: &u64| *reached >= position || self.has_failed();
        let reached = progress.wait_for(enough).await.map_err(|_| ViewsFailed)?;
        if *reached >= position { Ok(()) } else { Err(ViewsFailed) }
    }

    /// Says that the books have come to their end.
    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.position.send_modify(|_| ());
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
        let mut books = self.books_mut();
        loop {
            let entries = few.decode(history.codec(), &mut records)?;
            if entries.is_empty() {
                break;
            }
            books.warm(entries);
            for entry in entries {
                books.apply(entry)?;
            }
        }
        let position = books.position();
        drop(books);
        self.position.send_replace(position);
        Ok(())
    }
}

/// Keeps the views up with the log until whoever wakes it is gone. When the log cannot be read or
/// does not add up, it says so and stops: reads are refused from then on.
pub fn follow(history: &History, views: &Views, wake: &Receiver<()>) {
    let (mut cursor, mut few) = (history.cursor(), Few::default());
    while wake.recv().is_ok() {
        while *views.position.borrow() < history.log().head().position {
            if let Err(failure) = views.advance(history, &mut cursor, &mut few) {
                error!(%failure, "the views can no longer follow the log");
                views.fail();
                return;
            }
        }
    }
}
