//! What one principal takes, the others have.

use std::time::{Duration, Instant};

use daybook::proto::{ExecuteStreamRequest, GetAccountRequest, TailEventsRequest};
use futures_util::stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Bank, Rpc, bearing};
use crate::service::{InBatch as _, batch_of, deposit, get, metadata, reason};

/// How long a call waits for a position that does not come.
const WAIT: Duration = Duration::from_secs(4);

fn assert_exceeded(status: &Status, quota: &str, limit: u32) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(status), "QUOTA_EXCEEDED");
    assert_eq!(metadata(status)["quota"], quota);
    assert_eq!(metadata(status)["limit"], limit.to_string());
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(!retry.is_zero() && retry <= Duration::from_secs(1), "{retry:?}");
}

/// Calls that wait, until they are dropped.
fn waiting(bank: &Bank, token: &str, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let request = GetAccountRequest { min_position: Some(1_000_000), ..get(&bank.foreign) };
    (0..count)
        .map(|_| {
            let (client, request, token) =
                ((*bank.service).clone(), request.clone(), token.to_owned());
            tokio::spawn(async move {
                loop {
                    let mut request = bearing(&token, request.clone());
                    request.set_timeout(WAIT);
                    let ended = GetAccountRequest::call(client.clone(), request).await;
                    let status = ended.expect_err("the position does not come");
                    // Whoever looks whether there is room takes some of it for a moment.
                    if status.code() != Code::ResourceExhausted {
                        break;
                    }
                }
            })
        })
        .collect()
}

#[tokio::test]
async fn one_principals_calls_leave_room_for_the_others() {
    let bank = Bank::open_with(|config| config.calls_per_principal = 3).await;
    let calls = waiting(&bank, &bank.reader, 3);
    let begin = Instant::now();
    let status = loop {
        match bank.call(&bank.reader, get(&bank.foreign)).await {
            Ok(_) => assert!(begin.elapsed() < WAIT, "more than three calls"),
            Err(status) => break status,
        }
    };
    assert_exceeded(&status, "calls_per_principal", 3);
    // A JWT of the same principal is no way around.
    let jwt = bank.issuer.token(&super::claims("reader"));
    let status = bank.call(&jwt, get(&bank.foreign)).await.unwrap_err();
    assert_exceeded(&status, "calls_per_principal", 3);
    for other in [&bank.writer, &bank.admin] {
        bank.call(other, get(&bank.foreign)).await.unwrap();
    }
    for call in calls {
        call.await.unwrap();
    }
    bank.call(&bank.reader, get(&bank.foreign)).await.unwrap();
}

#[tokio::test]
async fn a_stream_of_commands_is_a_call_until_it_ends() {
    let bank = Bank::open_with(|config| config.calls_per_principal = 1).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<ExecuteStreamRequest>(1);
    let request = bearing(&bank.writer, ReceiverStream::new(receiver));
    let open = bank.service.commands.clone().execute_stream(request).await.unwrap();
    let status = bank.call(&bank.writer, deposit(&bank.foreign, 1)).await.unwrap_err();
    assert_exceeded(&status, "calls_per_principal", 1);
    drop((open, sender));
    let begin = Instant::now();
    while bank.call(&bank.writer, deposit(&bank.foreign, 1)).await.is_err() {
        assert!(begin.elapsed() < WAIT, "its place is not given back");
    }
}

#[tokio::test]
async fn a_principal_has_so_many_tails() {
    let bank = Bank::open_with(|config| config.tails_per_principal = 2).await;
    let tail = |token: &str| {
        let request = bearing(token, TailEventsRequest::default());
        let mut queries = bank.service.queries.clone();
        async move { queries.tail_events(request).await }
    };
    let mut tails = vec![tail(&bank.reader).await.unwrap(), tail(&bank.reader).await.unwrap()];
    assert_exceeded(&tail(&bank.reader).await.unwrap_err(), "tails_per_principal", 2);
    assert!(tail(&bank.admin).await.is_ok(), "that of another");
    bank.call(&bank.reader, get(&bank.foreign)).await.unwrap();
    tails.pop();
    let begin = Instant::now();
    while tail(&bank.reader).await.is_err() {
        assert!(begin.elapsed() < WAIT, "its place is not given back");
    }
    // One that is refused for what it asks gives its place back as well.
    for _ in 0..5 {
        let request = TailEventsRequest { after_position: Some(-1), ..Default::default() };
        let refused = bank.service.queries.clone().tail_events(bearing(&bank.admin, request)).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn calls_beyond_the_rate_are_told_when_to_come_again() {
    let bank = Bank::open_with(|config| config.rate_per_principal = 5).await;
    let begin = Instant::now();
    let (mut taken, mut refused) = (0, 0);
    while begin.elapsed() < Duration::from_secs(2) {
        let commands = (0..10).map(|_| deposit(&bank.foreign, 1).in_batch()).collect();
        match bank.call(&bank.writer, batch_of(commands)).await {
            Ok(_) => taken += 1,
            Err(status) => {
                assert_exceeded(&status, "rate_per_principal", 5);
                refused += 1;
            }
        }
    }
    let most = 5 + 5 * (begin.elapsed().as_millis() / 1_000 + 1);
    assert!(refused > 0 && taken >= 5 && taken <= most, "{taken} of at most {most}, {refused}");
    // Who waits as long as it is told is served.
    let status = loop {
        match bank.call(&bank.writer, get(&bank.foreign)).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    tokio::time::sleep(retry + Duration::from_millis(5)).await;
    bank.call(&bank.writer, get(&bank.foreign)).await.unwrap();
    bank.call(&bank.reader, get(&bank.foreign)).await.unwrap();
}

#[tokio::test]
async fn a_stream_is_held_back_to_the_rate() {
    // Ten batches at five a second: five at once, the stream's own beginning among them, and the
    // others as the time comes. None is refused.
    let bank = Bank::open_with(|config| config.rate_per_principal = 5).await;
    let batch = ExecuteStreamRequest {
        commands: vec![deposit(&bank.foreign, 1).in_batch()],
        return_results: false,
    };
    let begin = Instant::now();
    let request = bearing(&bank.writer, stream::iter(vec![batch; 10]));
    let answers = bank.service.commands.clone().execute_stream(request).await.unwrap();
    let mut answers = answers.into_inner();
    for _ in 0..10 {
        assert_eq!(answers.message().await.unwrap().unwrap().accepted_count, 1);
    }
    assert!(begin.elapsed() >= Duration::from_millis(1_190), "{:?}", begin.elapsed());
}
