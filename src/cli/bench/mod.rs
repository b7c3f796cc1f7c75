//! `daybook bench`: puts load on a server and measures it, as a client like any other.

mod account_ids;
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

use std::io;

use super::CliError;
pub use args::BenchArgs;
use args::Workload;
use measure::Shared;
use purse::Purse;
use report::Report;
use server::Usage;
use tails::Tails;

/// What a load cost, beside what was measured of its calls.
#[derive(Default)]
struct Costs {
    /// How long was measured, in milliseconds.
    millis: u64,
    /// What the server had used before and after the accounts were opened.
    opening: Option<(Usage, Usage)>,
    /// What the server had used before and after the load.
    server: Option<(Usage, Usage)>,
    /// By how many bytes the log grew during the load; unknown if nobody was asked.
    log_bytes: Option<i64>,
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

/// Puts load on accounts that are opened for it.
async fn load_opened(args: &BenchArgs, purse: &Purse, measure: &Shared) -> Result<Costs, CliError> {
    let fresh = usage(args)?;
    purse.open().await?;
    if fresh.is_some() {
        purse.settle().await?;
    }
    let opening = fresh.zip(usage(args)?);
    purse.add_history().await?;
    let before = purse.head().await?;
    let tails = Tails::begin(args, before.position, measure).await?;
    let costs = load_unopened(args, purse, measure).await?;
    let after = purse.head().await?;
    let told_events = tails.end(after.position).await?;
    let log_bytes = after.log_bytes.checked_sub(before.log_bytes);
    Ok(Costs { opening, log_bytes, told_events, ..costs })
}

/// Puts load on accounts, whether or not they are there.
async fn load_unopened(
    args: &BenchArgs,
    purse: &Purse,
    measure: &Shared,
) -> Result<Costs, CliError> {
    let before = usage(args)?;
    let millis = load::run(args, purse.account_ids, measure).await?;
    let server = before.zip(usage(args)?);
    Ok(Costs { millis, server, ..Costs::default() })
}

/// What the server has used until now, if it is known which process it is.
fn usage(args: &BenchArgs) -> io::Result<Option<Usage>> {
    args.server_pid.map(Usage::of).transpose()
}
