//! Reads: an account as of any moment is what its events up to there add up to, and a tail from
//! anywhere tells what passes its filter, once and in order; whatever else is asked for is refused
//! as the caller's mistake.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use daybook::proto::{
    AccountState, Event, EventType, GetAccountRequest, GetSagaRequest, GetStatsRequest,
    TailEventsRequest, TailEventsResponse, event::Payload, get_account_request::AsOf,
    query_service_server::QueryService as _,
};
use daybook_fuzz::{
    bank::{Step, account_id},
    has_canary,
    store::{Store, new_runtime},
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use prost_types::Timestamp;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};

#[derive(Arbitrary, Debug)]
enum Read {
    Account {
        account: Account,
        as_of: Moment,
        min_position: Option<Number>,
    },
    Saga(Text),
    Tail {
        after: Number,
        accounts: Vec<Account>,
        types: Vec<Number>,
    },
    /// The bytes of a request for an account, a saga or a tail.
    Bytes(u8, Box<[u8]>),
}

#[derive(Arbitrary, Debug)]
enum Account {
    Known(u8),
    Any(Text),
}

#[derive(Arbitrary, Debug)]
enum Text {
    Saga(u8),
    Any(String),
}

/// A number, often one that means something.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u8),
    Near(i8),
    Any(i64),
}

#[derive(Arbitrary, Debug)]
enum Moment {
    Now,
    Version(Number),
    Position(Number),
    /// Seconds beside the time of an event, and nanoseconds.
    Time(Number, i32),
}

/// The runtime, the services that all inputs ask, and all events that they know: nothing changes.
struct Asked {
    runtime: Runtime,
    store: Store,
    events: Vec<Event>,
}

static ASKED: LazyLock<Asked> = LazyLock::new(|| {
    let runtime = new_runtime();
    let store = runtime.block_on(async { Store::start(&steps()) });
    let from_the_beginning = TailEventsRequest { after_position: Some(0), ..Default::default() };
    let head = runtime.block_on(store.queries.get_stats(Request::new(GetStatsRequest::default())));
    let head = head.expect("figures can be read").into_inner().position;
    let events = runtime.block_on(tail(&store, from_the_beginning, head));
    Asked { runtime, store, events: events.expect("the whole log") }
});

/// A day with every kind of event.
fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..6)
        .map(|account| Step::Open { account, owner: account, currency: 0, minor: 100 })
        .collect();
    for number in 0..60 {
        let minor = if number % 7 == 0 { 60_000 } else { 2 };
        steps.push(Step::Deposit { account: number % 3, minor: 5, request: None, expected: None });
        let saga = (number % 15 == 0).then_some(number / 15);
        steps.push(Step::Transfer { from: number % 3, to: (number + 1) % 4, minor, saga });
    }
    steps.push(Step::Withdraw { account: 5, minor: 100, request: None });
    steps.push(Step::Close { account: 5 });
    steps.push(Step::Transfer { from: 0, to: 5, minor: 1, saga: None });
    steps
}

impl Account {
    fn id(&self) -> String {
        match self {
            Self::Known(number) => account_id(*number).to_string(),
            Self::Any(text) => text.text(),
        }
    }
}

impl Text {
    fn text(&self) -> String {
        let sagas = ASKED.events.iter().map(|event| &event.saga_id).filter(|id| !id.is_empty());
        match self {
            Self::Saga(number) => sagas.cycle().nth((*number).into()).cloned().unwrap_or_default(),
            Self::Any(text) => text.clone(),
        }
    }
}

impl Number {
    /// The number, beside `middle` if it is to be near.
    fn number(self, middle: i64) -> i64 {
        match self {
            Self::Small(number) => number.into(),
            Self::Near(off) => middle + i64::from(off),
            Self::Any(number) => number,
        }
    }
}

fuzz_target!(|read: Read| {
    let Asked { runtime, store, events } = &*ASKED;
    let head = i64::try_from(events.len()).expect("few events");
    match read {
        Read::Account { account, as_of, min_position } => {
            let as_of = match as_of {
                Moment::Now => None,
                Moment::Version(number) => Some(AsOf::AsOfVersion(number.number(20))),
                Moment::Position(number) => Some(AsOf::AsOfPosition(number.number(head))),
                Moment::Time(number, nanos) => {
                    let middle = events[0].event_time.as_ref().map_or(0, |time| time.seconds);
                    let seconds = number.number(middle);
                    Some(AsOf::AsOfTime(Timestamp { seconds, nanos }))
                }
            };
            // Nobody waits here for what does not come.
            let min_position = min_position.map(|number| number.number(head).min(head));
            let request = GetAccountRequest { account_id: account.id(), as_of, min_position };
            runtime.block_on(check_account(store, events, request));
        }
        Read::Saga(text) => {
            let request = GetSagaRequest { saga_id: text.text(), min_position: None };
            runtime.block_on(check_saga(store, request));
        }
        Read::Tail { after, accounts, types } => {
            let request = TailEventsRequest {
                after_position: Some(after.number(head)),
                account_ids: accounts.iter().map(Account::id).collect(),
                event_types: types
                    .iter()
                    .map(|number| i32::try_from(number.number(0)).unwrap_or(i32::MIN))
                    .collect(),
            };
            runtime.block_on(check_tail(store, events, request));
        }
        Read::Bytes(kind, bytes) => match kind % 3 {
            0 => {
                if let Ok(request) = GetAccountRequest::decode(&*bytes)
                    && request.min_position.is_none_or(|position| position <= head)
                {
                    runtime.block_on(check_account(store, events, request));
                }
            }
            1 => {
                if let Ok(request) = GetSagaRequest::decode(&*bytes)
                    && request.min_position.is_none_or(|position| position <= head)
                {
                    runtime.block_on(check_saga(store, request));
                }
            }
            _ => {
                if let Ok(request) = TailEventsRequest::decode(&*bytes)
                    && request.after_position.is_some()
                {
                    runtime.block_on(check_tail(store, events, request));
                }
            }
        },
    }
});

