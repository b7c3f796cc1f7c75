//! A small bank: commands over a few accounts, so that they meet each other.

use arbitrary::Arbitrary;
use daybook::{
    domain::{
        AccountId, Action, Amount, Balance, Command, CurrencyCode, Owner, Parties, Principal,
        Reason, RequestId, SagaId,
    },
    event_store::{Codec, Entry, EventIds, State, Verdict},
    log::{Group, LogId},
};
use uuid::Uuid;

/// The id of every log here.
pub const LOG_ID: LogId = [7; 16];
/// When everything happens: 2023-11-14 22:13:20 UTC.
pub const TIME_MICROS: i64 = 1_700_000_000_000_000;
/// How many accounts there may be.
pub const ACCOUNTS: u8 = 6;
/// How many sagas may have an id of their own.
pub const SAGAS: u8 = 4;
/// For how many positions request ids are remembered.
pub const REQUEST_ID_WINDOW: u64 = 1_024;

const CURRENCIES: [&str; 3] = ["USD", "USD", "EUR"];

/// A command, in few bytes. Some are refused.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs, reason = "as the commands of the domain")]
pub enum Step {
    Open { account: u8, owner: u8, currency: u8, minor: u32 },
    Deposit { account: u8, minor: u32, request: Option<u8>, expected: Option<u8> },
    Withdraw { account: u8, minor: u16, request: Option<u8> },
    Transfer { from: u8, to: u8, minor: u16, saga: Option<u8> },
    Close { account: u8 },
}

impl Step {
    /// The command; `None` when there is none, such as a transfer to oneself.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        let (request_id, action) = match *self {
            Self::Open { account, owner, currency, minor } => (None, {
                let currency = CURRENCIES[usize::from(currency) % CURRENCIES.len()];
                Action::OpenAccount {
                    account_id: account_id(account),
                    account_id_given: true,
                    owner: Owner::new(&format!("Owner {}", owner % 3)).ok()?,
                    currency: CurrencyCode::parse(currency)?,
                    initial_balance: Balance::new(minor.into())?,
                    expected_version: None,
                }
            }),
            Self::Deposit { account, minor, request, expected } => (request, {
                let (account_id, amount) = (account_id(account), Amount::new(minor.into())?);
                let expected_version = expected.map(u64::from);
                let reason = Reason::new("pay").ok()?;
                Action::DepositMoney { account_id, amount, reason, expected_version }
            }),
            Self::Withdraw { account, minor, request } => (request, {
                let (account_id, amount) = (account_id(account), Amount::new(minor.into())?);
                let (reason, expected_version) = (Reason::default(), None);
                Action::WithdrawMoney { account_id, amount, reason, expected_version }
            }),
            Self::Transfer { from, to, minor, saga } => (None, {
                let parties = Parties::new(account_id(from), account_id(to))?;
                let (amount, reason) = (Amount::new(minor.into())?, Reason::default());
                Action::TransferMoney { saga_id: saga.map(saga_id), parties, amount, reason }
            }),
            Self::Close { account } => (None, {
                Action::CloseAccount { account_id: account_id(account), expected_version: None }
            }),
        };
        Some(Command { request_id: request_id.map(new_request_id), action })
    }
}

/// The id of an account.
#[must_use]
pub fn account_id(number: u8) -> AccountId {
    AccountId::new(id(1, number % ACCOUNTS))
}

/// The id of a saga.
#[must_use]
pub fn saga_id(number: u8) -> SagaId {
    SagaId::new(id(2, number % SAGAS))
}

fn new_request_id(number: u8) -> RequestId {
    RequestId::new(id(3, number))
}

fn id(kind: u128, number: u8) -> Uuid {
    Uuid::from_u128(kind << 64 | u128::from(number))
}

/// The state of an empty log.
#[must_use]
pub fn state() -> State {
    State::new(Codec::new(EventIds::new(LOG_ID)), REQUEST_ID_WINDOW)
}

/// Decides commands and encodes what they record into one group, as the writer does. Those at odd
/// positions are a principal's.
///
/// # Panics
/// Never: the principal has a name that one can have.
#[must_use]
pub fn group_of(state: &mut State, steps: &[Step]) -> Group {
    let (mut group, mut entry) = (Group::new(state.next_position()), Entry::default());
    let codec = *state.codec();
    let caller = Principal::new("ada").expect("a name");
    for command in steps.iter().filter_map(Step::command) {
        let principal = (state.next_position() % 2 == 1).then_some(&caller);
        let verdict = state.decide(&command, principal, TIME_MICROS, &mut entry);
        if matches!(verdict, Verdict::Accepted) {
            let event_count = u32::try_from(entry.events.len()).unwrap_or(u32::MAX);
            group.push(event_count, |bytes| codec.encode(&entry, bytes));
        }
    }
    group
}
