//! What verifying the ledger of a database finds, and that it does not stand in a server's way.

use super::migrate::{run, serve, stop};
use crate::engine;

const EXIT_DAMAGED: i32 = 65;
const EXIT_IO: i32 = 74;

/// A ledger with some accounts, all of them with one event.
const ACCOUNTS: usize = 20;

/// What finds fault with a ledger, how that came about, and what is put back afterwards.
const FAULTS: [(&str, &str, &str); 9] = [
    (
        "damage in events at byte 0, position 7: the row says something else",
        "update events set owner = 'Mallory' where position = 7",
        "update events set owner = 'Ada Lovelace' where position = 7",
    ),
    (
        "damage in events at byte 0, position 9: the row says something else",
        "update events set reason = 'none' where position = 9",
        "update events set reason = null where position = 9",
    ),
    (
        "damage in events at byte 0, position 3: the event has no row",
        "create table kept as select * from events where position = 3;
        delete from events where position = 3",
        "insert into events select * from kept; drop table kept",
    ),
    (
        "damage in events at byte 0, position 0: the row is of no event",
        "insert into events select partition, 0, account_id, 0, event_id, event_type, event_time
            from events where position = 1",
        "delete from events where position = 0",
    ),
    (
        "damage in events at byte 0, position 21: the row is outside of the log",
        "insert into events select partition, 21, account_id, 2, event_id, event_type, event_time
            from events where position = 1",
        "delete from events where position = 21",
    ),
    (
        "damage in events at byte 0, position 1: the row is outside of the log",
        "insert into events select 1, 1, account_id, 1, event_id, event_type, event_time
            from events where position = 1",
        "delete from events where partition = 1",
    ),
    (
        "damage in blocks at byte 0, position 5: the chain does not lead here",
        "update blocks set payload = set_byte(payload, 20, get_byte(payload, 20) # 1)
            where first_position = 5",
        "update blocks set payload = set_byte(payload, 20, get_byte(payload, 20) # 1)
            where first_position = 5",
    ),
    (
        "damage in blocks at byte 0, position 20: there is no block",
        "create table kept as select * from blocks where first_position = 20;
        delete from blocks where first_position = 20",
        "insert into blocks select * from kept; drop table kept",
    ),
    (
        "damage in blocks at byte 0, position 20: the head stands for another log",
        "update partition_head set hash = sha256('')",
        "update partition_head set hash =
            (select hash from blocks where first_position = 20)",
    ),
];

/// Intent: whatever is changed in the tables is found, with its place; and what is right again is
/// right again.
#[tokio::test]
async fn whatever_is_changed_is_found() {
    let Some(url) = super::new_ledger() else { return };
    run(&["verify", "--database-url", &url]).await.assert_refused(EXIT_IO, "no ledger in");
    let server = serve(&url).await;
    for _ in 0..ACCOUNTS {
        super::rows::open(&server).await;
    }
    stop(server).await;
    let verify = ["verify", "--database-url", &url];
    let right = run(&verify).await;
    right.assert_well();
    assert_eq!(right.told("position"), ACCOUNTS.to_string());
    assert_eq!(right.told("blocks"), ACCOUNTS.to_string());
    let change = |sql: &str| {
        // As whoever owns the tables may.
        engine::execute(
            &url,
            &format!(
                "alter table events disable trigger append_only;
                alter table blocks disable trigger append_only; {sql};
                alter table events enable trigger append_only;
                alter table blocks enable trigger append_only"
            ),
        );
    };
    for (what, fault, back) in FAULTS {
        change(fault);
        let found = run(&verify).await;
        found.assert_refused(EXIT_DAMAGED, what);
        assert_eq!(found.told("end"), "damaged");
        change(back);
        assert_eq!(run(&verify).await.out, right.out, "after {what}");
    }
    let other = run(&["verify", "--database-url", &url, "--expect-hash", &"0".repeat(64)]).await;
    other.assert_refused(EXIT_DAMAGED, "the hash is ");
    let both = run(&["verify", "--database-url", &url, "--data-dir", "x"]).await;
    assert_eq!(both.code, 64, "which of them is not for us to say");
}

/// Intent: a ledger is verified while it is served, up to where it was.
#[tokio::test]
async fn a_ledger_that_is_served_can_be_verified() {
    let Some(url) = super::new_ledger() else { return };
    let server = serve(&url).await;
    let opening = async {
        loop {
            super::rows::open(&server).await;
        }
    };
    let verifying = async {
        let mut positions = Vec::new();
        while positions.len() < 5 {
            let verified = run(&["verify", "--database-url", &url]).await;
            verified.assert_well();
            positions.push(verified.told("position").parse::<u64>().unwrap());
        }
        positions
    };
    let positions: Vec<u64> = tokio::select! {
        () = opening => unreachable!("it goes on"),
        positions = verifying => positions,
    };
    assert!(positions.is_sorted() && positions[0] < positions[4], "{positions:?}");
}
