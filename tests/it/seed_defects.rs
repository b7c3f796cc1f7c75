//! Defects that a toy of the same kind had: each must be impossible here. One test for each.
//!
//! This file has those that lose or make money; the others are in the files below it.

use daybook::proto::{self, AccountState, Event, SagaState, TransactionKind, event::Payload};
use tonic::{Code, Status};

use crate::service::{
    Client, InBatch as _, MONEY_MAX, Random, Service, assert_refused, at_once, close, deposit,
    fresh_id, get, metadata, open, reason, transfer, violations, withdraw,
};

mod costs;
mod limits;

/// The payloads of the events that bear a saga's id, in order.
fn story<'a>(log: &'a [Event], saga_id: &str) -> Vec<&'a Payload> {
    let of_saga = log.iter().filter(|event| event.saga_id == saga_id);
    of_saga.map(|event| event.payload.as_ref().unwrap()).collect()
}

#[tokio::test]
async fn defect_double_spend_by_concurrent_withdrawals() {
    // 64 clients see a balance of 100 on an account with a long history, and each takes all of it.
    let service = Service::in_memory().await;
    let id = service.opened(100).await;
    let mut history = Vec::new();
    for _ in 0..5_000 {
        history.push(deposit(&id, 7).in_batch());
        history.push(withdraw(&id, 7).in_batch());
    }
    service.carry_out(history).await;

    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(service.another().await);
    }
    let answers = at_once(64, |index| {
        let (client, request) = (clients[index].clone(), withdraw(&id, 100));
        async move { client.call(request).await }
    });
    let (spent, refused): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);

    assert_eq!((spent.len(), refused.len()), (1, 63));
    for answer in refused {
        assert_refused(answer, Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    }
    assert_eq!(service.balance(&id).await, 0);
    assert_eq!(service.account(&id).await.version, 10_002);
}

#[tokio::test]
async fn defect_state_lost_on_restart() {
    // All that was acknowledged is there after a restart, event for event.
    let mut service = Service::on_disk().await;
    let (a, b) = (service.opened(500).await, service.opened(0).await);
    service.call(deposit(&a, 20)).await.unwrap();
    service.call(withdraw(&a, 120)).await.unwrap();
    let saga = service.call(transfer(&a, &b, 400)).await.unwrap().saga.unwrap();
    service.call(close(&a)).await.unwrap();
    let failed = service.call(transfer(&b, &a, 1)).await.unwrap_err();
    let (log, stats) = (service.log().await, figures(&service).await);
    let (accounts, sagas) = (accounts(&service).await, sagas(&service).await);
    assert_eq!(log.len(), 2 + 2 + 5 + 1 + 4);

    for _ in 0..2 {
        service.restart().await;
        assert_eq!(service.log().await, log);
        assert_eq!(figures(&service).await, stats);
        assert_eq!(self::accounts(&service).await, accounts);
        assert_eq!(self::sagas(&service).await, sagas);
        assert_eq!(get_saga(&service, &saga.saga_id).await, saga);
        let compensated = get_saga(&service, &metadata(&failed)["saga_id"]).await;
        assert_eq!(compensated.state(), SagaState::Compensated);
        assert_eq!(service.balance(&b).await, 400);
    }
    let next = service.call(deposit(&b, 1)).await.unwrap().event.unwrap();
    assert_eq!(next.position, stats.position + 1);
}

/// The figures of the ledger, without those of the process: the log also notes that it was opened,
/// and a start verifies what it reads.
async fn figures(client: &Client) -> proto::GetStatsResponse {
    proto::GetStatsResponse { log_bytes: 0, verified_position: 0, ..client.stats().await }
}

async fn accounts(client: &Client) -> Vec<proto::Account> {
    client.call(proto::ListAccountsRequest::default()).await.unwrap().accounts
}

async fn sagas(client: &Client) -> Vec<proto::Saga> {
    client.call(proto::ListSagasRequest::default()).await.unwrap().sagas
}

