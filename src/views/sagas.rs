//! The sagas view: how many ended in which way, where the newest of each are, and the way to each.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher as _;

use super::{AccountView, SCAN_ENTRIES_MAX};
use crate::{
    domain::{AccountId, Amount, Fact, Principal, SagaId, TransferError},
    event_store::{Cursor, Entry, EventIds, HistoryError, SagaEnd},
};

/// How far a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaState {
    /// Begun and not ended. In one log a transfer begins and ends in one entry, so none is here.
    Running,
    /// Ended well.
    Completed,
    /// Ended before any money moved.
    Failed,
    /// Ended by giving the money back.
    Compensated,
}

impl SagaState {
    /// All of them, in ascending order.
    pub const ALL: [Self; 4] = [Self::Running, Self::Completed, Self::Failed, Self::Compensated];
}

/// How a step of a saga ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Done.
    Done,
    /// Refused by a rule.
    Failed,
}

/// A saga, folded from its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaView {
    /// Its id.
    pub id: SagaId,
    /// How far it is.
    pub state: SagaState,
    /// Where the money comes from.
    pub from: AccountId,
    /// Where the money goes.
    pub to: AccountId,
    /// How much.
    pub amount: Amount,
    /// The steps that were tried, in order.
    pub steps: Vec<(&'static str, StepState)>,
    /// Why it did not complete.
    pub error: Option<TransferError>,
    /// Why the caller asked for it.
    pub reason: Box<str>,
    /// Who asked for it; none when the server did not know its callers.
    pub principal: Option<Principal>,
    /// When it was recorded, begin and end, in microseconds since 1970 UTC.
    pub time_micros: i64,
    /// The position of its newest event.
    pub position: u64,
}

impl SagaView {
    /// Folds the events of an entry that bear its saga's id; `None` if it is no transfer.
    #[must_use]
    pub fn fold(entry: &Entry) -> Option<Self> {
        let saga = entry.saga?;
        let initiated = entry.events.first()?;
        let Fact::TransferInitiated { to, amount } = &initiated.fact else { return None };
        let (state, error) = match entry.saga_end()? {
            SagaEnd::Completed => (SagaState::Completed, None),
            SagaEnd::Failed(error) => (SagaState::Failed, Some(error)),
            SagaEnd::Compensated(error) => (SagaState::Compensated, Some(error)),
        };
        Some(Self {
            id: saga.id,
            state,
            from: entry.accounts.get(initiated.slot)?.id,
            to: *to,
            amount: *amount,
            steps: entry
                .events
                .iter()
                .filter_map(|event| step(&event.fact, state))
                .flatten()
                .collect(),
            error,
            reason: entry.reason.clone(),
            principal: entry.principal.clone(),
            time_micros: entry.time_micros,
            position: entry.last_position(),
        })
    }
}

/// The steps that a fact tells of. A step that was refused has no event of its own: it shows in
/// what came instead.
fn step(fact: &Fact, state: SagaState) -> Option<Vec<(&'static str, StepState)>> {
    match fact {
        Fact::MoneyWithdrawn { .. } => Some(vec![("withdraw", StepState::Done)]),
        Fact::MoneyDeposited { compensation: false, .. } => {
            Some(vec![("deposit", StepState::Done)])
        }
        Fact::MoneyDeposited { compensation: true, .. } => {
            Some(vec![("deposit", StepState::Failed), ("compensate", StepState::Done)])
        }
        Fact::TransferFailed { .. } if state == SagaState::Failed => {
            Some(vec![("withdraw", StepState::Failed)])
        }
        Fact::AccountOpened { .. }
        | Fact::TransferInitiated { .. }
        | Fact::TransferCompleted
        | Fact::TransferFailed { .. }
        | Fact::AccountClosed => None,
    }
}

/// What is kept in memory of the sagas.
#[derive(Debug, Default)]
pub(super) struct Sagas {
    completed: Ended,
    failed: Ended,
    compensated: Ended,
    named: Named,
}

/// Where the sagas are whose ids were chosen by callers, in the order of their beginning. The
/// others' ids lead to them.
#[derive(Debug, Default)]
struct Named {
    rows: Vec<(SagaId, u64)>,
    by_id: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// The sagas that ended alike.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    pub(super) count: u64,
    /// The first position of the newest; each leads to the one before it. 0 when there is none.
    pub(super) newest: u64,
}

impl Named {
    fn row(&self, place: u32) -> Option<&(SagaId, u64)> {
        self.rows.get(usize::try_from(place).ok()?)
    }

    fn find(&self, saga_id: SagaId) -> Option<u64> {
        let hash = self.hasher.hash_one(saga_id);
        let is_it = |place: &u32| self.row(*place).is_some_and(|(id, _)| *id == saga_id);
        self.row(*self.by_id.find(hash, is_it)?).map(|(_, position)| *position)
    }

    fn push(&mut self, saga_id: SagaId, position: u64) {
        let Ok(place) = u32::try_from(self.rows.len()) else {
            unreachable!("memory ends before the numbers do")
        };
        self.rows.push((saga_id, position));
        let (rows, hasher) = (&self.rows, &self.hasher);
        let hash_of = |place: &u32| {
            let row = usize::try_from(*place).ok().and_then(|place| rows.get(place));
            row.map_or(0, |(id, _)| hasher.hash_one(id))
        };
        self.by_id.insert_unique(hasher.hash_one(saga_id), place, hash_of);
    }
}

