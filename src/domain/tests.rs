//! What a command does, as tables: given these events, when this command, then these events or
//! this refusal.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

mod saga;

const ALICE: u128 = 0xa11ce;
const BOB: u128 = 0xb0b;
const CARA: u128 = 0xca4a;
const SAGA: u128 = 0x5a9a;

fn account(id: u128) -> AccountId {
    AccountId::new(Uuid::from_u128(id))
}

fn saga(id: u128) -> SagaId {
    SagaId::new(Uuid::from_u128(id))
}

fn minor(amount: i64) -> Amount {
    Amount::new(amount).unwrap()
}

fn balance(minor: i64) -> Balance {
    Balance::new(minor).unwrap()
}

fn opened_in(currency: &str, initial: i64) -> Fact {
    Fact::AccountOpened {
        owner: Owner::new("Somebody").unwrap(),
        currency: CurrencyCode::parse(currency).unwrap(),
        initial_balance: balance(initial),
    }
}

fn opened(initial: i64) -> Fact {
    opened_in("USD", initial)
}

fn deposited(amount: i64, after: i64) -> Fact {
    Fact::MoneyDeposited { amount: minor(amount), balance: balance(after), compensation: false }
}

fn given_back(amount: i64, after: i64) -> Fact {
    Fact::MoneyDeposited { amount: minor(amount), balance: balance(after), compensation: true }
}

fn withdrawn(amount: i64, after: i64) -> Fact {
    Fact::MoneyWithdrawn { amount: minor(amount), balance: balance(after) }
}

fn initiated(to: u128, amount: i64) -> Fact {
    Fact::TransferInitiated { to: account(to), amount: minor(amount) }
}

fn failed(error: TransferError) -> Fact {
    Fact::TransferFailed { error }
}

fn open(id: u128) -> Action {
    Action::OpenAccount {
        account_id: account(id),
        account_id_given: true,
        owner: Owner::new("Somebody").unwrap(),
        currency: CurrencyCode::USD,
        initial_balance: balance(7),
        expected_version: None,
    }
}

fn deposit(id: u128, amount: i64, expected_version: Option<u64>) -> Action {
    let (account_id, amount, reason) = (account(id), minor(amount), Reason::default());
    Action::DepositMoney { account_id, amount, reason, expected_version }
}

fn withdraw(id: u128, amount: i64, expected_version: Option<u64>) -> Action {
    let (account_id, amount, reason) = (account(id), minor(amount), Reason::default());
    Action::WithdrawMoney { account_id, amount, reason, expected_version }
}

fn close(id: u128, expected_version: Option<u64>) -> Action {
    Action::CloseAccount { account_id: account(id), expected_version }
}

fn transfer_named(saga_id: Option<SagaId>, from: u128, to: u128, amount: i64) -> Action {
    let parties = Parties::new(account(from), account(to)).unwrap();
    Action::TransferMoney { saga_id, parties, amount: minor(amount), reason: Reason::default() }
}

fn transfer(from: u128, to: u128, amount: i64) -> Action {
    transfer_named(None, from, to, amount)
}

type Events = Vec<(AccountId, Fact)>;

/// The ledger that these events add up to.
fn ledger(given: &[(u128, Fact)]) -> Ledger<()> {
    let mut ledger = Ledger::default();
    for (id, fact) in given {
        let mut decision = Decision::default();
        decision.reset(Some(saga(SAGA)));
        let (number, before) = match ledger.find(account(*id)) {
            Some(found) => found,
            None => (ledger.account_count(), Account::unopened(account(*id))),
        };
        decision.touch(number, before);
        decision.replay(0, fact.clone()).unwrap();
        ledger.commit(&decision, None);
    }
    ledger
}

fn decide(ledger: &Ledger<()>, action: Action) -> Result<Decision, Refusal> {
    let context = Context { saga_id: saga(SAGA + 1), saga_id_reserved: false };
    let mut decision = Decision::default();
    ledger.decide(&Command { request_id: None, action }, &context, &mut decision)?;
    Ok(decision)
}

