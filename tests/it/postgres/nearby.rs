//! What a server answers by itself that stands by, what it leaves to the owner of the ledger, and
//! that it never tells of what may still be lost.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use daybook::{
    ops::{Clock as _, SystemClock},
    proto::{
        Event, GetAccountRequest, GetSagaRequest, GetStatsRequest, GetStatsResponse,
        ListAccountEventsRequest, ListAccountsRequest, ListSagasRequest, ListTransactionsRequest,
        get_account_request::AsOf,
    },
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::{cable::Member, member, passed_on, scraped_member, unavailable_reason};
use crate::{
    engine,
    operations::Scrape,
    process::Server,
    service::{Client, Rpc, Tail, deposit, fresh_id, from, get, open, timestamp, transfer},
};

/// A lease of which the end is waited for.
const SHORT_LEASE: Duration = Duration::from_secs(1);
/// Longer than any test: nobody takes over.
const LEASE: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(20);
/// How soon a tail ends that may not hear of what there is.
const UNHEARD_WITHIN: Duration = Duration::from_secs(25);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For how long nothing is to be told.
const NOT_TOLD_FOR: Duration = Duration::from_millis(600);

async fn client(server: &Server) -> Client {
    Client::over(server.connect().await, server.address())
}

async fn answered_nearby(server: &Server) -> u64 {
    passed_on(&Scrape::at(server.operations()).await, "answered_nearby")
}

/// What a call comes to that the owner does not hear of, as soon as the server knows enough.
async fn until_nearby<T>(server: &Server, call: impl AsyncFn() -> Result<T, Status>) -> T {
    let begun = Instant::now();
    loop {
        let before = answered_nearby(server).await;
        let answer = call().await;
        if answered_nearby(server).await > before {
            return answer.expect("it is answered");
        }
        assert!(begun.elapsed() < WITHIN, "it is never answered nearby");
        sleep(LOOK_AGAIN).await;
    }
}

/// What a read is answered with so.
async fn nearby<R: Rpc + Clone>(server: &Server, client: &Client, request: R) -> R::Response {
    until_nearby(server, async || client.call(request.clone()).await).await
}

fn stats(min_position: Option<i64>) -> GetStatsRequest {
    GetStatsRequest { min_position }
}

/// Two servers of a ledger with a transfer, and a client of each.
struct Pair {
    owning: Server,
    standing: Server,
    owner: Client,
    other: Client,
    from: String,
    saga_id: String,
    head: i64,
}

impl Pair {
    async fn new(url: &str) -> Self {
        let (owning, standing) = (member(url, LEASE).await, scraped_member(url, LEASE, &[]).await);
        let (owner, other) = (client(&owning).await, client(&standing).await);
        let (from, to) = (owner.opened(1_000).await, owner.opened(0).await);
        let transferred = owner.call(transfer(&from, &to, 300)).await.unwrap();
        let saga_id = transferred.saga.unwrap().saga_id;
        let head = owner.stats().await.position;
        Self { owning, standing, owner, other, from, saga_id, head }
    }

    /// A read of the first account that has to be this new.
    fn account(&self, min_position: i64) -> GetAccountRequest {
        GetAccountRequest { min_position: Some(min_position), ..get(&self.from) }
    }

    /// As it was.
    fn as_of(&self, as_of: AsOf) -> GetAccountRequest {
        GetAccountRequest { as_of: Some(as_of), ..self.account(self.head) }
    }

    /// Finds both servers to answer a read in the same way, each by itself.
    async fn assert_same<R: Rpc<Response: PartialEq + Debug> + Clone>(&self, request: R) {
        let expected = self.owner.call(request.clone()).await.unwrap();
        assert_eq!(nearby(&self.standing, &self.other, request).await, expected);
    }

    /// Finds a read to have gone to the owner, which is gone.
    async fn assert_of_the_owner<R: Rpc<Response: Debug>>(&self, request: R) {
        let refused = self.other.call(request).await.unwrap_err();
        assert_eq!(unavailable_reason(&refused), "OWNER_UNREACHABLE");
    }
}

