//! The edges of calls: deadlines, sizes, watches of health, and what a stop does to all of them.

use std::time::{Duration, Instant};

use daybook::proto::{
    BatchCommand, DepositMoneyRequest, ExecuteStreamRequest, ExecuteStreamResponse,
    GetAccountRequest, TailEventsRequest,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::service::{
    Client, InBatch as _, Service, assert_refused, batch_of, deposit, fresh_id, from, get, reason,
};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A deadline that passes soon.
const SOON: Duration = Duration::from_millis(150);

/// A request with a deadline, as clients write it.
fn late<T>(message: T, header: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-timeout", header.parse().unwrap());
    request
}

async fn watch(
    client: &Client,
    service: &str,
) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let mut health = HealthClient::new(client.channel.clone());
    let request = HealthCheckRequest { service: service.to_owned() };
    health.watch(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn streams_end_at_their_deadline_with_deadline_exceeded() {
    // A tail and a stream of batches, both open and idle; what was told before stays told.
    let service = Service::in_memory().await;
    let id = service.opened(1).await;
    let begin = Instant::now();
    let tail = service.queries.clone().tail_events(late(from(0), "150m")).await;
    let mut tail = tail.unwrap().into_inner();
    assert_eq!(tail.message().await.unwrap().unwrap().position, 1);
    let ended = timeout(PATIENCE, tail.message()).await.unwrap();
    assert_refused(ended, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert!(begin.elapsed() >= SOON);

    let (sender, receiver) = mpsc::channel(1);
    let commands = vec![deposit(&id, 5).in_batch()];
    sender.send(ExecuteStreamRequest { commands, return_results: false }).await.unwrap();
    let request = late(ReceiverStream::new(receiver), "150m");
    let answers = service.commands.clone().execute_stream(request).await;
    let mut answers = answers.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().accepted_count, 1);
    let ended = timeout(PATIENCE, answers.message()).await.unwrap();
    assert_refused(ended, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!(service.balance(&id).await, 6);
}

#[tokio::test]
async fn a_command_whose_deadline_passes_happens_once_or_not_at_all() {
    // A thousand deposits with hardly any time: whatever their callers were told, the repeat of
    // each finds it carried out once, and the log agrees.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let (mut answered, mut late) = (0, 0);
    // A connection on which more calls are given up at once is closed by the server.
    for wave in 0..63 {
        let headers = ["0n", "1u", "200u", "1m", "5m"].into_iter().cycle().skip(wave);
        let calls = headers.take(16).map(|header| deposit_late(&service, &id, header));
        for (is_answered, is_replayed) in futures_util::future::join_all(calls).await {
            assert!(is_replayed || !is_answered, "carried out twice");
            answered += i64::from(is_answered);
            late += i64::from(!is_answered);
        }
    }
    assert!(late > 100, "{answered} were in time");
    assert_eq!(service.balance(&id).await, answered + late);
    assert_eq!(service.account(&id).await.version, answered + late + 1);
}

/// A deposit with so much time, and its repeat with as much as it needs. Gives whether the first
/// was answered, and whether the second found it carried out.
async fn deposit_late(service: &Client, id: &str, header: &'static str) -> (bool, bool) {
    let request = DepositMoneyRequest { request_id: fresh_id(), ..deposit(id, 1) };
    let first = service.commands.clone().deposit_money(late(request.clone(), header)).await;
    if let Err(status) = &first {
        // Our own client looks at the time as well, and says CANCELLED.
        let codes = [Code::DeadlineExceeded, Code::Cancelled];
        assert!(codes.contains(&status.code()), "{status:?}");
    }
    let again = service.call(request).await.unwrap();
    (first.is_ok(), again.replayed)
}

#[tokio::test]
async fn messages_that_are_too_large_are_resource_exhausted_everywhere() {
    // One request, one of a stream, and one that is a stream's only one.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let large = DepositMoneyRequest { reason: "x".repeat(5 << 20), ..deposit(&id, 1) };
    let refused = service.call(large.clone()).await;
    assert_refused(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let ids = vec![id.clone(); 120_000];
    let request = TailEventsRequest { account_ids: ids, ..Default::default() };
    assert_refused(service.tail(request).await, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");

    let batches = [vec![deposit(&id, 5).in_batch()], vec![large.in_batch()]];
    let refused = second_of(&service, batches).await;
    assert_refused(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert_eq!(service.balance(&id).await, 5, "what came before it is carried out");
}

/// What becomes of the second batch of a stream, whose first one is carried out.
async fn second_of(
    service: &Service,
    batches: [Vec<BatchCommand>; 2],
) -> Result<Option<ExecuteStreamResponse>, Status> {
    let requests = batches.map(|commands| ExecuteStreamRequest { commands, return_results: false });
    let answers = service.commands.clone().execute_stream(tokio_stream::iter(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().accepted_count, 1);
    answers.message().await
}

#[tokio::test]
async fn messages_of_too_many_parts_are_too_large_as_well() {
    // Each is two bytes on the wire, and a hundred times as many in memory.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    for (count, code, reason) in [
        (19_000, Code::InvalidArgument, "INVALID_FIELDS"),
        (20_001, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        (2_000_000, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
    ] {
        let commands = vec![BatchCommand::default(); count];
        assert_refused(service.call(batch_of(commands.clone())).await, code, reason);
        let request = TailEventsRequest { account_ids: vec![String::new(); count], ..from(0) };
        assert_refused(service.tail(request).await, code, reason);
        let batches = [vec![deposit(&id, 5).in_batch()], commands];
        assert_refused(second_of(&service, batches).await, code, reason);
    }
    assert_eq!(service.balance(&id).await, 15);
}

#[tokio::test]
async fn a_watch_of_health_stays_open_and_ends_with_the_server() {
    // Also one of a name that there is not: it is told so, and waits.
    let mut service = Service::with_delay(Duration::from_millis(300)).await;
    let client = service.another().await;
    let mut unknown = watch(&client, "daybook.v1.NoService").await;
    let mut ready = watch(&client, "readiness").await;
    let status = unknown.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::ServiceUnknown);
    assert_eq!(ready.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert!(timeout(SOON, unknown.message()).await.is_err(), "there is nothing more to tell");

    let id = client.opened(7).await;
    let stopped = async {
        service.stop().await;
        Instant::now()
    };
    let watched = async {
        let status = ready.message().await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::NotServing);
        let told_at = Instant::now();
        // Load balancers still have to hear of it: calls go on.
        assert_eq!(client.balance(&id).await, 7);
        let ended: [Status; 2] = [
            ready.message().await.unwrap_err(),
            timeout(PATIENCE, unknown.message()).await.unwrap().unwrap_err(),
        ];
        for status in ended {
            assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "STOPPING"));
        }
        told_at
    };
    let (stopped_at, told_at) = timeout(PATIENCE, async { tokio::join!(stopped, watched) })
        .await
        .expect("a watch does not keep the server from stopping");
    assert!(stopped_at - told_at >= Duration::from_millis(250), "{:?}", stopped_at - told_at);
}

#[tokio::test]
async fn a_read_that_waits_ends_at_the_callers_deadline() {
    // The server does not wait on for a caller that has gone.
    let service = Service::in_memory().await;
    let id = service.opened(7).await;
    let request = GetAccountRequest { min_position: Some(1_000), ..get(&id) };
    let begin = Instant::now();
    let ended = service.queries.clone().get_account(late(request, "150m")).await;
    let code = ended.unwrap_err().code();
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&code), "{code:?}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    // Nor may it take its time with the first words, one byte after another.
    let service = Service::in_memory().await;
    let begin = Instant::now();
    let mut silent = TcpStream::connect(service.address()).await.unwrap();
    let mut slow = TcpStream::connect(service.address()).await.unwrap();
    let said = async {
        for byte in b"PRI * HTTP/2.0" {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        slow.read(&mut [0; 8]).await
    };
    let heard = timeout(PATIENCE, async { tokio::join!(silent.read_u8(), said) }).await;
    let (silent, slow) = heard.expect("both are closed");
    assert!(silent.is_err(), "the silent one is closed");
    assert!(slow.map_or(true, |length| length == 0), "and the slow one");
    assert!(begin.elapsed() > Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(service.another().await.stats().await.position, 0, "others are served");
}