fn events(decision: &Decision) -> Events {
    let account = |event: &Event| decision.touched()[event.slot].after.id();
    decision.events().iter().map(|event| (account(event), event.fact.clone())).collect()
}

/// The one way in which these tests ask.
#[track_caller]
fn check(given: &[(u128, Fact)], when: Action, then: Result<Vec<(u128, Fact)>, Refusal>) {
    let decided = decide(&ledger(given), when).map(|decision| events(&decision));
    let then =
        then.map(|events| events.into_iter().map(|(id, fact)| (account(id), fact)).collect());
    assert_eq!(decided, then);
}

#[test]
fn accepted_commands_record_what_they_did() {
    check(&[], open(ALICE), Ok(vec![(ALICE, opened(7))]));
    let given = [(ALICE, opened(100))];
    check(&given, deposit(ALICE, 50, None), Ok(vec![(ALICE, deposited(50, 150))]));
    check(&given, deposit(ALICE, 50, Some(1)), Ok(vec![(ALICE, deposited(50, 150))]));
    check(&given, withdraw(ALICE, 100, None), Ok(vec![(ALICE, withdrawn(100, 0))]));
    let empty = [(ALICE, opened(0))];
    check(&empty, close(ALICE, None), Ok(vec![(ALICE, Fact::AccountClosed)]));
}

#[test]
fn a_transfer_withdraws_deposits_and_completes_on_both_sides() {
    let given = [(ALICE, opened(100)), (BOB, opened(5))];
    let then = vec![
        (ALICE, initiated(BOB, 30)),
        (ALICE, withdrawn(30, 70)),
        (BOB, deposited(30, 35)),
        (ALICE, Fact::TransferCompleted),
        (BOB, Fact::TransferCompleted),
    ];
    check(&given, transfer(ALICE, BOB, 30), Ok(then));
}

#[test]
fn a_transfer_without_funds_fails_and_moves_nothing() {
    let given = [(ALICE, opened(29)), (BOB, opened(5))];
    let then = vec![(ALICE, initiated(BOB, 30)), (ALICE, failed(TransferError::InsufficientFunds))];
    check(&given, transfer(ALICE, BOB, 30), Ok(then));
}

#[test]
fn a_transfer_that_cannot_arrive_gives_the_money_back() {
    let compensated = |to, error| {
        Ok(vec![
            (ALICE, initiated(to, 30)),
            (ALICE, withdrawn(30, 70)),
            (ALICE, given_back(30, 100)),
            (ALICE, failed(error)),
        ])
    };
    let given = [
        (ALICE, opened(100)),
        (BOB, opened(0)),
        (BOB, Fact::AccountClosed),
        (CARA, opened(AMOUNT_MAX_MINOR - 29)),
    ];
    let cases = [
        (BOB, TransferError::DestinationClosed),
        (CARA, TransferError::BalanceLimit),
        (0xdead, TransferError::DestinationNotFound),
    ];
    for (to, error) in cases {
        check(&given, transfer(ALICE, to, 30), compensated(to, error));
    }
}

#[test]
fn compensation_reaches_the_limit_of_the_balance_again() {
    let full = AMOUNT_MAX_MINOR;
    let then = vec![
        (ALICE, initiated(BOB, full)),
        (ALICE, withdrawn(full, 0)),
        (ALICE, given_back(full, full)),
        (ALICE, failed(TransferError::DestinationNotFound)),
    ];
    check(&[(ALICE, opened(full))], transfer(ALICE, BOB, full), Ok(then));
}

