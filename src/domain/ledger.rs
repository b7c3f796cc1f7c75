//! The ledger: all accounts, and the decisions that concern more than one.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashSet, HashTable};

use super::{
    Account, AccountId, AccountState, Action, Amount, Balance, Command, CurrencyCode, Decision,
    Fact, Owner, Parties, Refusal, SagaId, StepOutcome, TransferError, TransferPhase, next_phase,
};

/// The current state of all accounts, indexed by the order of their opening.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    /// Finds an account's place by its id. It holds places of 4 bytes and not the ids again.
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The sagas whose id a caller chose: those must not be chosen twice.
    named_sagas: HashSet<SagaId>,
}

/// What a decision needs beside the state and the command.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The id for a saga whose caller chose none.
    pub saga_id: SagaId,
    /// Whether the id that the caller chose is one that the server has given to an event.
    pub saga_id_reserved: bool,
}

impl Ledger {
    /// How many accounts were ever opened.
    #[must_use]
    pub fn account_count(&self) -> usize {
        self.accounts.len()
    }

    /// Whether a caller has chosen this id for a saga.
    #[must_use]
    pub fn has_named_saga(&self, saga_id: SagaId) -> bool {
        self.named_sagas.contains(&saga_id)
    }

    /// An account and its place.
    #[must_use]
    pub fn find(&self, account_id: AccountId) -> Option<(usize, &Account)> {
        let hash = self.hasher.hash_one(account_id);
        let place = self.places.find(hash, |place| {
            self.at(*place).is_some_and(|account| account.id() == account_id)
        })?;
        let index = usize::try_from(*place).ok()?;
        self.accounts.get(index).map(|account| (index, account))
    }

    /// Brings what a command will look up closer to the processor. Asked for many commands in
    /// turn, the waits for memory overlap, which they cannot while one is decided after another.
    pub fn warm(&self, command: &Command) {
        let (one, other) = match &command.action {
            Action::OpenAccount { account_id, .. }
            | Action::DepositMoney { account_id, .. }
            | Action::WithdrawMoney { account_id, .. }
            | Action::CloseAccount { account_id, .. } => (*account_id, None),
            Action::TransferMoney { parties, .. } => (parties.from(), Some(parties.to())),
        };
        for account_id in std::iter::once(one).chain(other) {
            std::hint::black_box(self.find(account_id).map(|(_, account)| account.version()));
        }
    }

    fn at(&self, place: u32) -> Option<&Account> {
        self.accounts.get(usize::try_from(place).ok()?)
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
                let account = self.touch_known(*account_id, *expected_version, decision)?;
                decision.push(0, account.deposit(*amount)?);
            }
            Action::WithdrawMoney { account_id, amount, expected_version, reason: _ } => {
                let account = self.touch_known(*account_id, *expected_version, decision)?;
                decision.push(0, account.withdraw(*amount)?);
            }
            Action::CloseAccount { account_id, expected_version } => {
                let account = self.touch_known(*account_id, *expected_version, decision)?;
                decision.push(0, account.close()?);
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
        u32::try_from(self.accounts.len()).map_err(|_| Refusal::AccountLimit)?;
        decision.touch(self.accounts.len(), account);
        Ok(())
    }

    /// Touches an account that must exist, and have the version that the command expects.
    fn touch_known(
        &self,
        account_id: AccountId,
        expected_version: Option<u64>,
        decision: &mut Decision,
    ) -> Result<&Account, Refusal> {
        let (index, account) =
            self.find(account_id).ok_or(Refusal::AccountNotFound { account_id })?;
        account.expect_version(expected_version)?;
        decision.touch(index, account.clone());
        Ok(account)
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
        let (index, source) =
            self.find(from).ok_or(Refusal::AccountNotFound { account_id: from })?;
        if let Some(saga_id) = chosen_id
            && (context.saga_id_reserved || self.has_named_saga(saga_id))
        {
            return Err(Refusal::SagaExists { saga_id });
        }
        source.expect_active()?;
        decision.touch(index, source.clone());
        if let Some((index, destination)) = self.find(to) {
            if destination.currency() != source.currency() {
                return Err(Refusal::CurrencyMismatch { from, to });
            }
            decision.touch(index, destination.clone());
        }
        Ok(())
    }

    /// Makes a decision the current state. `named_saga` is the id of its saga if a caller chose
    /// it. The decision's events stay; its accounts move into the ledger.
    pub fn commit(&mut self, decision: &mut Decision, named_saga: Option<SagaId>) {
        self.named_sagas.extend(named_saga);
        for (index, account) in decision.drain() {
            match self.accounts.get_mut(index) {
                Some(place) => *place = account,
                None => self.insert(account),
            }
        }
    }

    fn insert(&mut self, account: Account) {
        let Ok(place) = u32::try_from(self.accounts.len()) else {
            unreachable!("opening refuses the account that cannot be numbered")
        };
        let (accounts, hasher) = (&mut self.accounts, &self.hasher);
        let hash = hasher.hash_one(account.id());
        accounts.push(account);
        let hash_of = |place: &u32| {
            let account = usize::try_from(*place).ok().and_then(|index| accounts.get(index));
            account.map_or(0, |account| hasher.hash_one(account.id()))
        };
        self.places.insert_unique(hash, place, hash_of);
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
