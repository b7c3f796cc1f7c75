//! The clients: each sends one call after another, commands and reads, some of them twice, and
//! notes when it called, when it was answered, and what.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use daybook::proto::batch_command::Command;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::{
    operation::{Clock, Deed, Operation},
    pool::{Ask, Pool},
    reads::{Question, Reads},
};
use crate::crash::{
    call::{self, Client, Verdict, request_id},
    random::Random,
};

/// How long an answer may take on a busy machine. Whoever waits longer waits for ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long an impatient client waits before it asks again.
const PATIENCE: Duration = Duration::from_millis(10);
/// So many commands of a client are kept to be repeated later.
const KEPT_MAX: usize = 200;

/// What all clients of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) pool: Mutex<Pool>,
    /// The highest position that any client was told.
    pub(super) seen: AtomicI64,
    /// Whether the server has been killed.
    pub(super) killed: AtomicBool,
    /// How many operations have ended.
    pub(super) done: AtomicUsize,
    /// Between which moments of rest the run is.
    pub(super) window: AtomicUsize,
}

impl Shared {
    pub(super) fn see(&self, position: i64) {
        self.seen.fetch_max(position, Ordering::Relaxed);
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Notes an operation that has been answered, or never will be.
    pub(super) fn note(&self, called: u64, is_answered: bool, deed: Deed) -> Operation {
        let returned = is_answered.then(|| self.clock.now());
        let window = self.window.load(Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
        Operation { called, returned, window, deed }
    }
}

/// One client, over two connections.
#[derive(Debug)]
pub(super) struct Caller {
    shared: Arc<Shared>,
    random: Random,
    clients: [Client; 2],
    reads: Reads,
    /// What it did.
    pub(super) history: Vec<Operation>,
    /// Commands that can be repeated.
    kept: VecDeque<Command>,
    /// The command whose outcome is unknown, if it can be repeated.
    pub(super) open: Option<Command>,
}

impl Caller {
    pub(super) fn new(shared: Arc<Shared>, random: Random, channels: [Channel; 2]) -> Self {
        let reads = Reads::new(Arc::clone(&shared), channels[1].clone());
        let clients = channels.map(Client::new);
        let (history, kept) = (Vec::new(), VecDeque::new());
        Self { shared, random, clients, reads, history, kept, open: None }
    }

    /// The same client after a restart.
    pub(super) fn connect(&mut self, channels: [Channel; 2]) {
        self.reads = Reads::new(Arc::clone(&self.shared), channels[1].clone());
        self.clients = channels.map(Client::new);
    }

    /// Asks until the server is gone.
    pub(super) async fn work(mut self) -> Self {
        let mut is_alive = true;
        while is_alive {
            let ask = {
                let mut pool = self.shared.pool.lock().expect("no client panicked");
                pool.ask(&mut self.random, self.shared.seen.load(Ordering::Relaxed))
            };
            is_alive = match ask {
                Ask::Command(command) => self.command(command).await,
                Ask::Question(question) => self.ask(question).await,
            };
        }
        self
    }

    async fn ask(&mut self, question: Question) -> bool {
        let answer = self.reads.ask(question).await;
        let is_alive = answer.is_some();
        assert!(is_alive || self.shared.is_killed(), "a read failed, and the server lives");
        self.history.extend(answer.into_iter().flatten());
        is_alive
    }

    /// Sends a new command; some twice at once, some again when they have been answered, and some
    /// that were sent long ago. Gives whether the server lives.
    async fn command(&mut self, command: Command) -> bool {
        let is_repeatable = !request_id(&command).is_empty();
        let chance = self.random.below(100);
        let is_alive = match chance {
            0..6 if is_repeatable => self.send_twins(&command).await,
            6..10 if is_repeatable => self.send_impatiently(&command).await,
            _ => self.send(0, &command).await,
        };
        if !is_repeatable || !is_alive {
            self.open = Some(command).filter(|_| is_repeatable && !is_alive);
            return is_alive;
        }
        let is_alive = match chance {
            10..20 => self.send(1, &command).await,
            20..26 if !self.kept.is_empty() => {
                let old = self.kept[self.random.place(self.kept.len())].clone();
                self.send(1, &old).await
            }
            _ => true,
        };
        self.kept.push_back(command);
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
        is_alive
    }

    /// Sends the command again whose outcome is unknown, now that there is a server again.
    pub(super) async fn make_known(&mut self) {
        let Some(command) = self.open.take() else { return };
        let is_alive = if self.random.percent(30) {
            self.send_twins(&command).await
        } else {
            self.send(0, &command).await
        };
        assert!(is_alive, "nobody kills the server now");
    }

    /// Sends a command over one of the connections. Gives whether the server lives.
    pub(super) async fn send(&mut self, connection: usize, command: &Command) -> bool {
        let mut client = self.clients[connection].clone();
        let operation = send(&self.shared, &mut client, command, ANSWER_WITHIN).await;
        self.take(operation)
    }

    /// Sends a command over both connections at once.
    async fn send_twins(&mut self, command: &Command) -> bool {
        let [one, other] = &mut self.clients;
        let (first, second) = tokio::join!(
            send(&self.shared, one, command, ANSWER_WITHIN),
            send(&self.shared, other, command, ANSWER_WITHIN)
        );
        let is_alive = self.take(first);
        self.take(second) && is_alive
    }

    /// Sends a command, and again when the answer does not come at once.
    async fn send_impatiently(&mut self, command: &Command) -> bool {
        let mut client = self.clients[0].clone();
        let operation = send(&self.shared, &mut client, command, PATIENCE).await;
        let is_answered = operation.returned.is_some();
        self.history.push(operation);
        is_answered || self.send(1, command).await
    }

    fn take(&mut self, operation: Operation) -> bool {
        let is_answered = operation.returned.is_some();
        assert!(is_answered || self.shared.is_killed(), "no answer: {operation:?}");
        self.history.push(operation);
        is_answered
    }
}

/// Sends a command once. Its outcome is unknown when no answer comes within the time.
async fn send(
    shared: &Shared,
    client: &mut Client,
    command: &Command,
    within: Duration,
) -> Operation {
    let called = shared.clock.now();
    let answer = timeout(within, call::send_command(client, command.clone())).await;
    let verdict = match answer {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(status)) => call::judge(&status),
        Err(_) => Verdict::Unknown,
    };
    if let Some(position) = call::last_position(&verdict) {
        shared.see(position);
        shared.pool.lock().expect("no client panicked").learn(&verdict);
    }
    let is_answered = verdict != Verdict::Unknown;
    shared.note(called, is_answered, Deed::Command { command: command.clone(), verdict })
}
