//! Recovery: from a directory with a log to the state and the books that it adds up to.

use std::io;

use tracing::{error, info, warn};

use super::ServeError;
use crate::{
    event_store::{History, State},
    log::{
        LogReader,
        file::{Checkpoint, Directory, Opened, Resume},
    },
    views::{Books, Fold, RestoreError},
};

/// What a log in files adds up to, and the log itself.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) books: Books,
    pub(crate) opened: Opened,
    /// The position of the checkpoint that it was recovered from; 0 without one.
    pub(crate) checkpoint: u64,
    /// Whether there was one that the log behind it did not follow from: only a defect of ours
    /// makes such a one.
    pub(crate) was_refuted: bool,
}

/// Opens the log that `take` gives, and folds what comes after its checkpoint, or all of it when
/// there is none that is of use, or there is damage behind it. `take` is asked again when what a
/// checkpoint rests on cannot be read.
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
    if let Some(damage) = &recovered.opened.damage {
        warn!(%damage, "the log does not go on from its checkpoint: reading all of it");
        let was_refuted = recovered.was_refuted;
        drop(recovered);
        let whole = open(take()?, Fold::new(request_id_window), None)?;
        let was_refuted = was_refuted && whole.opened.damage.is_none();
        return Ok(Recovered { was_refuted, ..whole });
    }
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
    let mut was_refuted = false;
    let mut opened = directory.open(from, &mut |log_id, block| {
        fold.add(log_id, block).map_err(|wrong| {
            was_refuted = checkpoint != 0;
            wrong.to_string()
        })
    })?;
    if let Some(torn) = &opened.torn {
        warn!(file = torn.file, bytes = torn.bytes, "an unfinished group was cut");
    }
    if let Some(damage) = opened.damage.as_ref().filter(|_| checkpoint == 0) {
        error!(%damage, "the log is damaged; it can be read up to there, and not written");
        // Of what lies behind the end something may have been folded by then.
        fold = again(&fold, &*opened.reader)?;
    }
    if let (Some(writer), Some(preparer)) = (&mut opened.writer, &mut opened.preparer)
        && !writer.has_room()
        && let Err(error) = preparer.prepare()
    {
        // Nobody is told that there is no room only because nobody has made any yet.
        warn!(%error, "cannot prepare the next segment of the log");
    }
    let (state, books) = fold.finish(opened.reader.log_id());
    Ok(Recovered { state, books, opened, checkpoint, was_refuted })
}

/// Folds all that a log shows, from its beginning.
fn again(fold: &Fold, log: &dyn LogReader) -> Result<Fold, ServeError> {
    let (mut fold, mut next, head) = (fold.anew(), 1, log.head().position);
    while next <= head {
        for block in log.blocks(next).map_err(io::Error::other)? {
            fold.add(&log.log_id(), &block).map_err(io::Error::other)?;
            next = block.last_position().saturating_add(1);
        }
    }
    Ok(fold)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{AccountId, Action, Amount, Balance, Command, CurrencyCode, Owner, Reason},
        event_store::{Entry, Verdict},
        log::{
            Group,
            file::{Options, StdDisk},
        },
    };

    const TIME: i64 = 1_700_000_000_000_000;

    fn account_id() -> AccountId {
        AccountId::new(uuid::Uuid::from_u128(1))
    }

    /// What an action records.
    fn decide(state: &mut State, action: Action) -> Entry {
        let (command, mut entry) = (Command { request_id: None, action }, Entry::default());
        let verdict = state.decide(&command, None, TIME, &mut entry);
        assert!(matches!(verdict, Verdict::Accepted), "{verdict:?}");
        entry
    }

    fn deposit(minor: i64) -> Action {
        Action::DepositMoney {
            account_id: account_id(),
            amount: Amount::new(minor).unwrap(),
            expected_version: None,
            reason: Reason::default(),
        }
    }

    /// Intent: nothing is shown of a block that does not add up, though it begins well.
    #[test]
    fn what_lies_behind_damage_is_not_folded() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new([7; 16], TIME);
        let take = || {
            let disk = StdDisk::open(directory.path()).map_err(ServeError::Directory)?;
            Ok(Directory::take(Arc::new(disk), &options)?)
        };
        let Recovered { mut state, opened, .. } = recover(&take, 1024).unwrap();
        let mut writer = opened.writer.unwrap();
        let action = Action::OpenAccount {
            account_id: account_id(),
            account_id_given: true,
            owner: Owner::new("Ada").unwrap(),
            currency: CurrencyCode::USD,
            initial_balance: Balance::new(5).unwrap(),
            expected_version: None,
        };
        let opening = decide(&mut state, action);
        let [first, _left_out, third] = [10, 20, 30].map(|it| decide(&mut state, deposit(it)));
        for (position, entries) in [(1, vec![opening]), (2, vec![first, third])] {
            let mut group = Group::new(position);
            for entry in entries {
                group.push(1, |bytes| state.codec().encode(&entry, bytes));
            }
            writer.append(&group).unwrap();
        }
        writer.close().unwrap();
        drop((writer, opened.reader, opened.preparer, opened.checkpoints, opened.scrubber));

        let Recovered { state, books, opened, checkpoint, .. } = recover(&take, 1024).unwrap();
        assert_eq!(opened.damage.map(|damage| damage.position), Some(2));
        assert_eq!((opened.reader.head().position, books.position(), checkpoint), (1, 1, 0));
        let shown = books.account(account_id()).unwrap();
        assert_eq!(shown.account.balance().minor(), 5);
        assert_eq!(state.next_position(), 2);
    }
}
