//! How long a ledger is without an owner: after a kill, and when the owner is asked to stop.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{member, open};
use crate::{crash::call::Client, engine, process::Server};

/// The lease of these servers.
const LEASE: Duration = Duration::from_secs(1);
/// How long it may take at most after a kill: half of that again is for looking and for the load.
const KILLED_MAX: Duration = Duration::from_millis(1_500);
/// How long when the owner hands it over. On a machine that many tests share.
const STOPPED_MAX: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const ROUNDS: usize = 3;
/// How long a server may take to end whose log has failed, and how it ends.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const EXIT_FAILURE: i32 = 1;

/// For how long no command is accepted by the one that stands by after the owner's end began.
async fn gap(url: &str, end: impl FnOnce(&mut Server)) -> Duration {
    let mut owner = member(url, LEASE).await;
    let other = member(url, LEASE).await;
    let mut client = Client::new(other.connect().await);
    while open(&mut client).await.is_err() {
        sleep(LOOK_AGAIN).await;
    }
    let begun = Instant::now();
    end(&mut owner);
    // The old owner may still accept what is passed on to it.
    while !other.lines().iter().any(|line| line.contains("\"serving\""))
        || open(&mut client).await.is_err()
    {
        sleep(LOOK_AGAIN).await;
    }
    begun.elapsed()
}

/// Intent: a killed owner is followed within a lease and a half, one that stops at once.
#[tokio::test]
async fn a_takeover_is_soon() {
    let Some(url) = super::new_ledger() else { return };
    let (mut killed, mut stopped) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        killed.push(gap(&url, Server::kill).await);
        // The server that was left has ended as well, without a word to anybody.
        sleep(LEASE).await;
        stopped.push(gap(&url, |owner| owner.terminate()).await);
        sleep(LEASE).await;
    }
    for gaps in [&mut killed, &mut stopped] {
        gaps.sort();
    }
    println!("without an owner: after a kill {killed:?}, when asked to stop {stopped:?}");
    // The rest of the machine has bad moments; a promise is kept most of the time, or not at all.
    assert!(killed[ROUNDS / 2] <= KILLED_MAX, "{killed:?}");
    assert!(stopped[ROUNDS / 2] <= STOPPED_MAX, "{stopped:?}");
    assert!(killed[0] >= LEASE / 4, "it was taken over while its lease went on: {killed:?}");
}

/// Intent: an owner that can append nothing any more makes room for another one.
#[tokio::test]
async fn an_owner_whose_log_has_failed_ends() {
    let Some(url) = super::new_ledger() else { return };
    let mut owner = member(&url, LEASE).await;
    let mut client = Client::new(owner.connect().await);
    while open(&mut client).await.is_err() {
        sleep(LOOK_AGAIN).await;
    }
    let refuse = "create function fail() returns trigger language plpgsql as
            'begin raise ''not now''; end';
        create trigger fails before insert on blocks for each row execute function fail()";
    engine::execute(&url, refuse);
    open(&mut client).await.unwrap_err();
    assert_eq!(owner.exit_code(ENDS_WITHIN).await, EXIT_FAILURE, "{:?}", owner.lines());
    engine::execute(&url, "drop trigger fails on blocks");
    let next = member(&url, LEASE).await;
    let mut client = Client::new(next.connect().await);
    while open(&mut client).await.is_err() {
        sleep(LOOK_AGAIN).await;
    }
}
