//! Resuming: what of a log was folded into a checkpoint need not be read again.

use std::{io, sync::Arc, thread, time::Duration};

use tracing::{info, warn};

use crate::{
    event_store::{History, HistoryError},
    log::{
        CheckpointFault, ReadError,
        shared::{Checkpoint, Lease, Source, Standby, Vault},
    },
    views::{Following, RestoreError},
};

/// How often a checkpoint is tried to be read, and the pause between: a database that fails over is
/// there again by then, and to read a long log instead may take an hour.
const RESUME_TRIES: u32 = 10;
const RESUME_PAUSE: Duration = Duration::from_secs(1);

/// Why a checkpoint is not gone on from.
#[derive(Debug, thiserror::Error)]
enum ResumeError {
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("the log before it cannot be read: {0}")]
    History(#[from] HistoryError),
}

impl ResumeError {
    /// Whether it may be otherwise when it is tried again.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Restore(RestoreError::Fault(CheckpointFault::Io(_)))
                | Self::History(HistoryError::Log(ReadError::Io(_)))
        )
    }
}

impl From<CheckpointFault> for ResumeError {
    fn from(fault: CheckpointFault) -> Self {
        Self::Restore(fault.into())
    }
}

/// What the newest checkpoint tells, to go on from; or nothing, if there is none of use. Request
/// ids will be remembered for `request_id_window` positions. `meanwhile` is called before each try.
pub(super) fn begin(
    source: &Arc<dyn Source>,
    vault: &Arc<dyn Vault>,
    lease: &Arc<Lease>,
    request_id_window: u64,
    meanwhile: &mut dyn FnMut(),
) -> (Standby, Following) {
    let mut tries = 1_u32;
    let resumed = loop {
        meanwhile();
        match resume(source, vault, lease, request_id_window) {
            Err(failure) if failure.may_pass() && tries < RESUME_TRIES => {
                warn!(%failure, "the checkpoint cannot be read now");
                tries = tries.saturating_add(1);
                thread::sleep(RESUME_PAUSE);
            }
            resumed => break resumed,
        }
    };
    match resumed {
        Ok(Some((standby, following))) => {
            info!(position = standby.position(), "going on from the checkpoint");
            (standby, following)
        }
        begins => {
            if let Err(fault) = begins {
                warn!(%fault, "reading the whole log instead of the checkpoint");
            }
            let standby = Standby::new(Arc::clone(source), Arc::clone(lease));
            (standby, Following::new(source.log_id(), request_id_window))
        }
    }
}

/// What the newest checkpoint tells, and where the log goes on; `None` when there is none.
fn resume(
    source: &Arc<dyn Source>,
    vault: &Arc<dyn Vault>,
    lease: &Arc<Lease>,
    request_id_window: u64,
) -> Result<Option<(Standby, Following)>, ResumeError> {
    let log_id = source.log_id();
    let Some(mut checkpoint) = Checkpoint::find(Arc::clone(vault), &log_id)? else {
        return Ok(None);
    };
    let found = Standby::resume(Arc::clone(source), Arc::clone(lease), checkpoint.head());
    let standby = found.map_err(|failure| CheckpointFault::Io(io::Error::other(failure)))?;
    let standby = standby.ok_or(CheckpointFault::Foreign)?;
    let mut following = Following::resume(log_id, request_id_window, &mut checkpoint)?;
    following.recall(&History::new(standby.reader_of_read()), standby.position())?;
    Ok(Some((standby, following)))
}
