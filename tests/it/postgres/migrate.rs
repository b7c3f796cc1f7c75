//! Ledgers that are taken from files into a database, and back: the same before and after, whatever
//! interrupts it, and nothing that is in the way is touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use daybook::proto::{
    BatchCommand, DepositMoneyRequest, ExecuteBatchRequest, OpenAccountRequest,
    batch_command::Command as Kind,
};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    crash::{audit, call::Client},
    engine,
    golden::{self, VERSION_1, VERSION_2, told},
    process::Server,
};

const WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const EXIT_USAGE: i32 = 64;
const EXIT_DAMAGED: i32 = 65;
const EXIT_IO: i32 = 74;
const EXIT_IN_USE: i32 = 75;

/// What a command ended with and printed.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) error: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal ended it"),
            out: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What was printed beside a word.
    #[track_caller]
    pub(super) fn told(&self, word: &str) -> &str {
        let line = self.out.lines().find_map(|line| line.strip_prefix(word));
        line.unwrap_or_else(|| panic!("no {word} in {self:?}")).trim()
    }

    #[track_caller]
    pub(super) fn assert_well(&self) {
        assert_eq!(self.code, 0, "{self:?}");
    }

    #[track_caller]
    pub(super) fn assert_refused(&self, code: i32, what: &str) {
        let last = self.error.lines().last().unwrap_or_default();
        assert!(self.code == code && last.contains(what), "{self:?}");
        assert!(!self.error.contains("geheim"), "{self:?}");
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command, beside a server that this process may be talking to.
pub(super) async fn run(arguments: &[&str]) -> Ended {
    let mut command = command(arguments);
    Ended::of(spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

async fn migrate(to: &str, directory: &Path, url: &str) -> Ended {
    let directory = directory.to_str().unwrap();
    run(&["migrate", "--to", to, "--data-dir", directory, "--database-url", url]).await
}

/// Serves a ledger of a database. Many tests at once may take all of the processor for some time,
/// and the lease must not end in it.
pub(super) async fn serve(url: &str) -> Server {
    let flags = ["--engine", "postgres", "--database-url", url, "--lease", "20s"];
    Server::start_with(Path::new("unused"), &flags).await
}

pub(super) async fn stop(mut server: Server) {
    server.terminate();
    assert_eq!(server.exit_code(WITHIN).await, 0);
}

/// The formats of the segments of a directory.
fn formats(directory: &Path) -> Vec<u32> {
    let files = golden::files(directory);
    let segments = files.iter().filter(|(name, _)| name.starts_with('0'));
    segments.map(|(_, file)| golden::version(file)).collect()
}

/// Intent: a ledger is the same one in files, in a database, in files again and in another
/// database, whatever version has begun it: hashes, answers, and the formats of its records. The
/// source stays as it is.
#[tokio::test]
async fn there_and_back_it_is_the_same_ledger() {
    for (name, files, expected) in VERSION_1.into_iter().chain(VERSION_2) {
        let Some(url) = super::new_ledger() else { return };
        let (place, source) = (tempfile::tempdir().unwrap(), golden::directory(files));
        let before = golden::files(source.path());
        let there = migrate("database", source.path(), &url).await;
        there.assert_well();
        assert_eq!(golden::files(source.path()), before, "{name}: the source stays as it is");
        let hash = expected.lines().find_map(|line| line.strip_prefix("hash ")).unwrap();
        assert_eq!(there.told("hash"), hash, "{name}");
        let accounts = expected.lines().filter(|line| line.starts_with("account ")).count();
        assert_eq!(there.told("accounts"), accounts.to_string());
        let verified = run(&["verify", "--database-url", &url, "--expect-hash", hash]).await;
        verified.assert_well();
        let again = migrate("database", source.path(), &url).await;
        assert_eq!((again.code, &again.out), (0, &there.out), "{name}: nothing was left to do");

        let server = serve(&url).await;
        assert_eq!(told(&server).await, expected, "{name}");
        stop(server).await;

        let directory = place.path().join("back");
        let back = migrate("directory", &directory, &url).await;
        assert_eq!((back.code, &back.out), (0, &there.out), "{name}: {}", back.error);
        let other = super::new_ledger().unwrap();
        let again = migrate("database", &directory, &other).await;
        assert_eq!((again.code, &again.out), (0, &there.out), "{name}: {}", again.error);
        let expected_formats: &[u32] = match name {
            "grown" => &[1, 2],
            _ if VERSION_1.iter().any(|(_, text, _)| *text == files) => &[1],
            _ => &[2],
        };
        assert_eq!(formats(&directory), expected_formats, "{name}");
        let server = Server::start(&directory).await;
        assert_eq!(told(&server).await, expected, "{name}");
    }
}

/// Intent: a ledger that has come from files goes on in the database, is taken back with what came
/// since, and goes on in files.
#[tokio::test]
async fn a_ledger_that_was_moved_goes_on() {
    let Some(url) = super::new_ledger() else { return };
    let place = tempfile::tempdir().unwrap();
    let source = golden::directory(VERSION_1[0].1);
    migrate("database", source.path(), &url).await.assert_well();
    let server = serve(&url).await;
    super::rows::open(&server).await;
    let expected = told(&server).await;
    // Its owner is a server.
    let directory = place.path().join("back");
    migrate("directory", &directory, &url).await.assert_refused(EXIT_IN_USE, "in use by another");
    assert!(!directory.exists());
    stop(server).await;
    migrate("directory", &directory, &url).await.assert_well();
    assert_eq!(formats(&directory), [1, 2], "what came since is of the newest version");
    let server = Server::start(&directory).await;
    assert_eq!(told(&server).await, expected);
    super::rows::open(&server).await;
    let expected = told(&server).await;
    stop(server).await;
    // What the database has is a beginning of that, and no ledger any more once that goes on.
    let before = position(&url);
    engine::execute(
        &url,
        "create trigger no_more before insert on blocks
            for each statement execute function daybook_refuse_change()",
    );
    migrate("database", &directory, &url).await.assert_refused(EXIT_IO, "INSERT on blocks");
    assert_eq!(position(&url), before);
    assert_not_served(&url).await;
    engine::execute(&url, "drop trigger no_more on blocks");
    migrate("database", &directory, &url).await.assert_well();
    assert_eq!(told(&serve(&url).await).await, expected);
}

const UNFINISHED: &str = "migrating into the ledger in the database has not ended";

async fn assert_not_served(url: &str) {
    let flags = ["--engine", "postgres", "--database-url", url];
    let mut server = Server::spawn_with(Path::new("unused"), &flags);
    assert_eq!(server.exit_code(WITHIN).await, EXIT_IO);
    assert!(server.last_word().await.contains(UNFINISHED));
}

/// How many deposits the ledger has that is so large that a migration can be killed in it.
const BATCHES: usize = 20;
const BATCH: usize = 8_000;

async fn large(place: &Path) -> (PathBuf, u64) {
    let directory = place.join("large");
    let server = Server::start(&directory).await;
    let mut client = Client::new(server.connect().await);
    let open = OpenAccountRequest { owner: "Ada Lovelace".to_owned(), ..Default::default() };
    let account_id = client.open_account(open).await.unwrap().into_inner().account_id;
    let deposit = DepositMoneyRequest { account_id, amount_minor: 1, ..Default::default() };
    let commands = vec![BatchCommand { command: Some(Kind::DepositMoney(deposit)) }; BATCH];
    let batch = ExecuteBatchRequest { commands, ..Default::default() };
    for _ in 0..BATCHES {
        client.execute_batch(batch.clone()).await.unwrap();
    }
    stop(server).await;
    (directory, u64::try_from(BATCHES * BATCH + 1).unwrap())
}

fn position(url: &str) -> u64 {
    let found = engine::query(url, "select position from partition_head").unwrap_or_default();
    found.first().map_or(0, |text| text.parse().unwrap())
}

/// Waits until more than so much is there, and kills. Gives what was there then.
async fn kill_after(mut child: Child, url: &str, least: u64) -> u64 {
    let begun = Instant::now();
    while position(url) <= least {
        assert!(begun.elapsed() < WITHIN && child.try_wait().unwrap().is_none(), "it goes on");
        sleep(LOOK_AGAIN).await;
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was killed in the middle");
    position(url)
}

/// Intent: a migration that is killed goes on where it was. Until it has ended, nobody serves what
/// is there, nor takes it for a ledger.
#[tokio::test]
async fn a_killed_migration_goes_on() {
    let Some(url) = super::new_ledger() else { return };
    let place = tempfile::tempdir().unwrap();
    let (directory, events) = large(place.path()).await;
    let path = directory.to_str().unwrap();
    let arguments = ["migrate", "--data-dir", path, "--database-url", &url];
    let mut reached = 0;
    for _ in 0..2 {
        let child = command(&arguments).spawn().unwrap();
        let now = kill_after(child, &url, reached).await;
        assert!(reached < now && now < events, "{reached} {now} {events}");
        reached = now;
        run(&["verify", "--database-url", &url]).await.assert_refused(EXIT_IO, UNFINISHED);
        let back = place.path().join("back");
        migrate("directory", &back, &url).await.assert_refused(EXIT_IO, UNFINISHED);
        assert!(!back.exists());
        assert_not_served(&url).await;
        assert!(position(&url) >= reached, "nothing goes back");
    }
    let ended = migrate("database", &directory, &url).await;
    ended.assert_well();
    let counts = (ended.told("position"), ended.told("events"), ended.told("balances"));
    let deposits = format!("{} USD", BATCHES * BATCH);
    assert_eq!(counts, (&*events.to_string(), &*events.to_string(), &*deposits));
    assert!(ended.error.contains("migrate: 100 % of"), "{}", ended.error);
    let verified = run(&["verify", "--database-url", &url]).await;
    assert_eq!(verified.told("hash"), ended.told("hash"));
    let rows = engine::query(&url, "select count(*) from events").unwrap();
    assert_eq!(rows, [events.to_string()]);
    let mut servers = Vec::new();
    for server in [serve(&url).await, Server::start(&directory).await] {
        let mut reader = audit::Reader::new(server.connect().await);
        servers.push((audit::stats(&mut reader).await, audit::read_log(&mut reader, 0).await));
    }
    assert!(servers[0].0.head_hash == servers[1].0.head_hash && servers[0].1 == servers[1].1);
}

/// All that a database has; nothing where it has no tables.
fn contents(url: &str) -> Vec<String> {
    let sql = "
        select (s.*, h.*, a.epoch, a.owner, (select count(*) from nodes),
            (select count(*) from blocks), (select count(*) from events))::text
        from daybook_schema s, partition_head h, assignment a";
    engine::query(url, sql).unwrap_or_default()
}

/// Intent: what is in the way is told by the exit code, and nothing happens to it.
#[tokio::test]
async fn what_is_in_the_way_is_left_alone() {
    let Some(url) = super::new_ledger() else { return };
    let place = tempfile::tempdir().unwrap();
    let source = golden::directory(VERSION_2[0].1);
    let path = source.path();

    // There is nothing to take.
    let new = place.path().join("new");
    migrate("directory", &new, &url).await.assert_refused(EXIT_IO, "no ledger in the database");
    migrate("database", &new, &url).await.assert_refused(EXIT_IO, "No such file");
    assert!(!new.exists() && contents(&url).is_empty());
    let wrong = "postgres://u:geheim@h/d?sslmode=prefer";
    migrate("database", path, wrong).await.assert_refused(EXIT_USAGE, "sslmode must be");
    let nowhere = "postgres://u:geheim@127.0.0.1:1/d";
    migrate("database", path, nowhere).await.assert_refused(EXIT_IO, "cannot be reached");

    // A server uses the directory.
    let server = Server::start(path).await;
    migrate("database", path, &url).await.assert_refused(EXIT_IN_USE, "directory is in use");
    stop(server).await;
    assert!(contents(&url).is_empty());

    // The database has a ledger of its own.
    run(&["init", "--engine", "postgres", "--database-url", &url]).await.assert_well();
    let before = contents(&url);
    migrate("database", path, &url).await.assert_refused(EXIT_DAMAGED, "has another ledger");
    assert_eq!(contents(&url), before);

    // It had this one, which has gone on there.
    let other = super::new_ledger().unwrap();
    migrate("database", path, &other).await.assert_well();
    let server = serve(&other).await;
    let account_id = super::rows::open(&server).await;
    assert!(!account_id.is_empty());
    stop(server).await;
    let before = contents(&other);
    let what = "is no beginning of the log in the directory";
    migrate("database", path, &other).await.assert_refused(EXIT_DAMAGED, what);
    // And so has the one in the directory.
    let server = Server::start(path).await;
    super::rows::open(&server).await;
    stop(server).await;
    migrate("database", path, &other).await.assert_refused(EXIT_DAMAGED, what);
    assert_eq!(contents(&other), before);

    // The directory has something.
    fs::create_dir(&new).unwrap();
    fs::write(new.join("notes.txt"), "mine").unwrap();
    migrate("directory", &new, &other).await.assert_refused(EXIT_IO, "it has notes.txt");
    assert_eq!(fs::read_dir(&new).unwrap().count(), 1);
    assert_eq!(contents(&other), before);
}

/// Intent: a server that owns the ledger keeps it.
#[tokio::test]
async fn a_ledger_that_is_served_is_left_alone() {
    let Some(url) = super::new_ledger() else { return };
    let source = golden::directory(VERSION_2[0].1);
    migrate("database", source.path(), &url).await.assert_well();
    let server = serve(&url).await;
    let before = contents(&url);
    let refused = migrate("database", source.path(), &url).await;
    refused.assert_refused(EXIT_IN_USE, &format!("http://{}", server.address()));
    assert_eq!(contents(&url), before);
    super::rows::open(&server).await;
}

/// Intent: damage is found before anything is made in the database.
#[tokio::test]
async fn a_damaged_directory_is_not_taken() {
    let Some(url) = super::new_ledger() else { return };
    let (_, text, _) = VERSION_2[0];
    let source = golden::directory(text);
    let segment = source.path().join(format!("{:020}.seg", 1));
    let mut bytes = fs::read(&segment).unwrap();
    // Within the records of the first group.
    bytes[512 + 100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    migrate("database", source.path(), &url).await.assert_refused(EXIT_DAMAGED, "damage in 0");
    assert!(contents(&url).is_empty());
    let tables = "select tablename from pg_tables where schemaname = current_schema()";
    assert!(engine::query(&url, tables).unwrap().is_empty());
}
