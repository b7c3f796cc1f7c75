//! Two transfers and a close over three accounts, in every order that there is: no sampling.
//!
//! Once as the ledger carries them out, one whole command after another; and once step by step, as
//! they would run if they were not carried out at once, which the rules of an account allow for:
//! an account that still waits for a transfer of its own cannot be closed. What a step does to one
//! account is one step; so the destination learns with the money that the transfer is complete.

use super::*;

const NAMES: [u128; 3] = [ALICE, BOB, CARA];
/// What the first transfer moves. The second moves as much, or twice that.
const MINOR: i64 = 5;

/// What is asked for, over accounts with these balances. By symmetry the first transfer is from
/// the first account to the second.
#[derive(Clone, Debug)]
struct Case {
    balances: [i64; 3],
    second: (usize, usize, i64),
    closed: usize,
}

/// All of them.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 0..8_u8 {
        let balances = [0, 1, 2].map(|place| i64::from(bits >> place & 1) * MINOR);
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            for (minor, closed) in
                [MINOR, 2 * MINOR].into_iter().flat_map(|m| [(m, 0), (m, 1), (m, 2)])
            {
                cases.push(Case { balances, second: (from, to, minor), closed });
            }
        }
    }
    cases
}

/// A transfer under way.
#[derive(Clone, Debug)]
struct Run {
    saga_id: SagaId,
    from: usize,
    to: usize,
    amount: Amount,
    /// `None` before it has begun, and when it was refused at once.
    phase: Option<TransferPhase>,
    is_over: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
struct World {
    accounts: [Account; 3],
    runs: [Run; 2],
    /// The account to be closed, and what came of it once it was tried.
    closed: (usize, Option<Result<(), Refusal>>),
    /// What was recorded, to be folded again.
    recorded: Vec<(usize, Option<SagaId>, Fact)>,
}

impl World {
    fn new(case: &Case) -> Self {
        let run = |number, from, to, amount| Run {
            saga_id: saga(number),
            from,
            to,
            amount: minor(amount),
            phase: None,
            is_over: false,
        };
        let (from, to, amount) = case.second;
        let mut world = Self {
            accounts: NAMES.map(|name| Account::unopened(account(name))),
            runs: [run(1, 0, 1, MINOR), run(2, from, to, amount)],
            closed: (case.closed, None),
            recorded: Vec::new(),
        };
        for (place, balance) in case.balances.into_iter().enumerate() {
            world.record(place, None, opened(balance));
        }
        world
    }

    fn record(&mut self, place: usize, saga_id: Option<SagaId>, fact: Fact) {
        self.accounts[place].evolve(&fact, saga_id).unwrap();
        self.recorded.push((place, saga_id, fact));
    }

    /// Takes the next step of a transfer.
    fn step(&mut self, number: usize) {
        let Run { saga_id, from, to, amount, phase, .. } = self.runs[number].clone();
        let saga_id = Some(saga_id);
        let Some(phase) = phase else {
            return self.begin(number);
        };
        let outcome = match phase {
            TransferPhase::Withdraw => match self.accounts[from].withdraw(amount) {
                Ok(fact) => {
                    self.record(from, saga_id, fact);
                    StepOutcome::Done
                }
                Err(_) => StepOutcome::Refused(TransferError::InsufficientFunds),
            },
            TransferPhase::Deposit => match self.accounts[to].deposit(amount) {
                Ok(fact) => {
                    self.record(to, saga_id, fact);
                    self.record(to, saga_id, Fact::TransferCompleted);
                    StepOutcome::Done
                }
                Err(_) => StepOutcome::Refused(TransferError::DestinationClosed),
            },
            TransferPhase::Compensate(_) => {
                let balance = self.accounts[from].balance().plus(amount).unwrap();
                let compensation = true;
                self.record(from, saga_id, Fact::MoneyDeposited { amount, balance, compensation });
                StepOutcome::Done
            }
            TransferPhase::Completed => return self.end(number, Fact::TransferCompleted),
            TransferPhase::Failed(error) | TransferPhase::Compensated(error) => {
                return self.end(number, failed(error));
            }
        };
        self.runs[number].phase = Some(next_phase(phase, outcome));
    }

    /// Begins a transfer, unless its source is closed.
    fn begin(&mut self, number: usize) {
        let Run { saga_id, from, to, amount, .. } = self.runs[number].clone();
        if self.accounts[from].expect_active().is_err() {
            self.runs[number].is_over = true;
            return;
        }
        let to = account(NAMES[to]);
        self.record(from, Some(saga_id), Fact::TransferInitiated { to, amount });
        self.runs[number].phase = Some(TransferPhase::Withdraw);
    }

