//! `daybook healthcheck`: asks a server whether it serves, for probes that can only run a program.

use std::time::Duration;

use tokio::time::timeout;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{CliError, connect::ConnectArgs};

/// How long the answer may take: a probe that waits longer counts as failed anyway.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks a server whether it serves. Exit code 0 if it does, 1 if it does not, or does not answer
/// within 2 seconds.
#[derive(Debug, clap::Args)]
pub struct HealthcheckArgs {
    #[command(flatten)]
    connect: ConnectArgs,

    /// What to ask for: readiness, liveness, or the name of a service; everything when empty
    #[arg(long, value_name = "NAME", default_value = "readiness")]
    service: String,
}

/// Runs `daybook healthcheck`.
///
/// # Errors
/// [`CliError::Call`] when there is no answer, or another one than that it serves.
pub async fn healthcheck(args: HealthcheckArgs) -> Result<(), CliError> {
    let status = timeout(TIMEOUT, ask(args)).await;
    let status = status.map_err(|_| CliError::Call("no answer within 2 seconds".to_owned()))??;
    if status == ServingStatus::Serving {
        Ok(())
    } else {
        Err(CliError::Call(status.as_str_name().to_owned()))
    }
}

async fn ask(args: HealthcheckArgs) -> Result<ServingStatus, CliError> {
    let mut client = HealthClient::new(args.connect.connect().await?);
    let answer = client.check(HealthCheckRequest { service: args.service }).await?;
    Ok(answer.into_inner().status())
}
