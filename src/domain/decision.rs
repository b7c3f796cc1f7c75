//! A decision: what a command does, before it is done.

use super::{Account, Compact, Event, Fact, Inconsistent, SagaId};

/// The events of one accepted command, and the accounts as they are before and after them.
///
/// It can be reused from command to command, so that deciding allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    saga_id: Option<SagaId>,
    touched: Vec<Touched>,
    events: Vec<Event>,
}

/// An account that a decision touches.
#[derive(Clone, Debug)]
pub struct Touched {
    /// Its number: how many accounts were opened before it.
    pub number: u32,
    /// Its state before the decision.
    pub before: Compact,
    /// Its state after the events so far.
    pub after: Account,
}

impl Decision {
    /// The saga that the events belong to.
    #[must_use]
    pub fn saga_id(&self) -> Option<SagaId> {
        self.saga_id
    }

    /// The accounts, in the order in which they were touched: of a transfer, the source first.
    #[must_use]
    pub fn touched(&self) -> &[Touched] {
        &self.touched
    }

    /// The events in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Forgets all, for the next command; `saga_id` is the saga that its events will belong to.
    pub fn reset(&mut self, saga_id: Option<SagaId>) {
        self.saga_id = saga_id;
        self.touched.clear();
        self.events.clear();
    }

    /// Adds an account, and gives the slot that its events name.
    pub fn touch(&mut self, number: u32, account: Account) -> usize {
        self.touched.push(Touched { number, before: account.compact(), after: account });
        self.touched.len().saturating_sub(1)
    }

    /// The account of a slot, after the events so far.
    pub(super) fn account(&self, slot: usize) -> &Account {
        match self.touched.get(slot) {
            Some(touched) => &touched.after,
            None => unreachable!("slots come from touch()"),
        }
    }

    /// Adds an event that a rule allowed.
    pub(super) fn push(&mut self, slot: usize, fact: Fact) {
        let followed = self.replay(slot, fact);
        assert!(followed.is_ok(), "a rule allowed what cannot follow");
    }

    /// Adds an event that was recorded earlier.
    ///
    /// # Errors
    /// [`Inconsistent`] when it cannot follow.
    pub fn replay(&mut self, slot: usize, fact: Fact) -> Result<(), Inconsistent> {
        let touched = self.touched.get_mut(slot).ok_or(Inconsistent)?;
        touched.after.evolve(&fact, self.saga_id)?;
        self.events.push(Event { slot, fact });
        Ok(())
    }

    /// Gives the events away, and takes the memory of others for the next command's.
    pub fn swap_events(&mut self, events: &mut Vec<Event>) {
        std::mem::swap(&mut self.events, events);
    }

    /// Lets go of the last account if nothing happened to it.
    pub(super) fn release_idle(&mut self) {
        let last = self.touched.len().saturating_sub(1);
        if self.events.iter().all(|event| event.slot != last) {
            self.touched.pop();
        }
    }
}
