//! What callers hear of servers that are cut off: nobody waits for ever for one that cannot know
//! any more whose the ledger is.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{
    EXIT_IN_USE, cable::Member, end_of, member, new_ledger, open, tail_of_owner, unavailable_reason,
};
use crate::crash::call::Client;

/// The lease of these servers.
const LEASE: Duration = Duration::from_secs(1);
/// Longer than any test: nobody takes over.
const LONG_LEASE: Duration = Duration::from_secs(60);
/// How soon a call ends that is passed on to an owner that is cut off, once another one owns the
/// ledger; less than how long a call may take.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(6);
/// How soon an owner gives up that cannot renew its lease.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);
/// How soon what waits for a server is ended that gives no sign of life, and how soon it is reached
/// again.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(25);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Intent: when an owner is cut off, whoever waits for it through another server hears of it as
/// soon as that one owns the ledger, and whoever asked it itself as soon as it has given up.
#[tokio::test]
async fn nobody_waits_for_an_owner_that_is_cut_off() {
    let Some(url) = new_ledger() else { return };
    let mut owner = Member::start(&url, LEASE).await;
    owner.server.wait_for_line("\"serving\"").await;
    let mut other = member(&url, LEASE).await;
    let mut client = Client::new(other.connect().await);
    let (own_tail, passed_tail) = (tail_of_owner(&owner.server).await, tail_of_owner(&other).await);
    assert_eq!(open(&mut client).await.unwrap(), 1);
    owner.pull();
    let refused = timeout(TAKEN_OVER_WITHIN, open(&mut client)).await.expect("it ends");
    assert_eq!(unavailable_reason(&refused.unwrap_err()), "OWNER_UNREACHABLE");
    assert_eq!(end_of(passed_tail, 1, TAKEN_OVER_WITHIN).await, "OWNER_UNREACHABLE");
    other.wait_for_line("\"serving\"").await;
    assert_eq!(open(&mut client).await.unwrap(), 2);
    assert_eq!(end_of(own_tail, 1, GIVEN_UP_WITHIN).await, "LOG_UNREACHABLE");
    owner.plug();
    owner.assert_ends_with(EXIT_IN_USE).await;
}

/// Intent: when only the way between two servers is cut, nobody takes over, and whoever waits
/// hears of that as well.
#[tokio::test]
async fn nobody_waits_for_an_owner_that_gives_no_sign_of_life() {
    let Some(url) = new_ledger() else { return };
    let mut owner = Member::start(&url, LONG_LEASE).await;
    owner.server.wait_for_line("\"serving\"").await;
    let other = member(&url, LONG_LEASE).await;
    let mut client = Client::new(other.connect().await);
    let passed_tail = tail_of_owner(&other).await;
    assert_eq!(open(&mut client).await.unwrap(), 1);
    owner.pull_peers();
    assert_eq!(end_of(passed_tail, 1, CUT_OFF_WITHIN).await, "OWNER_UNREACHABLE");
    owner.plug();
    let recovered = async {
        while open(&mut client).await.is_err() {
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(CUT_OFF_WITHIN, recovered).await.expect("it is reached again");
}
