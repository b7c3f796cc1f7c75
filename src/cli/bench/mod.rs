//! `daybook bench`: puts load on a server and measures it, as a client like any other.

mod args;
mod caller;
mod delivery;
mod fill;
mod load;
mod measure;
mod plan;
mod purse;
mod report;
mod server;
mod stream;
mod tail;
mod tails;

use std::sync::Arc;

use measure::Shared;
use purse::Purse;
use report::Report;
use server::Usage;
use tails::Tails;

pub use args::BenchArgs;
use args::Workload;

use super::CliError;

/// What a load cost, beside what was measured of its calls.
struct Costs {
    /// How long was measured, in milliseconds.
    millis: u64,
    /// What the server had used before and after the load.
    server: Option<(Usage, Usage)>,
    /// How many events the tails beside it were told, together.
    told_events: u64,
}

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
    let measure = Shared::new(args.tails > 0)?;
    let costs = if args.unchecked {
        load_unopened(&args, &purse, &measure).await?
    } else {
        load_opened(&args, &purse, &measure).await?
    };
    let measure = measure.into_inner()?;
    if !args.unchecked {
        purse.check(&measure).await?;
    }
    Report { args: &args, measure: &measure, costs }.print()?;
    Ok(())
}

/// Puts load on accounts that are there.
async fn load_opened(args: &BenchArgs, purse: &Purse, measure: &Shared) -> Result<Costs, CliError> {
    purse.open().await?;
    purse.add_history().await?;
    let tails = Tails::begin(args, purse.head().await?, measure).await?;
    let costs = load_unopened(args, purse, measure).await?;
    let told_events = tails.end(purse.head().await?).await?;
    Ok(Costs { told_events, ..costs })
}

/// Puts load on accounts, whether or not they are there.
async fn load_unopened(
    args: &BenchArgs,
    purse: &Purse,
    measure: &Shared,
) -> Result<Costs, CliError> {
    let usage = || args.server_pid.map(Usage::of).transpose();
    let before = usage()?;
    let millis = load::run(args, Arc::clone(&purse.account_ids), measure).await?;
    Ok(Costs { millis, server: before.zip(usage()?), told_events: 0 })
}
