//! The replay: each command in the order of the log, on a plain model, and each answer compared.

use std::collections::HashMap;

use daybook::proto::{Event, SagaState, TransferFailed, batch_command::Command, event::Payload};

use super::{
    books::{Books, State, decide},
    operation::{Deed, Operation, key},
};
use crate::crash::call::{Answer, Verdict};

/// A command, however often it was sent, and where it is in the log.
#[derive(Debug)]
pub(super) struct Story<'a> {
    pub(super) command: &'a Command,
    /// The places of its operations in the history.
    pub(super) attempts: Vec<usize>,
    /// Its first position and its last.
    pub(super) effect: Option<(i64, i64)>,
}

pub(super) type Stories<'a> = HashMap<&'a str, Story<'a>>;

/// Gathers the commands of a history by their keys.
///
/// # Errors
/// Two commands with one key.
pub(super) fn gather(history: &[Operation]) -> Result<Stories<'_>, String> {
    let mut stories = Stories::new();
    for (place, operation) in history.iter().enumerate() {
        let Deed::Command { command, .. } = &operation.deed else { continue };
        let new = || Story { command, attempts: Vec::new(), effect: None };
        let story = stories.entry(key(command)).or_insert_with(new);
        if story.command != command {
            return Err(format!("one key for two commands: {command:?}"));
        }
        story.attempts.push(place);
    }
    Ok(stories)
}

/// Finds each command in the log, and what the model says that it does there: that, and once.
///
/// # Errors
/// An event that nobody asked for, an effect that came twice, or another one than asked for.
pub(super) fn replay(stories: &mut Stories<'_>, books: &Books) -> Result<(), String> {
    let mut position = 1;
    while let Some(event) = books.event(position) {
        let story = stories.get_mut(event_key(event));
        let story = story.ok_or_else(|| format!("nobody asked for {event:?}"))?;
        if let Some((first, _)) = story.effect {
            return Err(format!("took effect twice, at {first} and {position}: {event:?}"));
        }
        let state = |id: &str| books.state(id, position - 1);
        let expected = decide(story.command, state).map_err(|reason| {
            format!("the model refuses with {reason} what is at {position}: {event:?}")
        })?;
        for (at, (account_id, payload)) in (position..).zip(&expected) {
            let found = books.event(at);
            let is_same = found.is_some_and(|found| {
                found.account_id == *account_id
                    && found.payload.as_ref() == Some(payload)
                    && event_key(found) == event_key(event)
                    && found.saga_id == event.saga_id
            });
            if !is_same {
                return Err(format!("at {at} {payload:?} should be and is {found:?}"));
            }
        }
        let last = position + i64::try_from(expected.len()).expect("a few events") - 1;
        story.effect = Some((position, last));
        position = last + 1;
    }
    Ok(())
}

/// The key of the command that caused an event.
fn event_key(event: &Event) -> &str {
    match &event.payload {
        _ if !event.request_id.is_empty() => &event.request_id,
        Some(Payload::MoneyDeposited(money)) => &money.reason,
        Some(Payload::MoneyWithdrawn(money)) => &money.reason,
        _ => "",
    }
}

/// Compares all answers to one command with what it did.
///
/// # Errors
/// The answer that does not agree.
pub(super) fn confirm(story: &Story, history: &[Operation], books: &Books) -> Result<(), String> {
    let (mut firsts, mut repeats, mut unknown) = (0, 0, 0);
    for place in &story.attempts {
        let Deed::Command { verdict, .. } = &history[*place].deed else { continue };
        match verdict {
            Verdict::Unknown => unknown += 1,
            Verdict::Refused(_) => {}
            Verdict::Recorded { answer, replayed } => {
                confirm_answer(story, answer, books)?;
                *(if *replayed { &mut repeats } else { &mut firsts }) += 1;
            }
        }
    }
    match (firsts, story.effect) {
        (2.., _) => Err(format!("carried out {firsts} times: {:?}", story.command)),
        (0, _) if repeats > 0 && unknown == 0 => {
            Err(format!("a repeat of nothing: {:?}", story.command))
        }
        (0, Some(_)) if unknown == 0 => {
            Err(format!("refused, and in the log: {:?}", story.command))
        }
        _ => Ok(()),
    }
}

fn confirm_answer(story: &Story, answer: &Answer, books: &Books) -> Result<(), String> {
    let (first, last) = story.effect.ok_or_else(|| {
        format!("acknowledged, and not in the log: {:?} {answer:?}", story.command)
    })?;
    let events = books.run(first, last);
    let end = &events[events.len() - 1];
    let is_same = match answer {
        Answer::Event(event) => events == std::slice::from_ref(&**event),
        Answer::Completed(saga) => {
            let Command::TransferMoney(asked) = story.command else { return wrong(story, answer) };
            saga.state() == SagaState::Completed
                && (saga.position, &saga.saga_id) == (last, &end.saga_id)
                && (&saga.from_account_id, &saga.to_account_id)
                    == (&asked.from_account_id, &asked.to_account_id)
                && (saga.amount_minor, &saga.reason) == (asked.amount_minor, &asked.reason)
                && (asked.saga_id.is_empty() || asked.saga_id == saga.saga_id)
                && matches!(end.payload, Some(Payload::TransferCompleted(_)))
        }
        Answer::Failed { saga_id, reason, position } => {
            (*position, saga_id) == (last, &end.saga_id)
                && end.payload == Some(Payload::TransferFailed(failed(reason)))
        }
    };
    if is_same { Ok(()) } else { wrong(story, answer) }
}

fn failed(reason: &str) -> TransferFailed {
    TransferFailed { error: reason.to_owned() }
}

fn wrong(story: &Story, answer: &Answer) -> Result<(), String> {
    Err(format!("{:?} was answered {answer:?}, and is at {:?}", story.command, story.effect))
}

/// Whether a refusal is right for accounts that are as `state` tells.
pub(super) fn is_refused(
    command: &Command,
    verdict: &Verdict,
    state: impl Fn(&str) -> State,
) -> bool {
    let Verdict::Refused(refusal) = verdict else { return false };
    let actual = refusal.actual_version;
    let actual_is_right = actual.is_none_or(|actual| {
        super::operation::accounts(command).first().is_some_and(|id| state(id).version == actual)
    });
    actual_is_right && decide(command, state).err() == Some(refusal.reason.as_str())
}
