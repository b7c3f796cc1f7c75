//! Recovery: from a directory with a log to the state and the books that it adds up to.

use tracing::{error, info, warn};

use super::ServeError;
use crate::{
    event_store::{History, State},
    log::file::{Checkpoint, Directory, Opened, Resume},
    views::{Books, Fold, RestoreError},
};

/// What a log in files adds up to, and the log itself.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) books: Books,
    pub(crate) opened: Opened,
    /// The position of the checkpoint that it was recovered from; 0 without one.
    pub(crate) checkpoint: u64,
}

/// Opens the log that `take` gives, and folds what comes after its checkpoint, or all of it when
/// there is none that is of use. `take` is asked again when what a checkpoint rests on cannot be
/// read.
///
/// # Errors
/// [`ServeError`] when the log cannot be opened. A damaged one can: see [`Opened::damage`].
pub(crate) fn recover(
    take: &dyn Fn() -> Result<Directory, ServeError>,
    request_id_window: u64,
) -> Result<Recovered, ServeError> {
    let directory = take()?;
    let Some((fold, resume)) = checkpoint(&directory, request_id_window) else {
        return open(directory, Fold::new(request_id_window), None);
    };
    let position = resume.position();
    let mut recovered = open(directory, fold, Some(resume))?;
    let history = History::new(recovered.opened.reader.clone());
    if let Err(failure) = recovered.state.recall(&history, position) {
        warn!(%failure, "the log before the checkpoint cannot be read: reading all of it");
        drop((recovered, history));
        return open(take()?, Fold::new(request_id_window), None);
    }
    Ok(recovered)
}

/// What the checkpoint of a directory adds up to, and where it goes on; `None` when there is none
/// or it is of no use.
fn checkpoint(directory: &Directory, request_id_window: u64) -> Option<(Fold, Resume)> {
    let restore = |mut checkpoint: Checkpoint| {
        let fold = Fold::resume(directory.log_id(), request_id_window, &mut checkpoint)?;
        Ok((fold, checkpoint.resume()))
    };
    match directory.checkpoint().map_err(Into::into).and_then(|it| it.map(restore).transpose()) {
        Ok(Some((fold, resume))) => {
            info!(position = resume.position(), "going on from the checkpoint");
            Some((fold, resume))
        }
        Ok(None) => None,
        Err(fault) => {
            let fault: RestoreError = fault;
            warn!(%fault, "reading the whole log instead of the checkpoint");
            None
        }
    }
}

/// Opens the log, and folds all of it, or what comes after a checkpoint.
fn open(
    directory: Directory,
    mut fold: Fold,
    from: Option<Resume>,
) -> Result<Recovered, ServeError> {
    let checkpoint = from.as_ref().map_or(0, Resume::position);
    let mut opened = directory.open(from, &mut |log_id, block| {
        fold.add(log_id, block).map_err(|wrong| wrong.to_string())
    })?;
    if let Some(torn) = &opened.torn {
        warn!(file = torn.file, bytes = torn.bytes, "an unfinished group was cut");
    }
    if let Some(damage) = &opened.damage {
        error!(%damage, "the log is damaged; it can be read up to there, and not written");
    }
    if let (Some(writer), Some(preparer)) = (&mut opened.writer, &mut opened.preparer)
        && !writer.has_room()
        && let Err(error) = preparer.prepare()
    {
        // Nobody is told that there is no room only because nobody has made any yet.
        warn!(%error, "cannot prepare the next segment of the log");
    }
    let (state, books) = fold.finish(opened.reader.log_id());
    Ok(Recovered { state, books, opened, checkpoint })
}
