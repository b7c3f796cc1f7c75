//! Standing by: following a log that another process owns, showing what is certain of it, and
//! taking it over.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::shared::{Around, DatabaseError};
use crate::{
    event_store::{History, State},
    log::{
        Block, LogReader, LogWriter, ReadError,
        shared::{
            Checkpoints, Confirmed, Membership, Owner, Scrub, Standby, StandbyError, Store,
            StoreError, Vault,
        },
    },
    views::{Following, Views},
    wire::{Reads, Whose},
};

/// How often who stands by looks whether the log has no owner, and at least whether there is more.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How soon it looks for more once there was some, and twice as long each time when there is none.
/// Each time that there is it writes as well, so that it can be told: with two that stand by, every
/// 10 ms, on one machine with the owner and the database, cost batches 7 % of their speed.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// How often it is asked whether what is shown is still where others write, when nothing comes: the
/// server that is read may be one that nothing is committed to any more.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);
/// How long ago all of the log must have been read for reads to be answered from it: whoever knows
/// less than that of the ledger lets the owner answer.
const KEEPS_UP_WITHIN: Duration = Duration::from_secs(10);
/// How long a log that is this process's may give nothing more before all of it was read: nobody
/// else can serve it meanwhile.
const REST_WITHIN: Duration = Duration::from_secs(10);

/// A log that is this process's, and what it adds up to.
pub(super) struct Owned {
    pub(super) state: State,
    pub(super) views: Arc<Views>,
    /// Tells how far the log is durable.
    pub(super) durable: watch::Sender<u64>,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) writer: Box<dyn LogWriter>,
    pub(super) membership: Membership,
    pub(super) checkpoints: Checkpoints,
    /// The position of the newest one; 0 without one that is of use.
    pub(super) checkpoint: u64,
    pub(super) scrub: Scrub,
}

/// What was done of the log.
#[derive(Clone, Copy, Debug)]
struct Followed {
    /// How many blocks were folded.
    count: usize,
    /// Whether those were all that there are.
    is_at_end: bool,
}

/// Who stands by.
pub(super) struct StandingBy {
    standby: Standby,
    /// What the log adds up to.
    following: Following,
    /// What was read of it and is not folded yet.
    read: Vec<Arc<Block>>,
    /// Tells how far it is shown, once it is.
    shown: Option<watch::Sender<u64>>,
    /// When that was last found to be durable.
    confirmed: Option<Instant>,
    request_id_window: u64,
    /// The position of the checkpoint that was gone on from; 0 for none.
    resumed: u64,
}

impl StandingBy {
    /// Goes on from where a log was read and folded to, of which nothing is shown yet. Request ids
    /// are remembered for `request_id_window` positions.
    pub(super) fn new(standby: Standby, following: Following, request_id_window: u64) -> Self {
        let resumed = standby.position();
        let (read, shown, confirmed) = Default::default();
        Self { standby, following, read, shown, confirmed, request_id_window, resumed }
    }

