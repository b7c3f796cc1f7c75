//! An echo: what a call costs before anybody keeps a ledger.
//!
//!     cargo run --release --example echo [ADDRESS]
//!
//! It answers `DepositMoney` and `GetAccount` at once with constants of the shape and the size of
//! real answers, and nothing else. Runtime, allocator and transport are those of `daybook serve`:
//! what the ledger does slower is what the ledger costs. ADDRESS is 127.0.0.1:0 unless given; where
//! it listens it tells in one line, as `daybook serve` does. SIGTERM ends it.

use std::{error::Error, net::SocketAddr};

use daybook::{
    ops::telemetry::{self, LogFilter, LogFormat},
    proto::{
        Account, AccountState, BatchMessage, CloseAccountRequest, CloseAccountResponse,
        DepositMoneyRequest, DepositMoneyResponse, Event, ExecuteBatchResponse,
        ExecuteStreamResponse, GetAccountRequest, GetAccountResponse, GetSagaRequest,
        GetSagaResponse, GetStatsRequest, GetStatsResponse, ListAccountEventsRequest,
        ListAccountEventsResponse, ListAccountsRequest, ListAccountsResponse, ListSagasRequest,
        ListSagasResponse, ListTransactionsRequest, ListTransactionsResponse, MoneyDeposited,
        OpenAccountRequest, OpenAccountResponse, TailEventsRequest, TailMessage,
        TransferMoneyRequest, TransferMoneyResponse, WithdrawMoneyRequest, WithdrawMoneyResponse,
        command_service_server::{CommandService, CommandServiceServer},
        event::Payload,
        query_service_server::{QueryService, QueryServiceServer},
    },
    server::transport::{self, Door},
    wire::MESSAGE_BYTES_MAX,
};
use prost_types::Timestamp;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tracing::info;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where it listens unless told otherwise.
const ADDRESS: &str = "127.0.0.1:0";
/// A position as long as they are in a log of some size.
const POSITION: i64 = 10_000_000;
/// A version as long as they are after some deposits.
const VERSION: i64 = 1_000;
/// A balance as long as those that `daybook bench` begins with.
const BALANCE_MINOR: i64 = 1_000_000_000;
/// A time of our days, as long as they are.
const TIME: Timestamp = Timestamp { seconds: 1_750_000_000, nanos: 123_456_000 };
/// An id as long as they are.
const EVENT_ID: &str = "01976f3e-7c50-7000-8000-000000989680";
/// An owner as long as those that `daybook bench` has.
const OWNER: &str = "bench 01976f3e-7c50-7000-8000-000000989680";

/// Answers without having done anything.
struct Echo;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| ADDRESS.to_owned()).parse()?;
    telemetry::init(LogFormat::Json, &LogFilter::default());
    Builder::new_current_thread().enable_all().build()?.block_on(serve(address))
}

async fn serve(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "serving");
    let commands = CommandServiceServer::new(Echo)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let queries = QueryServiceServer::new(Echo)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let services = Routes::new(commands).add_service(queries).prepare();
    let (_serves_on, stopping) = watch::channel(false);
    tokio::select! {
        () = transport::serve(listener, services, Door::default(), stopping) => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// What an echo has no answer to.
fn none<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("an echo has no answer to this"))
}

#[tonic::async_trait]
impl CommandService for Echo {
    type ExecuteStreamStream = Empty<Result<ExecuteStreamResponse, Status>>;

    async fn deposit_money(
        &self,
        request: Request<DepositMoneyRequest>,
    ) -> Result<Response<DepositMoneyResponse>, Status> {
        let request = request.into_inner();
        let deposited = MoneyDeposited {
            amount_minor: request.amount_minor,
            balance_minor: BALANCE_MINOR,
            reason: request.reason,
        };
        let event = Event {
            position: POSITION,
            event_id: EVENT_ID.to_owned(),
            account_id: request.account_id,
            version: VERSION,
            event_time: Some(TIME),
            saga_id: String::new(),
            request_id: request.request_id,
            principal: String::new(),
            payload: Some(Payload::MoneyDeposited(deposited)),
        };
        Ok(Response::new(DepositMoneyResponse {
            event: Some(event),
            balance_minor: BALANCE_MINOR,
            replayed: false,
        }))
    }

    async fn open_account(
        &self,
        _: Request<OpenAccountRequest>,
    ) -> Result<Response<OpenAccountResponse>, Status> {
        none()
    }

    async fn withdraw_money(
        &self,
        _: Request<WithdrawMoneyRequest>,
    ) -> Result<Response<WithdrawMoneyResponse>, Status> {
        none()
    }

    async fn transfer_money(
        &self,
        _: Request<TransferMoneyRequest>,
    ) -> Result<Response<TransferMoneyResponse>, Status> {
        none()
    }

    async fn close_account(
        &self,
        _: Request<CloseAccountRequest>,
    ) -> Result<Response<CloseAccountResponse>, Status> {
        none()
    }

    async fn execute_batch(
        &self,
        _: Request<BatchMessage>,
    ) -> Result<Response<ExecuteBatchResponse>, Status> {
        none()
    }

    async fn execute_stream(
        &self,
        _: Request<Streaming<BatchMessage>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        none()
    }
}

#[tonic::async_trait]
impl QueryService for Echo {
    type TailEventsStream = Empty<Result<TailMessage, Status>>;

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let account = Account {
            account_id: request.into_inner().account_id,
            owner: OWNER.to_owned(),
            currency_code: "USD".to_owned(),
            balance_minor: BALANCE_MINOR,
            state: AccountState::Active.into(),
            version: 1,
            pending_saga_ids: Vec::new(),
            open_time: Some(TIME),
            update_time: Some(TIME),
        };
        Ok(Response::new(GetAccountResponse { account: Some(account), position: POSITION }))
    }

    async fn list_accounts(
        &self,
        _: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        none()
    }

    async fn list_account_events(
        &self,
        _: Request<ListAccountEventsRequest>,
    ) -> Result<Response<ListAccountEventsResponse>, Status> {
        none()
    }

    async fn list_transactions(
        &self,
        _: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        none()
    }

    async fn get_saga(
        &self,
        _: Request<GetSagaRequest>,
    ) -> Result<Response<GetSagaResponse>, Status> {
        none()
    }

    async fn list_sagas(
        &self,
        _: Request<ListSagasRequest>,
    ) -> Result<Response<ListSagasResponse>, Status> {
        none()
    }

    async fn get_stats(
        &self,
        _: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        none()
    }

    async fn tail_events(
        &self,
        _: Request<TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        none()
    }
}
