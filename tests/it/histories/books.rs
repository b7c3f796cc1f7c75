//! The books: a plain model of accounts, folded from the log by nothing but the contract, and what
//! the contract says that each command does to them.

use std::collections::{BTreeMap, HashMap};

use daybook::proto::{
    AccountClosed, AccountOpened, Event, MoneyDeposited, MoneyWithdrawn, TransferCompleted,
    TransferFailed, TransferInitiated, batch_command::Command, event::Payload,
};

/// An account; before its opening, one of version 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) version: i64,
    pub(super) balance: i64,
    pub(super) is_closed: bool,
}

/// What a command records: events by their account, in order. Or the reason that refuses it.
pub(super) type Decision = Result<Vec<(String, Payload)>, &'static str>;

/// What follows from a log.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) events: Vec<Event>,
    /// The position of each event of each account, and the account right after it.
    timelines: HashMap<String, Vec<(i64, State)>>,
    /// The positions of the openings.
    openings: Vec<i64>,
    /// Where money is in flight: right after a position, how much, and from whom.
    in_flight: BTreeMap<i64, (String, i64)>,
}

impl Books {
    /// Folds a log, and looks at each position whether what accounts hold and what is in flight
    /// is what came in from outside and has not left.
    ///
    /// # Errors
    /// What does not add up.
    pub(super) fn fold(events: Vec<Event>) -> Result<Self, String> {
        let mut books = Self::default();
        let mut sums = Sums::default();
        for event in &events {
            let state = books.next(event).map_err(|what| format!("{what}: {event:?}"))?;
            let before = books.state(&event.account_id, event.position - 1);
            sums.add(event, before, state).map_err(|what| format!("{what}: {event:?}"))?;
            if let Some((saga_id, amount)) = sums.open.iter().find(|(_, amount)| **amount != 0) {
                let from = source(&events, event.position, saga_id);
                books.in_flight.insert(event.position, (from, *amount));
            }
            if state.version == 1 {
                books.openings.push(event.position);
            }
            let timeline = books.timelines.entry(event.account_id.clone()).or_default();
            timeline.push((event.position, state));
        }
        if let Some(saga_id) = sums.open.keys().next() {
            return Err(format!("the transfer {saga_id} has no end"));
        }
        books.events = events;
        Ok(books)
    }

    /// The account of an event right after it.
    fn next(&self, event: &Event) -> Result<State, &'static str> {
        let head = self.timelines.get(&event.account_id).and_then(|timeline| timeline.last());
        let before = head.map_or_else(State::default, |(_, state)| *state);
        if event.version != before.version + 1 || before.is_closed {
            return Err("the version does not follow on that before it");
        }
        let payload = event.payload.as_ref().ok_or("an event without content")?;
        if (before.version == 0) != matches!(payload, Payload::AccountOpened(_)) {
            return Err("an account is opened by its first event");
        }
        Ok(after(before, payload))
    }

    pub(super) fn head(&self) -> i64 {
        i64::try_from(self.events.len()).expect("a log fits in memory")
    }

    /// The event at a position that the log has.
    pub(super) fn event(&self, position: i64) -> Option<&Event> {
        self.events.get(usize::try_from(position).ok()?.checked_sub(1)?)
    }

    /// The events from position `first` to `last`.
    pub(super) fn run(&self, first: i64, last: i64) -> &[Event] {
        let place = |position: i64| usize::try_from(position).expect("a position is a count");
        &self.events[place(first - 1)..place(last)]
    }

    fn timeline(&self, account_id: &str) -> &[(i64, State)] {
        self.timelines.get(account_id).map_or(&[], Vec::as_slice)
    }

    /// An account right after a position.
    pub(super) fn state(&self, account_id: &str, position: i64) -> State {
        let timeline = self.timeline(account_id);
        let count = timeline.partition_point(|(at, _)| *at <= position);
        count.checked_sub(1).map_or_else(State::default, |place| timeline[place].1)
    }

    /// The positions of an account's events up to a position.
    pub(super) fn positions(&self, account_id: &str, until: i64) -> Vec<i64> {
        let timeline = self.timeline(account_id).iter().map(|(position, _)| *position);
        timeline.take_while(|position| *position <= until).collect()
    }

    /// The position of an account's event of a version.
    pub(super) fn position_of(&self, account_id: &str, version: i64) -> Option<i64> {
        let place = usize::try_from(version).ok()?.checked_sub(1)?;
        self.timeline(account_id).get(place).map(|(position, _)| *position)
    }

    /// The position of an account's next event behind a position.
    pub(super) fn next_change(&self, account_id: &str, position: i64) -> Option<i64> {
        let timeline = self.timeline(account_id);
        let place = timeline.partition_point(|(at, _)| *at <= position);
        timeline.get(place).map(|(at, _)| *at)
    }

    /// How many accounts were opened up to a position.
    pub(super) fn account_count(&self, position: i64) -> usize {
        self.openings.partition_point(|opening| *opening <= position)
    }

    /// How much money is in flight from accounts of some kind right after a position.
    pub(super) fn in_flight(&self, position: i64, is_source: impl Fn(&str) -> bool) -> i64 {
        let found = self.in_flight.get(&position).filter(|(from, _)| is_source(from));
        found.map_or(0, |(_, amount)| *amount)
    }

    /// The last position of what was recorded together with the event at a position.
    pub(super) fn whole(&self, position: i64) -> i64 {
        let saga = |at: i64| {
            self.event(at).map(|event| event.saga_id.as_str()).filter(|saga| !saga.is_empty())
        };
        let mut last = position;
        while saga(last).is_some() && saga(last) == saga(last + 1) {
            last += 1;
        }
        last
    }
}