/// Intent: who says how new what is read has to be is answered by any server as by the owner.
#[tokio::test]
async fn any_server_answers_who_says_how_new() {
    let Some(url) = super::new_ledger() else { return };
    let pair = Pair::new(&url).await;
    let (account_id, min_position) = (pair.from.clone(), Some(pair.head));
    pair.assert_same(pair.account(pair.head)).await;
    pair.assert_same(pair.account(0)).await;
    pair.assert_same(pair.as_of(AsOf::AsOfVersion(1))).await;
    pair.assert_same(pair.as_of(AsOf::AsOfPosition(pair.head - 1))).await;
    let page_size = 1;
    let accounts = ListAccountsRequest { page_size, min_position, ..Default::default() };
    pair.assert_same(accounts).await;
    let events = ListAccountEventsRequest { account_id, min_position, ..Default::default() };
    pair.assert_same(events).await;
    let transactions = ListTransactionsRequest { page_size, min_position, ..Default::default() };
    pair.assert_same(transactions).await;
    pair.assert_same(ListSagasRequest { min_position, ..Default::default() }).await;
    pair.assert_same(GetSagaRequest { saga_id: pair.saga_id.clone(), min_position }).await;
    let told = nearby(&pair.standing, &pair.other, stats(min_position)).await;
    let verified_position = told.verified_position;
    assert_eq!(verified_position, pair.head, "all that is known here was read");
    let expected = pair.owner.call(stats(min_position)).await.unwrap();
    assert_eq!(told, GetStatsResponse { verified_position, ..expected });
}

