//! The state: what the log adds up to, for deciding. A state machine without I/O, clock or
//! randomness: it is driven by commands when live and by entries on replay, and both ways give
//! the same state.

use super::{
    Codec, History, HistoryError,
    chain::{Chain, Versions},
    codec::Malformed,
    entry::{AccountLink, Entry, EntryAccount, SagaEnd, SagaLink, saga_end},
    window::Window,
};
use crate::domain::{
    Account, AccountId, Action, Command, Context, Decision, Inconsistent, Ledger, Principal,
    Refusal, Register, SagaId, Touched,
};

/// What became of a command.
#[derive(Debug)]
pub enum Verdict {
    /// It was accepted; the entry is to be appended.
    Accepted,
    /// It was accepted before, under the same request id; its first event is at `position`.
    Replayed {
        /// Where the earlier command was recorded.
        position: u64,
    },
    /// A rule said no.
    Refused(Refusal),
}

/// Why an entry of the log cannot be folded into the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Its bytes are not an entry.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A fact of it cannot follow on the state of its account.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
    /// It does not follow on the entries before it.
    #[error("an entry does not follow from those before it: {0}")]
    Misplaced(&'static str),
}

/// How far two times must lie apart for event ids to differ.
const MILLISECOND_MICROS: i64 = 1_000;
/// An id that names a position below this is one that the server has given to an event, or may
/// come to give to one: callers choose others. No log comes so far, and hardly an id of anybody
/// else looks like one of these.
const OWN_POSITIONS: u64 = 1 << 40;

/// All accounts, the ways back to their entries, the window of request ids, and the next position.
#[derive(Debug)]
pub struct State {
    codec: Codec,
    /// With the newest end of its chain beside each account.
    ledger: Ledger<Chain>,
    window: Window,
    sagas: NewestSagas,
    next_position: u64,
    newest_time_micros: i64,
    /// Reused from command to command.
    decision: Decision,
}

impl State {
    /// The state of an empty log. Request ids are remembered for `request_id_window` positions.
    #[must_use]
    pub fn new(codec: Codec, request_id_window: u64) -> Self {
        Self {
            codec,
            ledger: Ledger::default(),
            window: Window::new(request_id_window),
            sagas: NewestSagas::default(),
            next_position: 1,
            newest_time_micros: 0,
            decision: Decision::default(),
        }
    }

    /// The state of a log up to a position, without its accounts and named sagas, which are to be
    /// given back one after another, and without the request ids: see [`State::recall`].
    /// `newest_sagas` are the first positions of the newest sagas that completed, failed and were
    /// compensated.
    #[must_use]
    pub fn resumed(
        codec: Codec,
        request_id_window: u64,
        (position, time_micros): (u64, i64),
        [completed, failed, compensated]: [u64; 3],
    ) -> Self {
        Self {
            sagas: NewestSagas { completed, failed, compensated },
            next_position: position.saturating_add(1),
            newest_time_micros: time_micros,
            ..Self::new(codec, request_id_window)
        }
    }

    /// Gives back the account that comes next by number, with the end of its chain; `None` when
    /// there is no further number.
    pub fn give_back_account(&mut self, account: &Account, chain: Chain) -> Option<u32> {
        self.ledger.give_back(account, chain)
    }

    /// Gives back a saga whose id a caller chose.
    pub fn give_back_saga(&mut self, saga_id: SagaId) {
        self.ledger.give_back_saga(saga_id);
    }

    /// Reads the request ids again that are to be remembered of the entries up to a position: up
    /// to where the state was resumed.
    ///
    /// # Errors
    /// [`HistoryError`] when the log cannot be read there.
    pub fn recall(&mut self, history: &History, until: u64) -> Result<(), HistoryError> {
        let oldest = self.window.oldest(self.next_position.saturating_sub(1));
        let (cursor, mut entry, mut found) = (history.cursor(), Entry::default(), Vec::new());
        let mut position = oldest;
        while position <= until {
            for block in cursor.blocks(position)? {
                for record in block.records() {
                    history.decode_into(&record, &mut entry)?;
                    let place = entry.first_position;
                    let request_id = entry.request_id.filter(|_| (oldest..=until).contains(&place));
                    found.extend(request_id.map(|request_id| (place, request_id)));
                }
                position = block.last_position().saturating_add(1);
            }
        }
        self.window.recall(found);
        Ok(())
    }

