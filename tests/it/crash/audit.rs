//! The audit: what the server answers, and what its clients were answered, against the model.

use std::collections::HashMap;

use daybook::proto::{
    Account, AccountState, Event, GetAccountRequest, GetStatsRequest, GetStatsResponse,
    ListAccountsRequest, ListSagasRequest, ListTransactionsRequest, Saga, SagaState, SagaStepState,
    TailEventsRequest, Transaction, TransactionKind, batch_command::Command, event::Payload,
    query_service_client::QueryServiceClient,
};
use tonic::{Status, transport::Channel};

use super::{
    call::{Answer, Call, Shape, Verdict, request_id},
    ledger::{self, Ledger, Story},
    random::Random,
};

/// As many items as a page may have.
const PAGE_MAX: i32 = 1_000;

pub(crate) type Reader = QueryServiceClient<Channel>;

/// Adds to `events` what comes behind position `after`, until position `until` or the end of the
/// stream.
///
/// # Errors
/// The status that ended the stream.
pub(super) async fn tail(
    reader: &mut Reader,
    after: i64,
    until: i64,
    events: &mut Vec<Event>,
) -> Result<(), Status> {
    let mut position = after;
    let request = TailEventsRequest { after_position: Some(position), ..Default::default() };
    let mut messages = reader.tail_events(request).await?.into_inner();
    while position < until {
        let Some(message) = messages.message().await? else { break };
        for event in message.events {
            position += 1;
            assert_eq!(event.position, position, "a tail gives each event once, in order");
            events.push(event);
        }
        assert_eq!(message.position, position, "a tail that passes everything skips nothing");
    }
    Ok(())
}

pub(crate) async fn stats(reader: &mut Reader) -> GetStatsResponse {
    let stats = reader.get_stats(GetStatsRequest { min_position: None }).await;
    stats.expect("figures can be read").into_inner()
}

/// All that the log holds behind position `after`.
pub(crate) async fn read_log(reader: &mut Reader, after: i64) -> Vec<Event> {
    let head = stats(reader).await.position;
    let mut events = Vec::new();
    tail(reader, after, head, &mut events).await.expect("the log can be read");
    let last = events.last().map_or(after, |event| event.position);
    assert_eq!(last, head, "the tail ran ahead of the figures");
    events
}

/// What must hold between a call and the log, for all of it that has an answer.
pub(super) fn confirm(ledger: &Ledger, call: &Call) {
    for (command, verdict) in call.known() {
        let id = request_id(command);
        let positions = ledger.caused_by(id);
        match verdict {
            Verdict::Unknown => {}
            Verdict::Refused(_) => {
                assert!(positions.is_empty(), "{command:?} was refused and is in the log");
            }
            Verdict::Recorded { answer, .. } => {
                let answered = confirm_answer(ledger, command, answer);
                assert!(id.is_empty() || positions == answered, "{command:?}: {positions:?}");
            }
        }
    }
    if call.shape == Shape::SureBatch {
        confirm_whole_or_absent(ledger, call);
    }
}

/// Finds an answer in the log, word for word. Gives its positions.
fn confirm_answer<'a>(ledger: &'a Ledger, command: &Command, answer: &'a Answer) -> Vec<i64> {
    let (saga_id, position) = match answer {
        Answer::Event(event) => {
            assert_eq!(ledger.event(event.position), Some(&**event), "an acknowledged event");
            assert!(is_of(command, event), "{command:?} was answered {event:?}");
            return vec![event.position];
        }
        Answer::Completed(saga) => (&saga.saga_id, saga.position),
        Answer::Failed { saga_id, position, .. } => (saga_id, *position),
    };
    let story = ledger.stories.get(saga_id);
    let story = story.unwrap_or_else(|| panic!("the acknowledged saga {saga_id} is lost"));
    match answer {
        Answer::Completed(saga) => confirm_saga(ledger, saga, story),
        Answer::Failed { reason, .. } => assert_eq!(story.error, *reason),
        Answer::Event(_) => {}
    }
    let Command::TransferMoney(asked) = command else { panic!("{command:?} became a saga") };
    assert_eq!((&story.from, &story.to), (&asked.from_account_id, &asked.to_account_id));
    assert_eq!((story.amount, &story.reason), (asked.amount_minor, &asked.reason));
    assert!(asked.saga_id.is_empty() || asked.saga_id == *saga_id, "{command:?}: {saga_id}");
    assert_eq!(story.positions.last(), Some(&position));
    story.positions.clone()
}

