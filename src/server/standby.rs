//! Standing by: following a log that another process owns, showing what is certain of it, and
//! taking it over.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::shared::{Around, DatabaseError};
use crate::{
    event_store::{History, State},
    log::{
        Block, LogReader, LogWriter, ReadError,
        shared::{Owner, Standby, StandbyError, Store},
    },
    views::{Following, Views},
    wire::{Reads, Whose},
};

/// How often who stands by looks whether there is more of the log, or no owner.
const STAND_BY: Duration = Duration::from_millis(50);
/// How long ago all of the log must have been read for reads to be answered from it: whoever knows
/// less than that of the ledger lets the owner answer.
const KEEPS_UP_WITHIN: Duration = Duration::from_secs(10);

/// A log that was taken over, and what it adds up to.
pub(super) type TakenOver = (State, Arc<Views>, Box<dyn LogWriter>, Arc<dyn LogReader>);

/// Who stands by.
pub(super) struct StandingBy {
    standby: Standby,
    /// What the log adds up to.
    following: Following,
    /// What was read of it and is not folded yet.
    read: Vec<Block>,
    /// Tells how far it is shown, once it is.
    shown: Option<watch::Sender<u64>>,
}

impl StandingBy {
    /// Nothing of the log is read yet. Request ids will be remembered for `request_id_window`
    /// positions.
    pub(super) fn new(standby: Standby, request_id_window: u64) -> Self {
        let following = Following::new(standby.log_id(), request_id_window);
        Self { standby, following, read: Vec::new(), shown: None }
    }

    /// Follows the log until it has no other owner, and takes it over. Blocks until then.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub(super) fn take_over(
        mut self,
        mut store: Box<dyn Store>,
        around: &Around,
        call_time: Duration,
    ) -> Result<TakenOver, DatabaseError> {
        let ours = self.stand_by(&mut *store, around, call_time)?;
        info!(epoch = ours.epoch(), position = ours.position(), "the log is ours");
        while self.standby.position() < ours.position() && self.read()? > 0 {}
        let Self { standby, mut following, read, shown: _ } = self;
        let (writer, reader) = standby.take(store, ours)?;
        fold(&mut following, read)?;
        let (state, views) = following.end();
        Ok((state, views, writer, reader))
    }

    /// Follows the log until it is this process's. Tells whose it is meanwhile, also while there
    /// is much of the log to be read or more comes all the time.
    fn stand_by(
        &mut self,
        store: &mut dyn Store,
        around: &Around,
        call_time: Duration,
    ) -> Result<Owner, DatabaseError> {
        let Around { owner, stopping, .. } = around;
        let mut looked: Option<Instant> = None;
        while !*stopping.borrow() {
            match self.follow(store, around, call_time) {
                Ok(true) => {}
                // Another one may know all of the log, and serve it at once: it is not claimed yet.
                Ok(false) => {
                    if looked.is_none_or(|looked| looked.elapsed() >= STAND_BY) {
                        looked = Some(Instant::now());
                        tell_owner(store, owner);
                    }
                    continue;
                }
                Err(DatabaseError::Standby(
                    failure @ (StandbyError::Read(ReadError::Io(_)) | StandbyError::Store(_)),
                )) => warn!(%failure, "the log cannot be followed now"),
                Err(error) => return Err(error),
            }
            match self.standby.claim(store) {
                Ok(Some(ours)) => {
                    owner.send_replace(Whose::Ours);
                    return Ok(ours);
                }
                Ok(None) => tell_owner(store, owner),
                Err(failure) => warn!(%failure, "the log cannot be claimed now"),
            }
            thread::sleep(STAND_BY);
        }
        Err(DatabaseError::Stopped)
    }

    /// Folds the blocks that come next, and shows them. Gives whether those were all that there
    /// are. Of a long log nothing is shown, nor asked whether it is durable, before all of it was
    /// read once.
    fn follow(
        &mut self,
        store: &mut dyn Store,
        around: &Around,
        call_time: Duration,
    ) -> Result<bool, DatabaseError> {
        if self.read.is_empty() {
            self.read()?;
        }
        let is_at_end = self.standby.is_at_end();
        let is_new = !self.read.is_empty() || self.shown.is_none();
        let is_shown = (is_at_end || self.shown.is_some()) && is_new;
        if is_shown && !self.standby.confirm(store)? {
            // Nothing is certain to who is no member, and nothing can be claimed.
            return Ok(true);
        }
        fold(&mut self.following, std::mem::take(&mut self.read))?;
        if is_shown {
            self.show(around, call_time);
        }
        around.role.followed(self.standby.position(), is_at_end);
        Ok(is_at_end)
    }

    /// Reads the blocks that come next. Gives how many there are.
    fn read(&mut self) -> Result<usize, DatabaseError> {
        let blocks = self.standby.follow().map_err(StandbyError::from)?;
        let count = blocks.len();
        self.read.extend(blocks);
        Ok(count)
    }

    /// Shows what is folded to whoever reads.
    fn show(&mut self, Around { reads, role, .. }: &Around, call_time: Duration) {
        let position = self.standby.position();
        if let Some(shown) = &self.shown {
            shown.send_replace(position);
            return;
        }
        let (shown, durable) = watch::channel(position);
        let history = History::new(self.standby.reader());
        let role = Arc::clone(role);
        let keeps_up = Arc::new(move || role.lag() <= KEEPS_UP_WITHIN);
        let views = Arc::clone(self.following.views());
        reads.set(Arc::new(Reads::nearby(views, history, durable, keeps_up, call_time)));
        self.shown = Some(shown);
    }
}

fn fold(following: &mut Following, blocks: Vec<Block>) -> Result<(), DatabaseError> {
    for block in blocks {
        following.add(&block).map_err(|wrong| {
            let position = block.first_position();
            DatabaseError::Unsound(format!("position {position}: {wrong}"))
        })?;
    }
    Ok(())
}

/// Tells whose the log is.
fn tell_owner(store: &mut dyn Store, owner: &watch::Sender<Whose>) {
    let address = store.owner().ok().flatten();
    let whose = address.clone().map_or(Whose::Unknown, Whose::Other);
    owner.send_if_modified(|known| {
        let is_news = *known != whose;
        if is_news {
            info!(owner = address, "standing by: the log is another process's");
            *known = whose;
        }
        is_news
    });
}
