//! The small commands beside serving, as the real binary.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    process::{Killed, Server},
    service::Service,
};

/// Runs the binary. Gives its exit code, and what it wrote to both outputs.
async fn daybook(arguments: &[&str]) -> (i32, String, String) {
    daybook_with(&[], arguments).await
}

/// As [`daybook`], with some variables in its environment.
async fn daybook_with(variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn healthcheck_tells_by_its_exit_code_whether_a_server_serves() {
    // A server that serves, a name that it does not know, and a server that is gone.
    let mut service = Service::in_memory().await;
    let address = format!("http://{}", service.address());
    let ask = async |service: &str| {
        daybook(&["healthcheck", "--address", &address, "--service", service]).await
    };
    for name in ["readiness", "liveness", "", "daybook.v1.QueryService"] {
        assert_eq!(ask(name).await, (0, String::new(), String::new()), "{name}");
    }
    let (code, _, error) = ask("daybook.v1.NoService").await;
    assert!(code == 1 && error.contains("NotFound"), "{code} {error}");
    service.stop().await;
    let (code, _, error) = ask("readiness").await;
    assert!(code == 1 && error.contains("transport error"), "{code} {error}");
}

#[tokio::test]
async fn check_config_tells_the_settings_or_what_is_wrong_with_them() {
    let (code, told, _) = daybook(&["check-config", "--drain-grace", "2s"]).await;
    assert_eq!(code, 0);
    assert!(told.contains("listen = \"127.0.0.1:50051\"\n"), "{told}");
    assert!(told.contains("drain_grace = \"2000ms\"\n"), "{told}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("daybook.toml");
    std::fs::write(&file, "drain_grace = '2h'").unwrap();
    let (code, told, error) = daybook(&["check-config", "--config", file.to_str().unwrap()]).await;
    assert_eq!((code, &*told), (64, ""));
    assert!(error.contains("drain_grace = '2h'") && error.contains("at most 1h"), "{error}");

    let flags = ["check-config", "--listen", "[::1]:1234", "--operations-listen", "[::1]:1234"];
    for flags in [&flags[..], &flags[1..]] {
        let (code, told, error) = daybook(flags).await;
        assert_eq!((code, &*told), (64, ""));
        assert!(error.contains("listen = \"[::1]:1234\" and operations_listen = "), "{error}");
    }
}

#[tokio::test]
async fn tls_files_that_cannot_be_read_and_such_that_are_wrong_have_codes_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.pem");
    let path = path.to_str().unwrap();
    let check = ["check-config", "--tls-certificate", path, "--tls-key", path];
    let (code, told, error) = daybook(&check).await;
    assert_eq!((code, &*told), (74, ""));
    assert!(error.contains("tls_certificate = ") && error.contains("No such file"), "{error}");
    std::fs::write(path, "secret").unwrap();
    let (code, told, error) = daybook(&check).await;
    assert_eq!((code, &*told), (64, ""));
    assert!(error.contains("no certificate in it") && !error.contains("secret"), "{error}");
}

/// Intent: what can be known to be wrong before anybody is called is wrong usage, and told with its
/// flag; a file that is named and not there has the same code, whatever it is for.
#[tokio::test]
async fn wrong_flags_and_missing_files_are_told_by_their_codes() {
    let no_scheme = "http:// or https:// is missing, as in http://127.0.0.1:50051";
    let no_url = "expected a URL, such as http://127.0.0.1:50051";
    let no_id = "must be a UUID in canonical text";
    for command in ["healthcheck", "tail", "bench"] {
        for (address, told) in [
            ("127.0.0.1:1", no_scheme),
            ("foo", no_scheme),
            ("grpc://127.0.0.1:1", no_scheme),
            ("", no_url),
            ("http://", no_url),
            ("http://:1", no_url),
            ("http://a b", no_url),
        ] {
            let (code, _, error) = daybook(&[command, "--address", address]).await;
            assert_eq!(code, 64, "{command} {address}: {error}");
            let told = format!("invalid value '{address}' for '--address <URL>': {told}");
            assert!(error.contains(&told), "{error}");
        }
    }
    for id in ["xyz", "", "00000000-0000-0000-0000-00000000000g"] {
        let (code, _, error) = daybook(&["tail", "--account", id]).await;
        assert_eq!(code, 64, "{error}");
        let told = format!("invalid value '{id}' for '--account <ID>': {no_id}");
        assert!(error.contains(&told), "{error}");
    }
    for flag in ["--config", "--credentials"] {
        for command in ["check-config", "serve"] {
            let (code, _, error) = daybook(&[command, flag, "/no/such/file"]).await;
            assert!(code == 74 && error.contains("/no/such/file"), "{flag}: {code} {error}");
        }
    }
}

/// Intent: a wrong value is told with the place that it is from.
#[tokio::test]
async fn a_wrong_variable_is_told_by_its_name() {
    let number = "expected a whole number from 1 to 65536";
    for (variable, value, arguments, place, right) in [
        ("MAX_CONNECTIONS", "0", &["check-config"][..], "DAYBOOK_MAX_CONNECTIONS", number),
        ("MAX_CONNECTIONS", "0", &[], "DAYBOOK_MAX_CONNECTIONS", number),
        ("MAX_CONNECTIONS", "0", &["serve"], "DAYBOOK_MAX_CONNECTIONS", number),
        ("EPHEMERAL", "x", &["check-config"], "DAYBOOK_EPHEMERAL", "value was not a boolean"),
        ("ADDRESS", "x", &["tail"], "DAYBOOK_ADDRESS", "http:// or https:// is missing"),
        // The flag comes first, and is told by its own name.
        ("MAX_TAILS", "1", &["check-config", "--max-tails", "0"], "--max-tails <COUNT>", number),
        ("MAX_TAILS", "0", &["check-config", "--max-tails=0"], "--max-tails <COUNT>", number),
    ] {
        let variables = [(&*format!("DAYBOOK_{variable}"), value)];
        let (code, _, error) = daybook_with(&variables, arguments).await;
        let value = if place.starts_with('-') { "0" } else { value };
        let told = format!("error: invalid value '{value}' for '{place}': {right}");
        assert!(code == 64 && error.starts_with(&told), "{code} {error}");
    }
    let variables = [("DAYBOOK_LOG_FORMAT", "xml")];
    let (_, _, error) = daybook_with(&variables, &["check-config"]).await;
    let told = "error: invalid value 'xml' for 'DAYBOOK_LOG_FORMAT'\n  [possible values: auto, ";
    assert!(error.starts_with(told), "{error}");
}

/// Intent: a variable that is empty is none, as for most programs.
#[tokio::test]
async fn an_empty_variable_counts_as_not_set() {
    let names = ["CONFIG", "LISTEN", "INSECURE", "DATA_DIR", "EPHEMERAL", "TLS_KEY", "MAX_CALLS"];
    let names = names.map(|name| format!("DAYBOOK_{name}"));
    let variables: Vec<_> = names.iter().map(|name| (&**name, "")).collect();
    let (code, told, error) = daybook_with(&variables, &["check-config"]).await;
    assert_eq!((code, &*error), (0, ""));
    assert_eq!(told, daybook(&["check-config"]).await.1);
    let flags = ["check-config", "--max-calls", "7"];
    assert!(daybook_with(&variables, &flags).await.1.contains("max_calls = 7\n"));
    for help in [&["--help"][..], &["check-config", "--help"], &["help", "serve"]] {
        let (code, told, _) = daybook_with(&variables, help).await;
        assert_eq!((code, &*told), (0, &*daybook(help).await.1), "{help:?}");
        assert!(told.contains("[env: DAYBOOK_LISTEN]"), "{told}");
    }
    // What is given on the command line is meant, also if it is nothing.
    assert_eq!(daybook_with(&variables, &["check-config", "--data-dir", ""]).await.0, 64);
}

/// Intent: what `token` prints is what a credentials file may say.
#[tokio::test]
async fn a_token_has_a_name_that_the_credentials_file_takes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials.toml");
    let longest = "ü".repeat(128);
    for name in ["a", "\"'\\", &longest] {
        let (code, printed, error) = daybook(&["token", "--name", name]).await;
        assert_eq!((code, &*error), (0, ""));
        std::fs::write(&file, printed.split_once("\n\n").unwrap().1).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let check = ["check-config", "--credentials", file.to_str().unwrap()];
        let (code, _, error) = daybook(&check).await;
        assert_eq!((code, &*error), (0, ""), "{name}");
    }
    for (name, told) in [
        ("", "must not be empty"),
        (&*"x".repeat(129), "must have at most 128 characters"),
        ("a\nb", "must not contain control characters"),
    ] {
        let (code, printed, error) = daybook(&["token", "--name", name]).await;
        assert_eq!((code, &*printed), (64, ""));
        let told = format!("invalid value '{name}' for '--name <NAME>': {told}");
        assert!(error.contains(&told), "{error}");
    }
}

