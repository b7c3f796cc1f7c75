//! The ledger: all accounts, and the decisions that concern more than one.

use hashbrown::HashSet;

use super::{
    Account, AccountId, AccountState, Action, Amount, Balance, Command, Compact, CurrencyCode,
    Decision, Fact, Owner, Parties, Refusal, Register, Rows, SagaId, StepOutcome, TransferError,
    TransferPhase, next_phase,
};

/// The current state of all accounts. Whoever owns it may keep a `T` beside each.
#[derive(Debug)]
pub struct Ledger<T> {
    register: Register,
    rows: Rows<T>,
    /// The sagas whose id a caller chose: those must not be chosen twice.
    named_sagas: HashSet<SagaId>,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        let register = Register::default();
        Self { register, rows: Rows::default(), named_sagas: HashSet::new() }
    }
}

/// What a decision needs beside the state and the command.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The id for a saga whose caller chose none.
    pub saga_id: SagaId,
    /// Whether the id that the caller chose is one that the server has given to an event.
    pub saga_id_reserved: bool,
}

impl<T: Default> Ledger<T> {
    /// The ids of its accounts.
    #[must_use]
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// How many accounts were ever opened.
    #[must_use]
    pub fn account_count(&self) -> u32 {
        self.rows.count()
    }

    /// Whether a caller has chosen this id for a saga.
    #[must_use]
    pub fn has_named_saga(&self, saga_id: SagaId) -> bool {
        self.named_sagas.contains(&saga_id)
    }

    /// An account and its number.
    #[must_use]
    pub fn find(&self, account_id: AccountId) -> Option<(u32, Account)> {
        let number = self.register.find(account_id)?;
        Some((number, self.rows.account(number, account_id)?))
    }

    /// The account with a number, if it is the one with this id.
    #[must_use]
    pub fn numbered(&self, number: u32, account_id: AccountId) -> Option<Account> {
        let id = self.register.id(number).filter(|id| *id == account_id)?;
        self.rows.account(number, id)
    }

    /// Gives back the account that comes next by number, and what was kept beside it; `None` when
    /// there is no further number.
    pub fn give_back(&mut self, account: &Account, beside: T) -> Option<u32> {
        let number = self.register.add(account.id())?;
        self.rows.push(account.compact(), beside);
        self.rows.set(number, account);
        Some(number)
    }

    /// Gives back a saga whose id a caller chose.
    pub fn give_back_saga(&mut self, saga_id: SagaId) {
        self.named_sagas.insert(saga_id);
    }

    /// What is kept beside an account.
    #[must_use]
    pub fn beside(&self, number: u32) -> Option<&T> {
        self.rows.beside(number)
    }

    /// The same, to change it.
    pub fn beside_mut(&mut self, number: u32) -> Option<&mut T> {
        self.rows.beside_mut(number)
    }

    /// Brings what commands will look up closer to the processor: for many in turn the waits for
    /// memory overlap, which they cannot while one is decided after another. `touch` reads what is
    /// kept beside an account.
    pub fn warm(&self, commands: &[Command], touch: impl Fn(&T)) {
        let accounts = commands.iter().flat_map(|command| command.action.accounts());
        self.register.warm(accounts, |number| self.rows.warm(number, &touch));
    }

    /// The same for [`Ledger::numbered`].
    pub fn warm_numbers(&self, numbers: impl Iterator<Item = u32>, touch: impl Fn(&T)) {
        self.register.warm_numbers(numbers, |number| self.rows.warm(number, &touch));
    }

    /// Decides a command on the current state: `decision` then holds what is to be recorded.
    ///
    /// # Errors
    /// The [`Refusal`] that comes first in the documented precedence; `decision` is then without
    /// meaning.
    pub fn decide(
        &self,
        command: &Command,
        context: &Context,
        decision: &mut Decision,
    ) -> Result<(), Refusal> {
        decision.reset(None);
        match &command.action {
            Action::OpenAccount {
                account_id,
                owner,
                currency,
                initial_balance,
                expected_version,
                account_id_given: _,
            } => {
                self.touch_new(*account_id, *expected_version, decision)?;
                decision.push(0, opened(owner, *currency, *initial_balance));
            }
            Action::DepositMoney { account_id, amount, expected_version, reason: _ } => {
                self.touch_known(*account_id, *expected_version, decision)?;
                decision.push(0, decision.account(0).deposit(*amount)?);
            }
            Action::WithdrawMoney { account_id, amount, expected_version, reason: _ } => {
                self.touch_known(*account_id, *expected_version, decision)?;
                decision.push(0, decision.account(0).withdraw(*amount)?);
            }
            Action::CloseAccount { account_id, expected_version } => {
                self.touch_known(*account_id, *expected_version, decision)?;
                decision.push(0, decision.account(0).close()?);
            }
            Action::TransferMoney { saga_id, parties, amount, reason: _ } => {
                decision.reset(Some(saga_id.unwrap_or(context.saga_id)));
                self.touch_parties(*saga_id, context, *parties, decision)?;
                transfer(*parties, *amount, decision);
            }
        }
        Ok(())
    }

