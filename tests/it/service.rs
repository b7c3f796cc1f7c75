//! The harness: a whole server inside the test, behind a real socket, and clients for it.

use std::{
    collections::HashMap, fs, net::SocketAddr, ops::Deref, path::Path, sync::Arc, time::Duration,
};

use daybook::{
    ops::config::Config,
    proto::{
        self, BatchCommand, Event, batch_command::Command as Kind,
        command_service_client::CommandServiceClient, query_service_client::QueryServiceClient,
    },
};
use prost::Message as _;
use tempfile::TempDir;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::engine;

mod running;

use running::{Running, run};

/// What the health service says of a server that takes commands.
const READY: &str = "readiness";
/// After how many events a log on disk has a checkpoint.
const CHECKPOINT_EVENTS: u64 = 256;
/// How many commands a batch may have.
pub(crate) const BATCH_COMMANDS_MAX: usize = 8_190;
/// The largest amount and the largest balance, in minor units.
pub(crate) const MONEY_MAX: i64 = 1_000_000_000_000_000;

/// A server, and a client for it.
pub(crate) struct Service {
    config: Config,
    /// Removed with the service. There is none when the log is in memory.
    directory: Option<TempDir>,
    running: Option<Running>,
    client: Client,
}

impl Service {
    /// Over a log in memory.
    pub(crate) async fn in_memory() -> Self {
        Self::with(Config::default()).await
    }

    /// Over a log in a directory of its own, with so frequent checkpoints that most starts begin
    /// from one.
    pub(crate) async fn on_disk() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        let config = Config { data_dir, checkpoint_events: CHECKPOINT_EVENTS, ..Config::default() };
        Self::start(config, Some(directory)).await
    }

    /// The directory of the log.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// Over a log in memory, with settings of its own.
    pub(crate) async fn with(config: Config) -> Self {
        Self::start(Config { ephemeral: true, ..config }, None).await
    }

    /// Over a log in memory, with a grace for the calls that are open when it stops.
    pub(crate) async fn with_grace(drain_grace: Duration) -> Self {
        Self::with(Config { drain_grace, ..Config::default() }).await
    }

    /// Over a log in memory; a stop takes calls for a while before it drains.
    pub(crate) async fn with_delay(drain_delay: Duration) -> Self {
        Self::with(Config { drain_delay, ..Config::default() }).await
    }

    /// Where probes and scrapers are answered.
    pub(crate) fn operations(&self) -> SocketAddr {
        self.running.as_ref().unwrap().operations.unwrap()
    }

    /// With any configuration; the directory is removed with the service.
    pub(crate) async fn start(mut config: Config, directory: Option<TempDir>) -> Self {
        engine::choose(&mut config);
        let (running, client) = run(config.clone(), READY).await;
        Self { config, directory, running: Some(running), client }
    }

    /// Shuts the server down and waits until it has ended, which it must do well.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    /// Shuts the server down and starts another one over the same directory.
    pub(crate) async fn restart(&mut self) {
        self.restart_as_far_as(READY).await;
    }

    /// As [`Service::restart`], but with a log of which a byte in the middle has changed: it can be
    /// read up to there, and takes no commands.
    pub(crate) async fn restart_damaged(&mut self) {
        self.stop().await;
        let files = fs::read_dir(&self.config.data_dir).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let segment = files.filter(|file| file.extension().is_some_and(|it| it == "seg")).min();
        let segment = segment.unwrap();
        let mut bytes = fs::read(&segment).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        // Zeros may be what nothing depends on.
        let at = (end / 2..end).find(|at| bytes[*at] != 0).unwrap();
        bytes[at] ^= 0x55;
        fs::write(&segment, bytes).unwrap();
        self.restart_as_far_as("daybook.v1.QueryService").await;
    }

    /// As [`Service::restart`], but waits only until what has this name in the health service is
    /// serving.
    pub(crate) async fn restart_as_far_as(&mut self, health: &str) {
        assert!(self.directory.is_some(), "a log in memory has nothing to start from");
        self.stop().await;
        let (running, client) = run(self.config.clone(), health).await;
        self.running = Some(running);
        self.client = client;
    }
}

