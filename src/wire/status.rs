//! Statuses: the one place where refusals and failures become what a client sees.
//!
//! Every status carries an `ErrorInfo` of the domain `daybook` with a reason in capitals; clients
//! act on code and reason, people read the message.

#![expect(clippy::needless_pass_by_value, reason = "what is told may be a value or a reference")]

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};
use tracing::error;

use super::meter::Reason;
use crate::{
    access::Exceeded,
    domain::{AccountId, Refusal, SagaId, TransferError},
    event_store::{Failure, HistoryError},
    log::ReadError,
    proto::TOO_MANY_FIELDS,
    views::{AsOfError, BehindError, SagaView},
};

/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "daybook";
/// How many violations are told: as many as any request has fields. Each item of a list may be
/// wrong, but clients take trailers of a few kilobytes only, and lose the whole status with larger
/// ones.
const VIOLATIONS_MAX: usize = 20;
/// When to try again what was refused for lack of a place: by then a few groups have passed.
const RETRY_OVERLOAD: Duration = Duration::from_millis(50);
/// When to try again what waits for an operator or a restart.
const RETRY_OUTAGE: Duration = Duration::from_secs(1);

/// The reasons of calls that are not let in; the audit tells them as well.
pub(super) const CREDENTIALS_MISSING: &str = "CREDENTIALS_MISSING";
/// What was shown is nobody's.
pub(super) const CREDENTIALS_INVALID: &str = "CREDENTIALS_INVALID";
/// There is too much of something now.
pub(super) const OVERLOADED: &str = "OVERLOADED";
/// The role is not enough.
pub(super) const ROLE_INSUFFICIENT: &str = "ROLE_INSUFFICIENT";
/// An account is somebody else's.
pub(super) const ACCOUNT_NOT_ALLOWED: &str = "ACCOUNT_NOT_ALLOWED";

/// A status in the making.
struct Report {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
}

