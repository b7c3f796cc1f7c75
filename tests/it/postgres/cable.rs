//! Servers that can be cut off: the cables between one and what it reaches, and who reaches it.
//! While a cable is pulled nothing gets through and nobody is told: what is sent meanwhile arrives
//! when it is plugged in again, as after a network that was partitioned.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::process::Server;

/// How long a server may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const BUFFER_BYTES: usize = 64 * 1024;

/// What carries connections to a place until it is dropped.
struct Cable {
    address: SocketAddr,
    is_whole: watch::Sender<bool>,
    leads_to: watch::Sender<Option<SocketAddr>>,
    _relay: JoinSet<()>,
}

impl Cable {
    /// Leads nowhere yet: who connects waits.
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_whole, whole) = watch::channel(true);
        let (leads_to, place) = watch::channel(None);
        let mut relay = JoinSet::new();
        relay.spawn(accept(listener, place, whole));
        Self { address, is_whole, leads_to, _relay: relay }
    }

    /// Leads to a place from now on.
    fn lead_to(&self, place: SocketAddr) {
        self.leads_to.send_replace(Some(place));
    }

    fn pull(&self) {
        self.is_whole.send_replace(false);
    }

    fn plug(&self) {
        self.is_whole.send_replace(true);
    }
}

async fn accept(
    listener: TcpListener,
    place: watch::Receiver<Option<SocketAddr>>,
    whole: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(carry(near, place.clone(), whole.clone()));
    }
}

async fn carry(
    near: TcpStream,
    mut place: watch::Receiver<Option<SocketAddr>>,
    mut whole: watch::Receiver<bool>,
) {
    let Ok(place) = place.wait_for(Option::is_some).await.map(|place| *place) else { return };
    let Some(place) = place else { return };
    if whole.wait_for(|whole| *whole).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(place).await else { return };
    for end in [&near, &far] {
        let _it_may_be_closed = end.set_nodelay(true);
    }
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::join!(pass_on(from_near, to_far, whole.clone()), pass_on(from_far, to_near, whole));
}

/// Passes on what comes, and that no more comes.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut whole: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if whole.wait_for(|whole| *whole).await.is_err() {
            return;
        }
        let passed =
            if count == 0 { to.shutdown().await } else { to.write_all(&buffer[..count]).await };
        if count == 0 || passed.is_err() {
            return;
        }
    }
}

/// A server of a ledger, with a cable to each host of the database, and one to it for its peers.
/// Clients of the tests have their own ways to it.
pub(super) struct Member {
    pub(super) server: Server,
    databases: Vec<Cable>,
    peers: Cable,
}

impl Member {
    /// One that stands by for another one or owns the ledger.
    pub(super) async fn start(url: &str, lease: Duration) -> Self {
        let (_, hosts) = url.split_once('@').expect("it has a user");
        let (hosts, _) = hosts.split_once('/').expect("it has a database");
        let (mut databases, mut by_cable) = (Vec::new(), url.to_owned());
        for host in hosts.split(',') {
            let cable = Cable::new().await;
            cable.lead_to(host.parse().expect("an address and a port"));
            by_cable = by_cable.replace(host, &cable.address.to_string());
            databases.push(cable);
        }
        let peers = Cable::new().await;
        let advertised = format!("http://{}", peers.address);
        let server = super::scraped_member(&by_cable, lease, &["--advertise", &advertised]).await;
        peers.lead_to(server.address());
        Self { server, databases, peers }
    }

    /// Where its peers reach it.
    pub(super) fn address(&self) -> String {
        format!("http://{}", self.peers.address)
    }

    /// Cuts it off from the database and its peers.
    pub(super) fn pull(&self) {
        self.databases.iter().chain([&self.peers]).for_each(Cable::pull);
    }

    /// Cuts it off from the database.
    pub(super) fn pull_databases(&self) {
        self.databases.iter().for_each(Cable::pull);
    }

    /// Cuts its peers off from it.
    pub(super) fn pull_peers(&self) {
        self.peers.pull();
    }

    /// Lets everything through again.
    pub(super) fn plug(&self) {
        self.databases.iter().chain([&self.peers]).for_each(Cable::plug);
    }

    /// Waits until it ends, as it should.
    pub(super) async fn assert_ends_with(&mut self, code: i32) {
        let ended = self.server.exit_code(ENDS_WITHIN).await;
        assert_eq!(ended, code, "{:?}", self.server.lines());
    }
}
