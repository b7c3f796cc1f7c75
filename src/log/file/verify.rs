//! Verification: looks at every byte of a log and changes none.

use crate::log::{CheckpointFault, Damage, Head, LogId};

use super::bytes::wide;
use super::catalog::Catalog;
use super::checkpoint::Checkpoint;
use super::copy::catalog_at_rest;
use super::disk::Disk;
use super::frame::Kind;
use super::scan::{Progress, Tail, Visit, scan};
use super::{OpenError, TornTail, lock_directory};

/// What was found in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verified {
    /// The id of the log.
    pub log_id: LogId,
    /// How far the log is good.
    pub head: Head,
    /// Whether the log was closed in order: the newest frame is a stop.
    pub is_stopped: bool,
    /// How many segments there are.
    pub segments: u64,
    /// How many frames were verified.
    pub frames: u64,
    /// An incomplete group at the end, as a crash leaves it. It will be cut when the log is
    /// opened; nothing in it was acknowledged.
    pub torn: Option<TornTail>,
    /// The first damage. Nothing after it was looked at, and the log will be read-only when it is
    /// opened.
    pub damage: Option<Damage>,
}

/// A log that nobody uses at the moment, nor can begin to use as long as this lives.
pub struct AtRest<'a> {
    disk: &'a dyn Disk,
    catalog: Catalog,
    _lock: Box<dyn Send + Sync>,
}

impl<'a> AtRest<'a> {
    /// Takes the log in a directory, and changes nothing.
    ///
    /// # Errors
    /// [`OpenError`] when it is in use, there is none, or its last start has not ended.
    pub fn take(disk: &'a dyn Disk) -> Result<Self, OpenError> {
        let lock = lock_directory(disk)?;
        Ok(Self { disk, catalog: catalog_at_rest(disk)?, _lock: lock })
    }

    /// The id of the log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.catalog.log_id()
    }

    /// The checkpoint, if there is one that fits the log.
    ///
    /// # Errors
    /// [`CheckpointFault`] when there is one that is of no use.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, CheckpointFault> {
        Checkpoint::find(self.disk, &self.catalog)
    }

    /// Verifies every byte, and gives `visit` each verified block: see [`super::verify()`].
    ///
    /// # Errors
    /// [`OpenError`]; damage is none of them, see [`Verified::damage`].
    pub fn verify(&self, progress: Progress<'_>, visit: Visit<'_>) -> Result<Verified, OpenError> {
        let scanned = scan(self.disk, &self.catalog, None, visit, progress)?;
        let head = scanned.head();
        let (torn, damage) = match scanned.tail {
            Tail::Whole => (None, None),
            Tail::Torn(torn) => (Some(torn), None),
            Tail::Damaged(damage) => (None, Some(damage)),
        };
        let newest = scanned.end.newest.map(|newest| newest.kind);
        Ok(Verified {
            log_id: scanned.log_id,
            head,
            is_stopped: damage.is_none() && newest == Some(Kind::Stop),
            segments: wide(self.catalog.entries.len()),
            frames: scanned.frame_count,
            torn,
            damage,
        })
    }
}
