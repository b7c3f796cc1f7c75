//! Checkpoints in a database: a start goes on from the newest one, whoever made it, and does
//! without one that is of no use.

use std::{path::Path, time::Duration};

use daybook::proto::{
    BatchCommand, DepositMoneyRequest, ExecuteBatchRequest, TransferMoneyRequest,
    batch_command::Command as Kind,
};
use tokio::time::sleep;

use super::migrate::{Ended, run, serve, stop};
use crate::{
    crash::{
        audit::{self, Reader},
        call::Client,
    },
    engine,
    golden::told,
    process::Server,
    service::{fresh_id, reason},
};

const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often to look until something has to be there.
const LOOKS: usize = 1_000;
/// So many events are worth a checkpoint.
const EVENTS: usize = 1_100;
const RESUMED: &str = "going on from the checkpoint";
const WHOLE: &str = "reading the whole log instead of the checkpoint";

/// A server with some accounts, transfers, and a checkpoint behind which there is more.
async fn filled(url: &str) -> (Server, TransferMoneyRequest) {
    let server = serve(url).await;
    let transfer = fill(&server).await;
    made_behind(url, 0).await;
    (server, transfer)
}

/// Makes so many events that a checkpoint is due. Gives the last transfer.
async fn fill(server: &Server) -> TransferMoneyRequest {
    let mut client = Client::new(server.connect().await);
    let [from, to] = [super::rows::open(server).await, super::rows::open(server).await];
    let deposits = (0..EVENTS).map(|_| {
        let (account_id, amount_minor) = (to.clone(), 7);
        let deposit = DepositMoneyRequest { account_id, amount_minor, ..Default::default() };
        BatchCommand { command: Some(Kind::DepositMoney(deposit)) }
    });
    let batch = ExecuteBatchRequest { commands: deposits.collect(), ..Default::default() };
    client.execute_batch(batch).await.unwrap();
    let transfer = TransferMoneyRequest {
        from_account_id: from,
        to_account_id: to,
        amount_minor: 100,
        saga_id: fresh_id(),
        request_id: fresh_id(),
        ..Default::default()
    };
    client.transfer_money(transfer.clone()).await.unwrap();
    transfer
}

/// Waits until there is a checkpoint behind a position, and those that nobody needs are gone. Gives
/// where it is.
async fn made_behind(url: &str, position: u64) -> u64 {
    for _ in 0..LOOKS {
        let finished = finished(url);
        let newest = finished.last().copied().unwrap_or(0);
        if newest > position && finished.len() <= 2 {
            return newest;
        }
        sleep(LOOK_AGAIN).await;
    }
    panic!("behind {position} there is not one of two: {:?}", finished(url));
}

/// The positions of the checkpoints that were finished.
fn finished(url: &str) -> Vec<u64> {
    let sql = "select position from checkpoints where is_finished order by position";
    let positions = engine::query(url, sql).unwrap();
    positions.iter().map(|position| position.parse().unwrap()).collect()
}

async fn verified(url: &str) -> Ended {
    let verified = run(&["verify", "--database-url", url]).await;
    verified.assert_well();
    verified
}

fn has_line(server: &Server, text: &str) -> bool {
    server.lines().iter().any(|line| line.contains(text))
}

#[track_caller]
fn assert_resumed(server: &Server) {
    assert!(has_line(server, RESUMED), "{:?}", server.lines());
}

/// Intent: who goes on from a checkpoint answers as who has read all of the log, also what it has
/// to remember; and its own checkpoints say what the log says.
#[tokio::test]
async fn a_start_goes_on_from_the_newest() {
    let Some(url) = super::new_ledger() else { return };
    let (mut server, mut transfer) = filled(&url).await;
    assert!(!has_line(&server, RESUMED));
    for _ in 0..2 {
        let before = told(&server).await;
        stop(server).await;
        let kept = finished(&url);
        let said = format!("of position {}, as the log says", kept.last().unwrap());
        assert_eq!(verified(&url).await.told("checkpoint"), said);

        server = serve(&url).await;
        assert_resumed(&server);
        assert_eq!(told(&server).await, before);
        let mut client = Client::new(server.connect().await);
        let again = client.transfer_money(transfer.clone()).await.unwrap().into_inner();
        assert!(again.replayed, "{again:?}");
        let other = TransferMoneyRequest { request_id: fresh_id(), ..transfer.clone() };
        let refused = client.transfer_money(other).await.unwrap_err();
        assert_eq!(reason(&refused), "SAGA_EXISTS");
        for _ in 0..2 {
            let newest = *finished(&url).last().unwrap();
            transfer = fill(&server).await;
            made_behind(&url, newest).await;
        }
        let parts = "select count(distinct checkpoint) from checkpoint_parts";
        assert_eq!(engine::query(&url, parts).unwrap(), ["2"]);
    }
}

