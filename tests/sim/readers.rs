//! The readers: what books and log tell, against the model.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{node::Node, world::World};
use crate::{
    domain::{AccountId, AccountState, Balance, Principal},
    event_store::HistoryError,
    views::{AsOf, AsOfError, Direction, account_as_of, list_events},
};

/// What a log tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The events of each account: the position, and the balance right after.
    pub(super) accounts: BTreeMap<Uuid, Vec<(u64, i64)>>,
    /// Who caused the event at each position, from 1.
    pub(super) principals: Vec<Option<String>>,
}

impl Told {
    /// How far it came.
    pub(super) fn head(&self) -> u64 {
        self.principals.len() as u64
    }
}

impl World {
    /// The log from its beginning, and the books, against the model.
    pub(super) fn check_all(&mut self, node: &Node) {
        self.check_log(node);
        self.check_books(node);
        self.tally.positions += self.model.head;
        let known = self.model.principals.iter().flatten();
        self.tally.principals += known.count() as u64;
    }

    /// The log from its beginning, against the model.
    pub(super) fn check_log(&self, node: &Node) {
        let found = told_by_log(node, self.model.head).expect("the log can be read");
        assert_eq!(found.head(), self.model.head);
        assert_eq!(found, self.told(), "the events of the log");
    }

    /// What the log is to tell.
    pub(super) fn told(&self) -> Told {
        let accounts = self.model.accounts.iter().map(|(id, it)| (*id, it.events.clone()));
        Told { accounts: accounts.collect(), principals: self.model.principals.clone() }
    }

    fn check_books(&self, node: &Node) {
        let books = node.books();
        assert_eq!(books.position(), self.model.head);
        for (id, expected) in &self.model.accounts {
            let view = books.account(AccountId::new(*id)).expect("it was opened");
            let is_closed = view.account.state() == AccountState::Closed;
            let (balance, version) = (view.account.balance().minor(), view.account.version());
            assert_eq!((balance, version), (expected.balance(), expected.version()));
            assert_eq!(
                (is_closed, view.currency().packed()),
                (expected.is_closed, expected.currency)
            );
        }
        let totals = books.totals();
        assert_eq!(totals.account_count, self.model.accounts.len() as u64);
    }

    /// A tail goes on from where it was, as far as it likes; it outlives the process that it reads
    /// from.
    pub(super) fn tail(&mut self, node: &Node) {
        let head = node.history.log().head().position;
        let wanted = self.tailed.len() as u64 + 1 + self.rng.below(40) as u64;
        let cursor = node.history.cursor();
        while (self.tailed.len() as u64) < head.min(wanted) {
            let next = self.tailed.len() as u64 + 1;
            let blocks = cursor.blocks(next).expect("the log can be read");
            let records = blocks.iter().flat_map(|block| block.records());
            for record in records.filter(|record| record.first_position >= next) {
                let entry = node.history.decode(&record).expect("it is an entry");
                assert_eq!(entry.first_position, self.tailed.len() as u64 + 1, "a gap");
                let events = entry.numbered().map(|event| (event.account.id.uuid(), event.version));
                self.tailed.extend(events);
            }
        }
        self.tally.tails += 1;
    }

    /// What a tail was told stays, at the positions that it was told, also of commands that nobody
    /// has heard the end of.
    pub(super) fn check_tail(&self) {
        let mut events = vec![None; self.model.head as usize];
        for (id, account) in &self.model.accounts {
            for (version, (position, _)) in (1..).zip(&account.events) {
                events[*position as usize - 1] = Some((*id, version));
            }
        }
        for (index, told) in self.tailed.iter().enumerate() {
            let found = events.get(index).copied().flatten();
            assert_eq!(found, Some(*told), "what was shown at position {} is gone", index + 1);
        }
    }

    /// A reader looks at an account: now, as of an earlier position, and at a page of its events;
    /// or adds all money up at one position.
    pub(super) fn read(&mut self, node: &Node) {
        let id = self.account();
        let books = node.books();
        if books.position() != self.model.head {
            return;
        }
        let (view, expected) = (books.account(id), self.model.accounts.get(&id.uuid()));
        assert_eq!(view.is_some(), expected.is_some());
        let (Some(view), Some(expected)) = (view, expected) else { return };
        drop(books);
        let position = self.rng.below(1 + self.model.head as usize) as u64;
        let mut cursor = node.history.cursor();
        match account_as_of(&mut cursor, &view, AsOf::Position(position)) {
            Ok((then, _)) => {
                let (version, balance) = expected.at(position);
                assert_eq!(
                    (then.account.version(), then.account.balance().minor()),
                    (version, balance)
                );
            }
            Err(AsOfError::BeforeOpening) => assert_eq!(expected.at(position).0, 0),
            Err(error) => panic!("{error}"),
        }
        let after = self.rng.below(1 + expected.events.len()) as u64;
        let page = list_events(&mut cursor, &view, (after, u64::MAX), Direction::OldestFirst, 5);
        let page = page.expect("the log can be read");
        let places: Vec<u64> =
            page.events.iter().map(|event| event.numbered().unwrap().position).collect();
        let wanted: Vec<u64> =
            expected.events.iter().skip(after as usize).take(5).map(|(place, _)| *place).collect();
        assert_eq!(places, wanted, "a page of the history");
        self.tally.reads += 1;
        self.add_up(node, position);
    }

    /// All money at one position.
    fn add_up(&mut self, node: &Node, position: u64) {
        let mut cursor = node.history.cursor();
        let mut sum = 0;
        for id in self.model.accounts.keys() {
            let view = node.books().account(AccountId::new(*id)).expect("it was opened");
            match account_as_of(&mut cursor, &view, AsOf::Position(position)) {
                Ok((then, _)) => sum += then.account.balance().minor(),
                Err(AsOfError::BeforeOpening) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(sum, self.model.money_at(position), "the money at position {position}");
        self.tally.sums += 1;
    }
}

/// What the log tells up to a position.
pub(super) fn told_by_log(node: &Node, head: u64) -> Result<Told, HistoryError> {
    let (mut told, mut cursor, mut time) = (Told::default(), node.history.cursor(), 0);
    while told.head() < head {
        let next = told.head() + 1;
        let entry = cursor.entry(next)?;
        assert_eq!(entry.first_position, next, "positions have no gaps");
        let name = entry.principal.as_ref().map(Principal::as_str);
        assert!(entry.time_micros >= time, "time goes back within the log");
        time = entry.time_micros;
        for event in entry.numbered() {
            let events = told.accounts.entry(event.account.id.uuid()).or_default();
            let balance = events.last().map_or(0, |(_, balance)| *balance);
            let balance = event.fact.balance_after().map_or(balance, Balance::minor);
            events.push((event.position, balance));
            assert_eq!(event.version, events.len() as u64, "versions have no gaps");
            told.principals.push(name.map(str::to_owned));
            assert_eq!(event.position, told.head());
        }
    }
    Ok(told)
}
