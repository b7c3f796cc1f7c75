//! Aside: work that takes so long that the thread that carries all calls is not to do it.

use std::{sync::Arc, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::Status;

use super::status;

/// Threads beside the one that carries all calls, half as many as there are processors: the others
/// are that one's, the writer's and those of the views.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    turns: Arc<Semaphore>,
}

impl Default for Aside {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self { turns: Arc::new(Semaphore::new(processors.div_ceil(2))) }
    }
}

impl Aside {
    /// Does some work of a call there, once it has its turn. Goes on to its end also when nobody
    /// waits for it any more.
    ///
    /// # Errors
    /// Those of the work; an internal error when it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        // Turns are never closed.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        let done = spawn_blocking(move || (work(), turn)).await;
        let (done, _turn) = done.map_err(|_| status::panicked())?;
        done
    }
}
