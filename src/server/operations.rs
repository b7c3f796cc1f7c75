//! The operations listener: health for probes and metrics for scrapers, over plain HTTP.
//!
//! It is for a network that only they can reach: nobody is asked who they are. It answers before
//! the ledger is recovered and until it is closed, and knows none of its services. Whoever can
//! reach it can learn how busy the ledger is, and can take all of this listener's places, but no
//! place of a caller.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service as _,
        http::{self, HeaderValue, Method, StatusCode, Version, header},
    },
    service::Routes,
};
use tracing::debug;

use super::transport::{self, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PREFACE};
use crate::ops::Exposition;

/// How many connections there may be at once; who comes then waits. Some probes and scrapers have
/// one each.
const CONNECTIONS_MAX: usize = 64;
/// How many requests one connection may have open at once.
const CONNECTION_STREAMS_MAX: u32 = 16;
/// How many scrapes are answered at once. Each reads all figures; more are told to come again.
const SCRAPES_MAX: usize = 2;
/// How large the header of a request may be, in bytes.
const HEADER_BYTES_MAX: u16 = 16 * 1024;
/// How many lines it may have.
const HEADERS_MAX: usize = 64;
/// How long a peer may take for the header of its request, or be silent before it.
const HEADER_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether a peer has said what HTTP/2 begins with.
const PREFACE_LOOK: Duration = Duration::from_millis(20);

const METRICS: &str = "/metrics";
const HEALTH: &str = "/grpc.health.v1.Health/";
/// What the content of a call is, or begins with.
const GRPC: &[u8] = b"application/grpc";

/// What is answered here. Cheap to clone.
#[derive(Clone)]
pub(super) struct Operations(Arc<Answers>);

struct Answers {
    health: Routes,
    /// Gives all metrics as text. May block, on `/proc` and on the disk.
    page: Box<dyn Fn(Exposition) -> String + Send + Sync>,
    scrapes: Arc<Semaphore>,
}

impl Operations {
    pub(super) fn new(
        health: Routes,
        page: impl Fn(Exposition) -> String + Send + Sync + 'static,
    ) -> Self {
        let scrapes = Arc::new(Semaphore::new(SCRAPES_MAX));
        Self(Arc::new(Answers { health, page: Box::new(page), scrapes }))
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Infallible> {
        let path = request.uri().path();
        if path == METRICS {
            return Ok(self.metrics(&request).await);
        }
        if path.starts_with(HEALTH) && request.version() == Version::HTTP_2 {
            return self.0.health.clone().call(request.map(Body::new)).await;
        }
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(GRPC)) {
            return Ok(Status::unimplemented("only grpc.health.v1 is here").into_http());
        }
        Ok(told(StatusCode::NOT_FOUND, "there is only /metrics, and grpc.health.v1 over HTTP/2\n"))
    }

    async fn metrics(self, request: &http::Request<Incoming>) -> http::Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = told(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        let Ok(scrape) = Arc::clone(&self.0.scrapes).try_acquire_owned() else {
            return told(StatusCode::SERVICE_UNAVAILABLE, "other scrapes are under way\n");
        };
        let accepted = request.headers().get(header::ACCEPT).and_then(|it| it.to_str().ok());
        let exposition = Exposition::accepted(accepted.unwrap_or_default());
        let page = tokio::task::spawn_blocking(move || {
            let _scrape = scrape;
            (self.0.page)(exposition)
        });
        match page.await {
            Ok(page) => written(StatusCode::OK, exposition.content_type(), page),
            Err(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "an internal error\n"),
        }
    }
}

fn told(status: StatusCode, text: &str) -> http::Response<Body> {
    written(status, "text/plain; charset=utf-8", text.to_owned())
}

fn written(status: StatusCode, content_type: &'static str, text: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Serves connections until `stopping` says so, then lets those that are open end what they answer.
/// Cut off, it closes them all.
pub(super) async fn serve(
    listener: TcpListener,
    operations: Operations,
    mut stopping: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let (stream, place) = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => break,
            Some(_) = connections.join_next() => continue,
            next = next(&listener, &places) => next,
        };
        let (operations, stopping) = (operations.clone(), stopping.clone());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = connection(stream, operations, stopping).await {
                debug!(%error, "a connection for operations ended");
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The next connection, and its place.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let Ok(place) = Arc::clone(places).acquire_owned().await else {
        unreachable!("places are never closed")
    };
    (transport::accept(listener).await.0, place)
}

/// Waits until the peer has said what a client of HTTP/2 says first; false when it says anything
/// else. Nothing is taken from the stream.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut said = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut said).await?;
        let said = said.get(..length).unwrap_or_default();
        if length == 0 || !PREFACE.starts_with(said) {
            return Ok(false);
        }
        if length == PREFACE.len() {
            return Ok(true);
        }
        sleep(PREFACE_LOOK).await;
    }
}

/// Serves one connection to its end, in the version of HTTP that it begins with.
async fn connection(
    stream: TcpStream,
    operations: Operations,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    transport::prepare(&stream)?;
    let is_http2 = tokio::select! {
        speaks = timeout(HEADER_WITHIN, speaks_http2(&stream)) => speaks??,
        _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
    };
    let service = service_fn(move |request| operations.clone().answer(request));
    if is_http2 {
        let mut connection = pin!(http2().serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
        }
        return Ok(connection.await?);
    }
    let mut connection = pin!(http1().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

fn http1() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .max_buf_size(HEADER_BYTES_MAX.into())
        .max_headers(HEADERS_MAX);
    http
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX.into())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    http
}
