//! The pool: what the clients know together, and what is asked next by chance.

use std::collections::{HashMap, VecDeque};

use daybook::proto::{
    CloseAccountRequest, DepositMoneyRequest, Event, GetAccountRequest, ListAccountEventsRequest,
    OpenAccountRequest, TransferMoneyRequest, WithdrawMoneyRequest, batch_command::Command,
    event::Payload, get_account_request::AsOf,
};

use super::{operation::BANK, reads::Question};
use crate::crash::{
    call::{Answer, Verdict},
    random::Random,
};

/// How many accounts the bank has, among which money only moves.
const BANK_ACCOUNTS: usize = 8;
/// What each of them begins with.
const BANK_BALANCE: i64 = 20_000;
/// How many other accounts there are from the beginning, which are commanded as often as all that
/// come later together, so that commands get in each other's way.
const HOT_ACCOUNTS: usize = 12;
/// How many of the accounts that came later are commanded: the newest.
const NEW_ACCOUNTS_MAX: usize = 48;

/// What to do next.
pub(super) enum Ask {
    Command(Command),
    Question(Question),
}

/// An account, as a client saw it last.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    version: i64,
    balance: i64,
}

#[derive(Debug)]
pub(super) struct Pool {
    bank: Vec<String>,
    hot: Vec<String>,
    new: VecDeque<String>,
    known: HashMap<String, Known>,
    /// How many commands had no `request_id`.
    keyless: usize,
}

impl Pool {
    pub(super) fn new(random: &mut Random) -> Self {
        let mut ids = |count| (0..count).map(|_| random.id()).collect::<Vec<_>>();
        let (bank, hot) = (ids(BANK_ACCOUNTS), ids(HOT_ACCOUNTS));
        Self { bank, hot, new: VecDeque::new(), known: HashMap::new(), keyless: 0 }
    }

    /// The commands that a run begins with.
    pub(super) fn openings(&self, random: &mut Random) -> Vec<Command> {
        let bank = self.bank.iter().map(|id| open(id, BANK, BANK_BALANCE, random.id()));
        let mut openings: Vec<_> = bank.collect();
        openings.extend(self.hot.iter().map(|id| open(id, "Ada Lovelace", 5_000, random.id())));
        openings
    }

    /// What the accounts of the bank hold together, always.
    pub(super) fn bank_total(&self) -> i64 {
        BANK_BALANCE * i64::try_from(self.bank.len()).expect("a few accounts")
    }

    pub(super) fn bank(&self) -> &[String] {
        &self.bank
    }

    pub(super) fn hot(&self) -> &[String] {
        &self.hot
    }

    /// Takes what an answer tells of its account.
    pub(super) fn learn(&mut self, verdict: &Verdict) {
        let Verdict::Recorded { answer: Answer::Event(event), replayed: false } = verdict else {
            return;
        };
        if self.known.insert(event.account_id.clone(), known(event)).is_none()
            && !self.hot.contains(&event.account_id)
            && !self.bank.contains(&event.account_id)
        {
            self.new.push_back(event.account_id.clone());
            if self.new.len() > NEW_ACCOUNTS_MAX {
                let old = self.new.pop_front().unwrap_or_default();
                self.known.remove(&old);
            }
        }
    }

    /// What a client does next, when some client was told of position `seen`.
    pub(super) fn ask(&mut self, random: &mut Random, seen: i64) -> Ask {
        let min_position = random.percent(50).then_some(seen);
        let question = match random.below(100) {
            0..22 => return Ask::Command(self.bank_transfer(random)),
            22..66 => return Ask::Command(self.command(random)),
            66..80 => {
                let mut account_id = self.any(random);
                if random.percent(2) {
                    account_id = random.id();
                }
                Question::Account(GetAccountRequest { account_id, as_of: None, min_position })
            }
            80..86 => {
                let account_id = self.any(random);
                let known = self.known.get(&account_id).map_or(1, |known| known.version.max(1));
                let as_of = if random.percent(30) {
                    AsOf::AsOfVersion(random.amount(known.unsigned_abs()))
                } else {
                    AsOf::AsOfPosition(random.amount(seen.unsigned_abs()))
                };
                let as_of = Some(as_of);
                Question::Account(GetAccountRequest { account_id, as_of, min_position: None })
            }
            86..94 => Question::Bank { min_position },
            94 => {
                let then =
                    if random.percent(50) { seen } else { random.amount(seen.unsigned_abs()) };
                // The accounts of the bank are the first ones.
                let position = then.max(i64::try_from(self.bank.len()).expect("a few accounts"));
                Question::Sum { account_ids: self.bank.clone(), position }
            }
            95..98 => {
                let account_id = self.hot[random.place(self.hot.len())].clone();
                let after_version = self.known.get(&account_id).map_or(0, |known| known.version);
                Question::Events(ListAccountEventsRequest {
                    account_id,
                    after_version: (after_version - 5).max(0),
                    min_position,
                    ..Default::default()
                })
            }
            _ => Question::Stats { min_position },
        };
        Ask::Question(question)
    }