#[tokio::test]
async fn completions_and_the_manual_know_every_command() {
    let (_, help, _) = daybook(&["--help"]).await;
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() >= 9, "{commands:?}");
    let (code, manual, _) = daybook(&["man"]).await;
    assert_eq!(code, 0);
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, error) = daybook(&["completions", shell]).await;
        assert_eq!((code, &*error), (0, ""));
        for name in &commands {
            assert!(script.contains(name), "{shell} does not know {name}");
            assert!(manual.contains(&name.replace('-', "\\-")), "the manual lacks {name}");
        }
    }
    assert_eq!(daybook(&["completions", "csh"]).await.0, 64);
}

/// Intent: nobody keeps a ledger in memory only without being told.
#[tokio::test]
async fn a_ledger_that_is_not_kept_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    for (flags, expected) in [(&["--ephemeral"][..], 1), (&[], 0)] {
        let server = Server::start_with(&directory.path().join("data"), flags).await;
        let lines = server.lines();
        let is_warning = |line: &&String| {
            line.contains("\"WARN\"") && line.contains("is gone when the process ends")
        };
        assert_eq!(lines.iter().filter(is_warning).count(), expected, "{lines:?}");
        assert_eq!(directory.path().join("data").exists(), flags.is_empty());
    }
}

/// Intent: a service manager that asked for it is told when the ledger is ready, and when it stops.
#[tokio::test]
async fn the_service_manager_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_daybook"))
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path().join("data"))
        .env_clear()
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let told = async || {
        let mut buffer = [0; 64];
        let heard = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer));
        let length = heard.await.expect("something is told").unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(told().await, "READY=1\n");
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert_eq!(told().await, "STOPPING=1\n");
    let ended = tokio::task::spawn_blocking(move || child.0.wait()).await.unwrap();
    assert!(ended.unwrap().success());
}
