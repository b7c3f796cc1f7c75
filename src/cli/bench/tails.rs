//! Tails beside a load: subscribers that follow the log live, and miss nothing.

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::{Request, Streaming, client::Grpc, codegen::http::uri::PathAndQuery};

use super::{BenchArgs, measure::Shared};
use crate::{
    cli::{
        CliError,
        connect::{Connection, MESSAGE_BYTES_MAX},
    },
    proto::{SliceCodec, TailEventsRequest},
};

/// How many connections the tails share.
const CONNECTIONS_MAX: u64 = 4;
/// How long after the load the tails may still be behind.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);
/// What is called.
const METHOD: &str = "/daybook.v1.QueryService/TailEvents";

/// A message of a tail, as far as we look at it: what is not named here is skipped unread, so that
/// many tails cost the load generator little.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(message, repeated, tag = "1")]
    events: Vec<Event>,
}

/// An event of a tail, as far as we look at it.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Event {
    #[prost(int64, tag = "1")]
    position: i64,
}

/// The tails beside a load.
pub(super) struct Tails {
    tails: JoinSet<Result<u64, CliError>>,
    /// The position that they have to reach, once it is known.
    end: watch::Sender<i64>,
}

/// One of them.
struct Tail {
    messages: Streaming<Message>,
    /// Everything up to here has been told.
    position: i64,
    end: watch::Receiver<i64>,
    /// Where it is noted when events are told; by the first tail only.
    measure: Option<Shared>,
}

impl Tails {
    /// Begins the tails after a position.
    pub(super) async fn begin(
        args: &BenchArgs,
        position: i64,
        measure: &Shared,
    ) -> Result<Self, CliError> {
        let mut channels = Vec::new();
        for _ in 0..args.tails.min(CONNECTIONS_MAX) {
            channels.push(args.connect.connect().await?);
        }
        let (end, ends) = watch::channel(i64::MAX);
        let mut tails = JoinSet::new();
        for (number, channel) in (0..args.tails).zip(channels.iter().cycle()) {
            let messages = follow(channel.clone(), position).await?;
            let measure = (number == 0).then(|| measure.clone());
            tails.spawn(Tail { messages, position, end: ends.clone(), measure }.run());
        }
        Ok(Self { tails, end })
    }

    /// Waits until all of them have reached a position. Gives how many events they were told
    /// together.
    pub(super) async fn end(mut self, position: i64) -> Result<u64, CliError> {
        self.end.send_replace(position);
        let joined = timeout(CATCH_UP_WITHIN, self.join()).await;
        joined.unwrap_or_else(|_| {
            let what = format!("a tail was not told of position {position} in time");
            Err(CliError::Unsound(what))
        })
    }

    async fn join(&mut self) -> Result<u64, CliError> {
        let mut events = 0_u64;
        while let Some(tail) = self.tails.join_next().await {
            let told = tail.map_err(|error| CliError::Call(error.to_string()))??;
            events = events.saturating_add(told);
        }
        Ok(events)
    }
}

impl Tail {
    /// Follows the log to the end that is set. Gives how many events it was told.
    async fn run(mut self) -> Result<u64, CliError> {
        let mut events = 0_u64;
        while self.position < *self.end.borrow() {
            let message = tokio::select! {
                message = self.messages.message() => message?,
                Ok(()) = self.end.changed() => continue,
            };
            let message = message.ok_or_else(|| CliError::Call("a tail was ended".to_owned()))?;
            for event in &message.events {
                let next = self.position.saturating_add(1);
                if event.position != next {
                    let what = format!("a tail was told {} instead of {next}", event.position);
                    return Err(CliError::Unsound(what));
                }
                self.position = next;
            }
            events = events.saturating_add(u64::try_from(message.events.len()).unwrap_or(0));
            if let Some(measure) = &self.measure {
                measure.lock().told(self.position);
            }
        }
        Ok(events)
    }
}

/// Begins to follow the log.
async fn follow(channel: Connection, position: i64) -> Result<Streaming<Message>, CliError> {
    let mut client = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    client.ready().await?;
    let request =
        TailEventsRequest { after_position: Some(position), ..TailEventsRequest::default() };
    let codec = SliceCodec::<TailEventsRequest, Message>::default();
    let method = PathAndQuery::from_static(METHOD);
    Ok(client.server_streaming(Request::new(request), method, codec).await?.into_inner())
}