    fn bank_transfer(&self, random: &mut Random) -> Command {
        let from = random.place(self.bank.len());
        let to = (from + 1 + random.place(self.bank.len() - 1)) % self.bank.len();
        transfer(&self.bank[from], &self.bank[to], random.amount(4_000), random)
    }

    fn command(&mut self, random: &mut Random) -> Command {
        let id = self.other(random);
        let known = self.known.get(&id).copied().unwrap_or_default();
        let expected = random.percent(15).then_some(known.version);
        match random.below(100) {
            0..8 => {
                let is_taken = random.percent(15);
                let id = if is_taken { id } else { random.id() };
                let balance = if random.percent(60) { 0 } else { random.amount(3_000) };
                open(&id, "Ada Lovelace", balance, random.id())
            }
            8..42 => {
                let (request_id, reason) = self.name(random);
                Command::DepositMoney(DepositMoneyRequest {
                    account_id: id,
                    amount_minor: random.amount(1_000),
                    reason,
                    request_id,
                    expected_version: expected,
                })
            }
            42..66 => {
                let (request_id, reason) = self.name(random);
                let all = known.balance > 0 && random.percent(25);
                Command::WithdrawMoney(WithdrawMoneyRequest {
                    account_id: id,
                    amount_minor: if all { known.balance } else { random.amount(1_500) },
                    reason,
                    request_id,
                    expected_version: expected,
                })
            }
            66..90 => {
                let to = if random.percent(6) { random.id() } else { self.other(random) };
                let to = if to == id { random.id() } else { to };
                transfer(&id, &to, random.amount(1_500), random)
            }
            _ => Command::CloseAccount(CloseAccountRequest {
                account_id: self.emptied(random).unwrap_or(id),
                request_id: random.id(),
                expected_version: expected,
            }),
        }
    }

    /// The `request_id` and the reason of a command. A few have only a reason of their own.
    fn name(&mut self, random: &mut Random) -> (String, String) {
        if random.percent(97) {
            return (random.id(), String::new());
        }
        self.keyless += 1;
        (String::new(), format!("without key, number {}", self.keyless))
    }

    fn any(&self, random: &mut Random) -> String {
        if random.percent(30) {
            self.bank[random.place(self.bank.len())].clone()
        } else {
            self.other(random)
        }
    }

    /// An account that is not the bank's.
    fn other(&self, random: &mut Random) -> String {
        if self.new.is_empty() || random.percent(50) {
            self.hot[random.place(self.hot.len())].clone()
        } else {
            self.new[random.place(self.new.len())].clone()
        }
    }

    /// An account that has no money, if a few looks find one. The hot ones stay open.
    fn emptied(&self, random: &mut Random) -> Option<String> {
        let len = self.new.len();
        let mut looks = (0..len.min(10)).map(|_| &self.new[random.place(len)]);
        looks.find(|id| self.known.get(*id).is_some_and(|known| known.balance == 0)).cloned()
    }
}

fn known(event: &Event) -> Known {
    let balance = match &event.payload {
        Some(Payload::AccountOpened(opened)) => opened.initial_balance_minor,
        Some(Payload::MoneyDeposited(money)) => money.balance_minor,
        Some(Payload::MoneyWithdrawn(money)) => money.balance_minor,
        _ => 0,
    };
    Known { version: event.version, balance }
}

fn open(id: &str, owner: &str, initial_balance_minor: i64, request_id: String) -> Command {
    Command::OpenAccount(OpenAccountRequest {
        account_id: id.to_owned(),
        owner: owner.to_owned(),
        currency_code: String::new(),
        initial_balance_minor,
        request_id,
        expected_version: None,
    })
}

fn transfer(from: &str, to: &str, amount_minor: i64, random: &mut Random) -> Command {
    Command::TransferMoney(TransferMoneyRequest {
        saga_id: if random.percent(10) { random.id() } else { String::new() },
        from_account_id: from.to_owned(),
        to_account_id: to.to_owned(),
        amount_minor,
        reason: format!("over {amount_minor}"),
        request_id: random.id(),
    })
}