async fn get_saga(client: &Client, saga_id: &str) -> proto::Saga {
    let request = proto::GetSagaRequest { saga_id: saga_id.to_owned(), min_position: None };
    client.call(request).await.unwrap().saga.unwrap()
}

#[tokio::test]
async fn defect_transfer_that_dies_half_way() {
    // A transfer is all there, or given back: its events follow on each other without a gap, and
    // no other command comes between them.
    let service = Service::in_memory().await;
    let (a, b, closed) =
        (service.opened(10_000).await, service.opened(0).await, service.opened(0).await);
    service.call(close(&closed)).await.unwrap();
    let missing = fresh_id();
    let answers = at_once(60, |index| {
        let client = Client::clone(&service);
        let to = [&b, &closed, &missing][index % 3];
        let (moving, other) = (transfer(&a, to, 10), deposit(&a, 1));
        async move {
            let moved = client.call(moving).await;
            client.call(other).await.unwrap();
            moved.map(|answer| answer.saga.unwrap())
        }
    });
    let answers = answers.await;
    let log = service.log().await;

    for (index, answer) in answers.into_iter().enumerate() {
        let saga_id = match answer {
            Ok(saga) if index % 3 == 0 => saga.saga_id,
            Err(status) if index % 3 != 0 => metadata(&status)["saga_id"].clone(),
            other => panic!("transfer {index}: {other:?}"),
        };
        let events: Vec<_> = log.iter().filter(|event| event.saga_id == saga_id).collect();
        assert!(events.windows(2).all(|pair| pair[1].position == pair[0].position + 1));
        let told: Vec<_> = story(&log, &saga_id).into_iter().map(name).collect();
        let completed = ["initiated", "withdrawn", "deposited", "completed", "completed"];
        let compensated = ["initiated", "withdrawn", "deposited", "failed"];
        assert_eq!(told, if index % 3 == 0 { &completed[..] } else { &compensated });
    }
    assert_eq!((service.balance(&a).await, service.balance(&b).await), (9_860, 200));
}

fn name(payload: &Payload) -> &'static str {
    match payload {
        Payload::AccountOpened(_) => "opened",
        Payload::MoneyDeposited(_) => "deposited",
        Payload::MoneyWithdrawn(_) => "withdrawn",
        Payload::TransferInitiated(_) => "initiated",
        Payload::TransferCompleted(_) => "completed",
        Payload::TransferFailed(_) => "failed",
        Payload::AccountClosed(_) => "closed",
    }
}

#[tokio::test]
async fn defect_negative_or_zero_amounts_as_theft() {
    // A transfer of -100 would take 100 from its destination.
    let service = Service::in_memory().await;
    let (thief, victim) = (service.opened(0).await, service.opened(1_000).await);
    let before = service.stats().await;
    for amount in [0, -1, -100, i64::MIN, i64::MAX, MONEY_MAX + 1] {
        let stolen = service.call(transfer(&thief, &victim, amount)).await.unwrap_err();
        let given = service.call(deposit(&victim, amount)).await.unwrap_err();
        let taken = service.call(withdraw(&thief, amount)).await.unwrap_err();
        for status in [stolen, given, taken] {
            assert_eq!(status.code(), Code::InvalidArgument, "{amount}");
            assert_eq!(violations(&status), ["amount_minor"], "{amount}");
        }
    }
    assert_eq!(service.stats().await, before);
    assert_eq!((service.balance(&thief).await, service.balance(&victim).await), (0, 1_000));
}