#[test]
fn refusals_come_in_their_documented_order() {
    let (a, b) = (account(ALICE), account(BOB));
    let mismatch = Refusal::VersionMismatch { account_id: a, expected: 9, actual: 2 };
    let closed = [(ALICE, opened(0)), (ALICE, Fact::AccountClosed)];
    let missing = |id| Refusal::AccountNotFound { account_id: account(id) };
    // Missing before everything else.
    check(&[], deposit(ALICE, 1, Some(9)), Err(missing(ALICE)));
    check(&[], withdraw(ALICE, 1, Some(9)), Err(missing(ALICE)));
    check(&[], close(ALICE, Some(9)), Err(missing(ALICE)));
    check(&[], transfer(ALICE, BOB, 1), Err(missing(ALICE)));
    // Taken before the version.
    check(&closed, open(ALICE), Err(Refusal::AccountExists { account_id: a }));
    // The version before the state.
    check(&closed, deposit(ALICE, 1, Some(9)), Err(mismatch.clone()));
    check(&closed, withdraw(ALICE, 1, Some(9)), Err(mismatch.clone()));
    check(&closed, close(ALICE, Some(9)), Err(mismatch));
    // Closed before funds and balance.
    let is_closed = Refusal::AccountClosed { account_id: a };
    check(&closed, withdraw(ALICE, 1, None), Err(is_closed.clone()));
    check(&closed, deposit(ALICE, 1, None), Err(is_closed.clone()));
    check(&closed, close(ALICE, None), Err(is_closed.clone()));
    check(&closed, transfer(ALICE, BOB, 1), Err(is_closed.clone()));
    // A closed source before another currency of the destination.
    let mut foreign = closed.to_vec();
    foreign.push((BOB, opened_in("EUR", 0)));
    check(&foreign, transfer(ALICE, BOB, 1), Err(is_closed));
    // Another currency before funds: nothing is recorded.
    let foreign = [(ALICE, opened(0)), (BOB, opened_in("EUR", 0))];
    let mismatch = Refusal::CurrencyMismatch { from: a, to: b };
    check(&foreign, transfer(ALICE, BOB, 1), Err(mismatch));
}

#[test]
fn an_account_keeps_its_rules() {
    let id = account(ALICE);
    let given = [(ALICE, opened(100))];
    let poor = Refusal::InsufficientFunds { account_id: id };
    check(&given, withdraw(ALICE, 101, None), Err(poor));
    let rich = Refusal::BalanceLimit { account_id: id };
    check(&given, deposit(ALICE, AMOUNT_MAX_MINOR, None), Err(rich));
    let rest = Refusal::BalanceNotZero { account_id: id, balance: balance(100) };
    check(&given, close(ALICE, None), Err(rest));
    let mismatch = Refusal::VersionMismatch { account_id: id, expected: 0, actual: 1 };
    check(&given, deposit(ALICE, 1, Some(0)), Err(mismatch));
}

#[test]
fn a_pending_transfer_keeps_its_account_from_closing() {
    let begun = [(ALICE, opened(30)), (ALICE, initiated(BOB, 30)), (ALICE, withdrawn(30, 0))];
    let pending = Refusal::TransferPending { account_id: account(ALICE) };
    check(&begun, close(ALICE, None), Err(pending));
    let mut ended = begun.to_vec();
    ended.push((ALICE, Fact::TransferCompleted));
    check(&ended, close(ALICE, None), Ok(vec![(ALICE, Fact::AccountClosed)]));
}

#[test]
fn a_saga_id_is_used_once() {
    let mut ledger = ledger(&[(ALICE, opened(100)), (BOB, opened(0))]);
    let named = transfer_named(Some(saga(9)), ALICE, BOB, 1);
    let decision = decide(&ledger, named.clone()).unwrap();
    assert_eq!(decision.saga_id(), Some(saga(9)));
    ledger.commit(&decision, Some(saga(9)));
    let exists = Refusal::SagaExists { saga_id: saga(9) };
    assert_eq!(decide(&ledger, named.clone()).unwrap_err(), exists);
    let context = Context { saga_id: saga(1), saga_id_reserved: true };
    let command =
        Command { request_id: None, action: transfer_named(Some(saga(8)), ALICE, BOB, 1) };
    let refused = ledger.decide(&command, &context, &mut Decision::default());
    assert_eq!(refused, Err(Refusal::SagaExists { saga_id: saga(8) }));
}

