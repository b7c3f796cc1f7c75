//! The flags of `daybook bench`, and which of them make sense together.

use crate::cli::{CliError, connect::ConnectArgs};

/// How many calls may be under way: twice as many as a server takes in.
const IN_FLIGHT_MAX: u64 = 32_768;
/// How many calls are under way unless told otherwise: enough that groups are worth their sync.
const IN_FLIGHT: u64 = 64;
/// How many commands are under way at most then: half of what a server takes in, so that none is
/// turned away.
const COMMANDS_IN_FLIGHT: u64 = 32_768;
/// How many connections are opened at most.
const CONNECTIONS_MAX: u64 = 256;
/// How many accounts are opened at most: the check at the end reads every one.
const ACCOUNTS_MAX: u64 = 10_000_000;
/// How many deposits an account has at most before the load begins: minutes of work.
const HISTORY_MAX: u64 = 100_000_000;
/// How many calls may be asked for in a second: a thousand times what one client can make.
const RATE_MAX: u64 = 100_000_000;

/// How many tails there are at most: a few for each of a thousand instances would be many.
const TAILS_MAX: u64 = 1_000;

/// Puts load on a server and measures it. Opens accounts of its own for that, and checks at the
/// end that their money adds up. Every answer is waited for: all that is counted is durable.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,

    /// What to do
    #[arg(long, value_enum, default_value_t = Workload::Deposit)]
    pub(super) workload: Workload,

    /// How many accounts to spread the commands over, at random. Transfers take two or more
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=ACCOUNTS_MAX))]
    pub(super) accounts: u64,

    /// How many deposits each account has before the load begins
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=HISTORY_MAX))]
    pub(super) history: u64,

    /// How many calls to have under way at once [default: 64; with large batches as many as have
    /// 32768 commands together]
    #[arg(long, value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=IN_FLIGHT_MAX))]
    in_flight: Option<u64>,

    /// How many connections to spread them over
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    pub(super) connections: u64,

    /// How many commands a call has: 1 is a call of its own for each, more are batches
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=8_190))]
    pub(super) batch: u64,

    /// Send the commands through one stream a connection instead of calls; `in-flight` is then
    /// how many messages to have under way. For deposits and transfers only
    #[arg(long)]
    pub(super) stream: bool,

    /// For how many seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) seconds: u64,

    /// For how many seconds to run before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub(super) warm_up: u64,

    /// How many calls to begin each second, whether or not earlier ones were answered, as far as
    /// `in-flight` allows; the time of a call counts from when it was due. 0 is as many as there
    /// can be. Not for streams
    #[arg(long, value_name = "CALLS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=RATE_MAX))]
    pub(super) rate: u64,

    /// After how many calls to end, if that is earlier; there is no warm-up then. 0 is never
    #[arg(long, value_name = "CALLS", default_value_t = 0)]
    pub(super) count: u64,

    /// How many tails follow the log while the load runs, over connections of their own. Each must
    /// be told every event; of the first one it is measured how long after an answer it is told
    /// what was answered
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=TAILS_MAX))]
    pub(super) tails: u64,

    /// The process id of the server, when it runs on this machine: its CPU time and memory are
    /// then told as well
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,

    /// Open no accounts, and check none at the end: for a server that only pretends to keep them.
    /// What is measured then proves nothing of a ledger
    #[arg(long)]
    pub(super) unchecked: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(super) json: bool,

    /// Where the choice of accounts begins: the same number gives the same load
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
}

impl BenchArgs {
    /// How many calls to have under way at once.
    pub(super) fn in_flight(&self) -> u64 {
        let fitting = COMMANDS_IN_FLIGHT.checked_div(self.batch).unwrap_or(1);
        self.in_flight.unwrap_or_else(|| fitting.clamp(1, IN_FLIGHT))
    }

    /// # Errors
    /// [`CliError::Usage`] when flags contradict each other.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let is_plain = self.workload.is_plain();
        let rules = [
            (
                (self.stream || self.batch > 1) && !is_plain,
                "only deposits and transfers go in batches and streams",
            ),
            (self.accounts < 2 && self.workload.transfers(), "a transfer takes two accounts"),
            (
                self.unchecked && (self.history > 0 || self.tails > 0),
                "accounts that nobody opens have no history, and nothing to tail",
            ),
            (
                (self.unchecked || self.history > 0 || self.tails > 0)
                    && self.workload == Workload::Tail,
                "a tail has no accounts of its own, and no other tails beside it",
            ),
            (self.stream && self.rate > 0, "a stream has no rate: its window sets the pace"),
        ];
        let broken = rules.into_iter().find(|(is_broken, _)| *is_broken);
        broken.map_or(Ok(()), |(_, what)| Err(CliError::Usage(what)))
    }
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
    /// Reads of the newest 50 lines of the statement of random accounts
    Statement,
    /// Reads of 50 events of random accounts, from a random place of their history on
    HistoryPage,
    /// What a wallet does: of twenty calls, 12 read a balance and 3 a statement, 2 deposit, 2
    /// transfer, 1 withdraws
    Wallet,
    /// The six operations of `SmallBank`: balance, deposit, savings, amalgamate, check, payment
    Smallbank,
    /// One reader of the whole log from its beginning; most other options do not apply
    Tail,
}

impl Workload {
    /// Whether it has transfers among its commands.
    fn transfers(self) -> bool {
        match self {
            Self::Transfer | Self::HotTransfer | Self::Wallet | Self::Smallbank => true,
            Self::Deposit | Self::Read | Self::Statement | Self::HistoryPage | Self::Tail => false,
        }
    }

    /// Whether its commands can go in batches and streams.
    fn is_plain(self) -> bool {
        match self {
            Self::Deposit | Self::Transfer | Self::HotTransfer => true,
            Self::Read
            | Self::Statement
            | Self::HistoryPage
            | Self::Wallet
            | Self::Smallbank
            | Self::Tail => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn in_flight(flags: &[&str]) -> u64 {
        let line = std::iter::once(&"bench").chain(flags);
        Parsed::try_parse_from(line).unwrap().args.in_flight()
    }

    #[test]
    fn large_batches_are_fewer_at_once_unless_told_otherwise() {
        for (batch, expected) in [("1", 64), ("512", 64), ("513", 63), ("1000", 32), ("8190", 4)] {
            assert_eq!(in_flight(&["--batch", batch]), expected, "{batch}");
            assert_eq!(in_flight(&["--batch", batch, "--in-flight", "65"]), 65);
        }
        assert_eq!(in_flight(&[]), 64);
    }
}