impl Report {
    fn new(code: Code, reason: &'static str, message: impl ToString) -> Self {
        let (metadata, details) = (HashMap::new(), ErrorDetails::new());
        Self { code, reason, message: message.to_string(), metadata, details }
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// A precondition that `subject` does not meet.
    fn precondition(mut self, subject: impl ToString) -> Self {
        let (reason, message) = (self.reason, self.message.clone());
        self.details.add_precondition_failure_violation(reason, subject.to_string(), message);
        self
    }

    fn resource(mut self, kind: &str, name: impl ToString) -> Self {
        self.details.set_resource_info(kind, name.to_string(), "", self.message.clone());
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.details.set_retry_info(Some(after));
        self
    }

    fn finish(mut self) -> Status {
        self.details.set_error_info(self.reason, DOMAIN, self.metadata);
        let mut status = Status::with_error_details(self.code, self.message, self.details);
        status.set_source(Arc::new(Reason(self.reason)));
        status
    }
}

/// UNAUTHENTICATED: the call shows no credentials.
pub(super) fn credentials_missing() -> Status {
    let message = "credentials are required";
    Report::new(Code::Unauthenticated, CREDENTIALS_MISSING, message).finish()
}

/// UNAUTHENTICATED: the credentials are nobody's. It is not said why.
pub(super) fn credentials_invalid() -> Status {
    let message = "the credentials are not valid";
    Report::new(Code::Unauthenticated, CREDENTIALS_INVALID, message).finish()
}

/// RESOURCE_EXHAUSTED: too many tokens with a wrong signature came over the connection.
pub(super) fn too_many_attempts() -> Status {
    let message = "too many tokens with a wrong signature came over this connection";
    Report::new(Code::ResourceExhausted, OVERLOADED, message).retry(RETRY_OVERLOAD).finish()
}

/// PERMISSION_DENIED: the method is not for the caller's role.
pub(super) fn role_insufficient() -> Status {
    let message = "the caller's role may not call this method";
    Report::new(Code::PermissionDenied, ROLE_INSUFFICIENT, message).finish()
}

/// PERMISSION_DENIED: the caller may not touch or see all the accounts that the call is about. The
/// same whether or not they exist.
pub(super) fn account_not_allowed() -> Status {
    let message = "the caller is limited to other accounts";
    Report::new(Code::PermissionDenied, ACCOUNT_NOT_ALLOWED, message).finish()
}

/// RESOURCE_EXHAUSTED: the caller's principal has taken all that it may.
pub(super) fn quota_exceeded(exceeded: Exceeded) -> Status {
    Report::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", exceeded)
        .with("quota", exceeded.quota)
        .with("limit", exceeded.limit)
        .retry(exceeded.retry)
        .finish()
}

/// INVALID_ARGUMENT with all violations at once; of very many, the first ones.
pub(super) fn invalid(mut violations: Vec<FieldViolation>) -> Status {
    let untold = violations.len().saturating_sub(VIOLATIONS_MAX);
    violations.truncate(VIOLATIONS_MAX);
    let mut told: Vec<String> = violations
        .iter()
        .map(|violation| format!("{} {}", violation.field, violation.description))
        .collect();
    if untold > 0 {
        told.push(format!("and {untold} more"));
    }
    let mut report = Report::new(Code::InvalidArgument, "INVALID_FIELDS", told.join("; "));
    report.details.set_bad_request(violations);
    report.finish()
}

/// INVALID_ARGUMENT: a request that is no call of gRPC.
pub(super) fn not_a_call(field: &str, description: &str) -> Status {
    invalid(vec![FieldViolation::new(field, description)])
}

/// INVALID_ARGUMENT: the id was used for another command.
pub(super) fn request_id_reused(request_id: impl ToString) -> Status {
    let message = "request_id was used before for another command";
    let mut report = Report::new(Code::InvalidArgument, "REQUEST_ID_REUSED", message)
        .with("request_id", request_id);
    report.details.add_bad_request_violation("request_id", "was used before for another command");
    report.finish()
}

/// NOT_FOUND: no such account.
pub(super) fn account_not_found(account_id: AccountId) -> Status {
    refused(&Refusal::AccountNotFound { account_id })
}

/// NOT_FOUND: no such saga.
pub(super) fn saga_not_found(saga_id: SagaId) -> Status {
    let message = format!("saga {saga_id} does not exist");
    Report::new(Code::NotFound, "SAGA_NOT_FOUND", message)
        .with("saga_id", saga_id)
        .resource("daybook.v1.Saga", saga_id)
        .finish()
}

/// OUT_OF_RANGE: the log does not reach so far.
pub(super) fn beyond_head(field: &str, head: u64) -> Status {
    let message = format!("{field} lies beyond the head of the log");
    Report::new(Code::OutOfRange, "BEYOND_HEAD", message).with("head_position", head).finish()
}

/// OUT_OF_RANGE: a time that has not come yet, by the server's clock.
pub(super) fn not_yet(field: &str, now_micros: i64, head: u64) -> Status {
    let message = format!("{field} has not come yet: wait until the server's clock has reached it");
    Report::new(Code::OutOfRange, "BEYOND_HEAD", message)
        .with("head_position", head)
        .with("server_time_micros", now_micros)
        .finish()
}

/// OUT_OF_RANGE: the account has not so many events.
fn beyond_version(account_id: AccountId, version: u64) -> Status {
    let message = format!("as_of_version lies beyond version {version} of account {account_id}");
    Report::new(Code::OutOfRange, "BEYOND_VERSION", message)
        .with("account_id", account_id)
        .with("actual_version", version)
        .finish()
}

/// NOT_FOUND: the account was opened later.
fn not_open_then(account_id: AccountId) -> Status {
    let message = format!("account {account_id} was not open then");
    Report::new(Code::NotFound, "ACCOUNT_NOT_FOUND", message)
        .with("account_id", account_id)
        .resource("daybook.v1.Account", account_id)
        .finish()
}

/// DEADLINE_EXCEEDED: the position has not come in time.
pub(super) fn position_not_reached(position: u64) -> Status {
    let message = format!("position {position} was not reached in time");
    Report::new(Code::DeadlineExceeded, "POSITION_NOT_REACHED", message)
        .with("min_position", position)
        .finish()
}

/// DEADLINE_EXCEEDED: the caller waits no longer.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the deadline has passed; a command that was sent may have been carried out";
    Report::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).finish()
}

