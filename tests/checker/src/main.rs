//! The second opinion: reads a history that knows nothing of positions, one line of JSON for each
//! operation on an account, and says whether each account behaved as one that does one thing after
//! another, in an order that agrees with real time.
//!
//! `cargo run -- FILE`, where FILE was written by the lane `histories`. It ends with 1 when an
//! account is rejected or undecided, or when there was hardly anything to judge.

use std::{
    collections::BTreeMap,
    env, fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use porcupine_rs::{CheckResult, Operation, check_operations_timeout};

use self::account::{Account, Line};

mod account;

/// How long the search may take for one account between two moments of rest.
const SEARCH_WITHIN: Duration = Duration::from_secs(30);
/// Fewer operations than this prove nothing.
const OPERATIONS_MIN: usize = 500;

fn main() -> ExitCode {
    let Some(path) = env::args().nth(1) else {
        eprintln!("usage: checker FILE");
        return ExitCode::from(2);
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let histories = match gather(&text) {
        Ok(histories) => histories,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    let (mut accepted, mut operations, mut longest) = (0, 0, 0);
    let mut others = Vec::new();
    for (place, history) in &histories {
        operations += history.len();
        longest = longest.max(history.len());
        match check_operations_timeout(history, SEARCH_WITHIN) {
            CheckResult::Ok => accepted += 1,
            result => others.push(format!("{place:?}: {result:?}")),
        }
    }
    println!(
        "second opinion: operations {operations}, histories of one account {} (the longest \
         {longest}), accepted {accepted}, rejected or undecided {}, {:.1} s",
        histories.len(),
        others.len(),
        begun.elapsed().as_secs_f32(),
    );
    for other in &others {
        println!("{other}");
    }
    ExitCode::from(u8::from(!others.is_empty() || operations < OPERATIONS_MIN))
}

/// Between which moments of rest, and which account.
type Place = (usize, String);

/// The histories of the accounts. What has no answer may happen until all else has returned.
fn gather(text: &str) -> Result<BTreeMap<Place, Vec<Operation<Account>>>, serde_json::Error> {
    let mut histories: BTreeMap<Place, Vec<Operation<Account>>> = BTreeMap::new();
    for line in serde_json::Deserializer::from_str(text).into_iter::<Line>() {
        let line = line?;
        let operation = Operation {
            client_id: None,
            call_time: line.called,
            return_time: line.returned.unwrap_or(i64::MAX),
            op: line.deed,
            metadata: None,
        };
        histories.entry((line.window, line.account)).or_default().push(operation);
    }
    Ok(histories)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two deposits at once, a transfer that nobody was told of, and a second window.
    const GOOD: &str = r#"
        {"window": 1, "account": "a", "called": 1, "returned": 2, "action": "open",
            "amount": 5, "outcome": "DONE", "balance": 5}
        {"window": 1, "account": "a", "called": 3, "returned": 9, "action": "deposit",
            "amount": 2, "outcome": "DONE", "balance": 17}
        {"window": 1, "account": "a", "called": 4, "returned": 8, "action": "deposit",
            "amount": 10, "outcome": "DONE", "balance": 15}
        {"window": 1, "account": "a", "called": 10, "returned": null, "action": "send",
            "amount": 7, "outcome": "DONE"}
        {"window": 1, "account": "a", "called": 11, "returned": 12, "action": "read",
            "state": {"version": 3, "balance": 17, "closed": false}}
        {"window": 1, "account": "a", "called": 13, "returned": 14, "action": "withdraw",
            "amount": 11, "outcome": "INSUFFICIENT_FUNDS"}
        {"window": 1, "account": "a", "called": 15, "returned": 16, "action": "read",
            "state": {"version": 6, "balance": 10, "closed": false}}
        {"window": 1, "account": "a", "called": 17, "returned": 18, "action": "deposit",
            "amount": 1, "expected_version": 5, "outcome": "VERSION_MISMATCH"}
        {"window": 2, "account": "a", "called": 15, "returned": 16, "action": "read",
            "state": {"version": 6, "balance": 10, "closed": false}}
        {"window": 2, "account": "a", "called": 17, "returned": 18, "action": "receive",
            "amount": 1, "outcome": "DONE"}
        {"window": 2, "account": "a", "called": 19, "returned": 20, "action": "withdraw",
            "amount": 11, "outcome": "DONE", "balance": 0}
        {"window": 2, "account": "a", "called": 21, "returned": 22, "action": "close",
            "amount": 0, "expected_version": 9, "outcome": "DONE"}
        {"window": 2, "account": "a", "called": 23, "returned": 24, "action": "receive",
            "amount": 1, "outcome": "DESTINATION_CLOSED"}
        {"window": 2, "account": "b", "called": 23, "returned": 24, "action": "read",
            "state": null}"#;

    fn judge(text: &str) -> bool {
        let histories = gather(text).expect("lines of JSON");
        histories
            .values()
            .all(|history| check_operations_timeout(history, SEARCH_WITHIN) == CheckResult::Ok)
    }

    #[test]
    fn a_history_in_order_is_accepted() {
        assert!(judge(GOOD));
    }

    /// Intent: the checker can say no. Each change makes one thing wrong.
    #[test]
    fn each_fault_is_rejected() {
        let faults = [
            // A stale read, or a deposit that is lost.
            (r#"version": 6, "balance": 10"#, r#"version": 3, "balance": 17"#),
            (r#"version": 3, "balance": 17"#, r#"version": 2, "balance": 15"#),
            // An answer that no order explains.
            (r#""DONE", "balance": 17"#, r#""DONE", "balance": 16"#),
            // A command that was carried out before it was called.
            (r#""called": 10, "returned": null"#, r#""called": 19, "returned": null"#),
            // Refusals that were right at no moment.
            (r#""amount": 11, "outcome": "INSUFF"#, r#""amount": 9, "outcome": "INSUFF"#),
            (r#""expected_version": 5"#, r#""expected_version": 6"#),
            // A command on a closed account, and one on an account that nobody opened.
            (r#""outcome": "DESTINATION_CLOSED""#, r#""outcome": "DONE""#),
            (r#""action": "open""#, r#""action": "deposit""#),
        ];
        for (right, wrong) in faults {
            assert!(GOOD.contains(right), "{right}");
            assert!(!judge(&GOOD.replace(right, wrong)), "{wrong}");
        }
    }
}
