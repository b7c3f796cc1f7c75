//! The command service.

use std::{pin::Pin, sync::Arc};

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    aside::Aside,
    batch::{Batch, BatchAnswer, judge_one},
    deadline,
    entrance::{Visit, principal, visit},
    guarded::{Messages, caught, guarded},
    held::Held,
    late::Late,
    parse, permit,
    reads::Reads,
    render::Done,
    room::{self, Room, Taken},
    status,
};
use crate::{
    domain::{Command, Principal},
    event_store::{Answer, Detail, EventIds, EventStore, Failure},
    ops::config::Limits,
    proto::{self, command_service_server::CommandService},
};

/// From how many bytes on a batch is decoded aside: that takes longer than to go there and back.
const LARGE_BYTES: usize = 16 * 1024;
/// How many batches of one stream may be on their way at once; the stream's sender is held back
/// at more.
const STREAM_BATCHES_MAX: usize = 1_024;
/// How many commands they may have together before no further batch is read: those of the largest
/// one, so that the next is read while that is carried out. What became of each is kept until its
/// client takes the answer, which takes about a kilobyte, and a client may never take any.
const STREAM_COMMANDS_MAX: usize = 8_190;
/// The same of all streams together: with the batch that is read last, those of the eight largest.
/// More of them wait until the answers of some are taken, or their time is over.
const STREAMS_COMMANDS_MAX: usize = 7 * STREAM_COMMANDS_MAX;

/// Where commands are carried out. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    store: EventStore,
    reads: Arc<Reads>,
    ids: EventIds,
}

impl Desk {
    /// Carries commands out in `store`, and looks repeats up in `reads`.
    #[must_use]
    pub fn new(store: EventStore, reads: Arc<Reads>) -> Self {
        let ids = *reads.history.codec().ids();
        Self { store, reads, ids }
    }

    /// Whether so many commands more can be carried out now.
    pub(super) fn takes(&self, commands: usize) -> bool {
        self.store.takes(commands)
    }

    /// Carries out one command.
    async fn execute(
        &self,
        principal: Option<Principal>,
        command: Command,
    ) -> Result<Done, Status> {
        let answer = self.store.execute(principal, vec![command], Detail::All).await;
        let Answer { mut commands, mut outcomes, position: _ } = answer.map_err(status::failed)?;
        match (commands.pop(), outcomes.pop()) {
            (Some(command), Some((_, outcome))) => judge_one(&self.reads, command, outcome).await,
            (None, _) | (_, None) => Err(status::internal("a command without outcome")),
        }
    }

    /// The answer to a batch of which no command can be carried out.
    fn nothing_done(&self) -> Answer {
        let position = *self.reads.durable.borrow();
        Answer { position, commands: Vec::new(), outcomes: Vec::new() }
    }
}

/// Makes batches of what was received.
#[derive(Clone, Debug)]
struct Reading {
    limits: Limits,
    aside: Aside,
}

fn is_large(message: &proto::BatchMessage) -> bool {
    message.byte_count() > LARGE_BYTES
}

impl Reading {
    /// A batch, its commands parsed.
    ///
    /// # Errors
    /// Why the message is none, or not one that can be carried out.
    async fn read(
        &self,
        message: proto::BatchMessage,
        principal: Option<Principal>,
        visit: Option<Visit>,
    ) -> Result<Batch, Status> {
        let Limits { batch_commands, message_bytes, .. } = self.limits;
        let is_large = is_large(&message);
        let read = move || {
            let decoded = message.decode();
            let proto::ExecuteBatchRequest { commands, return_results } =
                decoded.map_err(|status| status::of_transport(status, message_bytes))?;
            Batch::parse(principal, commands, return_results, batch_commands, visit.as_ref())
        };
        if is_large { self.aside.run(read).await? } else { read() }
    }

    /// For how many commands a batch is to have places before it is decoded: as many as it has, or
    /// as its bytes could have been. So what waits to be decoded is bounded as well.
    fn share(&self, message: &proto::BatchMessage) -> usize {
        let Limits { batch_commands, message_bytes, .. } = self.limits;
        let of_bytes = message.byte_count().saturating_mul(batch_commands);
        let of_bytes = of_bytes.checked_div(message_bytes).unwrap_or(0);
        message.field_count().max(of_bytes).min(batch_commands)
    }
}

/// Serves `daybook.v1.CommandService`.
#[derive(Clone)]
pub struct Commands {
    /// Where the commands go, once the ledger is recovered.
    pub desk: Late<Desk>,
    stopping: watch::Receiver<bool>,
    /// Of the commands of all streams.
    room: Arc<Room>,
    reading: Reading,
}