#[tokio::test]
async fn defect_transfer_to_self() {
    // Two copies of one account in a transfer would make money; other spellings are no way round.
    let service = Service::in_memory().await;
    let id = service.opened(1_000).await;
    let before = service.stats().await;
    for (from, to) in [(id.clone(), id.clone()), (id.clone(), id.to_uppercase())] {
        let status = service.call(transfer(&from, &to, 10)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(violations(&status), ["to_account_id"]);
    }
    assert_eq!(service.stats().await, before);
    assert_eq!(service.balance(&id).await, 1_000);
}

#[tokio::test]
async fn defect_ghost_streams_of_missing_accounts() {
    // A command on an account that was never opened leaves no trace of that account.
    let service = Service::in_memory().await;
    let (ghost, real) = (fresh_id(), service.opened(100).await);
    let before = service.stats().await;
    let refusals: [Status; 4] = [
        service.call(deposit(&ghost, 1)).await.unwrap_err(),
        service.call(withdraw(&ghost, 1)).await.unwrap_err(),
        service.call(close(&ghost)).await.unwrap_err(),
        service.call(transfer(&ghost, &real, 1)).await.unwrap_err(),
    ];
    for status in refusals {
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status), "ACCOUNT_NOT_FOUND");
        assert_eq!(metadata(&status)["account_id"], ghost);
    }
    assert_eq!(service.stats().await, before);

    // A transfer to it is recorded, but only where it was asked for.
    let failed = service.call(transfer(&real, &ghost, 1)).await;
    assert_refused(failed, Code::FailedPrecondition, "DESTINATION_NOT_FOUND");
    assert!(service.log().await.iter().all(|event| event.account_id == real));
    assert_refused(service.call(get(&ghost)).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    assert_eq!(service.stats().await.account_count, 1);
    service.call(proto::OpenAccountRequest { account_id: ghost, ..open("bob", 0) }).await.unwrap();
}

#[tokio::test]
async fn defect_source_of_a_transfer_not_checked() {
    // A closed account can send nothing.
    let service = Service::in_memory().await;
    let (closed, other) = (service.opened(0).await, service.opened(100).await);
    service.call(close(&closed)).await.unwrap();
    let before = service.stats().await;
    let answer = service.call(transfer(&closed, &other, 1)).await;
    assert_refused(answer, Code::FailedPrecondition, "ACCOUNT_CLOSED");
    assert_eq!(service.stats().await, before);
}

#[tokio::test]
async fn defect_account_closed_while_a_transfer_is_on_its_way() {
    // Transfers and closings race: no money is in a closed account, and none is lost.
    const SEED: u64 = 20_260_101;
    const TOTAL: i64 = 4_000;
    let service = Service::in_memory().await;
    let mut ids = vec![service.opened(TOTAL).await];
    for _ in 0..19 {
        ids.push(service.opened(0).await);
    }
    let mut random = Random::seeded(SEED);
    let seeds: Vec<u64> = (0..16).map(|_| random.next()).collect();
    let racers = at_once(16, |index| {
        let (client, ids, seed) = (Client::clone(&service), ids.clone(), seeds[index]);
        async move { race(&client, &ids, seed).await }
    });
    racers.await;

    let accounts = accounts(&service).await;
    let closed = accounts.iter().filter(|account| account.state() == AccountState::Closed);
    assert!(closed.clone().count() > 0, "no account was closed: the race did not take place");
    assert!(closed.clone().all(|account| account.balance_minor == 0));
    assert!(accounts.iter().all(|account| account.pending_saga_ids.is_empty()));
    assert_eq!(accounts.iter().map(|account| account.balance_minor).sum::<i64>(), TOTAL);
}

/// Moves whole balances to and fro, and closes accounts that have just been emptied. The account
/// with place 0 is never closed, so that the money has somewhere to be.
async fn race(client: &Client, ids: &[String], seed: u64) {
    let mut random = Random::seeded(seed);
    for _ in 0..40 {
        let from = random.below(ids.len());
        let to = (from + 1 + random.below(ids.len() - 1)) % ids.len();
        let balance = client.balance(&ids[from]).await;
        if balance > 0 {
            let amount = random.between(1, balance);
            let _may_fail = client.call(transfer(&ids[from], &ids[to], amount)).await;
        }
        if from != 0 && random.below(8) == 0 {
            let _may_fail = client.call(close(&ids[from])).await;
        }
    }
}

