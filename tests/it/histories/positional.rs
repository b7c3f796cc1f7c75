//! The positional check: every answer is compared with the log at its position, and the order of
//! the positions with the order of real time. It takes one pass over the history in the order of
//! time, and decides every operation: nothing is searched for but the moment of a refusal, which
//! has no position of its own and gets the earliest one that explains it.

use daybook::proto::{
    Account, AccountState, Event, batch_command::Command, event::Payload, get_account_request::AsOf,
};

use super::{
    books::{Books, State},
    operation::{Deed, Operation, accounts, key},
    replay::{self, Stories},
};
use crate::crash::call::Verdict;

/// What a history was made of. All of it was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Commands and reads that were sent, each repeat counted.
    pub(super) operations: usize,
    /// Commands that were sent, each repeat counted.
    pub(super) commands: usize,
    /// Those of them that were sent before.
    pub(super) repeats: usize,
    /// Those of them that were answered with the first answer.
    pub(super) replayed: usize,
    pub(super) refused: usize,
    /// Those without an answer.
    pub(super) unknown: usize,
    /// Commands that had no answer, or not at first: those that had happened, and those that had
    /// not.
    pub(super) found: usize,
    pub(super) not_found: usize,
    /// Reads that said which position they must have seen.
    pub(super) min_position_reads: usize,
    /// Reads of an earlier moment.
    pub(super) as_of_reads: usize,
}

/// Checks a history against the log that was read after it.
///
/// # Errors
/// The first thing found that no strictly serializable ledger does.
pub(super) fn check(history: &[Operation], books: &Books) -> Result<Report, String> {
    let mut stories = replay::gather(history)?;
    replay::replay(&mut stories, books)?;
    for story in stories.values() {
        replay::confirm(story, history, books)?;
    }
    let floors = sweep(history, &stories, books)?;
    let mut report = count(history);
    for story in stories.values() {
        report.repeats += story.attempts.len() - 1;
        let is_unknown = |place: &&usize| history[**place].returned.is_none();
        let earliest = story.attempts.iter().filter(is_unknown).map(|place| floors[*place]).min();
        let Some(floor) = earliest else { continue };
        let is_told = story.attempts.iter().any(|place| is_first(&history[*place]));
        match story.effect.filter(|_| !is_told) {
            Some((first, _)) if first <= floor => {
                return Err(format!("at {first}, ahead of {floor}, and called later: {story:?}"));
            }
            Some(_) => report.found += 1,
            None => report.not_found += 1,
        }
    }
    Ok(report)
}

/// Whether an operation says that it was the one that took effect.
fn is_first(operation: &Operation) -> bool {
    let Deed::Command { verdict, .. } = &operation.deed else { return false };
    matches!(verdict, Verdict::Recorded { replayed: false, .. })
}

fn count(history: &[Operation]) -> Report {
    let mut report = Report::default();
    for operation in history {
        let deed = &operation.deed;
        report.operations += usize::from(!matches!(deed, Deed::Tailed { .. } | Deed::Sum { .. }));
        report.min_position_reads += usize::from(deed.min_position().is_some());
        report.as_of_reads += usize::from(deed.as_of().is_some());
        let Deed::Command { verdict, .. } = deed else { continue };
        report.commands += 1;
        match verdict {
            Verdict::Unknown => report.unknown += 1,
            Verdict::Refused(_) => report.refused += 1,
            Verdict::Recorded { replayed, .. } => report.replayed += usize::from(*replayed),
        }
    }
    report
}

/// Goes through the history in the order of time. What has returned has a place in the one order
/// of all; what is called later comes behind it. Gives behind which position each operation was
/// called.
fn sweep(history: &[Operation], stories: &Stories<'_>, books: &Books) -> Result<Vec<i64>, String> {
    let calls = history.iter().enumerate().map(|(place, asked)| (asked.called, false, place));
    let returns = history.iter().enumerate();
    let returns = returns.filter_map(|(place, told)| Some((told.returned?, true, place)));
    let mut moments: Vec<_> = calls.chain(returns).collect();
    // Of two things at one moment the call is taken first: nothing was before it.
    moments.sort_unstable();
    let mut floors = vec![0; history.len()];
    let mut floor = 0;
    for (_, is_return, place) in moments {
        if !is_return {
            floors[place] = floor;
            continue;
        }
        let operation = &history[place];
        let point = point(operation, floors[place], stories, books)
            .map_err(|what| format!("{what}: {operation:?}"))?;
        floor = floor.max(point);
    }
    Ok(floors)
}

