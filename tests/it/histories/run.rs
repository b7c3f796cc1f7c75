//! A run: one ledger on disk, the servers that come and go over it, the clients and the tails
//! that outlive them, and the history that they make.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use daybook::proto::{Event, EventType};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tonic::transport::Channel;

use super::{
    client::{Caller, Shared},
    operation::{Clock, Operation},
    pool::Pool,
    reads::Reads,
    tails::{Course, Tail},
};
use crate::{
    crash::{
        audit::{self, Reader},
        random::Random,
    },
    process::Server,
};

/// How many clients call at once.
const CLIENTS: usize = 16;
/// Over how many connections.
const CONNECTIONS: usize = 4;
/// How long a process is held at most, in milliseconds.
const PAUSE_MS_MAX: u64 = 60;
/// How often to look how much was done.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long the clients may take between two kills on a busy machine.
const CYCLE_WITHIN: Duration = Duration::from_secs(120);
/// How long a stop may take: the default grace for calls, and as long again for the rest.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// What became of the servers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) kills: usize,
    pub(super) pauses: usize,
}

/// All that a run leaves to be checked.
pub(super) struct Outcome {
    pub(super) history: Vec<Operation>,
    /// The log, as it was read in the end.
    pub(super) log: Vec<Event>,
    pub(super) tails: Vec<Tail>,
    pub(super) tally: Tally,
    /// The accounts of the bank, and what they hold together.
    pub(super) bank: Vec<String>,
    pub(super) bank_total: i64,
}

pub(super) struct Run {
    directory: TempDir,
    random: Random,
    shared: Arc<Shared>,
    server: Server,
    callers: Vec<Caller>,
    course: watch::Sender<Course>,
    tails: Vec<JoinHandle<(Tail, Vec<Operation>)>>,
    history: Vec<Operation>,
    tally: Tally,
}

impl Run {
    /// Starts a server over an empty directory, and opens the first accounts.
    pub(super) async fn begin(seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut random = Random::new(seed);
        let pool = Pool::new(&mut random);
        let openings = pool.openings(&mut random);
        let kinds = tails(&pool);
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            pool: Mutex::new(pool),
            seen: AtomicI64::new(0),
            killed: AtomicBool::new(false),
            done: AtomicUsize::new(0),
            window: AtomicUsize::new(0),
        });
        let server = Server::start(directory.path()).await;
        let connections = connect(&server).await;
        let caller = |number| {
            let random = Random::new(seed ^ ((number as u64 + 1) << 32));
            Caller::new(Arc::clone(&shared), random, pair(&connections, number))
        };
        let mut callers: Vec<_> = (0..CLIENTS).map(caller).collect();
        for command in openings {
            assert!(callers[0].send(0, &command).await, "the first accounts are opened");
        }
        let course =
            watch::Sender::new(Course { channel: Some(connections[0].clone()), end: None });
        let follow = |(number, tail): (usize, Tail)| {
            let random = Random::new(seed ^ ((number as u64 + 1) << 48));
            tokio::spawn(tail.follow(Arc::clone(&shared), course.subscribe(), random))
        };
        let tails = kinds.into_iter().enumerate().map(follow).collect();
        let (history, tally) = (Vec::new(), Tally::default());
        Self { directory, random, shared, server, callers, course, tails, history, tally }
    }

    /// Lets the clients do so many operations, pauses the server now and then, kills it in the
    /// middle, starts it again, makes every outcome known, and looks at every account while
    /// nothing moves.
    pub(super) async fn cycle(&mut self, operations: usize) {
        let callers = std::mem::take(&mut self.callers);
        let working: Vec<_> =
            callers.into_iter().map(|caller| tokio::spawn(caller.work())).collect();
        let goal = self.shared.done.load(Ordering::Relaxed) + operations;
        let rest = self.random.place(operations / 2 + 1);
        self.let_work(goal - rest).await;
        self.pause().await;
        self.let_work(goal).await;
        if self.random.percent(30) {
            // Killed while it is paused: with all calls under way.
            self.server.pause();
            self.tally.pauses += 1;
            sleep(Duration::from_millis(self.random.below(20))).await;
        }
        self.shared.killed.store(true, Ordering::Relaxed);
        self.course.send_modify(|course| course.channel = None);
        self.server.kill();
        self.tally.kills += 1;
        for caller in join_all(working).await {
            self.callers.push(caller.expect("a client found a fault"));
        }
        self.server.assert_calm().await;
        self.restart().await;
    }

    async fn let_work(&self, until: usize) {
        let begun = Instant::now();
        while self.shared.done.load(Ordering::Relaxed) < until {
            assert!(begun.elapsed() < CYCLE_WITHIN, "the clients hardly get on");
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn pause(&mut self) {
        self.server.pause();
        self.tally.pauses += 1;
        sleep(Duration::from_millis(self.random.below(PAUSE_MS_MAX))).await;
        self.server.resume();
    }

    async fn restart(&mut self) {
        self.server = Server::start(self.directory.path()).await;
        let connections = connect(&self.server).await;
        self.shared.killed.store(false, Ordering::Relaxed);
        self.course.send_modify(|course| course.channel = Some(connections[0].clone()));
        for (number, caller) in self.callers.iter_mut().enumerate() {
            caller.connect(pair(&connections, number));
        }
        join_all(self.callers.iter_mut().map(Caller::make_known)).await;
        let mut reads = Reads::new(Arc::clone(&self.shared), connections[0].clone());
        self.history.extend(reads.everything().await);
        self.shared.window.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the log, lets the tails come to its end, and stops the server.
    pub(super) async fn end(mut self) -> Outcome {
        let log = audit::read_log(&mut Reader::new(self.server.connect().await), 0).await;
        let head = i64::try_from(log.len()).expect("a log fits in memory");
        self.course.send_modify(|course| course.end = Some(head));
        let mut tails = Vec::new();
        for ended in join_all(std::mem::take(&mut self.tails)).await {
            let (tail, seen) = ended.expect("a tail found a fault");
            tails.push(tail);
            self.history.extend(seen);
        }
        for caller in &mut self.callers {
            self.history.append(&mut caller.history);
        }
        self.server.terminate();
        assert_eq!(self.server.exit_code(STOP_WITHIN).await, 0, "{:?}", self.server.lines());
        self.server.assert_calm().await;
        let pool = self.shared.pool.lock().expect("no client panicked");
        let (bank, bank_total) = (pool.bank().to_vec(), pool.bank_total());
        Outcome { history: self.history, log, tails, tally: self.tally, bank, bank_total }
    }
}

/// Tails of all, of some accounts, of some kinds, and of both.
fn tails(pool: &Pool) -> Vec<Tail> {
    let (bank, hot) = (pool.bank().to_vec(), pool.hot().to_vec());
    let money = [EventType::MoneyDeposited, EventType::MoneyWithdrawn];
    vec![
        Tail::new(Vec::new(), &[]),
        Tail::new(Vec::new(), &[]),
        Tail::new(bank.clone(), &[]),
        Tail::new(hot.clone(), &[]),
        Tail::new(hot[..1].to_vec(), &[]),
        Tail::new(Vec::new(), &money),
        Tail::new(Vec::new(), &[EventType::AccountClosed]),
        Tail::new(bank, &[EventType::TransferFailed]),
    ]
}

async fn connect(server: &Server) -> Vec<Channel> {
    join_all((0..CONNECTIONS).map(|_| server.connect())).await
}

/// The two connections of a client.
fn pair(connections: &[Channel], number: usize) -> [Channel; 2] {
    [number, number + 1].map(|place| connections[place % connections.len()].clone())
}
