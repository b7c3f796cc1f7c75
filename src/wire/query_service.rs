//! The query service.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use super::{
    MESSAGE_BYTES_MAX, deadline,
    entrance::visit,
    guarded::{Messages, guarded},
    late::Late,
    page_token::List,
    parse::Violations,
    permit,
    reads::Reads,
    render::{self, number},
    status,
    tail::{self, Question},
};
use crate::{
    domain::{AccountId, AccountState, SagaId},
    ops::{Clock, config::Limits},
    proto::{
        self,
        get_account_request::AsOf as RequestedAsOf,
        query_service_server::{QueryService, QueryServiceServer},
    },
    views::{
        AccountFilter, AccountView, AsOf, AsOfError, Direction, SagaFilter, SagaState,
        account_as_of, find_saga, list_account_transactions, list_events, list_sagas,
        list_transactions,
    },
};

/// Serves `daybook.v1.QueryService`.
#[derive(Clone)]
pub struct Queries {
    /// What is read, once the ledger is recovered.
    pub reads: Late<Arc<Reads>>,
    clock: Arc<dyn Clock>,
    /// Places for tails.
    tails: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

impl Queries {
    /// Knows the time by `clock`. Tails end when `stopping` says so.
    #[must_use]
    pub fn new(limits: &Limits, clock: Arc<dyn Clock>, stopping: watch::Receiver<bool>) -> Self {
        let tails = Arc::new(Semaphore::new(limits.tails));
        Self { reads: Late::default(), clock, tails, stopping }
    }

    /// The same for other readings, with the same places for tails.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { reads: Late::default(), ..self.clone() }
    }

    /// The service, for messages of at most so many bytes.
    #[must_use]
    pub fn served(self, message_bytes_max: usize) -> QueryServiceServer<Self> {
        QueryServiceServer::new(self)
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// An account as it is.
    fn account(&self, account_id: AccountId) -> Result<(AccountView, u64), Status> {
        let reads = self.reads.get()?;
        let books = reads.views.books();
        let view = books.account(account_id);
        let view = view.ok_or_else(|| reads.account_missing(account_id))?;
        Ok((view, books.position()))
    }

    /// That a time has passed: by the clock, which may have been set back since, or because
    /// something was recorded then.
    fn expect_past(&self, time_micros: i64) -> Result<(), Status> {
        let reads = self.reads.get()?;
        let now_micros = self.clock.now_micros();
        let is_past = time_micros < now_micros;
        if is_past || time_micros <= reads.views.books().time_micros() {
            return Ok(());
        }
        let head = *reads.durable.borrow();
        Err(reads.missing(status::not_yet("as_of_time", now_micros, head)))
    }

    /// An account as it was, and the position of its newest event then.
    async fn account_as_of(
        &self,
        now: AccountView,
        as_of: AsOf,
        head: u64,
    ) -> Result<(AccountView, u64), Status> {
        let reads = self.reads.get()?;
        if let AsOf::Position(position) = as_of
            && position > head
        {
            return Err(reads.missing(status::beyond_head("as_of_position", head)));
        }
        let id = now.account.id();
        let then = reads.in_log(move |cursor| account_as_of(cursor, &now, as_of)).await?;
        then.map_err(|failure| {
            let status = status::not_as_of(&failure, id);
            match failure {
                AsOfError::Beyond { .. } => reads.missing(status),
                AsOfError::History(_) | AsOfError::Inconsistent(_) => reads.unread(status),
                AsOfError::BeforeOpening => status,
            }
        })
    }
}

fn parse_as_of(wrong: &mut Violations, as_of: Option<RequestedAsOf>) -> Option<Option<AsOf>> {
    let Some(as_of) = as_of else { return Some(None) };
    let parsed = match as_of {
        RequestedAsOf::AsOfVersion(version) => {
            wrong.count("as_of_version", Some(version))?.map(AsOf::Version)
        }
        RequestedAsOf::AsOfPosition(position) => {
            wrong.count("as_of_position", Some(position))?.map(AsOf::Position)
        }
        RequestedAsOf::AsOfTime(time) => Some(AsOf::Time(wrong.time("as_of_time", &time)?)),
    };
    Some(parsed)
}

/// The messages of a tail.
type Tail = Messages<proto::TailMessage>;

#[tonic::async_trait]
impl QueryService for Queries {
    type TailEventsStream = Tail;

