//! Commands: what each refusal tells, in which order the rules are tested, and what is recorded.

use std::{collections::HashMap, fmt::Debug};

use daybook::proto::{
    self, CloseAccountRequest, DepositMoneyRequest, OpenAccountRequest, SagaState, SagaStep,
    SagaStepState, TransferMoneyRequest, WithdrawMoneyRequest, event::Payload,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::service::{
    InBatch as _, MONEY_MAX, Service, assert_refused, batch_of, close, deposit, fresh_id, get,
    metadata, open, reason, transfer, withdraw,
};

mod batches;
mod replay;
mod streams;

/// What a refusal is expected to tell.
struct Expected<'a> {
    code: Code,
    reason: &'a str,
    metadata: &'a [(&'a str, &'a str)],
}

fn unmet<'a>(reason: &'a str, metadata: &'a [(&'a str, &'a str)]) -> Expected<'a> {
    Expected { code: Code::FailedPrecondition, reason, metadata }
}

fn assert_tells<T: Debug>(answer: Result<T, Status>, expected: &Expected<'_>) -> Status {
    let status = assert_refused(answer, expected.code, expected.reason);
    let told = expected.metadata.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    assert_eq!(metadata(&status), told.collect::<HashMap<String, String>>(), "{status:?}");
    let precondition = status.get_details_precondition_failure();
    assert_eq!(precondition.is_some(), expected.code == Code::FailedPrecondition, "{status:?}");
    for violation in precondition.into_iter().flat_map(|failure| failure.violations) {
        assert_eq!(violation.r#type, expected.reason);
        assert_eq!(violation.subject, metadata(&status)["account_id"]);
    }
    assert!(status.get_details_retry_info().is_none(), "a retry would not help: {status:?}");
    status
}

/// Accounts in the states that refusals come from.
struct Cast {
    service: Service,
    rich: String,
    poor: String,
    closed: String,
    euro: String,
    missing: String,
}

impl Cast {
    async fn new() -> Self {
        let service = Service::in_memory().await;
        let euro = OpenAccountRequest { currency_code: "EUR".into(), ..open("ada", 100) };
        let cast = Self {
            rich: service.opened(MONEY_MAX).await,
            poor: service.opened(5).await,
            closed: service.opened(0).await,
            euro: service.call(euro).await.unwrap().account_id,
            missing: fresh_id(),
            service,
        };
        cast.service.call(close(&cast.closed)).await.unwrap();
        cast
    }
}

#[tokio::test]
async fn every_refusal_tells_code_reason_and_metadata_and_writes_nothing() {
    // Clients act on code and reason, and find in the metadata what they need to go on.
    let cast = Cast::new().await;
    let Cast { service, rich, poor, closed, euro, missing } = &cast;
    let before = service.stats().await;

    let not_found = Expected {
        code: Code::NotFound,
        reason: "ACCOUNT_NOT_FOUND",
        metadata: &[("account_id", missing)],
    };
    assert_tells(service.call(deposit(missing, 1)).await, &not_found);
    assert_tells(service.call(withdraw(missing, 1)).await, &not_found);
    assert_tells(service.call(close(missing)).await, &not_found);
    assert_tells(service.call(transfer(missing, poor, 1)).await, &not_found);
    let exists = Expected {
        code: Code::AlreadyExists,
        reason: "ACCOUNT_EXISTS",
        metadata: &[("account_id", poor)],
    };
    let again = OpenAccountRequest { account_id: poor.clone(), ..open("ada", 0) };
    assert_tells(service.call(again).await, &exists);
    let is_closed = [("account_id", closed.as_str())];
    let is_closed = unmet("ACCOUNT_CLOSED", &is_closed);
    assert_tells(service.call(deposit(closed, 1)).await, &is_closed);
    assert_tells(service.call(withdraw(closed, 1)).await, &is_closed);
    assert_tells(service.call(close(closed)).await, &is_closed);
    assert_tells(service.call(transfer(closed, poor, 1)).await, &is_closed);
    let of_poor = [("account_id", poor.as_str())];
    assert_tells(service.call(withdraw(poor, 6)).await, &unmet("INSUFFICIENT_FUNDS", &of_poor));
    assert_tells(service.call(close(poor)).await, &unmet("BALANCE_NOT_ZERO", &of_poor));
    let of_rich = [("account_id", rich.as_str())];
    assert_tells(service.call(deposit(rich, 1)).await, &unmet("BALANCE_LIMIT", &of_rich));
    let of_both = [("account_id", poor.as_str()), ("to_account_id", euro.as_str())];
    let mismatch = unmet("CURRENCY_MISMATCH", &of_both);
    assert_tells(service.call(transfer(poor, euro, 1)).await, &mismatch);

    assert_eq!(service.stats().await, before);
}

#[tokio::test]
async fn a_transfer_that_fails_tells_its_saga_and_leaves_every_balance() {
    // Each way to fail, with the story of it in the log and in the saga.
    let cast = Cast::new().await;
    let Cast { service, rich, poor, closed, missing, euro: _ } = &cast;
    let table = [
        (poor, rich, 6, "INSUFFICIENT_FUNDS", poor, SagaState::Failed),
        (poor, missing, 5, "DESTINATION_NOT_FOUND", missing, SagaState::Compensated),
        (poor, closed, 5, "DESTINATION_CLOSED", closed, SagaState::Compensated),
        (poor, rich, 5, "BALANCE_LIMIT", rich, SagaState::Compensated),
    ];
    for (from, to, amount, expected, at_fault, state) in table {
        let saga_id = fresh_id();
        let request = TransferMoneyRequest {
            saga_id: saga_id.clone(),
            reason: "rent".to_owned(),
            ..transfer(from, to, amount)
        };
        let answer = service.call(request).await;
        let head = service.stats().await.position.to_string();
        let told = [
            ("account_id", at_fault.as_str()),
            ("saga_id", &saga_id),
            ("position", &head),
            ("replayed", "false"),
        ];
        assert_tells(answer, &unmet(expected, &told));

        let request = proto::GetSagaRequest { saga_id, min_position: None };
        let saga = service.call(request).await.unwrap().saga.unwrap();
        assert_eq!((saga.state(), saga.error.as_str()), (state, expected));
        assert_eq!((&saga.from_account_id, &saga.to_account_id), (from, to));
        assert_eq!((saga.amount_minor, saga.reason.as_str()), (amount, "rent"));
        assert_eq!(saga.r#type, "MoneyTransfer");
        assert_eq!(saga.position.to_string(), head);
        assert_eq!(saga.start_time, saga.end_time);
        let step = |name: &str, state: SagaStepState| SagaStep {
            name: name.to_owned(),
            state: state.into(),
        };
        let done = SagaStepState::Done;
        let failed = SagaStepState::Failed;
        let steps = match state {
            SagaState::Failed => vec![step("withdraw", failed)],
            _ => vec![step("withdraw", done), step("deposit", failed), step("compensate", done)],
        };
        assert_eq!(saga.steps, steps);
        let last = service.log().await.pop().unwrap();
        let Some(Payload::TransferFailed(told)) = last.payload else { panic!("{last:?}") };
        assert_eq!((told.error.as_str(), &last.account_id), (expected, from));
    }
    assert_eq!(service.balance(poor).await, 5);
    assert_eq!(service.balance(rich).await, MONEY_MAX);
    assert_eq!(service.account(rich).await.version, 1);
}

#[tokio::test]
async fn rules_are_tested_in_the_documented_order() {
    // Each command breaks two rules; the one that comes first in the documentation is told.
    let cast = Cast::new().await;
    let Cast { service, rich, poor, closed, euro, missing } = &cast;
    let wrong = Some(99);
    let used = fresh_id();
    let request = DepositMoneyRequest { request_id: used.clone(), ..deposit(poor, 1) };
    service.call(request).await.unwrap();
    let saga_id = fresh_id();
    let request = TransferMoneyRequest { saga_id: saga_id.clone(), ..transfer(rich, poor, 1) };
    service.call(request).await.unwrap();

    // Invalid before replayed; replayed before not found.
    let request = DepositMoneyRequest { request_id: used.clone(), ..deposit(poor, 0) };
    assert_refused(service.call(request).await, Code::InvalidArgument, "INVALID_FIELDS");
    let request = DepositMoneyRequest { request_id: used, ..deposit(missing, 1) };
    assert_refused(service.call(request).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    // Not found before existing and before a version.
    let request = WithdrawMoneyRequest { expected_version: wrong, ..withdraw(missing, 1) };
    assert_refused(service.call(request).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    let request = TransferMoneyRequest { saga_id: saga_id.clone(), ..transfer(missing, poor, 1) };
    assert_refused(service.call(request).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    // Existing before a version and before preconditions.
    let account_id = poor.clone();
    let request = OpenAccountRequest { account_id, expected_version: wrong, ..open("ada", 0) };
    assert_refused(service.call(request).await, Code::AlreadyExists, "ACCOUNT_EXISTS");
    let request = TransferMoneyRequest { saga_id, ..transfer(closed, poor, 1) };
    assert_refused(service.call(request).await, Code::AlreadyExists, "SAGA_EXISTS");
    // A version before preconditions.
    let request = DepositMoneyRequest { expected_version: wrong, ..deposit(closed, 1) };
    assert_refused(service.call(request).await, Code::Aborted, "VERSION_MISMATCH");
    let request = CloseAccountRequest { expected_version: wrong, ..close(poor) };
    assert_refused(service.call(request).await, Code::Aborted, "VERSION_MISMATCH");
    // Closed before funds and currencies; currencies before funds.
    let answer = service.call(withdraw(closed, 1)).await;
    assert_refused(answer, Code::FailedPrecondition, "ACCOUNT_CLOSED");
    let answer = service.call(transfer(closed, euro, 1)).await;
    assert_refused(answer, Code::FailedPrecondition, "ACCOUNT_CLOSED");
    let answer = service.call(transfer(poor, euro, MONEY_MAX)).await;
    assert_refused(answer, Code::FailedPrecondition, "CURRENCY_MISMATCH");
    // The source's funds before the destination.
    let answer = service.call(transfer(poor, missing, MONEY_MAX)).await;
    assert_refused(answer, Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
}

#[tokio::test]
async fn a_command_is_carried_out_only_on_the_version_that_it_expects() {
    // Each command with a version; the answer to a mismatch tells both versions.
    let service = Service::in_memory().await;
    for (expected, code) in [(1, Code::Aborted), (0, Code::Ok)] {
        let request = OpenAccountRequest {
            account_id: "0190d5f2-3c4b-7a6e-9d1f-2b3c4d5e6f70".to_owned(),
            expected_version: Some(expected),
            ..open("ada", 10)
        };
        let code_of_answer =
            service.call(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code_of_answer, code);
    }
    let id = "0190d5f2-3c4b-7a6e-9d1f-2b3c4d5e6f70";
    for wrong in [0, 2, i64::MAX] {
        let expected_version = Some(wrong);
        let wrong = wrong.to_string();
        let told =
            [("account_id", id), ("expected_version", wrong.as_str()), ("actual_version", "1")];
        let expected =
            Expected { code: Code::Aborted, reason: "VERSION_MISMATCH", metadata: &told };
        let request = DepositMoneyRequest { expected_version, ..deposit(id, 1) };
        assert_tells(service.call(request).await, &expected);
        let request = WithdrawMoneyRequest { expected_version, ..withdraw(id, 1) };
        assert_tells(service.call(request).await, &expected);
        let request = CloseAccountRequest { expected_version, ..close(id) };
        assert_tells(service.call(request).await, &expected);
    }
    let at = |version| Some(version);
    let request = DepositMoneyRequest { expected_version: at(1), ..deposit(id, 5) };
    assert_eq!(service.call(request).await.unwrap().event.unwrap().version, 2);
    let request = WithdrawMoneyRequest { expected_version: at(2), ..withdraw(id, 15) };
    assert_eq!(service.call(request).await.unwrap().balance_minor, 0);
    let request = CloseAccountRequest { expected_version: at(3), ..close(id) };
    assert_eq!(service.call(request).await.unwrap().event.unwrap().version, 4);
}

#[tokio::test]
async fn of_many_commands_that_expect_one_version_one_is_carried_out() {
    // What optimistic concurrency is for: nobody overwrites what he has not seen.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let answers = crate::service::at_once(32, |_| {
        let client = crate::service::Client::clone(&service);
        let request = DepositMoneyRequest { expected_version: Some(1), ..deposit(&id, 1) };
        async move { client.call(request).await }
    });
    let refused: Vec<_> = answers.await.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 31);
    assert!(refused.iter().all(|status| reason(status) == "VERSION_MISMATCH"));
    assert_eq!(service.balance(&id).await, 1);
}

#[tokio::test]
async fn a_saga_id_is_good_for_one_transfer() {
    // Chosen twice, or taken from one that the server has made: each id names one saga, whether
    // it completed or failed.
    let service = Service::in_memory().await;
    let (a, b) = (service.opened(100).await, service.opened(0).await);
    let mut ids = Vec::new();
    for amount in [1, 1_000] {
        let saga_id = fresh_id();
        let request = TransferMoneyRequest { saga_id: saga_id.clone(), ..transfer(&a, &b, amount) };
        let _completes_or_fails = service.call(request).await;
        ids.push(saga_id);
    }
    ids.push(service.call(transfer(&a, &b, 1)).await.unwrap().saga.unwrap().saga_id);
    let failed = service.call(transfer(&a, &b, 1_000)).await.unwrap_err();
    ids.push(metadata(&failed)["saga_id"].clone());
    let before = service.stats().await;
    for saga_id in ids {
        for spelling in [saga_id.clone(), saga_id.to_uppercase()] {
            let request = TransferMoneyRequest { saga_id: spelling, ..transfer(&b, &a, 1) };
            let expected = Expected {
                code: Code::AlreadyExists,
                reason: "SAGA_EXISTS",
                metadata: &[("saga_id", &saga_id)],
            };
            assert_tells(service.call(request).await, &expected);
        }
    }
    assert_eq!(service.stats().await, before);
}

#[tokio::test]
async fn a_closed_account_refuses_everything_but_reads() {
    // Its history stays; as a destination it gives the money back.
    let service = Service::in_memory().await;
    let (id, other) = (service.opened(7).await, service.opened(50).await);
    service.call(withdraw(&id, 7)).await.unwrap();
    let closed = service.call(close(&id)).await.unwrap().event.unwrap();
    assert_eq!(
        (closed.version, closed.payload),
        (3, Some(Payload::AccountClosed(proto::AccountClosed {})))
    );
    let refusals = [
        service.call(deposit(&id, 1)).await.unwrap_err(),
        service.call(withdraw(&id, 1)).await.unwrap_err(),
        service.call(close(&id)).await.unwrap_err(),
        service.call(transfer(&id, &other, 1)).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|status| reason(status) == "ACCOUNT_CLOSED"));
    let again = OpenAccountRequest { account_id: id.clone(), ..open("ada", 1) };
    assert_refused(service.call(again).await, Code::AlreadyExists, "ACCOUNT_EXISTS");
    let answer = service.call(transfer(&other, &id, 50)).await;
    assert_refused(answer, Code::FailedPrecondition, "DESTINATION_CLOSED");

    let account = service.call(get(&id)).await.unwrap().account.unwrap();
    assert_eq!((account.version, account.state()), (3, proto::AccountState::Closed));
    let account_id = id.clone();
    let events = proto::ListAccountEventsRequest { account_id, ..Default::default() };
    assert_eq!(service.call(events).await.unwrap().events.len(), 3);
    let lines = proto::ListTransactionsRequest { account_id: id, ..Default::default() };
    assert_eq!(service.call(lines).await.unwrap().total_size, 2);
    assert_eq!(service.balance(&other).await, 50);
}

#[tokio::test]
async fn a_start_has_room_for_the_first_command() {
    // The first segment is so full that a largest group would not fit, and the next one is still
    // to be made when the server starts: that must not look like a full disk.
    let mut service = Service::on_disk().await;
    let account_id = service.opened(0).await;
    for _ in 0..38 {
        let commands = (0..8_190).map(|_| deposit(&account_id, 1).in_batch()).collect();
        service.call(batch_of(commands)).await.unwrap();
    }
    assert!(service.stats().await.log_bytes > 9 * 1024 * 1024);
    service.restart_as_far_as("daybook.v1.QueryService").await;
    service.call(deposit(&account_id, 1)).await.unwrap();
}
