//! Checkpoints: whatever becomes of one, the next start gives the same ledger.

use std::{fs, path::PathBuf};

use daybook::proto::{
    DepositMoneyRequest, GetSagaRequest, ListAccountEventsRequest, ListAccountsRequest,
    ListSagasRequest, ListTransactionsRequest,
};

use super::{Played, assert_every_version};
use crate::service::{Client, Service, deposit, fresh_id};

/// How many bits of a checkpoint are tried, each with a start.
const BITS: usize = 12;

/// All that the ledger answers, but for the size of its log, which grows with each start.
async fn everything(client: &Client) -> Vec<String> {
    let (page_size, mut told) = (1_000, Vec::new());
    let mut stats = client.stats().await;
    // These depend on how it was started.
    (stats.log_bytes, stats.verified_position) = (0, 0);
    told.push(format!("{stats:?}"));
    let request = ListAccountsRequest { page_size, ..ListAccountsRequest::default() };
    let accounts = client.call(request).await.unwrap();
    for account in &accounts.accounts {
        let account_id = account.account_id.clone();
        let request = ListAccountsRequest {
            owner: account.owner.clone(),
            state: account.state,
            ..ListAccountsRequest::default()
        };
        told.push(format!("{:?}", client.call(request).await.unwrap().accounts));
        let request = ListAccountEventsRequest { account_id, page_size, ..Default::default() };
        told.push(format!("{:?}", client.call(request).await.unwrap().events));
    }
    told.push(format!("{:?} {}", accounts.accounts, accounts.total_size));
    let request = ListTransactionsRequest { page_size, ..ListTransactionsRequest::default() };
    let lines = client.call(request).await.unwrap();
    told.push(format!("{:?} {}", lines.transactions, lines.total_size));
    let request = ListSagasRequest { page_size, ..ListSagasRequest::default() };
    for saga in client.call(request).await.unwrap().sagas {
        let request = GetSagaRequest { saga_id: saga.saga_id.clone(), min_position: None };
        assert_eq!(client.call(request).await.unwrap().saga, Some(saga.clone()));
        told.push(format!("{saga:?}"));
    }
    told
}

fn checkpoint(service: &Service) -> PathBuf {
    service.data_dir().join("checkpoint")
}

/// Starts over a checkpoint that something has happened to, and compares all answers.
async fn assert_same(service: &mut Service, expected: &[String], what: &str) {
    service.restart().await;
    assert_eq!(everything(service).await, expected, "{what}");
    service.stop().await;
}

#[tokio::test]
async fn whatever_becomes_of_a_checkpoint_a_start_gives_the_same_ledger() {
    // Gone, older, cut, of zeros, or with any bit changed: a start reads more, and answers alike.
    let mut played = Played::new(20_261_101, 300).await;
    played.service.restart().await;
    let older = fs::read(checkpoint(&played.service)).unwrap();
    played.go_on(300).await;
    let expected = everything(&played.service).await;
    let service = &mut played.service;
    service.stop().await;
    assert_same(service, &expected, "as it is").await;
    assert_ne!(fs::read(checkpoint(service)).unwrap(), older, "it was made anew");
    fs::remove_file(checkpoint(service)).unwrap();
    assert_same(service, &expected, "gone").await;
    let newest = fs::read(checkpoint(service)).unwrap();
    fs::remove_file(checkpoint(service)).unwrap();
    assert_same(service, &expected, "gone again").await;
    assert_eq!(fs::read(checkpoint(service)).unwrap(), newest, "made anew, and the same");
    let mut changed = vec![older, Vec::new(), newest[..newest.len() / 2].to_vec()];
    changed.push(vec![0; newest.len()]);
    for _ in 0..BITS {
        let mut bytes = newest.clone();
        let place = played.random.below(bytes.len());
        bytes[place] ^= 1 << played.random.below(8);
        changed.push(bytes);
    }
    for (number, bytes) in changed.into_iter().enumerate() {
        fs::write(checkpoint(service), bytes).unwrap();
        assert_same(service, &expected, &format!("change {number}")).await;
    }
}

#[tokio::test]
async fn what_was_accepted_before_a_checkpoint_is_not_done_again() {
    // Request ids are not in the checkpoint: they are read from the log before it again.
    let mut played = Played::new(20_261_102, 300).await;
    let account_id = played.service.opened(0).await;
    let mut requests = Vec::new();
    for amount in 1..=100 {
        let request =
            DepositMoneyRequest { request_id: fresh_id(), ..deposit(&account_id, amount) };
        let answer = played.service.call(request.clone()).await.unwrap();
        requests.push((request, answer.event));
    }
    played.service.restart().await;
    assert!(checkpoint(&played.service).exists());
    for (request, event) in requests {
        let answer = played.service.call(request).await.unwrap();
        assert_eq!((answer.replayed, answer.event), (true, event));
    }
    assert_eq!(played.service.balance(&account_id).await, (1..=100).sum::<i64>());
}

#[tokio::test]
async fn a_checkpoint_is_true_at_one_position_though_the_ledger_goes_on() {
    // With one due every few hundred events, they are made while commands come in; then the
    // process is not asked to stop, so that the newest of them is used, with what came after.
    let mut played = Played::new(20_261_103, 1_500).await;
    let before = fs::read(checkpoint(&played.service));
    for _ in 0..3 {
        played.go_on(700).await;
        assert_every_version(&played.service, &played.model).await;
    }
    assert_ne!(fs::read(checkpoint(&played.service)).ok(), before.ok());
}
