//! What a server answers by itself that stands by, what it leaves to the owner of the ledger, and
//! that it never tells of what may still be lost.

use std::time::{Duration, Instant, SystemTime};

use daybook::proto::{
    GetAccountRequest, GetSagaRequest, GetStatsRequest, GetStatsResponse, ListAccountEventsRequest,
    ListAccountsRequest, ListSagasRequest, ListTransactionsRequest, get_account_request::AsOf,
};
use tokio::time::sleep;
use tonic::Code;

use super::{member, passed_on, scraped_member, unavailable_reason};
use crate::{
    engine,
    operations::Scrape,
    process::Server,
    service::{Client, Rpc, fresh_id, get, open, transfer},
};

/// Longer than any test: nobody takes over.
const LEASE: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For how long nothing is to be told.
const NOT_TOLD_FOR: Duration = Duration::from_millis(600);

async fn client(server: &Server) -> Client {
    Client::over(server.connect().await, server.address())
}

async fn answered_nearby(server: &Server) -> u64 {
    passed_on(&Scrape::at(server.operations()).await, "answered_nearby")
}

/// What a read is answered with that the owner does not hear of, as soon as the server knows it.
async fn nearby<R: Rpc + Clone>(server: &Server, client: &Client, request: R) -> R::Response {
    let begun = Instant::now();
    loop {
        let before = answered_nearby(server).await;
        let answer = client.call(request.clone()).await;
        if answered_nearby(server).await > before {
            return answer.expect("it is answered");
        }
        assert!(begun.elapsed() < WITHIN, "it is never answered nearby");
        sleep(LOOK_AGAIN).await;
    }
}

/// Finds owner and other to answer a read in the same way, the other by itself.
macro_rules! assert_same {
    ($owner:expr, $server:expr, $other:expr, $request:expr) => {
        let expected = $owner.call($request).await.unwrap();
        assert_eq!(nearby($server, $other, $request).await, expected);
    };
}

fn stats(min_position: Option<i64>) -> GetStatsRequest {
    GetStatsRequest { min_position }
}

