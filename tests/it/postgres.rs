//! The engine on PostgreSQL: what a server says of a database that is not fit, what people find in
//! the tables, servers that take a ledger over from each other or are cut off, what scrapers are
//! told of them, and ledgers that come from files and go back.
//!
//! `DAYBOOK_TEST_FAULTS` sets how many faults the cluster meets, `DAYBOOK_TEST_SEED` by which
//! chance. The tests of the API run over this engine as well: see `tests/postgres/suite`.

use std::{path::Path, time::Duration};

use daybook::proto::{OpenAccountRequest, TailEventsRequest, TailEventsResponse};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::{
    crash::{audit::Reader, call::Client},
    engine,
    operations::Scrape,
    process::Server,
    service::reason,
};

mod cable;
mod checkpoints;
mod cluster;
mod cut_off;
mod fencing;
mod migrate;
mod nearby;
mod passing;
mod rows;
mod starts;
mod takeover;
mod told;
mod verify;

/// What who was taken over from ends with.
const EXIT_IN_USE: i32 = 75;

/// The URL of a new ledger; `None` where there is no database.
fn new_ledger() -> Option<String> {
    engine::server()?;
    Some(engine::ledger(&uuid::Uuid::now_v7().to_string()))
}

/// A server of a ledger that others may serve, once it stands by for one of them or owns it.
async fn member(url: &str, lease: Duration) -> Server {
    member_with(url, lease, &[]).await
}

/// As [`member`], with further flags.
async fn member_with(url: &str, lease: Duration, further: &[&str]) -> Server {
    let lease = format!("{}ms", lease.as_millis());
    let flags = ["--engine", "postgres", "--database-url", url, "--lease", &lease];
    let mut server = Server::spawn_with(Path::new("unused"), &[&flags, further].concat());
    server.wait_for_line("the log is ").await;
    server
}

/// As [`member`], with a page for scrapers.
async fn scraped_member(url: &str, lease: Duration, further: &[&str]) -> Server {
    let scraped = ["--operations-listen", "127.0.0.1:0"];
    member_with(url, lease, &[&scraped, further].concat()).await
}

/// How many calls a server has passed on, with this outcome.
fn passed_on(told: &Scrape, outcome: &str) -> u64 {
    told.get(&format!("daybook_calls_passed_on_total{{outcome=\"{outcome}\"}}"))
}

/// Opens an account. Gives its position.
async fn open(client: &mut Client) -> Result<i64, Status> {
    let open = OpenAccountRequest { owner: "Ada Lovelace".to_owned(), ..Default::default() };
    let opened = client.open_account(open).await?.into_inner();
    Ok(opened.event.expect("an opening is an event").position)
}

/// Why a call came to nothing that can be made again.
fn unavailable_reason(status: &Status) -> String {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    reason(status)
}

/// A tail of all that comes, which only the owner of the ledger can tell.
async fn tail_of_owner(server: &Server) -> Streaming<TailEventsResponse> {
    let mut reader = Reader::new(server.connect().await);
    reader.tail_events(TailEventsRequest::default()).await.unwrap().into_inner()
}

/// What a tail ends with that has told of this position. Its caller can go on elsewhere.
async fn end_of(mut tail: Streaming<TailEventsResponse>, told: i64, within: Duration) -> String {
    assert_eq!(tail.message().await.unwrap().unwrap().position, told);
    let ended = timeout(within, tail.message()).await.expect("it ends");
    unavailable_reason(&ended.unwrap_err())
}
