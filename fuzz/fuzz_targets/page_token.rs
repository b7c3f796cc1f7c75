//! Page tokens: a list takes the tokens that it has given itself, which lead to the rest of what
//! it lists, and refuses all others as an invalid argument.
#![no_main]

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use arbitrary::Arbitrary;
use daybook::proto::{
    ListAccountEventsRequest, ListAccountsRequest, ListSagasRequest, ListTransactionsRequest,
    query_service_server::QueryService as _,
};
use daybook_fuzz::{
    bank::{Step, account_id},
    change::Change,
    has_canary,
    store::{Store, new_runtime},
};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tonic::{Code, Request, Status};

/// The largest page that a caller can have.
const PAGE_SIZE_MAX: i32 = 1_000;

#[derive(Arbitrary, Debug)]
struct Input {
    list: List,
    page_size: i32,
    token: Token,
}

/// A list with its filters.
#[derive(Arbitrary, Clone, Debug, PartialEq, Eq, Hash)]
enum List {
    Accounts { owner: Option<u8>, state: i8 },
    Events { account: u8, after_version: i64, newest_first: bool },
    Transactions { account: Option<u8> },
    Sagas { account: Option<u8>, state: i8 },
}

#[derive(Arbitrary, Debug)]
enum Token {
    None,
    Any(String),
    /// One that the list has given.
    Own(u8),
    /// One that another list has given.
    Foreign(List, u8),
    /// One that the list has given, changed.
    Changed(u8, Vec<Change>),
}

/// Every token of a list with all that it leads to.
type Pages = HashMap<String, Vec<String>>;

/// A page: what it lists, in words of the message, and the token of the next one.
type Page = (Vec<String>, String);

/// The runtime, and the services that all inputs ask: nothing changes what they read.
struct Asked {
    runtime: Runtime,
    store: Store,
}

static ASKED: LazyLock<Asked> = LazyLock::new(|| {
    let runtime = new_runtime();
    let store = runtime.block_on(async { Store::start(&steps()) });
    Asked { runtime, store }
});

/// A day on which every list gets some items.
fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..6)
        .map(|account| Step::Open { account, owner: account, currency: 0, minor: 100 })
        .collect();
    for number in 0..40 {
        steps.push(Step::Deposit { account: number % 3, minor: 5, request: None, expected: None });
        let minor = if number % 4 == 0 { 60_000 } else { 2 };
        let saga = (number % 10 == 0).then_some(number / 10);
        steps.push(Step::Transfer { from: number % 3, to: (number + 1) % 4, minor, saga });
    }
    steps.push(Step::Withdraw { account: 5, minor: 100, request: None });
    steps.push(Step::Close { account: 5 });
    steps.push(Step::Transfer { from: 0, to: 5, minor: 1, saga: None });
    steps
}