/// Whether an event is what a command asked for.
fn is_of(command: &Command, event: &Event) -> bool {
    let Some(payload) = &event.payload else { return false };
    let (account_id, is_alike) = match (command, payload) {
        (Command::OpenAccount(asked), Payload::AccountOpened(done)) => (
            if asked.account_id.is_empty() { &event.account_id } else { &asked.account_id },
            done.owner == asked.owner && done.initial_balance_minor == asked.initial_balance_minor,
        ),
        (Command::DepositMoney(asked), Payload::MoneyDeposited(done)) => (
            &asked.account_id,
            done.amount_minor == asked.amount_minor && done.reason == asked.reason,
        ),
        (Command::WithdrawMoney(asked), Payload::MoneyWithdrawn(done)) => (
            &asked.account_id,
            done.amount_minor == asked.amount_minor && done.reason == asked.reason,
        ),
        (Command::CloseAccount(asked), Payload::AccountClosed(_)) => (&asked.account_id, true),
        _ => return false,
    };
    is_alike && *account_id == event.account_id && request_id(command) == event.request_id
}

/// One group is durable as a whole: of a batch that cannot be refused everything is in the log,
/// in one run, or nothing.
fn confirm_whole_or_absent(ledger: &Ledger, call: &Call) {
    let found: Vec<_> =
        call.commands.iter().map(|command| ledger.caused_by(request_id(command))).collect();
    let missing = found.iter().filter(|positions| positions.is_empty()).count();
    assert!(missing == 0 || missing == found.len(), "half a batch is in the log: {found:?}");
    let positions = found.concat();
    let is_run = positions.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    assert!(is_run, "a batch was mixed with other commands: {positions:?}");
}

/// How many events answers stand for that were acknowledged.
pub(super) fn claimed(ledger: &Ledger, call: &Call) -> usize {
    let count = |verdict: &Verdict| match verdict {
        Verdict::Recorded { answer: Answer::Event(_), .. } => 1,
        Verdict::Recorded { answer: Answer::Completed(saga), .. } => {
            ledger.stories[&saga.saga_id].positions.len()
        }
        Verdict::Recorded { answer: Answer::Failed { saga_id, .. }, .. } => {
            ledger.stories[saga_id].positions.len()
        }
        Verdict::Refused(_) | Verdict::Unknown => 0,
    };
    call.verdicts.iter().map(count).sum()
}

/// Compares all that the server tells of a ledger at rest with the model; of what is long, a
/// sample unless `thorough`.
pub(super) async fn compare(
    ledger: &Ledger,
    reader: &mut Reader,
    random: &mut Random,
    thorough: bool,
) {
    compare_stats(ledger, reader).await;
    compare_accounts(ledger, reader).await;
    compare_sagas(ledger, reader, thorough).await;
    let ids: Vec<_> = ledger.accounts.keys().collect();
    for _ in 0..(if thorough { 40 } else { 4 }) {
        compare_statement(ledger, ids[random.place(ids.len())], reader).await;
    }
}

async fn compare_stats(ledger: &Ledger, reader: &mut Reader) {
    let stats = stats(reader).await;
    assert_eq!((stats.position, stats.event_count), (ledger.head(), ledger.head()));
    assert!(stats.head_hash_position >= stats.position, "{stats:?}");
    let open = ledger.accounts.values().filter(|account| !account.is_closed).count();
    let counts = [stats.account_count, stats.open_account_count, stats.transaction_count];
    let counts = counts.map(|count| usize::try_from(count).expect("a count"));
    assert_eq!(counts, [ledger.accounts.len(), open, ledger.transaction_count]);
    let mut sagas: HashMap<_, i64> = HashMap::new();
    for story in ledger.stories.values() {
        *sagas.entry(story.state).or_default() += 1;
    }
    assert_eq!(stats.saga_counts.len(), 4);
    for told in stats.saga_counts {
        assert_eq!(told.count, sagas.get(&told.state()).copied().unwrap_or(0), "{told:?}");
    }
}

