//! The spare: the next segment, zeroed and synced ahead of need.
//!
//! Filling a segment takes a moment and may fail for want of space. Both happen here, beside the
//! writer, which only ever takes a spare that is ready. As long as there is none and the current
//! segment is nearly full, the log says that it has no room; as soon as space is back, it has. A
//! writer that is faster than the disk can make spares is not told that there is no room: it waits
//! for the one that is being made.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::log::guard::lock;

use super::bytes::{narrow, wide};
use super::disk::{Disk, DiskFile, write_all_at};
use super::segment::SPARE_FILE;

/// How long to wait after a failure: space comes back by a human hand or a clean-up job.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How much is written at once.
const FILL_BYTES: usize = 1024 * 1024;

/// How much the maker writes before it syncs: little enough that the writer's own syncs, on the
/// same file system at the same time, do not wait long behind it.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// A zeroed file of full length, known as [`SPARE_FILE`].
pub(super) struct Spare {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) length: u64,
}

/// Where the writer asks for a spare and the maker leaves it.
#[derive(Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether the writer wants another spare.
    is_wanted: bool,
    ready: Option<Spare>,
    /// Whether another thread is making one at this moment.
    is_making: bool,
    /// Whether the writer is gone.
    is_closed: bool,
}

impl Shelf {
    /// Whether there is a spare. If one is being made, the answer waits for its end.
    pub(super) fn is_ready(&self) -> bool {
        self.settled().ready.is_some()
    }

    fn settled(&self) -> MutexGuard<'_, State> {
        self.changed
            .wait_while(lock(&self.state), |state| state.is_making)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the spare if there is one and it has so many bytes at least. If one is being made,
    /// this waits for its end.
    pub(super) fn take(&self, bytes: u64) -> Option<Spare> {
        self.settled().ready.take_if(|spare| spare.length >= bytes)
    }

    /// Asks for another spare. Not before the file of the last one has got its own name.
    pub(super) fn request(&self) {
        lock(&self.state).is_wanted = true;
        self.changed.notify_all();
    }

    /// Says that nobody will take a spare any more.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }
}

/// Makes spares for one log: [`SpareMaker::run`] on a thread of its own, or
/// [`SpareMaker::prepare`] step by step.
pub struct SpareMaker {
    disk: Arc<dyn Disk>,
    shelf: Arc<Shelf>,
    length: u64,
    /// Whether the last try failed: each outage is logged once.
    is_failing: bool,
}

impl SpareMaker {
    pub(super) fn new(disk: Arc<dyn Disk>, shelf: Arc<Shelf>, length: u64) -> Self {
        Self { disk, shelf, length, is_failing: false }
    }

    /// Makes a spare if the writer wants one. When it returns `true`, a zeroed segment of full
    /// length is durable and the writer may take it; `false`, that none was wanted.
    ///
    /// # Errors
    /// When it could not be made, for want of space above all. What it had taken is given back,
    /// and the next call tries again.
    pub fn prepare(&mut self) -> io::Result<bool> {
        let Some(making) = Making::begin(&self.shelf) else { return Ok(false) };
        let file = make(&*self.disk, self.length, SYNC_BYTES)?;
        making.finish(Spare { file, length: self.length });
        Ok(true)
    }

    /// Makes spares as long as there is a writer, and returns when it is dropped. After a
    /// failure it tries again every second.
    pub fn run(mut self) {
        while self.wait() {
            match self.prepare() {
                Ok(_) if self.is_failing => {
                    self.is_failing = false;
                    tracing::info!("the next segment of the log is prepared after all");
                }
                Err(error) if !self.is_failing => {
                    self.is_failing = true;
                    tracing::warn!(%error, "cannot prepare the next segment of the log");
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Waits until there is something to do; `false` when there never will be again.
    fn wait(&self) -> bool {
        let mut state = lock(&self.shelf.state);
        if self.is_failing && !state.is_closed {
            state = self
                .shelf
                .changed
                .wait_timeout(state, RETRY_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let state = self
            .shelf
            .changed
            .wait_while(state, |state| !state.is_wanted && !state.is_closed)
            .unwrap_or_else(PoisonError::into_inner);
        !state.is_closed
    }
}

/// A spare in the making. However it ends, whoever waits for it goes on.
struct Making<'a>(&'a Shelf);

impl<'a> Making<'a> {
    /// Begins, if a spare is wanted.
    fn begin(shelf: &'a Shelf) -> Option<Self> {
        let mut state = lock(&shelf.state);
        if !state.is_wanted {
            return None;
        }
        state.is_making = true;
        Some(Self(shelf))
    }

    fn finish(self, spare: Spare) {
        let mut state = lock(&self.0.state);
        state.ready = Some(spare);
        state.is_wanted = false;
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).is_making = false;
        self.0.changed.notify_all();
    }
}

/// Makes a file of zeros under the name of a spare, and syncs it every `sync_bytes`. Durable when
/// it returns, but for its entry in the directory.
pub(super) fn make(disk: &dyn Disk, length: u64, sync_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
    remove_left_over(disk)?;
    let file = disk.create(SPARE_FILE)?;
    let filled = fill(&*file, length, sync_bytes);
    if filled.is_err() && remove_left_over(disk).is_err() {
        tracing::warn!(file = SPARE_FILE, "cannot remove an unfinished file");
    }
    filled.map(|()| file)
}

/// Removes a spare that is not finished or that nobody knows the content of.
pub(super) fn remove_left_over(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(SPARE_FILE) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn fill(file: &dyn DiskFile, length: u64, sync_bytes: u64) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES];
    let (mut done, mut synced) = (0_u64, 0_u64);
    while done < length {
        let count = length.saturating_sub(done).min(wide(FILL_BYTES));
        write_all_at(file, zeros.get(..narrow(count)).unwrap_or_default(), done)?;
        done = done.saturating_add(count);
        if done == length || done.saturating_sub(synced) >= sync_bytes {
            file.sync_data()?;
            synced = done;
        }
    }
    Ok(())
}
