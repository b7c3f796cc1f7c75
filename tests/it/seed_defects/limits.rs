//! Defects at the edges: ids, amounts, repeats, sizes, and whose fault an error is.

use std::collections::HashSet;

use daybook::proto::{
    self, ExecuteBatchRequest, GetAccountRequest, GetSagaRequest, ListAccountEventsRequest,
    ListAccountsRequest, ListSagasRequest, ListTransactionsRequest, batch_result::Result as Done,
    get_account_request::AsOf,
};
use tonic::{Code, Status};
use uuid::{Uuid, Version};

use crate::service::{
    BATCH_COMMANDS_MAX, Client, InBatch as _, MONEY_MAX, Service, assert_refused, at_once,
    batch_of, close, deposit, fresh_id, get, open, reason, transfer, violations, withdraw,
};

#[tokio::test]
async fn defect_short_random_ids_that_collide() {
    // Ids of the server's making are whole UUIDv7s in canonical text, and no two are the same.
    let service = Service::in_memory().await;
    let mut ids = HashSet::new();
    for _ in 0..4 {
        let commands = (0..5_000).map(|_| open("ada", 0).in_batch()).collect();
        let request = ExecuteBatchRequest { commands, return_results: true };
        for result in service.call(request).await.unwrap().results {
            let Some(Done::OpenAccount(opened)) = result.result else { panic!("{result:?}") };
            let event_id = opened.event.unwrap().event_id;
            for id in [opened.account_id, event_id] {
                let uuid = Uuid::try_parse(&id).unwrap();
                assert_eq!(uuid.get_version(), Some(Version::SortRand), "{id}");
                assert_eq!(uuid.hyphenated().to_string(), id);
                assert!(ids.insert(uuid), "{id} was made twice");
            }
        }
    }
    assert_eq!(ids.len(), 40_000);
}

#[tokio::test]
async fn defect_money_as_floating_point() {
    // Amounts are whole minor units: none is rounded, up to the last unit of the largest one.
    let service = Service::in_memory().await;
    let single_precision_ends = (1 << 24) + 1;
    for amount in [1, single_precision_ends, (1 << 49) + 1, MONEY_MAX - 1] {
        let id = service.opened(amount).await;
        assert_eq!(service.balance(&id).await, amount);
        assert_eq!(service.call(deposit(&id, 1)).await.unwrap().balance_minor, amount + 1);
        assert_eq!(service.call(withdraw(&id, amount)).await.unwrap().balance_minor, 1);
        let event = service.log().await.pop().unwrap();
        let Some(proto::event::Payload::MoneyWithdrawn(taken)) = event.payload else { panic!() };
        assert_eq!((taken.amount_minor, taken.balance_minor), (amount, 1));
    }
    // Where double precision ends there is no money any more: refused, not rounded.
    let id = service.opened(0).await;
    let status = service.call(deposit(&id, (1 << 53) + 1)).await.unwrap_err();
    assert_eq!(violations(&status), ["amount_minor"]);
    // Ten times a tenth is one.
    for _ in 0..10 {
        service.call(deposit(&id, 10)).await.unwrap();
    }
    assert_eq!(service.balance(&id).await, 100);
}

