//! The operations listener: what scrapers and probes are told, and what nobody is.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    time::{Duration, Instant},
};

use daybook::{
    ops::{Clock as _, SystemClock, config::Config},
    proto::{self, SliceCodec, query_service_client::QueryServiceClient},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::{
    Code, Request, Status,
    body::Body,
    client::Grpc,
    codegen::{Body as _, Service as _, http},
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient},
};

use crate::service::{
    Client, InBatch as _, Service, at_once, batch_of, close, deposit, fresh_id, from, get, open,
    transfer, withdraw,
};

/// How long anything here may take at most.
const WITHIN: Duration = Duration::from_secs(30);
const COMMANDS: &str = "daybook.v1.CommandService";
const QUERIES: &str = "daybook.v1.QueryService";

/// A server with an operations listener; a stop takes calls for a while before it drains.
async fn in_memory(drain_delay: Duration) -> Service {
    Service::start(Config { ephemeral: true, drain_delay, ..config() }, None).await
}

async fn on_disk() -> Service {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let config = Config { data_dir, checkpoint_events: 256, ..config() };
    Service::start(config, Some(directory)).await
}

fn config() -> Config {
    let operations_listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    Config { operations_listen, ..Config::default() }
}

/// Says something to a listener, and hears all that it answers until it closes the connection.
async fn exchange(address: SocketAddr, said: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut heard = Vec::new();
    let read = timeout(WITHIN, stream.read_to_end(&mut heard)).await;
    let _it_may_be_reset = read.expect("the connection is closed in time");
    String::from_utf8(heard).unwrap()
}

async fn get_with(address: SocketAddr, headers: &str) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
    exchange(address, request.as_bytes()).await
}

/// The samples of a scrape, by name and labels as they are written.
#[derive(Debug)]
pub(crate) struct Scrape(BTreeMap<String, String>);

impl Scrape {
    async fn of(service: &Service) -> Self {
        Self::at(service.operations()).await
    }

    /// Of a server that is scraped at this address.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let answer = get_with(address, "").await;
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let samples = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Self(samples.collect())
    }

    pub(crate) fn find(&self, name: &str) -> Option<u64> {
        // Where a float is told, it is a whole number.
        let value = self.0.get(name)?;
        Some(value.strip_suffix(".0").unwrap_or(value).parse().unwrap())
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.0))
    }

    /// A time that is told.
    pub(crate) fn seconds(&self, name: &str) -> Duration {
        let value = self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.0));
        Duration::from_secs_f64(value.parse().unwrap())
    }

    /// How many calls of a method ended with a code.
    fn handled(&self, kind: &str, service: &str, method: &str, code: &str) -> Option<u64> {
        let labels = format!(
            "grpc_type=\"{kind}\",grpc_service=\"{service}\",grpc_method=\"{method}\",\
             grpc_code=\"{code}\""
        );
        let total = self.find(&format!("grpc_server_handled_total{{{labels}}}"));
        let count = self.find(&format!("grpc_server_handling_seconds_count{{{labels}}}"));
        assert_eq!(total, count, "{labels}");
        total
    }

    fn open(&self, kind: &str, service: &str, method: &str) -> u64 {
        self.get(&format!(
            "daybook_calls_open{{grpc_type=\"{kind}\",grpc_service=\"{service}\",\
             grpc_method=\"{method}\"}}"
        ))
    }

    fn refused(&self, reason: &str) -> u64 {
        self.get(&format!("daybook_refusals_total{{reason=\"{reason}\"}}"))
    }
}

async fn health(address: SocketAddr) -> HealthClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    HealthClient::new(endpoint.connect().await.unwrap())
}

async fn check(health: &mut HealthClient<Channel>, service: &str) -> i32 {
    let request = HealthCheckRequest { service: service.to_owned() };
    health.check(request).await.unwrap().into_inner().status
}

