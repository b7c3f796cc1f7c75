//! The purse: the accounts that a benchmark opens, and the check that they show all that was
//! acknowledged, no more and no less.

use uuid::Uuid;

use super::{BenchArgs, account_ids::AccountIds, fill::fill, measure::Measure, plan::AMOUNT_MINOR};
use crate::{
    cli::{
        CliError,
        connect::{Connection, MESSAGE_BYTES_MAX},
    },
    proto::{
        BatchCommand, DepositMoneyRequest, GetStatsRequest, ListAccountsRequest,
        OpenAccountRequest, batch_command::Command, query_service_client::QueryServiceClient,
    },
};

/// What each account begins with, in minor units: more than any run can transfer away.
const INITIAL_BALANCE_MINOR: i64 = 1_000_000_000;
/// How many accounts are listed with one call.
const PAGE: usize = 1_000;
/// How many events one command records at most.
const COMMAND_EVENTS_MAX: u64 = 5;

/// Accounts of one benchmark.
pub(super) struct Purse {
    pub(super) account_ids: AccountIds,
    /// By this they are found again.
    owner: String,
    /// How many deposits each account has before the load begins.
    history: u64,
    /// How many commands a call of unknown outcome may have carried out.
    batch: u64,
    channel: Connection,
}

/// Where a log ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) position: i64,
    pub(super) log_bytes: i64,
}

/// What all accounts hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    money_minor: i64,
    events: u64,
}

impl Purse {
    /// Accounts that nobody has opened.
    pub(super) async fn new(args: &BenchArgs) -> Result<Self, CliError> {
        let channel = args.connect.connect().await?;
        let owner = format!("bench {}", Uuid::now_v7());
        let account_ids = AccountIds::new(usize::try_from(args.accounts).unwrap_or(usize::MAX));
        Ok(Self { account_ids, owner, history: args.history, batch: args.batch, channel })
    }

    /// Opens the accounts.
    pub(super) async fn open(&self) -> Result<(), CliError> {
        let openings = self.account_ids.iter().map(|id| open(id, &self.owner));
        fill(&self.channel, self.count(), openings).await
    }

    /// Where the log ends now. Everything that was answered is before that, and in the views.
    pub(super) async fn head(&self) -> Result<Head, CliError> {
        let mut client = QueryServiceClient::new(self.channel.clone());
        let stats = client.get_stats(GetStatsRequest::default()).await?.into_inner();
        Ok(Head { position: stats.position, log_bytes: stats.log_bytes })
    }

    /// Reads all accounts once, as the check at the end does. After that the server's memory is
    /// what it keeps: it has given back what the opening of the accounts only passed through.
    pub(super) async fn settle(&self) -> Result<(), CliError> {
        self.sums().await.map(drop)
    }

    /// Gives the accounts their history. It is spread over the log: one deposit into each account,
    /// and then again.
    pub(super) async fn add_history(&self) -> Result<(), CliError> {
        let commands = self.count().saturating_mul(self.history);
        let rounds = (0..self.history).flat_map(|_| self.account_ids.iter());
        fill(&self.channel, commands, rounds.map(deposit)).await
    }

    /// How many accounts there are.
    fn count(&self) -> u64 {
        u64::try_from(self.account_ids.count()).unwrap_or(u64::MAX)
    }

    /// Checks that the accounts hold what they began with, what their history added and what was
    /// acknowledged since, and have as many events as that recorded. What a call of unknown outcome
    /// did may be there.
    pub(super) async fn check(&self, measure: &Measure) -> Result<(), CliError> {
        let minor = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let deposits = self.count().saturating_mul(self.history);
        let opened = minor(self.count()).saturating_mul(INITIAL_BALANCE_MINOR);
        let begun = opened.saturating_add(minor(deposits).saturating_mul(AMOUNT_MINOR));
        let expected = Sums {
            money_minor: begun.saturating_add(measure.all.money_minor),
            events: self.count().saturating_add(deposits).saturating_add(measure.all.events),
        };
        let unknown = measure.unknown_calls.saturating_mul(self.batch);
        let money = minor(unknown).saturating_mul(AMOUNT_MINOR);
        let events = unknown.saturating_mul(COMMAND_EVENTS_MAX);
        let found = self.sums().await?;
        let money_fits = (expected.money_minor.saturating_sub(money)
            ..=expected.money_minor.saturating_add(money))
            .contains(&found.money_minor);
        let events_fit =
            (expected.events..=expected.events.saturating_add(events)).contains(&found.events);
        if money_fits && events_fit {
            return Ok(());
        }
        let what = format!("{expected:?} was acknowledged, and {unknown} commands are unknown");
        Err(CliError::Unsound(format!("the accounts show {found:?}; {what}")))
    }

    async fn sums(&self) -> Result<Sums, CliError> {
        let client = QueryServiceClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (mut sums, mut page_token) = (Sums::default(), String::new());
        loop {
            let request = ListAccountsRequest {
                page_size: i32::try_from(PAGE).unwrap_or(i32::MAX),
                page_token,
                owner: self.owner.clone(),
                ..ListAccountsRequest::default()
            };
            let page = client.list_accounts(request).await?.into_inner();
            for account in &page.accounts {
                sums.money_minor = sums.money_minor.saturating_add(account.balance_minor);
                let events = u64::try_from(account.version).unwrap_or(0);
                sums.events = sums.events.saturating_add(events);
            }
            if page.next_page_token.is_empty() {
                return Ok(sums);
            }
            page_token = page.next_page_token;
        }
    }
}

fn open(account_id: Uuid, owner: &str) -> BatchCommand {
    let request = OpenAccountRequest {
        account_id: account_id.to_string(),
        owner: owner.to_owned(),
        initial_balance_minor: INITIAL_BALANCE_MINOR,
        ..OpenAccountRequest::default()
    };
    BatchCommand { command: Some(Command::OpenAccount(request)) }
}

fn deposit(account_id: Uuid) -> BatchCommand {
    let request = DepositMoneyRequest {
        account_id: account_id.to_string(),
        amount_minor: AMOUNT_MINOR,
        ..DepositMoneyRequest::default()
    };
    BatchCommand { command: Some(Command::DepositMoney(request)) }
}
