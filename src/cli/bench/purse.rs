//! The purse: the accounts that a benchmark opens, and the check that their money adds up.

use tonic::transport::Channel;
use uuid::Uuid;

use super::{BenchArgs, Workload, measure::Measure};
use crate::{
    cli::{CliError, connect::MESSAGE_BYTES_MAX},
    proto::{
        BatchCommand, ExecuteBatchRequest, ListAccountsRequest, OpenAccountRequest,
        batch_command::Command, command_service_client::CommandServiceClient,
        query_service_client::QueryServiceClient,
    },
};

/// What each account begins with, in minor units: more than any run can transfer away.
const INITIAL_BALANCE_MINOR: i64 = 1_000_000_000;
/// How many accounts are opened or listed with one call.
const PAGE: usize = 1_000;

/// Accounts of one benchmark.
pub(super) struct Purse {
    /// Their ids, as text.
    pub(super) account_ids: Vec<String>,
    /// By this they are found again.
    owner: String,
    workload: Workload,
    batch: u64,
    channel: Channel,
}

impl Purse {
    /// Opens the accounts.
    pub(super) async fn open(args: &BenchArgs) -> Result<Self, CliError> {
        let channel = args.connect.connect().await?;
        let owner = format!("bench {}", Uuid::now_v7());
        let account_ids: Vec<_> = (0..args.accounts).map(|_| Uuid::now_v7().to_string()).collect();
        let mut client = CommandServiceClient::new(channel.clone());
        for ids in account_ids.chunks(PAGE) {
            let commands = ids.iter().map(|id| open(id, &owner)).collect();
            let request = ExecuteBatchRequest { commands, return_results: false };
            let response = client.execute_batch(request).await?.into_inner();
            if let Some(failure) = response.failures.first() {
                return Err(CliError::Call(format!("cannot open an account: {failure:?}")));
            }
        }
        Ok(Self { account_ids, owner, workload: args.workload, batch: args.batch, channel })
    }

    /// Checks that the accounts hold what they began with and what was deposited since: no more,
    /// no less. Of calls that failed it is unknown what they did.
    pub(super) async fn check(&self, measure: &Measure) -> Result<(), CliError> {
        let accounts = i64::try_from(self.account_ids.len()).unwrap_or(i64::MAX);
        let (deposited, unknown) = match self.workload {
            Workload::Deposit => (
                measure.accepted.saturating_add(measure.unmeasured),
                measure.failed_calls.saturating_mul(self.batch),
            ),
            Workload::Transfer | Workload::Read | Workload::Tail => (0, 0),
        };
        let minor = |commands| i64::try_from(commands).unwrap_or(i64::MAX);
        let opened = accounts.saturating_mul(INITIAL_BALANCE_MINOR);
        let least = opened.saturating_add(minor(deposited));
        let most = least.saturating_add(minor(unknown));
        let held = self.sum().await?;
        if (least..=most).contains(&held) {
            return Ok(());
        }
        let what = format!("the accounts hold {held} minor units instead of {least} to {most}");
        Err(CliError::Unsound(what))
    }

    async fn sum(&self) -> Result<i64, CliError> {
        let client = QueryServiceClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (mut sum, mut page_token) = (0_i64, String::new());
        loop {
            let request = ListAccountsRequest {
                page_size: i32::try_from(PAGE).unwrap_or(i32::MAX),
                page_token,
                owner: self.owner.clone(),
                ..ListAccountsRequest::default()
            };
            let page = client.list_accounts(request).await?.into_inner();
            let balances = page.accounts.iter().map(|account| account.balance_minor);
            sum = balances.fold(sum, i64::saturating_add);
            if page.next_page_token.is_empty() {
                return Ok(sum);
            }
            page_token = page.next_page_token;
        }
    }
}

fn open(account_id: &str, owner: &str) -> BatchCommand {
    let request = OpenAccountRequest {
        account_id: account_id.to_owned(),
        owner: owner.to_owned(),
        initial_balance_minor: INITIAL_BALANCE_MINOR,
        ..OpenAccountRequest::default()
    };
    BatchCommand { command: Some(Command::OpenAccount(request)) }
}