/// Intent: a scrape during load disturbs nothing, and after it every call that was made is counted
/// once, under its method and its code.
#[tokio::test]
async fn every_call_is_counted_once() {
    let service = in_memory(Duration::ZERO).await;
    let account = service.opened(1_000).await;
    let other = service.opened(0).await;
    let work = at_once(8, |worker| {
        let (client, account, other) = (Client::clone(&service), account.clone(), other.clone());
        async move {
            for step in 0..25 {
                client.call(deposit(&account, 1)).await.unwrap();
                if step == worker {
                    let refused = client.call(withdraw(&account, 1_000_000)).await.unwrap_err();
                    assert_eq!(refused.code(), Code::FailedPrecondition);
                }
                client.call(transfer(&account, &other, 1)).await.unwrap();
                client.call(get(&account)).await.unwrap();
            }
        }
    });
    let scrapes = async {
        for _ in 0..20 {
            Scrape::of(&service).await;
        }
    };
    tokio::join!(work, scrapes);
    service.call(get(&fresh_id())).await.unwrap_err();

    let scrape = Scrape::of(&service).await;
    let handled = |service, method, code| scrape.handled("unary", service, method, code);
    assert_eq!(handled(COMMANDS, "OpenAccount", "OK"), Some(2));
    assert_eq!(handled(COMMANDS, "DepositMoney", "OK"), Some(200));
    assert_eq!(handled(COMMANDS, "TransferMoney", "OK"), Some(200));
    assert_eq!(handled(COMMANDS, "WithdrawMoney", "FailedPrecondition"), Some(8));
    assert_eq!(handled(COMMANDS, "WithdrawMoney", "OK"), None);
    assert_eq!(handled(QUERIES, "GetAccount", "OK"), Some(200));
    assert_eq!(handled(QUERIES, "GetAccount", "NotFound"), Some(1));
    assert_eq!(scrape.open("unary", COMMANDS, "DepositMoney"), 0);
    assert_eq!(scrape.refused("INSUFFICIENT_FUNDS"), 8);
    assert_eq!(scrape.refused("ACCOUNT_NOT_FOUND"), 1);
    // Refused commands go through a group as well.
    assert_eq!(scrape.get("daybook_group_commands_sum"), 2 + 200 + 200 + 8);
    let position = service.stats().await.position;
    for name in ["daybook_log_position", "daybook_decided_position", "daybook_views_position"] {
        assert_eq!(scrape.get(name), u64::try_from(position).unwrap(), "{name}");
    }
    for (name, value) in [
        ("daybook_commands_waiting", 0),
        ("daybook_views_lag_events", 0),
        ("daybook_connections_open", 1),
        ("daybook_draining", 0),
        ("daybook_state{state=\"serving\"}", 1),
        ("daybook_state{state=\"latched\"}", 0),
        ("daybook_accounts{state=\"open\"}", 2),
        ("daybook_sagas{state=\"completed\"}", 200),
    ] {
        assert_eq!(scrape.get(name), value, "{name}");
    }
}

/// Intent: commands of a batch that are refused count by their reason, though the call is fine.
#[tokio::test]
async fn refused_commands_of_batches_are_counted() {
    let service = in_memory(Duration::ZERO).await;
    let account = service.opened(5).await;
    let batch = batch_of(vec![
        deposit(&account, 1).in_batch(),
        withdraw(&account, 7).in_batch(),
        withdraw(&account, -7).in_batch(),
        withdraw(&fresh_id(), 7).in_batch(),
        close(&account).in_batch(),
    ]);
    assert_eq!(service.call(batch).await.unwrap().failures.len(), 4);
    let scrape = Scrape::of(&service).await;
    assert_eq!(scrape.handled("unary", COMMANDS, "ExecuteBatch", "OK"), Some(1));
    for reason in ["INSUFFICIENT_FUNDS", "INVALID_FIELDS", "ACCOUNT_NOT_FOUND", "BALANCE_NOT_ZERO"]
    {
        assert_eq!(scrape.refused(reason), 1, "{reason}");
    }
    assert_eq!(scrape.refused("OTHER"), 0);
    // That with the wrong amount was no command.
    assert_eq!(scrape.get("daybook_group_commands_sum"), 5);
}

