//! Secrets stay secret: whatever a server and its commands print, none is in it.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use daybook::access::{hash_of, new_token};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use super::{Files, bearing, knock, principal};
use crate::{
    issuer::{Issuer, jwk_set},
    process::Server,
    service::{deposit, fresh_id, get, open},
};

/// How long a stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Within what it is told how many were not, if nothing is denied meanwhile.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How many denied calls are told in a second at most.
const AUDIT_LINES: usize = 20;

fn daybook(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_daybook"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn printed(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// All that must be found nowhere, in the parts in which it might be.
struct Canaries(Vec<String>);

impl Canaries {
    fn assert_absent(&self, text: &str, place: &str) {
        for canary in &self.0 {
            assert!(!text.contains(canary.as_str()), "{canary} in {place}:\n{text}");
        }
    }

    fn assert_absent_in(&self, status: &Status) {
        self.assert_absent(&format!("{status:?} {status}"), "a status");
        self.assert_absent(&String::from_utf8_lossy(status.details()), "the details of a status");
    }
}

/// Calls of all kinds, right and wrong, by whoever has the tokens.
async fn call_everything(channel: &Channel, files: &Secrets, canaries: &Canaries) {
    let mut commands =
        daybook::proto::command_service_client::CommandServiceClient::new(channel.clone());
    let mut queries =
        daybook::proto::query_service_client::QueryServiceClient::new(channel.clone());
    let request = bearing(&files.writer, open(&files.owner, 5));
    let account_id = commands.open_account(request).await.unwrap().into_inner().account_id;
    let request = bearing(&files.limited, get(&account_id));
    canaries.assert_absent_in(&queries.get_account(request).await.unwrap_err());
    let request = bearing(&files.writer, deposit(&account_id, -1));
    canaries.assert_absent_in(&commands.deposit_money(request).await.unwrap_err());
    let request = bearing(&files.writer, open(&files.owner, -1));
    canaries.assert_absent_in(&commands.open_account(request).await.unwrap_err());
    for shown in [
        format!("Bearer {}", files.writer),
        format!("Bearer {}", files.stranger),
        format!("Bearer {}", files.jwt),
        format!("Basic {}", files.stranger),
        files.stranger.clone(),
    ] {
        for path in [
            "/daybook.v1.QueryService/GetStats".to_owned(),
            "/daybook.v1.CommandService/CloseAccount".to_owned(),
            format!("/daybook.v1.QueryService/{}", files.stranger),
        ] {
            if let Err(status) = knock(channel, &path, &[&shown]).await {
                canaries.assert_absent_in(&status);
            }
        }
    }
}

/// Files with secrets, and the secrets.
struct Secrets {
    files: Files,
    writer: String,
    limited: String,
    /// A token that is nobody's.
    stranger: String,
    /// A token that has expired.
    jwt: String,
    owner: String,
}

impl Secrets {
    fn new() -> Self {
        let (files, issuer) = (Files::new(), Issuer::ec("key"));
        let token = || new_token().unwrap();
        let (writer, limited, stranger) = (token(), token(), token());
        let accounts = format!("accounts = [\"{}\"]", fresh_id());
        let credentials = principal("writer", "writer", &writer, "")
            + &principal("limited", "writer", &limited, &accounts);
        files.write("credentials", &credentials);
        files.write("keys", &jwk_set(&[&issuer]));
        let mut claims = super::claims("writer");
        claims["exp"] = 1.into();
        let (jwt, owner) = (issuer.token(&claims), format!("Canary {}", fresh_id()));
        Self { files, writer, limited, stranger, jwt, owner }
    }

    fn canaries(&self) -> Canaries {
        let tokens = [&self.writer, &self.limited, &self.stranger];
        let mut canaries: Vec<String> = tokens.iter().map(|token| token[8..].to_owned()).collect();
        canaries.extend(tokens.iter().map(|token| hash_of(token).unwrap()));
        canaries.extend(self.jwt.split('.').map(str::to_owned));
        canaries.push(self.owner.clone());
        Canaries(canaries)
    }

    fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.files.path(name).display().to_string();
        ["--credentials", &path("credentials"), "--jwt-keys", &path("keys")]
            .into_iter()
            .chain(["--jwt-issuer", super::ISSUER, "--jwt-audience", super::AUDIENCE])
            .map(str::to_owned)
            .collect()
    }
}

