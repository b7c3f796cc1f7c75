//! What lets others look into the server: metrics, traces, and the operations listener.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tracing::info;

use super::{
    ServeError,
    metrics::Metrics,
    operations::{self, Operations},
};
use crate::{
    ops::{config::Config, traces::Traces},
    wire::Meter,
};

/// How long the last scrapes and probes are given when everything else has ended.
const OPERATIONS_GRACE: Duration = Duration::from_secs(1);

/// What others look through.
pub(super) struct Observed {
    pub(super) metrics: Arc<Metrics>,
    traces: Option<Traces>,
    operations: Option<Probed>,
}

impl Observed {
    /// Begins to count, to send traces if the environment asks for them, and to answer probes and
    /// scrapers if there is a listener for them.
    pub(super) fn start<H: Health>(
        config: &Config,
        started_micros: i64,
        listener: Option<TcpListener>,
        health: HealthServer<H>,
    ) -> Result<Self, ServeError> {
        let traces = Traces::from_environment()?;
        let meter = Meter::new(traces.clone());
        let metrics = Arc::new(Metrics::new(config, meter, started_micros));
        let operations = Probed::start(listener, health, &metrics)?;
        Ok(Self { metrics, traces, operations })
    }

    /// Sends what is left, and answers nobody any more.
    pub(super) async fn stop(self) {
        let Self { metrics: _, traces, operations } = self;
        if let Some(traces) = traces {
            let _a_panic_was_told_by_its_hook = spawn_blocking(|| traces.stop()).await;
        }
        if let Some(operations) = operations {
            operations.stop().await;
        }
    }
}

/// The operations listener while it listens. It ends with this value.
struct Probed {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Probed {
    /// None without a listener.
    fn start<H: Health>(
        listener: Option<TcpListener>,
        health: HealthServer<H>,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Option<Self>> {
        let Some(listener) = listener else { return Ok(None) };
        info!(address = %listener.local_addr()?, "listening for operations");
        let metrics = Arc::clone(metrics);
        let operations = Operations::new(Routes::new(health), move |exposition| {
            let metrics = Arc::clone(&metrics);
            exposition.page(move |page| metrics.tell(page))
        });
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(operations::serve(listener, operations, stopping));
        Ok(Some(Self { stop, task }))
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        let _cut_by_its_drop = timeout(OPERATIONS_GRACE, &mut self.task).await;
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        self.task.abort();
    }
}
