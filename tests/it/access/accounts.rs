//! A principal that is limited to accounts: every way in which it may try to reach others.

use std::fmt::Debug;

use daybook::proto::{
    self, BatchCommand, ExecuteStreamRequest, GetSagaRequest, GetStatsRequest,
    ListAccountEventsRequest, ListAccountsRequest, ListSagasRequest, ListTransactionsRequest,
    OpenAccountRequest, TailEventsRequest,
};
use futures_util::stream;
use tonic::{Code, Status};

use super::{Bank, bearing};
use crate::service::{
    InBatch as _, Rpc, as_status, batch_of, close, deposit, fresh_id, get, metadata, open, reason,
    transfer, violations, withdraw,
};

/// What stands where an account's id belongs and is none of the caller's, whatever else it is.
fn others(bank: &Bank) -> Vec<String> {
    let near = {
        let mut near = bank.own[0].clone().into_bytes();
        let last = near.last_mut().unwrap();
        *last = if *last == b'0' { b'1' } else { b'0' };
        String::from_utf8(near).unwrap()
    };
    let padded = format!("{} ", bank.own[0]);
    let texts = ["", " ", "garbage", "*", "00000000-0000-0000-0000-000000000000"];
    let mut others = vec![bank.foreign.clone(), fresh_id(), near, padded, "x".repeat(10_000)];
    others.extend(texts.map(str::to_owned));
    others
}

fn open_as(account_id: &str) -> OpenAccountRequest {
    OpenAccountRequest { account_id: account_id.to_owned(), ..open("eve", 0) }
}

fn events_of(account_id: &str) -> ListAccountEventsRequest {
    ListAccountEventsRequest { account_id: account_id.to_owned(), ..Default::default() }
}

fn transactions_of(account_id: &str) -> ListTransactionsRequest {
    ListTransactionsRequest { account_id: account_id.to_owned(), ..Default::default() }
}

fn sagas_of(account_id: &str) -> ListSagasRequest {
    ListSagasRequest { account_id: account_id.to_owned(), ..Default::default() }
}

fn saga(saga_id: &str) -> GetSagaRequest {
    GetSagaRequest { saga_id: saga_id.to_owned(), min_position: None }
}

fn tail_of(account_ids: &[&str]) -> TailEventsRequest {
    TailEventsRequest {
        after_position: Some(0),
        account_ids: account_ids.iter().map(|id| (*id).to_owned()).collect(),
        ..Default::default()
    }
}

/// All that a denied call is told.
type Told = (Code, String, Vec<u8>);

/// What each denied call is told, which must be the same for all of them.
#[derive(Default)]
struct Denials(Option<Told>);

impl Denials {
    fn add<T: Debug>(&mut self, answer: Result<T, Status>, what: &str) {
        let status = answer.expect_err(what);
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status:?}");
        assert_eq!(reason(&status), "ACCOUNT_NOT_ALLOWED", "{what}");
        assert!(metadata(&status).is_empty(), "{what}");
        let told = (status.code(), status.message().to_owned(), status.details().to_vec());
        assert_eq!(self.0.get_or_insert_with(|| told.clone()), &told, "{what}");
    }

    async fn call<R: Rpc + Debug>(&mut self, bank: &Bank, request: R)
    where
        R::Response: Debug,
    {
        let what: String = format!("{request:?}").chars().take(300).collect();
        self.add(bank.call(&bank.limited, request).await, &what);
    }

    async fn tail(&mut self, bank: &Bank, account_ids: &[&str]) {
        let request = bearing(&bank.limited, tail_of(account_ids));
        let tail = bank.service.queries.clone().tail_events(request).await;
        self.add(tail.map(drop), &format!("{account_ids:?}"));
    }
}

