//! Batches: each command judged by itself, after those before it, and all of them answered.

use std::collections::HashSet;

use daybook::proto::{
    BatchCommand, BatchResult, DepositMoneyRequest, ExecuteBatchRequest, ExecuteBatchResponse,
    OpenAccountRequest, TransferMoneyRequest, batch_result::Result as Done,
};
use prost::Message as _;
use tonic::Code;

use crate::service::{
    BATCH_COMMANDS_MAX, InBatch as _, Service, as_status, batch_of, close, deposit, fresh_id, open,
    reason, transfer, withdraw,
};

/// Index, code and reason of each failure.
fn failures(answer: &ExecuteBatchResponse) -> Vec<(i32, Code, String)> {
    let failures = answer.failures.iter().map(|failure| {
        let status = failure.status.as_ref().unwrap();
        let status = as_status(status);
        (failure.index, status.code(), reason(&status))
    });
    failures.collect()
}

#[tokio::test]
async fn each_command_of_a_batch_is_judged_by_itself() {
    // Accepted, invalid and refused ones in one batch: each is told by its place.
    let service = Service::in_memory().await;
    let (a, b) = (service.opened(10).await, service.opened(0).await);
    let commands = vec![
        deposit(&a, 5).in_batch(),
        deposit(&a, 0).in_batch(),
        withdraw(&a, 100).in_batch(),
        transfer(&a, &b, 15).in_batch(),
        BatchCommand { command: None },
        transfer(&a, &b, 15).in_batch(),
        close(&a).in_batch(),
        deposit(&a, 1).in_batch(),
        open("bob", 3).in_batch(),
        deposit(&fresh_id(), 1).in_batch(),
    ];
    let request = ExecuteBatchRequest { commands, return_results: true };
    let answer = service.call(request).await.unwrap();
    let told = failures(&answer).into_iter();
    let told = told.map(|(index, code, reason)| format!("{index} {code:?} {reason}"));
    let told: Vec<_> = told.collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    1 InvalidArgument INVALID_FIELDS
    2 FailedPrecondition INSUFFICIENT_FUNDS
    4 InvalidArgument INVALID_FIELDS
    5 FailedPrecondition INSUFFICIENT_FUNDS
    7 FailedPrecondition ACCOUNT_CLOSED
    9 NotFound ACCOUNT_NOT_FOUND
    ");
    assert_eq!(answer.accepted_count, 4);
    let told: Vec<_> = answer.results.iter().map(|result| (result.index, kind(result))).collect();
    assert_eq!(told, [(0, "deposit"), (3, "transfer"), (6, "close"), (8, "open")]);
    let head = service.stats().await.position;
    assert_eq!(answer.position, head);
    // Two openings, a deposit, a transfer, a failed transfer, a closing, an opening.
    assert_eq!(head, 2 + 1 + 5 + 2 + 1 + 1);
}

fn kind(result: &BatchResult) -> &'static str {
    match result.result.as_ref().unwrap() {
        Done::OpenAccount(_) => "open",
        Done::DepositMoney(_) => "deposit",
        Done::WithdrawMoney(_) => "withdraw",
        Done::TransferMoney(_) => "transfer",
        Done::CloseAccount(_) => "close",
    }
}

#[tokio::test]
async fn a_command_of_a_batch_sees_those_before_it() {
    // An account is opened, filled, emptied and closed in one batch, in this order only.
    let service = Service::in_memory().await;
    let (id, sink) = (fresh_id(), service.opened(0).await);
    let opening = OpenAccountRequest { account_id: id.clone(), ..open("ada", 1) };
    let version = |version| Some(version);
    let commands = vec![
        deposit(&id, 1).in_batch(),
        opening.in_batch(),
        DepositMoneyRequest { expected_version: version(1), ..deposit(&id, 2) }.in_batch(),
        close(&id).in_batch(),
        transfer(&id, &sink, 3).in_batch(),
        close(&id).in_batch(),
        withdraw(&sink, 3).in_batch(),
    ];
    let answer = service.call(batch_of(commands)).await.unwrap();
    let told = failures(&answer);
    let told: Vec<_> = told.iter().map(|(index, _, reason)| (*index, reason.as_str())).collect();
    assert_eq!(told, [(0, "ACCOUNT_NOT_FOUND"), (3, "BALANCE_NOT_ZERO")]);
    assert_eq!((service.balance(&sink).await, service.account(&id).await.version), (0, 6));
}