/// What all accounts and transfers add up to.
#[derive(Debug, Default)]
struct Sums {
    /// What accounts hold, by what the events say of their balances.
    held: i64,
    /// What came in from outside and has not left, by the amounts.
    outside: i64,
    /// What is on its way in each transfer that has begun and not ended.
    open: HashMap<String, i64>,
    /// Whether the first of the two events has come that end a transfer which moved its money.
    is_ending: bool,
}

impl Sums {
    fn add(&mut self, event: &Event, before: State, after: State) -> Result<(), &'static str> {
        if after.balance < 0 {
            return Err("a balance is below 0");
        }
        self.held += after.balance - before.balance;
        let change = match event.payload.as_ref().ok_or("an event without content")? {
            Payload::AccountOpened(opened) => opened.initial_balance_minor,
            Payload::MoneyDeposited(money) => money.amount_minor,
            Payload::MoneyWithdrawn(money) => -money.amount_minor,
            Payload::TransferInitiated(_)
            | Payload::TransferCompleted(_)
            | Payload::TransferFailed(_)
            | Payload::AccountClosed(_) => 0,
        };
        if event.saga_id.is_empty() {
            self.outside += change;
        } else {
            *self.open.entry(event.saga_id.clone()).or_default() -= change;
            self.end(event)?;
        }
        let in_flight: i64 = self.open.values().sum();
        if self.held + in_flight != self.outside {
            return Err("money was made or lost");
        }
        Ok(())
    }

    /// Takes note of a transfer's end: then nothing of it is in flight.
    fn end(&mut self, event: &Event) -> Result<(), &'static str> {
        let is_end = match event.payload {
            Some(Payload::TransferFailed(_)) => true,
            Some(Payload::TransferCompleted(_)) => {
                // One on each side.
                self.is_ending = !self.is_ending;
                !self.is_ending
            }
            _ => false,
        };
        if is_end && self.open.remove(&event.saga_id) != Some(0) {
            return Err("a transfer ended with its money in flight");
        }
        Ok(())
    }
}

/// From whom the money of a transfer comes that is under way at a position.
fn source(events: &[Event], position: i64, saga_id: &str) -> String {
    let until = usize::try_from(position).expect("a position is a count");
    let story = events[..until].iter().rev().take_while(|event| event.saga_id == saga_id);
    story.last().map(|event| event.account_id.clone()).unwrap_or_default()
}

/// An account after one more event. The balance is the one that the event tells.
fn after(before: State, payload: &Payload) -> State {
    let mut state = State { version: before.version + 1, ..before };
    match payload {
        Payload::AccountOpened(opened) => state.balance = opened.initial_balance_minor,
        Payload::MoneyDeposited(money) => state.balance = money.balance_minor,
        Payload::MoneyWithdrawn(money) => state.balance = money.balance_minor,
        Payload::AccountClosed(_) => state.is_closed = true,
        Payload::TransferInitiated(_)
        | Payload::TransferCompleted(_)
        | Payload::TransferFailed(_) => {}
    }
    state
}

