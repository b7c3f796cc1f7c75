//! The composition root: joins all rooms to a running service, and takes it apart again.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{service::Routes, transport::server::TcpIncoming};
use tracing::{info, warn};

use crate::{
    event_store::StoreStatus,
    log::file::OpenError,
    ops::{Clock, SystemClock, config::Config, notify},
    proto::{
        FILE_DESCRIPTOR_SET, command_service_server::CommandServiceServer,
        query_service_server::QueryServiceServer,
    },
    wire::{Commands, Desk, Front, MESSAGE_BYTES_MAX, Queries},
};

mod checkpointer;
mod health;
mod ledger;
pub(crate) mod recovery;
mod scrubber;

use ledger::Ledger;

/// How many calls one connection may have open at once. What a client begins beyond that waits at
/// the client and costs the server nothing, while turning a call away costs it half as much as
/// carrying it out; but one connection can still fill a group.
pub const CONNECTION_STREAMS_MAX: u32 = 256;
/// How large the header of a call may be, in bytes.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
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

/// Why the service could not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The log could not be opened.
    #[error("the log cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// The data directory cannot be used.
    #[error("the data directory cannot be used: {0}")]
    Directory(#[source] io::Error),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The reflection service could not be made from the descriptor set.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A defect of ours ended a part of the service.
    #[error("{0} panicked")]
    Panicked(&'static str),
    /// The log failed while the service ran; commands that were not answered may be lost.
    #[error("the log has failed")]
    Latched,
}

/// Serves until `shutdown` is done, then drains: health says so, and after the configured delay
/// streams end, no new calls are taken, what is on its way is answered within the configured grace,
/// everything is synced, the log closed.
///
/// Calls are taken while the ledger is being recovered, and answered UNAVAILABLE.
///
/// # Errors
/// [`ServeError`] when the service cannot start, or had failed when it was shut down.
pub async fn serve(
    config: &Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (stop, stopping) = watch::channel(false);
    let commands = Commands::default();
    let queries = Queries::new(Arc::clone(&clock), stopping.clone());
    let (health, health_service) = health::start(stopping.clone()).await;

    info!(address = %listener.local_addr()?, "listening");
    let others = Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let front = Front::new(
        CommandServiceServer::new(commands.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        QueryServiceServer::new(queries.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        others,
        commands.desk.clone(),
    );
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut until = stopping;
    let transport = transport().serve_with_incoming_shutdown(front, incoming, async move {
        let _the_sender_lives_longer = until.wait_for(|stopping| *stopping).await;
    });
    let mut transport = tokio::spawn(transport);

    let settings = config.clone();
    let ledger = tokio::task::spawn_blocking(move || Ledger::recover(&settings, clock)).await;
    let running = ledger.map_err(|_| ServeError::Panicked("recovery"))??.start()?;
    commands.desk.set(Desk::new(running.store().clone(), Arc::clone(running.reads())));
    queries.reads.set(Arc::clone(running.reads()));
    let status = running.store().status();
    let announcer = tokio::spawn(health::follow(health.clone(), status.clone()));
    info!(position = running.position(), "serving");
    notify::ready();

    let transport_ended = tokio::select! {
        () = shutdown => false,
        _ = &mut transport => true,
    };
    info!("draining");
    notify::stopping();
    announcer.abort();
    health::drain(&health).await;
    if !transport_ended {
        sleep(config.drain_delay).await;
    }
    stop.send_replace(true);
    if !transport_ended && timeout(config.drain_grace, &mut transport).await.is_err() {
        warn!("the grace is over: calls that were still open are cut");
        transport.abort();
    }
    tokio::task::spawn_blocking(|| running.stop())
        .await
        .map_err(|_| ServeError::Panicked("stopping"))?;
    // Only now: closing the log may have failed as well.
    let latched = *status.borrow() == StoreStatus::Latched;
    info!("stopped");
    match (latched, transport_ended) {
        (true, _) => Err(ServeError::Latched),
        (false, true) => Err(ServeError::Panicked("the transport")),
        (false, false) => Ok(()),
    }
}

/// A transport with our limits, and without services. Public so that its own cost can be measured.
#[must_use]
pub fn transport() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Reflection of the protocol, of health, and of the error details, so that generic clients can
/// show them.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
