//! The composition root: joins all rooms to a running service, and takes it apart again.

use std::{future::pending, io, pin::pin, sync::Arc};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tonic::service::Routes;
use tonic_health::{
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};
use tracing::{info, warn};

use crate::{
    access::{Gate, LoadError},
    event_store::StoreStatus,
    log::file::OpenError,
    ops::{
        Clock, SystemClock,
        config::{Config, Limits},
        notify,
        traces::TracesError,
    },
    proto::{FILE_DESCRIPTOR_SET, command_service_server::CommandServiceServer},
    wire::{
        Commands, Desk, Elsewhere, Entrance, Front, MESSAGE_BYTES_MAX, Metered, Queries, Whose,
    },
};

mod checkpointer;
mod health;
mod ledger;
mod metrics;
mod observed;
mod operations;
mod place;
pub(crate) mod recovery;
mod remembered;
mod resume;
mod scrubber;
pub mod shared;
mod standby;
pub mod tls;
pub mod transport;

use ledger::Ledger;
use metrics::Metrics;
use observed::Observed;
use shared::Around;
use tls::TlsError;
use transport::Door;

/// Where the server is reached.
#[derive(Debug)]
pub struct Listeners {
    /// Where calls come in.
    pub calls: TcpListener,
    /// Where probes and scrapers do, if anywhere.
    pub operations: Option<TcpListener>,
}

/// For calls alone.
impl From<TcpListener> for Listeners {
    fn from(calls: TcpListener) -> Self {
        Self { calls, operations: None }
    }
}

