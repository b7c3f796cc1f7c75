//! Health: what probes are told, by `grpc.health.v1`.
//!
//! Asked for a service, health says whether it takes calls. The whole server (no name) and
//! `readiness` say the same as the command service; `liveness` says that the process runs, and
//! never depends on the ledger, so that nobody restarts a server for a full disk.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Request, Response, Status, async_trait};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse, health_check_response,
        health_server::{Health, HealthServer},
    },
    server::{HealthReporter, HealthService},
};

use crate::{event_store::StoreStatus, ops::notify, views::Views, wire};

const COMMAND_SERVICE: &str = "daybook.v1.CommandService";
const QUERY_SERVICE: &str = "daybook.v1.QueryService";
const WHOLE_SERVER: &str = "";
const READINESS: &str = "readiness";
const LIVENESS: &str = "liveness";

/// How large a message may be, in bytes: it only names a service.
const HEALTH_BYTES_MAX: usize = 1024;

/// How often it is looked whether the log was read.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Answers for the reporter. Beside what the library does, it keeps those who watch a name that
/// there is not, as the protocol asks for, and ends all watches when the server stops.
struct Watched {
    health: HealthService,
    stopping: watch::Receiver<bool>,
}

type Statuses = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[async_trait]
impl Health for Watched {
    type WatchStream = Statuses;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.health.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Statuses>, Status> {
        let statuses: Statuses = match self.health.watch(request).await {
            Ok(statuses) => Box::pin(statuses.into_inner()),
            Err(status) if status.code() == Code::NotFound => {
                let status = health_check_response::ServingStatus::ServiceUnknown.into();
                let unknown = stream::iter([Ok(HealthCheckResponse { status })]);
                // No service is added while the server runs.
                Box::pin(unknown.chain(stream::pending()))
            }
            Err(status) => return Err(status),
        };
        Ok(Response::new(until_stopped(statuses, self.stopping.clone())))
    }
}

/// The statuses as they come, the last one included, until the server stops.
fn until_stopped(statuses: Statuses, stopping: watch::Receiver<bool>) -> Statuses {
    Box::pin(stream::unfold(Some((statuses, stopping)), async |open| {
        let (mut statuses, mut stopping) = open?;
        let status = tokio::select! {
            biased;
            status = statuses.next() => status?,
            _ = stopping.wait_for(|stopping| *stopping) => {
                return Some((Err(wire::stopping()), None));
            }
        };
        Some((status, Some((statuses, stopping))))
    }))
}

/// Begins to tell: alive, and not ready yet.
pub(super) async fn start(
    stopping: watch::Receiver<bool>,
) -> (HealthReporter, HealthServer<impl Health>) {
    let reporter = HealthReporter::new();
    let health = HealthService::from_health_reporter(reporter.clone());
    let service = HealthServer::new(Watched { health, stopping });
    // Whoever can connect may ask, and only names a service.
    let service = service.max_decoding_message_size(HEALTH_BYTES_MAX);
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    tell(&reporter, false, false).await;
    (reporter, service)
}

/// Tells what the status of the event store means for calls, as it changes, and that reads end when
/// the views do.
pub(super) async fn follow(
    reporter: HealthReporter,
    mut status: watch::Receiver<StoreStatus>,
    views: Arc<Views>,
) {
    loop {
        let (now, can_be_read) = (*status.borrow_and_update(), !views.has_failed());
        // What is known here may then not be the newest.
        let may_be_old = matches!(now, StoreStatus::Unreachable | StoreStatus::Fenced);
        tell(&reporter, now == StoreStatus::Serving, can_be_read && !may_be_old).await;
        let changed = tokio::select! {
            changed = status.changed() => changed,
            () = views.failed(), if can_be_read => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Tells whether this process stands by: all of the log was read once, and calls can be passed on
/// to the process whose it is. Whoever replaces one server after another waits for that: one that
/// has not read the log cannot take it over.
pub(super) async fn follow_owner<R>(
    reporter: HealthReporter,
    mut owner: watch::Receiver<wire::Whose>,
    reads: wire::Late<R>,
) {
    let mut was_ready = false;
    loop {
        let has_read = reads.is_there();
        let is_ready = has_read && matches!(*owner.borrow_and_update(), wire::Whose::Other(_));
        tell(&reporter, is_ready, is_ready).await;
        if is_ready && !was_ready {
            notify::ready();
        }
        was_ready |= is_ready;
        let changed = if has_read {
            owner.changed().await
        } else {
            timeout(LOOK_AGAIN, owner.changed()).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Fold;

    /// Whether a service takes calls, as far as is told.
    async fn is_serving(health: &HealthService, service: &str) -> bool {
        let service = service.to_owned();
        let answer = health.check(Request::new(HealthCheckRequest { service })).await;
        let serving = i32::from(health_check_response::ServingStatus::Serving);
        answer.is_ok_and(|answer| answer.into_inner().status == serving)
    }

    /// Intent: reads are sent elsewhere when they are all refused here, and commands are not.
    #[tokio::test]
    async fn views_that_have_failed_are_told_of() {
        let reporter = HealthReporter::new();
        let health = HealthService::from_health_reporter(reporter.clone());
        let (_, books) = Fold::new(1_024).finish([7; 16]);
        let views = Arc::new(Views::new(books));
        let (_status, statuses) = watch::channel(StoreStatus::Serving);
        let following = tokio::spawn(follow(reporter, statuses, Arc::clone(&views)));
        while !is_serving(&health, QUERY_SERVICE).await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        views.fail();
        while is_serving(&health, QUERY_SERVICE).await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        assert!(is_serving(&health, COMMAND_SERVICE).await);
        following.abort();
    }

    /// Intent: who replaces servers one after another waits until each could take the ledger over.
    #[tokio::test]
    async fn who_stands_by_is_ready_when_the_log_was_read() {
        let reporter = HealthReporter::new();
        let (owner, owners) = watch::channel(wire::Whose::Unknown);
        let reads = wire::Late::default();
        let following = tokio::spawn(follow_owner(reporter.clone(), owners, reads.clone()));
        let health = HealthService::from_health_reporter(reporter);
        let is_ready = async || is_serving(&health, READINESS).await;
        owner.send_replace(wire::Whose::Other("http://127.0.0.1:1".to_owned()));
        tokio::time::sleep(LOOK_AGAIN * 3).await;
        assert!(!is_ready().await, "it knows the owner, and not the log");
        reads.set(());
        while !is_ready().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        owner.send_replace(wire::Whose::Unknown);
        while is_ready().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        following.abort();
    }
}
