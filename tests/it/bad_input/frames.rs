//! Bytes that are no messages: each gets a clean status, and the server goes on.

use std::{net::SocketAddr, time::Duration};

use daybook::proto::{self, BatchCommand};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{Service as _, http},
};

use super::Untouched;
use crate::service::{Client, InBatch as _, Random, batch_of, deposit, from, open, reason};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Every rpc whose request is one message.
const METHODS: [&str; 14] = [
    "CommandService/OpenAccount",
    "CommandService/DepositMoney",
    "CommandService/WithdrawMoney",
    "CommandService/TransferMoney",
    "CommandService/CloseAccount",
    "CommandService/ExecuteBatch",
    "QueryService/GetAccount",
    "QueryService/ListAccounts",
    "QueryService/ListAccountEvents",
    "QueryService/ListTransactions",
    "QueryService/GetSaga",
    "QueryService/ListSagas",
    "QueryService/GetStats",
    "QueryService/TailEvents",
];

/// Sends bytes as they are, and keeps none of what comes back.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use prost::bytes::Buf as _;
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

/// Calls a method with these bytes as its request.
async fn call(client: &Client, method: &str, bytes: Vec<u8>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("/daybook.v1.{method}").parse().unwrap();
    let request = Request::new(bytes);
    if method.ends_with("TailEvents") {
        grpc.server_streaming(request, path, Raw).await.map(|_| ())
    } else {
        grpc.unary(request, path, Raw).await.map(|_| ())
    }
}

/// A status that tells nothing of our insides.
fn assert_clean(status: &Status, what: &str) {
    let refused = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::ResourceExhausted,
        Code::Unimplemented,
        // What gRPC prescribes for a request that is no message of its type.
        Code::Internal,
    ];
    assert!(refused.contains(&status.code()), "{what}: {status:?}");
    reason(status);
    for inside in ["src/", ".rs", "panick", "unwrap", "thread", "Protobuf", "varint", "wire type"] {
        assert!(!status.message().contains(inside), "{what}: {status:?}");
    }
}

