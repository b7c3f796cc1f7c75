//! Parsing: requests become commands and questions, or a list of all that is wrong with them.

use std::{fmt::Display, ops::RangeInclusive};

use prost_types::Timestamp;
use tonic::Status;
use tonic_types::FieldViolation;
use uuid::Uuid;

use super::status;
use crate::domain::{
    AMOUNT_MAX_MINOR, AccountId, Action, Amount, Balance, Command, CurrencyCode, Owner, Parties,
    Reason, RequestId, SagaId,
};
use crate::proto;

/// From when to when a time may be, in seconds since 1970: the years 1 to 9999, as a Timestamp.
const TIME_SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// How many items a page has when the caller does not say.
const PAGE_SIZE_DEFAULT: usize = 50;
/// How many items a page has at most: it keeps answers well below the message limit.
const PAGE_SIZE_MAX: usize = 1_000;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes what is wrong with a field, if something is.
    pub(super) fn check<T>(&mut self, field: &str, value: Result<T, impl Display>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.note(field, wrong);
                None
            }
        }
    }

    /// Notes what is wrong with a field.
    pub(super) fn note(&mut self, field: &str, wrong: impl Display) {
        self.0.push(FieldViolation::new(field, wrong.to_string()));
    }

    /// All that was noted, as a status.
    pub(super) fn status(self) -> Status {
        status::invalid(self.0)
    }

    /// The request's parts, if nothing was noted.
    pub(super) fn finish<T>(self, parts: Option<T>) -> Result<T, Status> {
        match parts {
            Some(parts) if self.0.is_empty() => Ok(parts),
            Some(_) | None => Err(self.status()),
        }
    }

    pub(super) fn account_id(&mut self, field: &str, text: &str) -> Option<AccountId> {
        self.check(field, AccountId::parse(text))
    }

    /// An id that may be left out.
    pub(super) fn optional<T, E: Display>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { self.check(field, parse(text)).map(Some) }
    }

    fn amount(&mut self, minor: i64) -> Option<Amount> {
        let wrong = || format!("must be 1 to {AMOUNT_MAX_MINOR}");
        self.check("amount_minor", Amount::new(minor).ok_or_else(wrong))
    }

    fn reason(&mut self, text: &str) -> Option<Reason> {
        self.check("reason", Reason::new(text))
    }

    fn request_id(&mut self, text: &str) -> Option<Option<RequestId>> {
        self.optional("request_id", text, RequestId::parse)
    }

    /// A count that may be left out and must not be negative.
    pub(super) fn count(&mut self, field: &str, count: Option<i64>) -> Option<Option<u64>> {
        let count = count.map(|count| u64::try_from(count).map_err(|_| "must be 0 or above"));
        self.check(field, count.transpose())
    }

    pub(super) fn page_size(&mut self, size: i32) -> Option<usize> {
        let size = usize::try_from(size).map_err(|_| "must be 0 or above");
        match self.check("page_size", size)? {
            0 => Some(PAGE_SIZE_DEFAULT),
            size => Some(size.min(PAGE_SIZE_MAX)),
        }
    }

    /// A time as microseconds since 1970 UTC.
    pub(super) fn time(&mut self, field: &str, time: &Timestamp) -> Option<i64> {
        let micros = || {
            let nanos =
                i64::from(u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?);
            let seconds = Some(time.seconds).filter(|seconds| TIME_SECONDS.contains(seconds))?;
            seconds.checked_mul(1_000_000)?.checked_add(nanos / 1_000)
        };
        let wrong = "must be a time of the years 1 to 9999, with 0 to 999,999,999 nanos";
        self.check(field, micros().ok_or(wrong))
    }

    /// A value of an enum that stands for a choice; unspecified is none.
    pub(super) fn choice<P: TryFrom<i32>, T>(
        &mut self,
        field: &str,
        number: i32,
        known: impl Fn(P) -> Option<T>,
    ) -> Option<Option<T>> {
        let value = P::try_from(number).map_err(|_| "must be a known value");
        self.check(field, value).map(known)
    }
}

/// INVALID_ARGUMENT for one field.
pub(super) fn invalid(field: &str, wrong: impl Display) -> Status {
    let mut violations = Violations::default();
    violations.note(field, wrong);
    violations.status()
}

