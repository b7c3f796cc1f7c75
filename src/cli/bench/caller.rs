//! The caller: makes the calls that workloads consist of, and says what they came to.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    Workload,
    measure::{Done, Lost},
    plan::{AMOUNT_MINOR, Dice, PAGE_LINES, Plan},
};
use crate::{
    cli::connect::Connection,
    proto::{
        Event, ExecuteBatchRequest, ExecuteBatchResponse, GetAccountRequest,
        ListAccountEventsRequest, ListTransactionsRequest, ListTransactionsResponse,
        TransferMoneyRequest, command_service_client::CommandServiceClient,
        query_service_client::QueryServiceClient,
    },
};

/// How many lines of its statement a wallet shows.
const WALLET_LINES: u16 = 20;

/// The reason of a refusal because the disk is full: nothing was written.
const LOG_FULL: &str = "LOG_FULL";

/// Makes calls over one connection.
pub(super) struct Caller {
    commands: CommandServiceClient<Connection>,
    queries: QueryServiceClient<Connection>,
}

/// What the commands of a batch came to, by how many of them were accepted and the position that
/// was answered.
pub(super) fn batch_done(plan: &Plan, accepted_count: i32, position: i64) -> Done {
    let accepted = u64::try_from(accepted_count).unwrap_or(0);
    let refused = plan.batch.saturating_sub(accepted);
    match plan.workload {
        Workload::Transfer | Workload::HotTransfer => {
            let events = accepted.saturating_mul(5).saturating_add(refused.saturating_mul(2));
            Done { accepted, refused, money_minor: 0, events, position }
        }
        Workload::Deposit
        | Workload::Read
        | Workload::Statement
        | Workload::HistoryPage
        | Workload::Wallet
        | Workload::Smallbank
        | Workload::Tail => {
            let money = i64::try_from(accepted).unwrap_or(i64::MAX);
            let money_minor = money.saturating_mul(AMOUNT_MINOR);
            Done { accepted, refused, money_minor, events: accepted, position }
        }
    }
}

/// The position of an event that was answered.
fn place(event: Option<&Event>) -> i64 {
    event.map_or(0, |event| event.position)
}

/// Whether a statement has no line and no next page either, which no account's has.
fn says_nothing(page: &ListTransactionsResponse) -> bool {
    page.transactions.is_empty() && page.next_page_token.is_empty()
}

/// What a call without an answer means. A transfer that failed for want of funds is recorded; no
/// other refusal is.
fn lost(status: &Status, refused: Done) -> Result<Done, Lost> {
    let code = status.code();
    if code == Code::FailedPrecondition {
        Ok(refused)
    } else if code == Code::ResourceExhausted || is_log_full(status) {
        Err(Lost::Shed)
    } else {
        Err(Lost::Unknown)
    }
}

/// Whether the disk is full. Other calls of the same code may have been carried out.
fn is_log_full(status: &Status) -> bool {
    let told = status.get_details_error_info();
    status.code() == Code::Unavailable && told.is_some_and(|told| told.reason == LOG_FULL)
}

impl Caller {
    pub(super) fn new(channel: &Connection) -> Self {
        Self {
            commands: CommandServiceClient::new(channel.clone()),
            queries: QueryServiceClient::new(channel.clone()),
        }
    }

    /// Makes one call of the workload.
    pub(super) async fn call(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        match plan.workload {
            Workload::Deposit | Workload::Transfer | Workload::HotTransfer if plan.batch > 1 => {
                self.batch(plan, dice).await
            }
            Workload::Deposit => self.deposit(plan, dice).await,
            Workload::Transfer | Workload::HotTransfer => self.transfer(plan.transfer(dice)).await,
            Workload::Read => self.read(plan.account_id(dice)).await.map(|_| Done::READ),
            Workload::Statement => self.statement(plan.account_id(dice), PAGE_LINES).await,
            Workload::HistoryPage => self.history_page(plan, dice).await,
            Workload::Wallet => self.wallet(plan, dice).await,
            Workload::Smallbank => self.smallbank(plan, dice).await,
            Workload::Tail => Err(Lost::Unknown),
        }
    }

    async fn batch(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        let request = ExecuteBatchRequest { commands: plan.batch(dice), return_results: false };
        match self.commands.execute_batch(request).await {
            Ok(response) => {
                let ExecuteBatchResponse { accepted_count, position, .. } = response.get_ref();
                Ok(batch_done(plan, *accepted_count, *position))
            }
            Err(status) => lost(&status, Done::REFUSED),
        }
    }

    async fn deposit(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        match self.commands.deposit_money(plan.deposit(dice)).await {
            Ok(response) => {
                Ok(Done::moved(AMOUNT_MINOR).at(place(response.get_ref().event.as_ref())))
            }
            Err(status) => lost(&status, Done::REFUSED),
        }
    }

    async fn withdraw(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        match self.commands.withdraw_money(plan.withdrawal(dice)).await {
            Ok(response) => {
                let position = place(response.get_ref().event.as_ref());
                Ok(Done::moved(AMOUNT_MINOR.saturating_neg()).at(position))
            }
            Err(status) => lost(&status, Done::REFUSED),
        }
    }

