//! Owners: each name once, and the way to the accounts of each.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// All owners by the order in which they first appeared.
#[derive(Debug, Default)]
pub(super) struct Owners {
    rows: Vec<OwnerRow>,
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// An owner.
#[derive(Debug)]
pub(super) struct OwnerRow {
    pub(super) name: Box<str>,
    /// The oldest account of the owner; each account leads to the next.
    pub(super) first_account: u32,
    /// The newest account of the owner.
    pub(super) last_account: u32,
    pub(super) account_count: u32,
    pub(super) closed_count: u32,
}

impl Owners {
    pub(super) fn find(&self, name: &str) -> Option<(u32, &OwnerRow)> {
        let hash = self.hasher.hash_one(name);
        let is_it = |place: &u32| self.at(*place).is_some_and(|row| &*row.name == name);
        let place = *self.places.find(hash, is_it)?;
        Some((place, self.at(place)?))
    }

    pub(super) fn at(&self, place: u32) -> Option<&OwnerRow> {
        self.rows.get(usize::try_from(place).ok()?)
    }

    pub(super) fn at_mut(&mut self, place: u32) -> Option<&mut OwnerRow> {
        self.rows.get_mut(usize::try_from(place).ok()?)
    }

    /// Adds an account to the owner of this name. Gives the owner's place and the account that
    /// was the owner's newest before.
    pub(super) fn add_account(&mut self, name: &str, account: u32) -> (u32, Option<u32>) {
        let known = self.find(name).map(|(place, _)| place);
        let added =
            known.and_then(|place| Some((place, Some(self.add_account_of(place, account)?))));
        added.unwrap_or_else(|| (self.insert(name, account), None))
    }

    /// Adds an account to the owner at a place. Gives the account that was the owner's newest
    /// before.
    pub(super) fn add_account_of(&mut self, place: u32, account: u32) -> Option<u32> {
        let row = self.at_mut(place)?;
        row.account_count = row.account_count.saturating_add(1);
        Some(std::mem::replace(&mut row.last_account, account))
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    fn insert(&mut self, name: &str, account: u32) -> u32 {
        let Ok(place) = u32::try_from(self.rows.len()) else {
            unreachable!("there are no more owners than accounts")
        };
        self.rows.push(OwnerRow {
            name: name.into(),
            first_account: account,
            last_account: account,
            account_count: 1,
            closed_count: 0,
        });
        let (rows, hasher) = (&self.rows, &self.hasher);
        let hash_of = |place: &u32| {
            let row = usize::try_from(*place).ok().and_then(|place| rows.get(place));
            row.map_or(0, |row| hasher.hash_one(&*row.name))
        };
        self.places.insert_unique(hasher.hash_one(name), place, hash_of);
        place
    }
}