fuzz_target!(|input: Input| {
    let pages = pages(&input.list);
    let token = match &input.token {
        Token::None => String::new(),
        Token::Any(text) => text.clone(),
        Token::Own(number) => nth(&pages, *number),
        Token::Foreign(list, number) => nth(&self::pages(list), *number),
        Token::Changed(number, changes) => {
            let mut bytes = nth(&pages, *number).into_bytes();
            for change in changes {
                change.apply(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }
    };
    check(&input, &pages, &token);
});

fn check(input: &Input, pages: &Pages, token: &str) {
    let (rest, limit) = (pages.get(token), input.page_size);
    match ask(&input.list, limit, token) {
        Err(status) => {
            let may_be_missing = !matches!(input.list, List::Accounts { .. });
            let code = status.code();
            assert!(
                code == Code::InvalidArgument || code == Code::NotFound && may_be_missing,
                "{status:?}"
            );
            assert!(rest.is_none() || limit < 0, "a page that there is was refused: {status:?}");
        }
        Ok((items, next)) => {
            let Some(rest) = rest else { panic!("a token that nobody gave was taken: {token}") };
            // Planted: a list with a token is said to be at its end.
            let rest = if has_canary() && !token.is_empty() { &[][..] } else { &rest[..] };
            let limit = if limit == 0 { 50 } else { limit.min(PAGE_SIZE_MAX) };
            let limit = usize::try_from(limit).expect("a negative size is refused");
            let (page, after) = rest.split_at(rest.len().min(limit));
            assert_eq!(items, page);
            // A list that looks for what passes its filter may only find on a last, empty page
            // that there is no more.
            let is_last = next.is_empty() || leads_to_nothing(&input.list, &next);
            assert_eq!(is_last, after.is_empty(), "the token leads to the rest");
        }
    }
}

fn leads_to_nothing(list: &List, token: &str) -> bool {
    ask(list, PAGE_SIZE_MAX, token).is_ok_and(|(items, _)| items.is_empty())
}

/// How many lists are remembered, so that few are gone through more than once.
const LISTS_MAX: usize = 1_024;

/// The pages of a list, from memory where it is one of the lists before.
fn pages(list: &List) -> Arc<Pages> {
    static KNOWN: LazyLock<Mutex<HashMap<List, Arc<Pages>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pages) = known.get(list) {
        return Arc::clone(pages);
    }
    let pages = Arc::new(go_through(list));
    if known.len() >= LISTS_MAX {
        known.clear();
    }
    known.insert(list.clone(), Arc::clone(&pages));
    pages
}

/// Goes through a list item by item; no page when the list is refused. The empty token leads to
/// everything.
fn go_through(list: &List) -> Pages {
    let (mut tokens, mut items) = (Vec::new(), Vec::new());
    let mut token = String::new();
    while let Ok((more, next)) = ask(list, 1, &token) {
        tokens.push((token, items.len()));
        items.extend(more);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    tokens.into_iter().map(|(token, from)| (token, items[from..].to_vec())).collect()
}

/// A token of some list; they come in an order of their own.
fn nth(pages: &Pages, number: u8) -> String {
    let mut tokens: Vec<_> = pages.keys().collect();
    tokens.sort();
    tokens.get(usize::from(number) % tokens.len().max(1)).map_or(String::new(), |it| (*it).clone())
}

fn account(number: Option<u8>) -> String {
    // One number more than there are accounts, so that some are missing.
    match number {
        None => String::new(),
        Some(number) if number % 8 == 7 => uuid::Uuid::from_u128(99).to_string(),
        Some(number) => account_id(number).to_string(),
    }
}

fn ask(list: &List, page_size: i32, page_token: &str) -> Result<Page, Status> {
    let Asked { runtime, store } = &*ASKED;
    runtime.block_on(ask_store(store, list, page_size, page_token.to_owned()))
}

async fn ask_store(
    store: &Store,
    list: &List,
    page_size: i32,
    page_token: String,
) -> Result<Page, Status> {
    let (queries, min_position) = (&store.queries, None);
    Ok(match *list {
        List::Accounts { owner, state } => {
            let owner = owner.map_or(String::new(), |owner| format!("Owner {}", owner % 4));
            let state = state.into();
            let request = ListAccountsRequest { page_size, page_token, owner, state, min_position };
            let answer = queries.list_accounts(Request::new(request)).await?.into_inner();
            (texts(&answer.accounts), answer.next_page_token)
        }
        List::Events { account, after_version, newest_first } => {
            let account_id = self::account(Some(account));
            let request = ListAccountEventsRequest {
                account_id,
                after_version,
                newest_first,
                page_size,
                page_token,
                min_position,
            };
            let answer = queries.list_account_events(Request::new(request)).await?.into_inner();
            (texts(&answer.events), answer.next_page_token)
        }
        List::Transactions { account } => {
            let account_id = self::account(account);
            let request =
                ListTransactionsRequest { account_id, page_size, page_token, min_position };
            let answer = queries.list_transactions(Request::new(request)).await?.into_inner();
            (texts(&answer.transactions), answer.next_page_token)
        }
        List::Sagas { account, state } => {
            let (account_id, state) = (self::account(account), state.into());
            let request =
                ListSagasRequest { page_size, page_token, account_id, state, min_position };
            let answer = queries.list_sagas(Request::new(request)).await?.into_inner();
            (texts(&answer.sagas), answer.next_page_token)
        }
    })
}

fn texts<T: std::fmt::Debug>(items: &[T]) -> Vec<String> {
    items.iter().map(|item| format!("{item:?}")).collect()
}
