//! The model: what a log adds up to, folded from its events by nothing but the contract.

use std::collections::{BTreeMap, HashMap, HashSet};

use daybook::proto::{Event, SagaState, event::Payload};

/// An account, folded.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) owner: String,
    pub(super) currency_code: String,
    pub(super) balance: i64,
    pub(super) version: i64,
    pub(super) is_closed: bool,
    /// The positions of the events that changed its balance.
    pub(super) transactions: Vec<i64>,
}

/// A transfer that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) state: SagaState,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) amount: i64,
    pub(super) error: String,
    pub(super) reason: String,
    pub(super) positions: Vec<i64>,
}

/// The whole log, and what it adds up to.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) events: Vec<Event>,
    pub(super) accounts: BTreeMap<String, Account>,
    /// The transfers that have ended.
    pub(super) stories: HashMap<String, Story>,
    /// Positions by the `request_id` that caused them.
    pub(super) requests: HashMap<String, Vec<i64>>,
    /// How much money came in from outside and has not left.
    pub(super) money: i64,
    /// How many events changed a balance.
    pub(super) transaction_count: usize,
    /// Positions of the transfers that have not ended.
    open: BTreeMap<String, Vec<i64>>,
    event_ids: HashSet<String>,
}

impl Ledger {
    /// The position of the newest event.
    pub(super) fn head(&self) -> i64 {
        i64::try_from(self.events.len()).expect("a log fits in memory")
    }

    /// The event at a position that the log has.
    pub(super) fn event(&self, position: i64) -> Option<&Event> {
        self.events.get(usize::try_from(position).ok()?.checked_sub(1)?)
    }

    /// The positions that a request caused.
    pub(super) fn caused_by(&self, request_id: &str) -> &[i64] {
        self.requests.get(request_id).map_or(&[], Vec::as_slice)
    }

    /// How much money all accounts have.
    pub(super) fn balances(&self) -> i64 {
        self.accounts.values().map(|account| account.balance).sum()
    }

    /// Takes the log as it was read after a restart, from behind position `after`: what was there
    /// before is there still, and unchanged; what is new follows on it.
    pub(super) fn take_again(&mut self, after: i64, log: Vec<Event>) {
        let known = &self.events[usize::try_from(after).expect("a count")..];
        let known_count = known.len();
        assert!(log.len() >= known_count, "of {known_count} events {} are left", log.len());
        for (before, now) in known.iter().zip(&log) {
            assert_eq!(before, now, "an event has changed");
        }
        for event in log.into_iter().skip(known_count) {
            self.take(event);
        }
    }

    /// Takes the next event.
    pub(super) fn take(&mut self, event: Event) {
        assert_eq!(event.position, self.head() + 1, "{event:?}");
        assert!(self.event_ids.insert(event.event_id.clone()), "an id occurs twice: {event:?}");
        if let Some(before) = self.events.last() {
            assert!(time(before) <= time(&event), "time runs back: {before:?} {event:?}");
        }
        let account = self.accounts.entry(event.account_id.clone()).or_default();
        let change = account.take(&event);
        self.transaction_count += usize::from(change.is_some());
        if event.saga_id.is_empty() {
            self.money += change.unwrap_or(0);
        } else {
            assert!(!self.stories.contains_key(&event.saga_id), "a saga goes on: {event:?}");
            self.open.entry(event.saga_id.clone()).or_default().push(event.position);
        }
        if !event.request_id.is_empty() {
            self.requests.entry(event.request_id.clone()).or_default().push(event.position);
        }
        self.events.push(event);
    }

    /// Looks at what must hold when nothing is on its way: every transfer that began has ended,
    /// and no money was made or lost.
    pub(super) fn settle(&mut self) {
        for (saga_id, positions) in std::mem::take(&mut self.open) {
            let events: Vec<_> =
                positions.iter().filter_map(|position| self.event(*position)).collect();
            let story = story(&events, positions.clone());
            self.stories.insert(saga_id, story);
        }
        assert_eq!(self.balances(), self.money, "money was made or lost");
    }
}

impl Account {
    /// Takes the account's next event. Gives by how much it changes the balance, if it is of the
    /// kind that does.
    fn take(&mut self, event: &Event) -> Option<i64> {
        assert_eq!(event.version, self.version + 1, "{event:?}");
        assert!(!self.is_closed, "the account is closed: {event:?}");
        self.version = event.version;
        let payload = event.payload.as_ref().expect("an event has a payload");
        let is_opening = matches!(payload, Payload::AccountOpened(_));
        assert_eq!(is_opening, event.version == 1, "{event:?}");
        let (change, balance) = match payload {
            Payload::AccountOpened(opened) => {
                self.owner.clone_from(&opened.owner);
                self.currency_code.clone_from(&opened.currency_code);
                (opened.initial_balance_minor, opened.initial_balance_minor)
            }
            Payload::MoneyDeposited(money) => (money.amount_minor, money.balance_minor),
            Payload::MoneyWithdrawn(money) => (-money.amount_minor, money.balance_minor),
            Payload::AccountClosed(_) => {
                assert_eq!(self.balance, 0, "{event:?}");
                self.is_closed = true;
                return None;
            }
            Payload::TransferInitiated(_)
            | Payload::TransferCompleted(_)
            | Payload::TransferFailed(_) => return None,
        };
        self.balance += change;
        assert_eq!(self.balance, balance, "{event:?}");
        assert!(self.balance >= 0, "{event:?}");
        self.transactions.push(event.position);
        Some(change)
    }
}

/// When an event was recorded.
pub(super) fn time(event: &Event) -> (i64, i32) {
    event.event_time.as_ref().map(|time| (time.seconds, time.nanos)).expect("an event has a time")
}

/// What all events of one transfer tell.
fn story(events: &[&Event], positions: Vec<i64>) -> Story {
    let payloads: Vec<_> = events.iter().filter_map(|event| event.payload.as_ref()).collect();
    let Some(Payload::TransferInitiated(begun)) = payloads.first() else {
        panic!("a transfer without beginning: {events:?}")
    };
    let (from, to) = (events[0].account_id.clone(), begun.to_account_id.clone());
    let amount = begun.amount_minor;
    let request_id = &events[0].request_id;
    assert!(events.iter().all(|event| event.request_id == *request_id), "{events:?}");
    let (state, error, places) = match payloads.as_slice() {
        [
            _,
            Payload::MoneyWithdrawn(taken),
            Payload::MoneyDeposited(given),
            Payload::TransferCompleted(_),
            Payload::TransferCompleted(_),
        ] => {
            assert_eq!((taken.amount_minor, given.amount_minor), (amount, amount), "{events:?}");
            (SagaState::Completed, String::new(), vec![&from, &from, &to, &from, &to])
        }
        [_, Payload::TransferFailed(failed)] => {
            (SagaState::Failed, failed.error.clone(), vec![&from, &from])
        }
        [
            _,
            Payload::MoneyWithdrawn(taken),
            Payload::MoneyDeposited(returned),
            Payload::TransferFailed(failed),
        ] => {
            assert_eq!((taken.amount_minor, returned.amount_minor), (amount, amount));
            assert_eq!(returned.reason, "compensation");
            (SagaState::Compensated, failed.error.clone(), vec![&from; 4])
        }
        _ => panic!("half a transfer: {events:?}"),
    };
    let accounts: Vec<_> = events.iter().map(|event| &event.account_id).collect();
    assert_eq!(accounts, places, "money went astray: {events:?}");
    Story { state, error, amount, reason: begun.reason.clone(), from, to, positions }
}
