//! The model: what the reads must answer, folded from the events alone, as plainly as possible.

use std::collections::HashMap;

use daybook::proto::{
    Account, AccountState, Event, Saga, SagaState, SagaStep, SagaStepState, Transaction,
    TransactionKind, event::Payload,
};
use prost_types::Timestamp;

/// What the whole log adds up to, at every moment of it.
pub(super) struct Model {
    pub(super) log: Vec<Event>,
    /// In the order of their opening.
    pub(super) accounts: Vec<Story>,
    /// In the order of their positions.
    pub(super) transactions: Vec<Transaction>,
    /// In the order of their beginning.
    pub(super) sagas: Vec<Saga>,
}

/// An account after each of its events, with the event's position.
pub(super) struct Story {
    pub(super) states: Vec<(i64, Account)>,
}

impl Story {
    pub(super) fn id(&self) -> &str {
        &self.states[0].1.account_id
    }

    pub(super) fn now(&self) -> &Account {
        &self.states.last().unwrap().1
    }

    pub(super) fn at_version(&self, version: i64) -> Option<&Account> {
        self.newest(|(_, account)| account.version <= version)
    }

    pub(super) fn at_position(&self, position: i64) -> Option<&Account> {
        self.newest(|(of_event, _)| *of_event <= position)
    }

    pub(super) fn at_time(&self, time: Timestamp) -> Option<&Account> {
        self.newest(|(_, account)| order(account.update_time.unwrap()) <= order(time))
    }

    fn newest(&self, seen: impl Fn(&(i64, Account)) -> bool) -> Option<&Account> {
        let state = self.states.iter().take_while(|state| seen(state)).last();
        state.map(|(_, account)| account)
    }
}

