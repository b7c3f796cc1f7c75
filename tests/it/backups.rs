//! Backups of the real binary under load, some of them killed half-way, and what is restored from
//! them. `DAYBOOK_TEST_BACKUPS` sets how many.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use daybook::proto::{
    BatchCommand, DepositMoneyRequest, Event, ExecuteBatchRequest, OpenAccountRequest,
    batch_command::Command as Kind, command_service_client::CommandServiceClient,
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use crate::{
    crash::{
        audit::{Reader, read_log, stats},
        random::Random,
        setting,
    },
    process::Server,
};

/// How many backups there are unless told otherwise.
const BACKUPS: u64 = 2;
/// How many commands are under way at once: in batches of so many.
const CLIENTS: usize = 2;
const BATCH: usize = 200;
/// How long each client rests between two of them, so that the log has some hundred megabytes in
/// the end and not gigabytes.
const BETWEEN_BATCHES: Duration = Duration::from_millis(5);
/// Each so many backups a new one is begun; the others are made on top of it.
const ANEW_EVERY: u64 = 5;
/// When a backup that is killed is killed at the latest.
const KILLED_WITHIN_MS: u64 = 60;

fn daybook(arguments: &[&str], directories: &[(&str, &Path)]) -> Output {
    let mut command = command(arguments, directories);
    command.output().expect("the binary runs")
}

fn command(arguments: &[&str], directories: &[(&str, &Path)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    command.args(arguments).env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    for (flag, directory) in directories {
        command.arg(flag).arg(directory);
    }
    command
}

/// What a command printed beside a word, after it ended well.
fn told(output: &Output, word: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word} in {text}")).trim().to_owned()
}

/// Clients that deposit without a pause, and the newest position that was acknowledged.
struct Load {
    acknowledged: Arc<AtomicI64>,
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    async fn begin(server: &Server) -> Self {
        let (acknowledged, is_over) = (Arc::<AtomicI64>::default(), Arc::<AtomicBool>::default());
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = CommandServiceClient::new(server.connect().await);
            let open = OpenAccountRequest { owner: "ada".to_owned(), ..Default::default() };
            let account_id = client.open_account(open).await.unwrap().into_inner().account_id;
            let deposit = DepositMoneyRequest { account_id, amount_minor: 1, ..Default::default() };
            let commands = vec![BatchCommand { command: Some(Kind::DepositMoney(deposit)) }; BATCH];
            let batch = ExecuteBatchRequest { commands, ..Default::default() };
            let (acknowledged, is_over) = (Arc::clone(&acknowledged), Arc::clone(&is_over));
            clients.push(tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let answer = client.execute_batch(batch.clone()).await.unwrap().into_inner();
                    acknowledged.fetch_max(answer.position, Ordering::SeqCst);
                    sleep(BETWEEN_BATCHES).await;
                }
            }));
        }
        Self { acknowledged, is_over, clients }
    }

    async fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

