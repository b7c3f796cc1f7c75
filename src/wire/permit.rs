//! Permits: which accounts a request touches or shows, and whether its caller may.
//!
//! Asked before the fields of a request are checked. A caller that is limited to accounts learns
//! nothing of others: what it may not touch, what does not exist and what is no id are all the
//! same to it.

use tonic::Request;
use tonic::Status;

use super::entrance::{Visit, visit};
use crate::{
    domain::AccountId,
    proto::{self, batch_command::Command as Kind},
};

/// What a request touches or shows.
pub(super) enum Touched<'a> {
    /// These accounts.
    Accounts(Vec<&'a str>),
    /// Accounts that it does not name.
    Any,
    /// What only the log says: it is found out later, with [`may_see_one`].
    Unknown,
}

/// A request that touches or shows accounts.
pub(super) trait Touches {
    fn touched(&self) -> Touched<'_>;
}

/// That the caller of a request may touch what it touches.
///
/// # Errors
/// PERMISSION_DENIED.
pub(super) fn check<R: Touches>(request: &Request<R>) -> Result<(), Status> {
    check_of(visit(request), request.get_ref())
}

/// As [`check`], for a part of a request.
pub(super) fn check_of(visit: Option<&Visit>, touches: &impl Touches) -> Result<(), Status> {
    let Some(visit) = visit.filter(|visit| visit.caller().is_limited()) else { return Ok(()) };
    if may_touch(visit, touches) { Ok(()) } else { Err(visit.account_not_allowed()) }
}

/// Whether the caller may touch what this touches.
pub(super) fn may_touch(visit: &Visit, touches: &impl Touches) -> bool {
    if !visit.caller().is_limited() {
        return true;
    }
    let is_allowed = |text: &&str| {
        AccountId::parse(text).is_ok_and(|account_id| visit.caller().may_touch(account_id))
    };
    match touches.touched() {
        Touched::Accounts(accounts) => !accounts.is_empty() && accounts.iter().all(is_allowed),
        Touched::Any => false,
        Touched::Unknown => true,
    }
}

/// That the caller may see one of these accounts, of which there are none if what it asked for does
/// not exist.
///
/// # Errors
/// PERMISSION_DENIED.
pub(super) fn may_see_one(visit: Option<&Visit>, accounts: &[AccountId]) -> Result<(), Status> {
    match visit.filter(|visit| visit.caller().is_limited()) {
        Some(visit) if !accounts.iter().any(|id| visit.caller().may_touch(*id)) => {
            Err(visit.account_not_allowed())
        }
        Some(_) | None => Ok(()),
    }
}

/// Requests that touch the one account that they name. One that names none would touch any.
macro_rules! touch_one {
    ($($request:ident),*) => {$(
        impl Touches for proto::$request {
            fn touched(&self) -> Touched<'_> {
                Touched::Accounts(vec![&self.account_id])
            }
        }
    )*};
}

touch_one!(
    OpenAccountRequest,
    DepositMoneyRequest,
    WithdrawMoneyRequest,
    CloseAccountRequest,
    GetAccountRequest,
    ListAccountEventsRequest,
    ListTransactionsRequest,
    ListSagasRequest
);

impl Touches for proto::TransferMoneyRequest {
    fn touched(&self) -> Touched<'_> {
        Touched::Accounts(vec![&self.from_account_id, &self.to_account_id])
    }
}

impl Touches for proto::TailEventsRequest {
    fn touched(&self) -> Touched<'_> {
        Touched::Accounts(self.account_ids.iter().map(String::as_str).collect())
    }
}

impl Touches for proto::ListAccountsRequest {
    fn touched(&self) -> Touched<'_> {
        Touched::Any
    }
}

impl Touches for proto::GetStatsRequest {
    fn touched(&self) -> Touched<'_> {
        Touched::Any
    }
}

impl Touches for proto::GetSagaRequest {
    fn touched(&self) -> Touched<'_> {
        Touched::Unknown
    }
}

impl Touches for proto::BatchCommand {
    fn touched(&self) -> Touched<'_> {
        match &self.command {
            Some(Kind::OpenAccount(request)) => request.touched(),
            Some(Kind::DepositMoney(request)) => request.touched(),
            Some(Kind::WithdrawMoney(request)) => request.touched(),
            Some(Kind::TransferMoney(request)) => request.touched(),
            Some(Kind::CloseAccount(request)) => request.touched(),
            // Nothing, and it is refused for that.
            None => Touched::Unknown,
        }
    }
}