    async fn get_account(
        &self,
        request: Request<proto::GetAccountRequest>,
    ) -> Result<Response<proto::GetAccountResponse>, Status> {
        permit::check(&request)?;
        let reads = self.reads.get()?;
        let (metadata, _, request) = request.into_parts();
        let mut wrong = Violations::default();
        let account_id = wrong.account_id("account_id", &request.account_id);
        let as_of = parse_as_of(&mut wrong, request.as_of);
        let min_position = wrong.count("min_position", request.min_position);
        let parts = (|| Some((account_id?, as_of?, min_position?)))();
        let (account_id, as_of, min_position) = wrong.finish(parts)?;
        if let Some(AsOf::Time(time)) = as_of {
            self.expect_past(time)?;
            reads.settle(time).await?;
        }
        reads.wait(&metadata, min_position).await?;
        let (mut view, mut position) = self.account(account_id)?;
        if let Some(as_of) = as_of {
            (view, position) = self.account_as_of(view, as_of, position).await?;
        }
        let account = Some(render::account(&view));
        Ok(Response::new(proto::GetAccountResponse { account, position: number(position) }))
    }

    async fn list_accounts(
        &self,
        request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        permit::check(&request)?;
        let reads = self.reads.get()?;
        let (metadata, _, request) = request.into_parts();
        let filters: &[&[u8]] = &[request.owner.as_bytes(), &request.state.to_le_bytes()];
        let list = List { method: "ListAccounts", filters };
        let mut wrong = Violations::default();
        let limit = wrong.page_size(request.page_size);
        let from = wrong.check("page_token", reads.tokens.read(&list, &request.page_token));
        let state = wrong.choice("state", request.state, |state| match state {
            proto::AccountState::Unspecified => None,
            proto::AccountState::Active => Some(AccountState::Active),
            proto::AccountState::Closed => Some(AccountState::Closed),
        });
        let min_position = wrong.count("min_position", request.min_position);
        let parts = (|| Some((limit?, from?, state?, min_position?)))();
        let (limit, from, state, min_position) = wrong.finish(parts)?;
        reads.wait_to_go_on(&metadata, min_position, &from).await?;
        let owner = Some(request.owner.as_str()).filter(|owner| !owner.is_empty());
        let filter = AccountFilter { owner: owner.map(Into::into), state };
        let from = from.numbers.first().and_then(|from| u32::try_from(*from).ok()).unwrap_or(0);
        let (page, position) = {
            let books = reads.views.books();
            (books.accounts(&filter, from, limit), books.position())
        };
        let next: Vec<u64> = page.next.map(u64::from).into_iter().collect();
        Ok(Response::new(proto::ListAccountsResponse {
            accounts: page.accounts.iter().map(render::account).collect(),
            next_page_token: reads.tokens.make(&list, position, &next),
            total_size: number(page.total),
            position: number(position),
        }))
    }

    async fn list_account_events(
        &self,
        request: Request<proto::ListAccountEventsRequest>,
    ) -> Result<Response<proto::ListAccountEventsResponse>, Status> {
        permit::check(&request)?;
        let reads = self.reads.get()?;
        let (metadata, _, request) = request.into_parts();
        let mut wrong = Violations::default();
        let account_id = wrong.account_id("account_id", &request.account_id);
        let after = wrong.count("after_version", Some(request.after_version));
        let limit = wrong.page_size(request.page_size);
        let account_key = request.account_id.to_ascii_lowercase();
        let filters: &[&[u8]] = &[
            account_key.as_bytes(),
            &request.after_version.to_le_bytes(),
            &[u8::from(request.newest_first)],
        ];
        let list = List { method: "ListAccountEvents", filters };
        let token = wrong.check("page_token", reads.tokens.read(&list, &request.page_token));
        let min_position = wrong.count("min_position", request.min_position);
        let parts = (|| Some((account_id?, after?, limit?, token?, min_position?)))();
        let (account_id, after, limit, token, min_position) = wrong.finish(parts)?;
        reads.wait_to_go_on(&metadata, min_position, &token).await?;
        let (view, position) = self.account(account_id)?;
        let version = number(view.account.version());
        let (from, after) = (token.numbers.first().copied(), after.unwrap_or(0));
        let (range, direction) = if request.newest_first {
            ((after, from.unwrap_or(u64::MAX)), Direction::NewestFirst)
        } else {
            ((from.unwrap_or(after), u64::MAX), Direction::OldestFirst)
        };
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let page = reads
            .read_log(move |cursor| list_events(cursor, &view, range, direction, limit))
            .await?;
        let ids = reads.history.codec().ids();
        let next: Vec<u64> = page.next.into_iter().collect();
        Ok(Response::new(proto::ListAccountEventsResponse {
            events: page.events.iter().filter_map(|event| render::recorded(ids, event)).collect(),
            next_page_token: reads.tokens.make(&list, position, &next),
            version,
            position: number(position),
        }))
    }

