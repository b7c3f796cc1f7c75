//! What a server says of a database that is not fit for a ledger: a clear message, its exit code,
//! and no half start.

use std::{path::Path, time::Duration};

use crate::{engine, process::Server};

const WITHIN: Duration = Duration::from_secs(20);
const EXIT_USAGE: i32 = 64;
const EXIT_DAMAGED: i32 = 65;
const EXIT_IO: i32 = 74;

/// What a server that cannot start says, and ends with.
async fn refused(url: &str) -> (i32, String) {
    let flags = ["--engine", "postgres", "--database-url", url];
    let mut server = Server::spawn_with(Path::new("unused"), &flags);
    let code = server.exit_code(WITHIN).await;
    (code, server.last_word().await)
}

/// The same URL with another setting of the session.
fn with(url: &str, setting: &str) -> String {
    url.replace("options=", &format!("options=-c{}%20", setting.replace('=', "%3D")))
}

async fn assert_refused(url: &str, code: i32, what: &str) {
    let (found, said) = refused(url).await;
    assert!(found == code && said.contains(what), "{found}: {said}");
    assert!(!said.contains("geheim"), "{said}");
}

/// Intent: what cannot be reached, or refuses, is told.
#[tokio::test]
async fn a_database_that_cannot_be_reached_is_told_of() {
    let Some(url) = super::new_ledger() else { return };
    // Nobody listens there.
    let nowhere = "postgres://ada:geheim@127.0.0.1:1/daybook";
    assert_refused(nowhere, EXIT_IO, "the database cannot be reached").await;
    let wrong = url.replace("/postgres?", "/nothing?");
    assert_refused(&wrong, EXIT_IO, "the database refuses: database \"nothing\"").await;
    let stranger = url.replace("//daybook@", "//stranger:geheim@");
    assert_refused(&stranger, EXIT_IO, "the database refuses: role \"stranger\"").await;
}

/// Intent: a server that may lose what it has acknowledged carries no ledger.
#[tokio::test]
async fn a_database_that_may_lose_something_is_refused() {
    let Some(url) = super::new_ledger() else { return };
    for found in ["off", "local", "remote_write"] {
        let url = with(&url, &format!("synchronous_commit={found}"));
        let what = format!(
            "the database server has synchronous_commit = {found}, and needs on or remote_apply"
        );
        assert_refused(&url, EXIT_USAGE, &what).await;
    }
    let any = url.replace("target_session_attrs=read-write&", "");
    let read_only = with(&any, "default_transaction_read_only=on");
    assert_refused(&read_only, EXIT_IO, "read_only = on").await;
    assert_eq!(tables(&url), 0, "nothing was made");
}

fn tables(url: &str) -> usize {
    let sql = "select tablename from pg_tables where schemaname = current_schema()";
    engine::query(url, sql).unwrap().len()
}

/// Intent: the tables of another version, or divided otherwise, stay as they are.
#[tokio::test]
async fn other_tables_than_ours_are_left_alone() {
    let Some(url) = super::new_ledger() else { return };
    drop(started(&url).await);
    engine::execute(&url, "update daybook_schema set partitions = 16");
    assert_refused(&url, EXIT_USAGE, "16 partitions, and this daybook 1").await;
    engine::execute(&url, "update daybook_schema set partitions = 1, version = 2");
    assert_refused(&url, EXIT_DAMAGED, "has version 2, and this daybook knows 1").await;
    let left = engine::query(&url, "select version from daybook_schema").unwrap();
    assert_eq!(left, ["2"]);
}

async fn started(url: &str) -> Server {
    let flags = ["--engine", "postgres", "--database-url", url, "--lease", "500ms"];
    Server::start_with(Path::new("unused"), &flags).await
}

/// Intent: what is in the tables and was not written so is never served.
#[tokio::test]
async fn a_log_that_was_changed_is_refused() {
    let Some(url) = super::new_ledger() else { return };
    let mut server = started(&url).await;
    for _ in 0..3 {
        crate::postgres::rows::open(&server).await;
    }
    server.terminate();
    assert_eq!(server.exit_code(WITHIN).await, 0);
    engine::execute(
        &url,
        "alter table blocks disable trigger append_only;
        update blocks set payload = set_byte(payload, 20, get_byte(payload, 20) # 1)
            where first_position = 2",
    );
    assert_refused(&url, EXIT_DAMAGED, "position 2: the chain does not lead here").await;
}

/// Intent: a role without rights is told which one it lacks; and one that init gave what a server
/// needs can do no more than that.
#[tokio::test]
async fn a_role_has_what_it_needs_and_no_more() {
    let Some(url) = super::new_ledger() else { return };
    let role = format!("node_{}", &blake3::hash(url.as_bytes()).to_hex()[..16]);
    let schema = engine::query(&url, "select current_schema()").unwrap().remove(0);
    engine::execute(
        &url,
        &format!("create role {role} login; grant usage on schema {schema} to {role}"),
    );
    let as_role = url.replace("//daybook@", &format!("//{role}@"));

    assert_refused(&as_role, EXIT_USAGE, "run `daybook init` as a user that may").await;
    let init = |grant: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_daybook"));
        command.args(["init", "--engine", "postgres", "--database-url", &url]).args(grant);
        command.env_clear().output().unwrap()
    };
    let nobody = init(&["--grant", "nobody\"; drop table x"]);
    assert_eq!(nobody.status.code(), Some(EXIT_USAGE), "{nobody:?}");
    assert_eq!(tables(&url), 0, "nothing was made");
    assert!(init(&[]).status.success());
    assert_refused(&as_role, EXIT_USAGE, "may not select on daybook_schema").await;
    let granted = init(&["--grant", &role]);
    assert!(granted.status.success(), "{granted:?}");

    let server = started(&as_role).await;
    crate::postgres::rows::open(&server).await;
    for table in ["events", "blocks"] {
        for sql in ["update", "delete from", "truncate"] {
            let sql = if sql == "update" {
                format!("update {table} set partition = 1")
            } else {
                format!("{sql} {table}")
            };
            // The owner of the tables has the rights, and still may not.
            let denied = engine::try_execute(&as_role, &sql).unwrap_err();
            assert!(denied.contains("permission denied"), "{denied}");
            let refused = engine::try_execute(&url, &sql).unwrap_err();
            assert!(refused.contains("the log is append-only"), "{refused}");
        }
    }
    drop(server);
    engine::execute(&url, &format!("drop owned by {role}; drop role {role}"));
}
