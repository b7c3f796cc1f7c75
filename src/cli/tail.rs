//! `daybook tail`: prints the events of a ledger as they come.

use std::io::{self, Write as _};

use tonic::{Code, Status};

use super::{
    CliError,
    connect::{ConnectArgs, MESSAGE_BYTES_MAX},
    json, output,
};
use crate::{
    domain::{AccountId, IdError},
    proto::{
        EventType, TailEventsRequest, TailEventsResponse, query_service_client::QueryServiceClient,
    },
};

/// Prints events as they come, one JSON object a line, until it is interrupted. When the server
/// goes away it tells the position to go on after.
#[derive(Debug, clap::Args)]
pub struct TailArgs {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Begin after this position; 0 is the beginning of the log [default: only new events]
    #[arg(long, value_name = "POSITION")]
    after: Option<i64>,

    /// Only events of this account; may be given more than once [default: of every account]
    #[arg(long, value_name = "ID", value_parser = account_id)]
    account: Vec<String>,

    /// Only events of this type, such as `MONEY_DEPOSITED`; may be given more than once
    /// [default: of every type]
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    event_type: Vec<EventType>,
}

/// Finds an id to be one, by the server's own rule.
fn account_id(text: &str) -> Result<String, IdError> {
    AccountId::parse(text).map(|_| text.to_owned())
}

fn event_type(name: &str) -> Result<EventType, String> {
    let full = format!("EVENT_TYPE_{}", name.to_ascii_uppercase());
    let known = EventType::from_str_name(&full).filter(|kind| *kind != EventType::Unspecified);
    known.ok_or_else(|| "unknown event type".to_owned())
}

/// Runs `daybook tail`.
///
/// # Errors
/// [`CliError`] when the server cannot be reached, or ends the stream.
pub async fn tail(args: TailArgs) -> Result<(), CliError> {
    let channel = args.connect.connect().await?;
    let mut client = QueryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = TailEventsRequest {
        after_position: args.after,
        account_ids: args.account,
        event_types: args.event_type.into_iter().map(Into::into).collect(),
    };
    let mut position = args.after;
    let mut events = client.tail_events(request).await?.into_inner();
    loop {
        match events.message().await {
            Ok(Some(message)) => {
                position = Some(message.position);
                if let Err(failure) = print(&message) {
                    return finish(failure);
                }
            }
            Ok(None) => return Ok(()),
            Err(status) => return Err(ended(&status, position)),
        }
    }
}

fn print(message: &TailEventsResponse) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for event in &message.events {
        writeln!(out, "{}", json::event(event))?;
    }
    out.flush()
}

/// Whoever read our lines may have had enough of them.
fn finish(failure: io::Error) -> Result<(), CliError> {
    if output::has_left(&failure) { Ok(()) } else { Err(failure.into()) }
}

fn ended(status: &Status, position: Option<i64>) -> CliError {
    let resume = match (status.code(), position) {
        (Code::Unavailable, Some(position)) => format!("; go on with --after {position}"),
        (_, _) => String::new(),
    };
    CliError::Call(format!("{:?}: {}{resume}", status.code(), status.message()))
}