#[tokio::test]
async fn no_secret_is_in_any_line_or_error() {
    // Everything is logged that can be; tokens, their hashes and the owner are in none of it.
    let secrets = Secrets::new();
    let canaries = secrets.canaries();
    let directory = tempfile::tempdir().unwrap();
    let mut flags = secrets.flags();
    flags.extend(["--log-level", "trace"].map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(directory.path(), &flags).await;
    call_everything(&server.connect().await, &secrets, &canaries).await;

    // A token where its hash belongs, and the other way to read the files again.
    let misplaced = format!(
        "[[principal]]\nname = \"a\"\nrole = \"reader\"\ntoken_sha256 = [\"{}\"]\n",
        secrets.stranger
    );
    secrets.files.write("credentials", &misplaced);
    server.hang_up();
    server.wait_for_line("the credentials stay as they were").await;
    server.terminate();
    assert_eq!(server.exit_code(STOP_WITHIN).await, 0);
    server.assert_calm_at(&["DEBUG", "TRACE"]).await;
    let lines = server.lines();
    canaries.assert_absent(&lines.join("\n"), "the log");
    assert!(lines.iter().any(|line| line.contains("\"TRACE\"")), "everything is logged");
    assert!(lines.iter().any(|line| line.contains("token_sha256[0] must be")), "{lines:?}");
    let denied: Vec<_> = lines.iter().filter(|line| line.contains("daybook::audit")).collect();
    for told in ["CREDENTIALS_INVALID", "ACCOUNT_NOT_ALLOWED", "\"limited\"", "127.0.0.1:"] {
        assert!(denied.iter().any(|line| line.contains(told)), "{told}: {denied:?}");
    }
}

#[tokio::test]
async fn a_flood_of_denied_calls_is_a_few_lines() {
    let secrets = Secrets::new();
    let directory = tempfile::tempdir().unwrap();
    let flags = secrets.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(directory.path(), &flags).await;
    let channel = server.connect().await;
    let begin = std::time::Instant::now();
    let path = "/daybook.v1.QueryService/GetStats";
    let flood = async |count| {
        for _ in 0..count {
            let status = knock(&channel, path, &[]).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        }
    };
    let mut denied = 2_000;
    flood(denied).await;
    // If the last of them was told by itself, nothing more is to be told.
    let left_out = "denied calls that were not told";
    while timeout(SETTLED_WITHIN, server.wait_for_line(left_out)).await.is_err() {
        flood(100).await;
        denied += 100;
    }
    // Of these many are told only when the server stops.
    flood(100).await;
    denied += 100;
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap() + 1;
    server.terminate();
    assert_eq!(server.exit_code(STOP_WITHIN).await, 0);
    server.assert_calm().await;
    let lines: Vec<serde_json::Value> =
        server.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_denied = |line: &&serde_json::Value| line["left_out"].is_u64();
    let audit: Vec<_> = lines.iter().filter(is_denied).collect();
    let most = AUDIT_LINES * (seconds + 2);
    assert!(audit.len() <= most, "{} lines in {seconds} s", audit.len());
    let left_out: u64 = audit.iter().map(|line| line["left_out"].as_u64().unwrap()).sum();
    let told = audit.iter().filter(|line| line["message"] == "denied").count() as u64;
    assert_eq!(told + left_out, denied, "each is told or counted");
    let first = audit[0];
    assert_eq!(first["method"], "/daybook.v1.QueryService/GetStats");
    assert_eq!((first["principal"].as_str(), first["level"].as_str()), (Some("-"), Some("INFO")));
}

#[test]
fn check_config_tells_no_secret_and_what_is_wrong() {
    let secrets = Secrets::new();
    let canaries = secrets.canaries();
    let flags = secrets.flags();
    let flags: Vec<&str> =
        ["check-config"].into_iter().chain(flags.iter().map(|it| &**it)).collect();
    let output = daybook(&flags, "");
    assert!(output.status.success(), "{}", printed(&output));
    let text = printed(&output);
    canaries.assert_absent(&text, "check-config");
    for key in ["credentials = ", "jwt_keys = ", "jwt_issuer = ", "jwt_audience = "] {
        assert!(text.contains(key), "{text}");
    }
    let check = |exit_code: i32, told: &str| {
        for command in [&flags[..], &flags[1..]] {
            let output = daybook(command, "");
            assert_eq!(output.status.code(), Some(exit_code), "{}", printed(&output));
            assert!(printed(&output).contains(told), "{told}: {}", printed(&output));
            canaries.assert_absent(&printed(&output), "an error");
        }
    };
    let misplaced =
        principal("a", "reader", "x", &format!("certificate = [\"{}\"", secrets.stranger));
    secrets.files.write("credentials", &misplaced);
    check(64, "credentials: the file ");
    std::fs::remove_file(secrets.files.path("credentials")).unwrap();
    check(74, "could not be read");
    secrets.files.write("credentials", &principal("a", "reader", "x", ""));
    secrets.files.write("keys", "{");
    check(64, "jwt_keys: the file ");
}

#[test]
fn a_token_is_made_and_hashed() {
    let output = daybook(&["token", "--name", "till \"7\" \u{200b}\\é", "--role", "writer"], "");
    assert!(output.status.success(), "{}", printed(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let (token, table) = text.split_once("\n\n").unwrap();
    let hash = hash_of(token).unwrap();
    assert!(table.contains(&hash) && !table.contains(token), "{text}");

    // What it prints is what the server takes.
    let files = Files::new();
    files.write("credentials", table);
    let path = files.path("credentials").display().to_string();
    let output = daybook(&["check-config", "--credentials", &path], "");
    assert!(output.status.success(), "{}", printed(&output));

    for input in [token.to_owned(), format!("{token}\n"), format!(" {token}\r\n")] {
        let output = daybook(&["token", "--hash"], &input);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{hash}\n"));
    }
    for (arguments, input) in [
        (vec!["token", "--hash"], ""),
        (vec!["token", "--hash"], "two words"),
        (vec!["token", token], ""),
        (vec!["token", "--hash", token], ""),
        (vec!["token", "--role", "root"], ""),
        (vec!["token", "--name", "a\nb"], ""),
    ] {
        let output = daybook(&arguments, input);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", printed(&output));
    }
}

#[tokio::test]
async fn commands_show_the_token_of_a_file() {
    let secrets = Secrets::new();
    let directory = tempfile::tempdir().unwrap();
    let flags = secrets.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(directory.path(), &flags).await;
    let address = format!("http://{}", server.address());
    secrets.files.write("token", &format!("{}\n", secrets.writer));
    secrets.files.write("wrong", "two words");
    let token = secrets.files.path("token").display().to_string();
    let wrong = secrets.files.path("wrong").display().to_string();
    let bench = ["bench", "--accounts", "2", "--count", "10", "--in-flight", "2", "--tails", "1"];
    let run = async |arguments: &[&str]| {
        let mut arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        arguments.extend(["--address".to_owned(), address.clone()]);
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            daybook(&arguments, "")
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let denied = run(&bench).await;
    assert_eq!(denied.status.code(), Some(1), "{}", printed(&denied));
    assert!(printed(&denied).contains("Unauthenticated"), "{}", printed(&denied));
    let done = run(&[&bench[..], &["--token-file", &token]].concat()).await;
    assert!(done.status.success(), "{}", printed(&done));
    assert!(run(&["healthcheck"]).await.status.success(), "health is open");
    assert!(run(&["healthcheck", "--token-file", &token]).await.status.success());
    let tail = ["tail", "--after", "999999", "--token-file"];
    let told = run(&[&tail[..], &[&token]].concat()).await;
    assert!(printed(&told).contains("OutOfRange"), "it was let in: {}", printed(&told));
    let usage = run(&[&tail[..], &[&wrong]].concat()).await;
    assert_eq!(usage.status.code(), Some(64), "{}", printed(&usage));
    assert!(!printed(&usage).contains("words"), "{}", printed(&usage));
    let missing = run(&[&tail[..], &["no/such/file"]].concat()).await;
    assert_eq!(missing.status.code(), Some(74), "{}", printed(&missing));
    assert!(Path::new(&token).exists());
}
