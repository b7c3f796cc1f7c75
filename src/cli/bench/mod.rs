//! `daybook bench`: puts load on a server and measures it, as a client like any other.

use std::io::{self, Write as _};

mod load;
mod measure;
mod plan;
mod purse;
mod stream;
mod tail;

use measure::Measure;
use purse::Purse;

use super::{CliError, connect::ConnectArgs};

/// How many calls may be under way: more would only wait in the server's mailbox.
const IN_FLIGHT_MAX: u64 = 16_384;
/// How many connections are opened at most.
const CONNECTIONS_MAX: u64 = 256;
/// How many accounts are opened at most: the check at the end reads every one.
const ACCOUNTS_MAX: u64 = 10_000_000;

/// Puts load on a server and measures it. Opens accounts of its own for that, and checks at the
/// end that their money adds up. Every answer is waited for: all that is counted is durable.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    connect: ConnectArgs,

    /// What to do
    #[arg(long, value_enum, default_value_t = Workload::Deposit)]
    workload: Workload,

    /// How many accounts to spread the commands over, at random
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(2..=ACCOUNTS_MAX))]
    accounts: u64,

    /// How many calls to have under way at once
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=IN_FLIGHT_MAX))]
    in_flight: u64,

    /// How many connections to spread them over
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    connections: u64,

    /// How many commands a call has: 1 is a call of its own for each, more are batches
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=8_190))]
    batch: u64,

    /// Send the commands through one stream a connection instead of calls; `in-flight` is then
    /// how many messages to have under way. Not for reads
    #[arg(long)]
    stream: bool,

    /// For how many seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// For how many seconds to run before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warm_up: u64,

    /// Where the choice of accounts begins: the same number gives the same load
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

/// What a load consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Workload {
    /// Deposits into random accounts
    Deposit,
    /// Transfers between random accounts
    Transfer,
    /// Reads of random accounts
    Read,
    /// One reader of the whole log from its beginning; most other options do not apply
    Tail,
}

/// Runs `daybook bench`.
///
/// # Errors
/// [`CliError`] when the server cannot be reached, or the money does not add up.
pub async fn bench(args: BenchArgs) -> Result<(), CliError> {
    if args.workload == Workload::Tail {
        return tail::run(&args).await;
    }
    if args.workload == Workload::Read && args.stream {
        return Err(CliError::Usage("reads cannot be streamed"));
    }
    let purse = Purse::open(&args).await?;
    let measure = load::run(&args, &purse).await?;
    purse.check(&measure).await?;
    print(&args, &measure)?;
    Ok(())
}

fn print(args: &BenchArgs, measure: &Measure) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "workload     {:?}, {} accounts", args.workload, args.accounts)?;
    writeln!(
        out,
        "load         {} {} of {} commands in flight on {} connections, {} s",
        args.in_flight,
        if args.stream { "messages" } else { "calls" },
        args.batch,
        args.connections,
        args.seconds
    )?;
    writeln!(out, "accepted     {} commands", measure.accepted)?;
    writeln!(out, "refused      {} commands, {} calls", measure.refused, measure.failed_calls)?;
    writeln!(out, "throughput   {} commands/s", measure.rate(args.seconds))?;
    writeln!(out, "latency      {}", measure.latency())?;
    writeln!(out, "money        adds up")
}
