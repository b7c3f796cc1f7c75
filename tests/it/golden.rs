//! Data directories that were written once are read for ever, and newer ones are left alone.
//!
//! `tests/golden` has one text for each directory and what it holds. In the first, `file NAME
//! LENGTH` begins a file of zeros, and `OFFSET HEX` says which bytes are not. Those in `v1` were
//! made by the service as it was when format version 1 was, with segments of 8 KiB; they are never
//! made anew. Those in `v2` are made by `tests/sim/golden.rs`, which sees that the same bytes are
//! still written, and they stay when that ends. What they hold was compared by hand with the
//! commands that made them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use daybook::proto::{
    Event, ListAccountsRequest, ListSagasRequest, OpenAccountRequest, event::Payload,
    query_service_client::QueryServiceClient,
};
use tempfile::TempDir;

use crate::{
    crash::{audit, call::Client},
    process::Server,
};

/// Exit code of a command that found a log of an unknown format.
const EXIT_DAMAGED: i32 = 65;

/// A directory: its name, its files, and what it holds.
pub(crate) type Golden = (&'static str, &'static str, &'static str);

/// One that was closed in order, one whose server died in the middle of a write, and one with a
/// checkpoint and some commands after it.
pub(crate) const VERSION_1: [Golden; 3] = [
    (
        "stopped",
        include_str!("../golden/v1/stopped.txt"),
        include_str!("../golden/v1/stopped.expected"),
    ),
    (
        "killed",
        include_str!("../golden/v1/killed.txt"),
        include_str!("../golden/v1/killed.expected"),
    ),
    (
        "checkpoint",
        include_str!("../golden/v1/checkpoint.txt"),
        include_str!("../golden/v1/checkpoint.expected"),
    ),
];

/// One that was begun in version 2 and closed in order; and one that version 1 had begun, its
/// `killed`, that went on with a checkpoint and died in the middle of a write as well. Both have
/// events of several principals and of nobody known.
pub(crate) const VERSION_2: [Golden; 2] = [
    (
        "stopped",
        include_str!("../golden/v2/stopped.txt"),
        include_str!("../golden/v2/stopped.expected"),
    ),
    ("grown", include_str!("../golden/v2/grown.txt"), include_str!("../golden/v2/grown.expected")),
];

/// Makes the directory that a text tells of.
pub(crate) fn directory(files: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut open = None;
    for line in files.lines() {
        let words: Vec<_> = line.split(' ').collect();
        if let ["file", name, length] = words[..] {
            let file = fs::File::create_new(directory.path().join(name)).unwrap();
            file.set_len(length.parse().unwrap()).unwrap();
            open = Some(file);
        } else {
            let [offset, hex] = words[..] else { panic!("{line}") };
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            open.as_ref().unwrap().write_all_at(&bytes, offset.parse().unwrap()).unwrap();
        }
    }
    directory
}

/// All files but the lock, which is information of whoever came last.
pub(crate) fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name != "lock")
        .collect()
}

fn verify(path: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    command.env_clear().args(["verify", "--data-dir"]).arg(path).output().unwrap()
}

