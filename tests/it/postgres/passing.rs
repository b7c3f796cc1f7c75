//! What a server passes on to the owner of the ledger, and what it does not. That it answers as
//! the owner does is shown by the tests of the API, which run over such a server as well.

use std::time::Duration;

use daybook::proto::{
    BatchCommand, ExecuteBatchRequest, ExecuteStreamRequest, GetStatsRequest, OpenAccountRequest,
    TailEventsRequest, batch_command::Command,
};
use tokio::time::timeout;
use tonic::{Code, Request};

use super::{end_of, member, open, passed_on, scraped_member, tail_of_owner, unavailable_reason};
use crate::{
    crash::{audit::Reader, call::Client},
    engine,
    operations::Scrape,
};

/// Longer than any test: nobody takes over.
const LEASE: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(20);
/// A log that takes a while to be read.
const BATCHES: usize = 12;
const BATCH_COMMANDS: usize = 8_000;
/// How many tails, and streams of commands, are not read: of the former more than connections that
/// lead to the owner.
const UNREAD_TAILS: usize = 64;
const UNREAD_STREAMS: usize = 8;

/// Intent: what one server was told, all of them tell.
#[tokio::test]
async fn whoever_is_asked_has_one_ledger() {
    let Some(url) = super::new_ledger() else { return };
    let (owner, other) = (member(&url, LEASE).await, member(&url, LEASE).await);
    let mut clients = [Client::new(owner.connect().await), Client::new(other.connect().await)];
    for position in 1..=10 {
        let asked = usize::try_from(position).unwrap() % 2;
        assert_eq!(open(&mut clients[asked]).await.unwrap(), position);
        for server in [&owner, &other] {
            let stats = Reader::new(server.connect().await);
            let stats = { stats }.get_stats(GetStatsRequest::default()).await.unwrap();
            assert_eq!(stats.into_inner().position, position);
        }
    }
}

/// Intent: a call goes from one server to another once. Of two that believe that the other owns
/// the ledger, none keeps it for ever.
#[tokio::test]
async fn a_call_is_passed_on_once() {
    let Some(url) = super::new_ledger() else { return };
    let _owner = member(&url, LEASE).await;
    let mut one = scraped_member(&url, LEASE, &[]).await;
    let mut other = scraped_member(&url, LEASE, &[]).await;
    let [of_one, of_other] = [&one, &other].map(|server| format!("http://{}", server.address()));
    for (server, says) in [(&mut one, of_other), (&mut other, of_one)] {
        let sql = format!(
            "update nodes set address = '{says}' where id = (select owner from assignment)"
        );
        engine::execute(&url, &sql);
        let mut client = Client::new(server.connect().await);
        assert!(server.tells(&says).await);
        let status = open(&mut client).await.unwrap_err();
        assert_eq!(unavailable_reason(&status), "NOT_OWNER");
    }
    // Each was asked once, and has passed it on to the other one, which has not.
    for server in [&one, &other] {
        let told = Scrape::at(server.operations()).await;
        for outcome in ["answered", "not_owner"] {
            assert_eq!(passed_on(&told, outcome), 1, "{outcome}");
        }
    }
    let events = engine::query(&url, "select position from events").unwrap();
    assert!(events.is_empty(), "nothing was carried out");
}

/// Intent: when the owner is gone, who asked another server is told so, also in the middle of a
/// stream.
#[tokio::test]
async fn an_owner_that_is_gone_is_told_of() {
    let Some(url) = super::new_ledger() else { return };
    let (mut owner, other) = (member(&url, LEASE).await, member(&url, LEASE).await);
    let mut client = Client::new(other.connect().await);
    let tail = tail_of_owner(&other).await;
    assert_eq!(open(&mut client).await.unwrap(), 1);
    owner.kill();
    assert_eq!(end_of(tail, 1, WITHIN).await, "OWNER_UNREACHABLE");
    let refused = open(&mut client).await.unwrap_err();
    assert_eq!(unavailable_reason(&refused), "OWNER_UNREACHABLE");
}

