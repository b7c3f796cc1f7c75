//! The gate: finds out who calls, by what the files say now.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tracing::info;

use super::{
    Attempts, Audit, Caller, CertificateNames, Limits, LoadError, Trust,
    believed::Claimed,
    credentials::Credentials,
    file::Named,
    jwt::{JwtKeys, Unbelieved},
    token::{self, TokenHash},
};
use crate::ops::{
    Changes, Clock, Followed,
    config::{Config, JwtConfig},
};

/// The scheme of bearer tokens, in small letters.
const BEARER: &str = "bearer";

/// Knows who may come in. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Watched>);

struct Watched {
    credentials: Named,
    jwt: Option<(Named, JwtConfig)>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    audit: Audit,
    known: RwLock<Arc<Known>>,
    /// The files, as they looked before they were read for the first time.
    files: Followed,
}

/// What the files say.
#[derive(Debug)]
struct Known {
    credentials: Credentials,
    jwt: Option<JwtKeys>,
}

/// Who a call is from.
#[derive(Debug)]
pub struct Identity {
    /// Who may call, and what.
    pub caller: Caller,
    /// What its JWT was signed with, if it has shown one: that may be taken away as well.
    pub key: Option<Arc<Trust>>,
    /// After how long what it showed is not good any more, if it ends by itself.
    pub expires_in: Option<Duration>,
}

/// Why nobody is known by what a call has shown: as its caller may know it, and for the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What the caller may know.
    pub why: Denied,
    /// What was wrong with what was shown, if something was.
    pub cause: Option<&'static str>,
}

impl From<Unbelieved> for Denial {
    fn from(why: Unbelieved) -> Self {
        Self { why: Denied::Invalid, cause: Some(why.name()) }
    }
}

/// A certificate that is nobody's.
const CERTIFICATE: Denial = Denial { why: Denied::Invalid, cause: Some("certificate") };

/// Why nobody is known by what a call has shown, as its caller may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It has shown nothing.
    Missing,
    /// It has shown something that is nobody's, or not any more.
    Invalid,
    /// It has shown a JWT that would have to be verified, and too many with a wrong signature came
    /// over its connection.
    TooOften,
}

impl Gate {
    /// Reads the files that the configuration names; none if it names none, and everybody may come
    /// in. JWTs expire by `clock`.
    ///
    /// # Errors
    /// [`LoadError`] when a file cannot be read or is not right.
    pub fn load(config: &Config, clock: Arc<dyn Clock>) -> Result<Option<Self>, LoadError> {
        let Some(path) = &config.credentials else { return Ok(None) };
        let credentials = Named { setting: "credentials", path: path.clone(), is_secret: true };
        let jwt = config.jwt.clone().map(|jwt| {
            (Named { setting: "jwt_keys", path: jwt.keys.clone(), is_secret: false }, jwt)
        });
        let limits = Limits {
            calls: config.calls_per_principal,
            rate: config.rate_per_principal,
            tails: config.tails_per_principal,
        };
        let nobody = Known { credentials: Credentials::default(), jwt: None };
        let known = RwLock::new(Arc::new(nobody));
        let audit = Audit::new();
        let keys = jwt.as_ref().map(|(file, _)| &file.path);
        let files = Followed::new([&credentials.path].into_iter().chain(keys).cloned().collect());
        let gate = Self(Arc::new(Watched { credentials, jwt, limits, clock, audit, known, files }));
        let (principals, keys) = gate.reload()?;
        info!(target: "daybook::audit", principals, keys, "credentials were read");
        Ok(Some(gate))
    }

    /// Who a call is from, by its `authorization`, or else by the names of the certificate that it
    /// came with. What it says itself counts more: one who shows a wrong token is not let in by a
    /// good certificate. `attempts` are those of its connection.
    ///
    /// # Errors
    /// [`Denial`] when that is nobody.
    pub fn identify(
        &self,
        authorization: Option<&[u8]>,
        names: Option<&CertificateNames>,
        attempts: Option<&Attempts>,
    ) -> Result<Identity, Denial> {
        let known = self.known();
        if let Some(value) = authorization {
            let token = bearer(value).ok_or(Unbelieved::Unknown)?;
            return self.by_token(&known, token, attempts);
        }
        let names = names.ok_or(Denial { why: Denied::Missing, cause: None })?;
        let caller = known.credentials.by_certificate(names).cloned().ok_or(CERTIFICATE)?;
        let expires_in = left(names.ends(), self.now()).ok_or(Unbelieved::Expired)?;
        Ok(Identity { caller, key: None, expires_in: Some(expires_in) })
    }

