//! Verification: looks at every byte of a log and changes none.

use crate::log::{Damage, Head, LogId};

use super::bytes::wide;
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

pub(super) fn verify(
    disk: &dyn Disk,
    progress: Progress<'_>,
    visit: Visit<'_>,
) -> Result<Verified, OpenError> {
    let _lock = lock_directory(disk)?;
    let catalog = catalog_at_rest(disk)?;
    let scanned = scan(disk, &catalog, None, visit, progress)?;
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
        segments: wide(catalog.entries.len()),
        frames: scanned.frame_count,
        torn,
        damage,
    })
}