#[tokio::test]
async fn the_events_of_a_batch_follow_each_other() {
    // 16 batches at once: the commands of each stay together, in the order of the batch.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let answers = crate::service::at_once(16, |_| {
        let client = crate::service::Client::clone(&service);
        let commands = (1..=50).map(|amount| deposit(&id, amount).in_batch()).collect();
        let request = ExecuteBatchRequest { commands, return_results: true };
        async move { client.call(request).await.unwrap() }
    });
    let mut seen = HashSet::new();
    for answer in answers.await {
        let positions: Vec<i64> = answer.results.iter().map(position).collect();
        assert!(positions.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(positions.iter().all(|position| seen.insert(*position)));
        assert!(answer.position >= positions[49]);
    }
    assert_eq!(service.balance(&id).await, 16 * 51 * 25);
}

fn position(result: &BatchResult) -> i64 {
    match result.result.as_ref().unwrap() {
        Done::DepositMoney(done) => done.event.as_ref().unwrap().position,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_batch_may_have_8190_commands_with_results() {
    // The largest batch, answered in full.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let commands = vec![deposit(&id, 1).in_batch(); BATCH_COMMANDS_MAX];
    let request = ExecuteBatchRequest { commands, return_results: true };
    let answer = service.call(request).await.unwrap();
    assert_eq!((answer.accepted_count, answer.results.len()), (8_190, 8_190));
    for (result, index) in answer.results.iter().zip(0..) {
        assert_eq!((result.index, position(result)), (index, i64::from(index) + 2));
    }
    assert_eq!(service.balance(&id).await, 8_190);
}

#[tokio::test]
async fn a_batch_of_which_nothing_can_be_carried_out_is_answered() {
    // All invalid, or all refused: no error of the batch, and nothing is written.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let before = service.stats().await;
    for command in [deposit(&id, -1).in_batch(), withdraw(&id, 1).in_batch()] {
        let answer = service.call(batch_of(vec![command; 100])).await.unwrap();
        assert_eq!((answer.accepted_count, answer.failures.len()), (0, 100));
        assert_eq!(answer.position, before.position);
        assert!(answer.failures.iter().zip(0..).all(|(failure, index)| failure.index == index));
    }
    assert_eq!(service.stats().await, before);
}

#[tokio::test]
async fn a_batch_whose_results_would_be_too_large_is_not_carried_out_in_silence() {
    // Requests within the limit of a message, whose results exceed it: whoever hears an error must
    // be able to rely on it that nothing has happened.
    let service = Service::in_memory().await;
    let (a, b) = (service.opened(1_000_000).await, service.opened(0).await);
    let reason = "r".repeat(256);
    let owner = "\u{10348}".repeat(110);
    let wide = "\u{10348}".repeat(110);
    let batches = [
        vec![open(&owner, 0).in_batch(); BATCH_COMMANDS_MAX],
        vec![DepositMoneyRequest { reason: wide, ..deposit(&a, 1) }.in_batch(); 8_190],
        vec![TransferMoneyRequest { reason, ..transfer(&a, &b, 1) }.in_batch(); 8_190],
    ];
    for commands in batches {
        let before = service.stats().await.event_count;
        let request = ExecuteBatchRequest { commands, return_results: true };
        assert!(request.encoded_len() < 4 << 20, "{}", request.encoded_len());
        match service.call(request).await {
            Ok(answer) => assert_eq!(answer.accepted_count, 8_190),
            Err(status) => {
                let written = service.stats().await.event_count - before;
                assert_eq!(written, 0, "written, though the answer was {status:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_batch_in_which_everything_is_wrong_is_answered() {
    // The failures of the largest batch fit into a message; one good command among them is
    // carried out and counted.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let bad = || "bad".to_owned();
    let wrong = TransferMoneyRequest {
        saga_id: bad(),
        from_account_id: bad(),
        to_account_id: bad(),
        amount_minor: 0,
        reason: "\n".to_owned(),
        request_id: bad(),
    };
    let mut commands = vec![wrong.in_batch(); BATCH_COMMANDS_MAX - 1];
    commands.push(deposit(&id, 1).in_batch());
    let answer = service.call(batch_of(commands)).await.unwrap();
    assert_eq!((answer.accepted_count, answer.failures.len()), (1, 8_189));
    assert_eq!(service.balance(&id).await, 1);
    for failure in &answer.failures {
        let status = failure.status.as_ref().unwrap();
        assert_eq!(Code::from_i32(status.code), Code::InvalidArgument);
        assert!(status.message.starts_with("saga_id must be a UUID"), "{status:?}");
    }
    // The first ones are told in full, the others briefly.
    let told = |index: usize| answer.failures[index].status.as_ref().unwrap();
    assert!(told(0).message.contains("amount_minor must be 1 to"), "{:?}", told(0));
    assert!(!told(0).details.is_empty());
    assert_eq!(told(8_188).message.chars().count(), 100);
    assert!(told(8_188).details.is_empty());
}
