//! Callers: who a call is from, once that is known.

use std::{collections::HashSet, sync::Arc};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Exceeded, Place,
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
    /// True once the credentials no longer say of it what they said.
    revoked: watch::Sender<bool>,
}

impl Caller {
    pub(super) fn new(
        principal: Principal,
        role: Role,
        accounts: Option<HashSet<AccountId>>,
        quota: Arc<Quota>,
    ) -> Self {
        let revoked = watch::Sender::new(false);
        Self(Arc::new(Known { principal, role, accounts, quota, revoked }))
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

    /// Waits until it may give the next batch of a stream.
    pub async fn paced(&self) {
        while let Err(Exceeded { retry, .. }) = self.0.quota.pace(Instant::now()) {
            sleep(retry).await;
        }
    }

    /// Waits until the credentials have taken something from it.
    pub async fn revoked(&self) {
        let mut revoked = self.0.revoked.subscribe();
        // The sender lives as long as this caller.
        let _ended = revoked.wait_for(|revoked| *revoked).await;
    }

    pub(super) fn revoke(&self) {
        self.0.revoked.send_replace(true);
    }

    pub(super) fn quota(&self) -> &Arc<Quota> {
        &self.0.quota
    }
}
