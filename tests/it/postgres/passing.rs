//! What a server passes on to the owner of the ledger, and what it does not. That it answers as
//! the owner does is shown by the tests of the API, which run over such a server as well.

use std::{path::Path, time::Duration};

use daybook::proto::{GetStatsRequest, OpenAccountRequest, TailEventsRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    crash::{audit::Reader, call::Client},
    engine,
    process::Server,
};

/// Longer than any test: nobody takes over.
const LEASE: &str = "60s";
const WITHIN: Duration = Duration::from_secs(20);

async fn server(url: &str) -> Server {
    let flags = ["--engine", "postgres", "--database-url", url, "--lease", LEASE];
    let mut server = Server::spawn_with(Path::new("unused"), &flags);
    server.wait_for_line("the log is ").await;
    server
}

async fn open(client: &mut Client) -> Result<i64, Status> {
    let open = OpenAccountRequest { owner: "Ada Lovelace".to_owned(), ..Default::default() };
    let opened = client.open_account(open).await?.into_inner();
    Ok(opened.event.expect("an opening is an event").position)
}

fn reason(status: &Status) -> String {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    status.get_details_error_info().expect("a reason").reason
}

/// Intent: what one server was told, all of them tell.
#[tokio::test]
async fn whoever_is_asked_has_one_ledger() {
    let Some(url) = super::new_ledger() else { return };
    let (owner, other) = (server(&url).await, server(&url).await);
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
    let (_owner, one, other) = (server(&url).await, server(&url).await, server(&url).await);
    for (server, says) in [(&one, &other), (&other, &one)] {
        let sql = format!(
            "update nodes set address = 'http://{}' where id = (select owner from assignment)",
            says.address()
        );
        engine::execute(&url, &sql);
        let mut client = Client::new(server.connect().await);
        let line = format!("http://{}", says.address());
        assert!(server_tells(server, &line).await);
        let status = open(&mut client).await.unwrap_err();
        assert_eq!(reason(&status), "NOT_OWNER");
    }
    let events = engine::query(&url, "select position from events").unwrap();
    assert!(events.is_empty(), "nothing was carried out");
}

async fn server_tells(server: &Server, text: &str) -> bool {
    for _ in 0..500 {
        if server.lines().iter().any(|line| line.contains(text)) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Intent: when the owner is gone, who asked another server is told so, also in the middle of a
/// stream.
#[tokio::test]
async fn an_owner_that_is_gone_is_told_of() {
    let Some(url) = super::new_ledger() else { return };
    let (mut owner, other) = (server(&url).await, server(&url).await);
    let channel = other.connect().await;
    let mut client = Client::new(channel.clone());
    assert_eq!(open(&mut client).await.unwrap(), 1);
    let tail = TailEventsRequest { after_position: Some(0), ..Default::default() };
    let mut tail = Reader::new(channel).tail_events(tail).await.unwrap().into_inner();
    assert_eq!(tail.message().await.unwrap().unwrap().position, 1);
    owner.kill();
    let ended = tokio::time::timeout(WITHIN, tail.message()).await.expect("it ends");
    assert_eq!(reason(&ended.unwrap_err()), "OWNER_UNREACHABLE");
    assert_eq!(reason(&open(&mut client).await.unwrap_err()), "OWNER_UNREACHABLE");
}
