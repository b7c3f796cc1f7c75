//! An account: its state, the rules of its own, and the fold of its events.

use super::{AccountId, Amount, Balance, CurrencyCode, Fact, Refusal, SagaId, pending::Pending};

/// Whether an account takes commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountState {
    /// Open.
    Active,
    /// Closed for ever.
    Closed,
}

/// The current state of an account: what deciding needs, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    id: AccountId,
    compact: Compact,
    /// The transfers from here that have begun and not ended.
    pending: Pending,
}

/// The state of an account but for its id and its pending transfers: what is kept of each, and
/// there may be millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compact {
    balance: Balance,
    version: u64,
    kind: Kind,
}

/// Currency and state in one word, because there may be millions of accounts: the currency as
/// [`CurrencyCode::packed`], which leaves the highest bit free, and that bit set when closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind(u64);

impl Kind {
    const CLOSED: u64 = 1 << 63;

    const fn new(currency: CurrencyCode) -> Self {
        Self(currency.packed())
    }

    const fn closed(self) -> Self {
        Self(self.0 | Self::CLOSED)
    }

    fn state(self) -> AccountState {
        if self.0 & Self::CLOSED == 0 { AccountState::Active } else { AccountState::Closed }
    }

    fn currency(self) -> CurrencyCode {
        match CurrencyCode::from_packed(self.0 & !Self::CLOSED) {
            Some(currency) => currency,
            None => unreachable!("it was packed from a currency"),
        }
    }
}

/// A fact that cannot follow on an account's state. Live it is a defect; on replay, damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event does not follow from the state of its account")]
pub struct Inconsistent;

impl Compact {
    /// An account before its first event.
    pub const UNOPENED: Self =
        Self { balance: Balance::ZERO, version: 0, kind: Kind::new(CurrencyCode::USD) };

    /// The state of an account that has been opened.
    #[must_use]
    pub fn new(
        currency: CurrencyCode,
        state: AccountState,
        balance: Balance,
        version: u64,
    ) -> Self {
        let kind = match state {
            AccountState::Active => Kind::new(currency),
            AccountState::Closed => Kind::new(currency).closed(),
        };
        Self { balance, version, kind }
    }

    /// What it holds.
    #[must_use]
    pub fn balance(&self) -> Balance {
        self.balance
    }

    /// How many events it has.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it takes commands.
    #[must_use]
    pub fn state(&self) -> AccountState {
        self.kind.state()
    }

    /// Its currency; without meaning before it is opened.
    #[must_use]
    pub fn currency(&self) -> CurrencyCode {
        self.kind.currency()
    }
}

impl Account {
    /// An account before its first event.
    #[must_use]
    pub fn unopened(id: AccountId) -> Self {
        Self::of(id, Compact::UNOPENED)
    }

    /// An open account as it was before some event, none of its transfers pending.
    #[must_use]
    pub fn resumed(id: AccountId, currency: CurrencyCode, balance: Balance, version: u64) -> Self {
        Self::of(id, Compact::new(currency, AccountState::Active, balance, version))
    }

    /// An account none of whose transfers is pending.
    #[must_use]
    pub fn of(id: AccountId, compact: Compact) -> Self {
        Self::new(id, compact, Pending::None)
    }

    pub(super) fn new(id: AccountId, compact: Compact, pending: Pending) -> Self {
        Self { id, compact, pending }
    }

    /// Its state, but for its pending transfers.
    #[must_use]
    pub fn compact(&self) -> Compact {
        self.compact
    }

    pub(super) fn pending_set(&self) -> &Pending {
        &self.pending
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// Its currency; without meaning before it is opened.
    #[must_use]
    pub fn currency(&self) -> CurrencyCode {
        self.compact.currency()
    }

    /// What it holds.
    #[must_use]
    pub fn balance(&self) -> Balance {
        self.compact.balance
    }

    /// How many events it has.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.compact.version
    }

    /// Whether it takes commands.
    #[must_use]
    pub fn state(&self) -> AccountState {
        self.compact.state()
    }