/// Why the service could not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The log could not be opened.
    #[error("the log cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// The data directory cannot be used.
    #[error("the data directory cannot be used: {0}")]
    Directory(#[source] io::Error),
    /// The files of TLS are of no use.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A file that says who may call cannot be used.
    #[error("{0}")]
    Access(#[from] LoadError),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The environment asks for traces that cannot be sent.
    #[error("{0}")]
    Traces(#[from] TracesError),
    /// The reflection service could not be made from the descriptor set.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A defect of ours ended a part of the service.
    #[error("{0} panicked")]
    Panicked(&'static str),
    /// The log failed while the service ran; commands that were not answered may be lost.
    #[error("the log has failed")]
    Latched,
    /// Another process has taken the log over.
    #[error("the log belongs to another process now")]
    Fenced,
    /// The data directory is not where it was.
    #[error(
        "the data directory was moved or removed: what was acknowledged since is where it is now"
    )]
    Moved,
    /// The log in the database could not be opened.
    #[error("{0}")]
    Database(#[from] shared::DatabaseError),
}

/// Serves until `shutdown` is done, then drains: health says so, and after the configured delay
/// streams end, no new calls are taken, what is on its way is answered within the configured grace,
/// everything is synced, the log closed. Probes and scrapers are answered until then.
///
/// Calls are taken while the ledger is being recovered, and answered UNAVAILABLE. When it is shut
/// down meanwhile it returns at once; the recovery itself ends with the process.
///
/// # Errors
/// [`ServeError`] when the service cannot start, or had failed when it was shut down.
pub async fn serve(
    config: &Config,
    listeners: impl Into<Listeners>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Listeners { calls, operations } = listeners.into();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (stop, stopping) = watch::channel(false);
    let (health, service) = health::start(stopping).await;
    let observed = Observed::start(config, clock.now_micros(), operations, service.clone())?;
    let metrics = &observed.metrics;
    let served = serve_calls(config, clock, calls, (health, service), metrics, stop, shutdown);
    let served = served.await;
    // However it has ended: nobody else sends what is left, and probes are told until here.
    observed.stop().await;
    served
}

/// All that is done for callers.
async fn serve_calls<H: Health>(
    config: &Config,
    clock: Arc<dyn Clock>,
    calls: TcpListener,
    (health, health_service): (HealthReporter, HealthServer<H>),
    metrics: &Metrics,
    stop: watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let gate = Gate::load(config, Arc::clone(&clock))?;
    let (limits, stopping) = (&config.limits, stop.subscribe());
    let commands = Commands::new(limits.clone(), stopping.clone());
    let queries = Queries::new(limits, Arc::clone(&clock), stopping.clone());

    let listens = calls.local_addr()?;
    info!(address = %listens, "listening");
    let others = Routes::new(health_service);
    let others = if config.reflection { add_reflection(others)? } else { others };
    let (owner, owners) = watch::channel(Whose::default());
    let nearby = queries.beside();
    let elsewhere =
        shared::elsewhere(config, owners.clone(), stop.subscribe(), nearby.clone(), &metrics.role)?;
    let entrance = Entrance::new(gate.clone());
    let front = front(entrance, &commands, &queries, others, elsewhere, limits);
    let front = Metered::new(front, metrics.meter.clone());
    let tls = config.tls.as_ref().map(tls::follow).transpose()?;
    let door = Door { limits: limits.clone(), tls, open: metrics.connections.clone() };
    let mut transport = tokio::spawn(transport::serve(calls, front, door, stopping));
    // Ends with this function, however that ends.
    let _watch: JoinSet<()> = gate.into_iter().map(Gate::watch).collect();

    let settings = config.clone();
    let (stopping, role) = (stop.subscribe(), Arc::clone(&metrics.role));
    let (reads, call_time) = (nearby.reads.clone(), limits.call_time);
    let around = Around { listens, owner, reads, call_time, stopping, role };
    let recovery = tokio::task::spawn_blocking(move || Ledger::recover(&settings, clock, &around));
    let follow_owner = health::follow_owner(health.clone(), owners.clone(), nearby.reads.clone());
    let standing_by = tokio::spawn(follow_owner);
    let mut shutdown = pin!(shutdown);
    let ledger = tokio::select! {
        ledger = recovery => ledger.map_err(|_| ServeError::Panicked("recovery"))??,
        () = &mut shutdown => {
            standing_by.abort();
            // A start may end at any moment: nothing was taken in, and nothing has to be written.
            // Who passes calls on, or answers by itself, lets them end.
            if matches!(*owners.borrow(), Whose::Other(_)) || nearby.reads.is_there() {
                drain(config, &health, metrics, &stop, &mut transport).await;
            }
            notify::stopping();
            stop.send_replace(true);
            transport.abort();
            info!("stopped before the ledger was recovered");
            return Ok(());
        }
    };
    standing_by.abort();
    let running = ledger.start(config.limits.call_time)?;
    // Where commands are taken, reads are not answered from what stood by any more.
    queries.reads.set(Arc::clone(running.reads()));
    commands.desk.set(Desk::new(running.store().clone(), Arc::clone(running.reads())));
    metrics.recovered(running.sources());
    let status = running.store().status();
    let announcer = tokio::spawn(health::follow(health.clone(), status.clone(), running.views()));
    running.tell_serving(config);
    notify::ready();

    let (transport_ended, was_moved) = tokio::select! {
        () = &mut shutdown => (false, false),
        was_moved = useless(status.clone(), config) => (false, was_moved),
        _ = &mut transport => (true, false),
    };
    announcer.abort();
    if transport_ended {
        health::drain(&health).await;
        stop.send_replace(true);
    } else {
        drain(config, &health, metrics, &stop, &mut transport).await;
    }
    tokio::task::spawn_blocking(|| running.stop())
        .await
        .map_err(|_| ServeError::Panicked("stopping"))?;
    // Only now: closing the log may have failed as well.
    let last = *status.borrow();
    info!("stopped");
    if was_moved { Err(ServeError::Moved) } else { ended(last, transport_ended) }
}

/// Lets nobody begin any more, and everybody end.
async fn drain(
    config: &Config,
    health: &HealthReporter,
    metrics: &Metrics,
    stop: &watch::Sender<bool>,
    transport: &mut JoinHandle<()>,
) {
    info!("draining");
    metrics.draining.set(1);
    metrics.role.leave();
    notify::stopping();
    health::drain(health).await;
    sleep(config.drain_delay).await;
    stop.send_replace(true);
    if timeout(config.drain_grace, &mut *transport).await.is_err() {
        warn!("the grace is over: calls that were still open are cut");
        transport.abort();
    }
}

/// How it went.
fn ended(last: StoreStatus, transport_ended: bool) -> Result<(), ServeError> {
    if last == StoreStatus::Latched {
        Err(ServeError::Latched)
    } else if last == StoreStatus::Fenced {
        Err(ServeError::Fenced)
    } else if transport_ended {
        Err(ServeError::Panicked("the transport"))
    } else {
        Ok(())
    }
}

/// Ends when this process is of no use any more. Gives whether the data directory was moved; else
/// another process has taken the log over, or has to: this one appends nothing any more, and nobody
/// else may while it is there.
async fn useless(mut status: watch::Receiver<StoreStatus>, config: &Config) -> bool {
    let is_shared = config.database.is_some();
    let is_useless = |status: &StoreStatus| {
        *status == StoreStatus::Fenced || (is_shared && *status == StoreStatus::Latched)
    };
    let moved = async {
        match config.directory() {
            Some(path) => place::left(path.to_owned()).await,
            None => pending().await,
        }
    };
    let taken_over = async {
        // Of a log that is damaged, or of one's own, nobody tells any more.
        if status.wait_for(is_useless).await.is_err() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        () = taken_over => false,
        () = moved => true,
    }
}

/// Everything that calls go through.
fn front(
    entrance: Entrance,
    commands: &Commands,
    queries: &Queries,
    others: Routes,
    elsewhere: Option<Elsewhere>,
    limits: &Limits,
) -> Front {
    let desk = commands.desk.clone();
    let commands = CommandServiceServer::new(commands.clone())
        .max_decoding_message_size(limits.message_bytes)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Front::new(
        entrance,
        (commands, desk),
        queries.clone().served(limits.message_bytes),
        others,
        elsewhere,
        limits.clone(),
    )
}

/// Adds reflection of the protocol, of health, and of the error details, so that generic clients
/// can show them.
fn add_reflection(others: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    Ok(others.add_service(v1).add_service(v1alpha))
}
