//! Callers: who a call is from, once that is known.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Exceeded, Place, Trust,
    policy::{Kind, Role},
    quota::Quota,
};
use crate::domain::{AccountId, Principal};

/// A principal that may call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

#[derive(Debug)]
struct Known {
    principal: Principal,
    role: Role,
    /// The accounts that it is limited to, if it is.
    accounts: Option<HashSet<AccountId>>,
    quota: Arc<Quota>,
    /// Lasts while the credentials say of it all that they said.
    trust: Trust,
}

impl Caller {
    pub(super) fn new(
        principal: Principal,
        role: Role,
        accounts: Option<HashSet<AccountId>>,
        quota: Arc<Quota>,
    ) -> Self {
        Self(Arc::new(Known { principal, role, accounts, quota, trust: Trust::new() }))
    }

    /// Who it is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }

    /// What it is there for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// Whether there are accounts that it may not touch, and whose existence it must not learn.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.accounts.is_some()
    }

    /// Whether it may touch and see this account.
    #[must_use]
    pub fn may_touch(&self, account_id: AccountId) -> bool {
        self.0.accounts.as_ref().is_none_or(|accounts| accounts.contains(&account_id))
    }

    /// Counts one more call, and takes the place that calls of this kind need, if they need one.
    ///
    /// # Errors
    /// [`Exceeded`] when it has taken all that it may.
    pub fn begin(&self, kind: Kind) -> Result<Option<Place>, Exceeded> {
        let is_tail = match kind {
            Kind::Aside => return Ok(None),
            Kind::Call | Kind::Stream => false,
            Kind::Tail => true,
        };
        // The place first: who has none must not use up the rate by asking.
        let place = self.0.quota.place(is_tail)?;
        self.0.quota.pace(Instant::now())?;
        Ok(Some(place))
    }

    /// After how long it may give the next batch of a stream; None if now.
    #[must_use]
    pub fn is_early(&self) -> Option<Duration> {
        self.0.quota.is_early(Instant::now())
    }

    /// Counts the next batch of a stream, and waits if it is too early for that.
    pub async fn paced(&self) {
        while let Err(Exceeded { retry, .. }) = self.0.quota.pace(Instant::now()) {
            sleep(retry).await;
        }
    }

    /// Waits until the credentials have taken something from it.
    pub async fn revoked(&self) {
        self.0.trust.ended().await;
    }

    pub(super) fn revoke(&self) {
        self.0.trust.end();
    }

    pub(super) fn quota(&self) -> &Arc<Quota> {
        &self.0.quota
    }
}
