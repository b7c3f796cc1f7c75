//! Three servers of one ledger, and what happens to them while many clients command it: whoever
//! owns it is killed, stopped past its lease, or asked to go; connections are cut; the database
//! crashes. Whatever server a client asks, what was acknowledged is there, once, in order.

use std::{fs, path::Path, process::Command, time::Duration};

use tokio::time::sleep;

use crate::{
    crash::{random::Random, run::Run, setting},
    engine,
    process::Server,
};

/// How many faults there are unless told otherwise.
const FAULTS: u64 = 10;
const SERVERS: usize = 3;
/// How long one may take to stand by or to own the ledger.
const LEASE: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often to look before it takes too long.
const LOOKS_MAX: usize = 3_000;
/// How long clients go on after a fault that they may not have noticed.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// How long a server may take to end.
const WITHIN: Duration = Duration::from_secs(20);
/// What who was taken over from ends with.
const EXIT_IN_USE: i32 = 75;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The owner is killed.
    OwnerKilled,
    /// The owner stands still until its lease has ended and another one owns the ledger.
    OwnerStalled,
    /// The owner is asked to stop.
    OwnerStopped,
    /// All connections to the database are cut, several times.
    Disconnected,
    /// The database crashes, and is started again.
    DatabaseCrashed,
    /// Another one than the owner is killed.
    OtherKilled,
}

const KINDS: [Fault; 6] = [
    Fault::OwnerKilled,
    Fault::OwnerStalled,
    Fault::OwnerStopped,
    Fault::Disconnected,
    Fault::DatabaseCrashed,
    Fault::OtherKilled,
];

/// The servers of a ledger.
struct Cluster {
    url: String,
    servers: Vec<Server>,
}

impl Cluster {
    async fn start(url: String) -> Self {
        let mut cluster = Self { url, servers: Vec::new() };
        cluster.complete().await;
        cluster
    }

    /// Starts as many servers as are missing.
    async fn complete(&mut self) {
        while self.servers.len() < SERVERS {
            self.servers.push(server(&self.url).await);
        }
    }

    /// The place of the server that owns the ledger, as soon as one does.
    async fn owner(&mut self) -> usize {
        let sql = "select address from nodes join assignment on owner = id
            where expire_time > now()";
        for _ in 0..LOOKS_MAX {
            let found = engine::query(&self.url, sql).unwrap_or_default();
            let is_it = |server: &Server| {
                found.first() == Some(&format!("http://{}", server.address()))
                    && server.lines().iter().any(|line| line.contains("\"serving\""))
            };
            if let Some(place) = self.servers.iter().position(is_it) {
                return place;
            }
            sleep(LOOK_AGAIN).await;
        }
        let lines: Vec<_> = self.servers.iter().map(Server::lines).collect();
        panic!("nobody owns the ledger: {lines:?}")
    }

    /// Waits until every server either owns the ledger or knows who does.
    async fn settle(&mut self) {
        let owner = self.owner().await;
        let address = self.servers[owner].address().to_string();
        for (place, server) in self.servers.iter_mut().enumerate() {
            if place != owner {
                server.wait_for_line(&format!("http://{address}")).await;
            }
        }
    }
}

/// A server that takes part, once it has found out what the others do.
async fn server(url: &str) -> Server {
    let lease = format!("{}ms", LEASE.as_millis());
    let flags = ["--engine", "postgres", "--database-url", url, "--lease", &lease];
    let mut server = Server::spawn_with(Path::new("unused"), &flags);
    // It stands by for another one, or owns it.
    server.wait_for_line("the log is ").await;
    server
}

/// The one process that all others of the database's server belong to.
fn postmaster() -> Option<String> {
    let text = fs::read_to_string(engine::directory()?.join("postmaster.pid")).ok()?;
    text.lines().next().map(str::to_owned)
}