impl Deref for Service {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A connection to a server. A clone shares the connection.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) commands: CommandServiceClient<Channel>,
    pub(crate) queries: QueryServiceClient<Channel>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self::over(endpoint.connect().await.unwrap(), address)
    }

    /// Over a connection that there is.
    pub(crate) fn over(channel: Channel, address: SocketAddr) -> Self {
        Self {
            address,
            commands: CommandServiceClient::new(channel.clone()),
            queries: QueryServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Another connection to the same server.
    pub(crate) async fn another(&self) -> Self {
        Self::connect(self.address).await
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn wait_until_serving(&self, name: &str) {
        let request = HealthCheckRequest { service: name.to_owned() };
        let mut health = HealthClient::new(self.channel.clone());
        let mut states = health.watch(request).await.unwrap().into_inner();
        let ready = i32::from(ServingStatus::Serving as u8);
        while states.message().await.unwrap().unwrap().status != ready {}
    }

    /// Calls the rpc that the request belongs to.
    pub(crate) async fn call<R: Rpc>(&self, request: R) -> Result<R::Response, Status> {
        R::call(self.clone(), Request::new(request)).await.map(Response::into_inner)
    }

    /// As [`Client::call`], with a deadline.
    pub(crate) async fn call_within<R: Rpc>(
        &self,
        deadline: Duration,
        request: R,
    ) -> Result<R::Response, Status> {
        let mut request = Request::new(request);
        request.set_timeout(deadline);
        R::call(self.clone(), request).await.map(Response::into_inner)
    }

    /// Opens an account that begins with this balance, and gives its id.
    pub(crate) async fn opened(&self, balance_minor: i64) -> String {
        self.call(open("ada", balance_minor)).await.unwrap().account_id
    }

    pub(crate) async fn account(&self, account_id: &str) -> proto::Account {
        self.call(get(account_id)).await.unwrap().account.unwrap()
    }

    pub(crate) async fn balance(&self, account_id: &str) -> i64 {
        self.account(account_id).await.balance_minor
    }

    pub(crate) async fn stats(&self) -> proto::GetStatsResponse {
        self.call(proto::GetStatsRequest::default()).await.unwrap()
    }

    /// Carries commands out in as few batches as they need; every one must be accepted.
    pub(crate) async fn carry_out(&self, commands: Vec<BatchCommand>) {
        for batch in commands.chunks(BATCH_COMMANDS_MAX) {
            let answer = self.call(batch_of(batch.to_vec())).await.unwrap();
            assert_eq!(answer.failures, []);
            assert_eq!(usize::try_from(answer.accepted_count).unwrap(), batch.len());
        }
    }

    /// The whole log, from its beginning to its head.
    pub(crate) async fn log(&self) -> Vec<Event> {
        let head = self.stats().await.position;
        let mut tail = self.tail(from(0)).await.unwrap();
        let mut events = Vec::new();
        let mut position = 0;
        while position < head {
            let message = tail.message().await.unwrap().unwrap();
            events.extend(message.events);
            position = message.position;
        }
        assert!(events.iter().zip(1..).all(|(event, position)| event.position == position));
        events
    }

    pub(crate) async fn tail(&self, request: proto::TailEventsRequest) -> Result<Tail, Status> {
        self.queries.clone().tail_events(request).await.map(Response::into_inner)
    }
}

/// The messages of a tail.
pub(crate) type Tail = tonic::Streaming<proto::TailEventsResponse>;

/// The request of an rpc that answers once.
pub(crate) trait Rpc: Sized {
    type Response;

    fn call(
        client: Client,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

macro_rules! rpcs {
    ($($service:ident.$method:ident($request:ident) -> $response:ident;)*) => {$(
        impl Rpc for proto::$request {
            type Response = proto::$response;

            async fn call(
                mut client: Client,
                request: Request<Self>,
            ) -> Result<Response<Self::Response>, Status> {
                client.$service.$method(request).await
            }
        }
    )*};
}

rpcs! {
    commands.open_account(OpenAccountRequest) -> OpenAccountResponse;
    commands.deposit_money(DepositMoneyRequest) -> DepositMoneyResponse;
    commands.withdraw_money(WithdrawMoneyRequest) -> WithdrawMoneyResponse;
    commands.transfer_money(TransferMoneyRequest) -> TransferMoneyResponse;
    commands.close_account(CloseAccountRequest) -> CloseAccountResponse;
    commands.execute_batch(ExecuteBatchRequest) -> ExecuteBatchResponse;
    queries.get_account(GetAccountRequest) -> GetAccountResponse;
    queries.list_accounts(ListAccountsRequest) -> ListAccountsResponse;
    queries.list_account_events(ListAccountEventsRequest) -> ListAccountEventsResponse;
    queries.list_transactions(ListTransactionsRequest) -> ListTransactionsResponse;
    queries.get_saga(GetSagaRequest) -> GetSagaResponse;
    queries.list_sagas(ListSagasRequest) -> ListSagasResponse;
    queries.get_stats(GetStatsRequest) -> GetStatsResponse;
}

/// What can be a command of a batch.
pub(crate) trait InBatch {
    fn in_batch(self) -> BatchCommand;
}

macro_rules! commands {
    ($($request:ident => $kind:ident;)*) => {$(
        impl InBatch for proto::$request {
            fn in_batch(self) -> BatchCommand {
                BatchCommand { command: Some(Kind::$kind(self)) }
            }
        }
    )*};
}

commands! {
    OpenAccountRequest => OpenAccount;
    DepositMoneyRequest => DepositMoney;
    WithdrawMoneyRequest => WithdrawMoney;
    TransferMoneyRequest => TransferMoney;
    CloseAccountRequest => CloseAccount;
}

pub(crate) fn open(owner: &str, initial_balance_minor: i64) -> proto::OpenAccountRequest {
    proto::OpenAccountRequest {
        owner: owner.to_owned(),
        initial_balance_minor,
        ..Default::default()
    }
}

pub(crate) fn deposit(account_id: &str, amount_minor: i64) -> proto::DepositMoneyRequest {
    proto::DepositMoneyRequest {
        account_id: account_id.to_owned(),
        amount_minor,
        ..Default::default()
    }
}

pub(crate) fn withdraw(account_id: &str, amount_minor: i64) -> proto::WithdrawMoneyRequest {
    proto::WithdrawMoneyRequest {
        account_id: account_id.to_owned(),
        amount_minor,
        ..Default::default()
    }
}

pub(crate) fn transfer(from: &str, to: &str, amount_minor: i64) -> proto::TransferMoneyRequest {
    proto::TransferMoneyRequest {
        from_account_id: from.to_owned(),
        to_account_id: to.to_owned(),
        amount_minor,
        ..Default::default()
    }
}

pub(crate) fn close(account_id: &str) -> proto::CloseAccountRequest {
    proto::CloseAccountRequest { account_id: account_id.to_owned(), ..Default::default() }
}

pub(crate) fn batch_of(commands: Vec<BatchCommand>) -> proto::ExecuteBatchRequest {
    proto::ExecuteBatchRequest { commands, return_results: false }
}

pub(crate) fn get(account_id: &str) -> proto::GetAccountRequest {
    proto::GetAccountRequest { account_id: account_id.to_owned(), ..Default::default() }
}

/// A time in microseconds since 1970 UTC, as messages have it.
pub(crate) fn timestamp(micros: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(micros % 1_000_000).unwrap() * 1_000;
    prost_types::Timestamp { seconds: micros / 1_000_000, nanos }
}

/// A tail of everything after a position.
pub(crate) fn from(position: i64) -> proto::TailEventsRequest {
    proto::TailEventsRequest { after_position: Some(position), ..Default::default() }
}

/// A UUID that nothing has yet.
pub(crate) fn fresh_id() -> String {
    Uuid::now_v7().to_string()
}

/// The reason that a status gives; every one of ours has one, of our domain.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "daybook");
    info.reason
}

pub(crate) fn metadata(status: &Status) -> HashMap<String, String> {
    status.get_details_error_info().unwrap().metadata
}

/// The fields that a status complains of, in alphabetical order.
pub(crate) fn violations(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|request| request.field_violations);
    let violations = violations.into_iter().flatten();
    let mut fields: Vec<_> = violations.map(|violation| violation.field).collect();
    fields.sort();
    fields
}

/// A status inside a message, as the status of a call.
pub(crate) fn as_status(status: &tonic_types::Status) -> Status {
    let code = Code::from_i32(status.code);
    Status::with_details(code, &status.message, status.encode_to_vec().into())
}

/// That a call was refused with a code and a reason.
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    expected: &str,
) -> Status {
    let status = answer.expect_err(expected);
    assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{status:?}");
    status
}

/// Numbers that look random and are the same for the same seed (`SplitMix64`).
pub(crate) struct Random(u64);

impl Random {
    /// Prints the seed, so that a failure can be repeated.
    #[expect(clippy::print_stdout, reason = "a failure must be repeatable")]
    pub(crate) fn seeded(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, and without, `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// A number from `first` to `last`.
    pub(crate) fn between(&mut self, first: i64, last: i64) -> i64 {
        let span = u64::try_from(last - first + 1).unwrap();
        first + i64::try_from(self.next() % span).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Runs `count` tasks at once and gathers what they give, in order.
pub(crate) async fn at_once<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(tokio::sync::Barrier::new(count));
    let tasks = (0..count).map(|index| {
        let (start, work) = (Arc::clone(&start), task(index));
        tokio::spawn(async move {
            start.wait().await;
            work.await
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut results = Vec::with_capacity(count);
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
