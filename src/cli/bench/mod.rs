//! `daybook bench`: puts load on a server and measures it, as a client like any other.

mod caller;
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

use super::{CliError, connect::ConnectArgs};

/// How many calls may be under way: more would only wait in the server's mailbox.
const IN_FLIGHT_MAX: u64 = 16_384;
/// How many connections are opened at most.
const CONNECTIONS_MAX: u64 = 256;
/// How many accounts are opened at most: the check at the end reads every one.
const ACCOUNTS_MAX: u64 = 10_000_000;
/// How many calls may be asked for in a second: a thousand times what one client can make.
const RATE_MAX: u64 = 100_000_000;

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
    /// how many messages to have under way. For deposits and transfers only
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

    /// How many calls to begin each second, whether or not earlier ones were answered, as far as
    /// `in-flight` allows; the time of a call counts from when it was due. 0 is as many as there
    /// can be
    #[arg(long, value_name = "CALLS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=RATE_MAX))]
    rate: u64,

    /// After how many calls to end, if that is earlier; there is no warm-up then. 0 is never
    #[arg(long, value_name = "CALLS", default_value_t = 0)]
    count: u64,

    /// The process id of the server, when it runs on this machine: its CPU time and memory are
    /// then told as well
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

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
    /// Transfers of which each has the same account on one side
    HotTransfer,
    /// Reads of random accounts
    Read,
    /// What a wallet does: of twenty calls, 12 read a balance and 3 a statement, 2 deposit, 2
    /// transfer, 1 withdraws
    Wallet,
    /// The six operations of `SmallBank`: balance, deposit, savings, amalgamate, check, payment
    Smallbank,
    /// One reader of the whole log from its beginning; most other options do not apply
    Tail,
}

impl Workload {
    /// Whether its commands can go in batches and streams.
    fn is_plain(self) -> bool {
        match self {
            Self::Deposit | Self::Transfer | Self::HotTransfer => true,
            Self::Read | Self::Wallet | Self::Smallbank | Self::Tail => false,
        }
    }
}

/// Runs `daybook bench`.
///
/// # Errors
/// [`CliError`] when the server cannot be reached, or the accounts do not show what was
/// acknowledged.
pub async fn bench(args: BenchArgs) -> Result<(), CliError> {
    if (args.stream || args.batch > 1) && !args.workload.is_plain() {
        return Err(CliError::Usage("only deposits and transfers go in batches and streams"));
    }
    if args.workload == Workload::Tail {
        return tail::run(&args).await;
    }
    let purse = Purse::open(&args).await?;
    let measure = Shared::new()?;
    let usage = || args.server_pid.map(Usage::of).transpose();
    let before = usage()?;
    let millis = load::run(&args, Arc::clone(&purse.account_ids), &measure).await?;
    let server = before.zip(usage()?);
    let measure = measure.into_inner()?;
    purse.check(&measure).await?;
    Report { args: &args, measure: &measure, millis, server }.print()?;
    Ok(())
}