    fn by_token(
        &self,
        known: &Known,
        token: &str,
        attempts: Option<&Attempts>,
    ) -> Result<Identity, Denial> {
        let hash = TokenHash::of(token);
        if let Some(caller) = known.credentials.by_token(&hash) {
            return Ok(Identity { caller: caller.clone(), key: None, expires_in: None });
        }
        let (claimed, now) = (self.claimed(known, token, hash, attempts)?, self.now());
        let caller = known.credentials.by_subject(&claimed.subject);
        let caller = caller.ok_or(Unbelieved::Subject)?.clone();
        let expires_in = left(claimed.ends, now).ok_or(Unbelieved::Expired)?;
        Ok(Identity { caller, key: Some(claimed.key), expires_in: Some(expires_in) })
    }

    /// What a JWT says, if it may be believed.
    fn claimed(
        &self,
        known: &Known,
        token: &str,
        hash: TokenHash,
        attempts: Option<&Attempts>,
    ) -> Result<Claimed, Denial> {
        let jwt = known.jwt.as_ref().zip(self.0.jwt.as_ref());
        let (keys, (_, config)) = jwt.ok_or(Unbelieved::Unknown)?;
        if let Some(claimed) = keys.believed.get(&hash) {
            return Ok(claimed);
        }
        // What no token can be is not parsed.
        token::check(token).map_err(|_| Unbelieved::Unknown)?;
        let key = keys.of_token(token)?;
        if attempts.is_some_and(|attempts| !attempts.are_left()) {
            return Err(Denial { why: Denied::TooOften, cause: None });
        }
        let now = self.now();
        let claimed = key.verify(token, &config.issuer, &config.audience, now);
        if let (Err(Unbelieved::Signature), Some(attempts)) = (&claimed, attempts) {
            attempts.count();
        }
        let claimed = claimed?;
        keys.believed.add(hash, claimed.clone(), now);
        Ok(claimed)
    }

    /// The time, in whole seconds since 1970.
    fn now(&self) -> i64 {
        self.0.clock.now_micros().div_euclid(1_000_000)
    }

    /// Where denied calls are told.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// Reads the files again and, if both are right, goes by them from now on. Gives how many
    /// principals and keys there are.
    pub(super) fn reload(&self) -> Result<(usize, usize), LoadError> {
        let Watched { credentials: file, jwt, limits, .. } = &*self.0;
        let before = self.known();
        let text = file.read()?;
        let credentials = Credentials::parse(&text, &before.credentials, *limits);
        let credentials = credentials.map_err(|wrong| file.wrong(wrong))?;
        let keys = |(file, _): &(Named, JwtConfig)| {
            JwtKeys::parse(&file.read()?, before.jwt.as_ref()).map_err(|wrong| file.wrong(wrong))
        };
        let jwt = jwt.as_ref().map(keys).transpose()?;
        let counts = (credentials.len(), jwt.as_ref().map_or(0, JwtKeys::len));
        let after = Arc::new(Known { credentials, jwt });
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&after);
        before.credentials.revoke_all_but(&after.credentials);
        if let (Some(before), Some(after)) = (&before.jwt, &after.jwt) {
            before.revoke_all_but(after);
        }
        Ok(counts)
    }

    /// What changes of the files since they were read for the first time.
    pub(super) fn changes(&self) -> Changes {
        self.0.files.clone().changes()
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long it is from one second to another that is later.
fn left(ends: i64, now: i64) -> Option<Duration> {
    let seconds = u64::try_from(ends.checked_sub(now)?).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// What an `authorization` shows, if its scheme is ours.
fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim_start_matches(' '))
}

#[cfg(test)]
mod tests;