#[tokio::test]
async fn defect_repeats_that_are_carried_out_again() {
    // A client that heard no answer asks again, here 16 times at once: one deposit takes place.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let request = proto::DepositMoneyRequest { request_id: fresh_id(), ..deposit(&id, 10) };
    let answers = at_once(16, |_| {
        let (client, request) = (Client::clone(&service), request.clone());
        async move { client.call(request).await.unwrap() }
    });
    let mut answers = answers.await;
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    for answer in &mut answers {
        answer.replayed = false;
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!((service.balance(&id).await, service.stats().await.event_count), (10, 2));
}

#[tokio::test]
async fn defect_unbounded_lists() {
    // However much is asked for, a page has 1,000 items at most, and leads to the next.
    let service = Service::in_memory().await;
    let (a, b) = (service.opened(1_000_000).await, service.opened(0).await);
    let mut commands: Vec<_> = (0..1_100).map(|_| transfer(&a, &b, 1).in_batch()).collect();
    commands.extend((0..1_100).map(|_| open("ada", 0).in_batch()));
    service.carry_out(commands).await;

    let page_size = 5_000;
    let accounts = ListAccountsRequest { page_size, ..Default::default() };
    let accounts = service.call(accounts).await.unwrap();
    assert_eq!((accounts.accounts.len(), accounts.total_size), (1_000, 1_102));
    let events =
        ListAccountEventsRequest { account_id: a.clone(), page_size, ..Default::default() };
    let events = service.call(events).await.unwrap();
    assert_eq!(events.events.len(), 1_000);
    let lines = ListTransactionsRequest { page_size, ..Default::default() };
    let lines = service.call(lines).await.unwrap();
    let of_account = ListTransactionsRequest { account_id: a, page_size, ..Default::default() };
    let of_account = service.call(of_account).await.unwrap();
    assert!(lines.transactions.len() <= 1_000 && of_account.transactions.len() <= 1_000);
    let sagas = service.call(ListSagasRequest { page_size, ..Default::default() }).await.unwrap();
    assert_eq!(sagas.sagas.len(), 1_000);
    for token in [
        accounts.next_page_token,
        events.next_page_token,
        lines.next_page_token,
        of_account.next_page_token,
        sagas.next_page_token,
    ] {
        assert_ne!(token, "");
    }
}

#[tokio::test]
async fn defect_unbounded_messages() {
    // A batch has its limit, and a message has one; beyond them nothing is carried out.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let before = service.stats().await;
    let commands = vec![deposit(&id, 1).in_batch(); BATCH_COMMANDS_MAX + 1];
    let status = service.call(batch_of(commands)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(violations(&status), ["commands"]);

    let large = proto::DepositMoneyRequest { reason: "x".repeat(5 << 20), ..deposit(&id, 1) };
    let refused = service.call(large).await;
    assert_refused(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert_eq!(service.stats().await, before);
}

#[tokio::test]
async fn defect_faults_of_the_client_answered_as_faults_of_the_server() {
    // Whatever a client gets wrong, the answer says that it was the client.
    let service = Service::in_memory().await;
    let (id, closed, full) =
        (service.opened(5).await, service.opened(0).await, service.opened(MONEY_MAX).await);
    service.call(close(&closed)).await.unwrap();
    let missing = fresh_id();
    let mut statuses = Vec::new();
    for account in ["", "garbage", "0", &missing, &closed, &full, &id] {
        for amount in [0, -1, i64::MIN, i64::MAX, MONEY_MAX] {
            statuses.extend(service.call(deposit(account, amount)).await.err());
            statuses.extend(service.call(transfer(account, &id, amount)).await.err());
            statuses.extend(service.call(transfer(&id, account, amount)).await.err());
            statuses.extend(service.call(open(account, amount)).await.err());
        }
        statuses.extend(service.call(close(account)).await.err());
        statuses.extend(bad_reads(&service, account).await);
    }
    assert!(statuses.len() > 100, "only {} calls failed", statuses.len());
    for status in statuses {
        let of_the_client = [
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::FailedPrecondition,
            Code::OutOfRange,
        ];
        assert!(of_the_client.contains(&status.code()), "{status:?}");
        assert_ne!(reason(&status), "");
    }
}

/// The statuses of reads that ask for what cannot be.
async fn bad_reads(client: &Client, account: &str) -> Vec<Status> {
    let mut statuses = Vec::new();
    for number in [-1, 0, 1_000, i64::MIN, i64::MAX] {
        for as_of in [AsOf::AsOfVersion(number), AsOf::AsOfPosition(number)] {
            let request = GetAccountRequest { as_of: Some(as_of), ..get(account) };
            statuses.extend(client.call(request).await.err());
        }
    }
    let garbage = "AAAAAAAAAAAAAAAAAAAAAAAA".to_owned();
    let saga = GetSagaRequest { saga_id: account.to_owned(), min_position: None };
    let sagas = ListSagasRequest { account_id: account.to_owned(), state: 9, ..Default::default() };
    let lines = ListTransactionsRequest { page_token: garbage, ..Default::default() };
    statuses.extend(client.call(saga).await.err());
    statuses.extend(client.call(sagas).await.err());
    statuses.extend(client.call(lines).await.err());
    statuses
}
