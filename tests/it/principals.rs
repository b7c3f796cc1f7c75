//! Who caused an event is recorded with it, and told wherever events are told. The services run
//! without a server here, behind something that knows callers: it says so where authentication
//! does, in the extensions of each request.

use std::{
    sync::{Arc, mpsc as blocking},
    thread,
};

use daybook::{
    domain::{PRINCIPAL_CHARS_MAX, Principal},
    event_store::{self, History, Parts, REQUEST_ID_WINDOW_DEFAULT},
    log::{LogId, memory},
    ops::{SystemClock, config::Limits},
    proto::{
        BatchCommand, Event, ExecuteBatchRequest, ExecuteStreamRequest, GetAccountRequest,
        GetSagaRequest, ListAccountEventsRequest, ListSagasRequest, ListTransactionsRequest,
        TransferMoneyResponse, batch_result::Result as Done,
        command_service_client::CommandServiceClient, command_service_server::CommandServiceServer,
        query_service_client::QueryServiceClient, query_service_server::QueryServiceServer,
    },
    views::{Fold, Views, follow},
    wire::{Commands, Desk, MESSAGE_BYTES_MAX, Queries, Reads},
};
use prost::Message as _;
use tokio::sync::watch;
use tonic::{
    Code, Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
};

use crate::service::{
    BATCH_COMMANDS_MAX, InBatch as _, assert_refused, close, deposit, fresh_id, from, open,
    transfer, withdraw,
};

const LOG_ID: LogId = [9; 16];

/// Puts a principal into each request, if there is one.
#[derive(Clone)]
struct Knows(Option<Principal>);

impl Interceptor for Knows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(principal) = &self.0 {
            request.extensions_mut().insert(principal.clone());
        }
        Ok(request)
    }
}

type Teller = CommandServiceClient<InterceptedService<CommandServiceServer<Commands>, Knows>>;

/// A ledger in memory with its services.
struct Bank {
    commands: Commands,
    queries: QueryServiceClient<QueryServiceServer<Queries>>,
    _stopping: watch::Sender<bool>,
}

impl Bank {
    fn open() -> Self {
        let (log, reader) = memory::open(LOG_ID);
        let (state, books) = Fold::new(REQUEST_ID_WINDOW_DEFAULT).finish(LOG_ID);
        let (durable_sender, durable) = watch::channel(0);
        let (follower, wakes) = blocking::sync_channel(1);
        let (limits, clock) = (Limits::default(), Arc::new(SystemClock));
        let parts = Parts {
            state,
            log: Some(log),
            clock: clock.clone(),
            follower,
            durable: durable_sender,
        };
        let (store, _) = event_store::start(parts).unwrap();
        let history = History::new(reader);
        let views = Arc::new(Views::new(books));
        let (books, log) = (Arc::clone(&views), history.clone());
        thread::spawn(move || follow(&log, &books, &wakes));
        let reads = Arc::new(Reads::new(views, history, durable, store.clone(), limits.call_time));
        let (stopping_sender, stopping) = watch::channel(false);
        let commands = Commands::new(limits.clone(), stopping.clone());
        commands.desk.set(Desk::new(store, Arc::clone(&reads)));
        let queries = Queries::new(&limits, clock, stopping);
        queries.reads.set(reads);
        let queries = QueryServiceClient::new(QueryServiceServer::new(queries));
        Self { commands, queries, _stopping: stopping_sender }
    }

    /// The command service as somebody sees it.
    fn teller(&self, name: &str) -> Teller {
        let principal = (!name.is_empty()).then(|| Principal::new(name).unwrap());
        let service = CommandServiceServer::new(self.commands.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        CommandServiceClient::new(InterceptedService::new(service, Knows(principal)))
    }

    /// All events so far, as a tail tells them.
    async fn log(&self, count: usize) -> Vec<Event> {
        let mut tail = self.queries.clone().tail_events(from(0)).await.unwrap().into_inner();
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(tail.message().await.unwrap().unwrap().events);
        }
        events
    }
}

