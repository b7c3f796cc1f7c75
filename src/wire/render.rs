//! Rendering: entries and views become messages.

use prost_types::Timestamp;
use uuid::Uuid;

use crate::{
    domain::{AccountState, Balance, COMPENSATION, EventKind, Fact, Principal, TransferError},
    event_store::{Entry, EventIds, Numbered},
    proto::{self, Fields},
    views::{AccountView, Recorded, SagaState, SagaView, StepState, Transaction, TransactionKind},
};

/// The only kind of saga that there is.
const MONEY_TRANSFER: &str = "MoneyTransfer";

/// A number of ours as a number of theirs. Ours stay far below the limit of theirs.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn time(micros: i64) -> Timestamp {
    let nanos = micros.rem_euclid(1_000_000).saturating_mul(1_000);
    Timestamp { seconds: micros.div_euclid(1_000_000), nanos: i32::try_from(nanos).unwrap_or(0) }
}

fn id(id: Uuid) -> String {
    id.hyphenated().to_string()
}

/// The name of a principal; empty without one.
fn name(principal: Option<&Principal>) -> String {
    principal.map(Principal::as_str).unwrap_or_default().to_owned()
}

/// An event of an entry.
pub(super) fn event(ids: &EventIds, entry: &Entry, event: &Numbered<'_>) -> proto::Event {
    proto::Event {
        position: number(event.position),
        event_id: id(ids.at(event.position, entry.time_micros)),
        account_id: id(event.account.id.uuid()),
        version: number(event.version),
        event_time: Some(time(entry.time_micros)),
        saga_id: entry.saga.map(|saga| id(saga.id.uuid())).unwrap_or_default(),
        request_id: entry.request_id.map(|request| id(request.uuid())).unwrap_or_default(),
        principal: name(entry.principal.as_ref()),
        payload: Some(payload(event.fact, &entry.reason)),
    }
}

/// The same event, straight as bytes. The numbers of its fields are those of `event.proto`.
pub(super) fn put_event(
    fields: &mut Fields<'_>,
    ids: &EventIds,
    entry: &Entry,
    event: &Numbered<'_>,
) {
    fields.number(1, number(event.position));
    fields.id(2, ids.at(event.position, entry.time_micros));
    fields.id(3, event.account.id.uuid());
    fields.number(4, number(event.version));
    fields.message(5, |fields| {
        let Timestamp { seconds, nanos } = time(entry.time_micros);
        fields.number(1, seconds);
        fields.number(2, nanos.into());
    });
    if let Some(saga) = &entry.saga {
        fields.id(6, saga.id.uuid());
    }
    if let Some(request_id) = &entry.request_id {
        fields.id(7, request_id.uuid());
    }
    put_payload(fields, event.fact, &entry.reason);
    fields.text(15, entry.principal.as_ref().map(Principal::as_str).unwrap_or_default());
}

fn put_payload(fields: &mut Fields<'_>, fact: &Fact, reason: &str) {
    match fact {
        Fact::AccountOpened { owner, currency, initial_balance } => fields.message(8, |fields| {
            fields.text(1, owner.as_str());
            fields.text(2, &currency.to_string());
            fields.number(3, initial_balance.minor());
        }),
        Fact::MoneyDeposited { amount, balance, compensation } => fields.message(9, |fields| {
            fields.number(1, amount.minor());
            fields.number(2, balance.minor());
            fields.text(3, if *compensation { COMPENSATION } else { reason });
        }),
        Fact::MoneyWithdrawn { amount, balance } => fields.message(10, |fields| {
            fields.number(1, amount.minor());
            fields.number(2, balance.minor());
            fields.text(3, reason);
        }),
        Fact::TransferInitiated { to, amount } => fields.message(11, |fields| {
            fields.id(1, to.uuid());
            fields.number(2, amount.minor());
            fields.text(3, reason);
        }),
        Fact::TransferCompleted => fields.message(12, |_| {}),
        Fact::TransferFailed { error } => fields.message(13, |fields| {
            fields.text(1, error.name());
        }),
        Fact::AccountClosed => fields.message(14, |_| {}),
    }
}

