//! Believed JWTs: known by their hashes once their signatures were found to be right, so that these
//! are verified once and not for each call.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::{Trust, lock, token::TokenHash};

/// How many are known. When there are more, and none of them has expired, all are verified anew.
const BELIEVED_MAX: usize = 4_096;

/// What a token that may be believed says.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) subject: Arc<str>,
    /// Of the key that it was signed with.
    pub(super) key: Arc<Trust>,
    /// From when on it must not be believed any more, in seconds since 1970.
    pub(super) ends: i64,
}

/// The tokens that the keys of a file have verified.
#[derive(Debug, Default)]
pub(super) struct Believed(Mutex<HashMap<TokenHash, Claimed>>);

impl Believed {
    pub(super) fn get(&self, token: &TokenHash) -> Option<Claimed> {
        lock(&self.0).get(token).cloned()
    }

    /// Remembers one, in the second `now`.
    pub(super) fn add(&self, token: TokenHash, claimed: Claimed, now: i64) {
        let mut tokens = lock(&self.0);
        if tokens.len() >= BELIEVED_MAX {
            tokens.retain(|_, claimed| claimed.ends > now);
        }
        if tokens.len() >= BELIEVED_MAX {
            tokens.clear();
        }
        tokens.insert(token, claimed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_remembered() {
        let believed = Believed::default();
        let claimed = |ends| Claimed { subject: "till".into(), key: Arc::new(Trust::new()), ends };
        let hash = |number: usize| TokenHash::of(&number.to_string());
        for number in 0..BELIEVED_MAX {
            let ends = if number == 0 { 100 } else { 10 };
            believed.add(hash(number), claimed(ends), 5);
        }
        assert!(believed.get(&hash(1)).is_some());
        believed.add(hash(BELIEVED_MAX), claimed(100), 10);
        assert!(believed.get(&hash(1)).is_none(), "it has expired");
        assert_eq!(believed.get(&hash(0)).unwrap().ends, 100);
        for number in 1..=2 * BELIEVED_MAX {
            believed.add(hash(number), claimed(100), 10);
        }
        assert!(lock(&believed.0).len() <= BELIEVED_MAX);
    }
}