    /// How entries become bytes.
    #[must_use]
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// The position that the next event will have.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        self.next_position
    }

    /// The ids of all accounts.
    #[must_use]
    pub fn register(&self) -> &Register {
        self.ledger.register()
    }

    /// An account.
    #[must_use]
    pub fn account(&self, account_id: AccountId) -> Option<Account> {
        self.ledger.find(account_id).map(|(_, account)| account)
    }

    /// Makes deciding the commands faster: see [`Ledger::warm`].
    pub(super) fn warm(&self, commands: &[Command]) {
        self.ledger.warm(commands, Chain::touch);
    }

    /// Makes replaying the entries faster.
    pub fn warm_entries(&self, entries: &[Entry]) {
        let accounts = entries.iter().flat_map(|entry| &entry.accounts);
        self.ledger.warm_numbers(accounts.map(|account| account.number), Chain::touch);
    }

    /// Whether a command is remembered by its request id, recorded or about to be.
    #[must_use]
    pub fn remembers(&self, command: &Command) -> bool {
        command.request_id.is_some_and(|request_id| self.window.find(request_id).is_some())
    }

    /// Notes what time it is: nothing is recorded with an earlier time from now on.
    pub fn observe_time(&mut self, now_micros: i64) {
        self.newest_time_micros = self.newest_time_micros.max(now_micros);
    }

    /// Decides a command of a principal that arrives at `now_micros`, and takes what it does into
    /// the state. If it is accepted, `entry` is what it recorded; else `entry` is without meaning.
    /// The memory of `entry` is used again, so that commands in plenty need none of their own.
    pub fn decide(
        &mut self,
        command: &Command,
        principal: Option<&Principal>,
        now_micros: i64,
        entry: &mut Entry,
    ) -> Verdict {
        if let Some(request_id) = command.request_id
            && let Some(position) = self.window.find(request_id)
        {
            return Verdict::Replayed { position };
        }
        let mut time_micros = now_micros.max(self.newest_time_micros);
        let mut saga_id = self.own_saga_id(time_micros);
        while self.ledger.has_named_saga(saga_id) {
            time_micros = time_micros.saturating_add(MILLISECOND_MICROS);
            saga_id = self.own_saga_id(time_micros);
        }
        let context = self.context(command, saga_id);
        let mut decision = std::mem::take(&mut self.decision);
        let verdict = match self.ledger.decide(command, &context, &mut decision) {
            Ok(()) => {
                self.record(command, principal, time_micros, &mut decision, entry);
                Verdict::Accepted
            }
            Err(refusal) => Verdict::Refused(refusal),
        };
        self.decision = decision;
        verdict
    }

    /// The id of a saga that begins now and whose caller chose none: that of its first event. If
    /// a caller has guessed it and chosen it before, as earlier versions let it, the event is said
    /// to be a millisecond later.
    fn own_saga_id(&self, time_micros: i64) -> SagaId {
        SagaId::new(self.codec.ids().at(self.next_position, time_micros))
    }

    fn context(&self, command: &Command, saga_id: SagaId) -> Context {
        let place = |saga_id: SagaId| self.codec.ids().position_of(saga_id.uuid());
        let reserved = named_saga(command).and_then(place);
        Context {
            saga_id,
            saga_id_reserved: reserved.is_some_and(|position| position < OWN_POSITIONS),
        }
    }

    /// Makes the entry of a decision, and takes both into the state.
    fn record(
        &mut self,
        command: &Command,
        principal: Option<&Principal>,
        time_micros: i64,
        decision: &mut Decision,
        entry: &mut Entry,
    ) {
        entry.first_position = self.next_position;
        entry.time_micros = time_micros;
        entry.request_id = command.request_id;
        entry.expected_version = command.action.expected_version();
        entry.id_given = id_given(command);
        entry.saga = self.sagas.link(decision);
        entry.reason = command.action.reason().into();
        if principal.is_some() || entry.principal.is_some() {
            entry.principal = principal.cloned();
        }
        entry.accounts.clear();
        entry.accounts.extend(decision.touched().iter().map(|touched| EntryAccount {
            id: touched.after.id(),
            number: touched.number,
            version: touched.before.version(),
            balance: touched.before.balance(),
            link: self.link(touched),
        }));
        decision.swap_events(&mut entry.events);
        self.commit(entry, decision);
    }

    /// Folds an entry that was recorded earlier into the state.
    ///
    /// # Errors
    /// [`ReplayError`] when it does not follow on the state; the state is then without meaning.
    pub fn replay(&mut self, entry: &Entry) -> Result<(), ReplayError> {
        if entry.first_position != self.next_position {
            return Err(ReplayError::Misplaced("its position"));
        }
        if entry.time_micros < self.newest_time_micros {
            return Err(ReplayError::Misplaced("its time"));
        }
        let mut decision = std::mem::take(&mut self.decision);
        decision.reset(entry.saga.map(|saga| saga.id));
        for account in &entry.accounts {
            let (number, before) = self.before(account)?;
            decision.touch(number, before);
        }
        for event in &entry.events {
            decision.replay(event.slot, event.fact.clone())?;
        }
        let links = decision.touched().iter().map(|touched| self.link(touched));
        if !links.eq(entry.accounts.iter().map(|account| account.link)) {
            return Err(ReplayError::Misplaced("its links"));
        }
        if self.sagas.link(&decision) != entry.saga {
            return Err(ReplayError::Misplaced("its saga"));
        }
        self.commit(entry, &decision);
        self.decision = decision;
        Ok(())
    }

    /// The account that an entry says it found, if that is what the state has.
    fn before(&self, account: &EntryAccount) -> Result<(u32, Account), ReplayError> {
        let (number, before) = if account.version > 0 {
            let numbered = self.ledger.numbered(account.number, account.id);
            (account.number, numbered.ok_or(ReplayError::Misplaced("its account"))?)
        } else if self.ledger.find(account.id).is_none() {
            (self.ledger.account_count(), Account::unopened(account.id))
        } else {
            return Err(ReplayError::Misplaced("its account"));
        };
        let found = (number, before.version(), before.balance());
        if found != (account.number, account.version, account.balance) {
            return Err(ReplayError::Misplaced("its account"));
        }
        Ok((number, before))
    }

    /// The way back from the entry of a decision that touches an account.
    fn link(&self, touched: &Touched) -> AccountLink {
        let chain = self.ledger.beside(touched.number);
        chain.unwrap_or(&Chain::default()).next_link(versions(touched))
    }

    /// Takes a decision and its entry into the state.
    fn commit(&mut self, entry: &Entry, decision: &Decision) {
        let position = entry.first_position;
        self.ledger.commit(decision, entry.saga.map(|saga| saga.id).filter(|_| entry.id_given));
        for touched in decision.touched() {
            if let Some(chain) = self.ledger.beside_mut(touched.number) {
                chain.advance(position, versions(touched));
            }
        }
        self.sagas.advance(entry);
        self.next_position = entry.last_position().saturating_add(1);
        self.newest_time_micros = entry.time_micros;
        if let Some(request_id) = entry.request_id {
            self.window.insert(request_id, position);
        }
        self.window.advance(entry.last_position());
    }
}

