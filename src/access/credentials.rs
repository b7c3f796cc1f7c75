//! Credentials: the file that says who there is, and by what each is known.
//!
//! ```toml
//! [[principal]]
//! name = "till-7"
//! role = "writer"                       # or reader, or admin
//! token_sha256 = ["…", "…"]             # the hashes of its bearer tokens
//! certificate = ["till-7.example.com"]  # names in its client certificate
//! subject = ["till-7"]                  # the sub of its JWTs
//! accounts = ["…"]                      # the only accounts that it may touch and see
//! ```

use std::collections::{HashMap, HashSet};

use super::{
    Caller, Limits, Role,
    certificate::{CertificateName, CertificateNames},
    file::Wrong,
    quota::Quota,
    token::TokenHash,
};
use crate::domain::{AccountId, Principal};

mod parse;

/// How many hashes of tokens there may be: each call is compared with all of them, which takes
/// less than a tenth of a millisecond then.
const TOKENS_MAX: usize = 1_024;

/// What the file says of one principal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    principal: Principal,
    role: Role,
    tokens: HashSet<TokenHash>,
    certificates: HashSet<CertificateName>,
    subjects: HashSet<Box<str>>,
    accounts: Option<HashSet<AccountId>>,
}

/// Who there is. Replaced as a whole when the file has changed.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    tokens: Vec<(TokenHash, Caller)>,
    certificates: HashMap<CertificateName, Caller>,
    subjects: HashMap<Box<str>, Caller>,
    known: HashMap<Principal, (Row, Caller)>,
}

impl Credentials {
    /// Reads what the file says. Principals of whom it still says what it said before, or more,
    /// stay the callers that they are in `before`; the others are revoked once `before` is
    /// replaced, see [`Credentials::revoke_all_but`].
    ///
    /// # Errors
    /// [`Wrong`] with the line and what is wrong there.
    pub(super) fn parse(text: &str, before: &Self, limits: Limits) -> Result<Self, Wrong> {
        let mut credentials = Self::default();
        for row in parse::rows(text)? {
            let caller = before.caller_of(&row, limits);
            for token in &row.tokens {
                credentials.tokens.push((*token, caller.clone()));
            }
            for name in &row.certificates {
                credentials.certificates.insert(name.clone(), caller.clone());
            }
            for subject in &row.subjects {
                credentials.subjects.insert(subject.clone(), caller.clone());
            }
            credentials.known.insert(row.principal.clone(), (row, caller));
        }
        Ok(credentials)
    }

    fn caller_of(&self, row: &Row, limits: Limits) -> Caller {
        let make =
            |quota| Caller::new(row.principal.clone(), row.role, row.accounts.clone(), quota);
        match self.known.get(&row.principal) {
            Some((old, caller)) if row.has_all_of(old) => caller.clone(),
            // What it has open still counts.
            Some((_, caller)) => make(std::sync::Arc::clone(caller.quota())),
            None => make(std::sync::Arc::new(Quota::new(limits))),
        }
    }

    /// Ends what callers have open that are no callers any more in `after`.
    pub(super) fn revoke_all_but(&self, after: &Self) {
        for (principal, (old, caller)) in &self.known {
            let stays = after.known.get(principal).is_some_and(|(row, _)| row.has_all_of(old));
            if !stays {
                caller.revoke();
            }
        }
    }

    /// Whose token it is. Each hash is looked at, so that the time says nothing of any of them.
    pub(super) fn by_token(&self, presented: &TokenHash) -> Option<&Caller> {
        let mut found = None;
        for (hash, caller) in &self.tokens {
            if hash.is(presented) {
                found = Some(caller);
            }
        }
        found
    }

    /// Whose certificate it is: none if its names belong to several principals.
    pub(super) fn by_certificate(&self, names: &CertificateNames) -> Option<&Caller> {
        let mut found: Option<&Caller> = None;
        for caller in names.iter().filter_map(|name| self.certificates.get(name)) {
            if found.is_some_and(|other| other.principal() != caller.principal()) {
                return None;
            }
            found = Some(caller);
        }
        found
    }

    /// Whose JWT it is.
    pub(super) fn by_subject(&self, subject: &str) -> Option<&Caller> {
        self.subjects.get(subject)
    }

    /// How many principals there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

impl Row {
    /// Whether nothing was taken from it: more tokens are no reason to end what it has open.
    fn has_all_of(&self, old: &Self) -> bool {
        self.role == old.role
            && self.accounts == old.accounts
            && self.tokens.is_superset(&old.tokens)
            && self.certificates.is_superset(&old.certificates)
            && self.subjects.is_superset(&old.subjects)
    }
}

#[cfg(test)]
mod tests;