/// The place in the one order of an operation that was called when all up to `floor` had
/// returned: right after which position it happened, or with which it ended.
fn point(
    operation: &Operation,
    floor: i64,
    stories: &Stories<'_>,
    books: &Books,
) -> Result<i64, String> {
    let floor_seen = floor.max(operation.deed.min_position().unwrap_or(0));
    let position = match &operation.deed {
        Deed::Command { command, verdict } => {
            return command_point(command, verdict, floor, stories, books);
        }
        Deed::Account { request, told: None } => {
            let opening = books.position_of(&request.account_id, 1).unwrap_or(i64::MAX);
            let until = match request.as_of {
                Some(AsOf::AsOfPosition(position)) => position,
                _ => floor_seen,
            };
            return if until < opening { Ok(floor) } else { Err("not found, and there".into()) };
        }
        Deed::Account { request, told: Some((account, position)) } => {
            return account_point(request.as_of.as_ref(), account, *position, floor_seen, books);
        }
        Deed::Sum { .. } => return Ok(floor),
        Deed::Accounts { told, position, .. } => {
            for account in told {
                confirm_account(account, *position, books)?;
            }
            *position
        }
        Deed::Events { request, told, version, position } => {
            let positions = books.positions(&request.account_id, *position);
            let skipped = usize::try_from(request.after_version).expect("a version is a count");
            let wanted = positions.iter().skip(skipped).take(told.len());
            let is_same = wanted.map(|at| books.event(*at)).eq(told.iter().map(Some));
            let is_whole = told.len() + skipped == positions.len() || told.len() >= 50;
            if !is_same || !is_whole || usize::try_from(*version) != Ok(positions.len()) {
                return Err("other events than the log has".to_owned());
            }
            *position
        }
        Deed::Stats { account_count, position, .. } => {
            if usize::try_from(*account_count) != Ok(books.account_count(*position)) {
                return Err("another count of accounts than the log has".to_owned());
            }
            *position
        }
        Deed::Tailed { position } => *position,
    };
    confirm_fresh(position, floor_seen, books)?;
    Ok(position)
}

/// That a read is true at a position that is not too old, that nobody can know too early, and at
/// which no command is half done.
fn confirm_fresh(position: i64, floor: i64, books: &Books) -> Result<(), String> {
    if position < floor {
        return Err(format!("stale: true at {position}, behind {floor}"));
    }
    if position > books.head() {
        return Err(format!("true at {position}, and the log ends at {}", books.head()));
    }
    if books.whole(position) != position {
        return Err(format!("true at {position}, in the middle of a command"));
    }
    Ok(())
}

fn account_point(
    as_of: Option<&AsOf>,
    account: &Account,
    position: i64,
    floor: i64,
    books: &Books,
) -> Result<i64, String> {
    let id = &account.account_id;
    let then = match as_of {
        Some(AsOf::AsOfPosition(then)) => *then,
        Some(AsOf::AsOfVersion(version)) => {
            books.position_of(id, *version).ok_or("a version that the log does not have")?
        }
        Some(AsOf::AsOfTime(_)) => return Err("as of a time: nobody asks that".to_owned()),
        None => {
            confirm_account(account, position, books)?;
            confirm_fresh(position, floor, books)?;
            return Ok(position);
        }
    };
    let newest = books.position_of(id, books.state(id, then).version);
    if newest != Some(position) {
        return Err(format!("as of {then}, true at {newest:?} and not at {position}"));
    }
    confirm_account(account, position, books)?;
    Ok(books.whole(then))
}

/// Compares all that is told of an account with what the log up to a position makes of it.
fn confirm_account(account: &Account, position: i64, books: &Books) -> Result<(), String> {
    let state = books.state(&account.account_id, position);
    let is_closed = account.state() == AccountState::Closed;
    let told = State { version: account.version, balance: account.balance_minor, is_closed };
    if told != state {
        return Err(format!("at {position} {state:?}, and told was {told:?}"));
    }
    let time = |version| {
        let at = books.position_of(&account.account_id, version)?;
        books.event(at)?.event_time
    };
    if (account.open_time, account.update_time) != (time(1), time(state.version)) {
        return Err(format!("other times than in the log: {account:?}"));
    }
    let newest = books.position_of(&account.account_id, state.version);
    let pending = newest.and_then(|at| books.event(at)).and_then(pending);
    if !account.pending_saga_ids.iter().eq(pending) {
        return Err(format!("{pending:?} is pending: {account:?}"));
    }
    Ok(())
}

/// The transfer that has not ended for an account whose newest event this is.
fn pending(newest: &Event) -> Option<&String> {
    let is_pending = match newest.payload.as_ref()? {
        Payload::TransferInitiated(_) | Payload::MoneyWithdrawn(_) => true,
        Payload::MoneyDeposited(money) => money.reason == "compensation",
        _ => false,
    };
    Some(&newest.saga_id).filter(|saga_id| is_pending && !saga_id.is_empty())
}

fn command_point(
    command: &Command,
    verdict: &Verdict,
    floor: i64,
    stories: &Stories<'_>,
    books: &Books,
) -> Result<i64, String> {
    let effect = stories.get(key(command)).and_then(|story| story.effect);
    match (verdict, effect) {
        (Verdict::Recorded { replayed, .. }, Some((first, last))) => {
            if !replayed && first <= floor {
                return Err(format!("at {first}, ahead of {floor}, and called later"));
            }
            Ok(last)
        }
        (Verdict::Recorded { .. }, None) => Err("acknowledged, and not in the log".to_owned()),
        (Verdict::Refused(_), effect) => {
            let until = effect.map_or(books.head(), |(first, _)| first - 1);
            refusal_point(command, verdict, floor, until, books)
        }
        (Verdict::Unknown, _) => Ok(floor),
    }
}

/// The earliest position from `floor` to `until` at which a refusal is right.
fn refusal_point(
    command: &Command,
    verdict: &Verdict,
    floor: i64,
    until: i64,
    books: &Books,
) -> Result<i64, String> {
    let mut at = floor;
    while at <= until {
        if replay::is_refused(command, verdict, |id| books.state(id, at)) {
            return Ok(at);
        }
        let next = accounts(command).into_iter().filter_map(|id| books.next_change(id, at)).min();
        let Some(next) = next else { break };
        at = books.whole(next);
    }
    Err(format!("refused, and right at no moment from {floor} to {until}"))
}
