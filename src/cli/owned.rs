//! Owning the ledger of a database as a server does, for as long as a command needs it.

use std::{sync::Arc, thread, time::Duration};

use uuid::Uuid;

use super::CliError;
use crate::{
    log::{
        LogId,
        shared::{Keeper, Lease, Membership, Monotonic, Owner, Store},
    },
    postgres::{Database, Epochs, Nodes},
};

/// How long to wait for the ledger that a killed migration has left: it is free after its lease.
const OWN_WITHIN: Duration = Duration::from_secs(5);
/// How often to look whether it is free.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What servers are told that stand by meanwhile. It is no address, so they pass nothing on.
const ADDRESS: &str = "daybook migrate";

/// A database with a ledger, and what it takes to own that.
#[derive(Clone)]
pub struct Site {
    /// Where it is.
    pub database: Database,
    /// For how long this process owns the ledger unless it renews that.
    pub lease: Duration,
    /// The clock that the lease is counted on.
    pub now: Monotonic,
}

/// A ledger that is this process's.
pub(super) struct Owned {
    pub(super) owner: Owner,
    pub(super) lease: Arc<Lease>,
    pub(super) store: Box<dyn Store>,
    pub(super) membership: Membership,
}

impl Owned {
    /// Joins, and takes the ledger, unless a server has it.
    ///
    /// # Errors
    /// [`CliError::InUse`] when it is another process's, others when the database cannot be used.
    pub(super) fn take(site: &Site, log_id: LogId) -> Result<Self, CliError> {
        let lease = Lease::new(Arc::clone(&site.now));
        let members = Box::new(Nodes::new(site.database.clone(), ADDRESS.into()));
        let new_id = Box::new(|| *Uuid::now_v7().as_bytes());
        let mut keeper = Keeper::new(members, Arc::clone(&lease), site.lease, new_id);
        keeper.step()?;
        let membership = Membership::begin(keeper)?;
        let mut store: Box<dyn Store> = Box::new(Epochs::new(site.database.clone(), log_id));
        let until = (site.now)().saturating_add(OWN_WITHIN);
        loop {
            if let Some(owner) = Owner::claim(&lease, &mut *store)? {
                return Ok(Self { owner, lease, store, membership });
            }
            // A server that is slow for a moment must not lose its ledger to whoever waits for it.
            let holder = store.owner()?.unwrap_or_default();
            let is_server = !holder.is_empty() && holder != ADDRESS;
            if is_server || (site.now)() >= until {
                return Err(CliError::InUse { holder });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}