/// Intent: a stream is open until it ends, and counts under the code that it ends with; a call
/// whose caller leaves counts as canceled, and one that no service has under no name of its own.
#[tokio::test]
async fn streams_and_strange_calls_are_counted() {
    let service = in_memory(Duration::ZERO).await;
    service.opened(1).await;
    let tail = service.tail(from(0)).await.unwrap();
    let too_far = service.tail(from(7)).await.unwrap_err();
    assert_eq!(too_far.code(), Code::OutOfRange);
    let scrape = Scrape::of(&service).await;
    assert_eq!(scrape.open("server_stream", QUERIES, "TailEvents"), 1);
    assert_eq!(scrape.handled("server_stream", QUERIES, "TailEvents", "OutOfRange"), Some(1));
    assert_eq!(scrape.refused("BEYOND_HEAD"), 1);
    drop(tail);

    // What ends a stream is told in its trailers.
    let mut request = Request::new(from(0));
    request.set_timeout(Duration::from_millis(150));
    let mut ends = service.queries.clone().tail_events(request).await.unwrap().into_inner();
    while let Ok(Some(_)) = ends.message().await {}

    for name in ["/daybook.v1.QueryService/Nothing", "/nobody.v1.Nothing/Knows"] {
        let mut strange = Grpc::new(Client::clone(&service).channel);
        strange.ready().await.unwrap();
        let codec = SliceCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let path = name.parse().unwrap();
        let request = Request::new(HealthCheckRequest::default());
        let refused = strange.unary(request, path, codec).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
    let scrape =
        eventually(&service, |scrape| scrape.open("server_stream", QUERIES, "TailEvents") == 0)
            .await;
    let tails = |code| scrape.handled("server_stream", QUERIES, "TailEvents", code);
    assert_eq!(tails("Canceled"), Some(1));
    assert_eq!(tails("DeadlineExceeded"), Some(1));
    assert_eq!(scrape.refused("DEADLINE_EXCEEDED"), 1);
    assert_eq!(scrape.handled("unary", "other", "other", "Unimplemented"), Some(2));
    assert!(!scrape.0.keys().any(|name| name.contains("Nothing")), "{:#?}", scrape.0);
}

async fn eventually(service: &Service, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
    let begun = Instant::now();
    loop {
        let scrape = Scrape::of(service).await;
        if is_so(&scrape) {
            return scrape;
        }
        assert!(begun.elapsed() < WITHIN, "{:#?}", scrape.0);
        sleep(Duration::from_millis(20)).await;
    }
}

/// Intent: a log on disk tells of its files, its disk, its checkpoints and its verification.
#[tokio::test]
async fn a_log_on_disk_tells_of_its_disk() {
    let mut service = on_disk().await;
    let account = service.opened(0).await;
    let deposits = (0..2_000).map(|_| deposit(&account, 1).in_batch()).collect();
    service.carry_out(deposits).await;
    let scrape = eventually(&service, |scrape| scrape.get("daybook_checkpoints_total") >= 1).await;
    assert!(scrape.get("daybook_checkpoint_position") > 1_000);
    assert!(scrape.get("daybook_checkpoint_timestamp_seconds") > 1_577_836_800);
    assert_eq!(scrape.get("daybook_log_segments"), 1);
    assert!(scrape.get("daybook_log_bytes") > 20_000);
    assert!(scrape.get("daybook_disk_free_bytes") > 0);
    assert!(scrape.get("daybook_log_append_seconds_count") >= 2);
    assert_ne!(scrape.0["daybook_log_append_seconds_sum"], "0.0");
    assert_eq!(scrape.get("daybook_scrub_failing"), 0);
    let caught_up = "daybook_scrub_caught_up_timestamp_seconds";
    eventually(&service, |scrape| scrape.find(caught_up).is_some()).await;

    service.restart_damaged().await;
    let scrape = Scrape::of(&service).await;
    assert_eq!(scrape.get("daybook_state{state=\"damaged\"}"), 1);
    assert_eq!(scrape.get("daybook_state{state=\"serving\"}"), 0);
}

/// Intent: who has to know how late a repeat may come is told since when request ids are known.
#[tokio::test]
async fn since_when_request_ids_are_remembered_is_told() {
    const SINCE: &str = "daybook_request_ids_timestamp_seconds";
    let service = Service::with(Config { request_id_window: 1_024, ..config() }).await;
    let account = service.opened(0).await;
    let find = async || Scrape::of(&service).await.find(SINCE);
    assert_eq!(find().await, None, "all are remembered");
    let now = || u64::try_from(SystemClock.now_micros() / 1_000_000).unwrap();
    let mut least = now();
    for _ in 0..2 {
        let deposits = (0..2_000).map(|_| deposit(&account, 1).in_batch()).collect();
        service.carry_out(deposits).await;
        let told = find().await.expect("some are forgotten");
        assert!((least..=now()).contains(&told), "{told}");
        // Those of the next round are younger than all of this one.
        least = now() + 1;
        sleep(Duration::from_millis(1_100)).await;
    }
}

/// Intent: the page is one that scrapers of both kinds read: each family once, with its help and
/// its type before its samples, and nothing beside.
#[tokio::test]
async fn every_family_is_described_once() {
    let service = in_memory(Duration::ZERO).await;
    service.opened(0).await;
    let answer = get_with(service.operations(), "").await;
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let mut families: Vec<String> = Vec::new();
    for line in page.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            let (name, help) = described.split_once(' ').unwrap();
            assert!(!families.contains(&name.to_owned()), "{name} is there twice");
            assert!(help.len() > 5, "{line}");
            families.push(name.to_owned());
            continue;
        }
        let family = families.last().unwrap();
        match line.strip_prefix("# TYPE ") {
            Some(typed) => assert_eq!(typed.split(' ').next().unwrap(), family),
            None => assert!(line.starts_with(family.as_str()), "{line} after {family}"),
        }
    }
    assert!(families.len() > 40, "{families:?}");
    let answer = get_with(service.operations(), "accept: application/openmetrics-text\r\n").await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(answer.ends_with("# EOF\n"), "{answer}");
}