/// Intent: what a server that stands by may not know is the owner's to tell; the rest it tells
/// also when that one is gone.
#[tokio::test]
async fn what_is_not_known_is_left_to_the_owner() {
    let Some(url) = super::new_ledger() else { return };
    let mut pair = Pair::new(&url).await;
    let head = pair.head;
    assert_eq!(nearby(&pair.standing, &pair.other, stats(Some(head))).await.position, head);
    let later = pair.owner.opened(7).await;
    assert_eq!(pair.other.balance(&later).await, 7, "the newest is the owner's to tell");
    let newest = GetAccountRequest { min_position: Some(head + 1), ..get(&later) };
    assert_eq!(pair.other.call(newest).await.unwrap().position, head + 1, "whoever answers");

    pair.owning.kill();
    pair.assert_of_the_owner(get(&pair.from)).await;
    pair.assert_of_the_owner(pair.account(head + 2)).await;
    pair.assert_of_the_owner(pair.as_of(AsOf::AsOfPosition(head + 2))).await;
    pair.assert_of_the_owner(pair.as_of(AsOf::AsOfVersion(9))).await;
    let now = timestamp(SystemClock.now_micros());
    pair.assert_of_the_owner(pair.as_of(AsOf::AsOfTime(now))).await;
    // They may have come since.
    let min_position = Some(head);
    pair.assert_of_the_owner(GetAccountRequest { min_position, ..get(&fresh_id()) }).await;
    pair.assert_of_the_owner(GetSagaRequest { saga_id: fresh_id(), min_position }).await;
    let known = answered_nearby(&pair.standing).await;
    let wrong = GetAccountRequest { min_position, ..get("") };
    assert_eq!(pair.other.call(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    let account = pair.other.call(pair.account(head)).await.unwrap().account.unwrap();
    assert_eq!(account.balance_minor, 700);
    assert_eq!(answered_nearby(&pair.standing).await, known + 2);
}

/// A tail from the beginning that the owner does not hear of.
async fn tail_nearby(server: &Server) -> Tail {
    let client = client(server).await;
    until_nearby(server, async || client.tail(from(0)).await).await
}

/// The events that a tail tells next, up to a position.
async fn told(tail: &mut Tail, until: i64) -> Vec<Event> {
    let (mut events, mut position) = (Vec::new(), 0);
    while position < until {
        let message = timeout(WITHIN, tail.message()).await.expect("it goes on").unwrap().unwrap();
        events.extend(message.events);
        position = message.position;
    }
    events
}

/// Intent: who follows the ledger by a server that stands by is told what the owner's callers are,
/// and goes on without a break when the owner is gone and this server takes its place.
#[tokio::test]
async fn a_tail_outlives_the_owner() {
    let Some(url) = super::new_ledger() else { return };
    let mut owning = member(&url, SHORT_LEASE).await;
    let mut standing = scraped_member(&url, SHORT_LEASE, &[]).await;
    let (owner, other) = (client(&owning).await, client(&standing).await);
    for _ in 0..100 {
        owner.opened(1).await;
    }
    let mut tail = tail_nearby(&standing).await;
    let mut events = told(&mut tail, 100).await;
    for _ in 0..100 {
        owner.opened(1).await;
    }
    events.extend(told(&mut tail, 200).await);
    owning.kill();
    standing.wait_for_line("\"serving\"").await;
    for _ in 0..100 {
        other.opened(1).await;
    }
    events.extend(told(&mut tail, 300).await);
    assert_eq!(events, other.log().await);
    standing.terminate();
    let ended = timeout(WITHIN, tail.message()).await.expect("it ends").unwrap_err();
    assert_eq!(unavailable_reason(&ended), "STOPPING");
}

/// Intent: a server that does not hear of the log any more does not keep silent about it, and what
/// it does not know it does not leave out.
#[tokio::test]
async fn who_hears_nothing_does_not_pretend() {
    let Some(url) = super::new_ledger() else { return };
    let owning = member(&url, LEASE).await;
    let standing = Member::start(&url, LEASE).await;
    let (owner, other) = (client(&owning).await, client(&standing.server).await);
    let account_id = owner.opened(1).await;
    let mut tail = tail_nearby(&standing.server).await;
    told(&mut tail, 1).await;
    standing.pull_databases();
    for _ in 0..4 {
        owner.call(deposit(&account_id, 1)).await.unwrap();
    }
    // Who begins a list at the owner and goes on with it here.
    let list = ListTransactionsRequest {
        account_id,
        page_size: 1,
        min_position: Some(1),
        ..Default::default()
    };
    let page_token = owner.call(list.clone()).await.unwrap().next_page_token;
    let next = ListTransactionsRequest { page_token, ..list };
    let expected = owner.call(next.clone()).await.unwrap();
    assert_eq!(expected.transactions[0].position, 4);
    assert_eq!(other.call(next).await.unwrap(), expected);
    let ended = timeout(UNHEARD_WITHIN, tail.message()).await.expect("it ends").unwrap_err();
    assert_eq!(unavailable_reason(&ended), "LOG_UNREACHABLE");
    let mut tail = other.tail(from(0)).await.unwrap();
    assert_eq!(told(&mut tail, 5).await, owner.log().await, "the owner tells");
    standing.plug();
}

/// Intent: what everybody can read in the database but its standby does not have may be lost with
/// it, and is not told before it cannot.
#[tokio::test]
async fn what_may_still_be_lost_is_not_told() {
    let Some(database) = engine::Database::start(&["--standby"]) else { return };
    let url = engine::ledger_of(&database.url, "nearby");
    let (owning, standing) = (member(&url, LEASE).await, scraped_member(&url, LEASE, &[]).await);
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

/// Intent: who has shown what the database does not have any more ends, and reads what there is.
#[tokio::test]
async fn who_has_shown_what_is_lost_starts_again() {
    let Some(url) = super::new_ledger() else { return };
    let mut pair = Pair::new(&url).await;
    pair.assert_same(pair.account(pair.head)).await;
    // As if it had been restored from a backup that was a little older.
    engine::execute(
        &url,
        "alter table blocks disable trigger append_only;
        alter table events disable trigger append_only;
        delete from events where position > 2; delete from blocks where last_position > 2;
        update partition_head set (position, hash, bytes) =
            (select last_position, hash, 0 from blocks where last_position = 2)",
    );
    assert_eq!(pair.standing.exit_code(WITHIN).await, super::EXIT_IN_USE);
    let said = pair.standing.last_word().await;
    assert!(said.contains("the database has lost what was read of the log"), "{said}");
    let again = scraped_member(&url, LEASE, &[]).await;
    let told = nearby(&again, &client(&again).await, stats(Some(1))).await;
    assert_eq!(told.position, 2);
}