    /// The transfers from it that have begun and not ended, in ascending order.
    pub fn pending(&self) -> impl Iterator<Item = SagaId> {
        self.pending.as_slice().iter().copied()
    }

    /// That it has the version which a command expects.
    pub(super) fn expect_version(&self, expected: Option<u64>) -> Result<(), Refusal> {
        match expected {
            Some(expected) if expected != self.version() => Err(Refusal::VersionMismatch {
                account_id: self.id,
                expected,
                actual: self.version(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// That it is open.
    pub(super) fn expect_active(&self) -> Result<(), Refusal> {
        match self.state() {
            AccountState::Active => Ok(()),
            AccountState::Closed => Err(Refusal::AccountClosed { account_id: self.id }),
        }
    }

    /// Adds money.
    pub(super) fn deposit(&self, amount: Amount) -> Result<Fact, Refusal> {
        self.expect_active()?;
        let balance =
            self.balance().plus(amount).ok_or(Refusal::BalanceLimit { account_id: self.id })?;
        Ok(Fact::MoneyDeposited { amount, balance, compensation: false })
    }

    /// Takes money, never more than there is.
    pub(super) fn withdraw(&self, amount: Amount) -> Result<Fact, Refusal> {
        self.expect_active()?;
        let balance = self
            .balance()
            .minus(amount)
            .ok_or(Refusal::InsufficientFunds { account_id: self.id })?;
        Ok(Fact::MoneyWithdrawn { amount, balance })
    }

    /// Closes it.
    pub(super) fn close(&self) -> Result<Fact, Refusal> {
        self.expect_active()?;
        if self.balance() != Balance::ZERO {
            return Err(Refusal::BalanceNotZero { account_id: self.id, balance: self.balance() });
        }
        if !self.pending.is_empty() {
            return Err(Refusal::TransferPending { account_id: self.id });
        }
        Ok(Fact::AccountClosed)
    }

    /// Folds a fact into the state. `saga_id` is the transfer that the fact belongs to.
    ///
    /// # Errors
    /// [`Inconsistent`] when the fact cannot follow on the state, which is then unchanged.
    pub fn evolve(&mut self, fact: &Fact, saga_id: Option<SagaId>) -> Result<(), Inconsistent> {
        let opening = matches!(fact, Fact::AccountOpened { .. });
        if opening != (self.version() == 0) || self.state() == AccountState::Closed {
            return Err(Inconsistent);
        }
        match fact {
            Fact::AccountOpened { owner: _, currency, initial_balance } => {
                self.compact.kind = Kind::new(*currency);
                self.compact.balance = *initial_balance;
            }
            Fact::MoneyDeposited { amount, balance, compensation: _ } => {
                self.set_balance(self.balance().plus(*amount), *balance)?;
            }
            Fact::MoneyWithdrawn { amount, balance } => {
                self.set_balance(self.balance().minus(*amount), *balance)?;
            }
            Fact::TransferInitiated { to, amount: _ } => {
                if *to == self.id || !self.pending.insert(saga_id.ok_or(Inconsistent)?) {
                    return Err(Inconsistent);
                }
            }
            // It may have been begun elsewhere.
            Fact::TransferCompleted => {
                self.pending.remove(saga_id.ok_or(Inconsistent)?);
            }
            Fact::TransferFailed { error: _ } => {
                if !self.pending.remove(saga_id.ok_or(Inconsistent)?) {
                    return Err(Inconsistent);
                }
            }
            Fact::AccountClosed => {
                if self.balance() != Balance::ZERO || !self.pending.is_empty() {
                    return Err(Inconsistent);
                }
                self.compact.kind = self.compact.kind.closed();
            }
        }
        self.compact.version = self.version().checked_add(1).ok_or(Inconsistent)?;
        Ok(())
    }

    fn set_balance(&mut self, reached: Option<Balance>, said: Balance) -> Result<(), Inconsistent> {
        if reached != Some(said) {
            return Err(Inconsistent);
        }
        self.compact.balance = said;
        Ok(())
    }
}
