//! The transport: connections, what each may take of the server, and how long it may be silent.
//!
//! It owns sockets and the settings of HTTP/2, and knows nothing of the ledger. tonic makes calls
//! of requests and answers; its own server is not used because it passes on neither how much is
//! kept of what a peer does not take, nor who waits for a first word.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::{body::Incoming, rt::Executor, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::rustls::ServerConfig;
use tonic::{
    body::Body,
    codegen::{Service, http},
};
use tracing::{debug, warn};

use crate::{
    ops::{Presence, config::Limits},
    wire::{Peer, until_taken},
};

mod stream;

use stream::Opened;
pub(super) use stream::PREFACE;

/// How much is kept of what one call has to say and its peer does not take, in bytes, before it has
/// to wait: less than a message of a tail, so that of one that is not read no second is kept.
const SEND_BUFFER_BYTES_MAX: usize = 8 * 1024;
/// How large a frame of HTTP/2 may be that we take, in bytes: the least that there is.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// How many streams of a connection we reset for errors of the peer before we close it (the
/// answer to RUSTSEC-2024-0003).
const LOCAL_RESETS_MAX: usize = 1_024;
/// How many streams of a connection the peer may reset before we have looked at them (the answer
/// to CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// How often an idle connection is asked whether its peer lives.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer may take to answer that.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of what is sent to it. A client reads what comes, however slow
/// its user is: HTTP/2 holds back each call by itself.
const TAKEN_WITHIN: Duration = Duration::from_secs(40);
/// How long a new connection may take to say that it speaks HTTP/2, TLS included.
const OPENED_WITHIN: Duration = Duration::from_secs(5);
/// How long nobody is let in when the system has no means for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// How connections are let in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// What clients may take.
    pub limits: Limits,
    /// What the server proves itself with at the moment; without it nothing is encrypted.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Tells how many connections there are.
    pub open: Presence,
}

/// Serves connections until `stopping` says so, then lets those that are open end their calls.
/// Cut off, it closes them all.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    door: Door,
    mut stopping: watch::Receiver<bool>,
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let http = settings(&door.limits);
    let places = Places::new(&door.limits);
    let mut connections = JoinSet::new();
    let mut number = 0_u32;
    loop {
        let (stream, address, place) = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => break,
            Some(_) = connections.join_next() => continue,
            next = next(&listener, &places) => next,
        };
        let connection = Connection {
            http: http.clone(),
            service: service.clone(),
            address,
            tls: door.tls.as_ref().map(|tls| Arc::clone(&tls.borrow())),
            age: age(door.limits.connection_age, number),
        };
        // However many there were before.
        number = number.wrapping_add(1);
        let (stopping, present) = (stopping.clone(), door.open.enter());
        connections.spawn(async move {
            let (_place, _present) = (place, present);
            if let Err(error) = connection.run(stream, stopping).await {
                debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// How old a connection may get. They differ by up to a tenth, so that those that were opened
/// together are not opened again together.
fn age(most: Duration, number: u32) -> Option<Duration> {
    const SHARES: u32 = 16;
    let share = most.checked_div(SHARES.saturating_mul(10))?;
    let less = share.saturating_mul(number.checked_rem(SHARES)?);
    (most > Duration::ZERO).then(|| most.saturating_sub(less))
}

/// Runs each call as a task, for as long as its answer may wait to be taken.
#[derive(Clone, Copy, Debug)]
struct Tasks;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, call: F) {
        tokio::spawn(until_taken(call));
    }
}

fn settings(limits: &Limits) -> http2::Builder<Tasks> {
    let mut http = http2::Builder::new(Tasks);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(limits.header_bytes)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // Nobody reads the date of a call.
        .auto_date_header(false);
    http
}

/// The places of connections.
struct Places {
    all: Arc<Semaphore>,
    per_address: usize,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The place of a connection, until it is dropped.
struct Place {
    _of_all: OwnedSemaphorePermit,
    address: IpAddr,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Places {
    fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            per_address: limits.connections_per_address,
            addresses: Arc::default(),
        }
    }

    /// A place at an address, if it has not too many.
    fn take(&self, of_all: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let mut addresses = lock(&self.addresses);
        let count = addresses.entry(address).or_default();
        *count = count.saturating_add(1);
        let fits = *count <= self.per_address;
        drop(addresses);
        let addresses = Arc::clone(&self.addresses);
        let place = Place { _of_all: of_all, address, addresses };
        fits.then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = lock(&self.addresses);
        if let Entry::Occupied(mut count) = addresses.entry(self.address) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Nothing can panic while it is locked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next connection, and its place.
async fn next(listener: &TcpListener, places: &Places) -> (TcpStream, SocketAddr, Place) {
    loop {
        let Ok(of_all) = Arc::clone(&places.all).acquire_owned().await else {
            unreachable!("places are never closed")
        };
        let (stream, address) = accept(listener).await;
        if let Some(place) = places.take(of_all, address.ip()) {
            return (stream, address, place);
        }
        debug!(%address, "it has as many connections as one address may have");
    }
}

/// What holds for every connection: nothing waits for more to be sent with it, and nothing is sent
/// for ever to a peer that takes none of it.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(TAKEN_WITHIN))
}

/// The next connection of a listener.
pub(super) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
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

/// What serves one connection.
struct Connection<S> {
    http: http2::Builder<Tasks>,
    service: S,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    age: Option<Duration>,
}

impl<S> Connection<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Serves it to its end.
    async fn run(
        self,
        stream: TcpStream,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        prepare(&stream)?;
        let opened = tokio::select! {
            opened = timeout(OPENED_WITHIN, Opened::accept(stream, self.tls)) => opened??,
            _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
        };
        let peer = Peer::new(self.address, opened.certificate());
        let calls = Calls { service: self.service, peer };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(opened), calls));
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = grown_old(self.age) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }
}

/// Waits until a connection is as old as it may get.
async fn grown_old(age: Option<Duration>) {
    match age {
        Some(age) => sleep(age).await,
        None => pending().await,
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
