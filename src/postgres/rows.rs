//! Events as rows, column by column: what people and their queries read.

use std::time::{Duration, SystemTime};

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::signed;
use crate::{
    domain::{Balance, COMPENSATION, Fact, RequestId},
    event_store::{Codec, Entry, Malformed, Numbered},
    log::Block,
};

/// The columns of the events of an append.
#[derive(Default)]
pub(super) struct Columns {
    positions: Vec<i64>,
    account_ids: Vec<Uuid>,
    versions: Vec<i64>,
    event_ids: Vec<Uuid>,
    types: Vec<&'static str>,
    times: Vec<SystemTime>,
    amounts: Vec<Option<i64>>,
    balances: Vec<Option<i64>>,
    owners: Vec<Option<String>>,
    currencies: Vec<Option<String>>,
    to_account_ids: Vec<Option<Uuid>>,
    saga_ids: Vec<Option<Uuid>>,
    errors: Vec<Option<&'static str>>,
    request_ids: Vec<Option<Uuid>>,
    principals: Vec<Option<String>>,
    reasons: Vec<Option<String>>,
}

impl Columns {
    /// Of the events in blocks.
    ///
    /// # Errors
    /// [`Malformed`] when a record is not an entry.
    pub(super) fn of<'a>(
        codec: &Codec,
        blocks: impl Iterator<Item = &'a Block>,
    ) -> Result<Self, Malformed> {
        let (mut columns, mut entry) = (Self::default(), Entry::default());
        for block in blocks {
            for record in block.records() {
                codec.decode_into(&record, &mut entry)?;
                for event in entry.numbered() {
                    columns.push(codec, &entry, &event);
                }
            }
        }
        Ok(columns)
    }

    /// How many events there are.
    pub(super) fn count(&self) -> usize {
        self.positions.len()
    }

    /// The columns, in the order of [`super::store::APPEND`].
    pub(super) fn values(&self) -> [&(dyn ToSql + Sync); 16] {
        [
            &self.positions,
            &self.account_ids,
            &self.versions,
            &self.event_ids,
            &self.types,
            &self.times,
            &self.amounts,
            &self.balances,
            &self.owners,
            &self.currencies,
            &self.to_account_ids,
            &self.saga_ids,
            &self.errors,
            &self.request_ids,
            &self.principals,
            &self.reasons,
        ]
    }

    fn push(&mut self, codec: &Codec, entry: &Entry, event: &Numbered<'_>) {
        self.positions.push(signed(event.position));
        self.account_ids.push(event.account.id.uuid());
        self.versions.push(signed(event.version));
        self.event_ids.push(codec.ids().at(event.position, entry.time_micros));
        self.times.push(time(entry.time_micros));
        self.saga_ids.push(entry.saga.map(|saga| saga.id.uuid()));
        self.request_ids.push(entry.request_id.map(RequestId::uuid));
        self.principals.push(entry.principal.as_ref().map(|name| name.as_str().to_owned()));
        let fact = Told::of(event.fact, &entry.reason);
        self.types.push(fact.name);
        self.amounts.push(fact.amount);
        self.balances.push(event.fact.balance_after().map(Balance::minor));
        self.owners.push(fact.owner);
        self.currencies.push(fact.currency);
        self.to_account_ids.push(fact.to);
        self.errors.push(fact.error);
        self.reasons.push(fact.reason.filter(|it| !it.is_empty()).map(str::to_owned));
    }
}

/// What a fact says in the columns that not every fact has a use for.
#[derive(Default)]
struct Told<'a> {
    name: &'static str,
    amount: Option<i64>,
    owner: Option<String>,
    currency: Option<String>,
    to: Option<Uuid>,
    error: Option<&'static str>,
    reason: Option<&'a str>,
}

impl<'a> Told<'a> {
    fn of(fact: &Fact, reason: &'a str) -> Self {
        let nothing = Self::default();
        match fact {
            Fact::AccountOpened { owner, currency, .. } => Self {
                name: "AccountOpened",
                owner: Some(owner.as_str().to_owned()),
                currency: Some(currency.to_string()),
                ..nothing
            },
            Fact::MoneyDeposited { amount, compensation, .. } => Self {
                name: "MoneyDeposited",
                amount: Some(amount.minor()),
                reason: Some(if *compensation { COMPENSATION } else { reason }),
                ..nothing
            },
            Fact::MoneyWithdrawn { amount, .. } => Self {
                name: "MoneyWithdrawn",
                amount: Some(amount.minor()),
                reason: Some(reason),
                ..nothing
            },
            Fact::TransferInitiated { to, amount } => Self {
                name: "TransferInitiated",
                amount: Some(amount.minor()),
                to: Some(to.uuid()),
                reason: Some(reason),
                ..nothing
            },
            Fact::TransferCompleted => Self { name: "TransferCompleted", ..nothing },
            Fact::TransferFailed { error } => {
                Self { name: "TransferFailed", error: Some(error.name()), ..nothing }
            }
            Fact::AccountClosed => Self { name: "AccountClosed", ..nothing },
        }
    }
}

/// A time of the log, which is never before 1970.
fn time(micros: i64) -> SystemTime {
    let since = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}
