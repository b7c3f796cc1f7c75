//! A server that runs inside the test, or two of one ledger.

use std::net::{Ipv4Addr, SocketAddr};

use daybook::{
    ops::config::Config,
    server::{self, Listeners, ServeError},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::Client;
use crate::engine;

pub(super) struct Running {
    /// The owner of the ledger, if that is another one.
    owner: Option<Box<Running>>,
    /// Where probes and scrapers are answered.
    pub(super) operations: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    /// Shuts it down and waits until it has ended, which it must do well.
    pub(super) async fn stop(self) {
        let mut next = Some(Box::new(self));
        // The owner comes last: the other one would take the ledger over.
        while let Some(running) = next {
            let Self { owner, operations: _, stop, served } = *running;
            stop.send(()).unwrap();
            served.await.unwrap().unwrap();
            next = owner;
        }
    }
}

/// Starts a server, and one that owns its ledger before it if that is to be another one.
pub(super) async fn run(config: Config, health: &str) -> (Running, Client) {
    if !engine::is_passing() || config.database.is_none() {
        return run_one(config, health).await;
    }
    // Where probes are answered there is room for one.
    let first = Config { operations_listen: None, ..config.clone() };
    let (owner, _) = run_one(first, health).await;
    let (other, client) = run_one(config, health).await;
    (Running { owner: Some(Box::new(owner)), ..other }, client)
}

/// Starts a server and waits until what has this name in the health service is serving.
async fn run_one(config: Config, health: &str) -> (Running, Client) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut listeners = Listeners::from(listener);
    if let Some(operations) = config.operations_listen {
        listeners.operations = Some(TcpListener::bind(operations).await.unwrap());
    }
    let operations = listeners.operations.as_ref().map(|it| it.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(async move {
        let shutdown = async { stopped.await.unwrap_or_default() };
        server::serve(&config, listeners, shutdown).await
    });
    let client = Client::connect(address).await;
    client.wait_until_serving(health).await;
    (Running { owner: None, operations, stop, served }, client)
}
