//! Three servers of one ledger, and what happens to them while many clients command it: whoever
//! owns it is killed, stopped past its lease, cut off, or asked to go; connections are closed; the
//! database crashes. Whatever server a client asks, what was acknowledged is there, once, in order.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use daybook::proto::GetStatsRequest;
use futures_util::future::join_all;
use tokio::time::sleep;
use tonic::{Request, transport::Endpoint};

use super::{EXIT_IN_USE, cable::Member};
use crate::{
    crash::{audit::Reader, random::Random, run::Run, setting},
    engine::{self, Database},
};

/// How many faults there are unless told otherwise.
const FAULTS: u64 = 8;
const SERVERS: usize = 3;
/// How long one may take to stand by or to own the ledger.
const LEASE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often to look before it takes too long.
const LOOKS_MAX: usize = 3_000;
/// How long clients go on after a fault that they may not have noticed.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// How long a reader waits for an answer.
const READ_WITHIN: Duration = Duration::from_millis(300);

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
    /// Nothing reaches the owner, and nothing that it sends arrives, until another one owns the
    /// ledger.
    OwnerCutOff,
    /// The same of another one than the owner, for longer than its lease.
    OtherCutOff,
    /// The database is gone, and the one that stood by takes its place.
    DatabaseLost,
}

const KINDS: [Fault; 8] = [
    Fault::OwnerKilled,
    Fault::OwnerStalled,
    Fault::OwnerStopped,
    Fault::Disconnected,
    Fault::DatabaseCrashed,
    Fault::OtherKilled,
    Fault::OwnerCutOff,
    Fault::OtherCutOff,
];

/// The servers of a ledger.
struct Cluster {
    database: Database,
    url: String,
    members: Vec<Member>,
    /// What any server has told of the log: the hash of its chain at a position.
    told: BTreeMap<i64, String>,
    reads: usize,
}

impl Cluster {
    fn new(database: Database) -> Self {
        let url = engine::ledger_of(&database.url, "cluster");
        let (members, told, reads) = Default::default();
        Self { database, url, members, told, reads }
    }

    /// Lets something happen while many clients command one of the servers.
    async fn meet(&mut self, fault: Fault, run: &mut Run, random: &mut Random) {
        self.settle().await;
        let entry = random.place(SERVERS);
        run.check(&self.members[entry].server, false).await;
        let load = run.begin_load(&self.members[entry].server, true).await;
        let servers = self.members.iter().map(|member| member.server.address());
        let is_over = Arc::new(AtomicBool::new(false));
        let reading = servers.map(|server| tokio::spawn(read(server, Arc::clone(&is_over))));
        let readers: Vec<_> = reading.collect();
        fault.happen(self).await;
        sleep(AFTERWARDS).await;
        load.stop();
        run.end_load(load).await;
        is_over.store(true, Ordering::Relaxed);
        for told in join_all(readers).await {
            let told = told.unwrap();
            self.reads += told.len();
            for (position, hash) in told {
                let before = self.told.insert(position, hash.clone());
                assert!(before.is_none_or(|before| before == hash), "two logs at {position}");
            }
        }
    }

    /// Compares everything with everything.
    async fn check(&mut self, run: &mut Run) {
        self.settle().await;
        run.check(&self.members[0].server, true).await;
        assert_eq!(contradictions(&self.url), [""; 0]);
        let sql = "select last_position || ' ' || encode(hash, 'hex') from blocks";
        let blocks = engine::query(&self.url, sql).unwrap();
        let log: BTreeMap<&str, &str> =
            blocks.iter().map(|block| block.split_once(' ').unwrap()).collect();
        for (position, hash) in &self.told {
            let found = log.get(position.to_string().as_str());
            assert_eq!(found, Some(&hash.as_str()), "told at {position}, and taken back");
        }
        assert!(self.told.len() > 1, "{} reads have told nothing", self.reads);
    }

    /// Starts as many servers as are missing.
    async fn complete(&mut self) {
        while self.members.len() < SERVERS {
            self.members.push(Member::start(&self.url, LEASE).await);
        }
    }

    /// The place of the server that owns the ledger, as soon as one does.
    async fn owner(&mut self) -> usize {
        let sql = "select address from nodes join assignment on owner = id
            where expire_time > now()";
        for _ in 0..LOOKS_MAX {
            let found = engine::query(&self.url, sql).unwrap_or_default();
            let is_it = |member: &Member| {
                found.first() == Some(&member.address())
                    && member.server.lines().iter().any(|line| line.contains("\"serving\""))
            };
            if let Some(place) = self.members.iter().position(is_it) {
                return place;
            }
            sleep(LOOK_AGAIN).await;
        }
        let lines: Vec<_> = self.members.iter().map(|member| member.server.lines()).collect();
        panic!("nobody owns the ledger: {lines:?}")
    }

    /// Waits until there are as many servers as there should be, and each of them either owns the
    /// ledger or knows who does, and can be read. Whoever was taken over from has ended, or soon
    /// does.
    async fn settle(&mut self) {
        'again: for _ in 0..LOOKS_MAX {
            self.members.retain_mut(|member| member.server.is_running());
            self.complete().await;
            let owner = self.owner().await;
            let address = self.members[owner].address();
            for (place, member) in self.members.iter_mut().enumerate() {
                if place != owner && !member.server.tells(&address).await {
                    continue 'again;
                }
                // An owner that has lost its connections shows nothing before it is sure again.
                let mut reader = Reader::new(member.server.connect().await);
                if reader.get_stats(GetStatsRequest::default()).await.is_err() {
                    sleep(LOOK_AGAIN).await;
                    continue 'again;
                }
            }
            return;
        }
        panic!("the servers cannot be read");
    }
}

