//! The transport: connections, what each may take of the server, and how long it may be silent.
//!
//! It owns sockets and the settings of HTTP/2, and knows nothing of the ledger. tonic makes calls
//! of requests and answers; its own server is not used because it passes on neither how much is
//! kept of what a peer does not take, nor who waits for a first word.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{
    body::Body,
    codegen::{Service, http},
};
use tracing::{debug, warn};

use crate::wire::Peer;

/// How many connections there may be at once; who comes then waits until one is closed. Each may
/// take a few hundred kilobytes, and one file.
pub const CONNECTIONS_MAX: usize = 1_024;
/// How many calls one connection may have open at once. What a client begins beyond that waits at
/// the client and costs the server nothing, while turning a call away costs it half as much as
/// carrying it out; but one connection can still fill a group.
pub const CONNECTION_STREAMS_MAX: u32 = 256;
/// How much is kept of what one call has to say and its peer does not take, in bytes, before it has
/// to wait: less than a message of a tail, so that of one that is not read no second is kept.
const SEND_BUFFER_BYTES_MAX: usize = 8 * 1024;
/// How large the header of a call may be, in bytes.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How large a frame of HTTP/2 may be that we take, in bytes: the least that there is.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// How many streams of a connection we reset for errors of the peer before we close it (the
/// answer to RUSTSEC-2024-0003).
const LOCAL_RESETS_MAX: usize = 1_024;
/// How many streams of a connection the peer may reset before we have looked at them (the answer
/// to CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// How often an idle connection is asked whether its peer lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of what is sent to it. A client reads what comes, however slow
/// its user is: HTTP/2 holds back each call by itself.
const TAKEN_WITHIN: Duration = Duration::from_secs(40);
/// How long a new connection may take to say that it speaks HTTP/2.
const PREFACE_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const PREFACE_LOOK: Duration = Duration::from_millis(20);
/// What it has to say.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long nobody is let in when the system has no means for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Serves connections until `stopping` says so, then lets those that are open end their calls.
/// Cut off, it closes them all.
pub async fn serve<S>(listener: TcpListener, service: S, mut stopping: watch::Receiver<bool>)
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (http, places) = (settings(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => break,
            Some(_) = connections.join_next() => continue,
            stream = next(&listener, &places) => stream,
        };
        let (stream, address, place) = stream;
        let calls = Calls { service: service.clone(), peer: Peer::new(address, None) };
        let (http, stopping) = (http.clone(), stopping.clone());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = connection(stream, &http, calls, stopping).await {
                debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn settings() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // Nobody reads the date of a call.
        .auto_date_header(false);
    http
}

/// The next connection, and its place.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit) {
    let Ok(place) = Arc::clone(places).acquire_owned().await else {
        unreachable!("places are never closed")
    };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, place),
            Err(error) if is_of_peer(&error) => {}
            Err(error) => {
                // No files or no memory: trying again at once would only keep a processor busy.
                warn!(%error, "no connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether a connection that was not accepted is gone.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Serves one connection to its end.
async fn connection<S>(
    stream: TcpStream,
    http: &http2::Builder<TokioExecutor>,
    calls: Calls<S>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(TAKEN_WITHIN))?;
    tokio::select! {
        speaks = timeout(PREFACE_WITHIN, speaks_http2(&stream)) => {
            if !speaks?? {
                return Err("the peer does not speak HTTP/2".into());
            }
        }
        _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
    }
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), calls));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
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

/// The service, as hyper calls it for one peer.
#[derive(Clone)]
struct Calls<S> {
    service: S,
    peer: Peer,
}

impl<S> hyper::service::Service<http::Request<Incoming>> for Calls<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
{
    type Response = Response;
    type Error = Infallible;
    type Future = S::Future;

    /// The services here are always ready.
    fn call(&self, request: http::Request<Incoming>) -> S::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer.clone());
        self.service.clone().call(request)
    }
}