pub(super) fn order(time: Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

impl Model {
    pub(super) fn fold(log: Vec<Event>) -> Self {
        let (accounts, transactions, sagas) = (Vec::new(), Vec::new(), Vec::new());
        let mut model = Self { log: Vec::new(), accounts, transactions, sagas };
        let mut places = HashMap::new();
        for event in log {
            let place = *places.entry(event.account_id.clone()).or_insert(model.accounts.len());
            if place == model.accounts.len() {
                model.accounts.push(Story { states: Vec::new() });
            }
            if !event.saga_id.is_empty() {
                model.tell_saga(&event);
            }
            let before = model.accounts[place].states.last().map(|(_, account)| account.clone());
            let account = after(before, &event);
            model.tell_transaction(&event, account.balance_minor);
            model.accounts[place].states.push((event.position, account));
            model.log.push(event);
        }
        model
    }

    pub(super) fn of_account(&self, id: &str) -> Vec<&Event> {
        self.log.iter().filter(|event| event.account_id == id).collect()
    }

    /// How many sagas are in a state.
    pub(super) fn count(&self, state: SagaState) -> i64 {
        let count = self.sagas.iter().filter(|saga| saga.state() == state).count();
        i64::try_from(count).unwrap()
    }

    /// Whether a saga has an event on an account.
    pub(super) fn touches(&self, saga: &Saga, id: &str) -> bool {
        self.log.iter().any(|event| event.saga_id == saga.saga_id && event.account_id == id)
    }

    fn saga(&mut self, id: &str) -> &mut Saga {
        self.sagas.iter_mut().rev().find(|saga| saga.saga_id == id).unwrap()
    }

    fn tell_saga(&mut self, event: &Event) {
        if let Payload::TransferInitiated(begun) = event.payload.as_ref().unwrap() {
            self.sagas.push(Saga {
                saga_id: event.saga_id.clone(),
                r#type: "MoneyTransfer".to_owned(),
                state: SagaState::Running.into(),
                from_account_id: event.account_id.clone(),
                to_account_id: begun.to_account_id.clone(),
                amount_minor: begun.amount_minor,
                reason: begun.reason.clone(),
                start_time: event.event_time,
                ..Saga::default()
            });
        }
        let saga = self.saga(&event.saga_id);
        let step = |name: &str, state: SagaStepState| SagaStep {
            name: name.to_owned(),
            state: state.into(),
        };
        saga.position = event.position;
        match event.payload.as_ref().unwrap() {
            Payload::MoneyWithdrawn(_) => saga.steps.push(step("withdraw", SagaStepState::Done)),
            Payload::MoneyDeposited(_) if event.account_id == saga.from_account_id => {
                saga.steps.push(step("deposit", SagaStepState::Failed));
                saga.steps.push(step("compensate", SagaStepState::Done));
            }
            Payload::MoneyDeposited(_) => saga.steps.push(step("deposit", SagaStepState::Done)),
            Payload::TransferCompleted(_) => {
                saga.state = SagaState::Completed.into();
                saga.end_time = event.event_time;
            }
            Payload::TransferFailed(failed) => {
                saga.error.clone_from(&failed.error);
                saga.end_time = event.event_time;
                saga.state = if saga.steps.is_empty() {
                    saga.steps.push(step("withdraw", SagaStepState::Failed));
                    SagaState::Failed.into()
                } else {
                    SagaState::Compensated.into()
                };
            }
            _ => {}
        }
    }

    fn tell_transaction(&mut self, event: &Event, balance_after_minor: i64) {
        use TransactionKind as Kind;
        let in_saga = !event.saga_id.is_empty();
        let (kind, amount_minor, reason) = match event.payload.as_ref().unwrap() {
            Payload::AccountOpened(opened) => {
                (Kind::Opening, opened.initial_balance_minor, String::new())
            }
            Payload::MoneyDeposited(it) => {
                let came_back =
                    in_saga && self.saga(&event.saga_id).from_account_id == event.account_id;
                let kind = match (in_saga, came_back) {
                    (_, true) => Kind::Compensation,
                    (true, false) => Kind::TransferIn,
                    (false, false) => Kind::Deposit,
                };
                (kind, it.amount_minor, it.reason.clone())
            }
            Payload::MoneyWithdrawn(it) => {
                let kind = if in_saga { Kind::TransferOut } else { Kind::Withdrawal };
                (kind, it.amount_minor, it.reason.clone())
            }
            _ => return,
        };
        self.transactions.push(Transaction {
            event_id: event.event_id.clone(),
            account_id: event.account_id.clone(),
            kind: kind.into(),
            amount_minor,
            balance_after_minor,
            saga_id: event.saga_id.clone(),
            reason,
            position: event.position,
            time: event.event_time,
            principal: String::new(),
        });
    }
}

/// An account after an event. The event must follow on what was before.
fn after(before: Option<Account>, event: &Event) -> Account {
    let mut account = before.unwrap_or_default();
    match event.payload.as_ref().unwrap() {
        Payload::AccountOpened(opened) => {
            account.account_id.clone_from(&event.account_id);
            account.owner.clone_from(&opened.owner);
            account.currency_code.clone_from(&opened.currency_code);
            account.balance_minor = opened.initial_balance_minor;
            account.state = AccountState::Active.into();
            account.open_time = event.event_time;
        }
        Payload::MoneyDeposited(it) => {
            account.balance_minor += it.amount_minor;
            assert_eq!(account.balance_minor, it.balance_minor);
        }
        Payload::MoneyWithdrawn(it) => {
            account.balance_minor -= it.amount_minor;
            assert_eq!(account.balance_minor, it.balance_minor);
        }
        Payload::TransferInitiated(_) => {
            account.pending_saga_ids.push(event.saga_id.clone());
            account.pending_saga_ids.sort();
        }
        Payload::TransferCompleted(_) | Payload::TransferFailed(_) => {
            account.pending_saga_ids.retain(|saga| *saga != event.saga_id);
        }
        Payload::AccountClosed(_) => {
            assert_eq!(account.balance_minor, 0);
            account.state = AccountState::Closed.into();
        }
    }
    account.version += 1;
    assert_eq!(account.version, event.version);
    account.update_time = event.event_time;
    account
}