#[test]
fn what_cannot_follow_is_not_folded() {
    let (id, s) = (account(ALICE), Some(saga(SAGA)));
    let open = {
        let mut open = Account::unopened(id);
        open.evolve(&opened(100), None).unwrap();
        open
    };
    let closed = {
        let mut closed = Account::unopened(id);
        closed.evolve(&opened(0), None).unwrap();
        closed.evolve(&Fact::AccountClosed, None).unwrap();
        closed
    };
    let table = [
        (Account::unopened(id), deposited(1, 1), None),
        (open.clone(), opened(1), None),
        (open.clone(), deposited(1, 102), None),
        (open.clone(), withdrawn(1, 100), None),
        (open.clone(), withdrawn(101, 0), None),
        (open.clone(), initiated(ALICE, 1), s),
        (open.clone(), initiated(BOB, 1), None),
        (open.clone(), failed(TransferError::BalanceLimit), s),
        (open.clone(), Fact::TransferCompleted, None),
        (open, Fact::AccountClosed, None),
        (closed.clone(), deposited(1, 1), None),
        (closed, Fact::AccountClosed, None),
    ];
    for (before, fact, saga_id) in table {
        let mut account = before.clone();
        assert_eq!(account.evolve(&fact, saga_id), Err(Inconsistent), "{fact:?}");
        assert_eq!(account, before, "{fact:?} must leave the account as it was");
    }
}

fn any_action() -> impl Strategy<Value = Action> {
    let id = || prop_oneof![Just(ALICE), Just(BOB), Just(CARA)];
    let amount = || prop_oneof![1..200_i64, Just(AMOUNT_MAX_MINOR)];
    prop_oneof![
        id().prop_map(open),
        (id(), amount()).prop_map(|(id, amount)| deposit(id, amount, None)),
        (id(), amount()).prop_map(|(id, amount)| withdraw(id, amount, None)),
        id().prop_map(|id| close(id, None)),
        (id(), id(), amount())
            .prop_filter("parties differ", |(from, to, _)| from != to)
            .prop_map(|(from, to, amount)| transfer(from, to, amount)),
    ]
}

/// What a decision adds to the money of the ledger.
fn money_made(decision: &Decision) -> i64 {
    let in_transfer = decision.saga_id().is_some();
    let made = |event: &Event| match &event.fact {
        Fact::AccountOpened { initial_balance, .. } => initial_balance.minor(),
        Fact::MoneyDeposited { amount, .. } if !in_transfer => amount.minor(),
        Fact::MoneyWithdrawn { amount, .. } if !in_transfer => -amount.minor(),
        _ => 0,
    };
    decision.events().iter().map(made).sum()
}

proptest! {
    /// Money is neither made nor destroyed, whatever is asked for in whatever order, and folding
    /// the recorded events gives the state that deciding left.
    #[test]
    fn money_is_conserved(actions in prop::collection::vec(any_action(), 1..60)) {
        let mut live = Ledger::default();
        let mut folded: Vec<Account> = Vec::new();
        let mut expected = 0;
        for action in actions {
            let Ok(decision) = decide(&live, action) else { continue };
            expected += money_made(&decision);
            for touched in decision.touched() {
                if touched.number as usize == folded.len() {
                    folded.push(Account::unopened(touched.after.id()));
                }
                prop_assert_eq!(folded[touched.number as usize].compact(), touched.before);
            }
            let places: Vec<usize> =
                decision.touched().iter().map(|t| t.number as usize).collect();
            for event in decision.events() {
                folded[places[event.slot]].evolve(&event.fact, decision.saga_id()).unwrap();
            }
            live.commit(&decision, None);
            let held: i64 = folded.iter().map(|account| account.balance().minor()).sum();
            prop_assert_eq!(held, expected);
            for account in &folded {
                prop_assert_eq!(&live.find(account.id()).unwrap().1, account);
                prop_assert_eq!(account.pending().count(), 0, "a transfer ends where it begins");
            }
        }
    }
}
