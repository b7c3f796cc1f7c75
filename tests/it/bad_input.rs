//! Bad input: every field of every rpc, with all that is wrong told at once, and nothing written.

use std::fmt::Debug;

use daybook::proto::{
    self, BatchCommand, CloseAccountRequest, DepositMoneyRequest, EventType, ExecuteBatchRequest,
    OpenAccountRequest, TailEventsRequest, TransferMoneyRequest, WithdrawMoneyRequest,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::service::{
    BATCH_COMMANDS_MAX, Client, InBatch as _, MONEY_MAX, Rpc, Service, as_status, batch_of, close,
    deposit, fresh_id, open, reason, transfer, violations, withdraw,
};

mod frames;
mod reads;

/// UUIDs in every form but the canonical one, and what is none.
fn malformed_ids() -> Vec<String> {
    let id = Uuid::now_v7();
    let canonical = id.to_string();
    let short = canonical[..35].to_owned();
    let mut forms = vec![
        id.simple().to_string(),
        id.braced().to_string(),
        id.urn().to_string(),
        Uuid::nil().to_string(),
        format!("{short}g"),
        format!("{short}é"),
        format!(" {short}"),
        format!("{canonical} "),
        format!("{canonical}0"),
        canonical.replace('-', "_"),
        "x".repeat(100_000),
    ];
    forms.extend(["garbage", "0", " ", "null", "\0"].map(str::to_owned));
    forms.push(short);
    forms
}

/// Numbers that no amount has.
const AMOUNTS: [i64; 5] = [0, -1, MONEY_MAX + 1, i64::MIN, i64::MAX];
/// Numbers that no version and no position has.
const NEGATIVE: [i64; 3] = [-1, -1_000, i64::MIN];

/// Texts that no reason is.
fn malformed_texts() -> Vec<String> {
    let mut texts: Vec<String> = vec!["x".repeat(257), "\u{10348}".repeat(257), "x".repeat(10_000)];
    texts.extend(["two\nlines", "\t", "\0", "esc\u{1b}", "del\u{7f}", "c1\u{85}"].map(Into::into));
    texts
}

/// A service, and the promise that nothing that is asked of it writes anything.
struct Untouched {
    service: Service,
    /// An account of it.
    id: String,
    before: proto::GetStatsResponse,
}

impl Untouched {
    async fn new() -> Self {
        let service = Service::in_memory().await;
        let id = service.opened(100).await;
        let before = service.stats().await;
        Self { service, id, before }
    }

    /// That a request is refused because of exactly these fields.
    async fn refuses<R: Rpc + Clone + Debug>(&self, request: R, fields: &[&str])
    where
        R::Response: Debug,
    {
        let told = format!("{request:?}");
        let told: String = told.chars().take(300).collect();
        match self.service.call(request).await {
            Err(status) => assert_invalid(&status, fields, &told),
            Ok(answer) => panic!("{told} was answered {answer:?}"),
        }
    }

    async fn finish(self) {
        assert_eq!(self.service.stats().await, self.before, "something was written");
    }
}

fn assert_invalid(status: &Status, fields: &[&str], what: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
    assert_eq!(violations(status), fields, "{what}");
    assert_eq!(reason(status), "INVALID_FIELDS", "{what}");
}

#[tokio::test]
async fn ids_must_be_canonical_uuids_everywhere_in_commands() {
    // Each id of each command, in each wrong form; an id that may be left out may be empty.
    let untouched = Untouched::new().await;
    let (id, other) = (untouched.id.clone(), fresh_id());
    for bad in malformed_ids() {
        let bad = || bad.clone();
        let opening = || open("ada", 0);
        let request = OpenAccountRequest { account_id: bad(), ..opening() };
        untouched.refuses(request, &["account_id"]).await;
        let request = OpenAccountRequest { request_id: bad(), ..opening() };
        untouched.refuses(request, &["request_id"]).await;
        untouched.refuses(deposit(&bad(), 1), &["account_id"]).await;
        let request = DepositMoneyRequest { request_id: bad(), ..deposit(&id, 1) };
        untouched.refuses(request, &["request_id"]).await;
        untouched.refuses(withdraw(&bad(), 1), &["account_id"]).await;
        let request = WithdrawMoneyRequest { request_id: bad(), ..withdraw(&id, 1) };
        untouched.refuses(request, &["request_id"]).await;
        untouched.refuses(close(&bad()), &["account_id"]).await;
        let request = CloseAccountRequest { request_id: bad(), ..close(&id) };
        untouched.refuses(request, &["request_id"]).await;
        untouched.refuses(transfer(&bad(), &id, 1), &["from_account_id"]).await;
        untouched.refuses(transfer(&id, &bad(), 1), &["to_account_id"]).await;
        let request = TransferMoneyRequest { request_id: bad(), ..transfer(&id, &other, 1) };
        untouched.refuses(request, &["request_id"]).await;
        let request = TransferMoneyRequest { saga_id: bad(), ..transfer(&id, &other, 1) };
        untouched.refuses(request, &["saga_id"]).await;
    }
    untouched.refuses(deposit("", 1), &["account_id"]).await;
    untouched.refuses(withdraw("", 1), &["account_id"]).await;
    untouched.refuses(close(""), &["account_id"]).await;
    untouched.refuses(transfer("", "", 1), &["from_account_id", "to_account_id"]).await;
    untouched.finish().await;
}

#[tokio::test]
async fn amounts_must_be_within_their_range() {
    // Each amount of each command, next to and far outside of its range.
    let untouched = Untouched::new().await;
    let (id, other) = (untouched.id.clone(), fresh_id());
    for amount in AMOUNTS {
        untouched.refuses(deposit(&id, amount), &["amount_minor"]).await;
        untouched.refuses(withdraw(&id, amount), &["amount_minor"]).await;
        untouched.refuses(transfer(&id, &other, amount), &["amount_minor"]).await;
        if amount != 0 {
            untouched.refuses(open("ada", amount), &["initial_balance_minor"]).await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn texts_must_be_short_and_printable() {
    // Owners, reasons and currencies that break their rules.
    let untouched = Untouched::new().await;
    let (id, other) = (untouched.id.clone(), fresh_id());
    untouched.refuses(open("", 0), &["owner"]).await;
    for bad in malformed_texts() {
        untouched.refuses(open(&bad, 0), &["owner"]).await;
        let request = DepositMoneyRequest { reason: bad.clone(), ..deposit(&id, 1) };
        untouched.refuses(request, &["reason"]).await;
        let request = WithdrawMoneyRequest { reason: bad.clone(), ..withdraw(&id, 1) };
        untouched.refuses(request, &["reason"]).await;
        let request = TransferMoneyRequest { reason: bad, ..transfer(&id, &other, 1) };
        untouched.refuses(request, &["reason"]).await;
    }
    for bad in ["US", "ABCDEFGHIJK", "usd", "Usd", "US1", "U D", "USD ", "ÄÖÜ", "€€€", "\0\0\0"]
    {
        let request = OpenAccountRequest { currency_code: bad.to_owned(), ..open("ada", 0) };
        untouched.refuses(request, &["currency_code"]).await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn versions_must_not_be_negative() {
    // A negative expected version is not one that no account has: it is a mistake.
    let untouched = Untouched::new().await;
    let id = untouched.id.clone();
    for bad in NEGATIVE {
        let expected_version = Some(bad);
        let fields = ["expected_version"];
        let request = OpenAccountRequest { expected_version, ..open("ada", 0) };
        untouched.refuses(request, &fields).await;
        let request = DepositMoneyRequest { expected_version, ..deposit(&id, 1) };
        untouched.refuses(request, &fields).await;
        let request = WithdrawMoneyRequest { expected_version, ..withdraw(&id, 1) };
        untouched.refuses(request, &fields).await;
        let request = CloseAccountRequest { expected_version, ..close(&id) };
        untouched.refuses(request, &fields).await;
    }
    untouched.finish().await;
}

/// Commands in which every field is wrong, and all their fields.
fn all_wrong() -> Vec<(BatchCommand, Vec<&'static str>)> {
    let bad = || "bad".to_owned();
    let version = Some(-1);
    let opening = OpenAccountRequest {
        account_id: bad(),
        owner: "\n".to_owned(),
        currency_code: bad(),
        initial_balance_minor: -1,
        request_id: bad(),
        expected_version: version,
    };
    let depositing = DepositMoneyRequest {
        account_id: bad(),
        amount_minor: 0,
        reason: "\n".to_owned(),
        request_id: bad(),
        expected_version: version,
    };
    let withdrawing = WithdrawMoneyRequest {
        account_id: bad(),
        amount_minor: 0,
        reason: "\n".to_owned(),
        request_id: bad(),
        expected_version: version,
    };
    let transferring = TransferMoneyRequest {
        saga_id: bad(),
        from_account_id: bad(),
        to_account_id: bad(),
        amount_minor: 0,
        reason: "\n".to_owned(),
        request_id: bad(),
    };
    let closing =
        CloseAccountRequest { account_id: bad(), request_id: bad(), expected_version: version };
    let of_amount = ["account_id", "amount_minor", "expected_version", "reason", "request_id"];
    vec![
        (
            opening.in_batch(),
            vec![
                "account_id",
                "currency_code",
                "expected_version",
                "initial_balance_minor",
                "owner",
                "request_id",
            ],
        ),
        (depositing.in_batch(), of_amount.to_vec()),
        (withdrawing.in_batch(), of_amount.to_vec()),
        (
            transferring.in_batch(),
            vec![
                "amount_minor",
                "from_account_id",
                "reason",
                "request_id",
                "saga_id",
                "to_account_id",
            ],
        ),
        (closing.in_batch(), vec!["account_id", "expected_version", "request_id"]),
        (BatchCommand { command: None }, vec!["command"]),
    ]
}

async fn call_alone(client: &Client, command: BatchCommand) -> Option<Status> {
    use proto::batch_command::Command as Kind;
    match command.command? {
        Kind::OpenAccount(request) => client.call(request).await.err(),
        Kind::DepositMoney(request) => client.call(request).await.err(),
        Kind::WithdrawMoney(request) => client.call(request).await.err(),
        Kind::TransferMoney(request) => client.call(request).await.err(),
        Kind::CloseAccount(request) => client.call(request).await.err(),
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_a_command_is_told_at_once() {
    // A caller should not have to mend one field to hear of the next; alone or in a batch.
    let untouched = Untouched::new().await;
    let service = &untouched.service;
    for (command, fields) in all_wrong() {
        if let Some(status) = call_alone(service, command).await {
            assert_invalid(&status, &fields, "alone");
        }
    }
    let commands = all_wrong().into_iter().map(|(command, _)| command).collect();
    let answer = service.call(batch_of(commands)).await.unwrap();
    assert_eq!((answer.accepted_count, answer.failures.len()), (0, 6));
    assert_eq!(answer.position, untouched.before.position);
    for (failure, (index, (_, fields))) in answer.failures.iter().zip((0..).zip(all_wrong())) {
        assert_eq!(failure.index, index);
        let status = as_status(failure.status.as_ref().unwrap());
        assert_invalid(&status, &fields, "in a batch");
    }
    untouched.finish().await;
}

#[tokio::test]
async fn batches_must_have_one_to_8190_commands() {
    // No commands, and one too many.
    let untouched = Untouched::new().await;
    for count in [0, BATCH_COMMANDS_MAX + 1, 2 * BATCH_COMMANDS_MAX] {
        let commands = vec![deposit(&untouched.id, 1).in_batch(); count];
        for return_results in [false, true] {
            let request = ExecuteBatchRequest { commands: commands.clone(), return_results };
            untouched.refuses(request, &["commands"]).await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn tails_must_ask_for_what_there_is() {
    // Every field of a tail's request, each mistake with its place in the list.
    let untouched = Untouched::new().await;
    let known = untouched.id.clone();
    let mut table: Vec<(TailEventsRequest, &[&str])> = Vec::new();
    for bad in NEGATIVE {
        table.push((crate::service::from(bad), &["after_position"]));
    }
    for bad in malformed_ids() {
        let account_ids = vec![known.clone(), bad];
        let request = TailEventsRequest { account_ids, ..Default::default() };
        table.push((request, &["account_ids[1]"]));
    }
    for bad in [i32::from(EventType::Unspecified), -1, 8, i32::MAX] {
        let event_types = vec![EventType::AccountClosed.into(), bad];
        let request = TailEventsRequest { event_types, ..Default::default() };
        table.push((request, &["event_types[1]"]));
    }
    let account_ids = vec![known.clone(); 1_001];
    table.push((TailEventsRequest { account_ids, ..Default::default() }, &["account_ids"]));
    table.push((
        TailEventsRequest {
            after_position: Some(-1),
            account_ids: vec![String::new()],
            event_types: vec![99],
        },
        &["account_ids[0]", "after_position", "event_types[0]"],
    ));
    for (request, fields) in table {
        let status = untouched.service.tail(request).await.unwrap_err();
        assert_invalid(&status, fields, "a tail");
    }
    untouched.finish().await;
}

#[tokio::test]
async fn what_is_just_within_the_rules_is_taken() {
    // The other side of each limit: so that the refusals above are not too many.
    let service = Service::in_memory().await;
    let owners = ["x".to_owned(), "x".repeat(256), "\u{10348}".repeat(256), " ".to_owned()];
    for owner in owners {
        let opened = service.call(open(&owner, MONEY_MAX)).await.unwrap();
        assert_eq!(service.account(&opened.account_id).await.owner, owner);
    }
    for currency in ["AAA", "ZZZZZZZZZZ", "EUR", ""] {
        let request = OpenAccountRequest { currency_code: currency.into(), ..open("ada", 0) };
        let id = service.call(request).await.unwrap().account_id;
        let expected = if currency.is_empty() { "USD" } else { currency };
        assert_eq!(service.account(&id).await.currency_code, expected);
    }
    let upper = fresh_id().to_uppercase();
    let request = OpenAccountRequest { account_id: upper.clone(), ..open("ada", 0) };
    let id = service.call(request).await.unwrap().account_id;
    assert_eq!(id, upper.to_lowercase());
    let reason = "\u{10348}".repeat(256);
    let request = DepositMoneyRequest {
        reason: reason.clone(),
        request_id: fresh_id().to_uppercase(),
        expected_version: Some(1),
        ..deposit(&upper, MONEY_MAX)
    };
    let event = service.call(request.clone()).await.unwrap().event.unwrap();
    assert_eq!(event.account_id, id);
    assert_eq!(event.request_id, request.request_id.to_lowercase());
    let Some(proto::event::Payload::MoneyDeposited(told)) = event.payload else { panic!() };
    assert_eq!(told.reason, reason);
    let max = Uuid::max().to_string();
    service.call(OpenAccountRequest { account_id: max, ..open("ada", 0) }).await.unwrap();
}