/// RESOURCE_EXHAUSTED: a message is larger than any that is read.
pub(super) fn message_too_large(bytes_max: usize) -> Status {
    let message = format!("a message may have at most {bytes_max} bytes");
    Report::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
        .with("limit_bytes", bytes_max)
        .finish()
}

/// RESOURCE_EXHAUSTED: there are as many tails as there may be.
pub(super) fn too_many_tails() -> Status {
    let message = "there are as many tails as the server takes";
    Report::new(Code::ResourceExhausted, "TOO_MANY_TAILS", message).retry(RETRY_OUTAGE).finish()
}

/// RESOURCE_EXHAUSTED: there are as many streams of other kinds as there may be.
pub(super) fn too_many_streams() -> Status {
    let message = "there are as many streams as the server takes";
    Report::new(Code::ResourceExhausted, "TOO_MANY_STREAMS", message).retry(RETRY_OUTAGE).finish()
}

/// UNAVAILABLE: the ledger is still being recovered.
pub(super) fn starting() -> Status {
    let message = "the ledger is being recovered";
    Report::new(Code::Unavailable, "STARTING", message).retry(RETRY_OUTAGE).finish()
}

/// UNAVAILABLE: the ledger is another process's, and the call was not sent there.
pub(super) fn not_owner(owner: &str) -> Status {
    let message = "the ledger is another server's, and the call cannot be passed on to it";
    Report::new(Code::Unavailable, "NOT_OWNER", message)
        .with("owner", owner)
        .retry(RETRY_OUTAGE)
        .finish()
}

/// What a read is answered with that only the owner of the ledger can answer. No caller is told:
/// the read is passed on.
pub(super) fn for_the_owner() -> Status {
    let mut status = starting();
    status.set_source(Arc::new(ForTheOwner));
    status
}

/// Whether a read was answered so.
pub(super) fn is_for_the_owner(status: &Status) -> bool {
    status.source().is_some_and(<dyn Error>::is::<ForTheOwner>)
}

#[derive(Debug, thiserror::Error)]
#[error("only the owner of the ledger can answer")]
struct ForTheOwner;

/// UNAVAILABLE: the call was sent to the process that the ledger is of, and has no answer.
pub(super) fn owner_unreachable(owner: &str) -> Status {
    let message = "the outcome is unknown: the server that the ledger is of does not answer; \
                   repeat with the same request_id";
    Report::new(Code::Unavailable, "OWNER_UNREACHABLE", message)
        .with("owner", owner)
        .retry(RETRY_OUTAGE)
        .finish()
}

/// UNAVAILABLE: the server stops; a stream goes on elsewhere from where it was.
pub(crate) fn stopping() -> Status {
    failed(Failure::Stopping)
}

/// INTERNAL: we broke a rule of our own. What it was is in the log of the process.
pub(super) fn internal(what: &str) -> Status {
    error!(what, "an internal error");
    Report::new(Code::Internal, "INTERNAL", "an internal error").finish()
}

/// INTERNAL: a defect of ours panicked, which the log of the process has told already.
pub(super) fn panicked() -> Status {
    Report::new(Code::Internal, "INTERNAL", "an internal error").finish()
}

/// Why what a client has sent is no message. gRPC has INTERNAL for that, and it is not ours.
pub(super) const MESSAGE_MALFORMED: &str = "MESSAGE_MALFORMED";