impl Commands {
    /// Serves until `stopping` says so: then streams take no more batches, and end.
    #[must_use]
    pub fn new(limits: Limits, stopping: watch::Receiver<bool>) -> Self {
        let room = Room::new(STREAMS_COMMANDS_MAX);
        let reading = Reading { limits, aside: Aside::of_processors() };
        Self { desk: Late::default(), stopping, room, reading }
    }
}

/// Answers of a stream, in order.
type Answers = Messages<proto::ExecuteStreamResponse>;

#[tonic::async_trait]
impl CommandService for Commands {
    type ExecuteStreamStream = Answers;

    async fn open_account(
        &self,
        request: Request<proto::OpenAccountRequest>,
    ) -> Result<Response<proto::OpenAccountResponse>, Status> {
        permit::check(&request)?;
        let principal = principal(&request);
        let command = parse::open_account(request.get_ref())?;
        let desk = self.desk.get()?;
        let done = desk.execute(principal, command).await?;
        Ok(Response::new(done.opened(&desk.ids)))
    }

    async fn deposit_money(
        &self,
        request: Request<proto::DepositMoneyRequest>,
    ) -> Result<Response<proto::DepositMoneyResponse>, Status> {
        permit::check(&request)?;
        let principal = principal(&request);
        let command = parse::deposit_money(request.get_ref())?;
        let desk = self.desk.get()?;
        let done = desk.execute(principal, command).await?;
        Ok(Response::new(done.deposited(&desk.ids)))
    }

    async fn withdraw_money(
        &self,
        request: Request<proto::WithdrawMoneyRequest>,
    ) -> Result<Response<proto::WithdrawMoneyResponse>, Status> {
        permit::check(&request)?;
        let principal = principal(&request);
        let command = parse::withdraw_money(request.into_inner())?;
        let desk = self.desk.get()?;
        let done = desk.execute(principal, command).await?;
        Ok(Response::new(done.withdrawn(&desk.ids)))
    }

    async fn transfer_money(
        &self,
        request: Request<proto::TransferMoneyRequest>,
    ) -> Result<Response<proto::TransferMoneyResponse>, Status> {
        permit::check(&request)?;
        let principal = principal(&request);
        let command = parse::transfer_money(request.get_ref())?;
        let desk = self.desk.get()?;
        let done = desk.execute(principal, command).await?;
        Ok(Response::new(done.transferred()))
    }

    async fn close_account(
        &self,
        request: Request<proto::CloseAccountRequest>,
    ) -> Result<Response<proto::CloseAccountResponse>, Status> {
        permit::check(&request)?;
        let principal = principal(&request);
        let command = parse::close_account(request.get_ref())?;
        let desk = self.desk.get()?;
        let done = desk.execute(principal, command).await?;
        Ok(Response::new(done.closed(&desk.ids)))
    }

    async fn execute_batch(
        &self,
        request: Request<proto::BatchMessage>,
    ) -> Result<Response<proto::ExecuteBatchResponse>, Status> {
        let (principal, visit) = (principal(&request), visit(&request).cloned());
        let message = request.into_inner();
        // What is carried out at once has its places before it is decoded, which is not for nothing
        // then, and whoever gets none hears so before that.
        let places = if is_large(&message) {
            let places = self.desk.get()?.store.reserve(self.reading.share(&message));
            Some(places.map_err(status::failed)?)
        } else {
            None
        };
        let mut batch = self.reading.read(message, principal, visit).await?;
        let desk = self.desk.get()?;
        let commands = std::mem::take(&mut batch.commands);
        let (principal, detail) = (batch.principal.clone(), batch.detail());
        let answer = match places {
            _ if commands.is_empty() => Ok(desk.nothing_done()),
            Some(places) => desk.store.execute_in(places, principal, commands, detail).await,
            None => desk.store.execute(principal, commands, detail).await,
        };
        let BatchAnswer { position, accepted_count, failures, results } =
            batch.answer(&desk.reads, answer).await?;
        let response = proto::ExecuteBatchResponse { position, accepted_count, failures, results };
        Ok(Response::new(response))
    }

    async fn execute_stream(
        &self,
        request: Request<Streaming<proto::BatchMessage>>,
    ) -> Result<Response<Answers>, Status> {
        let desk = self.desk.get()?;
        let timeout = deadline::timeout(request.metadata().as_ref());
        let (sender, receiver) = mpsc::channel(STREAM_BATCHES_MAX);
        let visit = visit(&request).cloned();
        let submissions = Submissions {
            desk: desk.clone(),
            reading: self.reading.clone(),
            stopping: self.stopping.clone(),
            principal: principal(&request),
            visit: visit.clone(),
            rooms: [Room::new(STREAM_COMMANDS_MAX), Arc::clone(&self.room)],
            held: request.extensions().get().cloned().unwrap_or_default(),
        };
        tokio::spawn(submissions.submit_or_fail(request.into_inner(), sender));
        let reads = Arc::clone(&desk.reads);
        let answers = ReceiverStream::new(receiver).then(move |step| {
            let reads = Arc::clone(&reads);
            async move { step?.answer(&reads).await }
        });
        Ok(Response::new(guarded(answers, timeout, visit)))
    }
}

