//! Lists: their pages, put together, are the model's, whatever the size of a page.

use daybook::proto::{
    Account, AccountState, Event, ListAccountEventsRequest, ListAccountsRequest, ListSagasRequest,
    ListTransactionsRequest, Saga, SagaState, Transaction,
};

use super::{Model, OWNERS, Played, Story};
use crate::service::{Client, Service, deposit, transfer};

/// How many pages a list may have here before it is taken to have no end.
const PAGES_MAX: usize = 5_000;

/// The items of all pages.
async fn all<T>(mut page: impl AsyncFnMut(String) -> (Vec<T>, String), page_size: i32) -> Vec<T> {
    let (mut items, mut token) = (Vec::new(), String::new());
    for _ in 0..PAGES_MAX {
        let (page, next) = page(token).await;
        assert!(page.len() <= usize::try_from(page_size).unwrap());
        items.extend(page);
        if next.is_empty() {
            return items;
        }
        token = next;
    }
    panic!("a list without end");
}

async fn accounts(
    client: &Client,
    (owner, state): (&str, AccountState),
    page_size: i32,
    total: i64,
) -> Vec<Account> {
    let page = async |page_token| {
        let (owner, state) = (owner.to_owned(), state.into());
        let request =
            ListAccountsRequest { page_size, page_token, owner, state, min_position: None };
        let page = client.call(request).await.unwrap();
        assert_eq!(page.total_size, total);
        (page.accounts, page.next_page_token)
    };
    all(page, page_size).await
}

async fn events(
    client: &Client,
    account_id: &str,
    (after_version, newest_first): (i64, bool),
    page_size: i32,
) -> Vec<Event> {
    let page = async |page_token| {
        let request = ListAccountEventsRequest {
            account_id: account_id.to_owned(),
            after_version,
            newest_first,
            page_size,
            page_token,
            min_position: None,
        };
        let page = client.call(request).await.unwrap();
        (page.events, page.next_page_token)
    };
    all(page, page_size).await
}

async fn transactions(client: &Client, account_id: &str, page_size: i32) -> Vec<Transaction> {
    let mut total = None;
    let page = async |page_token| {
        let account_id = account_id.to_owned();
        let request =
            ListTransactionsRequest { account_id, page_size, page_token, min_position: None };
        let page = client.call(request).await.unwrap();
        total.get_or_insert(page.total_size);
        (page.transactions, page.next_page_token)
    };
    let lines = all(page, page_size).await;
    assert_eq!(total, i64::try_from(lines.len()).ok());
    lines
}

async fn sagas(
    client: &Client,
    (account_id, state): (&str, SagaState),
    page_size: i32,
) -> Vec<Saga> {
    let page = async |page_token| {
        let (account_id, state) = (account_id.to_owned(), state.into());
        let request =
            ListSagasRequest { page_size, page_token, account_id, state, min_position: None };
        let page = client.call(request).await.unwrap();
        (page.sagas, page.next_page_token)
    };
    all(page, page_size).await
}

fn reversed<T: Clone>(items: impl DoubleEndedIterator<Item = T>) -> Vec<T> {
    items.rev().collect()
}

async fn assert_accounts(client: &Client, model: &Model) {
    let states = [AccountState::Unspecified, AccountState::Active, AccountState::Closed];
    for owner in OWNERS.into_iter().chain(["", "nobody", "AD"]) {
        for state in states {
            let passes = |account: &&Account| {
                (owner.is_empty() || account.owner == owner)
                    && (state == AccountState::Unspecified || account.state() == state)
            };
            let expected = model.accounts.iter().map(Story::now).filter(passes);
            let expected: Vec<_> = expected.cloned().collect();
            let total = i64::try_from(expected.len()).unwrap();
            for page_size in 1..=7 {
                let told = accounts(client, (owner, state), page_size, total).await;
                assert_eq!(told, expected, "{owner} {state:?} {page_size}");
            }
        }
    }
}

async fn assert_events(client: &Client, model: &Model) {
    for story in &model.accounts {
        let version = story.now().version;
        for after in [0, 1, version / 2, version - 1, version, i64::MAX] {
            let expected = model.of_account(story.id()).into_iter();
            let expected: Vec<Event> =
                expected.filter(|event| event.version > after).cloned().collect();
            let backwards = reversed(expected.iter().cloned());
            for page_size in 1..=7 {
                let told = events(client, story.id(), (after, false), page_size).await;
                assert_eq!(told, expected, "after {after}, pages of {page_size}");
                let told = events(client, story.id(), (after, true), page_size).await;
                assert_eq!(told, backwards, "after {after}, pages of {page_size}, backwards");
            }
        }
    }
}

async fn assert_transactions(client: &Client, model: &Model) {
    for page_size in [1, 2, 3, 4, 5, 6, 7, 1_000] {
        let expected = reversed(model.transactions.iter().cloned());
        assert_eq!(transactions(client, "", page_size).await, expected, "{page_size}");
        for story in &model.accounts {
            let own = model.transactions.iter().filter(|line| line.account_id == story.id());
            let expected = reversed(own.cloned());
            assert_eq!(transactions(client, story.id(), page_size).await, expected, "{page_size}");
        }
    }
}