/// What a client sees of an error that the transport found in what it sent, where a message may
/// have so many bytes.
pub(super) fn of_transport(status: Status, bytes_max: usize) -> Status {
    let code = status.code();
    // Ours always have details; without them it is the transport's own word.
    let (reason, message) = if !status.details().is_empty() {
        return status;
    } else if code == Code::OutOfRange && status.message() == TOO_MANY_FIELDS {
        return Report::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", TOO_MANY_FIELDS).finish();
    } else if code == Code::OutOfRange {
        return message_too_large(bytes_max);
    } else if code == Code::Internal {
        (MESSAGE_MALFORMED, "the message is none of the method, or not whole")
    } else if code != Code::Unimplemented {
        return status;
    } else if status.message().is_empty() {
        ("METHOD_UNKNOWN", "there is no such method")
    } else {
        ("COMPRESSION_UNSUPPORTED", "messages must not be compressed")
    };
    Report::new(code, reason, message).finish()
}

/// What a refused command is answered with.
pub(super) fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::AccountNotFound { account_id } => {
            Report::new(Code::NotFound, "ACCOUNT_NOT_FOUND", refusal)
                .with("account_id", account_id)
                .resource("daybook.v1.Account", account_id)
        }
        Refusal::AccountExists { account_id } => {
            Report::new(Code::AlreadyExists, "ACCOUNT_EXISTS", refusal)
                .with("account_id", account_id)
                .resource("daybook.v1.Account", account_id)
        }
        Refusal::SagaExists { saga_id } => Report::new(Code::AlreadyExists, "SAGA_EXISTS", refusal)
            .with("saga_id", saga_id)
            .resource("daybook.v1.Saga", saga_id),
        Refusal::VersionMismatch { account_id, expected, actual } => {
            Report::new(Code::Aborted, "VERSION_MISMATCH", refusal)
                .with("account_id", account_id)
                .with("expected_version", expected)
                .with("actual_version", actual)
        }
        Refusal::AccountClosed { account_id } => unmet("ACCOUNT_CLOSED", refusal, *account_id),
        Refusal::InsufficientFunds { account_id } => {
            unmet("INSUFFICIENT_FUNDS", refusal, *account_id)
        }
        Refusal::BalanceNotZero { account_id, balance: _ } => {
            unmet("BALANCE_NOT_ZERO", refusal, *account_id)
        }
        Refusal::TransferPending { account_id } => unmet("TRANSFER_PENDING", refusal, *account_id),
        Refusal::CurrencyMismatch { from, to } => {
            unmet("CURRENCY_MISMATCH", refusal, *from).with("to_account_id", to)
        }
        Refusal::BalanceLimit { account_id } => unmet("BALANCE_LIMIT", refusal, *account_id),
        Refusal::AccountLimit => Report::new(Code::ResourceExhausted, "ACCOUNT_LIMIT", refusal),
    }
    .finish()
}

fn unmet(reason: &'static str, refusal: &Refusal, account_id: AccountId) -> Report {
    Report::new(Code::FailedPrecondition, reason, refusal)
        .with("account_id", account_id)
        .precondition(account_id)
}

/// What a transfer that began and failed is answered with.
pub(super) fn transfer_failed(saga: &SagaView, error: TransferError, replayed: bool) -> Status {
    let (account_id, what) = match error {
        TransferError::InsufficientFunds => (saga.from, "has insufficient funds"),
        TransferError::DestinationNotFound => (saga.to, "does not exist"),
        TransferError::DestinationClosed => (saga.to, "is closed"),
        TransferError::BalanceLimit => (saga.to, "would exceed 10^15 minor units"),
    };
    let message = format!("transfer {} failed: account {account_id} {what}", saga.id);
    Report::new(Code::FailedPrecondition, error.name(), message)
        .with("account_id", account_id)
        .with("saga_id", saga.id)
        .with("position", saga.position)
        .with("replayed", replayed)
        .precondition(account_id)
        .finish()
}

