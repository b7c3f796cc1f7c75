//! What people find in the tables: every event as the API tells it, whatever texts it has.

use std::path::Path;

use daybook::proto::{
    CloseAccountRequest, DepositMoneyRequest, Event, OpenAccountRequest, TransferMoneyRequest,
    WithdrawMoneyRequest, event::Payload,
};

use crate::{
    crash::{
        audit::{self, Reader},
        call::Client,
    },
    engine,
    process::Server,
};

/// Texts that mean something to a database, if they ever get there as anything but values.
const TEXTS: [&str; 6] = [
    "'; drop table events; --",
    "\\'; select pg_sleep(10); --",
    "$1 $$ {} %s",
    "\" union select 1 \"",
    "{NULL,\"a\"}",
    "Зоя 🏦 ∑",
];

/// Opens an account, and gives its id.
pub(super) async fn open(server: &Server) -> String {
    let mut client = Client::new(server.connect().await);
    opened(&mut client, "Ada Lovelace", 1_000).await
}

async fn opened(client: &mut Client, owner: &str, initial_balance_minor: i64) -> String {
    let request = OpenAccountRequest {
        owner: owner.to_owned(),
        initial_balance_minor,
        request_id: uuid::Uuid::now_v7().to_string(),
        ..Default::default()
    };
    client.open_account(request).await.unwrap().into_inner().account_id
}

/// An event as a row has it.
fn row(event: &Event) -> String {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut row = Row::default();
    match event.payload.as_ref().unwrap() {
        Payload::AccountOpened(it) => {
            row = Row {
                name: "AccountOpened",
                balance: Some(it.initial_balance_minor),
                owner: some(&it.owner),
                currency: some(&it.currency_code),
                ..row
            };
        }
        Payload::MoneyDeposited(it) => {
            let (amount, balance) = (Some(it.amount_minor), Some(it.balance_minor));
            row = Row { name: "MoneyDeposited", amount, balance, reason: some(&it.reason), ..row };
        }
        Payload::MoneyWithdrawn(it) => {
            let (amount, balance) = (Some(it.amount_minor), Some(it.balance_minor));
            row = Row { name: "MoneyWithdrawn", amount, balance, reason: some(&it.reason), ..row };
        }
        Payload::TransferInitiated(it) => {
            let (amount, to) = (Some(it.amount_minor), some(&it.to_account_id));
            row = Row { name: "TransferInitiated", amount, to, reason: some(&it.reason), ..row };
        }
        Payload::TransferCompleted(_) => row.name = "TransferCompleted",
        Payload::TransferFailed(it) => {
            row = Row { name: "TransferFailed", error: some(&it.error), ..row };
        }
        Payload::AccountClosed(_) => row.name = "AccountClosed",
    }
    let time = event.event_time.as_ref().unwrap();
    serde_json::json!([
        event.position,
        event.account_id,
        event.version,
        event.event_id,
        row.name,
        time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000,
        row.amount,
        row.balance,
        row.owner,
        row.currency,
        row.to,
        some(&event.saga_id),
        row.error,
        some(&event.request_id),
        some(&event.principal),
        row.reason,
    ])
    .to_string()
}

#[derive(Default)]
struct Row {
    name: &'static str,
    amount: Option<i64>,
    balance: Option<i64>,
    owner: Option<String>,
    currency: Option<String>,
    to: Option<String>,
    error: Option<String>,
    reason: Option<String>,
}

const ROWS: &str = "
    select jsonb_build_array(position, account_id, version, event_id, event_type,
        (extract(epoch from event_time) * 1000000)::bigint, amount_minor, balance_minor, owner,
        currency_code, to_account_id, saga_id, error, request_id, principal, reason)
    from events order by position";

/// Intent: an analyst with psql and a client of the API read the same ledger.
#[tokio::test]
async fn every_event_is_a_row_that_says_the_same() {
    let Some(url) = super::new_ledger() else { return };
    let flags = ["--engine", "postgres", "--database-url", &url];
    let server = Server::start_with(Path::new("unused"), &flags).await;
    let mut client = Client::new(server.connect().await);
    for text in TEXTS {
        let (from, to) = (opened(&mut client, text, 100).await, opened(&mut client, text, 0).await);
        let (account_id, reason) = (from.clone(), text.to_owned());
        let deposit =
            DepositMoneyRequest { account_id, amount_minor: 5, reason, ..Default::default() };
        client.deposit_money(deposit).await.unwrap();
        let (account_id, reason) = (from.clone(), text.to_owned());
        let take =
            WithdrawMoneyRequest { account_id, amount_minor: 5, reason, ..Default::default() };
        client.withdraw_money(take).await.unwrap();
        // One that completes, one without funds, and one whose money comes back.
        for (amount_minor, to_account_id) in
            [(30, to.clone()), (1_000, to), (7, from.replace('0', "f"))]
        {
            let transfer = TransferMoneyRequest {
                from_account_id: from.clone(),
                to_account_id,
                amount_minor,
                reason: text.to_owned(),
                ..Default::default()
            };
            let _some_fail = client.transfer_money(transfer).await;
        }
        let empty = opened(&mut client, text, 0).await;
        let close = CloseAccountRequest { account_id: empty, ..Default::default() };
        client.close_account(close).await.unwrap();
    }
    let log = audit::read_log(&mut Reader::new(server.connect().await), 0).await;
    let parsed = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let expected: Vec<_> = log.iter().map(row).collect();
    let found = engine::query(&url, ROWS).unwrap();
    assert_eq!(
        found.iter().map(parsed).collect::<Vec<_>>(),
        expected.iter().map(parsed).collect::<Vec<_>>()
    );
    assert!(expected.iter().any(|row| row.contains("\"compensation\"")), "no money came back");
    let owners = "select distinct owner from ledger where event_type = 'TransferCompleted'";
    assert_eq!(engine::query(&url, owners).unwrap().len(), TEXTS.len());
}