/// Intent: who says how new what is read has to be is answered by any server, as by the owner, also
/// when the owner is gone; nobody else is answered by a server that may not know the newest.
#[tokio::test]
async fn who_says_how_new_is_answered_without_the_owner() {
    let Some(url) = super::new_ledger() else { return };
    let (mut owning, standing) = (member(&url, LEASE).await, scraped_member(&url, LEASE).await);
    let (owner, other) = (client(&owning).await, client(&standing).await);
    let (from, to) = (owner.opened(1_000).await, owner.opened(0).await);
    let saga_id = owner.call(transfer(&from, &to, 300)).await.unwrap().saga.unwrap().saga_id;
    let head = owner.stats().await.position;
    let min_position = Some(head);

    let account_id = from.clone();
    let account = GetAccountRequest { min_position, ..get(&from) };
    assert_same!(owner, &standing, &other, account.clone());
    let as_of = |as_of| GetAccountRequest { as_of: Some(as_of), ..account.clone() };
    for past in [as_of(AsOf::AsOfVersion(1)), as_of(AsOf::AsOfPosition(head - 1))] {
        assert_same!(owner, &standing, &other, past.clone());
    }
    assert_same!(
        owner,
        &standing,
        &other,
        ListAccountsRequest { page_size: 1, min_position, ..Default::default() }
    );
    assert_same!(
        owner,
        &standing,
        &other,
        ListAccountEventsRequest {
            account_id: account_id.clone(),
            min_position,
            ..Default::default()
        }
    );
    assert_same!(
        owner,
        &standing,
        &other,
        ListTransactionsRequest { page_size: 2, min_position, ..Default::default() }
    );
    assert_same!(owner, &standing, &other, ListSagasRequest { min_position, ..Default::default() });
    assert_same!(
        owner,
        &standing,
        &other,
        GetSagaRequest { saga_id: saga_id.clone(), min_position }
    );
    let told = nearby(&standing, &other, stats(min_position)).await;
    assert_eq!(told.verified_position, head, "all that is known here was read");
    let expected = owner.call(stats(min_position)).await.unwrap();
    let verified_position = told.verified_position;
    assert_eq!(told, GetStatsResponse { verified_position, ..expected });

    let before = answered_nearby(&standing).await;
    let later = owner.opened(7).await;
    assert_eq!(other.balance(&later).await, 7, "the newest is the owner's to tell");
    let newest = GetAccountRequest { min_position: Some(head + 1), ..get(&later) };
    assert_eq!(other.call(newest).await.unwrap().position, head + 1, "whoever answers");
    owning.kill();
    let now = prost_types::Timestamp::from(SystemTime::now());
    for of_the_owner in [
        get(&from),
        GetAccountRequest { min_position: Some(head + 2), ..get(&from) },
        // It may have come since.
        GetAccountRequest { min_position, ..get(&fresh_id()) },
        as_of(AsOf::AsOfPosition(head + 2)),
        as_of(AsOf::AsOfVersion(9)),
        as_of(AsOf::AsOfTime(now)),
    ] {
        let refused = other.call(of_the_owner).await.unwrap_err();
        assert_eq!(unavailable_reason(&refused), "OWNER_UNREACHABLE");
    }
    let saga = GetSagaRequest { saga_id: fresh_id(), min_position };
    let refused = other.call(saga).await.unwrap_err();
    assert_eq!(unavailable_reason(&refused), "OWNER_UNREACHABLE");
    let mut wrong = account.clone();
    wrong.account_id.clear();
    assert_eq!(other.call(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    let known = answered_nearby(&standing).await;
    assert!(known > before, "what is wrong is told nearby");
    assert_eq!(other.call(account).await.unwrap().account.unwrap().balance_minor, 700);
    assert_eq!(answered_nearby(&standing).await, known + 1);
}

/// Intent: what everybody can read in the database but its standby does not have may be lost with
/// it, and is not told before it cannot.
#[tokio::test]
async fn what_may_still_be_lost_is_not_told() {
    let Some(database) = engine::Database::start(&["--standby"]) else { return };
    let url = engine::ledger_of(&database.url, "nearby");
    let (owning, standing) = (member(&url, LEASE).await, scraped_member(&url, LEASE).await);
    let (owner, other) = (client(&owning).await, client(&standing).await);
    owner.opened(1).await;
    assert_eq!(nearby(&standing, &other, stats(Some(1))).await.position, 1);
    // From now on a standby is waited for that there is not, and whoever waits is made to give up.
    engine::execute(&url, "alter system set synchronous_standby_names = 'nobody'");
    engine::execute(&url, "select pg_reload_conf()");
    let opening = tokio::spawn(async move { owner.call(open("ada", 2)).await });
    let seen = "select position from events where position = 2";
    let cancel = "select pg_cancel_backend(pid) from pg_stat_activity
        where application_name = 'daybook' and wait_event = 'SyncRep'";
    let mut begun = Instant::now();
    let mut is_seen = false;
    while begun.elapsed() < NOT_TOLD_FOR {
        engine::query(&url, cancel).unwrap();
        if !is_seen {
            is_seen = !engine::query(&url, seen).unwrap().is_empty();
            begun = Instant::now();
        }
        let told = other.call(stats(Some(1))).await.unwrap();
        assert_eq!((told.position, told.account_count), (1, 1));
        sleep(LOOK_AGAIN).await;
    }
    assert!(!opening.is_finished(), "nobody was told either");
    engine::execute(&url, "alter system set synchronous_standby_names = 'standby'");
    engine::execute(&url, "select pg_reload_conf()");
    assert!(opening.await.unwrap().is_ok());
    assert_eq!(nearby(&standing, &other, stats(Some(2))).await.position, 2);
}