/// The command that opens an account. Makes the account's id if the caller gave none.
pub(super) fn open_account(request: &proto::OpenAccountRequest) -> Result<Command, Status> {
    let mut wrong = Violations::default();
    let id = wrong.optional("account_id", &request.account_id, AccountId::parse);
    let owner = wrong.check("owner", Owner::new(&request.owner));
    let currency = match request.currency_code.as_str() {
        "" => Some(CurrencyCode::USD),
        code => wrong.check(
            "currency_code",
            CurrencyCode::parse(code).ok_or("must be 3 to 10 upper-case letters"),
        ),
    };
    let balance = Balance::new(request.initial_balance_minor);
    let balance = balance.ok_or_else(|| format!("must be 0 to {AMOUNT_MAX_MINOR}"));
    let balance = wrong.check("initial_balance_minor", balance);
    let request_id = wrong.request_id(&request.request_id);
    let version = wrong.count("expected_version", request.expected_version);
    let parts = (|| Some((id?, owner?, currency?, balance?, request_id?, version?)))();
    let (id, owner, currency, initial_balance, request_id, expected_version) =
        wrong.finish(parts)?;
    let action = Action::OpenAccount {
        account_id: id.unwrap_or_else(|| AccountId::new(Uuid::now_v7())),
        account_id_given: id.is_some(),
        owner,
        currency,
        initial_balance,
        expected_version,
    };
    Ok(Command { request_id, action })
}

/// The command that deposits money.
pub(super) fn deposit_money(request: &proto::DepositMoneyRequest) -> Result<Command, Status> {
    let mut wrong = Violations::default();
    let account_id = wrong.account_id("account_id", &request.account_id);
    let amount = wrong.amount(request.amount_minor);
    let reason = wrong.reason(&request.reason);
    let request_id = wrong.request_id(&request.request_id);
    let version = wrong.count("expected_version", request.expected_version);
    let parts = (|| Some((account_id?, amount?, reason?, request_id?, version?)))();
    let (account_id, amount, reason, request_id, expected_version) = wrong.finish(parts)?;
    let action = Action::DepositMoney { account_id, amount, reason, expected_version };
    Ok(Command { request_id, action })
}

/// The command that withdraws money.
pub(super) fn withdraw_money(request: proto::WithdrawMoneyRequest) -> Result<Command, Status> {
    let proto::WithdrawMoneyRequest { account_id, amount_minor, reason, .. } = request;
    let proto::WithdrawMoneyRequest { request_id, expected_version, .. } = request;
    let same_fields = proto::DepositMoneyRequest {
        account_id,
        amount_minor,
        reason,
        request_id,
        expected_version,
    };
    let Command { request_id, action } = deposit_money(&same_fields)?;
    let Action::DepositMoney { account_id, amount, reason, expected_version } = action else {
        unreachable!("a deposit was parsed")
    };
    let action = Action::WithdrawMoney { account_id, amount, reason, expected_version };
    Ok(Command { request_id, action })
}

/// The command that transfers money.
pub(super) fn transfer_money(request: &proto::TransferMoneyRequest) -> Result<Command, Status> {
    let mut wrong = Violations::default();
    let saga_id = wrong.optional("saga_id", &request.saga_id, SagaId::parse);
    let from = wrong.account_id("from_account_id", &request.from_account_id);
    let to = wrong.account_id("to_account_id", &request.to_account_id);
    let parties = from.zip(to).and_then(|(from, to)| {
        let parties = Parties::new(from, to).ok_or("must differ from from_account_id");
        wrong.check("to_account_id", parties)
    });
    let amount = wrong.amount(request.amount_minor);
    let reason = wrong.reason(&request.reason);
    let request_id = wrong.request_id(&request.request_id);
    let parts = (|| Some((saga_id?, parties?, amount?, reason?, request_id?)))();
    let (saga_id, parties, amount, reason, request_id) = wrong.finish(parts)?;
    let action = Action::TransferMoney { saga_id, parties, amount, reason };
    Ok(Command { request_id, action })
}

/// The command that closes an account.
pub(super) fn close_account(request: &proto::CloseAccountRequest) -> Result<Command, Status> {
    let mut wrong = Violations::default();
    let account_id = wrong.account_id("account_id", &request.account_id);
    let request_id = wrong.request_id(&request.request_id);
    let version = wrong.count("expected_version", request.expected_version);
    let parts = (|| Some((account_id?, request_id?, version?)))();
    let (account_id, request_id, expected_version) = wrong.finish(parts)?;
    Ok(Command { request_id, action: Action::CloseAccount { account_id, expected_version } })
}

/// A command of a batch.
pub(super) fn batch_command(command: proto::BatchCommand) -> Result<Command, Status> {
    use proto::batch_command::Command as Kind;
    match command.command {
        Some(Kind::OpenAccount(request)) => open_account(&request),
        Some(Kind::DepositMoney(request)) => deposit_money(&request),
        Some(Kind::WithdrawMoney(request)) => withdraw_money(request),
        Some(Kind::TransferMoney(request)) => transfer_money(&request),
        Some(Kind::CloseAccount(request)) => close_account(&request),
        None => Err(invalid("command", "must be set")),
    }
}
