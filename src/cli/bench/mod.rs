//! `daybook bench`: puts load on a server and measures it, as a client like any other.

mod args;
mod caller;
mod fill;
mod load;
mod measure;
mod plan;
mod purse;
mod report;
mod server;
mod stream;
mod tail;

use std::sync::Arc;

use measure::Shared;
use purse::Purse;
use report::Report;
use server::Usage;

pub use args::BenchArgs;
use args::Workload;

use super::CliError;

/// Runs `daybook bench`.
///
/// # Errors
/// [`CliError`] when the server cannot be reached, flags contradict each other, or the accounts do
/// not show what was acknowledged.
pub async fn bench(args: BenchArgs) -> Result<(), CliError> {
    args.check()?;
    if args.workload == Workload::Tail {
        return tail::run(&args).await;
    }
    let purse = Purse::new(&args).await?;
    if !args.unchecked {
        purse.open().await?;
        purse.add_history().await?;
    }
    let measure = Shared::new()?;
    let usage = || args.server_pid.map(Usage::of).transpose();
    let before = usage()?;
    let millis = load::run(&args, Arc::clone(&purse.account_ids), &measure).await?;
    let server = before.zip(usage()?);
    let measure = measure.into_inner()?;
    if !args.unchecked {
        purse.check(&measure).await?;
    }
    Report { args: &args, measure: &measure, millis, server }.print()?;
    Ok(())
}