#[tokio::test]
async fn a_limited_principal_reaches_no_account_but_its_own() {
    // Each field of each rpc that names an account, with what exists, what does not, and what is no
    // id: all is denied in the same words, and nothing is written.
    let bank = Bank::open().await;
    let before = bank.call(&bank.admin, GetStatsRequest::default()).await.unwrap();
    let own = bank.own[0].as_str();
    let mut denials = Denials::default();
    for other in &others(&bank) {
        denials.call(&bank, open_as(other)).await;
        denials.call(&bank, deposit(other, 1)).await;
        denials.call(&bank, withdraw(other, 1)).await;
        denials.call(&bank, close(other)).await;
        denials.call(&bank, transfer(own, other, 1)).await;
        denials.call(&bank, transfer(other, own, 1)).await;
        denials.call(&bank, transfer(other, other, 1)).await;
        denials.call(&bank, get(other)).await;
        denials.call(&bank, events_of(other)).await;
        denials.call(&bank, transactions_of(other)).await;
        denials.call(&bank, sagas_of(other)).await;
        denials.tail(&bank, &[other]).await;
        denials.tail(&bank, &[own, other]).await;
        denials.tail(&bank, &[other, own]).await;
        // The wrong fields beside it are not looked at.
        denials.call(&bank, deposit(other, -1)).await;
        denials.call(&bank, open_as(other)).await;
        let negative = ListTransactionsRequest { page_size: -1, ..transactions_of(other) };
        denials.call(&bank, negative).await;
        let beyond = proto::GetAccountRequest {
            as_of: Some(proto::get_account_request::AsOf::AsOfPosition(i64::MAX)),
            ..get(other)
        };
        denials.call(&bank, beyond).await;
    }
    denials.call(&bank, ListAccountsRequest::default()).await;
    denials.call(&bank, ListAccountsRequest { owner: "ada".into(), ..Default::default() }).await;
    denials.call(&bank, GetStatsRequest::default()).await;
    denials.tail(&bank, &[]).await;
    let after = bank.call(&bank.admin, GetStatsRequest::default()).await.unwrap();
    assert_eq!(after, before, "something was written");
}

#[tokio::test]
async fn a_limited_principal_reaches_its_own_accounts() {
    let bank = Bank::open().await;
    let [one, other] = [bank.own[0].as_str(), bank.own[1].as_str()];
    let token = &bank.limited;
    assert_eq!(bank.call(token, deposit(one, 5)).await.unwrap().balance_minor, 1_005);
    let shouted = one.to_uppercase();
    assert_eq!(bank.call(token, withdraw(&shouted, 5)).await.unwrap().balance_minor, 1_000);
    let moved = bank.call(token, transfer(one, other, 300)).await.unwrap().saga.unwrap();
    let account = bank.call(token, get(other)).await.unwrap().account.unwrap();
    assert_eq!(account.balance_minor, 1_300);
    assert_eq!(bank.call(token, events_of(other)).await.unwrap().events.len(), 3);
    assert_eq!(bank.call(token, transactions_of(one)).await.unwrap().transactions.len(), 4);
    assert_eq!(
        bank.call(token, sagas_of(one)).await.unwrap().sagas[..],
        *std::slice::from_ref(&moved)
    );
    assert_eq!(bank.call(token, saga(&moved.saga_id)).await.unwrap().saga, Some(moved));
    let request = bearing(token, tail_of(&[one, other]));
    let mut tail = bank.service.queries.clone().tail_events(request).await.unwrap().into_inner();
    // A server that follows the owner tells what it knows of them so far in a message of its own.
    let mut events = Vec::new();
    while events.len() < 9 {
        events.extend(tail.message().await.unwrap().unwrap().events);
    }
    assert!(events.iter().all(|event| bank.own.contains(&event.account_id)), "{events:?}");
    assert_eq!(events.len(), 9);
    // An id of its own that is taken is told as to anybody.
    let exists = bank.call(token, open_as(one)).await.unwrap_err();
    assert_eq!((exists.code(), reason(&exists).as_str()), (Code::AlreadyExists, "ACCOUNT_EXISTS"));
    let wrong = bank.call(token, deposit(one, 0)).await.unwrap_err();
    assert_eq!(violations(&wrong), ["amount_minor"]);
}

#[tokio::test]
async fn a_saga_is_seen_by_those_who_may_see_one_of_its_accounts() {
    let bank = Bank::open().await;
    let stranger = bank.call(&bank.admin, open("eve", 0)).await.unwrap().account_id;
    let (own, foreign) = (bank.own[0].as_str(), bank.foreign.as_str());
    let mut made = Vec::new();
    for (from, to) in [(foreign, &*stranger), (foreign, own), (own, foreign)] {
        let moved = bank.call(&bank.writer, transfer(from, to, 1)).await.unwrap();
        made.push(moved.saga.unwrap().saga_id);
    }
    let chosen = fresh_id();
    let mut with_id = transfer(&stranger, foreign, 1);
    with_id.saga_id.clone_from(&chosen);
    bank.call(&bank.writer, with_id).await.unwrap();
    let event = bank.call(&bank.writer, deposit(foreign, 1)).await.unwrap().event.unwrap();

    let mut denials = Denials::default();
    for hidden in [&made[0], &chosen, &event.event_id, &fresh_id()] {
        denials.call(&bank, saga(hidden)).await;
        assert!(
            bank.call(&bank.reader, saga(hidden)).await.is_ok() == made.contains(hidden)
                || *hidden == chosen
        );
    }
    for seen in &made[1..] {
        let saga = bank.call(&bank.limited, saga(seen)).await.unwrap().saga.unwrap();
        assert_eq!(saga.saga_id, **seen);
    }
    // Those of its account are listed; the other side is its business as well.
    let sagas = bank.call(&bank.limited, sagas_of(own)).await.unwrap().sagas;
    assert_eq!(sagas.len(), 2);
    let unknown = bank.call(&bank.reader, saga(&fresh_id())).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "others are told");
}