/// Intent: whoever reads the metrics learns nothing of accounts, people and money, whatever calls
/// say.
#[tokio::test]
async fn nothing_that_calls_say_is_in_the_metrics() {
    let service = in_memory(Duration::ZERO).await;
    let client = Client::clone(&service);
    let account = client.call(open("CANARYOWNER", 731_913)).await.unwrap().account_id;
    let mut request = Request::new(proto::DepositMoneyRequest {
        reason: "CANARYREASON".to_owned(),
        request_id: fresh_id(),
        ..deposit(&account, 731_913)
    });
    let request_id = request.get_ref().request_id.clone();
    request.metadata_mut().insert("authorization", "Bearer CANARYTOKEN".parse().unwrap());
    request.metadata_mut().insert("x-request-id", "CANARYID".parse().unwrap());
    client.commands.clone().deposit_money(request).await.unwrap();
    client.call(get("CANARYACCOUNT")).await.unwrap_err();
    client.call(transfer(&account, &fresh_id(), 1)).await.unwrap_err();
    let page = get_with(service.operations(), "").await;
    assert!(page.contains("daybook_accounts{state=\"open\"} 1\n"), "{page}");
    for secret in ["CANARY", "731913", account.as_str(), request_id.as_str(), "127.0.0.1"] {
        assert!(!page.contains(secret), "{secret} is told: {page}");
    }
}

