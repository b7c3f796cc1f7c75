//! The lease: for how long a process may believe that what it knows of the log is all there is.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use tracing::{info, warn};

use super::{Members, NodeId, StoreError};
use crate::log::guard::lock;

/// How much of the time of a node its own clock counts: the rest is for clocks that differ.
const TRUSTED_QUARTERS: u32 = 3;
/// How often a node is renewed in its time.
const RENEWALS: u32 = 3;

/// Tells the time since some moment in the past of this process; it never goes back, and goes on
/// while the process is stopped.
pub type Monotonic = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What a process knows of its own membership. Shared by who renews it and who rests on it.
pub struct Lease {
    now: Monotonic,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// None before the first time.
    node: Option<NodeId>,
    valid_until: Duration,
    /// The node that the log is sealed for, if it is one of this process, and under which epoch.
    owner: Option<(NodeId, u64)>,
}

impl Lease {
    /// No membership yet.
    #[must_use]
    pub fn new(now: Monotonic) -> Arc<Self> {
        Arc::new(Self { now, state: Mutex::default() })
    }

    /// The node that this process is, if its lease is still certain.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.certain(&lock(&self.state))
    }

    /// For how long that is certain without being renewed; zero if it is not.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        lock(&self.state).valid_until.saturating_sub((self.now)())
    }

    /// The epoch that the log is sealed under, if it is certain to have no other owner.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        let state = lock(&self.state);
        let (owner, epoch) = state.owner?;
        (self.certain(&state) == Some(owner)).then_some(epoch)
    }

    /// Whether the log is certain to have no other owner.
    #[must_use]
    pub fn owns(&self) -> bool {
        self.epoch().is_some()
    }

    fn certain(&self, state: &State) -> Option<NodeId> {
        state.node.filter(|_| (self.now)() < state.valid_until)
    }

    /// Notes that the log is sealed for a node under an epoch; or for none of this process.
    pub(super) fn set_owner(&self, owner: Option<(NodeId, u64)>) {
        lock(&self.state).owner = owner;
    }

    fn extend(&self, node: NodeId, until: Duration) {
        let mut state = lock(&self.state);
        (state.node, state.valid_until) = (Some(node), until);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Keeps a process a member.
pub struct Keeper {
    members: Box<dyn Members>,
    lease: Arc<Lease>,
    time: Duration,
    new_id: Box<dyn FnMut() -> NodeId + Send>,
    node: Option<NodeId>,
}

impl Keeper {
    /// For the time that a node lives unless it is renewed. `new_id` gives a new id each time.
    #[must_use]
    pub fn new(
        members: Box<dyn Members>,
        lease: Arc<Lease>,
        time: Duration,
        new_id: Box<dyn FnMut() -> NodeId + Send>,
    ) -> Self {
        Self { members, lease, time, new_id, node: None }
    }

    /// Joins or renews, once. A node whose time was over is never renewed: the process takes part
    /// as another one from then on.
    ///
    /// # Errors
    /// [`StoreError`]; the lease is as it was then.
    pub fn step(&mut self) -> Result<(), StoreError> {
        let trusted = self.time.saturating_mul(TRUSTED_QUARTERS).checked_div(4).unwrap_or_default();
        // Before it is asked for: the other side counts from later on.
        let until = (self.lease.now)().saturating_add(trusted);
        if let Some(node) = self.node {
            if self.members.renew(node, self.time)? {
                self.lease.extend(node, until);
                return Ok(());
            }
            warn!("the lease has ended before it was renewed");
            self.node = None;
        }
        let node = (self.new_id)();
        self.members.join(node, self.time)?;
        self.node = Some(node);
        self.lease.extend(node, until);
        info!(node = %uuid::Uuid::from_bytes(node), "joined");
        Ok(())
    }

    /// Renews until whoever told it to is gone, and leaves then.
    fn run(mut self, told: &Receiver<()>) {
        let pause = self.time.checked_div(RENEWALS).unwrap_or_default();
        while told.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            if let Err(failure) = self.step() {
                warn!(%failure, "the lease is not renewed");
            }
        }
        if let Some(node) = self.node {
            let _it_ends_by_itself = self.members.leave(node);
        }
    }
}

/// Keeps a process a member, on a thread of its own, until it is dropped.
pub struct Membership {
    /// Always there, until it is dropped; the thread as well.
    told: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Membership {
    /// Goes on with a keeper that has joined.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn begin(keeper: Keeper) -> io::Result<Self> {
        let (told, tells) = channel();
        let thread = Builder::new().name("daybook-lease".into());
        let thread = thread.spawn(move || keeper.run(&tells))?;
        Ok(Self { told: Some(told), thread: Some(thread) })
    }
}

/// Waits until the process is no member any more.
impl Drop for Membership {
    fn drop(&mut self) {
        drop(self.told.take());
        let _a_panic_was_reported_by_its_hook = self.thread.take().map(JoinHandle::join);
    }
}
