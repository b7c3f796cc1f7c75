//! Real crashes: the binary is killed while many clients command it, started again, and all that
//! it tells is compared with all that it ever acknowledged. Nothing is looked at but the API.
//!
//! `DAYBOOK_TEST_KILLS` sets how often, `DAYBOOK_TEST_SEED` by which chance.

use std::time::Duration;

use daybook::proto::OpenAccountRequest;

use self::{
    audit::Reader,
    call::Client,
    random::Random,
    run::{End, Run},
};
use crate::{engine, process::Server};

pub(crate) mod audit;
pub(crate) mod call;
mod ledger;
mod load;
pub(crate) mod random;
pub(crate) mod run;

/// How often the server is killed unless told otherwise.
const KILLS: u64 = 20;
/// How many acknowledged commands a kill must put at risk on average: fewer prove little.
const ACKNOWLEDGED_PER_KILL: usize = 100;
/// How many starts in a row are killed early.
const EARLY_KILLS: usize = 5;
/// How early: about as long as a start takes.
const EARLY_KILL_WITHIN_MS: u64 = 40;
/// The exit code of a server whose directory another one uses.
const EXIT_IN_USE: i32 = 75;

#[allow(clippy::disallowed_methods, reason = "whoever runs a test sets its length and chance")]
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("the setting is a whole number"))
}

fn new_run() -> Run {
    Run::new(setting("DAYBOOK_TEST_SEED").unwrap_or_else(Random::fresh_seed))
}

/// Intent: a kill at any moment loses nothing that was acknowledged, brings nothing back that was
/// refused, cuts nothing in half, and does nothing twice; nor does a stop that was asked for.
#[tokio::test]
async fn crash_twenty_kills_under_load_lose_nothing() {
    let kills = setting("DAYBOOK_TEST_KILLS").unwrap_or(KILLS);
    let mut run = new_run();
    println!("seed {}", run.seed());
    for _ in 0..kills {
        run.cycle(End::Killed).await;
    }
    run.cycle(End::Stopped).await;

    let mut server = Server::start(run.data_dir()).await;
    run.check(&server, true).await;
    let position = run.stop(server).await;
    server = Server::start(run.data_dir()).await;
    let after = audit::stats(&mut Reader::new(server.connect().await)).await.position;
    assert_eq!(after, position, "a clean stop keeps the position");
    run.check(&server, false).await;

    println!("P1 P2 P3 P5 P6 P7 P8: {}", run.summary());
    let acknowledged_min = ACKNOWLEDGED_PER_KILL * run.tally.kills;
    assert!(run.tally.acknowledged >= acknowledged_min, "too little was at risk");
    assert!(run.tally.unknown_done + run.tally.unknown_not_done > 0, "no kill hit anything");
    if engine::name() == "file" {
        assert!(run.tally.resumed * 4 >= run.tally.kills, "hardly a start found a checkpoint");
    }
}

/// Intent: a start that is killed, at whatever moment of it, does no harm; nor do many in a row.
#[tokio::test]
async fn crash_during_recovery_loses_nothing() {
    let mut run = new_run();
    println!("seed {}", run.seed());
    for _ in 0..3 {
        run.cycle(End::Killed).await;
        for _ in 0..EARLY_KILLS {
            run.kill_early(EARLY_KILL_WITHIN_MS).await;
        }
    }
    let server = Server::start(run.data_dir()).await;
    run.check(&server, true).await;
    println!("P1 P2 P3 P5 P6 P7 P8: {}", run.summary());
    assert!(run.tally.kills_in_recovery > 0, "no kill hit a recovery");
}

/// Intent: a directory has one server. Another one says so and leaves, and the first serves on.
#[tokio::test]
async fn a_second_server_over_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Server::start(directory.path()).await;
    let mut client = Client::new(first.connect().await);
    let open = OpenAccountRequest { owner: "Ada Lovelace".to_owned(), ..Default::default() };
    client.open_account(open.clone()).await.expect("the first one serves");

    let mut second = Server::spawn(directory.path());
    assert_eq!(second.exit_code(Duration::from_secs(10)).await, EXIT_IN_USE);
    let last_word = second.last_word().await;
    let path = directory.path().to_str().expect("the path is text");
    assert!(last_word.contains(path) && last_word.contains("in use"), "{last_word}");

    let opened = client.open_account(open).await.expect("the first one serves on").into_inner();
    assert_eq!(opened.event.expect("an opening is an event").position, 2);
    let mut third = Reader::new(first.connect().await);
    assert_eq!(audit::stats(&mut third).await.account_count, 2);
}
