//! The small commands beside serving, as the real binary.

use std::process::{Command, Stdio};

use crate::service::Service;

/// Runs the binary. Gives its exit code, and what it wrote to both outputs.
async fn daybook(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    command.args(arguments).env_clear().stdin(Stdio::null());
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
}
