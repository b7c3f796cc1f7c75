//! The reads of a client: of now, of earlier moments, and of all that the bank holds.

use std::{sync::Arc, time::Duration};

use daybook::proto::{
    Account, GetAccountRequest, GetStatsRequest, ListAccountEventsRequest, ListAccountsRequest,
    get_account_request::AsOf,
};
use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use super::{
    client::Shared,
    operation::{BANK, Deed, Operation},
};
use crate::crash::audit::Reader;

/// How long an answer may take on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// As many items as a page may have.
const PAGE_MAX: i32 = 1_000;

/// What to read.
pub(super) enum Question {
    Account(GetAccountRequest),
    Events(ListAccountEventsRequest),
    Bank {
        min_position: Option<i64>,
    },
    Stats {
        min_position: Option<i64>,
    },
    /// The accounts of the bank, one by one, as they were at one position.
    Sum {
        account_ids: Vec<String>,
        position: i64,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Reads {
    shared: Arc<Shared>,
    reader: Reader,
}

impl Reads {
    pub(super) fn new(shared: Arc<Shared>, channel: Channel) -> Self {
        Self { shared, reader: Reader::new(channel) }
    }

    /// Reads once. `None` when no answer came.
    pub(super) async fn ask(&mut self, question: Question) -> Option<Vec<Operation>> {
        let called = self.shared.clock.now();
        let answer = match question {
            Question::Sum { account_ids, position } => {
                return self.sum(called, account_ids, position).await;
            }
            Question::Account(request) => timeout(ANSWER_WITHIN, self.account(request)).await,
            Question::Events(request) => timeout(ANSWER_WITHIN, self.events(request)).await,
            Question::Bank { min_position } => {
                timeout(ANSWER_WITHIN, self.accounts(bank(min_position))).await
            }
            Question::Stats { min_position } => {
                timeout(ANSWER_WITHIN, self.stats(min_position)).await
            }
        };
        let deed = match answer.expect("an answer comes in time") {
            Ok(deed) => deed,
            Err(status) if is_broken(&status) => return None,
            Err(status) => panic!("a read was refused: {status:?}"),
        };
        Some(vec![self.shared.note(called, true, deed)])
    }

    /// Every account, page by page.
    pub(super) async fn everything(&mut self) -> Vec<Operation> {
        let mut request = ListAccountsRequest { page_size: PAGE_MAX, ..Default::default() };
        let mut operations = Vec::new();
        loop {
            let called = self.shared.clock.now();
            let page = self.reader.list_accounts(request.clone()).await;
            let page = page.expect("accounts can be listed").into_inner();
            let next = page.next_page_token;
            let (told, position) = (page.accounts, page.position);
            let deed = Deed::Accounts { request: request.clone(), told, position };
            operations.push(self.shared.note(called, true, deed));
            if next.is_empty() {
                return operations;
            }
            request.page_token = next;
        }
    }

    async fn account(&mut self, request: GetAccountRequest) -> Result<Deed, Status> {
        let told = match self.reader.get_account(request.clone()).await {
            Ok(response) => {
                let response = response.into_inner();
                self.shared.see(response.position);
                Some((response.account.expect("an account is told"), response.position))
            }
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(status),
        };
        Ok(Deed::Account { request, told })
    }

    async fn accounts(&mut self, request: ListAccountsRequest) -> Result<Deed, Status> {
        let response = self.reader.list_accounts(request.clone()).await?.into_inner();
        self.shared.see(response.position);
        Ok(Deed::Accounts { request, told: response.accounts, position: response.position })
    }

    async fn events(&mut self, request: ListAccountEventsRequest) -> Result<Deed, Status> {
        let response = self.reader.list_account_events(request.clone()).await?.into_inner();
        let (version, position) = (response.version, response.position);
        Ok(Deed::Events { request, told: response.events, version, position })
    }

    async fn stats(&mut self, min_position: Option<i64>) -> Result<Deed, Status> {
        let response = self.reader.get_stats(GetStatsRequest { min_position }).await?.into_inner();
        let (account_count, position) = (response.account_count, response.position);
        assert_eq!(response.event_count, position, "positions count events");
        Ok(Deed::Stats { min_position, account_count, position })
    }

    async fn sum(&self, called: u64, ids: Vec<String>, position: i64) -> Option<Vec<Operation>> {
        let reads = ids.into_iter().map(async |account_id| {
            let as_of = Some(AsOf::AsOfPosition(position));
            let request = GetAccountRequest { account_id, as_of, min_position: None };
            let (mut reads, called) = (self.clone(), self.shared.clock.now());
            match timeout(ANSWER_WITHIN, reads.account(request)).await {
                Ok(Ok(deed)) => Some(self.shared.note(called, true, deed)),
                Ok(Err(status)) if is_broken(&status) => None,
                other => panic!("a read of an earlier moment was answered {other:?}"),
            }
        });
        let mut operations = join_all(reads).await.into_iter().collect::<Option<Vec<_>>>()?;
        let held = operations.iter().map(|operation| match &operation.deed {
            Deed::Account { told: Some((account, _)), .. } => account.balance_minor,
            _ => 0,
        });
        let sum = held.sum();
        operations.push(self.shared.note(called, true, Deed::Sum { position, sum }));
        Some(operations)
    }
}

fn bank(min_position: Option<i64>) -> ListAccountsRequest {
    let (owner, page_size) = (BANK.to_owned(), PAGE_MAX);
    ListAccountsRequest { owner, page_size, min_position, ..Default::default() }
}

/// Whether a status says that the connection broke, and nothing of the server's.
fn is_broken(status: &Status) -> bool {
    status.details().is_empty()
}

/// That money which only moves is always the same, whenever it is summed up. Gives how often it
/// was.
///
/// # Errors
/// Another sum.
pub(super) fn check_sums(
    history: &[Operation],
    total: i64,
    in_flight: impl Fn(i64) -> i64,
) -> Result<usize, String> {
    let mut sums = 0;
    for operation in history {
        let held = match &operation.deed {
            Deed::Accounts { request, told, .. } if request.owner == BANK => {
                told.iter().map(|account: &Account| account.balance_minor).sum()
            }
            Deed::Sum { position, sum } => sum + in_flight(*position),
            _ => continue,
        };
        if held != total {
            return Err(format!("the bank holds {held} and not {total}: {operation:?}"));
        }
        sums += 1;
    }
    Ok(sums)
}
