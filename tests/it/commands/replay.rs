//! Repeats: a command with a request id is carried out once, and answered alike each time.

use daybook::proto::{
    self, BatchCommand, CloseAccountRequest, DepositMoneyRequest, ExecuteBatchRequest,
    OpenAccountRequest, TransferMoneyRequest, WithdrawMoneyRequest, batch_command::Command as Kind,
    batch_result::Result as Done,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::service::{
    Client, InBatch as _, MONEY_MAX, Service, assert_refused, close, deposit, fresh_id, metadata,
    open, reason, transfer, violations, withdraw,
};

/// Carries a command out by itself.
async fn execute(client: &Client, command: &BatchCommand) -> Result<Done, Status> {
    Ok(match command.command.clone().unwrap() {
        Kind::OpenAccount(request) => Done::OpenAccount(client.call(request).await?),
        Kind::DepositMoney(request) => Done::DepositMoney(client.call(request).await?),
        Kind::WithdrawMoney(request) => Done::WithdrawMoney(client.call(request).await?),
        Kind::TransferMoney(request) => Done::TransferMoney(client.call(request).await?),
        Kind::CloseAccount(request) => Done::CloseAccount(client.call(request).await?),
    })
}

/// The same answer as that of a repeat.
fn as_repeat(mut done: Done) -> Done {
    match &mut done {
        Done::OpenAccount(answer) => answer.replayed = true,
        Done::DepositMoney(answer) => answer.replayed = true,
        Done::WithdrawMoney(answer) => answer.replayed = true,
        Done::TransferMoney(answer) => answer.replayed = true,
        Done::CloseAccount(answer) => answer.replayed = true,
    }
    done
}

/// One command of every kind, each with a request id, and transfers that fail in each way.
async fn commands(client: &Client) -> Vec<BatchCommand> {
    let (a, b) = (client.opened(1_000).await, client.opened(0).await);
    let (full, closed) = (client.opened(MONEY_MAX).await, client.opened(0).await);
    client.call(close(&closed)).await.unwrap();
    let request_id = fresh_id;
    let account_id = fresh_id();
    let reason = || "a reason".to_owned();
    let moved = |to: &str, amount| {
        let request = transfer(&a, to, amount);
        TransferMoneyRequest { request_id: request_id(), reason: reason(), ..request }.in_batch()
    };
    let named = TransferMoneyRequest {
        saga_id: fresh_id(),
        request_id: request_id(),
        ..transfer(&a, &b, 1)
    };
    vec![
        OpenAccountRequest { request_id: request_id(), ..open("ada", 5) }.in_batch(),
        OpenAccountRequest { account_id, request_id: request_id(), ..open("bob", 0) }.in_batch(),
        DepositMoneyRequest { request_id: request_id(), reason: reason(), ..deposit(&a, 3) }
            .in_batch(),
        WithdrawMoneyRequest {
            request_id: request_id(),
            expected_version: Some(2),
            ..withdraw(&a, 4)
        }
        .in_batch(),
        moved(&b, 10),
        named.in_batch(),
        moved(&b, 1_000_000),
        moved(&fresh_id(), 10),
        moved(&closed, 10),
        moved(&full, 10),
        CloseAccountRequest { request_id: request_id(), ..close(&client.opened(0).await) }
            .in_batch(),
    ]
}

/// That the answer to a repeat is the first answer, marked as a repeat.
fn assert_repeats(first: &Result<Done, Status>, repeat: Result<Done, Status>) {
    match (first, repeat) {
        (Ok(first), Ok(repeat)) => assert_eq!(repeat, as_repeat(first.clone())),
        (Err(first), Err(repeat)) => {
            assert_eq!((first.code(), repeat.code()), (Code::FailedPrecondition, first.code()));
            assert_eq!(first.message(), repeat.message());
            assert_eq!(reason(first), reason(&repeat));
            let mut expected = metadata(first);
            assert_eq!(expected.insert("replayed".into(), "true".into()).as_deref(), Some("false"));
            assert_eq!(metadata(&repeat), expected);
            let subject = |status: &Status| {
                status.get_details_precondition_failure().unwrap().violations[0].subject.clone()
            };
            assert_eq!(subject(first), subject(&repeat));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_kind_of_command_is_answered_alike_when_repeated() {
    // Also after its account has moved on, and after restarts; failed transfers fail again as the
    // same saga. Nothing is written by any of it.
    let mut service = Service::on_disk().await;
    let commands = commands(&service).await;
    let mut answers = Vec::new();
    for command in &commands {
        answers.push(execute(&service, command).await);
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 4);
    let log = service.log().await;
    for _ in 0..3 {
        for (command, first) in commands.iter().zip(&answers) {
            assert_repeats(first, execute(&service, command).await);
        }
        assert_eq!(service.log().await, log);
        service.restart().await;
    }
}

#[tokio::test]
async fn repeats_in_a_batch_are_answered_as_by_themselves() {
    // First by themselves and then in a batch, and the other way round; and twice in one batch.
    let service = Service::in_memory().await;
    let commands = commands(&service).await;
    let twice = commands.iter().chain(&commands).cloned().collect();
    let request = ExecuteBatchRequest { commands: twice, return_results: true };
    let first = service.call(request.clone()).await.unwrap();
    let log = service.log().await;
    assert_eq!((first.accepted_count, first.results.len(), first.failures.len()), (14, 14, 8));
    let (accepted, repeated) = first.results.split_at(7);
    for (accepted, repeated) in accepted.iter().zip(repeated) {
        assert_eq!(repeated.index, accepted.index + 11);
        assert_eq!(repeated.result, accepted.result.clone().map(as_repeat));
        let alone = &commands[usize::try_from(accepted.index).unwrap()];
        assert_eq!(repeated.result, execute(&service, alone).await.ok());
    }
    let again = service.call(request).await.unwrap();
    assert_eq!((again.accepted_count, again.failures.len()), (14, 8));
    assert_eq!(service.log().await, log);

    // Without results, repeats are accepted all the same.
    let terse = ExecuteBatchRequest { commands, return_results: false };
    let terse = service.call(terse).await.unwrap();
    assert_eq!((terse.accepted_count, terse.results.len(), terse.failures.len()), (7, 0, 4));
    assert_eq!(service.log().await, log);
}

#[tokio::test]
async fn a_command_that_was_refused_may_be_tried_again_under_its_request_id() {
    // Only what was accepted is remembered: a refusal has written nothing.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let request = WithdrawMoneyRequest { request_id: fresh_id(), ..withdraw(&id, 5) };
    let answer = service.call(request.clone()).await;
    assert_refused(answer, Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    service.call(deposit(&id, 5)).await.unwrap();
    assert!(!service.call(request.clone()).await.unwrap().replayed);
    assert!(service.call(request).await.unwrap().replayed);
}

#[tokio::test]
async fn a_repeat_is_answered_whatever_became_of_its_account() {
    // The account was emptied and closed since: the answer is still that of then.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let request = DepositMoneyRequest { request_id: fresh_id(), ..deposit(&id, 5) };
    let mut first = service.call(request.clone()).await.unwrap();
    service.call(withdraw(&id, 5)).await.unwrap();
    service.call(close(&id)).await.unwrap();
    first.replayed = true;
    assert_eq!(service.call(request.clone()).await.unwrap(), first);
    let shouted = DepositMoneyRequest {
        account_id: id.to_uppercase(),
        request_id: request.request_id.to_uppercase(),
        ..request
    };
    assert_eq!(service.call(shouted).await.unwrap(), first);
}

/// Commands that differ from `command` in one field each, the request id aside.
fn variants(command: &BatchCommand, other: &str) -> Vec<BatchCommand> {
    let other = || other.to_owned();
    match command.command.clone().unwrap() {
        Kind::OpenAccount(it) => vec![
            OpenAccountRequest { account_id: other(), ..it.clone() }.in_batch(),
            OpenAccountRequest { owner: "eve".into(), ..it.clone() }.in_batch(),
            OpenAccountRequest { currency_code: "EUR".into(), ..it.clone() }.in_batch(),
            OpenAccountRequest { initial_balance_minor: 77, ..it.clone() }.in_batch(),
            OpenAccountRequest { expected_version: Some(0), ..it.clone() }.in_batch(),
            DepositMoneyRequest { request_id: it.request_id, ..deposit(&other(), 5) }.in_batch(),
        ],
        Kind::DepositMoney(it) => vec![
            DepositMoneyRequest { account_id: other(), ..it.clone() }.in_batch(),
            DepositMoneyRequest { amount_minor: 77, ..it.clone() }.in_batch(),
            DepositMoneyRequest { reason: "eve".into(), ..it.clone() }.in_batch(),
            DepositMoneyRequest { reason: String::new(), ..it.clone() }.in_batch(),
            DepositMoneyRequest { expected_version: Some(1), ..it.clone() }.in_batch(),
            WithdrawMoneyRequest {
                request_id: it.request_id,
                reason: it.reason,
                ..withdraw(&it.account_id, it.amount_minor)
            }
            .in_batch(),
        ],
        Kind::WithdrawMoney(it) => vec![
            WithdrawMoneyRequest { account_id: other(), ..it.clone() }.in_batch(),
            WithdrawMoneyRequest { amount_minor: 77, ..it.clone() }.in_batch(),
            WithdrawMoneyRequest { reason: "eve".into(), ..it.clone() }.in_batch(),
            WithdrawMoneyRequest { expected_version: None, ..it.clone() }.in_batch(),
            WithdrawMoneyRequest { expected_version: Some(3), ..it.clone() }.in_batch(),
            CloseAccountRequest { request_id: it.request_id, ..close(&it.account_id) }.in_batch(),
        ],
        Kind::TransferMoney(it) => vec![
            TransferMoneyRequest { saga_id: other(), ..it.clone() }.in_batch(),
            TransferMoneyRequest { from_account_id: other(), ..it.clone() }.in_batch(),
            TransferMoneyRequest { to_account_id: other(), ..it.clone() }.in_batch(),
            TransferMoneyRequest { amount_minor: 77, ..it.clone() }.in_batch(),
            TransferMoneyRequest { reason: "eve".into(), ..it.clone() }.in_batch(),
            WithdrawMoneyRequest {
                request_id: it.request_id,
                reason: it.reason,
                ..withdraw(&it.from_account_id, it.amount_minor)
            }
            .in_batch(),
        ],
        Kind::CloseAccount(it) => vec![
            CloseAccountRequest { account_id: other(), ..it.clone() }.in_batch(),
            CloseAccountRequest { expected_version: Some(1), ..it.clone() }.in_batch(),
            OpenAccountRequest { request_id: it.request_id, ..open("ada", 0) }.in_batch(),
        ],
    }
}

#[tokio::test]
async fn a_request_id_is_refused_for_any_other_command() {
    // Every field that differs makes another command, also those that only say why or expect.
    let service = Service::in_memory().await;
    let commands = commands(&service).await;
    let other = service.opened(1_000).await;
    for command in &commands {
        let _some_transfers_fail = execute(&service, command).await;
    }
    let log = service.log().await;
    let mut tried = 0;
    for command in &commands {
        for variant in variants(command, &other) {
            let answer = execute(&service, &variant).await;
            let status = assert_refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED");
            assert_eq!(violations(&status), ["request_id"]);
            tried += 1;
        }
    }
    assert_eq!(tried, 2 * 6 + 6 + 6 + 6 * 6 + 3);
    assert_eq!(service.log().await, log);
}

#[tokio::test]
async fn a_transfer_that_named_its_saga_is_repeated_only_by_that_name() {
    // The server's own name for the saga, sent as if it had been chosen, makes another command.
    let service = Service::in_memory().await;
    let (a, b) = (service.opened(100).await, service.opened(0).await);
    let unnamed = TransferMoneyRequest { request_id: fresh_id(), ..transfer(&a, &b, 1) };
    let saga_id = service.call(unnamed.clone()).await.unwrap().saga.unwrap().saga_id;
    let named = TransferMoneyRequest { saga_id, ..unnamed };
    let answer = service.call(named).await;
    assert_refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED");

    let named = proto::TransferMoneyRequest {
        saga_id: fresh_id(),
        request_id: fresh_id(),
        ..transfer(&a, &b, 1)
    };
    service.call(named.clone()).await.unwrap();
    let unnamed = TransferMoneyRequest { saga_id: String::new(), ..named };
    let answer = service.call(unnamed).await;
    assert_refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED");
}