/// Two accounts, opened by `teller`.
async fn opened(teller: &mut Teller) -> [String; 2] {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let opened = teller.open_account(open("Ada", 100)).await.unwrap().into_inner();
        ids.push(opened.account_id);
    }
    ids.try_into().unwrap()
}

async fn run(teller: &mut Teller, commands: Vec<BatchCommand>) -> Vec<Done> {
    let request = ExecuteBatchRequest { commands, return_results: true };
    let answer = teller.execute_batch(request).await.unwrap().into_inner();
    assert!(answer.failures.is_empty(), "{:?}", answer.failures);
    answer.results.into_iter().filter_map(|result| result.result).collect()
}

/// Who is named in the answer to a command of a batch.
fn named(done: &Done) -> &str {
    let event = match done {
        Done::OpenAccount(done) => &done.event,
        Done::DepositMoney(done) => &done.event,
        Done::WithdrawMoney(done) => &done.event,
        Done::CloseAccount(done) => &done.event,
        Done::TransferMoney(TransferMoneyResponse { saga, .. }) => {
            return &saga.as_ref().unwrap().principal;
        }
    };
    &event.as_ref().unwrap().principal
}

/// Intent: each answer, the tail, the events of an account, its transactions and the sagas name
/// whoever gave the command, and nobody where nobody is known.
#[tokio::test]
async fn every_event_names_who_caused_it() {
    let bank = Bank::open();
    let [mut ada, mut bob, mut unknown] = ["ada", "bob@example.com", ""].map(|n| bank.teller(n));
    let [one, two] = opened(&mut ada).await;

    let deposited = bob.deposit_money(deposit(&one, 5)).await.unwrap().into_inner();
    assert_eq!(deposited.event.unwrap().principal, "bob@example.com");
    let withdrawn = unknown.withdraw_money(withdraw(&one, 5)).await.unwrap().into_inner();
    assert_eq!(withdrawn.event.unwrap().principal, "");
    let moved = bob.transfer_money(transfer(&one, &two, 100)).await.unwrap().into_inner();
    assert_eq!(moved.saga.as_ref().unwrap().principal, "bob@example.com");
    let closed = ada.close_account(close(&one)).await.unwrap().into_inner();
    assert_eq!(closed.event.unwrap().principal, "ada");

    let batch = vec![deposit(&two, 1).in_batch(), withdraw(&two, 1).in_batch()];
    let results = run(&mut ada, batch.clone()).await;
    assert_eq!(results.iter().map(named).collect::<Vec<_>>(), ["ada", "ada"]);
    let stream = [batch.clone(), batch]
        .map(|commands| ExecuteStreamRequest { commands, return_results: true });
    let mut answers = bob.execute_stream(tokio_stream::iter(stream)).await.unwrap().into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        let results = answer.results.iter().filter_map(|result| result.result.as_ref());
        assert_eq!(results.map(named).collect::<Vec<_>>(), ["bob@example.com"; 2]);
    }

    let log = bank.log(16).await;
    let told: Vec<&str> = log.iter().map(|event| &*event.principal).collect();
    let bobs = "bob@example.com";
    let transfer_events = [bobs; 5];
    let expected = [&["ada", "ada", bobs, ""], &transfer_events[..], &["ada"; 3], &[bobs; 4]];
    assert_eq!(told, expected.concat());

    let mut queries = bank.queries.clone();
    for account_id in [one, two] {
        let request =
            ListAccountEventsRequest { account_id: account_id.clone(), ..Default::default() };
        let page = queries.list_account_events(request).await.unwrap().into_inner();
        let in_log = log.iter().filter(|event| event.account_id == account_id);
        assert!(page.events.iter().eq(in_log), "{page:?}");
        let account = GetAccountRequest { account_id: account_id.clone(), ..Default::default() };
        queries.get_account(account).await.expect("the account is there");
        let request = ListTransactionsRequest { account_id, ..Default::default() };
        let page = queries.list_transactions(request).await.unwrap().into_inner();
        for transaction in page.transactions {
            let event = &log[usize::try_from(transaction.position).unwrap() - 1];
            assert_eq!(transaction.principal, event.principal);
        }
    }
    let saga_id = moved.saga.unwrap().saga_id;
    let request = GetSagaRequest { saga_id, ..Default::default() };
    let saga = queries.get_saga(request).await.unwrap().into_inner().saga.unwrap();
    let listed = queries.list_sagas(ListSagasRequest::default()).await.unwrap().into_inner().sagas;
    assert_eq!((saga.principal.as_str(), &listed[..]), (bobs, &[saga.clone()][..]));
}