/// Intent: one that is of no use costs time, and nothing else.
#[tokio::test]
async fn a_start_does_without_one_that_is_of_no_use() {
    let Some(url) = super::new_ledger() else { return };
    let (server, _transfer) = filled(&url).await;
    let expected = told(&server).await;
    stop(server).await;
    engine::execute(
        &url,
        "create table kept as select * from checkpoints;
        create table kept_parts as select * from checkpoint_parts",
    );
    for (fault, said) in [
        ("update checkpoint_parts set payload = set_byte(payload, 99, 7)", "damaged"),
        ("update checkpoint_parts set payload = substr(payload, 1, 50)", "damaged"),
        ("update checkpoint_parts set payload = ''", "damaged"),
        ("delete from checkpoint_parts", "damaged"),
        ("update checkpoints set bytes = bytes + 1", "damaged"),
        // Of a place that the log does not have.
        ("update checkpoints set hash = sha256('')", ""),
        ("update checkpoints set position = position - 1", ""),
        ("update checkpoints set position = 1000000", ""),
        // At one place it says what is so at another.
        (
            "update checkpoints set (position, hash) =
                (select last_position, hash from blocks order by last_position limit 1)",
            "damaged",
        ),
        ("update checkpoints set format = 9", "format version 9"),
        ("delete from checkpoints", ""),
        ("update checkpoints set is_finished = false", ""),
    ] {
        engine::execute(&url, fault);
        let server = serve(&url).await;
        assert_eq!(has_line(&server, WHOLE), !said.is_empty(), "{fault}: {:?}", server.lines());
        assert!(has_line(&server, said) && !has_line(&server, RESUMED), "{:?}", server.lines());
        assert_eq!(told(&server).await, expected, "{fault}");
        stop(server).await;
        engine::execute(
            &url,
            "delete from checkpoints; insert into checkpoints select * from kept;
            insert into checkpoint_parts select * from kept_parts",
        );
    }
    let server = serve(&url).await;
    assert_resumed(&server);
    assert_eq!(told(&server).await, expected);
}

/// Intent: what a start has left out is verified while the ledger is served.
#[tokio::test]
async fn what_a_start_leaves_out_is_verified_later() {
    let Some(url) = super::new_ledger() else { return };
    let (server, _transfer) = filled(&url).await;
    stop(server).await;
    let server = serve(&url).await;
    assert_resumed(&server);
    let mut reader = Reader::new(server.connect().await);
    for look in 0.. {
        let stats = audit::stats(&mut reader).await;
        if stats.verified_position == stats.position {
            break;
        }
        assert!(look < LOOKS, "{stats:?}");
        sleep(LOOK_AGAIN).await;
    }
    stop(server).await;
    engine::execute(
        &url,
        "alter table blocks disable trigger append_only;
        update blocks set payload = set_byte(payload, 20, get_byte(payload, 20) # 1)
            where first_position = 2",
    );
    // Of what was written so long ago not even request ids are read.
    let window = ["--request-id-window", "1024"];
    let flags = ["--engine", "postgres", "--database-url", &url, "--lease", "20s"];
    let mut server = Server::start_with(Path::new("unused"), &[&flags[..], &window].concat()).await;
    assert_resumed(&server);
    server.wait_for_line("damage in blocks at byte 0, position 2").await;
}

/// Intent: a ledger that was made before there were checkpoints gets room for them from who may
/// make tables, and who may not says what to do.
#[tokio::test]
async fn older_tables_are_added_to() {
    let Some(url) = super::new_ledger() else { return };
    let role = format!("older_{}", &blake3::hash(url.as_bytes()).to_hex()[..16]);
    let schema = engine::query(&url, "select current_schema()").unwrap().remove(0);
    let role_sql = format!("create role {role} login; grant usage on schema {schema} to {role}");
    engine::execute(&url, &role_sql);
    let as_role = url.replace("//daybook@", &format!("//{role}@"));
    let init = async || {
        let of = ["init", "--engine", "postgres", "--database-url", &url, "--grant", &role];
        run(&of).await.assert_well();
    };
    init().await;
    engine::execute(&url, "drop table checkpoint_parts, checkpoints");
    let older = verified(&url).await;
    assert_eq!(older.told("checkpoint"), "none");
    let refused = run(&["--engine", "postgres", "--database-url", &as_role]).await;
    refused.assert_refused(64, "was made by an earlier daybook, and the user may not add to it");
    init().await;
    let (server, _transfer) = filled(&as_role).await;
    for _ in 0..3 {
        let newest = *finished(&url).last().unwrap();
        fill(&server).await;
        made_behind(&url, newest).await;
    }
    stop(server).await;
    let made = verified(&as_role).await;
    engine::execute(&url, "drop table checkpoint_parts, checkpoints");
    stop(serve(&url).await).await;
    assert_eq!(verified(&url).await.out, made.out, "its owner has made one anew");
}

/// Intent: a checkpoint of what was lost is in nobody's way, and goes.
#[tokio::test]
async fn one_of_a_lost_place_is_in_nobodys_way() {
    let Some(url) = super::new_ledger() else { return };
    let (server, _transfer) = filled(&url).await;
    let expected = told(&server).await;
    stop(server).await;
    let newest = *finished(&url).last().unwrap();
    // As after a failover to a database that lacked the end of the log.
    engine::execute(
        &url,
        "insert into checkpoints (partition, position, hash, bytes, format, is_finished)
            values (0, 1000000, sha256(''), 1, 1, true)",
    );
    let server = serve(&url).await;
    assert_resumed(&server);
    assert_eq!(told(&server).await, expected);
    fill(&server).await;
    for _ in 0..LOOKS {
        if finished(&url).last().is_some_and(|last| (newest + 1..1_000_000).contains(last)) {
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
    panic!("it is not gone: {:?}", finished(&url));
}