/// What commands without an outcome are answered with.
pub(super) fn failed(failure: Failure) -> Status {
    match failure {
        Failure::Overloaded => {
            Report::new(Code::ResourceExhausted, OVERLOADED, failure).retry(RETRY_OVERLOAD)
        }
        Failure::NoRoom => Report::new(Code::Unavailable, "LOG_FULL", failure).retry(RETRY_OUTAGE),
        Failure::Unreachable => {
            Report::new(Code::Unavailable, "LOG_UNREACHABLE", failure).retry(RETRY_OUTAGE)
        }
        Failure::Latched => {
            let message = "the outcome is unknown: repeat with the same request_id";
            Report::new(Code::Unavailable, "LOG_FAILED", message).retry(RETRY_OUTAGE)
        }
        Failure::Damaged => Report::new(Code::DataLoss, "LOG_DAMAGED", failure),
        Failure::Stopping => {
            Report::new(Code::Unavailable, "STOPPING", failure).retry(RETRY_OUTAGE)
        }
    }
    .finish()
}

/// What a read that the log could not serve is answered with.
pub(super) fn unreadable(failure: &HistoryError) -> Status {
    error!(%failure, "the log could not serve a read");
    match failure {
        HistoryError::Log(ReadError::Io(_)) => {
            Report::new(Code::Unavailable, "LOG_UNREADABLE", "the log cannot be read now")
                .retry(RETRY_OUTAGE)
        }
        HistoryError::Log(ReadError::Damaged(damage)) => {
            Report::new(Code::DataLoss, "LOG_DAMAGED", "the log is damaged there")
                .with("position", damage.position)
        }
        HistoryError::Malformed(_) | HistoryError::Missing(_) => {
            Report::new(Code::DataLoss, "LOG_DAMAGED", "the log is damaged there")
        }
    }
    .finish()
}

/// DATA_LOSS: what was asked for may lie behind the damage that the log ends with.
pub(super) fn behind_damage(head: u64) -> Status {
    Report::new(Code::DataLoss, "LOG_DAMAGED", "the log is damaged, and ends before that")
        .with("position", head.saturating_add(1))
        .finish()
}

/// UNAVAILABLE: another process may own the log, and know more of it.
pub(super) fn not_current() -> Status {
    let message = "what is known here may not be the newest: the log may have another owner";
    Report::new(Code::Unavailable, "LOG_UNREACHABLE", message).retry(RETRY_OUTAGE).finish()
}

/// UNAVAILABLE: the log has failed, and what it had last is unknown until a restart.
pub(super) fn not_settled() -> Status {
    let message = "the log has failed: what it had last is unknown until a restart";
    Report::new(Code::Unavailable, "LOG_FAILED", message).retry(RETRY_OUTAGE).finish()
}

/// What a read is answered with for which the views are not far enough: DATA_LOSS when they have
/// met what cannot be.
pub(super) fn views_behind(behind: BehindError) -> Status {
    match behind {
        BehindError::Failed => Report::new(Code::DataLoss, "LOG_DAMAGED", behind),
        BehindError::Unreadable => {
            Report::new(Code::Unavailable, "LOG_UNREADABLE", behind).retry(RETRY_OUTAGE)
        }
    }
    .finish()
}

/// What a read of an earlier moment is answered with when it has no answer.
pub(super) fn not_as_of(failure: &AsOfError, account_id: AccountId) -> Status {
    match failure {
        AsOfError::Beyond { version } => beyond_version(account_id, *version),
        AsOfError::BeforeOpening => not_open_then(account_id),
        AsOfError::History(failure) => unreadable(failure),
        AsOfError::Inconsistent(_) => internal("an entry does not follow on its own account"),
    }
}
