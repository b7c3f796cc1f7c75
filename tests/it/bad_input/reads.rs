//! Bad input to the reads: fields, page tokens, moments that are not, positions that do not come.

use std::time::{Duration, Instant};

use daybook::proto::{
    GetAccountRequest, GetSagaRequest, GetStatsRequest, ListAccountEventsRequest,
    ListAccountsRequest, ListSagasRequest, ListTransactionsRequest, get_account_request::AsOf,
};
use prost_types::Timestamp;
use tonic::Code;

use super::{NEGATIVE, Untouched, malformed_ids};
use crate::service::{
    Client, InBatch, Service, assert_refused, deposit, fresh_id, get, metadata, transfer,
    violations,
};

#[tokio::test]
async fn ids_must_be_canonical_uuids_everywhere_in_reads() {
    // Each id of each read in each wrong form; an id that filters may be empty.
    let untouched = Untouched::new().await;
    for bad in malformed_ids().into_iter().chain([String::new()]) {
        untouched.refuses(get(&bad), &["account_id"]).await;
        let request = ListAccountEventsRequest { account_id: bad.clone(), ..Default::default() };
        untouched.refuses(request, &["account_id"]).await;
        let request = GetSagaRequest { saga_id: bad.clone(), min_position: None };
        untouched.refuses(request, &["saga_id"]).await;
        if !bad.is_empty() {
            let request = ListTransactionsRequest { account_id: bad.clone(), ..Default::default() };
            untouched.refuses(request, &["account_id"]).await;
            let request = ListSagasRequest { account_id: bad, ..Default::default() };
            untouched.refuses(request, &["account_id"]).await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn numbers_of_reads_must_be_within_their_ranges() {
    // Negative positions, versions and page sizes; times that no calendar has; unknown states.
    let untouched = Untouched::new().await;
    let id = || untouched.id.clone();
    for bad in NEGATIVE {
        let min_position = Some(bad);
        let fields = ["min_position"];
        untouched.refuses(GetAccountRequest { min_position, ..get(&id()) }, &fields).await;
        let request = ListAccountsRequest { min_position, ..Default::default() };
        untouched.refuses(request, &fields).await;
        let request =
            ListAccountEventsRequest { account_id: id(), min_position, ..Default::default() };
        untouched.refuses(request, &fields).await;
        let request = ListTransactionsRequest { min_position, ..Default::default() };
        untouched.refuses(request, &fields).await;
        untouched.refuses(GetSagaRequest { saga_id: id(), min_position }, &fields).await;
        let request = ListSagasRequest { min_position, ..Default::default() };
        untouched.refuses(request, &fields).await;
        untouched.refuses(GetStatsRequest { min_position }, &fields).await;
        let request =
            ListAccountEventsRequest { account_id: id(), after_version: bad, ..Default::default() };
        untouched.refuses(request, &["after_version"]).await;
        for (as_of, field) in
            [(AsOf::AsOfVersion(bad), "as_of_version"), (AsOf::AsOfPosition(bad), "as_of_position")]
        {
            let request = GetAccountRequest { as_of: Some(as_of), ..get(&id()) };
            untouched.refuses(request, &[field]).await;
        }
    }
    let years = [(-62_135_596_801, 0), (253_402_300_800, 0), (i64::MAX, 0), (i64::MIN, 0)];
    for (seconds, nanos) in years.into_iter().chain([(0, -1), (0, 1_000_000_000)]) {
        let as_of = Some(AsOf::AsOfTime(Timestamp { seconds, nanos }));
        untouched.refuses(GetAccountRequest { as_of, ..get(&id()) }, &["as_of_time"]).await;
    }
    for state in [-1, 3, i32::MAX] {
        let request = ListAccountsRequest { state, ..Default::default() };
        untouched.refuses(request, &["state"]).await;
    }
    for state in [-1, 5, i32::MIN] {
        let request = ListSagasRequest { state, ..Default::default() };
        untouched.refuses(request, &["state"]).await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn all_that_is_wrong_with_a_list_is_told_at_once() {
    // Every field of every list, negative page sizes and garbage tokens among them.
    let untouched = Untouched::new().await;
    let bad = || "bad".to_owned();
    let (page_size, page_token, min_position) = (-1, bad(), Some(-1));
    let token = || page_token.clone();
    let request = ListAccountsRequest {
        page_size,
        page_token: token(),
        owner: String::new(),
        state: 77,
        min_position,
    };
    untouched.refuses(request, &["min_position", "page_size", "page_token", "state"]).await;
    let request = ListAccountEventsRequest {
        account_id: bad(),
        after_version: -1,
        newest_first: true,
        page_size,
        page_token: token(),
        min_position,
    };
    let fields = ["account_id", "after_version", "min_position", "page_size", "page_token"];
    untouched.refuses(request, &fields).await;
    let request =
        ListTransactionsRequest { account_id: bad(), page_size, page_token: token(), min_position };
    let fields = ["account_id", "min_position", "page_size", "page_token"];
    untouched.refuses(request, &fields).await;
    let request = ListSagasRequest {
        page_size: i32::MIN,
        page_token: token(),
        account_id: bad(),
        state: -5,
        min_position,
    };
    let fields = ["account_id", "min_position", "page_size", "page_token", "state"];
    untouched.refuses(request, &fields).await;
    let as_of = Some(AsOf::AsOfVersion(-1));
    let request = GetAccountRequest { account_id: bad(), as_of, min_position };
    untouched.refuses(request, &["account_id", "as_of_version", "min_position"]).await;
    let request = GetSagaRequest { saga_id: bad(), min_position };
    untouched.refuses(request, &["min_position", "saga_id"]).await;
    untouched.finish().await;
}

/// A token of each list, of one item a page, in the order accounts, events, transactions, sagas.
async fn tokens(client: &Client, id: &str) -> [String; 4] {
    let page_size = 1;
    let account_id = id.to_owned();
    let accounts = ListAccountsRequest { page_size, ..Default::default() };
    let events = ListAccountEventsRequest {
        account_id: account_id.clone(),
        page_size,
        ..Default::default()
    };
    let lines = ListTransactionsRequest { account_id, page_size, ..Default::default() };
    let sagas = ListSagasRequest { page_size, ..Default::default() };
    let tokens = [
        client.call(accounts).await.unwrap().next_page_token,
        client.call(events).await.unwrap().next_page_token,
        client.call(lines).await.unwrap().next_page_token,
        client.call(sagas).await.unwrap().next_page_token,
    ];
    assert!(tokens.iter().all(|token| !token.is_empty()));
    tokens
}

/// A service in which every list has more than one page, and an account of it.
async fn with_lists() -> (Service, String) {
    let service = Service::in_memory().await;
    let (a, b) = (service.opened(100).await, service.opened(100).await);
    let commands = [transfer(&a, &b, 1), transfer(&b, &a, 1)].map(InBatch::in_batch);
    service.carry_out(commands.into()).await;
    (service, a)
}

#[tokio::test]
async fn a_page_token_is_good_only_for_its_own_list() {
    // Tokens of other methods, of other filters, of another log, and changed ones.
    let (service, id) = with_lists().await;
    let (elsewhere, its_id) = with_lists().await;
    let own = tokens(&service, &id).await;
    let foreign = tokens(&elsewhere, &its_id).await;
    for place in 0..own.len() {
        let mut wrong: Vec<String> = own.iter().chain(&foreign).cloned().collect();
        wrong.remove(place);
        wrong.extend([format!("{}A", own[place]), own[place][1..].to_owned(), "%".to_owned()]);
        wrong.extend(["A".repeat(10_000), "\u{10348}".to_owned(), own[place].to_lowercase()]);
        for page_token in wrong.into_iter().filter(|token| *token != own[place]) {
            let account_id = id.clone();
            let status = match place {
                0 => service
                    .call(ListAccountsRequest { page_token, ..Default::default() })
                    .await
                    .err(),
                1 => {
                    let request =
                        ListAccountEventsRequest { account_id, page_token, ..Default::default() };
                    service.call(request).await.err()
                }
                2 => {
                    let request =
                        ListTransactionsRequest { account_id, page_token, ..Default::default() };
                    service.call(request).await.err()
                }
                _ => {
                    service.call(ListSagasRequest { page_token, ..Default::default() }).await.err()
                }
            };
            let status = status.expect("a foreign token was taken");
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(violations(&status), ["page_token"]);
        }
    }
}

#[tokio::test]
async fn a_page_token_is_bound_to_the_filters() {
    // The same method with another filter would skip what the token's list has not shown.
    let (service, id) = with_lists().await;
    let [accounts, events, lines, sagas] = tokens(&service, &id).await;
    let other = service.opened(0).await;
    let mut statuses = Vec::new();
    for (owner, state) in [("bob", 0), ("", 1), ("ada", 0)] {
        let (owner, page_token) = (owner.to_owned(), accounts.clone());
        let request = ListAccountsRequest { owner, state, page_token, ..Default::default() };
        statuses.push(service.call(request).await.unwrap_err());
    }
    for (account_id, after_version, newest_first) in
        [(&other, 0, false), (&id, 1, false), (&id, 0, true)]
    {
        let request = ListAccountEventsRequest {
            account_id: account_id.clone(),
            after_version,
            newest_first,
            page_token: events.clone(),
            ..Default::default()
        };
        statuses.push(service.call(request).await.unwrap_err());
    }
    for account_id in ["", &other] {
        let (account_id, page_token) = (account_id.to_owned(), lines.clone());
        let request = ListTransactionsRequest { account_id, page_token, ..Default::default() };
        statuses.push(service.call(request).await.unwrap_err());
    }
    for (account_id, state) in [("", 2), (id.as_str(), 0)] {
        let (account_id, page_token) = (account_id.to_owned(), sagas.clone());
        let request = ListSagasRequest { account_id, state, page_token, ..Default::default() };
        statuses.push(service.call(request).await.unwrap_err());
    }
    for status in statuses {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(violations(&status), ["page_token"]);
    }
}

#[tokio::test]
async fn moments_outside_the_log_are_out_of_range_or_before_the_account() {
    // Beyond the head nothing is known yet; before its opening an account was not there.
    let service = Service::in_memory().await;
    let first = service.opened(5).await;
    let id = service.opened(100).await;
    service.call(deposit(&id, 1)).await.unwrap();
    let head = service.stats().await.position;
    let now = service.account(&id).await.update_time.unwrap();
    let future = Timestamp { seconds: now.seconds + 3_600, nanos: 0 };
    let as_of = |as_of| GetAccountRequest { as_of: Some(as_of), ..get(&id) };
    for version in [3, i64::MAX] {
        let answer = service.call(as_of(AsOf::AsOfVersion(version))).await;
        let status = assert_refused(answer, Code::OutOfRange, "BEYOND_VERSION");
        assert_eq!(metadata(&status)["actual_version"], "2");
    }
    for beyond in
        [AsOf::AsOfPosition(head + 1), AsOf::AsOfPosition(i64::MAX), AsOf::AsOfTime(future)]
    {
        let answer = service.call(as_of(beyond)).await;
        let status = assert_refused(answer, Code::OutOfRange, "BEYOND_HEAD");
        assert_eq!(metadata(&status)["head_position"], head.to_string());
    }
    let opened_first = service.account(&first).await.open_time.unwrap();
    for before in [
        AsOf::AsOfVersion(0),
        AsOf::AsOfPosition(0),
        AsOf::AsOfPosition(1),
        AsOf::AsOfTime(Timestamp { seconds: 0, nanos: 0 }),
        AsOf::AsOfTime(Timestamp { seconds: -1_000_000_000, nanos: 999_999_999 }),
        AsOf::AsOfTime(Timestamp { seconds: opened_first.seconds - 1, ..opened_first }),
    ] {
        let answer = service.call(as_of(before)).await;
        assert_refused(answer, Code::NotFound, "ACCOUNT_NOT_FOUND");
    }
    let unknown = GetAccountRequest { as_of: Some(AsOf::AsOfVersion(1)), ..get(&fresh_id()) };
    assert_refused(service.call(unknown).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
}

#[tokio::test]
async fn a_position_that_does_not_come_is_waited_for_until_the_deadline() {
    // The answer tells why, and is there before the caller gives up; and the position that comes
    // in time is answered.
    let service = Service::in_memory().await;
    let id = service.opened(0).await;
    let deadline = Duration::from_secs(1);
    let min_position = Some(3);
    let start = Instant::now();
    let request = GetAccountRequest { min_position, ..get(&id) };
    let accounts = ListAccountsRequest { min_position, ..Default::default() };
    let (account, stats, accounts) = tokio::join!(
        service.call_within(deadline, request.clone()),
        service.call_within(deadline, GetStatsRequest { min_position }),
        service.call_within(deadline, accounts),
    );
    let elapsed = start.elapsed();
    assert_refused(account, Code::DeadlineExceeded, "POSITION_NOT_REACHED");
    assert_refused(stats, Code::DeadlineExceeded, "POSITION_NOT_REACHED");
    assert_refused(accounts, Code::DeadlineExceeded, "POSITION_NOT_REACHED");
    assert!(elapsed > deadline / 2, "{elapsed:?}");

    let read = service.call_within(Duration::from_secs(10), request);
    let writing = async {
        for _ in 0..2 {
            service.call(deposit(&id, 7)).await.unwrap();
        }
    };
    let (answer, ()) = tokio::join!(read, writing);
    let answer = answer.unwrap();
    assert_eq!((answer.position, answer.account.unwrap().balance_minor), (3, 14));
}

#[tokio::test]
async fn lists_of_what_is_not_there_are_not_found() {
    // A list of an account that was never opened is no empty list.
    let untouched = Untouched::new().await;
    let service = &untouched.service;
    let account_id = fresh_id();
    let events = ListAccountEventsRequest { account_id: account_id.clone(), ..Default::default() };
    let lines = ListTransactionsRequest { account_id: account_id.clone(), ..Default::default() };
    let sagas = ListSagasRequest { account_id: account_id.clone(), ..Default::default() };
    let saga = GetSagaRequest { saga_id: account_id.clone(), min_position: None };
    assert_refused(service.call(get(&account_id)).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    assert_refused(service.call(events).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    assert_refused(service.call(lines).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    assert_refused(service.call(sagas).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    let status = assert_refused(service.call(saga).await, Code::NotFound, "SAGA_NOT_FOUND");
    assert_eq!(metadata(&status)["saga_id"], account_id);
    untouched.finish().await;
}