/// The balance that an event tells.
pub(super) fn balance(event: &Event) -> Option<i64> {
    match event.payload.as_ref()? {
        Payload::AccountOpened(opened) => Some(opened.initial_balance_minor),
        Payload::MoneyDeposited(money) => Some(money.balance_minor),
        Payload::MoneyWithdrawn(money) => Some(money.balance_minor),
        _ => None,
    }
}

/// What a command does to accounts that are as `state` tells.
pub(super) fn decide(command: &Command, state: impl Fn(&str) -> State) -> Decision {
    let one = |id: &str, expected: Option<i64>| {
        let account = state(id);
        match (account.version, expected) {
            (0, _) => Err("ACCOUNT_NOT_FOUND"),
            (actual, Some(expected)) if actual != expected => Err("VERSION_MISMATCH"),
            _ if account.is_closed => Err("ACCOUNT_CLOSED"),
            _ => Ok(account),
        }
    };
    let (id, payload) = match command {
        Command::OpenAccount(asked) => {
            if state(&asked.account_id).version != 0 {
                return Err("ACCOUNT_EXISTS");
            }
            (&asked.account_id, opened(&asked.owner, asked.initial_balance_minor))
        }
        Command::DepositMoney(asked) => {
            let account = one(&asked.account_id, asked.expected_version)?;
            (&asked.account_id, deposited(account.balance, asked.amount_minor, &asked.reason))
        }
        Command::WithdrawMoney(asked) => {
            let account = one(&asked.account_id, asked.expected_version)?;
            if account.balance < asked.amount_minor {
                return Err("INSUFFICIENT_FUNDS");
            }
            (&asked.account_id, withdrawn(account.balance, asked.amount_minor, &asked.reason))
        }
        Command::CloseAccount(asked) => {
            if one(&asked.account_id, asked.expected_version)?.balance != 0 {
                return Err("BALANCE_NOT_ZERO");
            }
            (&asked.account_id, Payload::AccountClosed(AccountClosed {}))
        }
        Command::TransferMoney(asked) => {
            let (from, to) = (&asked.from_account_id, &asked.to_account_id);
            let source = one(from, None)?;
            let steps = transfer(source, state(to), to, asked.amount_minor, &asked.reason);
            let place =
                |(at_source, payload)| (if at_source { from.clone() } else { to.clone() }, payload);
            return Ok(steps.into_iter().map(place).collect());
        }
    };
    Ok(vec![(id.clone(), payload)])
}

/// The events of a transfer, each with whether it is one of the source's.
fn transfer(
    source: State,
    destination: State,
    to: &str,
    amount: i64,
    reason: &str,
) -> Vec<(bool, Payload)> {
    let failed =
        |error: &str| (true, Payload::TransferFailed(TransferFailed { error: error.into() }));
    let begun = TransferInitiated {
        to_account_id: to.to_owned(),
        amount_minor: amount,
        reason: reason.to_owned(),
    };
    let begun = (true, Payload::TransferInitiated(begun));
    if source.balance < amount {
        return vec![begun, failed("INSUFFICIENT_FUNDS")];
    }
    let taken = (true, withdrawn(source.balance, amount, reason));
    let refused = match destination {
        State { version: 0, .. } => Some("DESTINATION_NOT_FOUND"),
        State { is_closed: true, .. } => Some("DESTINATION_CLOSED"),
        State { .. } => None,
    };
    if let Some(error) = refused {
        let returned = deposited(source.balance - amount, amount, "compensation");
        return vec![begun, taken, (true, returned), failed(error)];
    }
    let given = (false, deposited(destination.balance, amount, reason));
    let completed = |at_source| (at_source, Payload::TransferCompleted(TransferCompleted {}));
    vec![begun, taken, given, completed(true), completed(false)]
}

fn opened(owner: &str, initial_balance_minor: i64) -> Payload {
    Payload::AccountOpened(AccountOpened {
        owner: owner.to_owned(),
        currency_code: "USD".to_owned(),
        initial_balance_minor,
    })
}

fn deposited(balance: i64, amount_minor: i64, reason: &str) -> Payload {
    let balance_minor = balance + amount_minor;
    Payload::MoneyDeposited(MoneyDeposited {
        amount_minor,
        balance_minor,
        reason: reason.to_owned(),
    })
}

fn withdrawn(balance: i64, amount_minor: i64, reason: &str) -> Payload {
    let balance_minor = balance - amount_minor;
    Payload::MoneyWithdrawn(MoneyWithdrawn {
        amount_minor,
        balance_minor,
        reason: reason.to_owned(),
    })
}