    /// Follows the log until it has no other owner, and takes it over. Blocks until then. `vault`
    /// is where checkpoints are made from then on.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub(super) fn take_over(
        mut self,
        mut store: Box<dyn Store>,
        vault: &Arc<dyn Vault>,
        membership: Membership,
        around: &Around,
    ) -> Result<Owned, DatabaseError> {
        let ours = self.stand_by(&mut *store, around)?;
        info!(epoch = ours.epoch(), position = ours.position(), "the log is ours");
        self.read_rest(&ours, &around.stopping)?;
        let Self { standby, mut following, read, shown, resumed, .. } = self;
        let (checkpoints, scrub) = (standby.checkpoints(Arc::clone(vault)), standby.scrub());
        let (writer, reader) = standby.take(store, ours)?;
        fold(&mut following, read)?;
        let (state, views) = following.end();
        let durable = shown.unwrap_or_else(|| watch::channel(0).0);
        durable.send_replace(ours.position());
        // After a useless one there is no newest. If it cannot be told now, one is made too early.
        let newest = vault.newest().ok().flatten().filter(|_| resumed > 0);
        let checkpoint = newest.map_or(resumed, |kept| kept.head.position);
        Ok(Owned {
            state,
            views,
            durable,
            reader,
            writer,
            membership,
            checkpoints,
            checkpoint,
            scrub,
        })
    }

    /// Follows the log until it is this process's. Tells whose it is meanwhile, also while there
    /// is much of the log to be read or more comes all the time.
    fn stand_by(&mut self, store: &mut dyn Store, around: &Around) -> Result<Owner, DatabaseError> {
        let (mut looked, mut pause) = (None::<Instant>, LOOK_INTERVAL);
        while !*around.stopping.borrow() {
            let Followed { count, is_at_end } = match self.follow(store, around) {
                Err(failure) if may_pass(&failure) => {
                    warn!(%failure, "the log cannot be followed now");
                    Followed { count: 0, is_at_end: false }
                }
                followed => followed?,
            };
            if since(looked) >= LOOK_INTERVAL {
                looked = Some(Instant::now());
                let may_claim = is_at_end && !around.role.is_leaving();
                if let Some(ours) = self.look(store, &around.owner, may_claim) {
                    return Ok(ours);
                }
            }
            if is_at_end || count == 0 {
                pause =
                    if count > 0 { PAUSE_MIN } else { pause.saturating_mul(2).min(LOOK_INTERVAL) };
                thread::sleep(pause.min(LOOK_INTERVAL.saturating_sub(since(looked))));
            }
        }
        Err(DatabaseError::Stopped)
    }

    /// Reads what was written before the log was this process's. What fails is tried again, as long
    /// as it does not take too long.
    fn read_rest(
        &mut self,
        ours: &Owner,
        stopping: &watch::Receiver<bool>,
    ) -> Result<(), DatabaseError> {
        let mut advanced = Instant::now();
        while self.standby.position() < ours.position() {
            if *stopping.borrow() {
                return Err(DatabaseError::Stopped);
            }
            let is_over = advanced.elapsed() >= REST_WITHIN;
            match self.read() {
                // Taking the log finds it to be too short.
                Ok(0) if is_over => return Ok(()),
                Ok(0) => thread::sleep(PAUSE_MIN),
                Ok(_) => advanced = Instant::now(),
                Err(failure) if may_pass(&failure) && !is_over => {
                    warn!(%failure, "the rest of the log cannot be read now");
                    thread::sleep(LOOK_INTERVAL);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Claims the log if that may be, or tells whose it is. Another process may know all of it when
    /// this one does not, and serve it at once.
    fn look(
        &mut self,
        store: &mut dyn Store,
        owner: &watch::Sender<Whose>,
        may_claim: bool,
    ) -> Option<Owner> {
        if may_claim {
            match self.standby.claim(store) {
                Ok(Some(ours)) => {
                    owner.send_replace(Whose::Ours);
                    return Some(ours);
                }
                Ok(None) => {}
                Err(failure) => {
                    warn!(%failure, "the log cannot be claimed now");
                    return None;
                }
            }
        }
        tell_owner(store, owner);
        None
    }

    /// Folds the blocks that come next, and shows them. Of a long log nothing is shown, nor asked
    /// whether it is durable, before all of it was read once.
    fn follow(
        &mut self,
        store: &mut dyn Store,
        around: &Around,
    ) -> Result<Followed, DatabaseError> {
        // What is left of an earlier time was the end of the log then.
        let is_fresh = self.read.is_empty();
        if is_fresh && let Err(failure) = self.read() {
            let is_damage = !may_pass(&failure);
            if is_damage && self.has_lost_read(store)? {
                return Ok(Followed { count: 0, is_at_end: false });
            }
            if is_damage {
                self.expect_shown(store)?;
            }
            return Err(failure);
        }
        if self.shown.is_none() && self.standby.was_behind() {
            self.has_lost_read(store)?;
            return Ok(Followed { count: 0, is_at_end: false });
        }
        let (count, was_at_end) = (self.read.len(), self.standby.is_at_end());
        let is_shown = match &self.shown {
            Some(_) => count > 0 || since(self.confirmed) >= CONFIRM_INTERVAL,
            None => was_at_end,
        };
        if is_shown {
            match self.standby.confirm(store, &self.read).map_err(StandbyError::from)? {
                Confirmed::Shown => self.confirmed = Some(Instant::now()),
                Confirmed::NoMember => return Ok(Followed { count: 0, is_at_end: false }),
                Confirmed::Lost => {
                    self.expect_shown(store)?;
                    warn!("the database has lost what was read of the log: reading it again");
                    self.forget();
                    return Ok(Followed { count: 0, is_at_end: false });
                }
            }
        }
        match fold(&mut self.following, std::mem::take(&mut self.read)) {
            Err(wrong) if self.resumed > 0 && self.shown.is_none() => {
                error!(%wrong, "the checkpoint does not fit the log: reading all of it");
                self.begin_again();
                return Ok(Followed { count: 0, is_at_end: false });
            }
            folded => folded?,
        }
        if is_shown {
            self.show(around);
        }
        let is_at_end = is_fresh && was_at_end;
        around.role.followed(self.standby.position(), is_at_end);
        Ok(Followed { count, is_at_end })
    }

    /// Whether the database has lost what was read and is not shown: then the log is begun again.
    fn has_lost_read(&mut self, store: &mut dyn Store) -> Result<bool, DatabaseError> {
        if self.shown.is_some() {
            return Ok(false);
        }
        let has_read = self.standby.has_read(store).map_err(StandbyError::from)?;
        if known(has_read)? {
            return Ok(false);
        }
        warn!("the database has lost what was read of the log: reading it again");
        self.begin_again();
        Ok(true)
    }

    /// Finds the database to have what was shown of the log: what else it has leads nowhere then.
    fn expect_shown(&self, store: &mut dyn Store) -> Result<(), DatabaseError> {
        let has_shown = self.standby.has_shown(store).map_err(StandbyError::from)?;
        if known(has_shown)? { Ok(()) } else { Err(DatabaseError::Lost) }
    }

    /// Forgets what was not shown.
    fn forget(&mut self) {
        if self.shown.is_none() {
            self.begin_again();
        }
        self.read.clear();
    }

    /// Reads the log from its beginning. Nothing of it is shown yet.
    fn begin_again(&mut self) {
        self.standby = self.standby.anew();
        self.following = Following::new(self.standby.log_id(), self.request_id_window);
        (self.resumed, self.read) = (0, Vec::new());
    }

    /// Reads the blocks that come next. Gives how many there are.
    fn read(&mut self) -> Result<usize, DatabaseError> {
        let blocks = self.standby.follow().map_err(StandbyError::from)?;
        let count = blocks.len();
        self.read.extend(blocks);
        Ok(count)
    }

    /// Shows what is folded to whoever reads.
    fn show(&mut self, Around { reads, role, call_time, .. }: &Around) {
        let position = self.standby.position();
        if let Some(shown) = &self.shown {
            shown.send_replace(position);
            return;
        }
        let (shown, durable) = watch::channel(position);
        let history = History::new(self.standby.reader());
        let role = Arc::clone(role);
        // Who began to read here goes on when the log is this process's.
        let keeps_up = Arc::new(move || role.lag() <= KEEPS_UP_WITHIN || role.lease.owns());
        let views = Arc::clone(self.following.views());
        reads.set(Arc::new(Reads::nearby(views, history, durable, keeps_up, *call_time)));
        self.shown = Some(shown);
    }
}

/// What this server knows of the log, if it can know that now.
fn known(has: Option<bool>) -> Result<bool, DatabaseError> {
    has.ok_or_else(|| {
        let text = "this server is no member now, and cannot know what the log is".into();
        StandbyError::from(StoreError::Unreachable(text)).into()
    })
}

/// Whether it may be otherwise when it is tried again.
fn may_pass(failure: &DatabaseError) -> bool {
    let DatabaseError::Standby(failure) = failure else { return false };
    matches!(failure, StandbyError::Read(ReadError::Io(_)) | StandbyError::Store(_))
}

/// How long ago something was done; as long as possible if never.
fn since(done: Option<Instant>) -> Duration {
    done.map_or(Duration::MAX, |done| done.elapsed())
}

fn fold(following: &mut Following, blocks: Vec<Arc<Block>>) -> Result<(), DatabaseError> {
    for block in blocks {
        following.add(&block).map_err(|wrong| {
            let position = block.first_position();
            DatabaseError::Unsound(format!("position {position}: {wrong}"))
        })?;
    }
    Ok(())
}

/// Tells whose the log is. While that cannot be asked it is whose it was: others may reach what
/// this server does not.
pub(super) fn tell_owner(store: &mut dyn Store, owner: &watch::Sender<Whose>) {
    let Ok(address) = store.owner() else { return };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::shared::tests::{model, stand_by, start};

    /// What fails once the log is this process's need not end it, unless that takes too long.
    #[test]
    fn the_rest_of_the_log_is_asked_for_again() {
        let model = model();
        let mut node = start(&model).unwrap();
        node.append().unwrap();
        node.writer.close().unwrap();
        let (standby, _keeper) = stand_by(&model);
        let following = Following::new(standby.log_id(), 1);
        let mut standing_by = StandingBy::new(standby, following, 1);
        let ours = standing_by.standby.claim(&mut model.clone()).unwrap().unwrap();
        let (stop, stopping) = watch::channel(true);
        let stopped = standing_by.read_rest(&ours, &stopping);
        assert!(matches!(stopped, Err(DatabaseError::Stopped)));
        stop.send_replace(false);
        model.fail_reads(3);
        standing_by.read_rest(&ours, &stopping).unwrap();
        assert_eq!((standing_by.standby.position(), standing_by.read.len()), (2, 1));
    }
}
