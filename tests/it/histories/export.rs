//! The export: a history without positions, one line of JSON for each account of each operation,
//! for a checker that knows nothing of how this ledger orders what it does.
//!
//! Each window begins and ends with a look at every account while nothing moves, so it can be
//! checked by itself. What became of a command without an answer is taken from the log; the
//! moment is for the checker to find.

use std::{collections::HashSet, fs, io};

use daybook::proto::{Account, AccountState, batch_command::Command, event::Payload};
use serde_json::{Value, json};

use super::{
    books::Books,
    operation::{Deed, Operation, accounts},
    replay::{self, Story},
};
use crate::crash::call::{Answer, Verdict};

#[allow(clippy::disallowed_methods, reason = "whoever runs a test says where to write")]
pub(super) fn write_if_asked(history: &[Operation], books: &Books) -> io::Result<()> {
    let Ok(path) = std::env::var("DAYBOOK_TEST_HISTORY") else { return Ok(()) };
    let lines: Vec<_> = lines(history, books).iter().map(Value::to_string).collect();
    fs::write(path, lines.join("\n") + "\n")
}

/// All lines, in no order.
pub(super) fn lines(history: &[Operation], books: &Books) -> Vec<Value> {
    let mut stories = replay::gather(history).expect("the history was checked");
    replay::replay(&mut stories, books).expect("the history was checked");
    let mut lines = Vec::new();
    for story in stories.values() {
        add_story(story, history, books, &mut lines);
    }
    for operation in history {
        if let Deed::Account { request, told } = &operation.deed
            && request.as_of.is_none()
        {
            let told = told.as_ref().map(|(account, _)| account);
            lines.push(read(operation, operation.window, &request.account_id, told));
        }
    }
    let place = |line: &Value| (line["window"].to_string(), line["account"].to_string());
    let touched: HashSet<_> = lines.iter().map(place).collect();
    for operation in history {
        let Deed::Accounts { request, told, .. } = &operation.deed else { continue };
        // A page of all accounts was asked for at rest; it ends one window and begins the next.
        let is_at_rest = request.owner.is_empty();
        let windows = operation.window..=operation.window + usize::from(is_at_rest);
        for (window, account) in windows.flat_map(|at| told.iter().map(move |told| (at, told))) {
            let line = read(operation, window, &account.account_id, Some(account));
            if touched.contains(&place(&line)) {
                lines.push(line);
            }
        }
    }
    lines
}

fn read(operation: &Operation, window: usize, id: &str, told: Option<&Account>) -> Value {
    let state = told.map(|account| {
        json!({
            "version": account.version,
            "balance": account.balance_minor,
            "closed": account.state() == AccountState::Closed,
        })
    });
    json!({
        "window": window,
        "account": id,
        "called": operation.called,
        "returned": operation.returned,
        "action": "read",
        "state": state,
    })
}

/// The effect of a command, from the call that may have had it to the first answer that told of
/// it; and each refusal.
fn add_story(story: &Story<'_>, history: &[Operation], books: &Books, lines: &mut Vec<Value>) {
    let (mut doers, mut returned, mut answer) = (Vec::new(), None::<u64>, None);
    for operation in story.attempts.iter().map(|place| &history[*place]) {
        let Deed::Command { verdict, .. } = &operation.deed else { continue };
        match verdict {
            Verdict::Refused(refusal) => {
                let outcome = refusal.reason.as_str();
                let returned = operation.returned;
                let times = (operation.window, operation.called, returned);
                lines.extend(parts(story.command, times, outcome, None));
            }
            Verdict::Unknown => doers.push((operation.called, operation.window, false)),
            Verdict::Recorded { answer: told, replayed } => {
                let then = operation.returned.unwrap_or(u64::MAX);
                returned = Some(returned.map_or(then, |before| before.min(then)));
                answer = Some(told);
                if !replayed {
                    doers.push((operation.called, operation.window, true));
                }
            }
        }
    }
    let certain = doers.iter().find(|(.., is_certain)| *is_certain);
    let Some((called, window, _)) = certain.or(doers.iter().min()) else { return };
    if let Some(last) = story.effect.and_then(|(_, last)| books.event(last)) {
        let outcome = match &last.payload {
            Some(Payload::TransferFailed(failed)) => failed.error.as_str(),
            _ => "DONE",
        };
        lines.extend(parts(story.command, (*window, *called, returned), outcome, answer));
    }
}

/// What a command is to each of its accounts.
fn parts(
    command: &Command,
    (window, called, returned): (usize, u64, Option<u64>),
    outcome: &str,
    answer: Option<&Answer>,
) -> Vec<Value> {
    let (actions, amount, expected): (&[_], _, _) = match command {
        Command::OpenAccount(asked) => (&["open"], asked.initial_balance_minor, None),
        Command::DepositMoney(asked) => (&["deposit"], asked.amount_minor, asked.expected_version),
        Command::WithdrawMoney(asked) => {
            (&["withdraw"], asked.amount_minor, asked.expected_version)
        }
        Command::CloseAccount(asked) => (&["close"], 0, asked.expected_version),
        Command::TransferMoney(asked) => (&["send", "receive"], asked.amount_minor, None),
    };
    // Only the source knows why a transfer was refused, and whether one failed for want of funds.
    let is_known_to_both =
        matches!(outcome, "DONE" | "DESTINATION_NOT_FOUND" | "DESTINATION_CLOSED");
    let balance = match answer {
        Some(Answer::Event(event)) => super::books::balance(event),
        _ => None,
    };
    let line = |(action, account): (&&str, &str)| {
        json!({
            "window": window,
            "account": account,
            "called": called,
            "returned": returned,
            "action": action,
            "amount": amount,
            "expected_version": expected,
            "outcome": outcome,
            "balance": balance,
        })
    };
    let accounts = accounts(command);
    let count = if is_known_to_both { actions.len() } else { 1 };
    actions.iter().zip(accounts).take(count).map(line).collect()
}
