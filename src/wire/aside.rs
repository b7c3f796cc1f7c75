//! Aside: work that takes so long that the thread that carries all calls is not to do it.

use std::{sync::Arc, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::Status;

use super::status;

/// Turns on threads beside the one that carries all calls.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    turns: Arc<Semaphore>,
}

impl Aside {
    /// So many at once; others wait for their turn.
    pub(super) fn new(turns: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(turns)) }
    }

    /// Half as many as there are processors: the others are for the thread that carries all calls,
    /// the writer and the views.
    pub(super) fn of_processors() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::new(processors.div_ceil(2))
    }

    /// Does some work of a call there, once it has its turn. That is kept until whoever asked goes
    /// on, and until the work has ended if nobody does.
    ///
    /// # Errors
    /// An internal error when it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        // Turns are never closed.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        let done = spawn_blocking(move || (work(), turn)).await;
        let (done, _turn) = done.map_err(|_| status::panicked())?;
        Ok(done)
    }
}
