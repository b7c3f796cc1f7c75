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
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
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

/// A frame: its type, its flags, its stream and what is in it.
type Frame = (u8, u8, u32, Vec<u8>);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// The headers of a call, before its path and after it.
const BEFORE_PATH: &[u8] = b"\x83\x86\x01\x07daybook\x04";
const AFTER_PATH: &[u8] = b"\x0f\x10\x10application/grpc";

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
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]).try_into().unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [a, b, c, kind, flags, 0, 0, 0, stream];
        self.0.write_all(&[&head, payload].concat()).await.unwrap();
    }

    /// Begins a call, whose message is still to come.
    async fn begin(&mut self, stream: u8, path: &str) {
        let length = u8::try_from(path.len()).unwrap();
        let headers = [BEFORE_PATH, &[length], path.as_bytes(), AFTER_PATH].concat();
        self.send(HEADERS, 4, stream, &headers).await;
    }

    /// Waits until all these calls have been reset. Gives how many of them had a status before.
    async fn ended(&mut self, mut streams: Vec<u8>) -> usize {
        let mut answered = 0;
        while !streams.is_empty() {
            let frame = timeout(PATIENCE, self.next()).await.expect("a frame");
            let (kind, flags, stream, _) = frame.expect("the connection is open");
            answered += usize::from(kind == HEADERS && flags & 1 == 1);
            if kind == RST_STREAM {
                streams.retain(|it| u32::from(*it) != stream);
            }
        }
        answered
    }

    /// The next frame of a kind.
    async fn next_of(&mut self, wanted: u8) -> Vec<u8> {
        loop {
            let frame = timeout(PATIENCE, self.next()).await.expect("a frame");
            let (kind, _, _, payload) = frame.expect("the connection is open");
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
        // In time to say why.
        assert_refused(ended, Code::DeadlineExceeded, "POSITION_NOT_REACHED");
        assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    }
    // Streams may take longer.
    let mut tail = service.tail(from(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    service.call(deposit(&id, 1)).await.unwrap();
    assert_eq!(tail.message().await.unwrap().unwrap().position, 2);
}

#[tokio::test]
async fn messages_that_do_not_come_are_not_waited_for() {
    // Neither those of calls nor the question of a stream; nor the rest of a message that has
    // begun, of a stream as well. Each call is ended and its place on the connection is free.
    let call_time = Duration::from_millis(200);
    let limits = Limits { call_time, streams_per_connection: 7, ..Limits::default() };
    let service = with(limits).await;
    let mut frames = Frames::open(&service).await;
    let streams = vec![1, 3, 5, 7, 9, 11, 13];
    let begin = Instant::now();
    for (stream, path) in streams.iter().zip([
        "/daybook.v1.CommandService/DepositMoney",
        "/daybook.v1.QueryService/GetAccount",
        "/daybook.v1.QueryService/TailEvents",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/daybook.v1.CommandService/ExecuteStream",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ]) {
        frames.begin(*stream, path).await;
        if *stream > 9 {
            frames.send(DATA, 0, *stream, b"\0\0\0\0\x0a12345").await;
        }
    }
    assert_eq!(frames.ended(streams).await, 7);
    assert!(begin.elapsed() >= call_time, "{:?}", begin.elapsed());
    frames.begin(15, "/daybook.v1.QueryService/GetStats").await;
    frames.send(DATA, 1, 15, b"\0\0\0\0\0").await;
    while frames.next_of(HEADERS).await.is_empty() {}
    assert_eq!(service.stats().await.position, 0);
}

#[tokio::test]
async fn answers_that_are_not_taken_are_given_up() {
    // The peer allows not a byte of them: after the time of a call they are reset.
    let call_time = Duration::from_millis(200);
    let limits = Limits { call_time, streams_per_connection: 2, ..Limits::default() };
    let service = with(limits).await;
    let mut frames = Frames::open(&service).await;
    frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    let begin = Instant::now();
    for streams in [vec![1, 3], vec![5, 7]] {
        frames.begin(streams[0], "/daybook.v1.QueryService/GetStats").await;
        frames.begin(streams[1], "/daybook.v1.QueryService/ListAccounts").await;
        for stream in &streams {
            frames.send(DATA, 1, *stream, b"\0\0\0\0\0").await;
        }
        assert_eq!(frames.ended(streams).await, 0, "they ended by a reset alone");
    }
    assert!(begin.elapsed() >= call_time * 2, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn there_are_only_so_many_streams_of_other_kinds() {
    let service =
        with(Limits { command_streams: 1, streams: 1, tails: 1, ..Limits::default() }).await;
    let mut health = HealthClient::new(service.channel.clone());
    let watch = |service: &str| HealthCheckRequest { service: service.to_owned() };
    // Whoever waited for the service to be ready may have watched it until a moment ago.
    let begin = Instant::now();
    let first = loop {
        if let Ok(first) = health.watch(watch("")).await {
            break first;
        }
        assert!(begin.elapsed() < PATIENCE, "there is no place");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut commands = service.commands.clone();
    let second = commands.execute_stream(tokio_stream::pending()).await.unwrap();
    let refused = commands.execute_stream(tokio_stream::pending()).await;
    let status = assert_refused(refused, Code::ResourceExhausted, "TOO_MANY_STREAMS");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    let refused = health.watch(watch("readiness")).await;
    assert_refused(refused, Code::ResourceExhausted, "TOO_MANY_STREAMS");
    // Nothing else needs a place of theirs.
    health.check(watch("liveness")).await.unwrap();
    let _tail = service.tail(from(0)).await.unwrap();
    assert_eq!(service.stats().await.position, 0);
    drop(first);
    let begin = Instant::now();
    while health.watch(watch("")).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "its place is not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(second);
}