#[tokio::test]
async fn messages_that_were_cut_are_refused() {
    // Every beginning of a good request that is not the whole of it, field by field.
    let untouched = Untouched::new().await;
    let id = &untouched.id;
    let request = proto::DepositMoneyRequest { reason: "cut".to_owned(), ..deposit(id, 1) };
    let whole = request.encode_to_vec();
    let batch = batch_of(vec![request.in_batch()]).encode_to_vec();
    for (method, bytes) in
        [("CommandService/DepositMoney", whole), ("CommandService/ExecuteBatch", batch)]
    {
        // The last field is the reason: a request that ends before it is whole without it.
        let reason_bytes = 2 + "cut".len();
        let cuts = (1..bytes.len()).filter(|cut| *cut != bytes.len() - reason_bytes);
        for cut in cuts {
            let status = call(&untouched.service, method, bytes[..cut].to_vec()).await;
            assert_clean(&status.unwrap_err(), &format!("{method} cut at {cut}"));
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn random_bytes_are_refused_by_every_method() {
    // Bytes of every length up to 64, the same for every method, and texts that are not UTF-8.
    const SEED: u64 = 20_260_102;
    let untouched = Untouched::new().await;
    let mut random = Random::seeded(SEED);
    for round in 0..64 {
        // A first byte that begins no field of ours: so that no message comes out by chance.
        let mut bytes = vec![0xff];
        bytes.extend((0..round).map(|_| random.next().to_le_bytes()[0]));
        for method in METHODS {
            let status = call(&untouched.service, method, bytes.clone()).await.unwrap_err();
            assert_clean(&status, method);
        }
    }
    for method in METHODS.into_iter().filter(|method| !method.ends_with("TailEvents")) {
        let not_utf8 = vec![0x0a, 0x02, 0xc3, 0x28];
        // Some requests have no text in field 1, and skip what is of another type or unknown.
        if let Err(status) = call(&untouched.service, method, not_utf8).await {
            assert_clean(&status, method);
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn deeply_nested_messages_are_refused() {
    // Unknown groups within groups: a decoder that follows them has its own limit.
    let untouched = Untouched::new().await;
    let nested = [0xa3_u8, 0x06].repeat(100_000);
    let status = call(&untouched.service, "QueryService/GetStats", nested).await.unwrap_err();
    assert_clean(&status, "groups");
    untouched.finish().await;
}

#[tokio::test]
async fn methods_that_are_not_there_are_unimplemented() {
    // Also such as would be served by another service.
    let untouched = Untouched::new().await;
    for method in ["CommandService/GetAccount", "CommandService/", "Nothing/OpenAccount"] {
        let status = call(&untouched.service, method, Vec::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{method}");
    }
    untouched.finish().await;
}

/// Calls a method with a body that is not framed for us.
async fn call_unframed(client: &Client, method: &str, body: String) -> Option<Status> {
    let mut channel = client.channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let request = http::Request::post(format!("http://daybook/daybook.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap();
    let response = channel.call(request).await.unwrap();
    Status::from_header_map(response.headers())
}

#[tokio::test]
async fn frames_with_a_wrong_length_are_refused() {
    // The length says more than there is, or far more than is allowed; or there is no frame.
    let untouched = Untouched::new().await;
    let frames = [
        "\0\0\0\0\u{5}abc",
        "\0\0\0\0",
        "\0\u{7f}\u{7f}\u{7f}\u{7f}abc",
        "\u{1}\0\0\0\u{3}abc",
        "\u{2}\0\0\0\0",
        "\u{7f}\0\0\0\0",
        "",
    ];
    for frame in frames {
        for method in METHODS {
            let status = call_unframed(&untouched.service, method, frame.to_owned()).await;
            let status = status.unwrap_or_else(|| panic!("{method} took {frame:?}"));
            assert_clean(&status, &format!("{method} {frame:?}"));
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn connections_that_do_not_speak_http2_are_closed() {
    // Each ends, and none of them hinders others.
    const SEED: u64 = 20_260_103;
    let untouched = Untouched::new().await;
    let mut random = Random::seeded(SEED);
    let noise: Vec<u8> = (0..4_096).map(|_| random.next().to_le_bytes()[0]).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let after_preface: Vec<u8> = preface.iter().copied().chain([0xff; 64]).collect();
    for bytes in [noise, after_preface, b"GET / HTTP/1.0\r\n\r\n".to_vec(), Vec::new()] {
        let mut stream = TcpStream::connect(untouched.service.address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _closed = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 1_024);
    }
    untouched.finish().await;
}

/// Says these pieces one after another, and gives all that is answered, to an end in order.
async fn exchange(address: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("it is closed").expect("and not reset");
    answer
}

#[tokio::test]
async fn a_client_of_http_1_is_told_so() {
    // At once, and to the end, also if it says more than is read, or its first words in pieces.
    let untouched = Untouched::new().await;
    let address = untouched.service.address();
    let long = [b"POST /upload HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), vec![7; 30_000]].concat();
    for pieces in [
        &[&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..]][..],
        &[b"P", b"U", b"T /a HTTP/1.1\r\nhost: a\r\n\r\n"],
        &[&long],
    ] {
        let answer = exchange(address, pieces).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 505 "), "{head}");
        assert!(head.ends_with("connection: close"), "{head}");
        assert_eq!(body, "This port speaks gRPC, which needs HTTP/2.\r\n");
    }
    // What is nothing of that kind is closed, and told nothing.
    for pieces in [&[&b"EHLO a\r\n"[..]][..], &[b"PRI * HTTP/1.1\r\n"], &[b"GE", b"T? "]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&pieces.concat()).await.unwrap();
        let mut answer = Vec::new();
        let _a_reset_is_an_end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty(), "{answer:?}");
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_broken_message_ends_a_stream_after_what_came_before_it() {
    // What a stream has asked for before the garbage is carried out and answered.
    let untouched = Untouched::new().await;
    let service = &untouched.service;
    let mut tail = service.tail(from(untouched.before.position)).await.unwrap();
    let good: BatchCommand = open("ada", 0).in_batch();
    let good = proto::ExecuteStreamRequest { commands: vec![good], return_results: false };
    let messages = vec![good.encode_to_vec(), good.encode_to_vec(), vec![0xff, 0xff, 0xff]];
    let mut grpc = tonic::client::Grpc::new(service.channel.clone());
    grpc.ready().await.unwrap();
    let path = "/daybook.v1.CommandService/ExecuteStream".parse().unwrap();
    let request = Request::new(tokio_stream::iter(messages));
    let mut answers = grpc.streaming(request, path, Raw).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap(), Some(()));
    assert_eq!(answers.message().await.unwrap(), Some(()));
    assert_clean(&answers.message().await.unwrap_err(), "the third message");
    assert_eq!(service.stats().await.event_count, untouched.before.event_count + 2);
    assert!(!tail.message().await.unwrap().unwrap().events.is_empty());
}