/// A batch of a stream that was submitted, and the answer that will come.
struct Submitted {
    batch: Batch,
    answer: Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>,
    /// Of its stream, and of all of them, until its answer is taken.
    _room: [Taken; 2],
}

impl Submitted {
    async fn answer(self, reads: &Reads) -> Result<proto::ExecuteStreamResponse, Status> {
        let Self { batch, answer, _room } = self;
        let BatchAnswer { position, accepted_count, failures, results } =
            batch.answer(reads, answer.await).await?;
        Ok(proto::ExecuteStreamResponse { position, accepted_count, failures, results })
    }
}

/// The side of a stream that takes batches in.
struct Submissions {
    desk: Desk,
    reading: Reading,
    stopping: watch::Receiver<bool>,
    principal: Option<Principal>,
    visit: Option<Visit>,
    /// Of this stream, and of all of them.
    rooms: [Arc<Room>; 2],
    /// Told when this stream has to wait for room.
    held: Held,
}

impl Submissions {
    /// As [`Submissions::submit_all`]. Nothing else would tell the stream's caller of a panic: to
    /// it, the answers would end as if all batches had one.
    async fn submit_or_fail(
        self,
        batches: Streaming<proto::BatchMessage>,
        sender: mpsc::Sender<Result<Submitted, Status>>,
    ) {
        let submitted = caught(self.submit_all(batches, sender.clone())).await;
        if let Err(status) = submitted {
            let _caller_may_have_left = sender.send(Err(status)).await;
        }
    }

    /// Submits the batches of a stream in order, until it ends, breaks a limit, nobody waits for
    /// the answers any more, or the server stops.
    async fn submit_all(
        mut self,
        mut batches: Streaming<proto::BatchMessage>,
        sender: mpsc::Sender<Result<Submitted, Status>>,
    ) {
        loop {
            let request = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => Some(Err(status::stopping())),
                // Its caller's deadline has passed, and the caller may never say more.
                () = sender.closed() => return,
                status = ended(self.visit.as_ref()) => Some(Err(status)),
                request = room::next(
                    &mut batches,
                    &self.rooms,
                    self.visit.as_ref().map(Visit::caller),
                    || self.held.hold(),
                ) => request,
            };
            let Some(request) = request else { return };
            let submitted = match request {
                Ok(request) => self.submit(request).await,
                Err(status) => Err(status::of_transport(status, self.reading.limits.message_bytes)),
            };
            let ends = submitted.is_err();
            if sender.send(submitted).await.is_err() || ends {
                return;
            }
        }
    }

    /// Submits a batch that was read.
    async fn submit(&mut self, message: proto::BatchMessage) -> Result<Submitted, Status> {
        // Of one that has more, nothing is carried out.
        let count = message.field_count().min(self.reading.limits.batch_commands);
        // Before anything else is waited for.
        let room = self.rooms.each_ref().map(|room| room.take(count));
        if !is_paced(self.visit.as_ref(), &mut self.stopping).await {
            return Err(status::stopping());
        }
        let (principal, visit) = (self.principal.clone(), self.visit.clone());
        let mut batch = self.reading.read(message, principal, visit).await?;
        let commands = std::mem::take(&mut batch.commands);
        if commands.is_empty() {
            let answer = Ok(self.desk.nothing_done());
            return Ok(Submitted { batch, answer: Box::pin(async { answer }), _room: room });
        }
        let principal = batch.principal.clone();
        let store = &self.desk.store;
        let answer = store.execute_patiently(principal, commands, batch.detail()).await;
        let answer = answer.map_err(status::failed)?;
        Ok(Submitted { batch, answer: Box::pin(answer), _room: room })
    }
}

/// Waits until the caller of a stream may give its next batch; false when the server stops before.
async fn is_paced(visit: Option<&Visit>, stopping: &mut watch::Receiver<bool>) -> bool {
    let Some(visit) = visit else { return true };
    tokio::select! {
        biased;
        () = visit.caller().paced() => true,
        _ = stopping.wait_for(|stopping| *stopping) => false,
    }
}

/// Waits until the caller of a stream may not go on, and says why.
async fn ended(visit: Option<&Visit>) -> Status {
    match visit {
        Some(visit) => visit.clone().ended().await,
        None => std::future::pending().await,
    }
}
