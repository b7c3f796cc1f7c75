//! The model of one account, as a client knows it: no positions, and of versions only what reads
//! show and commands expect.

use porcupine_rs::Model;
use serde::Deserialize;

/// One line of a history.
#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    /// Between which moments of rest it was called.
    pub(crate) window: usize,
    pub(crate) account: String,
    /// When it was called, and answered; `None` when it never was.
    pub(crate) called: i64,
    pub(crate) returned: Option<i64>,
    #[serde(flatten)]
    pub(crate) deed: Deed,
}

/// What was done to an account, and what was told of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Deed {
    action: Action,
    #[serde(default)]
    amount: i64,
    #[serde(default)]
    expected_version: Option<i64>,
    /// `DONE`, or the reason of a refusal or of a transfer's failure.
    #[serde(default)]
    outcome: String,
    /// The balance that was answered.
    #[serde(default)]
    balance: Option<i64>,
    /// What a read showed; `None` when there was no account.
    #[serde(default)]
    state: Option<State>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Action {
    Open,
    Deposit,
    Withdraw,
    Close,
    /// A transfer, for its source.
    Send,
    /// A transfer, for its destination.
    Receive,
    Read,
}

/// An account; before its opening, one of version 0.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash)]
pub(crate) struct State {
    version: i64,
    balance: i64,
    closed: bool,
}

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct Account;

impl Model for Account {
    /// `None` until the first read shows what there is, or the first command opens it.
    type State = Option<State>;
    type Op = Deed;
    type Metadata = ();

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, deed: &Deed) -> (bool, Self::State) {
        if deed.action == Action::Read {
            let shown = deed.state.unwrap_or_default();
            return (state.is_none_or(|state| state == shown), Some(shown));
        }
        let before = state.unwrap_or_default();
        match carry_out(before, deed) {
            Ok(after) if deed.balance.is_none_or(|balance| balance == after.balance) => {
                (true, Some(after))
            }
            Ok(_) | Err(Wrong) => (false, *state),
        }
    }
}

/// The outcome is not the one that the account's state leads to.
struct Wrong;

/// The account after a command that had this outcome.
fn carry_out(before: State, deed: &Deed) -> Result<State, Wrong> {
    let outcome = decide(before, deed);
    if outcome != deed.outcome {
        return Err(Wrong);
    }
    let (versions, change) = match (deed.action, outcome) {
        (Action::Open | Action::Deposit, "DONE") => (1, deed.amount),
        (Action::Withdraw, "DONE") => (1, -deed.amount),
        (Action::Close, "DONE") => (1, 0),
        // Begun, withdrawn, completed.
        (Action::Send, "DONE") => (3, -deed.amount),
        // Deposited, completed.
        (Action::Receive, "DONE") => (2, deed.amount),
        // Begun, failed.
        (Action::Send, "INSUFFICIENT_FUNDS") => (2, 0),
        // Begun, withdrawn, given back, failed.
        (Action::Send, "DESTINATION_NOT_FOUND" | "DESTINATION_CLOSED") => (4, 0),
        _ => (0, 0),
    };
    Ok(State {
        version: before.version + versions,
        balance: before.balance + change,
        closed: before.closed || (deed.action == Action::Close && outcome == "DONE"),
    })
}

/// The outcome of a command. What becomes of a transfer beyond its source is for the line of its
/// destination to say.
fn decide(before: State, deed: &Deed) -> &str {
    let is_there = before.version > 0;
    match deed.action {
        Action::Open if is_there => return "ACCOUNT_EXISTS",
        Action::Receive if !is_there => return "DESTINATION_NOT_FOUND",
        Action::Receive if before.closed => return "DESTINATION_CLOSED",
        Action::Open | Action::Receive => return "DONE",
        _ if !is_there => return "ACCOUNT_NOT_FOUND",
        _ => {}
    }
    if deed.expected_version.is_some_and(|expected| expected != before.version) {
        return "VERSION_MISMATCH";
    }
    match deed.action {
        _ if before.closed => "ACCOUNT_CLOSED",
        Action::Withdraw | Action::Send if before.balance < deed.amount => "INSUFFICIENT_FUNDS",
        Action::Close if before.balance != 0 => "BALANCE_NOT_ZERO",
        Action::Send if deed.outcome.starts_with("DESTINATION_") => &deed.outcome,
        _ => "DONE",
    }
}