    async fn transfer(&mut self, request: TransferMoneyRequest) -> Result<Done, Lost> {
        match self.commands.transfer_money(request).await {
            Ok(response) => {
                let position = response.get_ref().saga.as_ref().map_or(0, |saga| saga.position);
                Ok(Done::TRANSFER.at(position))
            }
            Err(status) => lost(&status, Done::FAILED),
        }
    }

    /// Reads an account: its balance.
    async fn read(&mut self, account_id: String) -> Result<i64, Lost> {
        let request = GetAccountRequest { account_id, ..GetAccountRequest::default() };
        match self.queries.get_account(request).await {
            Ok(response) => Ok(response.into_inner().account.map_or(0, |it| it.balance_minor)),
            Err(status) => lost(&status, Done::REFUSED).map(|_| 0),
        }
    }

    /// Reads the newest lines of a statement. There is always one: that of the opening.
    async fn statement(&mut self, account_id: String, lines: u16) -> Result<Done, Lost> {
        let page_size = i32::from(lines);
        let request =
            ListTransactionsRequest { account_id, page_size, ..ListTransactionsRequest::default() };
        match self.queries.list_transactions(request).await {
            Ok(response) if says_nothing(response.get_ref()) => Err(Lost::Unknown),
            Ok(_) => Ok(Done::READ),
            Err(status) => lost(&status, Done::REFUSED),
        }
    }

    async fn history_page(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        let request = ListAccountEventsRequest {
            account_id: plan.account_id(dice),
            after_version: plan.page_start(dice),
            page_size: i32::from(PAGE_LINES),
            ..ListAccountEventsRequest::default()
        };
        match self.queries.list_account_events(request).await {
            Ok(response) if response.get_ref().events.is_empty() => Err(Lost::Unknown),
            Ok(_) => Ok(Done::READ),
            Err(status) => lost(&status, Done::REFUSED),
        }
    }

    /// As a wallet sees it: of twenty calls twelve read a balance and three a statement, two
    /// deposit, two transfer, one withdraws.
    async fn wallet(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        match dice.throw(20) {
            0..12 => self.read(plan.account_id(dice)).await.map(|_| Done::READ),
            12..15 => self.statement(plan.account_id(dice), WALLET_LINES).await,
            15..17 => self.deposit(plan, dice).await,
            17..19 => self.transfer(plan.transfer(dice)).await,
            _ => self.withdraw(plan, dice).await,
        }
    }

    /// `SmallBank` (M. Alomari and others, "The Cost of Serializability on Platforms That Use
    /// Snapshot Isolation", 2008), in the mix that H-Store uses: of twenty calls five send a
    /// payment, and three each do one of the other five things. Neighbouring accounts are the
    /// checking and the savings account of one customer.
    async fn smallbank(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        match dice.throw(20) {
            0..5 => self.transfer(plan.transfer(dice)).await,
            5..8 => {
                let (checking, savings) = customer(plan, dice);
                self.read(checking).await?;
                self.read(savings).await.map(|_| Done::READ)
            }
            8..11 => self.deposit(plan, dice).await,
            11..14 if dice.throw(2) == 0 => self.deposit(plan, dice).await,
            11..17 => self.withdraw(plan, dice).await,
            _ => self.amalgamate(plan, dice).await,
        }
    }

    /// Moves all that a customer has in savings to his checking account.
    async fn amalgamate(&mut self, plan: &Plan, dice: &mut Dice) -> Result<Done, Lost> {
        let (checking, savings) = customer(plan, dice);
        let amount_minor = self.read(savings.clone()).await?;
        if amount_minor == 0 {
            return Ok(Done::READ);
        }
        let request = TransferMoneyRequest {
            from_account_id: savings,
            to_account_id: checking,
            amount_minor,
            ..TransferMoneyRequest::default()
        };
        self.transfer(request).await
    }
}

/// The checking and the savings account of a random customer.
fn customer(plan: &Plan, dice: &mut Dice) -> (String, String) {
    let pairs = plan.account_ids.count() / 2;
    let checking = dice.throw(pairs.max(1)).saturating_mul(2);
    (plan.at(checking), plan.at(checking.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    /// Intent: only what certainly did not happen counts as turned away.
    #[test]
    fn a_call_is_turned_away_when_nothing_was_written() {
        let ended = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, "daybook", HashMap::new());
            let status = Status::with_error_details(code, "told", details);
            lost(&status, Done::REFUSED).unwrap_err()
        };
        assert_eq!(ended(Code::ResourceExhausted, "OVERLOADED"), Lost::Shed);
        assert_eq!(ended(Code::Unavailable, "LOG_FULL"), Lost::Shed);
        assert_eq!(ended(Code::Unavailable, "LOG_FAILED"), Lost::Unknown);
        assert_eq!(ended(Code::Unknown, "LOG_FULL"), Lost::Unknown);
        let status = Status::unavailable("LOG_FULL");
        assert_eq!(lost(&status, Done::REFUSED).unwrap_err(), Lost::Unknown);
    }
}
