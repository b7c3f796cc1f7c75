//! Requests: whatever comes in over the wire is carried out or refused with a status of the
//! caller's, nothing panics, and the money in the ledger is what the answers say.
#![no_main]

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use daybook::{
    proto::{
        BatchCommand, BatchMessage, CloseAccountRequest, DepositMoneyRequest, ExecuteBatchRequest,
        ExecuteBatchResponse, OpenAccountRequest, TransferMoneyRequest, WithdrawMoneyRequest,
        batch_command::Command, command_service_server::CommandService as _,
    },
    views::{AccountFilter, Books},
};
use daybook_fuzz::{
    has_canary,
    store::{Store, new_runtime},
};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use tonic::{Code, Request, Status};

/// How many calls there are at most, and how many commands a batch has.
const CALLS_MAX: usize = 12;
const BATCH_COMMANDS_MAX: usize = 16;
/// How many accounts are read at once.
const PAGE: usize = 1_000;

/// One call.
#[derive(Arbitrary, Debug)]
enum Call {
    One(Ask),
    Batch(Vec<Ask>, bool),
    /// The bytes of a message.
    Bytes(Kind, Box<[u8]>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Open,
    Deposit,
    Withdraw,
    Transfer,
    Close,
    Batch,
}

/// A request of one command.
#[derive(Arbitrary, Debug)]
enum Ask {
    Open { account: Id, owner: Text, currency: Text, minor: Minor, request: Id },
    Deposit { account: Id, minor: Minor, reason: Text, request: Id, version: Option<i8> },
    Withdraw { account: Id, minor: Minor, reason: Text, request: Id, version: Option<i8> },
    Transfer { saga: Id, from: Id, to: Id, minor: Minor, request: Id },
    Close { account: Id, request: Id },
}

/// The text of an id.
#[derive(Arbitrary, Debug)]
enum Id {
    None,
    Known(u8),
    Upper(u8),
    Any(u128),
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Text {
    Usual,
    Any(String),
    Long(u8, char),
}

#[derive(Arbitrary, Debug)]
enum Minor {
    Small(u8),
    Near(i8),
    Any(i64),
}

impl Id {
    fn text(&self) -> String {
        let uuid = |number: u128| uuid::Uuid::from_u128(number).to_string();
        match self {
            Self::None => String::new(),
            Self::Known(number) => uuid(0xabc0 + u128::from(number % 4)),
            Self::Upper(number) => uuid(0xabc0 + u128::from(number % 4)).to_uppercase(),
            Self::Any(number) => uuid(*number),
            Self::Text(text) => text.clone(),
        }
    }
}

impl Text {
    fn text(&self, usual: &str) -> String {
        match self {
            Self::Usual => usual.to_owned(),
            Self::Any(text) => text.clone(),
            Self::Long(count, letter) => letter.to_string().repeat(usize::from(*count) * 2),
        }
    }
}

impl Minor {
    fn minor(&self) -> i64 {
        match self {
            Self::Small(minor) => i64::from(*minor),
            Self::Near(off) => daybook::domain::AMOUNT_MAX_MINOR + i64::from(*off),
            Self::Any(minor) => *minor,
        }
    }
}

impl Ask {
    fn command(&self) -> Command {
        match self {
            Self::Open { account, owner, currency, minor, request } => {
                Command::OpenAccount(OpenAccountRequest {
                    account_id: account.text(),
                    owner: owner.text("Ada"),
                    currency_code: currency.text(""),
                    initial_balance_minor: minor.minor(),
                    request_id: request.text(),
                    expected_version: None,
                })
            }
            Self::Deposit { account, minor, reason, request, version } => {
                Command::DepositMoney(DepositMoneyRequest {
                    account_id: account.text(),
                    amount_minor: minor.minor(),
                    reason: reason.text(""),
                    request_id: request.text(),
                    expected_version: version.map(i64::from),
                })
            }
            Self::Withdraw { account, minor, reason, request, version } => {
                Command::WithdrawMoney(WithdrawMoneyRequest {
                    account_id: account.text(),
                    amount_minor: minor.minor(),
                    reason: reason.text(""),
                    request_id: request.text(),
                    expected_version: version.map(i64::from),
                })
            }
            Self::Transfer { saga, from, to, minor, request } => {
                Command::TransferMoney(TransferMoneyRequest {
                    saga_id: saga.text(),
                    from_account_id: from.text(),
                    to_account_id: to.text(),
                    amount_minor: minor.minor(),
                    reason: String::new(),
                    request_id: request.text(),
                })
            }
            Self::Close { account, request } => Command::CloseAccount(CloseAccountRequest {
                account_id: account.text(),
                request_id: request.text(),
                expected_version: None,
            }),
        }
    }
}

/// The money that there must be, as the answers say.
#[derive(Default)]
struct Money {
    minor: i128,
    /// The request ids of commands that were carried out: the next time they are repeats.
    request_ids: BTreeSet<String>,
}

impl Money {
    /// Notes that a command was carried out, now or before.
    fn note(&mut self, command: &Command) {
        let (request_id, minor) = match command {
            Command::OpenAccount(open) => (&open.request_id, open.initial_balance_minor),
            Command::DepositMoney(deposit) => (&deposit.request_id, deposit.amount_minor),
            // Planted: what is withdrawn is not counted.
            Command::WithdrawMoney(withdraw) if has_canary() => (&withdraw.request_id, 0),
            Command::WithdrawMoney(withdraw) => (&withdraw.request_id, -withdraw.amount_minor),
            Command::TransferMoney(_) | Command::CloseAccount(_) => return,
        };
        if request_id.is_empty() || self.request_ids.insert(request_id.to_lowercase()) {
            self.minor += i128::from(minor);
        }
    }
}

fuzz_target!(|calls: Vec<Call>| {
    let runtime = new_runtime();
    let (store, money) = runtime.block_on(async {
        let (store, mut money) = (Store::start(&[]), Money::default());
        for call in calls.iter().take(CALLS_MAX) {
            carry_out(&store, call, &mut money).await;
        }
        (store, money)
    });
    let books = store.stop();
    assert_eq!(held(&books), money.minor, "money was made or lost");
});

async fn carry_out(store: &Store, call: &Call, money: &mut Money) {
    match call {
        Call::One(ask) => execute(store, ask.command(), money).await,
        Call::Batch(asks, return_results) => {
            let commands = asks.iter().take(BATCH_COMMANDS_MAX).map(Ask::command);
            let commands = commands.map(|command| BatchCommand { command: Some(command) });
            let (commands, return_results) = (commands.collect(), *return_results);
            execute_batch(store, ExecuteBatchRequest { commands, return_results }, money).await;
        }
        Call::Bytes(Kind::Batch, bytes) => {
            if let Ok(request) = ExecuteBatchRequest::decode(&**bytes) {
                execute_batch(store, request, money).await;
            }
        }
        Call::Bytes(kind, bytes) => {
            if let Some(command) = decode(*kind, bytes) {
                execute(store, command, money).await;
            }
        }
    }
}

fn decode(kind: Kind, bytes: &[u8]) -> Option<Command> {
    fn message<M: Message + Default>(bytes: &[u8]) -> Option<M> {
        M::decode(bytes).ok()
    }
    match kind {
        Kind::Open => message(bytes).map(Command::OpenAccount),
        Kind::Deposit => message(bytes).map(Command::DepositMoney),
        Kind::Withdraw => message(bytes).map(Command::WithdrawMoney),
        Kind::Transfer => message(bytes).map(Command::TransferMoney),
        Kind::Close => message(bytes).map(Command::CloseAccount),
        Kind::Batch => None,
    }
}

async fn execute(store: &Store, command: Command, money: &mut Money) {
    let service = &store.commands;
    let done = match command.clone() {
        Command::OpenAccount(open) => service.open_account(Request::new(open)).await.map(drop),
        Command::DepositMoney(it) => service.deposit_money(Request::new(it)).await.map(drop),
        Command::WithdrawMoney(it) => service.withdraw_money(Request::new(it)).await.map(drop),
        Command::TransferMoney(it) => service.transfer_money(Request::new(it)).await.map(drop),
        Command::CloseAccount(it) => service.close_account(Request::new(it)).await.map(drop),
    };
    match done {
        Ok(()) => money.note(&command),
        Err(status) => check_status(&status),
    }
}

async fn execute_batch(store: &Store, request: ExecuteBatchRequest, money: &mut Money) {
    let message = BatchMessage::from(request.encode_to_vec());
    let answer = store.commands.execute_batch(Request::new(message)).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return check_status(&status),
    };
    let ExecuteBatchResponse { position: _, accepted_count, failures, results } = answer;
    let failed: BTreeSet<usize> =
        failures.iter().filter_map(|failure| usize::try_from(failure.index).ok()).collect();
    assert_eq!(failed.len(), failures.len(), "a command fails once");
    let accepted = request.commands.len() - failed.len();
    assert_eq!(usize::try_from(accepted_count), Ok(accepted));
    if request.return_results {
        assert_eq!(results.len(), accepted, "each accepted command has a result");
    }
    for failure in &failures {
        let code = failure.status.as_ref().map_or(0, |status| status.code);
        check_status(&Status::new(Code::from(code), "in a batch"));
    }
    for (index, command) in request.commands.iter().enumerate() {
        if let Some(command) = command.command.as_ref().filter(|_| !failed.contains(&index)) {
            money.note(command);
        }
    }
}

/// A status that says what is wrong with the request, or with the accounts as they are.
fn check_status(status: &Status) {
    let codes = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::FailedPrecondition,
        Code::Aborted,
    ];
    assert!(codes.contains(&status.code()), "{status:?}");
}

/// What all accounts hold.
fn held(books: &Books) -> i128 {
    let accounts = books.accounts(&AccountFilter::default(), 0, PAGE).accounts;
    accounts.iter().map(|view| i128::from(view.account.balance().minor())).sum()
}