fn payload(fact: &Fact, reason: &str) -> proto::event::Payload {
    use proto::event::Payload;
    match fact {
        Fact::AccountOpened { owner, currency, initial_balance } => {
            Payload::AccountOpened(proto::AccountOpened {
                owner: owner.as_str().to_owned(),
                currency_code: currency.to_string(),
                initial_balance_minor: initial_balance.minor(),
            })
        }
        Fact::MoneyDeposited { amount, balance, compensation } => {
            Payload::MoneyDeposited(proto::MoneyDeposited {
                amount_minor: amount.minor(),
                balance_minor: balance.minor(),
                reason: if *compensation { COMPENSATION } else { reason }.to_owned(),
            })
        }
        Fact::MoneyWithdrawn { amount, balance } => {
            Payload::MoneyWithdrawn(proto::MoneyWithdrawn {
                amount_minor: amount.minor(),
                balance_minor: balance.minor(),
                reason: reason.to_owned(),
            })
        }
        Fact::TransferInitiated { to, amount } => {
            Payload::TransferInitiated(proto::TransferInitiated {
                to_account_id: id(to.uuid()),
                amount_minor: amount.minor(),
                reason: reason.to_owned(),
            })
        }
        Fact::TransferCompleted => Payload::TransferCompleted(proto::TransferCompleted {}),
        Fact::TransferFailed { error } => {
            Payload::TransferFailed(proto::TransferFailed { error: error.name().to_owned() })
        }
        Fact::AccountClosed => Payload::AccountClosed(proto::AccountClosed {}),
    }
}

pub(super) fn event_type(kind: EventKind) -> proto::EventType {
    match kind {
        EventKind::AccountOpened => proto::EventType::AccountOpened,
        EventKind::MoneyDeposited => proto::EventType::MoneyDeposited,
        EventKind::MoneyWithdrawn => proto::EventType::MoneyWithdrawn,
        EventKind::TransferInitiated => proto::EventType::TransferInitiated,
        EventKind::TransferCompleted => proto::EventType::TransferCompleted,
        EventKind::TransferFailed => proto::EventType::TransferFailed,
        EventKind::AccountClosed => proto::EventType::AccountClosed,
    }
}

/// A recorded event.
pub(super) fn recorded(ids: &EventIds, recorded: &Recorded) -> Option<proto::Event> {
    Some(event(ids, &recorded.entry, &recorded.numbered()?))
}

pub(super) fn account_state(state: AccountState) -> proto::AccountState {
    match state {
        AccountState::Active => proto::AccountState::Active,
        AccountState::Closed => proto::AccountState::Closed,
    }
}

pub(super) fn account(view: &AccountView) -> proto::Account {
    proto::Account {
        account_id: id(view.account.id().uuid()),
        owner: view.owner.to_string(),
        currency_code: view.currency().to_string(),
        balance_minor: view.account.balance().minor(),
        state: account_state(view.account.state()).into(),
        version: number(view.account.version()),
        pending_saga_ids: view.pending().into_iter().map(|saga| id(saga.uuid())).collect(),
        open_time: Some(time(view.open_time_micros)),
        update_time: Some(time(view.update_time_micros)),
    }
}

pub(super) fn saga_state(state: SagaState) -> proto::SagaState {
    match state {
        SagaState::Running => proto::SagaState::Running,
        SagaState::Completed => proto::SagaState::Completed,
        SagaState::Failed => proto::SagaState::Failed,
        SagaState::Compensated => proto::SagaState::Compensated,
    }
}

pub(super) fn saga(view: &SagaView) -> proto::Saga {
    let step = |(name, state): &(&str, StepState)| proto::SagaStep {
        name: (*name).to_owned(),
        state: match state {
            StepState::Done => proto::SagaStepState::Done,
            StepState::Failed => proto::SagaStepState::Failed,
        }
        .into(),
    };
    proto::Saga {
        saga_id: id(view.id.uuid()),
        r#type: MONEY_TRANSFER.to_owned(),
        state: saga_state(view.state).into(),
        from_account_id: id(view.from.uuid()),
        to_account_id: id(view.to.uuid()),
        amount_minor: view.amount.minor(),
        steps: view.steps.iter().map(step).collect(),
        error: view.error.map(TransferError::name).unwrap_or_default().to_owned(),
        start_time: Some(time(view.time_micros)),
        end_time: Some(time(view.time_micros)),
        reason: view.reason.to_string(),
        principal: name(view.principal.as_ref()),
        position: number(view.position),
    }
}

