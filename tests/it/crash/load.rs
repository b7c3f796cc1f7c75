//! The load: clients that command at random, until their server is gone.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use daybook::proto::{
    CloseAccountRequest, DepositMoneyRequest, Event, OpenAccountRequest, TransferMoneyRequest,
    WithdrawMoneyRequest, batch_command::Command, event::Payload,
};

use super::{
    call::{Answer, Call, Client, Shape, Verdict},
    random::Random,
};

/// How many of the oldest accounts are commanded as often as all others together, so that
/// commands get in each other's way.
const HOT_ACCOUNTS: usize = 16;
/// More than any account has.
const FORTUNE: i64 = 1_000_000_000_000;

/// An account, as a client saw it last.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    version: i64,
    balance: i64,
}

/// What the clients know together: enough to command sensibly most of the time.
#[derive(Debug, Default)]
pub(super) struct Pool {
    accounts: Vec<Known>,
    places: HashMap<String, usize>,
    /// Ids that transfers were given by their callers.
    sagas: Vec<String>,
}

impl Pool {
    /// Takes what an event tells of its account.
    fn learn(&mut self, event: &Event) {
        let place = *self.places.entry(event.account_id.clone()).or_insert_with(|| {
            let known = Known { id: event.account_id.clone(), version: 0, balance: 0 };
            self.accounts.push(known);
            self.accounts.len() - 1
        });
        let known = &mut self.accounts[place];
        known.version = known.version.max(event.version);
        match &event.payload {
            Some(Payload::AccountOpened(opened)) => known.balance = opened.initial_balance_minor,
            Some(Payload::MoneyDeposited(deposited)) => known.balance = deposited.balance_minor,
            Some(Payload::MoneyWithdrawn(withdrawn)) => known.balance = withdrawn.balance_minor,
            _ => {}
        }
    }

    /// The next call of a client.
    fn call(&mut self, random: &mut Random) -> Call {
        match random.below(100) {
            0..92 => {
                // A few have no key: they cannot be repeated, and are counted instead.
                let request_id = if random.percent(2) { String::new() } else { random.id() };
                Call::new(Shape::Single, vec![self.command(request_id, random)])
            }
            92..96 => {
                let count = 2 + random.below(10);
                let mut command = || {
                    let request_id = random.id();
                    self.command(request_id, random)
                };
                Call::new(Shape::Batch, (0..count).map(|_| command()).collect())
            }
            _ => Call::new(Shape::SureBatch, sure_commands(random)),
        }
    }

    fn command(&mut self, request_id: String, random: &mut Random) -> Command {
        if self.accounts.len() < HOT_ACCOUNTS {
            return open(String::new(), 10_000, request_id);
        }
        let known = self.account(random);
        let expected_version = random.percent(10).then_some(known.version);
        match random.below(100) {
            0..10 => {
                let id = match random.below(10) {
                    0..5 => random.id(),
                    5 => known.id,
                    _ => String::new(),
                };
                let balance = if random.percent(40) { 0 } else { random.amount(10_000) };
                open(id, balance, request_id)
            }
            10..43 => {
                let amount = if random.percent(2) { 0 } else { random.amount(1_000) };
                deposit(known.id, amount, request_id, expected_version)
            }
            43..65 => {
                let amount = match random.below(10) {
                    0 => FORTUNE,
                    1..3 if known.balance > 0 => known.balance,
                    _ => random.amount(2_000),
                };
                withdraw(known.id, amount, request_id, expected_version)
            }
            65..92 => self.transfer(known, request_id, random),
            _ => {
                let account_id = self.emptied(random).unwrap_or(known.id);
                let request = CloseAccountRequest { account_id, request_id, expected_version };
                Command::CloseAccount(request)
            }
        }
    }

    fn transfer(&mut self, from: Known, request_id: String, random: &mut Random) -> Command {
        let mut to = if random.percent(8) { random.id() } else { self.account(random).id };
        if to == from.id {
            to = random.id();
        }
        let saga_id = match (random.below(10), self.sagas.len()) {
            (0..3, _) => {
                self.sagas.push(random.id());
                self.sagas.last().cloned().unwrap_or_default()
            }
            (3, known @ 1..) => self.sagas[random.place(known)].clone(),
            _ => String::new(),
        };
        let amount = if random.percent(10) { FORTUNE } else { random.amount(1_500) };
        transfer(saga_id, from.id, to, amount, request_id)
    }

