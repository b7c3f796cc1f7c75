//! Reading the ledger of a database from its beginning to a head, and what it adds up to.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{CliError, compared::Compared, progress::Progress};
use crate::{
    event_store::REQUEST_ID_WINDOW_DEFAULT,
    log::{
        Block, Damage, Head, LogId, Pieces as _,
        shared::{Checkpoint, Follower, Vault},
    },
    postgres::{Blocks, Checkpoints, Database, Events, Found},
    views::{AccountFilter, Fold},
};

/// How many blocks are read, folded and compared at once: a quarter of a megabyte at most.
const READ_BLOCKS: u32 = 32;
/// How many accounts are looked at at once.
const PAGE: usize = 4_096;

/// What a ledger adds up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    /// How many events there are.
    pub(super) events: u64,
    /// How many accounts were ever opened.
    pub(super) accounts: u64,
    /// The sum of all balances in each currency, in its minor units.
    pub(super) balances: BTreeMap<String, i128>,
}

impl Figures {
    pub(super) fn of(fold: Fold, log_id: LogId) -> Self {
        let (_, books) = fold.finish(log_id);
        let totals = books.totals();
        let (mut balances, mut from) = (BTreeMap::<String, i128>::new(), Some(0));
        while let Some(place) = from {
            let page = books.accounts(&AccountFilter::default(), place, PAGE);
            for view in page.accounts {
                let sum = balances.entry(view.currency().to_string()).or_default();
                *sum = sum.saturating_add(view.account.balance().minor().into());
            }
            from = page.next;
        }
        Self { events: totals.position, accounts: totals.account_count, balances }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "events    {}", self.events)?;
        write!(f, "accounts  {}", self.accounts)?;
        for (currency, sum) in &self.balances {
            write!(f, "\nbalances  {sum} {currency}")?;
        }
        Ok(())
    }
}

/// A ledger in a database that is read in order, up to where its head was.
pub(super) struct Reading {
    follower: Follower,
    events: Events,
    fold: Fold,
    until: Head,
    /// How far all was found to be right.
    pub(super) good: Head,
    /// How many blocks that is.
    pub(super) blocks: u64,
    /// None, unless one is to be compared.
    pub(super) checkpoint: Compared,
    /// Where that is kept.
    vault: Option<Arc<dyn Vault>>,
}

impl Reading {
    pub(super) fn new(database: &Database, found: &Found) -> Self {
        let Found { log_id, head, .. } = *found;
        Self {
            follower: Follower::new(Arc::new(Blocks::new(database.clone(), log_id))),
            events: Events::new(database.clone(), log_id),
            fold: Fold::new(REQUEST_ID_WINDOW_DEFAULT),
            until: head,
            good: Head::start(&log_id),
            blocks: 0,
            checkpoint: Compared::none(),
            vault: None,
        }
    }

    /// Compares the newest checkpoint with the log as well.
    pub(super) fn compare_checkpoint(&mut self, database: &Database) {
        let vault: Arc<dyn Vault> = Arc::new(Checkpoints::to_read(database.clone()));
        let found = Checkpoint::find(Arc::clone(&vault), &self.follower.log_id());
        (self.checkpoint, self.vault) = (Compared::new(found), Some(vault));
    }

    /// Compares the checkpoint with what was folded, if that is as far.
    fn compare(&mut self, position: u64) {
        let is_unread = self.checkpoint.look(&mut self.fold, position);
        let Some(vault) = self.vault.as_ref().filter(|_| is_unread) else { return };
        // By now it may have been removed: there is a newer one then.
        let newer = Checkpoint::find(Arc::clone(vault), &self.follower.log_id());
        if let Ok(Some(newer)) = newer
            && newer.position() > position
        {
            self.checkpoint = Compared::new(Ok(Some(newer)));
        }
    }

    /// Reads to the end. `each` is given the blocks in order, each after it was found to be right.
    ///
    /// # Errors
    /// [`CliError::Damaged`] with the first that is not right, others when the database cannot be
    /// read, and those of `each`.
    pub(super) fn run(
        &mut self,
        what: &'static str,
        each: &mut dyn FnMut(&Block) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut progress = Progress::new(what);
        let mut step = || -> Result<bool, CliError> {
            let blocks = self.follower.next(self.until.position, READ_BLOCKS)?;
            self.events.compare(&blocks)?;
            for block in &blocks {
                let log_id = self.follower.log_id();
                self.fold.add(&log_id, block).map_err(|wrong| {
                    Damage::in_table("blocks", block.first_position(), wrong.to_string())
                })?;
                self.compare(block.last_position());
                each(block)?;
                self.blocks = self.blocks.saturating_add(1);
            }
            self.good = self.follower.head();
            progress.tell(self.good.bytes, self.until.bytes);
            Ok(!blocks.is_empty())
        };
        let run = loop {
            match step() {
                Ok(true) => {}
                ended => break ended,
            }
        };
        progress.end();
        run?;
        self.follower.check_end(&self.until)?;
        Ok(self.events.check_end()?)
    }

    /// What was read adds up to.
    pub(super) fn figures(self) -> Figures {
        let log_id = self.follower.log_id();
        Figures::of(self.fold, log_id)
    }
}