    async fn list_transactions(
        &self,
        request: Request<proto::ListTransactionsRequest>,
    ) -> Result<Response<proto::ListTransactionsResponse>, Status> {
        permit::check(&request)?;
        let reads = self.reads.get()?;
        let (metadata, _, request) = request.into_parts();
        let mut wrong = Violations::default();
        let account_id = wrong.optional("account_id", &request.account_id, AccountId::parse);
        let limit = wrong.page_size(request.page_size);
        let min_position = wrong.count("min_position", request.min_position);
        let account_key = request.account_id.to_ascii_lowercase();
        let filters: &[&[u8]] = &[account_key.as_bytes()];
        let list = List { method: "ListTransactions", filters };
        let token = wrong.check("page_token", reads.tokens.read(&list, &request.page_token));
        let parts = (|| Some((account_id?, limit?, min_position?, token?)))();
        let (account_id, limit, min_position, token) = wrong.finish(parts)?;
        reads.wait_to_go_on(&metadata, min_position, &token).await?;
        let (view, totals) = {
            let books = reads.views.books();
            let view =
                account_id.map(|id| books.account(id).ok_or_else(|| reads.account_missing(id)));
            (view.transpose()?, books.totals())
        };
        let total = view.as_ref().map_or(totals.transaction_count, |view| view.transaction_count);
        let before = token.numbers.first().copied();
        let before = before.unwrap_or_else(|| totals.position.saturating_add(1));
        let page = reads.read_log(move |cursor| match view {
            Some(view) => list_account_transactions(cursor, &view, before, limit),
            None => list_transactions(cursor, before, limit),
        });
        let page = page.await?;
        let ids = reads.history.codec().ids();
        let rendered = page.transactions.iter().map(|line| render::transaction(ids, line));
        let next: Vec<u64> = page.next.into_iter().collect();
        Ok(Response::new(proto::ListTransactionsResponse {
            transactions: rendered.collect(),
            next_page_token: reads.tokens.make(&list, totals.position, &next),
            total_size: number(total),
            position: number(totals.position),
        }))
    }

    async fn get_saga(
        &self,
        request: Request<proto::GetSagaRequest>,
    ) -> Result<Response<proto::GetSagaResponse>, Status> {
        permit::check(&request)?;
        let visit = visit(&request).cloned();
        let reads = self.reads.get()?;
        let (metadata, _, request) = request.into_parts();
        let mut wrong = Violations::default();
        let saga_id = wrong.check("saga_id", SagaId::parse(&request.saga_id));
        let min_position = wrong.count("min_position", request.min_position);
        let parts = (|| Some((saga_id?, min_position?)))();
        let (saga_id, min_position) = wrong.finish(parts)?;
        reads.wait(&metadata, min_position).await?;
        let (place, position) = {
            let books = reads.views.books();
            let ids = reads.history.codec().ids();
            (books.locate_saga(saga_id, ids), books.position())
        };
        let saga = match place {
            Some(place) => reads.read_log(move |cursor| find_saga(cursor, saga_id, place)).await?,
            None => None,
        };
        if saga.is_none() || visit.as_ref().is_some_and(|visit| visit.caller().is_limited()) {
            // Who may not see it is not told by who answers whether there is one.
            reads.ours()?;
        }
        let parties = saga.as_ref().map(|saga| [saga.from, saga.to]);
        permit::may_see_one(visit.as_ref(), parties.as_ref().map_or(&[], |parties| parties))?;
        let saga = saga.ok_or_else(|| reads.missing(status::saga_not_found(saga_id)))?;
        let saga = Some(render::saga(&saga));
        Ok(Response::new(proto::GetSagaResponse { saga, position: number(position) }))
    }

