//! The load generator: what it tells of a load must be so.

use std::process::{Command, Output};

use daybook::proto::{
    DepositMoneyRequest, Event, GetStatsRequest, ListAccountsRequest, TailEventsRequest,
};
use serde_json::Value;

use crate::service::{Client, Service};

/// Runs `daybook bench` to its end.
async fn bench(client: &Client, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daybook"));
    let address = format!("http://{}", client.address());
    // No setting may come in from the environment of whoever runs the tests.
    command.env_clear().args(["bench", "--address", &address]).args(flags);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Runs it to its end, which must be a good one. Gives what it tells.
async fn told(client: &Client, flags: &[&str]) -> Value {
    let output = bench(client, &[flags, &["--json"]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn event_count(client: &Client) -> i64 {
    client.call(GetStatsRequest::default()).await.unwrap().event_count
}

/// Intent: a history is there before the load begins, as long as it was asked for, on each account,
/// also when it fills no batch or more than one.
#[tokio::test]
async fn a_history_is_what_was_asked_for() {
    let service = Service::in_memory().await;
    let flags = ["--accounts", "3", "--history", "3000", "--workload", "history-page"];
    let told = told(&service, &[&flags[..], &["--count", "20"]].concat()).await;
    assert_eq!((&told["accepted"], &told["unknown_calls"]), (&20.into(), &0.into()), "{told}");
    let accounts = service.call(ListAccountsRequest::default()).await.unwrap().accounts;
    let versions: Vec<_> = accounts.iter().map(|account| account.version).collect();
    assert_eq!(versions, [3_001; 3]);
    assert_eq!(event_count(&service).await, 9_003);
}

/// Intent: the check at the end can fail: a deposit that no answer told of is found.
#[tokio::test]
async fn money_that_nobody_acknowledged_is_found() {
    let service = Service::in_memory().await;
    let request = TailEventsRequest { after_position: Some(0), ..TailEventsRequest::default() };
    let mut events = service.queries.clone().tail_events(request).await.unwrap().into_inner();
    let meddle = async {
        let message = events.message().await.unwrap().unwrap();
        let Event { account_id, .. } = message.events[0].clone();
        let request =
            DepositMoneyRequest { account_id, amount_minor: 1, ..DepositMoneyRequest::default() };
        service.call(request).await.unwrap();
    };
    let flags = ["--accounts", "1", "--history", "1", "--seconds", "1", "--warm-up", "0"];
    let (output, ()) = tokio::join!(bench(&service, &flags), meddle);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("was acknowledged"), "{words}");
}

/// Intent: each tail is told every event of the load, and each answer is delivered to the first.
#[tokio::test]
async fn tails_are_told_every_event() {
    let service = Service::in_memory().await;
    let flags = ["--accounts", "4", "--history", "10", "--in-flight", "8", "--tails", "3"];
    for (workload, events) in [("deposit", 1), ("transfer", 5)] {
        let workload = ["--workload", workload, "--count", "50"];
        let told = told(&service, &[&flags[..], &workload[..]].concat()).await;
        assert_eq!(told["told_events"], 3 * 50 * events, "{told}");
        assert_eq!((&told["delivered"], &told["delivery_untimed"]), (&50.into(), &0.into()));
        assert!(told["delivery_micros"]["p99"].is_u64(), "{told}");
    }
}

/// Intent: unless told otherwise, no more commands are under way than a server takes in.
#[tokio::test]
async fn no_batch_is_turned_away_by_default() {
    let service = Service::in_memory().await;
    let flags = ["--workload", "transfer", "--batch", "1000", "--count", "80"];
    let told = told(&service, &[&flags[..], &["--seconds", "600"]].concat()).await;
    assert_eq!((&told["in_flight"], &told["shed_calls"]), (&32.into(), &0.into()), "{told}");
    assert_eq!(told["unknown_calls"], 0);
    let decided = told["accepted"].as_u64().unwrap() + told["refused"].as_u64().unwrap();
    assert_eq!(decided, 80_000, "{told}");
}

/// Intent: nobody takes a load that was not checked for one that was.
#[tokio::test]
async fn an_unchecked_load_says_so() {
    let service = Service::in_memory().await;
    let flags = ["--unchecked", "--count", "5"];
    let output = bench(&service, &flags).await;
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(report.lines().last(), Some("money        not checked"));
    assert_eq!(told(&service, &flags).await["checked"], false);
    assert_eq!(event_count(&service).await, 0);
    let told = told(&service, &["--accounts", "1", "--count", "1"]).await;
    assert_eq!((&told["checked"], &told["shed_calls"]), (&true.into(), &0.into()));
}

/// Intent: flags that contradict each other are wrong usage, told before anything is done.
#[tokio::test]
async fn contradicting_flags_are_refused() {
    let service = Service::in_memory().await;
    for flags in [
        "--workload read --batch 2",
        "--workload statement --stream",
        "--stream --rate 10",
        "--workload transfer --accounts 1",
        "--workload wallet --accounts 1",
        "--accounts 0",
        "--unchecked --history 1",
        "--unchecked --tails 1",
        "--tails 1001",
        "--workload tail --tails 1",
        "--workload tail --unchecked",
    ] {
        let output = bench(&service, &flags.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(output.status.code(), Some(64), "{flags}: {output:?}");
    }
    assert_eq!(event_count(&service).await, 0);
}