    fn end(&mut self, number: usize, fact: Fact) {
        let Run { saga_id, from, .. } = self.runs[number];
        self.record(from, Some(saga_id), fact);
        self.runs[number].is_over = true;
    }

    /// Tries to close the account: done exactly if it is empty and waits for nothing.
    fn close(&mut self) {
        let (place, _) = self.closed;
        let before = self.accounts[place].clone();
        let may = before.balance() == Balance::ZERO && before.pending().count() == 0;
        let closed = before.close();
        assert_eq!(closed.is_ok(), may, "{before:?}");
        if let Ok(fact) = &closed {
            self.record(place, None, fact.clone());
        }
        self.closed.1 = Some(closed.map(|_| ()));
    }

    /// What the accounts hold, and what is between them.
    fn money(&self) -> i64 {
        let held: i64 = self.accounts.iter().map(|account| account.balance().minor()).sum();
        let is_between = |phase: &TransferPhase| {
            matches!(phase, TransferPhase::Deposit | TransferPhase::Compensate(_))
        };
        let between = self.runs.iter().filter(|run| run.phase.as_ref().is_some_and(is_between));
        held + between.map(|run| run.amount.minor()).sum::<i64>()
    }

    /// Goes on in every way from here; counts the ends.
    fn explore(&self, money: i64) -> usize {
        assert_eq!(self.money(), money, "money is made or lost: {self:?}");
        let mut ends = 0;
        for number in 0..self.runs.len() {
            if !self.runs[number].is_over {
                let mut next = self.clone();
                next.step(number);
                ends += next.explore(money);
            }
        }
        if self.closed.1.is_none() {
            let mut next = self.clone();
            next.close();
            ends += next.explore(money);
        }
        if ends == 0 {
            self.check_end();
            return 1;
        }
        ends
    }

    fn check_end(&self) {
        let (place, closed) = &self.closed;
        let is_closed = self.accounts[*place].state() == AccountState::Closed;
        assert_eq!(is_closed, matches!(closed, Some(Ok(()))), "{self:?}");
        assert!(!is_closed || self.accounts[*place].balance() == Balance::ZERO, "{self:?}");
        let mut folded = NAMES.map(|name| Account::unopened(account(name)));
        for (place, saga_id, fact) in &self.recorded {
            folded[*place].evolve(fact, *saga_id).unwrap();
        }
        for (account, folded) in self.accounts.iter().zip(&folded) {
            assert_eq!(account.pending().count(), 0, "a transfer is pending: {self:?}");
            assert_eq!(account, folded, "what was recorded is what is");
        }
    }
}

#[test]
fn every_order_of_steps_keeps_the_money_and_ends_all_transfers() {
    let mut ends = 0;
    for case in cases() {
        ends += World::new(&case).explore(case.balances.iter().sum());
    }
    assert!(ends > 70_000, "only {ends} orders were looked at");
}

#[test]
fn every_order_of_commands_keeps_the_money_and_closes_only_what_is_empty() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for case in cases() {
        let (from, to, amount) = case.second;
        let actions = [
            transfer_named(Some(saga(1)), NAMES[0], NAMES[1], MINOR),
            transfer_named(Some(saga(2)), NAMES[from], NAMES[to], amount),
            close(NAMES[case.closed], None),
        ];
        for order in orders {
            let opened = |place| (NAMES[place], opened(case.balances[place]));
            let mut ledger = ledger(&[opened(0), opened(1), opened(2)]);
            for number in order {
                let before = ledger.find(account(NAMES[case.closed])).unwrap().1;
                let decided = decide(&ledger, actions[number].clone());
                if number == 2 {
                    assert_eq!(decided.is_ok(), before.balance() == Balance::ZERO, "{case:?}");
                }
                if let Ok(decision) = decided {
                    ledger.commit(&decision, decision.saga_id());
                }
            }
            let accounts = NAMES.map(|name| ledger.find(account(name)).unwrap().1);
            let held: i64 = accounts.iter().map(|account| account.balance().minor()).sum();
            assert_eq!(held, case.balances.iter().sum::<i64>(), "{case:?}, {order:?}");
            assert!(accounts.iter().all(|account| account.pending().next().is_none()));
        }
    }
}
