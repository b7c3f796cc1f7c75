//! Health: what probes are told, by `grpc.health.v1`.
//!
//! Asked for a service, health says whether it takes calls. The whole server (no name) and
//! `readiness` say the same as the command service; `liveness` says that the process runs, and
//! never depends on the ledger, so that nobody restarts a server for a full disk.

use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

use crate::event_store::StoreStatus;

const COMMAND_SERVICE: &str = "daybook.v1.CommandService";
const QUERY_SERVICE: &str = "daybook.v1.QueryService";
const WHOLE_SERVER: &str = "";
const READINESS: &str = "readiness";
const LIVENESS: &str = "liveness";

/// Begins to tell: alive, and not ready yet.
pub(super) async fn start() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    tell(&reporter, false, false).await;
    (reporter, service)
}

/// Tells what the status of the event store means for calls, as it changes.
pub(super) async fn follow(reporter: HealthReporter, mut status: watch::Receiver<StoreStatus>) {
    loop {
        let serving = *status.borrow_and_update() == StoreStatus::Serving;
        tell(&reporter, serving, true).await;
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Tells that no calls should be sent here any more.
pub(super) async fn drain(reporter: &HealthReporter) {
    tell(reporter, false, false).await;
}

async fn tell(reporter: &HealthReporter, commands: bool, queries: bool) {
    let services = [
        (COMMAND_SERVICE, commands),
        (WHOLE_SERVER, commands),
        (READINESS, commands),
        (QUERY_SERVICE, queries),
    ];
    for (service, serving) in services {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(service, status).await;
    }
}