/// Commands of a batch, and the code with which each fails, if it does.
fn mixed(bank: &Bank) -> Vec<(BatchCommand, Option<Code>)> {
    let (own, foreign) = (bank.own[0].as_str(), bank.foreign.as_str());
    let denied = Some(Code::PermissionDenied);
    vec![
        (deposit(own, 1).in_batch(), None),
        (deposit(foreign, 1).in_batch(), denied),
        (transfer(own, &bank.own[1], 1).in_batch(), None),
        (transfer(own, foreign, 1).in_batch(), denied),
        (transfer(foreign, own, 1).in_batch(), denied),
        (withdraw(own, 0).in_batch(), Some(Code::InvalidArgument)),
        (withdraw(foreign, 0).in_batch(), denied),
        (close(&fresh_id()).in_batch(), denied),
        (open("eve", 0).in_batch(), denied),
        (open_as(&fresh_id()).in_batch(), denied),
        (BatchCommand { command: None }, Some(Code::InvalidArgument)),
        (withdraw(own, i64::from(u32::MAX)).in_batch(), Some(Code::FailedPrecondition)),
        (deposit(own, 2).in_batch(), None),
    ]
}

fn assert_judged(failures: &[proto::BatchFailure], accepted: i32, mixed: &[Option<Code>]) {
    let failed: Vec<(usize, Code)> = failures
        .iter()
        .map(|failure| {
            let status = as_status(failure.status.as_ref().unwrap());
            if status.code() == Code::PermissionDenied {
                assert_eq!(reason(&status), "ACCOUNT_NOT_ALLOWED");
            }
            (usize::try_from(failure.index).unwrap(), status.code())
        })
        .collect();
    let expected: Vec<(usize, Code)> =
        mixed.iter().enumerate().filter_map(|(index, code)| Some((index, (*code)?))).collect();
    assert_eq!(failed, expected);
    assert_eq!(usize::try_from(accepted).unwrap(), mixed.len() - expected.len());
}

#[tokio::test]
async fn each_command_of_a_batch_is_judged_by_itself() {
    let bank = Bank::open().await;
    let (commands, codes): (Vec<_>, Vec<_>) = mixed(&bank).into_iter().unzip();
    let answer = bank.call(&bank.limited, batch_of(commands.clone())).await.unwrap();
    assert_judged(&answer.failures, answer.accepted_count, &codes);

    // The same in a stream, which goes on after a batch of which nothing was allowed.
    let denied = vec![deposit(&bank.foreign, 1).in_batch(); 3];
    let batches = [denied.clone(), commands, denied];
    let batches = batches.map(|commands| ExecuteStreamRequest { commands, return_results: false });
    let request = bearing(&bank.limited, stream::iter(batches));
    let answers = bank.service.commands.clone().execute_stream(request).await.unwrap();
    let mut answers = answers.into_inner();
    for codes in
        [&vec![Some(Code::PermissionDenied); 3], &codes, &vec![Some(Code::PermissionDenied); 3]]
    {
        let answer = answers.message().await.unwrap().unwrap();
        assert_judged(&answer.failures, answer.accepted_count, codes);
    }
    assert!(answers.message().await.unwrap().is_none());

    let account = bank.call(&bank.admin, get(&bank.foreign)).await.unwrap().account.unwrap();
    assert_eq!((account.balance_minor, account.version), (1_000, 1), "nobody has touched it");
    let account = bank.call(&bank.admin, get(&bank.own[0])).await.unwrap().account.unwrap();
    assert_eq!(account.balance_minor, 1_000 + 2 * (1 + 2 - 1));
}

#[tokio::test]
async fn page_tokens_lead_no_limited_principal_elsewhere() {
    // A token that the writer was given for a foreign list is good for that list only.
    let bank = Bank::open().await;
    let commands = (0..9).map(|_| deposit(&bank.foreign, 1).in_batch()).collect();
    bank.call(&bank.writer, batch_of(commands)).await.unwrap();
    let page = ListTransactionsRequest { page_size: 2, ..transactions_of(&bank.foreign) };
    let token = bank.call(&bank.writer, page).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    let own =
        ListTransactionsRequest { page_token: token.clone(), ..transactions_of(&bank.own[0]) };
    let refused = bank.call(&bank.limited, own).await.unwrap_err();
    assert_eq!(violations(&refused), ["page_token"]);
    let mut denials = Denials::default();
    let none = ListTransactionsRequest { page_token: token, ..transactions_of("") };
    denials.call(&bank, none).await;
}