/// Intent: a backup that is made while the server works has all that was acknowledged before it was
/// begun; one that is killed leaves one that can be gone on with; and what is restored is the log,
/// up to the position and the hash that the backup told.
#[tokio::test]
async fn backups_under_load_restore_to_the_same_log() {
    let mut random = Random::new(setting("DAYBOOK_TEST_SEED").unwrap_or_else(Random::fresh_seed));
    let place = tempfile::tempdir().unwrap();
    let data_dir = place.path().join("data");
    let server = Server::start(&data_dir).await;
    let load = Load::begin(&server).await;
    let (mut kills, mut kept) = (0, 0);
    let backups = setting("DAYBOOK_TEST_BACKUPS").unwrap_or(BACKUPS);
    let mut newest = (0, String::new());
    for number in 0..backups {
        let backup = place.path().join(format!("backup-{}", number / ANEW_EVERY));
        let directories = [("--data-dir", &*data_dir), ("--to", &*backup)];
        if number % 2 == 0 {
            let mut child = command(&["backup"], &directories).spawn().unwrap();
            let pause = Duration::from_millis(random.below(KILLED_WITHIN_MS));
            sleep(pause).await;
            child.kill().unwrap();
            kills += usize::from(!child.wait().unwrap().success());
        }
        let acknowledged = load.acknowledged.load(Ordering::SeqCst);
        let (from, to) = (data_dir.clone(), backup.clone());
        let made =
            spawn_blocking(move || daybook(&["backup"], &[("--data-dir", &*from), ("--to", &*to)]));
        let made = made.await.unwrap();
        let (position, hash) = (told(&made, "position"), told(&made, "hash"));
        let position: i64 = position.parse().unwrap();
        assert!(position >= acknowledged, "{acknowledged} was acknowledged, {position} is there");
        kept += usize::from(!told(&made, "segments").ends_with(" 0 kept"));

        let restored = place.path().join("restored");
        if restored.exists() {
            std::fs::remove_dir_all(&restored).unwrap();
        }
        let from = backup.clone();
        let again = spawn_blocking(move || {
            let again = daybook(&["restore"], &[("--from", &*from), ("--data-dir", &*restored)]);
            let expected =
                daybook(&["verify", "--expect-hash", &hash], &[("--data-dir", &restored)]);
            let other = daybook(
                &["verify", "--expect-hash", &"0".repeat(64)],
                &[("--data-dir", &restored)],
            );
            (again, expected, other, hash)
        });
        let (again, expected, other, hash) = again.await.unwrap();
        assert_eq!(
            (told(&again, "position"), told(&again, "hash")),
            (position.to_string(), hash.clone())
        );
        assert_eq!(told(&expected, "position"), position.to_string());
        let end = "not closed in order: its server was killed, or it is a copy";
        assert_eq!(told(&expected, "end"), end, "nobody was killed here");
        assert_eq!(other.status.code(), Some(65));
        newest = (position, hash);
    }
    load.end().await;
    assert!(kills * 3 >= usize::try_from(backups).unwrap() / 2, "hardly a backup was killed");

    // The last one, as a ledger that goes on.
    let restored = Server::start(&place.path().join("restored")).await;
    let mut reader = Reader::new(restored.connect().await);
    let figures = stats(&mut reader).await;
    assert_eq!((figures.head_hash_position, figures.head_hash), newest);
    let log = read_log(&mut reader, 0).await;
    let whole = read_log(&mut Reader::new(server.connect().await), 0).await;
    assert!(whole.len() >= log.len());
    assert_eq!(log[..], whole[..log.len()]);
    let newest_backup = place.path().join(format!("backup-{}", (backups - 1) / ANEW_EVERY));
    restore_half(&newest_backup, &place.path().join("half"), &log).await;
    println!(
        "P19: backups {backups}, killed {kills}, on top of one with whole segments {kept}, \
        hashes that match {backups}, positions {}",
        newest.0
    );
}

/// Restores a backup of a log up to the middle of that, and goes on from there.
async fn restore_half(backup: &Path, to: &Path, whole: &[Event]) {
    let until = whole.len() / 2;
    let made = daybook(
        &["restore", "--until", &until.to_string()],
        &[("--from", backup), ("--data-dir", to)],
    );
    let reached: usize = told(&made, "position").parse().unwrap();
    assert!(reached <= until && until - reached < CLIENTS * BATCH, "{reached} of {until}");
    let half = Server::start(to).await;
    assert_eq!(read_log(&mut Reader::new(half.connect().await), 0).await, whole[..reached]);
    Load::begin(&half).await.end().await;
    let log = read_log(&mut Reader::new(half.connect().await), 0).await;
    assert!(log.len() > reached && log[..reached] == whole[..reached], "it goes on");
}