/// Intent: a repeat is one whoever sends it, and what was recorded stays with whoever was first. A
/// single answer says who that was; in a batch, whose size must be known before, it does not.
#[tokio::test]
async fn a_repeat_by_another_caller_is_answered_with_what_was_recorded() {
    let bank = Bank::open();
    let [mut ada, mut bob, mut unknown] = ["ada", "bob", ""].map(|n| bank.teller(n));
    let [one, two] = opened(&mut ada).await;
    let mut given = deposit(&one, 5);
    given.request_id = fresh_id();
    let mut moved = transfer(&one, &two, 5);
    moved.request_id = fresh_id();
    ada.deposit_money(given.clone()).await.unwrap();
    ada.transfer_money(moved.clone()).await.unwrap();
    for teller in [&mut ada, &mut bob, &mut unknown] {
        let answer = teller.deposit_money(given.clone()).await.unwrap().into_inner();
        assert!(answer.replayed);
        assert_eq!(answer.event.unwrap().principal, "ada");
        let answer = teller.transfer_money(moved.clone()).await.unwrap().into_inner();
        assert!(answer.replayed);
        assert_eq!(answer.saga.unwrap().principal, "ada");
    }
    let repeats = || vec![given.clone().in_batch(), moved.clone().in_batch()];
    for (mut teller, name) in [(ada, "ada"), (bob, ""), (unknown, "")] {
        let results = run(&mut teller, repeats()).await;
        assert_eq!(results.iter().map(named).collect::<Vec<_>>(), [name; 2]);
    }
    let named: Vec<String> = bank.log(8).await.into_iter().map(|event| event.principal).collect();
    assert_eq!(named, ["ada"; 8]);
}

/// Intent: the results of a batch fit into a message also when each of them has the longest name,
/// and a batch for which that is not certain is refused before anything of it is done.
#[tokio::test]
async fn the_results_of_a_batch_with_the_longest_name_can_be_sent() {
    let bank = Bank::open();
    let mut teller = bank.teller(&"🐚".repeat(PRINCIPAL_CHARS_MAX));
    let [one, two] = opened(&mut teller).await;
    // 256 bytes a result, a name of 512, and 3: within 3 MiB.
    let most = 3 * 1024 * 1024 / (256 + 512 + 3);
    let batch = |count: usize, return_results| ExecuteBatchRequest {
        commands: (0..count)
            .map(|_| {
                let mut command = transfer(&one, &two, 1);
                (command.request_id, command.saga_id) = (fresh_id(), fresh_id());
                command.in_batch()
            })
            .collect(),
        return_results,
    };
    let rich = deposit(&one, 1_000_000);
    teller.deposit_money(rich).await.unwrap();
    let answer = teller.execute_batch(batch(most, true)).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), most);
    assert!(answer.encoded_len() <= 3 * 1024 * 1024, "{}", answer.encoded_len());
    let refused = teller.execute_batch(batch(most + 1, true)).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_FIELDS");
    let all = teller.execute_batch(batch(BATCH_COMMANDS_MAX, false)).await.unwrap().into_inner();
    assert_eq!(usize::try_from(all.accepted_count).unwrap(), BATCH_COMMANDS_MAX);
}
