//! Checkpoints: the books as bytes, and state and books from them.
//!
//! Everything is in the books: also what the writer decides on follows from them, but for the
//! request ids, which are read from the log again.

use std::{io, time::Duration};

use super::{
    Books, Views,
    accounts::Beside,
    frozen::{ACCOUNTS, CLOSED, NEW_OWNER, SAGAS, SUMMARY},
    sagas::{Ended, Sagas},
};
use crate::{
    domain::{
        Account, AccountId, AccountState, Balance, Compact, CurrencyCode, Inconsistent,
        OWNER_CHARS_MAX, SagaId,
    },
    event_store::{Chain, Codec, EventIds, Malformed, Reader, State, put_number},
    log::{CheckpointFault, Checkpoints, Draft, LogId, Pieces},
};

/// How long to wait between looking whether the views have come to the place to be told.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How many bytes a character of UTF-8 takes at most.
const CHAR_BYTES_MAX: usize = 4;

/// Why a checkpoint gives no state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is of no use as it is kept.
    #[error(transparent)]
    Fault(#[from] CheckpointFault),
    /// A piece does not say what a checkpoint says.
    #[error("a piece of the checkpoint is not valid")]
    Malformed(#[from] Malformed),
    /// The pieces do not fit together.
    #[error("the pieces of the checkpoint do not fit together")]
    Inconsistent(#[from] Inconsistent),
}

/// Why no checkpoint was made.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The views do not follow the log any more.
    #[error("the views can no longer follow the log")]
    ViewsFailed,
    /// It was told to stop.
    #[error("the server stops")]
    Stopped,
    /// It could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a checkpoint of the books as they are where the log ends now, while they go on. Gives
/// its position; 0 when the log is empty. `goes_on` says whether to: it is asked now and then, and
/// is to wait about as long as it is told first.
///
/// # Errors
/// [`SaveError`]; the checkpoint before is then still the one that counts.
pub fn save(
    views: &Views,
    checkpoints: &dyn Checkpoints,
    goes_on: &mut dyn FnMut(Duration) -> bool,
) -> Result<u64, SaveError> {
    let Some(mut draft) = freeze(views, checkpoints, goes_on)? else { return Ok(0) };
    let position = draft.position();
    let written = write(views, &mut *draft, goes_on);
    views.books_mut().thaw();
    match written {
        Ok(()) => draft.finish()?,
        Err(failure) => {
            draft.discard()?;
            return Err(failure);
        }
    }
    Ok(position)
}

/// Freezes the books at the end of the log, once they have come there.
fn freeze(
    views: &Views,
    checkpoints: &dyn Checkpoints,
    goes_on: &mut dyn FnMut(Duration) -> bool,
) -> Result<Option<Box<dyn Draft>>, SaveError> {
    let draft = loop {
        let Some(draft) = checkpoints.begin() else { return Ok(None) };
        if views.books_mut().freeze_at(draft.position()) {
            break draft;
        }
    };
    while !views.books().is_frozen() {
        let end = if views.has_failed() {
            Some(SaveError::ViewsFailed)
        } else {
            (!goes_on(POLL_INTERVAL)).then_some(SaveError::Stopped)
        };
        if let Some(end) = end {
            views.books_mut().thaw();
            return Err(end);
        }
    }
    Ok(Some(draft))
}

fn write(
    views: &Views,
    draft: &mut dyn Draft,
    goes_on: &mut dyn FnMut(Duration) -> bool,
) -> Result<(), SaveError> {
    loop {
        let piece = views.books_mut().next_frozen_piece();
        let Some(piece) = piece else { return Ok(()) };
        draft.push(&piece)?;
        if !goes_on(draft.pause()) {
            return Err(SaveError::Stopped);
        }
    }
}

/// Begins the piece that goes before all others.
pub(super) fn summary(position: u64, time_micros: i64, transaction_count: u64) -> Vec<u8> {
    let mut summary = vec![SUMMARY];
    put_number(&mut summary, position);
    put_number(&mut summary, u64::try_from(time_micros).unwrap_or(0));
    put_number(&mut summary, transaction_count);
    summary
}

/// Whether a checkpoint tells what the books are. There is one way to tell them.
///
/// # Errors
/// [`CheckpointFault`] when it cannot be read.
pub(super) fn is_told_by(
    books: &mut Books,
    checkpoint: &mut dyn Pieces,
) -> Result<bool, CheckpointFault> {
    books.freeze_at(checkpoint.position());
    let told = loop {
        let (ours, theirs) = (books.next_frozen_piece(), checkpoint.next_piece());
        match theirs {
            Ok(theirs) if ours.as_deref() != theirs => break Ok(false),
            Ok(None) => break Ok(true),
            Ok(Some(_)) => {}
            Err(fault) => break Err(fault),
        }
    };
    books.thaw();
    told
}

/// State and books as a checkpoint tells them. Request ids will be remembered for
/// `request_id_window` positions; those of before are still to be recalled.
///
/// # Errors
/// [`RestoreError`].
pub(super) fn restore(
    log_id: LogId,
    request_id_window: u64,
    checkpoint: &mut dyn Pieces,
) -> Result<(State, Books), RestoreError> {
    let position = checkpoint.position();
    let first = checkpoint.next_piece()?.ok_or(Inconsistent)?;
    let codec = Codec::new(EventIds::new(log_id));
    let (mut restoring, told) = read_summary(codec, request_id_window, first)?;
    if told != position {
        return Err(Inconsistent.into());
    }
    while let Some(piece) = checkpoint.next_piece()? {
        restoring.read_piece(piece)?;
    }
    let Restoring { state, books, account_count, saga_count } = restoring;
    if (books.totals().account_count, books.named_saga_count()) != (account_count, saga_count) {
        return Err(Inconsistent.into());
    }
    Ok((state, books))
}

/// State and books in the making, and how much they will have.
struct Restoring {
    state: State,
    books: Books,
    account_count: u64,
    saga_count: u64,
}

fn read_summary(
    codec: Codec,
    request_id_window: u64,
    piece: &[u8],
) -> Result<(Restoring, u64), RestoreError> {
    let mut reader = Reader::new(piece);
    if reader.byte()? != SUMMARY {
        return Err(Inconsistent.into());
    }
    let position = reader.number()?;
    let time_micros = read_time(&mut reader)?;
    let transaction_count = reader.number()?;
    let (account_count, saga_count) = (reader.number()?, reader.number()?);
    let mut ended = [Ended::default(); 3];
    for ended in &mut ended {
        *ended = Ended { count: reader.number()?, newest: reader.number()? };
    }
    reader.end()?;
    let place = (position, time_micros);
    let state = State::resumed(codec, request_id_window, place, ended.map(|ended| ended.newest));
    let register = state.register().clone();
    let books = Books::resumed(register, place, transaction_count, Sagas::resumed(ended));
    Ok((Restoring { state, books, account_count, saga_count }, position))
}

impl Restoring {
    fn read_piece(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        let mut reader = Reader::new(piece);
        let kind = reader.byte()?;
        while reader.end().is_err() {
            match kind {
                SAGAS => self.read_saga(&mut reader)?,
                ACCOUNTS => self.read_account(&mut reader)?,
                _ => return Err(Inconsistent.into()),
            }
        }
        Ok(())
    }

    fn read_saga(&mut self, reader: &mut Reader<'_>) -> Result<(), RestoreError> {
        let (saga_id, position) = (SagaId::new(reader.id()?), reader.number()?);
        self.state.give_back_saga(saga_id);
        self.books.give_back_saga(saga_id, position);
        Ok(())
    }

    fn read_account(&mut self, reader: &mut Reader<'_>) -> Result<(), RestoreError> {
        let flags = reader.byte()?;
        let id = AccountId::new(reader.id()?);
        let owner = u32::try_from(reader.number()?).map_err(|_| Inconsistent)?;
        let bytes_max = OWNER_CHARS_MAX.saturating_mul(CHAR_BYTES_MAX);
        let owner_name = (flags & NEW_OWNER != 0).then(|| reader.text(bytes_max)).transpose()?;
        let currency = CurrencyCode::from_packed(reader.number()?).ok_or(Inconsistent)?;
        let balance = i64::try_from(reader.number()?).ok().and_then(Balance::new);
        let version = reader.number()?;
        let transaction_count = reader.number()?;
        let (open_time_micros, update_time_micros) = (read_time(reader)?, read_time(reader)?);
        let newest = reader.number()?;
        let mark_count = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
        let marks: Result<Vec<u64>, Malformed> = (0..mark_count).map(|_| reader.number()).collect();
        let state = if flags & CLOSED == 0 { AccountState::Active } else { AccountState::Closed };
        let compact = Compact::new(currency, state, balance.ok_or(Inconsistent)?, version);
        let account = Account::of(id, compact);
        let chain = Chain::kept(newest, &marks?);
        let mut beside = Beside::new(owner, open_time_micros, chain.clone());
        (beside.update_time_micros, beside.transaction_count) =
            (update_time_micros, transaction_count);
        self.state.give_back_account(&account, chain).ok_or(Inconsistent)?;
        self.books.give_back_account(&account, beside, owner_name)?;
        Ok(())
    }
}

fn read_time(reader: &mut Reader<'_>) -> Result<i64, RestoreError> {
    Ok(i64::try_from(reader.number()?).map_err(|_| Inconsistent)?)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::*;
    use crate::{
        domain::{Action, Command, Owner},
        event_store::{Entry, Verdict},
        log::{Group, memory},
        views::Fold,
    };

    const LOG_ID: LogId = [7; 16];
    const TIME: i64 = 1_700_000_000_000_000;

    /// Pieces of a place in the log.
    #[derive(Clone, Debug, Default)]
    struct Told {
        position: u64,
        pieces: Vec<Vec<u8>>,
        next: usize,
    }

    impl Pieces for Told {
        fn position(&self) -> u64 {
            self.position
        }

        fn next_piece(&mut self) -> Result<Option<&[u8]>, CheckpointFault> {
            self.next += 1;
            Ok(self.pieces.get(self.next - 1).map(Vec::as_slice))
        }
    }

    /// Where one checkpoint is made.
    struct Place(u64, Arc<Mutex<Told>>);

    impl Checkpoints for Place {
        fn begin(&self) -> Option<Box<dyn Draft>> {
            Some(Box::new(Self(self.0, Arc::clone(&self.1))))
        }
    }

    impl Draft for Place {
        fn position(&self) -> u64 {
            self.0
        }

        fn pause(&self) -> Duration {
            Duration::ZERO
        }

        fn push(&mut self, piece: &[u8]) -> io::Result<()> {
            self.1.lock().unwrap().pieces.push(piece.to_vec());
            Ok(())
        }

        fn finish(self: Box<Self>) -> io::Result<()> {
            self.1.lock().unwrap().position = self.0;
            Ok(())
        }

        fn discard(self: Box<Self>) -> io::Result<()> {
            unreachable!("nothing fails")
        }
    }

    /// A log of two accounts with these balances: what it is folded to after each of them.
    fn folded(balances: [i64; 2]) -> (Fold, [Told; 2]) {
        let (mut writer, reader) = memory::open(LOG_ID);
        let (mut state, _) = Fold::new(1_024).finish(LOG_ID);
        let mut fold = Fold::new(1_024);
        let told = [0, 1].map(|index| {
            let entry = opening(&mut state, index, balances[index]);
            let position = index as u64 + 1;
            let mut group = Group::new(position);
            group.push(1, |bytes| state.codec().encode(&entry, bytes));
            writer.append(&group).unwrap();
            let blocks: Vec<_> =
                (1..=position).map(|position| reader.block(position).unwrap()).collect();
            let mut whole = Fold::new(1_024);
            for block in &blocks {
                whole.add(&LOG_ID, block).unwrap();
            }
            fold.add(&LOG_ID, &blocks[index]).unwrap();
            let told = Arc::default();
            let place = Place(position, Arc::clone(&told));
            let views = Views::new(whole.finish(LOG_ID).1);
            assert_eq!(save(&views, &place, &mut |_| true).unwrap(), position);
            told.lock().unwrap().clone()
        });
        (fold, told)
    }

    fn opening(state: &mut State, index: usize, balance: i64) -> Entry {
        let action = Action::OpenAccount {
            account_id: AccountId::new(uuid::Uuid::from_u128(index as u128 + 1)),
            account_id_given: true,
            owner: Owner::new("Ada").unwrap(),
            currency: CurrencyCode::USD,
            initial_balance: Balance::new(balance).unwrap(),
            expected_version: None,
        };
        let (command, mut entry) = (Command { request_id: None, action }, Entry::default());
        let verdict = state.decide(&command, None, TIME, &mut entry);
        assert!(matches!(verdict, Verdict::Accepted));
        entry
    }

    /// Intent: a balance that no event has made is found, though every checksum is right.
    #[test]
    fn what_the_log_does_not_say_is_found() {
        let (mut fold, [first, same]) = folded([5, 9]);
        let (_, [_, other]) = folded([5, 10]);
        let mut short = same.clone();
        short.pieces.pop();
        let mut long = same.clone();
        long.pieces.push(vec![1]);
        assert!(fold.is_told_by(&mut same.clone()).unwrap());
        for mut wrong in [other, short, long, Told { position: 2, ..first.clone() }, first] {
            assert!(!fold.is_told_by(&mut wrong).unwrap(), "{wrong:?}");
        }
        assert!(fold.is_told_by(&mut same.clone()).unwrap(), "the fold is as it was");
    }
}
