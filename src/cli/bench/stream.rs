//! A client that streams: one `ExecuteStream`, with a window of batches under way.

use std::{collections::VecDeque, sync::Arc};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::{
    measure::Measure,
    plan::{Dice, Plan, Times},
};
use crate::{
    cli::CliError,
    proto::{
        ExecuteStreamRequest, ExecuteStreamResponse, command_service_client::CommandServiceClient,
    },
};

/// One stream.
pub(super) struct Streamer {
    plan: Arc<Plan>,
    dice: Dice,
    sender: mpsc::Sender<ExecuteStreamRequest>,
    answers: tonic::Streaming<ExecuteStreamResponse>,
    /// When the batches were sent that are not answered yet, the oldest first.
    sent: VecDeque<Instant>,
    measure: Measure,
}

impl Streamer {
    /// Opens a stream with a window of so many batches, and fills it.
    pub(super) async fn open(
        channel: Channel,
        plan: Arc<Plan>,
        dice: Dice,
        window: usize,
    ) -> Result<Self, CliError> {
        let (sender, receiver) = mpsc::channel(window);
        let mut client = CommandServiceClient::new(channel);
        let answers = client.execute_stream(ReceiverStream::new(receiver)).await?.into_inner();
        let (sent, measure) = (VecDeque::new(), Measure::new()?);
        let mut streamer = Self { plan, dice, sender, answers, sent, measure };
        for _ in 0..window {
            streamer.send().await;
        }
        Ok(streamer)
    }

    async fn send(&mut self) {
        let commands = self.plan.batch(&mut self.dice);
        let request = ExecuteStreamRequest { commands, return_results: false };
        self.sent.push_back(Instant::now());
        let _the_answers_tell_if_it_ended = self.sender.send(request).await;
    }

    /// Sends a batch for each that is answered, until the time is over; then waits for the rest.
    pub(super) async fn run(mut self, times: Times) -> Measure {
        while let Some(sent) = self.sent.pop_front() {
            let answer = self.answers.message().await;
            if times.is_warm() {
                self.measure.took(sent.elapsed());
            }
            match accepted(answer) {
                Some(accepted) => {
                    let refused = self.plan.batch.saturating_sub(accepted);
                    self.measure.count((accepted, refused), times.counts());
                }
                None => self.measure.fail(),
            }
            if !times.is_over() {
                self.send().await;
            }
        }
        self.measure
    }
}

fn accepted(answer: Result<Option<ExecuteStreamResponse>, Status>) -> Option<u64> {
    u64::try_from(answer.ok()??.accepted_count).ok()
}
