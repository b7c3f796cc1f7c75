//! The threads of the event store and those who wait for them, in many orders of turns:
//!
//!     cargo test --features shuttle --lib event_store::tests::turns
//!
//! Of an order that fails a schedule is printed, by which it can be had again. Orders are chosen by
//! PCT (Burckhardt et al., A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs,
//! ASPLOS 2010).

use std::{
    io,
    sync::{
        Arc, Mutex as Unscheduled,
        atomic::{AtomicU64, Ordering},
    },
};

use shuttle::{Config, Runner, future, scheduler::PctScheduler, thread};
use tokio::sync::watch;

use super::*;
use crate::{
    event_store::actor::start_with,
    log::{AppendError, Group, Head, LogWriter},
    ops::ManualClock,
};

/// How many orders each test tries.
const ORDERS: usize = 7_000;
/// How many changes of turns are placed at random in an order.
const DEPTH: usize = 4;
/// What deciding takes, in a build that nobody has optimized.
const STACK_BYTES: usize = 512 * 1024;
/// Groups of more commands are the syncer's.
const SMALL_COMMANDS_MAX: usize = 1;

/// Tries many orders of turns. A test that waits for ever fails as well.
fn in_any_order(test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    let tried = Runner::new(PctScheduler::new(DEPTH, ORDERS), config).run(test);
    assert_eq!(tried, ORDERS);
}

/// A log whose appends let others have their turn before they are durable.
struct SlowLog {
    /// How far it is durable.
    durable: Arc<AtomicU64>,
    /// How many appends succeed before one fails.
    appends: usize,
}

impl LogWriter for SlowLog {
    fn append(&mut self, group: &Group) -> Result<Head, AppendError> {
        thread::yield_now();
        let Some(left) = self.appends.checked_sub(1) else {
            return Err(AppendError::Failed(io::Error::other("injected")));
        };
        self.appends = left;
        let position = group.next_position() - 1;
        let before = self.durable.swap(position, Ordering::SeqCst);
        assert_eq!(before, group.first_position() - 1, "a group must continue the log");
        Ok(Head { position, hash: [0; 32], bytes: 0 })
    }

    fn has_room(&mut self) -> bool {
        true
    }

    fn witness(&mut self) -> Result<(), AppendError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// A store over a slow log.
#[derive(Clone)]
struct Bench {
    store: EventStore,
    stopper: Arc<Unscheduled<Option<Stopper>>>,
    /// How far the log is durable, and is told to be.
    durable: Arc<AtomicU64>,
    told: watch::Receiver<u64>,
}

impl Bench {
    fn new(appends: usize) -> Self {
        let durable = Arc::new(AtomicU64::new(0));
        let (sender, told) = watch::channel(0);
        let (follower, _) = std::sync::mpsc::sync_channel(1);
        let parts = Parts {
            state: state(),
            log: Some(Box::new(SlowLog { durable: Arc::clone(&durable), appends })),
            clock: Arc::new(ManualClock::new(TIME)),
            follower,
            durable: sender,
        };
        let (store, stopper) = start_with(parts, SMALL_COMMANDS_MAX).unwrap();
        Self { store, stopper: Arc::new(Unscheduled::new(stopper)), durable, told }
    }

    /// Carries commands out. What is acknowledged is durable, and is told to be.
    async fn execute(&self, commands: Vec<Command>) -> Result<Answer, Failure> {
        let answer = self.store.execute(None, commands, Detail::All).await?;
        assert!(answer.position <= self.durable.load(Ordering::SeqCst), "acknowledged too early");
        assert!(answer.position <= *self.told.borrow(), "not shown when it was acknowledged");
        Ok(answer)
    }

    /// Stops the store; then the log has all that was acknowledged.
    fn stop(&self) {
        let stopper = self.stopper.lock().unwrap().take();
        stopper.unwrap().stop();
    }
}

/// One client that commands a few things one by one, and one that sends them together.
fn clients(bench: &Bench) -> Vec<future::JoinHandle<Vec<Result<Answer, Failure>>>> {
    let calls = [vec![vec![open(1, 10)], vec![deposit(1, 5)]], vec![vec![open(2, 1), open(3, 1)]]];
    let begun = calls.into_iter().map(|calls| {
        let bench = bench.clone();
        future::spawn(async move {
            let mut answers = Vec::new();
            for commands in calls {
                answers.push(bench.execute(commands).await);
            }
            answers
        })
    });
    begun.collect()
}

fn answers(
    clients: Vec<future::JoinHandle<Vec<Result<Answer, Failure>>>>,
) -> Vec<Result<Answer, Failure>> {
    clients.into_iter().flat_map(|client| future::block_on(client).unwrap()).collect()
}

#[test]
fn whoever_has_a_turn_everybody_is_answered_when_it_is_durable() {
    in_any_order(|| {
        let bench = Bench::new(usize::MAX);
        let told = answers(clients(&bench));
        assert!(told.iter().all(Result::is_ok), "{told:?}");
        assert_eq!(bench.durable.load(Ordering::SeqCst), 4);
        bench.stop();
    });
}

#[test]
fn whenever_it_is_stopped_everybody_is_answered() {
    in_any_order(|| {
        let bench = Bench::new(usize::MAX);
        let begun = clients(&bench);
        bench.stop();
        let told = answers(begun);
        let refused =
            |answer: &Result<Answer, Failure>| matches!(answer, Ok(_) | Err(Failure::Stopping));
        assert!(told.iter().all(refused), "{told:?}");
        let last = future::block_on(bench.execute(vec![open(4, 1)]));
        assert!(matches!(last, Err(Failure::Stopping)), "{last:?}");
    });
}

#[test]
fn whenever_the_log_fails_nothing_is_acknowledged_after_that() {
    in_any_order(|| {
        let bench = Bench::new(1);
        let told = answers(clients(&bench));
        let durable = bench.durable.load(Ordering::SeqCst);
        for answer in told {
            match answer {
                Ok(answer) => assert!(answer.position <= durable),
                Err(failure) => assert!(matches!(failure, Failure::Latched), "{failure:?}"),
            }
        }
        let last = future::block_on(bench.execute(vec![open(4, 1)]));
        assert!(matches!(last, Err(Failure::Latched)), "{last:?}");
        bench.stop();
        assert_eq!(bench.durable.load(Ordering::SeqCst), durable);
    });
}