/// Intent: a server is of use at once, also while it still has much of the log to read, or more
/// comes all the time.
#[tokio::test]
async fn who_owns_the_ledger_is_known_before_all_of_it_is() {
    let Some(url) = super::new_ledger() else { return };
    let mut owner = member(&url, LEASE).await;
    // Whose the log is it says a moment before it takes calls.
    owner.wait_for_line("serving").await;
    let mut client = Client::new(owner.connect().await);
    for _ in 0..BATCHES {
        let request = ExecuteBatchRequest { commands: openings(), return_results: false };
        client.execute_batch(request).await.unwrap();
    }
    let head = i64::try_from(BATCHES * BATCH_COMMANDS).unwrap();
    let other = scraped_member(&url, LEASE, &[]).await;
    let followed = Scrape::at(other.operations()).await.get("daybook_standby_position");
    assert_eq!(open(&mut Client::new(other.connect().await)).await.unwrap(), head + 1);
    assert!(followed < head.unsigned_abs(), "it had not read all of it: {followed}");
}

/// As many accounts as a batch opens.
fn openings() -> Vec<BatchCommand> {
    let opening = OpenAccountRequest { owner: "Ada Lovelace".to_owned(), ..Default::default() };
    let opening = BatchCommand { command: Some(Command::OpenAccount(opening)) };
    vec![opening; BATCH_COMMANDS]
}

/// Intent: who takes nothing of what it has asked for is in the way of nobody whose calls go to the
/// owner over the same connections.
#[tokio::test]
async fn answers_that_are_not_taken_hinder_nobody() {
    let Some(url) = super::new_ledger() else { return };
    let (owner, other) = (member(&url, LEASE).await, member(&url, LEASE).await);
    let mut tails = Vec::new();
    for _ in 0..UNREAD_TAILS {
        let mut reader = Reader::new(other.connect().await);
        tails.push(reader.tail_events(TailEventsRequest::default()).await.unwrap());
    }
    let mut streams = Vec::new();
    for _ in 0..UNREAD_STREAMS {
        let message = ExecuteStreamRequest { commands: openings(), return_results: true };
        let messages = tokio_stream::iter(std::iter::repeat_n(message, BATCHES));
        let mut client = Client::new(other.connect().await);
        streams.push(client.execute_stream(messages).await.unwrap());
    }
    let mut client = Client::new(owner.connect().await);
    for _ in 0..BATCHES {
        let request = ExecuteBatchRequest { commands: openings(), return_results: false };
        client.execute_batch(request).await.unwrap();
    }
    // Each connection is tried.
    let calls = (0..UNREAD_TAILS).map(|_| async {
        let mut client = Client::new(other.connect().await);
        timeout(WITHIN, open(&mut client)).await.expect("it is answered").unwrap()
    });
    futures_util::future::join_all(calls).await;
    let mut client = Client::new(other.connect().await);
    let request = ExecuteBatchRequest { commands: openings(), return_results: true };
    let large = timeout(WITHIN, client.execute_batch(request)).await.expect("it is answered");
    assert_eq!(large.unwrap().into_inner().results.len(), BATCH_COMMANDS);
}

/// Intent: a caller that does not wait is told that its time is over, and not that the owner were
/// gone.
#[tokio::test]
async fn a_deadline_is_a_deadline_elsewhere_as_well() {
    let Some(url) = super::new_ledger() else { return };
    let (owner, other) = (member(&url, LEASE).await, scraped_member(&url, LEASE, &[]).await);
    let mut client = Client::new(other.connect().await);
    open(&mut client).await.unwrap();
    owner.pause();
    for millis in 1..=40 {
        let mut request = Request::new(OpenAccountRequest::default());
        request.get_mut().owner = "Ada Lovelace".to_owned();
        let said = format!("{millis}m").parse().unwrap();
        request.metadata_mut().insert("grpc-timeout", said);
        // The client looks at its clock as well.
        let late = client.open_account(request).await.unwrap_err().code();
        assert!(matches!(late, Code::DeadlineExceeded | Code::Cancelled), "{late}");
    }
    owner.resume();
    let told = Scrape::at(other.operations()).await;
    assert_eq!(passed_on(&told, "owner_unreachable"), 0);
}