/// What a server tells of its ledger: position and hash, accounts, transfers, and every event.
pub(crate) async fn told(server: &Server) -> String {
    let mut reader = QueryServiceClient::new(server.connect().await);
    let figures = audit::stats(&mut reader).await;
    let mut text = format!("position {}\nhash {}\n", figures.position, figures.head_hash);
    let accounts = reader.list_accounts(ListAccountsRequest::default()).await.unwrap();
    for account in accounts.into_inner().accounts {
        let (id, owner, currency) = (account.account_id, account.owner, account.currency_code);
        let (balance, version) = (account.balance_minor, account.version);
        let state = account.state;
        writeln!(text, "account {id} {owner}, {balance} {currency}, version {version}, {state}")
            .unwrap();
    }
    let sagas = reader.list_sagas(ListSagasRequest::default()).await.unwrap();
    for saga in sagas.into_inner().sagas {
        let (id, state, error, position) = (saga.saga_id, saga.state, saga.error, saga.position);
        writeln!(text, "saga {id} {state} at {position} {error}").unwrap();
    }
    for event in audit::read_log(&mut reader, 0).await {
        writeln!(text, "{}", line(&event)).unwrap();
    }
    text.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

fn line(event: &Event) -> String {
    let Event { position, account_id, version, saga_id, request_id, principal, .. } = event;
    let time = event.event_time.unwrap();
    let what = match event.payload.as_ref().unwrap() {
        Payload::AccountOpened(opened) => {
            let (owner, currency) = (&opened.owner, &opened.currency_code);
            format!("opened by {owner} with {} {currency}", opened.initial_balance_minor)
        }
        Payload::MoneyDeposited(moved) => {
            format!("deposit {} to {}: {}", moved.amount_minor, moved.balance_minor, moved.reason)
        }
        Payload::MoneyWithdrawn(moved) => {
            format!("withdraw {} to {}: {}", moved.amount_minor, moved.balance_minor, moved.reason)
        }
        Payload::TransferInitiated(begun) => {
            format!("transfer {} to {}: {}", begun.amount_minor, begun.to_account_id, begun.reason)
        }
        Payload::TransferCompleted(_) => "transfer completed".to_owned(),
        Payload::TransferFailed(failed) => format!("transfer failed: {}", failed.error),
        Payload::AccountClosed(_) => "closed".to_owned(),
    };
    let ids = format!("{} {account_id} {version}", event.event_id);
    let (seconds, nanos) = (time.seconds, time.nanos);
    let by = if principal.is_empty() { String::new() } else { format!(" by {principal}") };
    format!("{position} {ids} {seconds}.{nanos:09} {what} [{saga_id}] [{request_id}]{by}")
}

/// The version that the header of a file tells.
pub(crate) fn version(file: &[u8]) -> u32 {
    u32::from_le_bytes(*file[8..].first_chunk().unwrap())
}

/// What was written in version 1 is as it was, but for the seal and what a torn write left, and
/// what came after is in a segment of version 2.
fn goes_on_in_version_2(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) {
    let segments = |files: &BTreeMap<String, Vec<u8>>| -> Vec<Vec<u8>> {
        let segments = files.iter().filter(|(name, _)| name.starts_with('0'));
        segments.map(|(_, bytes)| bytes.clone()).collect()
    };
    let (before, after) = (segments(before), segments(after));
    let versions: Vec<u32> = after.iter().map(|file| version(file)).collect();
    let old = vec![1; before.len()];
    assert_eq!(versions, [&old[..], &[2]].concat());
    let sealed = before.len() - 1;
    assert_eq!(before[..sealed], after[..sealed]);
    assert_eq!(before[sealed][..1024], after[sealed][..1024]);
}

/// A backup, and what is restored from it, have the same events under the same hash.
fn copies_are_the_same(path: &Path, told: &str) {
    let parent = tempfile::tempdir().unwrap();
    let (backup, restored) = (parent.path().join("backup"), parent.path().join("restored"));
    let run = |arguments: [&str; 3], from: &Path, to: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
        let command = command.env_clear().arg(arguments[0]).arg(arguments[1]).arg(from);
        let done = command.arg(arguments[2]).arg(to).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run(["backup", "--data-dir", "--to"], path, &backup);
    run(["restore", "--from", "--data-dir"], &backup, &restored);
    let hash = told.lines().find_map(|line| line.strip_prefix("hash ")).unwrap();
    for copy in [&backup, &restored] {
        let verified = verify(copy);
        let found = String::from_utf8(verified.stdout).unwrap();
        assert!(verified.status.success() && found.contains(hash), "{found}");
    }
}

/// Intent: what version 1 wrote is read as it was meant: positions, hashes, accounts, transfers,
/// events. It goes on from there, in segments of version 2, and all of it is there after another
/// start, and in a backup.
#[tokio::test]
async fn directories_of_version_1_are_read_for_ever() {
    for golden @ (name, text, _) in VERSION_1 {
        let directory = directory(text);
        let path = directory.path();
        let before = files(path);
        let after = is_read_and_goes_on(golden, path).await;
        goes_on_in_version_2(&before, &files(path));
        // The new segment has its full length, so one directory of the three is enough here.
        if name == "stopped" {
            copies_are_the_same(path, &after);
        }
    }
}

/// Intent: the same of version 2, and everything tells who caused it.
#[tokio::test]
async fn directories_of_version_2_are_read_for_ever() {
    for golden @ (name, text, expected) in VERSION_2 {
        assert!(expected.contains(" by ada@example.com"));
        let directory = directory(text);
        let path = directory.path();
        let before = files(path);
        let versions: Vec<u32> = before
            .iter()
            .filter(|(name, _)| name.starts_with('0'))
            .map(|(_, file)| version(file))
            .collect();
        let expected: &[u32] = if name == "grown" { &[1, 1, 1, 2] } else { &[2, 2] };
        assert_eq!(versions, expected, "{name}");
        is_read_and_goes_on(golden, path).await;
    }
}

/// Verifies a directory, which changes nothing, and serves it; adds something, and serves it again.
/// Gives what is told of it then.
async fn is_read_and_goes_on((name, _, expected): Golden, path: &Path) -> String {
    let before = files(path);
    let verified = verify(path);
    let found = String::from_utf8(verified.stdout).unwrap();
    assert!(verified.status.success(), "{name}: {found}");
    let is_torn = matches!(name, "killed" | "grown");
    let end = if is_torn { "torn: " } else { "closed in order" };
    assert!(found.contains(end), "{name}: {found}");
    for (key, value) in expected.lines().take(2).filter_map(|line| line.split_once(' ')) {
        let line = found.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line.ends_with(&format!(" {value}")), "{name}: {line}");
    }
    assert_eq!(files(path), before, "{name}: to verify changes nothing");

    let mut server = Server::start(path).await;
    let now = told(&server).await;
    assert_eq!(now, expected, "{name}:\n{now}");
    let is_resumed = server.lines().iter().any(|line| line.contains("going on from the check"));
    assert_eq!(is_resumed, matches!(name, "checkpoint" | "grown"));
    let mut client = Client::new(server.connect().await);
    let request = OpenAccountRequest { owner: "Emil".to_owned(), ..Default::default() };
    client.open_account(request).await.expect("the log goes on");
    let after = told(&server).await;
    server.terminate();
    assert_eq!(server.exit_code(Duration::from_secs(20)).await, 0);
    let server = Server::start(path).await;
    assert_eq!(told(&server).await, after, "{name}");
    let events = |text: &str| text.lines().filter(|line| line.contains('[')).count();
    assert_eq!(events(&after), events(expected) + 1);
    after
}