    async fn list_sagas(
        &self,
        request: Request<proto::ListSagasRequest>,
    ) -> Result<Response<proto::ListSagasResponse>, Status> {
        permit::check(&request)?;
        let reads = self.reads.get()?;
        let (metadata, _, request) = request.into_parts();
        let account_key = request.account_id.to_ascii_lowercase();
        let filters: &[&[u8]] = &[account_key.as_bytes(), &request.state.to_le_bytes()];
        let list = List { method: "ListSagas", filters };
        let mut wrong = Violations::default();
        let limit = wrong.page_size(request.page_size);
        let account_id = wrong.optional("account_id", &request.account_id, AccountId::parse);
        let state = wrong.choice("state", request.state, |state| match state {
            proto::SagaState::Unspecified => None,
            proto::SagaState::Running => Some(SagaState::Running),
            proto::SagaState::Completed => Some(SagaState::Completed),
            proto::SagaState::Failed => Some(SagaState::Failed),
            proto::SagaState::Compensated => Some(SagaState::Compensated),
        });
        let token = wrong.check("page_token", reads.tokens.read(&list, &request.page_token));
        let min_position = wrong.count("min_position", request.min_position);
        let parts = (|| Some((limit?, account_id?, state?, token?, min_position?)))();
        let (limit, account_id, state, token, min_position) = wrong.finish(parts)?;
        reads.wait_to_go_on(&metadata, min_position, &token).await?;
        let (filter, position) = {
            let books = reads.views.books();
            let filter = match account_id {
                Some(id) => {
                    let view = books.account(id).ok_or_else(|| reads.account_missing(id))?;
                    let before = token.numbers.first().copied().unwrap_or(u64::MAX);
                    SagaFilter::OfAccount(Box::new(view), state, before)
                }
                None if token.numbers.is_empty() => SagaFilter::Chains(books.newest_sagas(state)),
                None => SagaFilter::Chains(token.numbers),
            };
            (filter, books.position())
        };
        let page = reads.read_log(move |cursor| list_sagas(cursor, filter, limit)).await?;
        Ok(Response::new(proto::ListSagasResponse {
            sagas: page.sagas.iter().map(render::saga).collect(),
            next_page_token: reads.tokens.make(&list, position, &page.next),
            position: number(position),
        }))
    }

    async fn get_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Result<Response<proto::GetStatsResponse>, Status> {
        permit::check(&request)?;
        let reads = self.reads.get()?;
        let (metadata, _, request) = request.into_parts();
        let mut wrong = Violations::default();
        let min_position = wrong.count("min_position", request.min_position);
        let min_position = wrong.finish(min_position)?;
        reads.wait(&metadata, min_position).await?;
        let totals = reads.views.books().totals();
        let log = reads.history.log();
        let (head, scrubbed) = (log.head(), log.scrubbed());
        let saga_counts = totals.saga_counts.iter().map(|(state, count)| {
            let state = render::saga_state(*state).into();
            proto::SagaStateCount { state, count: number(*count) }
        });
        Ok(Response::new(proto::GetStatsResponse {
            account_count: number(totals.account_count),
            open_account_count: number(totals.open_account_count),
            event_count: number(totals.position),
            transaction_count: number(totals.transaction_count),
            saga_counts: saga_counts.collect(),
            position: number(totals.position),
            log_bytes: number(head.bytes),
            engine: log.engine().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_id: uuid::Uuid::from_bytes(log.log_id()).to_string(),
            head_hash: blake3::Hash::from_bytes(head.hash).to_string(),
            head_hash_position: number(head.position),
            verified_position: number(scrubbed.position),
            damage: scrubbed.damage.map(|damage| damage.to_string()).unwrap_or_default(),
        }))
    }

    async fn tail_events(
        &self,
        request: Request<proto::TailEventsRequest>,
    ) -> Result<Response<Tail>, Status> {
        permit::check(&request)?;
        let question = Question::parse(request.get_ref())?;
        let timeout = deadline::timeout(request.metadata().as_ref());
        let tail = tail::tail(self.reads.get()?, question, self.stopping.clone())?;
        let place = Arc::clone(&self.tails).try_acquire_owned();
        let place = place.map_err(|_| status::too_many_tails())?;
        let tail = tail.inspect(move |_| {
            let _until_it_ends = &place;
        });
        Ok(Response::new(guarded(tail, timeout, visit(&request).cloned())))
    }
}
