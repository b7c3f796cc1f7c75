//! What callers rest on while the store is busy, cannot reach its log, or has none: places in the
//! mailbox, and what they are told of commands that are in doubt.

use super::*;

/// Who has places in the mailbox is not refused for want of any, and keeps none that it does not
/// need.
#[tokio::test]
async fn places_that_were_given_are_kept() {
    let bench = bench();
    let (store, detail) = (&bench.store, Detail::Exceptions);
    let ours = store.reserve(100).unwrap();
    let others = store.reserve(MAILBOX_COMMANDS_MAX - 100).unwrap();
    assert_eq!(store.reserve(1).map(drop), Err(Failure::Overloaded));
    assert!(!store.takes(1));
    bench.say.send(Ok(())).unwrap();
    let commands = (0..30).map(|number| open(number, 0)).collect();
    let answer = store.execute_in(ours, None, commands, detail).await;
    assert_eq!(answer.unwrap().position, 30);
    let free = async |count: usize| {
        while store.waiting() > MAILBOX_COMMANDS_MAX - count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, free(100)).await.expect("none is kept");
    drop(others);
    assert_eq!(store.waiting(), 0);
    let few = store.reserve(2).unwrap();
    let refused = store.execute_in(few, None, vec![deposit(0, 1); 3], detail).await;
    assert_eq!(refused.unwrap_err(), Failure::Overloaded);
    assert_eq!((store.waiting(), bench.stop().await), (0, ()));
}

/// Nobody is told that nothing happened while that is in doubt; and what is durable needs no log to
/// be told again.
#[tokio::test]
async fn repeats_are_not_refused_while_their_first_time_is_in_doubt() {
    let bench = bench();
    let with_id = |number: u128, id: u128| Command {
        request_id: Some(RequestId::new(Uuid::from_u128(id))),
        ..open(number, 0)
    };
    let (durable, doubtful) = (with_id(1, 91), with_id(2, 92));
    bench.say.send(Ok(())).unwrap();
    bench.submit(vec![durable.clone()]).await.unwrap().unwrap();
    let first = bench.submit(vec![doubtful.clone()]);
    // The writer hears so, and then the syncer, who tells it.
    for _ in 0..2 {
        bench.say.send(Err(AppendError::Unreachable("no answer".into()))).unwrap();
    }
    bench.store.status().wait_for(|it| *it == StoreStatus::Unreachable).await.unwrap();
    let again_id = doubtful.clone();
    let again = bench.submit(vec![doubtful.clone(), durable]);
    let refused = bench.submit(vec![with_id(3, 93), doubtful]).await.unwrap();
    assert_eq!(refused.unwrap_err(), Failure::Unreachable, "not all of these were decided");
    assert!(!again.is_finished());
    // Who repeats and leaves keeps no places.
    let waiting = bench.store.waiting();
    let leaving = bench.store.execute(None, vec![again_id.clone(); 100], Detail::All);
    let left = tokio::time::timeout(Duration::from_millis(50), leaving).await;
    assert!(left.is_err(), "{left:?}");
    bench.say.send(Err(AppendError::Unreachable("still none".into()))).unwrap();
    let freed = async {
        while bench.store.waiting() > waiting {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("they are free again");
    bench.say.send(Ok(())).unwrap();
    assert_eq!(first.await.unwrap().unwrap().position, 2);
    let again = again.await.unwrap().unwrap();
    assert!(matches!(
        again.outcomes[..],
        [(0, Outcome::Replayed { position: 2 }), (1, Outcome::Replayed { position: 1 })]
    ));
    bench.stop().await;
}

/// A log that was found damaged has no writer, however often it is asked.
#[tokio::test]
async fn a_damaged_store_says_so_to_any_number() {
    let (follower, _) = blocking::sync_channel(1);
    let clock = Arc::new(ManualClock::new(TIME));
    let parts = Parts { state: state(), log: None, clock, follower, durable: watch::channel(0).0 };
    let (store, _) = start(parts).unwrap();
    for _ in 0..20 {
        let many = vec![deposit(0, 1); MAILBOX_COMMANDS_MAX / 8];
        let refused = store.execute(None, many, Detail::All).await;
        assert_eq!(refused.unwrap_err(), Failure::Damaged);
        let refused = store.execute_patiently(None, vec![deposit(0, 1)], Detail::All).await;
        assert_eq!(refused.err(), Some(Failure::Damaged));
    }
    assert_eq!(store.waiting(), 0);
}