    fn account(&self, random: &mut Random) -> Known {
        let among = if random.percent(50) { HOT_ACCOUNTS } else { self.accounts.len() };
        self.accounts[random.place(among)].clone()
    }

    /// An account that has no money, if a few looks find one. The hot ones stay open.
    fn emptied(&self, random: &mut Random) -> Option<String> {
        let look = |_| &self.accounts[random.place(self.accounts.len())];
        let mut looks = (0..20).map(look).filter(|known| known.balance == 0);
        looks.find(|known| self.places[&known.id] >= HOT_ACCOUNTS).map(|known| known.id.clone())
    }
}

/// Commands of which none can be refused when they are carried out in order: they concern
/// accounts that nobody else knows of.
fn sure_commands(random: &mut Random) -> Vec<Command> {
    let (one, other) = (random.id(), random.id());
    let mut commands = vec![
        open(one.clone(), 500, random.id()),
        open(other.clone(), 0, random.id()),
        deposit(one.clone(), 70, random.id(), Some(1)),
        transfer(random.id(), one, other.clone(), 570, random.id()),
        withdraw(other.clone(), 570, random.id(), None),
    ];
    for _ in 0..random.below(30) {
        commands.push(deposit(other.clone(), 1, random.id(), None));
    }
    commands
}

fn open(account_id: String, initial_balance_minor: i64, request_id: String) -> Command {
    Command::OpenAccount(OpenAccountRequest {
        account_id,
        owner: "Ada Lovelace".to_owned(),
        currency_code: String::new(),
        initial_balance_minor,
        request_id,
        expected_version: None,
    })
}

fn deposit(id: String, amount: i64, request_id: String, version: Option<i64>) -> Command {
    Command::DepositMoney(DepositMoneyRequest {
        account_id: id,
        amount_minor: amount,
        reason: format!("in {amount}"),
        request_id,
        expected_version: version,
    })
}

fn withdraw(id: String, amount: i64, request_id: String, version: Option<i64>) -> Command {
    Command::WithdrawMoney(WithdrawMoneyRequest {
        account_id: id,
        amount_minor: amount,
        reason: String::new(),
        request_id,
        expected_version: version,
    })
}

fn transfer(saga: String, from: String, to: String, amount: i64, request_id: String) -> Command {
    Command::TransferMoney(TransferMoneyRequest {
        saga_id: saga,
        from_account_id: from,
        to_account_id: to,
        amount_minor: amount,
        reason: format!("over {amount}"),
        request_id,
    })
}

/// Commands over two connections until one of them breaks. Gives all calls.
pub(super) async fn command_until_killed(
    mut clients: [Client; 2],
    pool: Arc<Mutex<Pool>>,
    mut random: Random,
    killed: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut is_alive = true;
    while is_alive && !stopped.load(Ordering::Relaxed) {
        let mut call = pool.lock().expect("no client panicked").call(&mut random);
        let [one, other] = &mut clients;
        if call.is_repeatable() && random.percent(8) {
            let (first, second) = tokio::join!(call.send(one, &killed), call.send(other, &killed));
            is_alive = !first.contains(&Verdict::Unknown) && !second.contains(&Verdict::Unknown);
            call.learn_twins(first, second);
        } else {
            let verdicts = call.send(one, &killed).await;
            is_alive = !verdicts.contains(&Verdict::Unknown);
            let is_repeat =
                |verdict: &Verdict| matches!(verdict, Verdict::Recorded { replayed: true, .. });
            assert!(!verdicts.iter().any(is_repeat), "a repeat of nothing: {call:?} {verdicts:?}");
            call.learn(verdicts);
        }
        if is_alive && call.is_repeatable() && random.percent(12) {
            let verdicts = call.send(other, &killed).await;
            is_alive = !verdicts.contains(&Verdict::Unknown);
            call.learn(verdicts);
        }
        let mut pool = pool.lock().expect("no client panicked");
        for verdict in &call.verdicts {
            if let Verdict::Recorded { answer: Answer::Event(event), .. } = verdict {
                pool.learn(event);
            }
        }
        drop(pool);
        calls.push(call);
    }
    calls
}