async fn assert_sagas(client: &Client, model: &Model) {
    let ids = model.accounts.iter().map(Story::id).chain([""]);
    for id in ids {
        for state in [0, 1, 2, 3, 4] {
            let state = SagaState::try_from(state).unwrap();
            let passes = |saga: &&Saga| {
                (id.is_empty() || model.touches(saga, id))
                    && (state == SagaState::Unspecified || saga.state() == state)
            };
            let expected = reversed(model.sagas.iter().filter(passes).cloned());
            for page_size in [1, 2, 3, 5, 7, 1_000] {
                let told = sagas(client, (id, state), page_size).await;
                assert_eq!(told, expected, "{id} {state:?} {page_size}");
            }
        }
    }
}

#[tokio::test]
async fn accounts_are_listed_by_owner_and_state_in_the_order_of_opening() {
    // Every filter with every small page, each page with the size of the whole.
    let mut played = Played::new(20_260_211, 300).await;
    assert_accounts(&played.service, &played.model).await;
    played.go_on(100).await;
    assert_accounts(&played.service, &played.model).await;
}

#[tokio::test]
async fn the_events_of_an_account_are_listed_both_ways() {
    // From every part of the history, with every small page, the borders inside transfers.
    let mut played = Played::new(20_260_212, 100).await;
    assert_events(&played.service, &played.model).await;
    played.go_on(1).await;
    assert_events(&played.service, &played.model).await;
}

#[tokio::test]
async fn transactions_are_listed_newest_first() {
    // Of the ledger and of each account, with every small page.
    let mut played = Played::new(20_260_213, 200).await;
    assert_transactions(&played.service, &played.model).await;
    played.go_on(20).await;
    assert_transactions(&played.service, &played.model).await;
}

#[tokio::test]
async fn sagas_are_listed_by_account_and_state_newest_first() {
    // Every filter, in pages; of an account also those in which it was only the destination.
    let mut played = Played::new(20_260_214, 200).await;
    assert_sagas(&played.service, &played.model).await;
    played.go_on(50).await;
    assert_sagas(&played.service, &played.model).await;
}

#[tokio::test]
async fn a_list_of_the_newest_first_stands_still_while_others_write() {
    // New items come between two pages: what was there at the first page is shown once.
    let played = Played::new(20_260_215, 150).await;
    let (service, model) = (&played.service, &played.model);
    let (from, to) = (service.opened(1_000).await, service.opened(0).await);
    service.call(deposit(&from, 1)).await.unwrap();
    let model_now = Model::fold(service.log().await);
    assert!(model_now.log.len() > model.log.len());
    let write = async || {
        service.call(transfer(&from, &to, 1)).await.unwrap();
        service.call(transfer(&from, &to, 100_000)).await.unwrap_err();
    };
    let lines = async |page_token| {
        let request = ListTransactionsRequest { page_size: 9, page_token, ..Default::default() };
        let page = service.call(request).await.unwrap();
        write().await;
        (page.transactions, page.next_page_token)
    };
    let lines = all(lines, 9).await;
    assert_eq!(lines, reversed(model_now.transactions.iter().cloned()));

    let model_now = Model::fold(service.log().await);
    let listed = async |page_token| {
        let request = ListSagasRequest { page_size: 4, page_token, ..Default::default() };
        let page = service.call(request).await.unwrap();
        write().await;
        (page.sagas, page.next_page_token)
    };
    assert_eq!(all(listed, 4).await, reversed(model_now.sagas.iter().cloned()));

    let model_now = Model::fold(service.log().await);
    let own = async |page_token| {
        let (account_id, page_size, newest_first) = (from.clone(), 5, true);
        let request = ListAccountEventsRequest {
            account_id,
            page_size,
            page_token,
            newest_first,
            ..Default::default()
        };
        let page = service.call(request).await.unwrap();
        write().await;
        (page.events, page.next_page_token)
    };
    let expected = reversed(model_now.of_account(&from).into_iter().cloned());
    assert_eq!(all(own, 5).await, expected);
}

#[tokio::test]
async fn lists_have_fifty_items_when_nobody_says_how_many() {
    // The default of page_size, and an empty ledger, whose lists are empty and have no next page.
    let service = Service::in_memory().await;
    let empty = service.call(ListAccountsRequest::default()).await.unwrap();
    assert_eq!((empty.accounts, empty.next_page_token.as_str()), (vec![], ""));
    assert_eq!(transactions(&service, "", 1_000).await, []);
    assert_eq!(sagas(&service, ("", SagaState::Unspecified), 1_000).await, []);
    let mut id = String::new();
    for _ in 0..60 {
        id = service.opened(0).await;
    }
    for _ in 0..60 {
        service.call(deposit(&id, 1)).await.unwrap();
    }
    let page = service.call(ListAccountsRequest::default()).await.unwrap();
    assert_eq!((page.accounts.len(), page.total_size), (50, 60));
    let page = service.call(ListTransactionsRequest::default()).await.unwrap();
    assert_eq!((page.transactions.len(), page.total_size), (50, 120));
    let request = ListAccountEventsRequest { account_id: id, ..Default::default() };
    let page = service.call(request).await.unwrap();
    assert_eq!((page.events.len(), page.version, page.position), (50, 61, 120));
}