    /// Touches an account that must not exist yet.
    fn touch_new(
        &self,
        account_id: AccountId,
        expected_version: Option<u64>,
        decision: &mut Decision,
    ) -> Result<(), Refusal> {
        if self.find(account_id).is_some() {
            return Err(Refusal::AccountExists { account_id });
        }
        let account = Account::unopened(account_id);
        account.expect_version(expected_version)?;
        let number = self.rows.count();
        if number == u32::MAX {
            return Err(Refusal::AccountLimit);
        }
        decision.touch(number, account);
        Ok(())
    }

    /// Touches an account that must exist, and have the version that the command expects.
    fn touch_known(
        &self,
        account_id: AccountId,
        expected_version: Option<u64>,
        decision: &mut Decision,
    ) -> Result<(), Refusal> {
        let (number, account) =
            self.find(account_id).ok_or(Refusal::AccountNotFound { account_id })?;
        account.expect_version(expected_version)?;
        decision.touch(number, account);
        Ok(())
    }

    /// Touches the accounts of a transfer, the source as slot 0 and the destination, if there is
    /// one that can take part, as slot 1; and tells what refuses it before anything is recorded.
    fn touch_parties(
        &self,
        chosen_id: Option<SagaId>,
        context: &Context,
        parties: Parties,
        decision: &mut Decision,
    ) -> Result<(), Refusal> {
        let (from, to) = (parties.from(), parties.to());
        let (number, source) =
            self.find(from).ok_or(Refusal::AccountNotFound { account_id: from })?;
        if let Some(saga_id) = chosen_id
            && (context.saga_id_reserved || self.has_named_saga(saga_id))
        {
            return Err(Refusal::SagaExists { saga_id });
        }
        source.expect_active()?;
        let currency = source.currency();
        decision.touch(number, source);
        if let Some((number, destination)) = self.find(to) {
            if destination.currency() != currency {
                return Err(Refusal::CurrencyMismatch { from, to });
            }
            decision.touch(number, destination);
        }
        Ok(())
    }

    /// Makes a decision the current state. `named_saga` is the id of its saga if a caller chose
    /// it.
    pub fn commit(&mut self, decision: &Decision, named_saga: Option<SagaId>) {
        self.named_sagas.extend(named_saga);
        for touched in decision.touched() {
            if touched.number >= self.rows.count() {
                self.add(touched.after.id());
            }
            self.rows.set(touched.number, &touched.after);
        }
    }

    fn add(&mut self, account_id: AccountId) {
        let number = self.register.add(account_id);
        assert_eq!(number, Some(self.rows.count()), "opening refuses what cannot be numbered");
        self.rows.push(Compact::UNOPENED, T::default());
    }
}

fn opened(owner: &Owner, currency: CurrencyCode, initial_balance: Balance) -> Fact {
    Fact::AccountOpened { owner: owner.clone(), currency, initial_balance }
}

/// The slot of the source in a transfer's decision.
const SOURCE: usize = 0;
/// The slot of the destination, where it exists.
const DESTINATION: usize = 1;

/// Runs a transfer from its beginning to its end: all its steps become one decision.
fn transfer(parties: Parties, amount: Amount, decision: &mut Decision) {
    decision.push(SOURCE, Fact::TransferInitiated { to: parties.to(), amount });
    let mut phase = TransferPhase::Withdraw;
    loop {
        let outcome = match phase {
            TransferPhase::Withdraw => withdraw_step(amount, decision),
            TransferPhase::Deposit => deposit_step(amount, decision),
            TransferPhase::Compensate(_) => compensate_step(amount, decision),
            TransferPhase::Completed => {
                decision.push(SOURCE, Fact::TransferCompleted);
                decision.push(DESTINATION, Fact::TransferCompleted);
                return;
            }
            TransferPhase::Failed(error) | TransferPhase::Compensated(error) => {
                decision.push(SOURCE, Fact::TransferFailed { error });
                decision.release_idle();
                return;
            }
        };
        phase = next_phase(phase, outcome);
    }
}

fn withdraw_step(amount: Amount, decision: &mut Decision) -> StepOutcome {
    match decision.account(SOURCE).withdraw(amount) {
        Ok(fact) => {
            decision.push(SOURCE, fact);
            StepOutcome::Done
        }
        Err(_) => StepOutcome::Refused(TransferError::InsufficientFunds),
    }
}

fn deposit_step(amount: Amount, decision: &mut Decision) -> StepOutcome {
    let Some(destination) = decision.touched().get(DESTINATION) else {
        return StepOutcome::Refused(TransferError::DestinationNotFound);
    };
    if destination.after.state() == AccountState::Closed {
        return StepOutcome::Refused(TransferError::DestinationClosed);
    }
    match destination.after.deposit(amount) {
        Ok(fact) => {
            decision.push(DESTINATION, fact);
            StepOutcome::Done
        }
        Err(_) => StepOutcome::Refused(TransferError::BalanceLimit),
    }
}

/// Gives the money back. It was the source's own balance a moment ago, so no limit is in its way.
fn compensate_step(amount: Amount, decision: &mut Decision) -> StepOutcome {
    match decision.account(SOURCE).balance().plus(amount) {
        Some(balance) => {
            decision.push(SOURCE, Fact::MoneyDeposited { amount, balance, compensation: true });
            StepOutcome::Done
        }
        None => unreachable!("the source held this amount before it was withdrawn"),
    }
}