/// Reads of one server until that is over, and each time nothing older than before. Gives the
/// positions that it has told of, and the hash of the chain there.
async fn read(server: SocketAddr, is_over: Arc<AtomicBool>) -> Vec<(i64, String)> {
    let server = Endpoint::from_shared(format!("http://{server}")).unwrap().connect_lazy();
    let (mut reader, mut told, mut newest) = (Reader::new(server), Vec::new(), 0);
    while !is_over.load(Ordering::Relaxed) {
        let mut request = Request::new(GetStatsRequest { min_position: Some(newest) });
        request.set_timeout(READ_WITHIN);
        // It may have been killed, or nobody may know more.
        if let Ok(stats) = reader.get_stats(request).await {
            let stats = stats.into_inner();
            assert!(stats.position >= newest, "{stats:?}");
            newest = stats.position;
            if stats.head_hash_position > 0 {
                told.push((stats.head_hash_position, stats.head_hash));
            }
        }
        sleep(LOOK_AGAIN).await;
    }
    told
}

impl Fault {
    /// Lets it happen.
    async fn happen(self, cluster: &mut Cluster) {
        let owner = cluster.owner().await;
        let other = (owner + 1) % SERVERS;
        match self {
            Self::OwnerKilled => cluster.members[owner].server.kill(),
            Self::OtherKilled => cluster.members[other].server.kill(),
            Self::OwnerStopped => {
                let mut member = cluster.members.remove(owner);
                member.server.terminate();
                member.assert_ends_with(0).await;
            }
            Self::OwnerStalled => {
                let mut member = cluster.members.remove(owner);
                member.server.pause();
                // Another one, which knows nothing of what this one had begun.
                cluster.owner().await;
                member.server.resume();
                member.assert_ends_with(EXIT_IN_USE).await;
            }
            Self::OwnerCutOff => {
                let mut member = cluster.members.remove(owner);
                member.pull();
                cluster.owner().await;
                // What it has sent meanwhile arrives late.
                member.plug();
                member.assert_ends_with(EXIT_IN_USE).await;
            }
            Self::OtherCutOff => {
                cluster.members[other].pull();
                sleep(LEASE * 2).await;
                cluster.members[other].plug();
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
                cluster.database.crash();
                // Whoever owned the ledger still does, or lets another one have it.
                sleep(LEASE * 2).await;
            }
            Self::DatabaseLost => {
                cluster.database.crash();
                let (first, second) = cluster.url.split_once(',').expect("two servers");
                let scheme = first.split_once("127").unwrap().0;
                // Until then it cannot be written.
                let second = second.replace("target_session_attrs=read-write&", "");
                engine::execute(&format!("{scheme}{second}"), "select pg_promote()");
                sleep(LEASE * 2).await;
            }
        }
    }
}

fn seed() -> u64 {
    setting("DAYBOOK_TEST_SEED").unwrap_or_else(Random::fresh_seed)
}

/// Intent: whoever fails, and however, what a client was told of any server holds.
#[tokio::test]
async fn a_cluster_loses_nothing_whoever_fails() {
    let Some(database) = Database::start(&[]) else { return };
    let faults = setting("DAYBOOK_TEST_FAULTS").unwrap_or(FAULTS);
    let seed = seed();
    println!("seed {seed}");
    let (mut run, mut random) = (Run::new(seed), Random::new(seed));
    let mut cluster = Cluster::new(database);
    for fault in KINDS.into_iter().cycle().take(usize::try_from(faults).unwrap()) {
        println!("{fault:?}");
        cluster.meet(fault, &mut run, &mut random).await;
    }
    cluster.check(&mut run).await;
    println!("P1 P2 P3 P5 P6 P7 P8 P16: faults {faults}, {}", run.summary());
    println!("{} reads of any server, at {} positions", cluster.reads, cluster.told.len());
    assert!(run.tally.unknown_done + run.tally.unknown_not_done > 0, "no fault hit anything");
    assert!(run.tally.acknowledged >= 100 * usize::try_from(faults).unwrap());
}

/// Intent: what is acknowledged is on the standby of the database as well.
#[tokio::test]
async fn a_database_that_is_lost_takes_nothing_along() {
    let Some(database) = Database::start(&["--standby"]) else { return };
    let seed = seed();
    println!("seed {seed}");
    let (mut run, mut random) = (Run::new(seed), Random::new(seed));
    let mut cluster = Cluster::new(database);
    for fault in [Fault::Disconnected, Fault::DatabaseLost, Fault::OwnerKilled] {
        println!("{fault:?}");
        cluster.meet(fault, &mut run, &mut random).await;
    }
    cluster.check(&mut run).await;
    println!("P1 P2 P3 P5 P6 P7 P8 P16: a lost database, {}", run.summary());
    assert!(run.tally.unknown_done + run.tally.unknown_not_done > 0, "no fault hit anything");
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