impl Fault {
    /// Lets it happen.
    async fn happen(self, cluster: &mut Cluster) {
        let owner = cluster.owner().await;
        match self {
            Self::OwnerKilled => cluster.servers[owner].kill(),
            Self::OtherKilled => cluster.servers[(owner + 1) % SERVERS].kill(),
            Self::OwnerStopped => {
                let mut server = cluster.servers.remove(owner);
                server.terminate();
                assert_eq!(server.exit_code(WITHIN).await, 0, "{:?}", server.lines());
            }
            Self::OwnerStalled => {
                let mut server = cluster.servers.remove(owner);
                server.pause();
                // Another one, which knows nothing of what this one had begun.
                cluster.owner().await;
                server.resume();
                assert_eq!(server.exit_code(WITHIN).await, EXIT_IN_USE, "{:?}", server.lines());
            }
            Self::Disconnected => {
                for _ in 0..5 {
                    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
                        where application_name = 'daybook'";
                    let _one_of_them_may_be_ours = engine::try_execute(&cluster.url, cut);
                    sleep(Duration::from_millis(40)).await;
                }
            }
            Self::DatabaseCrashed => {
                let Some(pid) = postmaster() else { return };
                let sent = Command::new("kill").args(["-QUIT", &pid]).status();
                assert!(sent.unwrap().success(), "the database can be crashed");
                // Whoever owned the ledger still does, or lets another one have it.
                sleep(LEASE * 2).await;
            }
        }
    }
}

/// Intent: whoever fails, and however, what a client was told of any server holds.
#[tokio::test]
async fn a_cluster_loses_nothing_whoever_fails() {
    let Some(url) = super::new_ledger() else { return };
    let faults = setting("DAYBOOK_TEST_FAULTS").unwrap_or(FAULTS);
    let seed = setting("DAYBOOK_TEST_SEED").unwrap_or_else(Random::fresh_seed);
    println!("seed {seed}");
    let (mut run, mut random) = (Run::new(seed), Random::new(seed));
    let mut cluster = Cluster::start(url).await;
    let kinds = if engine::directory().is_some() { &KINDS[..] } else { &KINDS[..4] };
    for number in 0..faults {
        let fault = kinds[usize::try_from(number).unwrap() % kinds.len()];
        cluster.settle().await;
        let entry = random.place(SERVERS);
        println!("{fault:?}, asked is {entry}");
        run.check(&cluster.servers[entry], false).await;
        let load = run.begin_load(&cluster.servers[entry]).await;
        load.may_fail();
        fault.happen(&mut cluster).await;
        sleep(AFTERWARDS).await;
        load.stop();
        run.end_load(load).await;
        cluster.servers.retain_mut(Server::is_running);
        cluster.complete().await;
    }
    cluster.settle().await;
    run.check(&cluster.servers[0], true).await;
    println!("P1 P2 P3 P5 P6 P7 P8 P16: faults {faults}, {}", run.summary());
    assert_eq!(contradictions(&cluster.url), [""; 0]);
    assert!(run.tally.unknown_done + run.tally.unknown_not_done > 0, "no fault hit anything");
    assert!(run.tally.acknowledged >= 100 * usize::try_from(faults).unwrap());
}

/// What the tables hold that cannot be: found by the database itself.
fn contradictions(url: &str) -> Vec<String> {
    let sql = "
        select 'an epoch after a newer one, at ' || first_position from (
            select first_position, epoch, lag(epoch) over (order by first_position) as before
            from blocks
        ) as b where epoch < before
        union all select 'a gap before block ' || first_position from (
            select first_position, lag(last_position) over (order by first_position) as before
            from blocks
        ) as b where first_position <> coalesce(before, 0) + 1
        union all select 'a gap before event ' || position from (
            select position, lag(position) over (order by position) as before from events
        ) as e where position <> coalesce(before, 0) + 1
        union all select 'a version is missing before ' || position from (
            select position, version,
                lag(version) over (partition by account_id order by version) as before
            from events
        ) as e where version <> coalesce(before, 0) + 1
        union all select 'the head is at ' || position from partition_head
            where position <> (select max(position) from events)
                or position <> (select max(last_position) from blocks)
        union all select 'a request has ' || count(*) || ' sagas or accounts' from (
            select distinct request_id, coalesce(saga_id, account_id) from events
            where request_id is not null
        ) as r group by request_id having count(*) > 1";
    engine::query(url, sql).unwrap()
}
