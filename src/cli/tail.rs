//! `daybook tail`: prints the events of a ledger as they come.

use std::io::{self, Write as _};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
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

    /// Only events of this type, by its name in the proto, with or without `EVENT_TYPE_`; may be
    /// given more than once [default: of every type]
    #[arg(long = "type", value_name = "TYPE", value_parser = event_types(), ignore_case = true)]
    event_type: Vec<EventType>,
}

/// Finds an id to be one, by the server's own rule.
fn account_id(text: &str) -> Result<String, IdError> {
    AccountId::parse(text).map(|_| text.to_owned())
}

/// What every name of a type begins with in the proto.
const EVENT_TYPE: &str = "EVENT_TYPE_";

/// Takes the types by their names, and tells them all where a name is none of them.
fn event_types() -> impl TypedValueParser<Value = EventType> {
    let types = (1..).map_while(|number| EventType::try_from(number).ok());
    let names = types.map(|kind| {
        let full = kind.as_str_name();
        PossibleValue::new(full.strip_prefix(EVENT_TYPE).unwrap_or(full)).alias(full)
    });
    PossibleValuesParser::new(names.collect::<Vec<_>>()).try_map(|name| {
        let name = name.to_ascii_uppercase();
        let short = name.strip_prefix(EVENT_TYPE).unwrap_or(&name);
        EventType::from_str_name(&format!("{EVENT_TYPE}{short}")).ok_or("unknown event type")
    })
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        args: TailArgs,
    }

    fn parsed(name: &str) -> Result<Vec<EventType>, String> {
        let parsed = Parsed::try_parse_from(["tail", "--type", name]);
        parsed.map(|parsed| parsed.args.event_type).map_err(|error| error.to_string())
    }

    #[test]
    fn types_are_taken_by_both_of_their_names_and_told_otherwise() {
        // The proto numbers them without gaps; of those that it has, each is known.
        let all: Vec<_> = (1..100).filter_map(|number| EventType::try_from(number).ok()).collect();
        assert_eq!(all.len(), 7);
        let mut told = Vec::new();
        for kind in all {
            let full = kind.as_str_name();
            let short = full.strip_prefix(EVENT_TYPE).unwrap();
            for name in [full, short, &full.to_lowercase(), &short.to_lowercase()] {
                assert_eq!(parsed(name), Ok(vec![kind]), "{name}");
            }
            told.push(short);
        }
        let told = format!("[possible values: {}]", told.join(", "));
        for name in ["X", "", "UNSPECIFIED", "EVENT_TYPE_UNSPECIFIED", "EVENT_TYPE_"] {
            let error = parsed(name).unwrap_err();
            assert!(error.contains("--type <TYPE>") && error.contains(&told), "{error}");
        }
    }
}