pub(super) fn transaction(ids: &EventIds, transaction: &Transaction) -> proto::Transaction {
    let entry = &transaction.recorded.entry;
    let kind = match transaction.kind {
        TransactionKind::Opening => proto::TransactionKind::Opening,
        TransactionKind::Deposit => proto::TransactionKind::Deposit,
        TransactionKind::Withdrawal => proto::TransactionKind::Withdrawal,
        TransactionKind::TransferIn => proto::TransactionKind::TransferIn,
        TransactionKind::TransferOut => proto::TransactionKind::TransferOut,
        TransactionKind::Compensation => proto::TransactionKind::Compensation,
    };
    let reason = match transaction.kind {
        TransactionKind::Compensation => COMPENSATION,
        TransactionKind::Opening
        | TransactionKind::Deposit
        | TransactionKind::Withdrawal
        | TransactionKind::TransferIn
        | TransactionKind::TransferOut => &entry.reason,
    };
    proto::Transaction {
        event_id: id(ids.at(transaction.position, entry.time_micros)),
        account_id: id(transaction.account_id.uuid()),
        kind: kind.into(),
        amount_minor: transaction.amount_minor,
        balance_after_minor: transaction.balance_after.minor(),
        saga_id: transaction.saga_id.map(|saga| id(saga.uuid())).unwrap_or_default(),
        reason: reason.to_owned(),
        position: number(transaction.position),
        time: Some(time(entry.time_micros)),
        principal: name(entry.principal.as_ref()),
    }
}

/// What one accepted command did.
pub(super) struct Done {
    /// What it recorded, now or earlier.
    pub(super) entry: Box<Entry>,
    /// Whether it was recorded earlier.
    pub(super) replayed: bool,
}

impl Done {
    /// Its first event, which is the only one of commands that are no transfers.
    pub(super) fn event(&self, ids: &EventIds) -> Option<proto::Event> {
        self.entry.numbered().next().map(|numbered| event(ids, &self.entry, &numbered))
    }

    /// The balance right after its first event.
    pub(super) fn balance_minor(&self) -> i64 {
        let balance = self.entry.events.first().and_then(|event| event.fact.balance_after());
        balance.unwrap_or(Balance::ZERO).minor()
    }

    pub(super) fn opened(&self, ids: &EventIds) -> proto::OpenAccountResponse {
        let account_id = self.entry.accounts.first().map(|account| id(account.id.uuid()));
        proto::OpenAccountResponse {
            account_id: account_id.unwrap_or_default(),
            event: self.event(ids),
            replayed: self.replayed,
        }
    }

    pub(super) fn deposited(&self, ids: &EventIds) -> proto::DepositMoneyResponse {
        proto::DepositMoneyResponse {
            event: self.event(ids),
            balance_minor: self.balance_minor(),
            replayed: self.replayed,
        }
    }

    pub(super) fn withdrawn(&self, ids: &EventIds) -> proto::WithdrawMoneyResponse {
        proto::WithdrawMoneyResponse {
            event: self.event(ids),
            balance_minor: self.balance_minor(),
            replayed: self.replayed,
        }
    }

    pub(super) fn transferred(&self) -> proto::TransferMoneyResponse {
        let view = SagaView::fold(&self.entry);
        proto::TransferMoneyResponse { saga: view.as_ref().map(saga), replayed: self.replayed }
    }

    pub(super) fn closed(&self, ids: &EventIds) -> proto::CloseAccountResponse {
        proto::CloseAccountResponse { event: self.event(ids), replayed: self.replayed }
    }

    /// As the result of a command in a batch.
    pub(super) fn result(&self, ids: &EventIds) -> Option<proto::batch_result::Result> {
        use proto::batch_result::Result as Kind;
        Some(match &self.entry.events.first()?.fact {
            Fact::AccountOpened { .. } => Kind::OpenAccount(self.opened(ids)),
            Fact::MoneyDeposited { .. } => Kind::DepositMoney(self.deposited(ids)),
            Fact::MoneyWithdrawn { .. } => Kind::WithdrawMoney(self.withdrawn(ids)),
            Fact::TransferInitiated { .. } => Kind::TransferMoney(self.transferred()),
            Fact::AccountClosed => Kind::CloseAccount(self.closed(ids)),
            Fact::TransferCompleted | Fact::TransferFailed { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::{
        event_store::any_entry,
        proto::{TailEventsResponse, TailMessage},
    };

    proptest! {
        #[test]
        fn an_event_is_the_same_whether_as_a_value_or_as_bytes(
            entry in any_entry(),
            position in 0..=i64::MAX,
        ) {
            let ids = EventIds::new([7; 16]);
            let mut message = TailMessage::default();
            for numbered in entry.numbered() {
                message.add_event(|fields| put_event(fields, &ids, &entry, &numbered));
            }
            message.end(position);
            let events: Vec<_> = entry.numbered().map(|it| event(&ids, &entry, &it)).collect();
            prop_assert_eq!(message.event_count(), events.len());
            let value = TailEventsResponse { events, position };
            prop_assert_eq!(message.as_bytes(), value.encode_to_vec());
        }
    }
}