/// Says in a file that it is of another version, with a checksum that is right.
fn set_version(path: &Path, version: u32) {
    let mut bytes = fs::read(path).unwrap();
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[12..16].fill(0);
    let checksum = crc32c::crc32c(&bytes[..512]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// Intent: a log with any segment of a newer format is refused, in words that say so, and nothing
/// in its directory is changed, whatever else lies there.
#[tokio::test]
async fn a_directory_of_a_newer_version_is_refused_and_left_as_it_is() {
    let (_, text, _) = VERSION_1[2];
    let segments = text.lines().filter(|line| line.starts_with("file 0")).count();
    assert!(segments >= 2);
    for number in 1..=segments {
        let directory = directory(text);
        let path = directory.path();
        let name = format!("{number:020}.seg");
        set_version(&path.join(&name), 3);
        for left_over in ["spare.tmp", "newest.tmp", "newest.new", "checkpoint.tmp", "notes.txt"] {
            fs::write(path.join(left_over), left_over).unwrap();
        }
        let before = files(path);
        let message = format!("{name} is of format version 3; this program knows version 2");

        let verified = verify(path);
        assert_eq!(verified.status.code(), Some(EXIT_DAMAGED));
        let error = String::from_utf8(verified.stderr).unwrap();
        assert!(error.contains(&message), "{error}");
        let mut server = Server::spawn(path);
        assert_eq!(server.exit_code(Duration::from_secs(20)).await, EXIT_DAMAGED);
        let last_word = server.last_word().await;
        assert!(last_word.contains(&message), "{last_word}");
        assert_eq!(files(path), before, "every byte is as it was");
    }
}

/// Intent: a checkpoint of a newer format is told of and left alone; the log says the same.
#[tokio::test]
async fn a_checkpoint_of_a_newer_version_is_left_as_it_is() {
    let (_, text, expected) = VERSION_1[2];
    let directory = directory(text);
    let path = directory.path().join("checkpoint");
    set_version(&path, 2);
    let before = fs::read(&path).unwrap();
    let server = Server::start(directory.path()).await;
    assert_eq!(told(&server).await, expected);
    let message = "the checkpoint is of format version 2";
    assert!(server.lines().iter().any(|line| line.contains(message)), "{:?}", server.lines());
    assert_eq!(fs::read(&path).unwrap(), before);
}