impl Sagas {
    pub(super) fn apply(&mut self, entry: &Entry) {
        let (Some(saga), Some(end)) = (entry.saga, entry.saga_end()) else { return };
        let ended = match end {
            SagaEnd::Completed => &mut self.completed,
            SagaEnd::Failed(_) => &mut self.failed,
            SagaEnd::Compensated(_) => &mut self.compensated,
        };
        ended.count = ended.count.saturating_add(1);
        ended.newest = entry.first_position;
        if entry.id_given {
            self.named.push(saga.id, entry.first_position);
        }
    }

    /// Sagas that were kept elsewhere: those that completed, failed and were compensated.
    pub(super) fn resumed([completed, failed, compensated]: [Ended; 3]) -> Self {
        Self { completed, failed, compensated, named: Named::default() }
    }

    /// What is to be kept of them beside the named ones.
    pub(super) fn all_ended(&self) -> [Ended; 3] {
        [self.completed, self.failed, self.compensated]
    }

    /// The sagas whose ids were chosen by callers, and where they begin, in that order.
    pub(super) fn named(&self) -> &[(SagaId, u64)] {
        &self.named.rows
    }

    /// Gives back the named saga that comes next.
    pub(super) fn give_back(&mut self, saga_id: SagaId, position: u64) {
        self.named.push(saga_id, position);
    }

    fn ended(&self, state: SagaState) -> Ended {
        match state {
            SagaState::Running => Ended::default(),
            SagaState::Completed => self.completed,
            SagaState::Failed => self.failed,
            SagaState::Compensated => self.compensated,
        }
    }

    pub(super) fn count(&self, state: SagaState) -> u64 {
        self.ended(state).count
    }

    /// The first positions of the newest sagas in a state, or in each.
    pub(super) fn newest(&self, state: Option<SagaState>) -> Vec<u64> {
        let states = SagaState::ALL.into_iter().filter(|one| state.is_none_or(|it| it == *one));
        states.map(|state| self.ended(state).newest).filter(|newest| *newest != 0).collect()
    }

    /// The position that a saga's id leads to, if there can be such a saga.
    pub(super) fn locate(&self, saga_id: SagaId, ids: &EventIds) -> Option<u64> {
        let named = self.named.find(saga_id);
        named.or_else(|| ids.position_of(saga_id.uuid()))
    }
}

/// The saga at the position that its id leads to; `None` if another is there. May block on I/O.
///
/// # Errors
/// [`HistoryError`] when the log cannot be read.
pub fn find_saga(
    cursor: &mut Cursor,
    saga_id: SagaId,
    position: u64,
) -> Result<Option<SagaView>, HistoryError> {
    let entry = cursor.entry(position)?;
    Ok(SagaView::fold(&entry).filter(|saga| saga.id == saga_id))
}

/// Which sagas to list, and from where.
#[derive(Clone, Debug)]
pub enum SagaFilter {
    /// Those on the chains that begin at these positions, one chain for each way to end; a chain
    /// that has come to its end begins at 0.
    Chains(Vec<u64>),
    /// Those of an account that begin before a position, and of these the ones in a state.
    OfAccount(Box<AccountView>, Option<SagaState>, u64),
}

/// Some sagas, and where to go on.
#[derive(Debug, Default)]
pub struct SagaPage {
    /// The sagas, newest first.
    pub sagas: Vec<SagaView>,
    /// Where the next page begins: the positions of the chains, or the one of the account. Empty
    /// on the last page.
    pub next: Vec<u64>,
}

/// The sagas that pass a filter. May block on I/O.
///
/// # Errors
/// [`HistoryError`] when the log cannot be read.
pub fn list_sagas(
    cursor: &mut Cursor,
    filter: SagaFilter,
    limit: usize,
) -> Result<SagaPage, HistoryError> {
    match filter {
        SagaFilter::Chains(heads) => list_chains(cursor, heads, limit),
        SagaFilter::OfAccount(account, state, before) => {
            list_of_account(cursor, &account, state, before, limit)
        }
    }
}

/// Merges the chains: the newest saga of all that are left comes next.
fn list_chains(
    cursor: &mut Cursor,
    mut heads: Vec<u64>,
    limit: usize,
) -> Result<SagaPage, HistoryError> {
    let mut sagas = Vec::new();
    while sagas.len() < limit {
        let newest = heads.iter_mut().max();
        let Some(newest) = newest.filter(|newest| **newest != 0) else { break };
        let entry = cursor.entry(*newest)?;
        *newest = entry.saga.map_or(0, |saga| saga.previous);
        sagas.extend(SagaView::fold(&entry));
    }
    let more = heads.iter().any(|head| *head != 0);
    Ok(SagaPage { sagas, next: if more { heads } else { Vec::new() } })
}

fn list_of_account(
    cursor: &mut Cursor,
    account: &AccountView,
    state: Option<SagaState>,
    before: u64,
    limit: usize,
) -> Result<SagaPage, HistoryError> {
    let id = account.account.id();
    let mut sagas = Vec::new();
    let too_new = |entry: &Entry, _: &_| entry.first_position >= before;
    let mut found = cursor.back_to(id, account.newest_entry, too_new)?;
    let mut next = Vec::new();
    for _ in 0..SCAN_ENTRIES_MAX {
        let Some(entry) = found.filter(|_| sagas.len() < limit) else { break };
        let passes = |saga: &SagaView| state.is_none_or(|state| saga.state == state);
        sagas.extend(SagaView::fold(&entry).filter(passes));
        let own = entry.accounts.iter().find(|account| account.id == id);
        let previous = own.map_or(0, |own| own.link.previous);
        next = if previous == 0 { Vec::new() } else { vec![entry.first_position] };
        found = if previous == 0 { None } else { Some(cursor.entry(previous)?) };
    }
    Ok(SagaPage { sagas, next })
}