#[tokio::test]
async fn defect_compensation_that_overdraws_or_gives_too_much() {
    // Giving back what a failed transfer took neither uses nor makes money, whatever happens
    // beside it: each compensation is exactly what was withdrawn before it.
    let service = Service::in_memory().await;
    let (source, full) = (service.opened(1_000).await, service.opened(MONEY_MAX).await);
    let answers = at_once(40, |index| {
        let client = Client::clone(&service);
        let (failing, taking) = (transfer(&source, &full, 25), withdraw(&source, 20));
        async move {
            if index % 2 == 0 {
                reason(&client.call(failing).await.unwrap_err())
            } else {
                client.call(taking).await.unwrap();
                "withdrawn".to_owned()
            }
        }
    });
    let answers = answers.await;
    assert_eq!(answers.iter().filter(|answer| *answer == "BALANCE_LIMIT").count(), 20);

    let log = service.log().await;
    for (before, event) in log.iter().zip(&log[1..]) {
        let Some(Payload::MoneyDeposited(back)) = &event.payload else { continue };
        let Some(Payload::MoneyWithdrawn(taken)) = &before.payload else { panic!("{before:?}") };
        assert_eq!(before.saga_id, event.saga_id);
        assert_eq!((back.amount_minor, taken.amount_minor), (25, 25));
        assert_eq!(back.balance_minor, taken.balance_minor + 25);
        assert_eq!(back.reason, "compensation");
    }
    assert_eq!(service.balance(&source).await, 1_000 - 20 * 20);
    assert_eq!(service.balance(&full).await, MONEY_MAX);
}

#[tokio::test]
async fn defect_balance_of_an_answer_from_another_moment() {
    // 32 deposits at once: each answer tells the balance right after its own event.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let answers = at_once(32, |_| {
        let (client, request) = (Client::clone(&service), deposit(&id, 10));
        async move { client.call(request).await.unwrap() }
    });
    let mut balances = Vec::new();
    for answer in answers.await {
        let event = answer.event.unwrap();
        let Some(Payload::MoneyDeposited(deposited)) = event.payload else { panic!("{event:?}") };
        assert_eq!(answer.balance_minor, deposited.balance_minor);
        assert_eq!(answer.balance_minor, (event.version - 1) * 10);
        balances.push(answer.balance_minor);
    }
    balances.sort_unstable();
    assert_eq!(balances, (1..=32).map(|count| count * 10).collect::<Vec<i64>>());
}

#[tokio::test]
async fn defect_transactions_that_do_not_add_up_to_the_balance() {
    // The lines of an account's statement lead from nothing to its balance, line by line, with
    // transfers that failed among them.
    let service = Service::in_memory().await;
    let (a, b) = (service.opened(1_000).await, service.opened(5).await);
    service.call(deposit(&a, 30)).await.unwrap();
    service.call(withdraw(&a, 7)).await.unwrap();
    service.call(transfer(&a, &b, 100)).await.unwrap();
    service.call(transfer(&b, &a, 3)).await.unwrap();
    service.call(transfer(&a, &fresh_id(), 50)).await.unwrap_err();
    service.call(transfer(&a, &b, 1_000_000)).await.unwrap_err();
    for (id, expected) in [(&a, 926), (&b, 102)] {
        let request =
            proto::ListTransactionsRequest { account_id: id.clone(), ..Default::default() };
        let mut lines = service.call(request).await.unwrap().transactions;
        lines.reverse();
        let mut balance = 0;
        for line in lines {
            balance += signed(&line);
            assert_eq!(line.balance_after_minor, balance, "{line:?}");
        }
        assert_eq!((balance, service.balance(id).await), (expected, expected));
    }
}

/// What a transaction adds to the balance of its account.
fn signed(line: &proto::Transaction) -> i64 {
    match line.kind() {
        TransactionKind::Opening
        | TransactionKind::Deposit
        | TransactionKind::TransferIn
        | TransactionKind::Compensation => line.amount_minor,
        TransactionKind::Withdrawal | TransactionKind::TransferOut => -line.amount_minor,
        TransactionKind::Unspecified => panic!("a transaction without kind: {line:?}"),
    }
}