/// A status that says what is wrong with the request.
fn check_status(status: &Status) {
    let codes = [Code::InvalidArgument, Code::NotFound, Code::OutOfRange];
    assert!(codes.contains(&status.code()), "{status:?}");
}

async fn check_account(store: &Store, events: &[Event], request: GetAccountRequest) {
    let asked = request.clone();
    let answer = match store.queries.get_account(Request::new(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return check_status(&status),
    };
    let account = answer.account.expect("an answer has an account");
    let own = events.iter().filter(|event| event.account_id == account.account_id);
    let is_before = |event: &&Event| match &asked.as_of {
        None => true,
        Some(AsOf::AsOfVersion(version)) => event.version <= *version,
        Some(AsOf::AsOfPosition(position)) => event.position <= *position,
        Some(AsOf::AsOfTime(time)) => {
            let told = event.event_time.as_ref().expect("an event has a time");
            (told.seconds, told.nanos) <= (time.seconds, time.nanos)
        }
    };
    let (mut balance, mut version, mut is_closed) = (0, 0, false);
    for event in own.filter(is_before) {
        version = event.version;
        match event.payload.as_ref().expect("an event has a payload") {
            Payload::AccountOpened(opened) => balance = opened.initial_balance_minor,
            Payload::MoneyDeposited(deposited) => balance += deposited.amount_minor,
            // Planted: what is withdrawn stays.
            Payload::MoneyWithdrawn(_) if has_canary() => {}
            Payload::MoneyWithdrawn(withdrawn) => balance -= withdrawn.amount_minor,
            Payload::AccountClosed(_) => is_closed = true,
            Payload::TransferInitiated(_)
            | Payload::TransferCompleted(_)
            | Payload::TransferFailed(_) => {}
        }
    }
    assert!(version > 0, "an account from before it was opened: {asked:?}");
    assert_eq!((account.balance_minor, account.version), (balance, version), "{asked:?}");
    assert_eq!(account.state() == AccountState::Closed, is_closed, "{asked:?}");
}

async fn check_saga(store: &Store, request: GetSagaRequest) {
    let asked = request.saga_id.to_lowercase();
    match store.queries.get_saga(Request::new(request)).await {
        Ok(answer) => {
            let saga = answer.into_inner().saga.expect("an answer has a saga");
            assert_eq!(saga.saga_id, asked);
        }
        Err(status) => check_status(&status),
    }
}

/// The events of a tail up to a position. The time does not pass while it has nothing to tell.
async fn tail(store: &Store, request: TailEventsRequest, until: i64) -> Result<Vec<Event>, Status> {
    let mut position = request.after_position.unwrap_or(until);
    let mut messages = store.queries.tail_events(Request::new(request)).await?.into_inner();
    let mut events = Vec::new();
    tokio::time::pause();
    while position < until {
        let message = messages.next().await.expect("a tail goes on")?;
        let message = TailEventsResponse::decode(message.as_bytes()).expect("it is a message");
        assert!(message.position > position, "a tail goes forward");
        position = message.position;
        events.extend(message.events);
    }
    tokio::time::resume();
    assert_eq!(position, until, "a tail does not run ahead of the log");
    Ok(events)
}

async fn check_tail(store: &Store, events: &[Event], request: TailEventsRequest) {
    let asked = request.clone();
    let head = i64::try_from(events.len()).expect("few events");
    let told = match tail(store, request, head).await {
        Ok(told) => told,
        Err(status) => return check_status(&status),
    };
    let accounts: Vec<String> = asked.account_ids.iter().map(|id| id.to_lowercase()).collect();
    let after = asked.after_position.expect("here every tail has a beginning");
    let is_wanted = |event: &&Event| {
        event.position > after
            && (accounts.is_empty() || accounts.contains(&event.account_id))
            && (asked.event_types.is_empty() || asked.event_types.contains(&kind(event).into()))
    };
    let wanted: Vec<Event> = events.iter().filter(is_wanted).cloned().collect();
    assert_eq!(told, wanted, "{asked:?}");
}

fn kind(event: &Event) -> EventType {
    match event.payload.as_ref().expect("an event has a payload") {
        Payload::AccountOpened(_) => EventType::AccountOpened,
        Payload::MoneyDeposited(_) => EventType::MoneyDeposited,
        Payload::MoneyWithdrawn(_) => EventType::MoneyWithdrawn,
        Payload::TransferInitiated(_) => EventType::TransferInitiated,
        Payload::TransferCompleted(_) => EventType::TransferCompleted,
        Payload::TransferFailed(_) => EventType::TransferFailed,
        Payload::AccountClosed(_) => EventType::AccountClosed,
    }
}
