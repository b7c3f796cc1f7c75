//! Overload: calls beyond the limit are turned away at once, and everything else goes on.

use std::time::{Duration, Instant};

use daybook::{
    ops::config::{Config, Limits},
    proto::GetAccountRequest,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::service::{Client, Service, assert_refused, deposit, get};

/// How many calls there may be, on how many connections.
const CALLS: usize = 512;
const CONNECTIONS: usize = 4;
/// How long a call waits for a position that does not come.
const WAIT: Duration = Duration::from_secs(8);

/// Fills the server with calls that wait, and waits until the next one is turned away.
async fn fill(service: &Service, account_id: &str) -> Vec<tokio::task::JoinHandle<()>> {
    let mut waiting = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = service.another().await;
        for _ in 0..CALLS / CONNECTIONS {
            let request = GetAccountRequest { min_position: Some(1_000_000), ..get(account_id) };
            let client = client.clone();
            waiting.push(tokio::spawn(async move {
                loop {
                    let ended = client.call_within(WAIT, request.clone()).await;
                    let status = ended.expect_err("the position does not come");
                    // Whoever looks whether there is room takes some of it for a moment.
                    if status.code() != Code::ResourceExhausted {
                        break;
                    }
                }
            }));
        }
    }
    let client = service.another().await;
    let begin = Instant::now();
    while client.call(get(account_id)).await.is_ok() {
        assert!(begin.elapsed() < WAIT, "all calls are taken");
    }
    waiting
}

async fn assert_turned_away(client: &Client, account_id: &str) {
    let begin = Instant::now();
    let refused = client.call(get(account_id)).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "OVERLOADED");
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry <= Duration::from_secs(1), "{retry:?}");
    assert!(begin.elapsed() < Duration::from_secs(1), "at once: {:?}", begin.elapsed());
}

#[tokio::test]
async fn calls_beyond_the_limit_are_turned_away_at_once() {
    // The server is full of reads that wait. The next ones are refused, with when to try again;
    // health says that the server serves; commands are carried out; a tail gets what is recorded;
    // and once there is room, there are reads again.
    let limits = Limits { calls: CALLS, ..Limits::default() };
    let service = Service::with(Config { limits, ..Config::default() }).await;
    let account_id = service.opened(7).await;
    let waiting = fill(&service, &account_id).await;
    let client = service.another().await;
    assert_turned_away(&client, &account_id).await;
    client.wait_until_serving("readiness").await;
    let mut stream = client.tail(crate::service::from(0)).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().position, 1, "streams are not counted");

    let answer = client.call(deposit(&account_id, 5)).await.unwrap();
    assert_eq!((answer.balance_minor, answer.event.unwrap().position), (12, 2));
    for call in waiting {
        call.await.unwrap();
    }
    assert_eq!(client.balance(&account_id).await, 12);
}