fn versions(touched: &Touched) -> Versions {
    Versions { before: touched.before.version(), after: touched.after.version() }
}

fn named_saga(command: &Command) -> Option<SagaId> {
    match &command.action {
        Action::TransferMoney { saga_id, .. } => *saga_id,
        Action::OpenAccount { .. }
        | Action::DepositMoney { .. }
        | Action::WithdrawMoney { .. }
        | Action::CloseAccount { .. } => None,
    }
}

fn id_given(command: &Command) -> bool {
    match &command.action {
        Action::OpenAccount { account_id_given, .. } => *account_id_given,
        Action::TransferMoney { saga_id, .. } => saga_id.is_some(),
        Action::DepositMoney { .. }
        | Action::WithdrawMoney { .. }
        | Action::CloseAccount { .. } => false,
    }
}

/// The positions of the newest sagas by the way they ended; 0 where there is none.
#[derive(Clone, Copy, Debug, Default)]
struct NewestSagas {
    completed: u64,
    failed: u64,
    compensated: u64,
}

impl NewestSagas {
    fn of(&mut self, end: SagaEnd) -> &mut u64 {
        match end {
            SagaEnd::Completed => &mut self.completed,
            SagaEnd::Failed(_) => &mut self.failed,
            SagaEnd::Compensated(_) => &mut self.compensated,
        }
    }

    /// The link of the saga that a decision carries out.
    fn link(mut self, decision: &Decision) -> Option<SagaLink> {
        let end = saga_end(decision.events())?;
        Some(SagaLink { id: decision.saga_id()?, previous: *self.of(end) })
    }

    fn advance(&mut self, entry: &Entry) {
        if let Some(end) = entry.saga_end() {
            *self.of(end) = entry.first_position;
        }
    }
}
