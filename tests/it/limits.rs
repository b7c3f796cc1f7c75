//! The limits that are settings: each one held, and what its breach is answered with.

use std::time::{Duration, Instant};

use daybook::{
    ops::config::{Config, Limits},
    proto::{DepositMoneyRequest, ExecuteStreamRequest, GetAccountRequest},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::service::{
    InBatch as _, Service, assert_refused, batch_of, deposit, from, get, metadata, open,
};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn with(limits: Limits) -> Service {
    Service::with(Config { limits, ..Config::default() }).await
}

/// A connection that speaks HTTP/2 by hand.
struct Frames(TcpStream);

/// A frame: its type, its stream and what is in it.
type Frame = (u8, u32, Vec<u8>);

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

impl Frames {
    async fn open(service: &Service) -> Self {
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self(stream)
    }

    /// None when the connection is closed.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]).try_into().unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// The next frame of a kind.
    async fn next_of(&mut self, wanted: u8) -> Vec<u8> {
        loop {
            let frame = timeout(PATIENCE, self.next()).await.expect("a frame");
            let (kind, _, payload) = frame.expect("the connection is open");
            if kind == wanted {
                return payload;
            }
        }
    }
}

#[tokio::test]
async fn a_client_is_told_how_much_it_may_send() {
    let service = Service::in_memory().await;
    let settings = Frames::open(&service).await.next_of(SETTINGS).await;
    let setting = |wanted: u16| {
        let found = settings.chunks(6).find(|it| it[..2] == wanted.to_be_bytes());
        found.map(|it| u32::from_be_bytes(it[2..].try_into().unwrap()))
    };
    assert_eq!(setting(3), Some(256), "streams: {settings:?}");
    assert_eq!(setting(6), Some(16_384), "header list: {settings:?}");
    // What is not told is what the protocol says: 16 KiB, the least that there is.
    assert!(setting(5).is_none_or(|bytes| bytes == 16_384), "frame: {settings:?}");
}

#[tokio::test]
async fn one_address_has_only_so_many_connections() {
    let service = with(Limits { connections_per_address: 2, ..Limits::default() }).await;
    let mut second = Frames::open(&service).await;
    second.next_of(SETTINGS).await;
    let mut third = TcpStream::connect(service.address()).await.unwrap();
    let closed = timeout(PATIENCE, third.read(&mut [0])).await.expect("it is closed");
    assert!(closed.map_or(true, |read| read == 0));
    drop(second);
    let begin = Instant::now();
    // That it has left is seen a moment later.
    while Frames::open(&service).await.next().await.is_none() {
        assert!(begin.elapsed() < PATIENCE, "its place is not given back");
    }
    assert_eq!(service.stats().await.position, 0, "the first is served all the time");
}

#[tokio::test]
async fn a_connection_that_is_old_is_ended_and_its_calls_are_not() {
    let age = Duration::from_secs(1);
    let service = with(Limits { connection_age: age, ..Limits::default() }).await;
    let (begin, mut frames) = (Instant::now(), Frames::open(&service).await);
    let mut tail = service.tail(from(0)).await.unwrap();
    frames.next_of(GOAWAY).await;
    assert!(begin.elapsed() >= age * 9 / 10, "{:?}", begin.elapsed());
    tokio::time::sleep(age).await;
    // This client of ours learns of it by one call that it cancels.
    let cancelled = service.call(open("ada", 7)).await;
    assert!(cancelled.is_err_and(|status| status.code() == Code::Cancelled));
    let id = service.opened(7).await;
    assert_eq!(tail.message().await.unwrap().unwrap().position, 1);
    assert_eq!(service.balance(&id).await, 7);
}

#[tokio::test]
async fn there_are_only_so_many_tails() {
    let service = with(Limits { tails: 2, ..Limits::default() }).await;
    let first = service.tail(from(0)).await.unwrap();
    let _second = service.tail(from(0)).await.unwrap();
    let refused = service.tail(from(0)).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "TOO_MANY_TAILS");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    drop(first);
    let begin = Instant::now();
    while service.tail(from(0)).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "its place is not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn batches_and_messages_are_only_so_large() {
    let limits = Limits { batch_commands: 3, message_bytes: 16 << 10, ..Limits::default() };
    let service = with(limits).await;
    let id = service.opened(0).await;
    let batch = |count: usize| vec![deposit(&id, 1).in_batch(); count];
    assert_eq!(service.call(batch_of(batch(3))).await.unwrap().accepted_count, 3);
    let refused = service.call(batch_of(batch(4))).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELDS");
    let details = status.get_details_bad_request().unwrap();
    assert_eq!(details.field_violations[0].field, "commands");
    assert_eq!(details.field_violations[0].description, "must have 1 to 3 items");

    let large = DepositMoneyRequest { reason: "x".repeat(16 << 10), ..deposit(&id, 1) };
    let refused = service.call(large.clone()).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert_eq!(metadata(&status)["limit_bytes"], "16384");
    let request = ExecuteStreamRequest { commands: vec![large.in_batch()], return_results: false };
    let answers = service.commands.clone().execute_stream(tokio_stream::iter([request])).await;
    let refused = answers.unwrap().into_inner().message().await;
    let status = assert_refused(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert_eq!(metadata(&status)["limit_bytes"], "16384");
    assert_eq!(service.balance(&id).await, 3);
}

#[tokio::test]
async fn a_call_takes_only_so_long_whatever_its_caller_says() {
    let service = with(Limits { call_time: Duration::from_millis(200), ..Limits::default() }).await;
    let id = service.opened(7).await;
    let request = GetAccountRequest { min_position: Some(1_000), ..get(&id) };
    for said in [None, Some(PATIENCE)] {
        let begin = Instant::now();
        let ended = match said {
            None => service.call(request.clone()).await,
            Some(said) => service.call_within(said, request.clone()).await,
        };
        assert_refused(ended, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
        assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    }
    // Streams may take longer.
    let mut tail = service.tail(from(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    service.call(deposit(&id, 1)).await.unwrap();
    assert_eq!(tail.message().await.unwrap().unwrap().position, 2);
}
