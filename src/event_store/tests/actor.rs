//! The actor: nothing is answered before it is durable, and a log that fails is not trusted again.

use std::{
    io,
    sync::{Arc, Mutex, mpsc as blocking},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::watch;

use super::*;
use crate::{
    log::{AppendError, Group, Head, LogWriter},
    ops::ManualClock,
};

mod promises;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A group of so many commands finds a defect of the log.
const DEFECT_RECORDS: usize = 777;

/// A log that does what the test says: each append waits for the test's word.
struct ObedientLog {
    words: blocking::Receiver<Result<(), AppendError>>,
    appended: Arc<Mutex<Vec<usize>>>,
    has_room: Arc<Mutex<bool>>,
    position: u64,
}

impl LogWriter for ObedientLog {
    fn append(&mut self, group: &Group) -> Result<Head, AppendError> {
        let records = group.records().count();
        self.appended.lock().unwrap().push(records);
        assert_ne!(records, DEFECT_RECORDS, "a defect");
        self.words.recv().unwrap_or(Err(AppendError::Latched))?;
        self.position = group.next_position() - 1;
        Ok(Head { position: self.position, hash: [0; 32], bytes: 0 })
    }

    fn has_room(&mut self) -> bool {
        *self.has_room.lock().unwrap()
    }

    fn witness(&mut self) -> Result<(), AppendError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// A store over an obedient log.
struct Bench {
    store: EventStore,
    stopper: Stopper,
    say: blocking::Sender<Result<(), AppendError>>,
    appended: Arc<Mutex<Vec<usize>>>,
    has_room: Arc<Mutex<bool>>,
    durable: watch::Receiver<u64>,
}

fn bench() -> Bench {
    bench_with_room(true)
}

fn bench_with_room(has_room: bool) -> Bench {
    let (say, words) = blocking::channel();
    let (appended, has_room) = (Arc::default(), Arc::new(Mutex::new(has_room)));
    let log = ObedientLog {
        words,
        appended: Arc::clone(&appended),
        has_room: Arc::clone(&has_room),
        position: 0,
    };
    let (durable_sender, durable) = watch::channel(0);
    let (follower, _) = blocking::sync_channel(1);
    let parts = Parts {
        state: state(),
        log: Some(Box::new(log)),
        clock: Arc::new(ManualClock::new(TIME)),
        follower,
        durable: durable_sender,
    };
    let (store, stopper) = start(parts).unwrap();
    Bench { store, stopper: stopper.unwrap(), say, appended, has_room, durable }
}

impl Bench {
    /// Waits until so many groups were handed to the log.
    async fn appended(&self, groups: usize) {
        while self.appended.lock().unwrap().len() < groups {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn submit(&self, commands: Vec<Command>) -> tokio::task::JoinHandle<Result<Answer, Failure>> {
        let store = self.store.clone();
        tokio::spawn(async move { store.execute(None, commands, Detail::All).await })
    }

    async fn stop(self) {
        drop(self.say);
        let stopper = self.stopper;
        tokio::task::spawn_blocking(|| stopper.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_waits_for_the_sync() {
    let bench = bench();
    let answer = bench.submit(vec![open(1, 10)]);
    bench.appended(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!answer.is_finished(), "answered before it was durable");
    assert_eq!(*bench.durable.borrow(), 0, "shown before it was durable");
    bench.say.send(Ok(())).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().position, 1);
    assert_eq!(*bench.durable.borrow(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_refusal_that_rests_on_what_is_not_durable_waits_for_it() {
    let bench = bench();
    let opened = bench.submit(vec![open(1, 10)]);
    bench.appended(1).await;
    let refused = bench.submit(vec![open(1, 10)]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!refused.is_finished(), "refused for an account that may never have been opened");
    bench.say.send(Ok(())).unwrap();
    opened.await.unwrap().unwrap();
    let answer = refused.await.unwrap().unwrap();
    assert!(matches!(answer.outcomes[..], [(0, Outcome::Refused(_))]));
    bench.stop().await;
}

#[tokio::test]
async fn commands_that_come_during_a_sync_share_the_next_one() {
    let bench = bench();
    let first = bench.submit(vec![open(0, 0)]);
    bench.appended(1).await;
    let others: Vec<_> = (1..50).map(|number| bench.submit(vec![open(number, 0)])).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.say.send(Ok(())).unwrap();
    bench.say.send(Ok(())).unwrap();
    first.await.unwrap().unwrap();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().position, 50);
    }
    assert_eq!(*bench.appended.lock().unwrap(), [1, 49]);
    bench.stop().await;
}

#[tokio::test]
async fn a_large_group_is_synced_while_the_next_one_is_decided() {
    let bench = bench();
    let opened = bench.submit((0..1_000).map(|number| open(number, 0)).collect());
    bench.appended(1).await;
    // The writer is free to decide these, and finds that they do not fit into one group.
    let filling = bench.submit(vec![deposit(0, 1); 30_000]);
    let last = bench.submit(vec![deposit(0, 1)]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!opened.is_finished() && !filling.is_finished());
    for _ in 0..20 {
        bench.say.send(Ok(())).unwrap();
    }
    assert_eq!(opened.await.unwrap().unwrap().position, 1_000);
    assert_eq!(filling.await.unwrap().unwrap().position, 31_000);
    assert_eq!(last.await.unwrap().unwrap().position, 31_001);
    assert_eq!(*bench.appended.lock().unwrap(), [1_000, 30_000, 1]);
    bench.stop().await;
}

#[tokio::test]
async fn a_failed_sync_of_a_large_group_latches() {
    let bench = bench();
    let failing = bench.submit((0..1_000).map(|number| open(number, 0)).collect());
    bench.appended(1).await;
    let waiting = bench.submit(vec![deposit(1, 1)]);
    bench.say.send(Err(AppendError::Failed(io::Error::other("EIO")))).unwrap();
    assert_eq!(failing.await.unwrap().unwrap_err(), Failure::Latched);
    assert_eq!(waiting.await.unwrap().unwrap_err(), Failure::Latched);
    assert_eq!(*bench.store.status().borrow(), StoreStatus::Latched);
    assert_eq!(bench.appended.lock().unwrap().len(), 1, "the log was written to again");
    bench.stop().await;
}

#[tokio::test]
async fn a_failed_sync_latches_and_nothing_after_it_is_acknowledged() {
    let bench = bench();
    let failing = bench.submit(vec![open(1, 10)]);
    bench.appended(1).await;
    let waiting = bench.submit(vec![deposit(1, 1)]);
    tokio::time::sleep(Duration::from_millis(5)).await;
    bench.say.send(Err(AppendError::Failed(io::Error::other("EIO")))).unwrap();
    assert_eq!(failing.await.unwrap().unwrap_err(), Failure::Latched);
    assert_eq!(waiting.await.unwrap().unwrap_err(), Failure::Latched);
    assert_eq!(*bench.store.status().borrow(), StoreStatus::Latched);
    bench.say.send(Ok(())).unwrap();
    let later = bench.store.execute(None, vec![open(2, 0)], Detail::All).await;
    assert_eq!(later.unwrap_err(), Failure::Latched);
    assert_eq!(*bench.durable.borrow(), 0);
    assert_eq!(bench.appended.lock().unwrap().len(), 1, "the log was written to again");
    bench.stop().await;
}

#[tokio::test]
async fn without_room_commands_are_refused_until_there_is_some() {
    let bench = bench();
    *bench.has_room.lock().unwrap() = false;
    let mut status = bench.store.status();
    status.wait_for(|status| *status == StoreStatus::NoRoom).await.unwrap();
    let refused = bench.store.execute(None, vec![open(1, 0)], Detail::All).await;
    assert_eq!(refused.unwrap_err(), Failure::NoRoom);
    assert!(bench.appended.lock().unwrap().is_empty());
    *bench.has_room.lock().unwrap() = true;
    status.wait_for(|status| *status == StoreStatus::Serving).await.unwrap();
    bench.say.send(Ok(())).unwrap();
    let accepted = bench.store.execute(None, vec![open(1, 0)], Detail::All).await;
    assert_eq!(accepted.unwrap().position, 1);
    bench.stop().await;
}

/// A disk that is full already when the server starts is told as one that fills up later.
#[tokio::test]
async fn a_log_that_has_no_room_from_the_beginning_says_so() {
    let bench = bench_with_room(false);
    let mut status = bench.store.status();
    assert_eq!(*status.borrow(), StoreStatus::NoRoom);
    let refused = bench.store.execute(None, vec![open(1, 0)], Detail::All).await;
    assert_eq!(refused.unwrap_err(), Failure::NoRoom);
    *bench.has_room.lock().unwrap() = true;
    status.wait_for(|status| *status == StoreStatus::Serving).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_full_log_holds_a_group_back_until_it_fits() {
    let bench = bench();
    let answer = bench.submit(vec![open(1, 0)]);
    bench.say.send(Err(AppendError::Full)).unwrap();
    bench.say.send(Ok(())).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().position, 1);
    assert_eq!(*bench.appended.lock().unwrap(), [1, 1]);
    bench.stop().await;
}

#[tokio::test]
async fn a_full_log_does_not_keep_the_store_from_stopping() {
    let bench = bench();
    let answer = bench.submit(vec![open(1, 0)]);
    for _ in 0..20 {
        bench.say.send(Err(AppendError::Full)).unwrap();
    }
    bench.appended(1).await;
    let (stopper, tries) = (bench.stopper, Arc::clone(&bench.appended));
    tokio::task::spawn_blocking(|| stopper.stop()).await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap_err(), Failure::Stopping);
    assert!(tries.lock().unwrap().len() < 20, "it waited for room until there was an error");
    assert_eq!(*bench.store.status().borrow(), StoreStatus::Stopped);
}

#[tokio::test]
async fn overload_is_refused_at_once_and_passes() {
    let bench = bench();
    let first = bench.submit(vec![open(0, 0)]);
    bench.appended(1).await;
    let places = MAILBOX_COMMANDS_MAX - 1;
    let filling = bench.submit(vec![deposit(0, 1); places]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let refused = bench.store.execute(None, vec![deposit(0, 1)], Detail::All).await;
    assert_eq!(refused.unwrap_err(), Failure::Overloaded);
    for _ in 0..20 {
        bench.say.send(Ok(())).unwrap();
    }
    first.await.unwrap().unwrap();
    filling.await.unwrap().unwrap();
    bench.store.execute(None, vec![deposit(0, 1)], Detail::All).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn stopping_answers_what_has_come_in_and_refuses_the_rest() {
    let bench = bench();
    let answer = bench.submit(vec![open(1, 0)]);
    bench.appended(1).await;
    let waiting = bench.submit(vec![deposit(1, 5)]);
    tokio::time::sleep(Duration::from_millis(5)).await;
    bench.say.send(Ok(())).unwrap();
    bench.say.send(Ok(())).unwrap();
    let store = bench.store.clone();
    bench.stop().await;
    answer.await.unwrap().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().position, 2);
    let late = store.execute(None, vec![deposit(1, 5)], Detail::All).await;
    assert_eq!(late.unwrap_err(), Failure::Stopping);
    assert_eq!(*store.status().borrow(), StoreStatus::Stopped);
}

#[tokio::test]
async fn a_caller_who_leaves_changes_nothing() {
    let bench = bench();
    let answer = bench.submit(vec![open(1, 10)]);
    bench.appended(1).await;
    answer.abort();
    bench.say.send(Ok(())).unwrap();
    bench.say.send(Ok(())).unwrap();
    let again = bench.store.execute(None, vec![deposit(1, 1)], Detail::All).await.unwrap();
    assert_eq!(again.position, 2, "the command was carried out all the same");
    bench.stop().await;
}

/// Whoever gives commands is named in what they record, and in nothing that others gave. A repeat
/// is one whoever sends it, and what was recorded stays with whoever was first.
#[tokio::test]
async fn what_is_recorded_names_who_gave_the_command() {
    let bench = bench();
    for _ in 0..8 {
        bench.say.send(Ok(())).unwrap();
    }
    let mut repeated = deposit(1, 5);
    repeated.request_id = request(1);
    let submissions = [
        (Some("ada"), vec![open(1, 10), open(2, 10)]),
        (None, vec![deposit(1, 1)]),
        (Some("bob"), vec![repeated.clone(), transfer(None, 1, 2, 3)]),
        (Some("ada"), vec![deposit(2, 1)]),
    ];
    for (name, commands) in submissions {
        let given = name.map(principal);
        let answer = bench.store.execute(given.clone(), commands, Detail::All).await.unwrap();
        assert_eq!(answer.commands.len(), answer.outcomes.len());
        for (_, outcome) in answer.outcomes {
            let Outcome::Recorded(entry) = outcome else { panic!("{outcome:?}") };
            assert_eq!(entry.principal, given);
        }
    }
    for name in [Some("carol"), None] {
        let given = name.map(principal);
        let answer = bench.store.execute_patiently(given, vec![repeated.clone()], Detail::All);
        let answer = answer.await.unwrap().await.unwrap();
        assert!(matches!(answer.outcomes[0].1, Outcome::Replayed { position: 4 }));
    }
    bench.stop().await;
}

/// Commands of several callers come into one group, and nobody asks what they recorded: then one
/// entry's memory is that of the next.
#[test]
fn in_one_group_each_command_names_its_own_caller() {
    let (mut accounts, mut stage) = (state(), Stage::new(1));
    let callers = [Some("ada"), None, Some("bob"), Some("bob"), None];
    for (number, name) in (1..).zip(callers) {
        let (reply, _) = tokio::sync::oneshot::channel();
        let (principal, commands) = (name.map(principal), vec![open(number, 1)]);
        let (not_before_micros, detail) = (i64::MIN, Detail::Exceptions);
        let submission = Submission { principal, commands, not_before_micros, detail, reply };
        stage.decide(&mut accounts, submission, TIME);
    }
    let entries = (1..).zip(stage.group.records());
    let named = entries.map(|(at, (_, bytes))| codec().decode(&record(at, bytes)).unwrap());
    assert!(named.map(|entry| entry.principal).eq(callers.map(|name| name.map(principal))));
}

/// Those who ask what is settled fill no place of another: the writer hears of its sync, and goes
/// on.
#[tokio::test]
async fn any_number_of_questions_are_bounded_as_commands_are() {
    let bench = bench();
    let first = bench.submit((0..300).map(|number| open(number, 0)).collect());
    bench.appended(1).await;
    let answers = (0..70_000).map(|_| bench.store.settle(TIME).now_or_never());
    let refused: Vec<_> = answers.flatten().collect();
    assert!(refused.len() > 1_000, "{} are told", refused.len());
    let is_refusal = |answer: &Result<(), Failure>| *answer == Err(Failure::Overloaded);
    assert!(refused.iter().all(is_refusal), "the first group is not durable");
    for _ in 0..3 {
        bench.say.send(Ok(())).unwrap();
    }
    assert_eq!(first.await.unwrap().unwrap().position, 300);
    let opened = || async {
        loop {
            match bench.submit(vec![open(1_000, 0)]).await.unwrap() {
                Err(Failure::Overloaded) => tokio::time::sleep(Duration::from_millis(1)).await,
                answer => break answer,
            }
        }
    };
    let later = tokio::time::timeout(PATIENCE, opened()).await.expect("the store goes on");
    assert_eq!(later.unwrap().position, 301);
    assert_eq!(bench.store.waiting(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn a_single_command_is_refused_while_a_group_waits_for_room() {
    let bench = bench();
    let _waiting = bench.submit(vec![open(1, 0)]);
    *bench.has_room.lock().unwrap() = false;
    for _ in 0..20 {
        bench.say.send(Err(AppendError::Full)).unwrap();
    }
    bench.store.status().wait_for(|status| *status == StoreStatus::NoRoom).await.unwrap();
    let refused = tokio::time::timeout(PATIENCE, bench.submit(vec![open(2, 0)])).await;
    assert_eq!(refused.expect("it is told").unwrap().unwrap_err(), Failure::NoRoom);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_durable_is_settled_without_room() {
    let bench = bench_with_room(false);
    assert_eq!(bench.store.settle(TIME).await, Ok(()));
    let refused = bench.submit(vec![open(1, 0)]).await.unwrap();
    assert_eq!(refused.unwrap_err(), Failure::NoRoom);
    bench.stop().await;
}

/// A group whose sync has failed may be there after the restart.
#[tokio::test]
async fn nothing_is_settled_once_the_log_has_failed() {
    let bench = bench();
    let failing = bench.submit(vec![open(1, 10)]);
    bench.appended(1).await;
    bench.say.send(Err(AppendError::Failed(io::Error::other("EIO")))).unwrap();
    assert_eq!(failing.await.unwrap().unwrap_err(), Failure::Latched);
    assert_eq!(bench.store.settle(TIME).await, Err(Failure::Latched));
    bench.stop().await;
}

/// The clock was set back between a question and the next command.
#[tokio::test]
async fn nothing_is_recorded_at_a_time_that_is_settled() {
    let bench = bench();
    bench.store.settle(TIME + 5).await.unwrap();
    bench.say.send(Ok(())).unwrap();
    let answer = bench.submit(vec![open(1, 10)]).await.unwrap().unwrap();
    let [(0, Outcome::Recorded(entry))] = &answer.outcomes[..] else { panic!("{answer:?}") };
    assert_eq!(entry.time_micros, TIME + 6);
    bench.stop().await;
}

#[tokio::test]
async fn a_syncer_that_panics_lets_nobody_wait() {
    let bench = bench();
    let commands = (0..DEFECT_RECORDS).map(|number| open(u128::try_from(number).unwrap(), 0));
    let failing = bench.submit(commands.collect());
    assert_eq!(failing.await.unwrap().unwrap_err(), Failure::Latched, "nobody knows what is there");
    let later = tokio::time::timeout(PATIENCE, bench.submit(vec![open(1_000, 0)])).await;
    assert_eq!(later.expect("it is told").unwrap().unwrap_err(), Failure::Latched);
    tokio::time::timeout(PATIENCE, bench.stop()).await.expect("it ends");
}
