//! Reading the whole log as one subscriber.

use serde_json::json;
use tokio::time::Instant;

use super::BenchArgs;
use crate::{
    cli::{CliError, connect::MESSAGE_BYTES_MAX, output},
    proto::{GetStatsRequest, TailEventsRequest, query_service_client::QueryServiceClient},
};

/// Tails from the beginning to where the head was when it began.
pub(super) async fn run(args: &BenchArgs) -> Result<(), CliError> {
    let client = QueryServiceClient::new(args.connect.connect().await?);
    let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
    let head = client.get_stats(GetStatsRequest::default()).await?.into_inner().position;
    let begin = Instant::now();
    let request = TailEventsRequest { after_position: Some(0), ..TailEventsRequest::default() };
    let mut messages = client.tail_events(request).await?.into_inner();
    let (mut events, mut position) = (0_u64, 0_i64);
    while position < head {
        let Some(message) = messages.message().await? else { break };
        for event in &message.events {
            position = position.saturating_add(1);
            if event.position != position {
                let what = format!("position {} came after {}", event.position, position);
                return Err(CliError::Unsound(what));
            }
        }
        events = events.saturating_add(u64::try_from(message.events.len()).unwrap_or(0));
    }
    let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = events.saturating_mul(1_000).checked_div(millis).unwrap_or(0);
    Ok(output::print(|out| {
        if args.json {
            let told =
                json!({ "events": events, "measured_ms": millis, "events_per_second": rate });
            writeln!(out, "{told}")
        } else {
            writeln!(out, "events       {events} in {millis} ms, without gaps")?;
            writeln!(out, "throughput   {rate} events/s")
        }
    })?)
}
