//! Commands in bulk: what has to be in the ledger before a load begins.

use std::iter;

use futures_util::{StreamExt as _, stream};
use indicatif::ProgressBar;

use crate::{
    cli::{CliError, connect::Connection},
    proto::{BatchCommand, ExecuteBatchRequest, command_service_client::CommandServiceClient},
};

/// How many commands a batch has: as many as the server takes.
const BATCH_COMMANDS: usize = 8_190;
/// How many batches are on their way at once: so many that the server never waits for the next,
/// and half of what its mailbox holds.
const BATCHES_IN_FLIGHT: usize = 4;

/// Sends commands in batches, so many in all, of which every one must be accepted.
pub(super) async fn fill(
    channel: &Connection,
    count: u64,
    commands: impl Iterator<Item = BatchCommand>,
) -> Result<(), CliError> {
    let client = CommandServiceClient::new(channel.clone());
    let bar = ProgressBar::new(count);
    let mut commands = commands.peekable();
    let batches = iter::from_fn(|| {
        commands.peek()?;
        Some(commands.by_ref().take(BATCH_COMMANDS).collect())
    });
    let sends = stream::iter(batches).map(|commands| send(client.clone(), commands));
    let mut sends = sends.buffer_unordered(BATCHES_IN_FLIGHT);
    while let Some(sent) = sends.next().await {
        bar.inc(sent?);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Sends a batch. Gives how many commands it had.
async fn send(
    mut client: CommandServiceClient<Connection>,
    commands: Vec<BatchCommand>,
) -> Result<u64, CliError> {
    let count = u64::try_from(commands.len()).unwrap_or(u64::MAX);
    let request = ExecuteBatchRequest { commands, return_results: false };
    let response = client.execute_batch(request).await?.into_inner();
    match response.failures.first() {
        Some(failure) => Err(CliError::Call(format!("before the load began: {failure:?}"))),
        None => Ok(count),
    }
}