async fn compare_accounts(ledger: &Ledger, reader: &mut Reader) {
    let mut request = ListAccountsRequest { page_size: PAGE_MAX, ..Default::default() };
    let mut balances = 0;
    let mut count = 0;
    loop {
        let page = reader.list_accounts(request.clone()).await;
        let page = page.expect("accounts can be listed").into_inner();
        assert_eq!(usize::try_from(page.total_size), Ok(ledger.accounts.len()));
        count += page.accounts.len();
        for account in &page.accounts {
            compare_account(ledger, account);
            balances += account.balance_minor;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(count, ledger.accounts.len());
    assert_eq!(balances, ledger.money, "money was made or lost");
}

fn compare_account(ledger: &Ledger, told: &Account) {
    let model = ledger.accounts.get(&told.account_id);
    let model = model.unwrap_or_else(|| panic!("nobody opened {told:?}"));
    assert_eq!((told.balance_minor, told.version), (model.balance, model.version), "{told:?}");
    assert_eq!((&told.owner, &told.currency_code), (&model.owner, &model.currency_code));
    assert_eq!(told.state() == AccountState::Closed, model.is_closed, "{told:?}");
    assert!(told.pending_saga_ids.is_empty(), "a transfer is pending: {told:?}");
}

async fn compare_sagas(ledger: &Ledger, reader: &mut Reader, thorough: bool) {
    let mut request = ListSagasRequest { page_size: PAGE_MAX, ..Default::default() };
    let mut before = i64::MAX;
    let mut count = 0;
    loop {
        let page = reader.list_sagas(request.clone()).await;
        let page = page.expect("sagas can be listed").into_inner();
        count += page.sagas.len();
        for saga in page.sagas {
            let story = ledger.stories.get(&saga.saga_id);
            confirm_saga(ledger, &saga, story.expect("a listed saga is in the log"));
            assert!(saga.position < before, "the newest come first, each once: {saga:?}");
            before = saga.position;
        }
        if page.next_page_token.is_empty() {
            assert_eq!(count, ledger.stories.len());
            return;
        }
        if !thorough {
            return;
        }
        request.page_token = page.next_page_token;
    }
}

fn confirm_saga(ledger: &Ledger, saga: &Saga, story: &Story) {
    assert_eq!(saga.state(), story.state, "{saga:?}");
    assert_eq!((&saga.from_account_id, &saga.to_account_id), (&story.from, &story.to));
    assert_eq!((saga.amount_minor, &saga.error), (story.amount, &story.error), "{saga:?}");
    assert_eq!(Some(&saga.position), story.positions.last(), "{saga:?}");
    let time = |position: i64| ledger.event(position).map(ledger::time);
    let start = saga.start_time.as_ref().map(|time| (time.seconds, time.nanos));
    let end = saga.end_time.as_ref().map(|time| (time.seconds, time.nanos));
    assert_eq!((start, end), (time(story.positions[0]), time(saga.position)), "{saga:?}");
    let steps: Vec<_> = saga.steps.iter().map(|step| (step.name.as_str(), step.state())).collect();
    let (done, failed) = (SagaStepState::Done, SagaStepState::Failed);
    let expected = match story.state {
        SagaState::Completed => vec![("withdraw", done), ("deposit", done)],
        SagaState::Failed => vec![("withdraw", failed)],
        _ => vec![("withdraw", done), ("deposit", failed), ("compensate", done)],
    };
    assert_eq!(steps, expected, "{saga:?}");
}

/// An account and its statement: the lines add up to the balance, and are those of the log.
async fn compare_statement(ledger: &Ledger, account_id: &str, reader: &mut Reader) {
    let request = GetAccountRequest { account_id: account_id.to_owned(), ..Default::default() };
    let account = reader.get_account(request).await.expect("the account is there").into_inner();
    compare_account(ledger, &account.account.expect("it is told"));
    let model = &ledger.accounts[account_id];
    let mut request = ListTransactionsRequest {
        account_id: account_id.to_owned(),
        page_size: 97,
        ..Default::default()
    };
    let (mut sum, mut positions) = (0, Vec::new());
    loop {
        let page = reader.list_transactions(request.clone()).await;
        let page = page.expect("transactions can be listed").into_inner();
        assert_eq!(usize::try_from(page.total_size), Ok(model.transactions.len()));
        for line in &page.transactions {
            let event = ledger.event(line.position).expect("a transaction is in the log");
            assert_eq!((&line.event_id, &line.account_id), (&event.event_id, &event.account_id));
            sum += signed(line);
            positions.push(line.position);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    positions.reverse();
    assert_eq!((sum, &positions), (model.balance, &model.transactions), "{account_id}");
}

fn signed(line: &Transaction) -> i64 {
    match line.kind() {
        TransactionKind::Withdrawal | TransactionKind::TransferOut => -line.amount_minor,
        TransactionKind::Opening
        | TransactionKind::Deposit
        | TransactionKind::TransferIn
        | TransactionKind::Compensation => line.amount_minor,
        TransactionKind::Unspecified => panic!("a transaction has a kind: {line:?}"),
    }
}