/// Intent: the listener answers for its one page and for health, and turns away everything else
/// quickly, whatever it is.
#[tokio::test]
async fn everything_but_the_page_is_turned_away() {
    let service = in_memory(Duration::ZERO).await;
    let address = service.operations();
    let line = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    };
    let head = exchange(address, line("HEAD", "/metrics").as_bytes()).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (method, path, status) in [
        ("POST", "/metrics", "405 Method Not Allowed"),
        ("DELETE", "/metrics", "405 Method Not Allowed"),
        ("GET", "/", "404 Not Found"),
        ("GET", "/metrics/", "404 Not Found"),
        ("POST", "/grpc.health.v1.Health/Check", "404 Not Found"),
        ("POST", "/daybook.v1.QueryService/GetStats", "404 Not Found"),
    ] {
        let answer = exchange(address, line(method, path).as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{method} {path}: {answer}");
        assert_eq!(answer.contains("allow: GET, HEAD\r\n"), status.starts_with("405"), "{answer}");
    }
    let body = "POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\nabc";
    let answer = exchange(address, body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    let large = format!("GET /metrics HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    let answer = exchange(address, large.as_bytes()).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    for garbage in ["\0\u{1}\u{2}\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX", "\r\n\r\n\r\n GET"] {
        let answer = exchange(address, garbage.as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    // It goes on.
    assert_eq!(Scrape::of(&service).await.get("daybook_accounts{state=\"open\"}"), 0);
}

/// Intent: who says nothing, or never comes to the end of a header, is not waited for.
#[tokio::test]
async fn a_slow_header_is_not_waited_for() {
    let service = in_memory(Duration::ZERO).await;
    let address = service.operations();
    let begun = Instant::now();
    let (slow, silent, begins) = tokio::join!(
        exchange(address, b"GET /metrics HTTP/1.1\r\nhost: a\r\n"),
        exchange(address, b""),
        exchange(address, b"PRI * HTTP/2.0"),
    );
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(20), "{took:?}");
    for answer in [slow, silent, begins] {
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

/// Intent: the page is told over HTTP/2 as well, and what is not there is not there either way.
#[tokio::test]
async fn the_page_is_told_over_http2() {
    let service = in_memory(Duration::ZERO).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", service.operations())).unwrap();
    let mut channel = endpoint.connect().await.unwrap();
    for (method, path, status) in
        [("GET", "/metrics", 200), ("POST", "/metrics", 405), ("GET", "/other", 404)]
    {
        let request = http::Request::builder().method(method).uri(path).body(Body::empty());
        poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let answer = channel.call(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        let mut body = answer.into_body();
        let mut page = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            page.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.contains("\ndaybook_draining 0\n"), status == 200, "{page}");
    }
}

/// Intent: none of the ledger's services is behind the listener that asks nobody who they are.
#[tokio::test]
async fn the_ledger_is_not_behind_the_operations_listener() {
    let service = in_memory(Duration::ZERO).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", service.operations())).unwrap();
    let mut queries = QueryServiceClient::new(endpoint.connect().await.unwrap());
    let refused: Status = queries.get_stats(proto::GetStatsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    assert_eq!(check(&mut health(service.operations()).await, "readiness").await, 1);
}

/// Intent: while the server drains, probes learn by the operations listener that it should get no
/// calls and is alive, until the very end.
#[tokio::test]
async fn probes_are_answered_while_the_server_drains() {
    let mut service = in_memory(Duration::from_secs(2)).await;
    let address = service.operations();
    let mut probes = health(address).await;
    let (serving, not_serving) = (ServingStatus::Serving as i32, ServingStatus::NotServing as i32);
    assert_eq!(check(&mut probes, "readiness").await, serving);
    let asks = async {
        let begun = Instant::now();
        while check(&mut probes, "readiness").await == serving {
            assert!(begun.elapsed() < WITHIN);
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(check(&mut probes, "readiness").await, not_serving);
        assert_eq!(check(&mut probes, "").await, not_serving);
        assert_eq!(check(&mut probes, "liveness").await, serving);
        let page = get_with(address, "").await;
        assert!(page.contains("daybook_draining 1\n"), "{page}");
    };
    tokio::join!(service.stop(), asks);
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");
}
