//! The real binary where nobody reads what it says: a pipe whose reader has left.

use std::{
    io::{Read as _, pipe},
    process::{Command, Stdio},
    time::Duration,
};

use crate::process::Killed;

/// The writing end of a pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Runs the binary. Gives its exit code.
fn exit_code(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.status().unwrap().code().expect("it ends by itself")
}

/// Intent: `head` and the like have what they wanted, and nobody is told of a failure.
#[test]
fn output_whose_reader_has_left_is_no_failure() {
    for arguments in [
        &["check-config"][..],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["man"],
        &["token"],
        &["--help"],
        &["--version"],
    ] {
        let (mut reader, stderr) = pipe().unwrap();
        let code = exit_code(arguments, unread(), stderr.into());
        let mut error = String::new();
        reader.read_to_string(&mut error).unwrap();
        assert_eq!((code, &*error), (0, ""), "{arguments:?}");
        assert_eq!(exit_code(arguments, unread(), unread()), 0, "{arguments:?}");
    }
}

/// Intent: output that is lost for another reason is a failure.
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    for arguments in [&["check-config"][..], &["completions", "bash"], &["man"], &["token"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(exit_code(arguments, full.into(), Stdio::null()), 74, "{arguments:?}");
    }
}

/// Intent: without standard error the exit code still tells what went wrong.
#[test]
fn the_exit_code_is_right_where_standard_error_is_gone() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("bad.toml"), "no_such_key = 1").unwrap();
    std::fs::create_dir(path("damaged")).unwrap();
    std::fs::write(path("damaged/00000000000000000001.seg"), [0; 1024]).unwrap();
    for (arguments, expected) in [
        (&["verify", "--data-dir", &path("missing")][..], 74),
        (&["verify", "--data-dir", &path("damaged")], 65),
        (&["check-config", "--config", &path("bad.toml")], 64),
        (&["check-config", "--no-such-flag"], 64),
        (&["healthcheck", "--address", "http://127.0.0.1:1"], 1),
    ] {
        assert_eq!(exit_code(arguments, Stdio::null(), unread()), expected, "{arguments:?}");
        assert_eq!(exit_code(arguments, unread(), unread()), expected, "{arguments:?}");
    }
}

/// Intent: a server goes on when whoever read its log has left, and stops in order.
#[tokio::test]
async fn a_server_whose_log_nobody_reads_serves() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_daybook"))
        .args(["--listen", "127.0.0.1:0", "--log-level", "trace", "--data-dir"])
        .arg(place.path().join("data"))
        .env_clear()
        .env("NOTIFY_SOCKET", &path)
        .stdout(unread())
        .stderr(unread())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut told = [0; 64];
    let heard = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut told));
    let length = heard.await.expect("it is told that the ledger is ready").unwrap();
    assert_eq!(&told[..length], b"READY=1\n");
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.0.wait()).await.unwrap();
    assert!(ended.unwrap().success());
}
