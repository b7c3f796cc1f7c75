//! A client that streams: one `ExecuteStream`, with a window of batches under way.

use std::{collections::VecDeque, sync::Arc};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    caller::batch_done,
    measure::{Lost, Shared},
    plan::{Dice, Plan},
};
use crate::{
    cli::{CliError, connect::Connection},
    proto::{
        ExecuteStreamRequest, ExecuteStreamResponse, command_service_client::CommandServiceClient,
    },
};

/// One stream.
pub(super) struct Streamer {
    plan: Arc<Plan>,
    dice: Dice,
    sender: mpsc::Sender<ExecuteStreamRequest>,
    answers: Streaming<ExecuteStreamResponse>,
    /// When the batches were sent that are not answered yet, the oldest first.
    sent: VecDeque<Instant>,
    measure: Shared,
}

impl Streamer {
    /// Opens a stream with a window of so many batches, and fills it.
    pub(super) async fn open(
        channel: Connection,
        plan: Arc<Plan>,
        dice: Dice,
        window: usize,
        measure: Shared,
    ) -> Result<Self, CliError> {
        let (sender, receiver) = mpsc::channel(window);
        let mut client = CommandServiceClient::new(channel);
        let answers = client.execute_stream(ReceiverStream::new(receiver)).await?.into_inner();
        let mut streamer = Self { plan, dice, sender, answers, sent: VecDeque::new(), measure };
        for _ in 0..window {
            streamer.send().await;
        }
        Ok(streamer)
    }

    /// Sends the batch that is due next, if there is one.
    async fn send(&mut self) {
        let Some(due) = self.plan.next_call() else { return };
        let commands = self.plan.batch(&mut self.dice);
        let request = ExecuteStreamRequest { commands, return_results: false };
        self.sent.push_back(due);
        let _the_answers_tell_if_it_ended = self.sender.send(request).await;
    }

    /// Sends a batch for each that is answered, until the time is over; then waits for the rest.
    pub(super) async fn run(mut self) {
        while let Some(sent) = self.sent.pop_front() {
            let ended = match self.answers.message().await {
                Ok(Some(answer)) => {
                    Ok(batch_done(&self.plan, answer.accepted_count, answer.position))
                }
                Ok(None) | Err(_) => Err(Lost::Unknown),
            };
            self.measure.lock().take(ended, self.plan.counts(), sent, sent);
            self.send().await;
        }
    }
}