/// Intent: a wrong directory is told by the exit code, and nothing happens to what is in it.
#[tokio::test]
async fn backups_refuse_directories_that_are_not_for_them() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let server = Server::start(&path("data")).await;
    let load = Load::begin(&server).await;
    load.end().await;
    drop(server);
    let run = |command: &str, directories: &[(&str, &str)]| {
        let paths: Vec<_> = directories.iter().map(|(flag, name)| (*flag, path(name))).collect();
        let paths: Vec<_> = paths.iter().map(|(flag, path)| (*flag, &**path)).collect();
        let output = daybook(&[command], &paths);
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), error.lines().last().unwrap_or_default().to_owned())
    };
    // Through a symbolic link as well.
    std::os::unix::fs::symlink(path("data"), path("link")).unwrap();
    for to in ["data", "link"] {
        let (code, error) = run("backup", &[("--data-dir", "data"), ("--to", to)]);
        assert_eq!((code, &*error), (64, "daybook: a backup needs a directory of its own"));
    }
    let (code, error) = run("backup", &[("--data-dir", "missing"), ("--to", "backup")]);
    assert!(code == 74 && error.contains("No such file"), "{code} {error}");
    let (code, error) = run("restore", &[("--from", "backup"), ("--data-dir", "restored")]);
    assert!(code == 74 && error.contains("No such file"), "{code} {error}");
    assert_eq!(run("backup", &[("--data-dir", "data"), ("--to", "backup")]).0, 0);
    let (code, error) = run("restore", &[("--from", "backup"), ("--data-dir", "data")]);
    assert!(code == 74 && error.contains("not empty"), "{code} {error}");
    let output = daybook(
        &["restore", "--until", "1000000"],
        &[("--from", &path("backup")), ("--data-dir", &path("far"))],
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("the backup ends at position "), "{error}");
    assert_eq!(output.status.code(), Some(65));
    assert!(!path("far").exists());
    std::fs::create_dir(path("far")).unwrap();
    assert_eq!(run("restore", &[("--from", "backup"), ("--data-dir", "far")]).0, 0, "it is empty");
    std::fs::create_dir(path("papers")).unwrap();
    std::fs::write(path("papers/notes.txt"), "mine").unwrap();
    let (code, error) = run("backup", &[("--data-dir", "data"), ("--to", "papers")]);
    assert!(code == 65 && error.ends_with("is not empty: it has notes.txt"), "{code} {error}");
    assert_eq!(std::fs::read_dir(path("papers")).unwrap().count(), 1, "nothing was touched");
    // A ledger is served from its backup, and goes its own way.
    let other = Server::start(&path("backup")).await;
    let (code, error) = run("backup", &[("--data-dir", "data"), ("--to", "backup")]);
    assert!(code == 75 && error.contains("in use"), "{code} {error}");
    Load::begin(&other).await.end().await;
    drop(other);
    let (code, error) = run("backup", &[("--data-dir", "data"), ("--to", "backup")]);
    assert!(code == 65 && error.contains("no beginning of this log"), "{code} {error}");
    assert_eq!(run("verify", &[("--data-dir", "backup")]).0, 0);
}

/// Intent: a command that fails before it has copied anything leaves nothing of its own behind, and
/// directories that were there before stay.
#[test]
fn what_fails_before_it_begins_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    for name in ["empty", "kept"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    for to in ["new", "deep/er", "kept", "kept/new"] {
        for (command, from, target) in
            [("backup", "--data-dir", "--to"), ("restore", "--from", "--data-dir")]
        {
            let output = daybook(&[command], &[(from, &path("empty")), (target, &path(to))]);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(74), "{command} into {to}: {error}");
            assert!(error.contains("there is no log in the directory"), "{error}");
            let left = std::fs::read_dir(place.path()).unwrap().count();
            let inside = std::fs::read_dir(path("kept")).unwrap().count();
            assert_eq!((left, inside), (2, 0), "{command} into {to}");
        }
    }
}
