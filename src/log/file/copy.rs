//! Copies of a log: a backup of one that may be in use, and a log made from a backup.
//!
//! A backup is a directory with a log like any other: a beginning of the one it was made from,
//! which can be verified, and opened. What is copied is verified as it lies in the copy, before it
//! has its name there; so rot is found, and not handed on.
//!
//! # What of a log in use is copied
//! Its process appends while we read. A group that can be read whole may still be in the page cache
//! only, and be gone after a power cut, and another one be in its place. So a copy ends before the
//! newest group: that it was begun proves that those before it are durable. Nothing is missing then
//! but what nobody was told of, once an idle writer has appended a witness, or a later group has
//! come: that is waited for. Of a log that nobody uses the last segment is synced and copied to its
//! last whole group, and nobody can begin to use it meanwhile.
//!
//! A last segment without any group is not known to be durable either: a power cut may take its
//! name, and the one that is begun then has another header. It is left out, unless the backup has
//! it already or it is the only one.
//!
//! # A backup on top of an earlier one
//! Segments that the backup has already are not copied again, but for its last one, which may have
//! grown. They must be those of the log: the headers are compared, each of which bears the hash of
//! all that is before it, and of the last one every byte.
//!
//! # What a crash leaves
//! A backup that ends early leaves the earlier one, or a later beginning of the log. A log that is
//! being restored is no log yet, however much of it is there: as long as [`RESTORE_FILE`] lies
//! beside it, nobody opens it.

use std::io;

use crate::log::{ChainHash, Damage, LogId, chain};

use super::bytes::{narrow, wide};
use super::catalog::{Catalog, Entry, open_file};
use super::disk::{Disk, DiskFile, LOCK_FILE, Lock, read_up_to, write_all_at};
use super::frame::{Joint, Kind};
use super::recovery::{unfinished, write_zeros};
use super::scan::{Alone, Progress, Scanned, Tail, Visit, scan, scan_segment};
use super::segment::{HEADER_BYTES, SPARE_FILE, SegmentHeader, file_name, number_of};
use super::{OpenError, io_error, lock_directory, spare};

/// Lies in a directory that a log is being restored into.
pub const RESTORE_FILE: &str = "restore.tmp";

/// How much is copied at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// How often a copy looks whether the newest group has become durable. An idle writer says so
/// after a moment; one that has failed never does, and then nobody knows.
const LOOKS_MAX: usize = 200;

/// What every file system has in its root.
const LOST_AND_FOUND: &str = "lost+found";

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Copied {
    /// The id of the log.
    pub log_id: LogId,
    /// The newest position of the copy.
    pub position: u64,
    /// The hash of the chain up to there.
    pub hash: ChainHash,
    /// How many segments were copied now.
    pub segments_copied: u64,
    /// How many were there already.
    pub segments_kept: u64,
}

/// Why nothing, or not everything, was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the directories cannot be used.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// What should be copied is damaged.
    #[error("{0}")]
    Damaged(#[from] Damage),
    /// The newest commands may have been acknowledged or not: whoever writes the log does not say.
    #[error(
        "the server does not say whether the newest commands in {0} are durable: try again; if its \
         log has failed, or it was stopped in the middle of something, end it, and copy then"
    )]
    Uncertain(String),
    /// The directory for the backup has something that is no beginning of the log.
    #[error("what is in the directory of the backup is no beginning of this log: {0}")]
    NoBeginning(&'static str),
    /// The backup does not reach as far as it should be restored.
    #[error("the backup ends at position {0}")]
    TooShort(u64),
    /// Its first group of commands goes beyond that.
    #[error("no group of commands had ended by that position")]
    NoGroup,
    /// The directory for the backup has no backup, and something else.
    #[error("the directory of the backup has no backup, and is not empty: it has {0}")]
    NoBackup(String),
    /// The directory for the restored log is not empty.
    #[error("the directory is not empty: it has {0}")]
    NotEmpty(String),
}

/// Brings a backup up to date, or makes one. The log may be in use. `wait` gives its process a
/// moment, of about 50 ms.
///
/// # Errors
/// [`CopyError`]. What is in the target then is still a beginning of the log.
pub(super) fn back_up(
    source: &dyn Disk,
    target: &dyn Disk,
    progress: Progress<'_>,
    wait: &mut dyn FnMut(),
) -> Result<Copied, CopyError> {
    // Before anything is made in the target, the lock included.
    catalog_of(source)?;
    refuse_other_files(target)?;
    let _target_lock = lock_directory(target)?;
    refuse_half_restored(target)?;
    // What another backup may have copied until now is of what there is now.
    let catalog = catalog_of(source)?;
    Copier::new(source, target, &catalog, u64::MAX, progress).run(Some(wait))
}

/// Makes a log from a backup, in a directory that has nothing; with `until` only from those groups
/// that had ended by that position. `visit` is given all of it at the end, and may find it wrong.
///
/// # Errors
/// [`CopyError`]. The target is of no use then, unless it was not begun to be written.
pub(super) fn restore(
    source: &dyn Disk,
    target: &dyn Disk,
    until: Option<u64>,
    progress: Progress<'_>,
    visit: Visit<'_>,
) -> Result<Copied, CopyError> {
    let _source_lock = lock_directory(source)?;
    let mut source_catalog = catalog_at_rest(source)?;
    if let Some(until) = until {
        cut(source, &mut source_catalog, until)?;
    }
    refuse_files(target)?;
    let _target_lock = lock_directory(target)?;
    mark(target)?;
    let until = until.unwrap_or(u64::MAX);
    let copied = Copier::new(source, target, &source_catalog, until, progress).run(None)?;
    let scanned = scan(target, &Catalog::read(target)?, None, visit, &mut |_, _| ())?;
    if let Tail::Damaged(damage) = scanned.tail {
        return Err(damage.into());
    }
    unmark(target)?;
    Ok(copied)
}

/// Refuses a directory for a log that has anything in it.
pub(super) fn refuse_files(target: &dyn Disk) -> Result<(), CopyError> {
    let names = target.list().map_err(|error| io_error("listing the directory", error))?;
    match names.into_iter().find(|name| name != LOCK_FILE && name != LOST_AND_FOUND) {
        Some(name) => Err(CopyError::NotEmpty(name)),
        None => Ok(()),
    }
}

/// Says that what will be in a directory is no log yet.
pub(super) fn mark(target: &dyn Disk) -> Result<(), OpenError> {
    let marked = target.create(RESTORE_FILE).and_then(|_| target.sync_dir());
    marked.map_err(|error| io_error(RESTORE_FILE, error))
}

/// Says that it is one now.
pub(super) fn unmark(target: &dyn Disk) -> Result<(), OpenError> {
    let unmarked = target.remove(RESTORE_FILE).and_then(|()| target.sync_dir());
    unmarked.map_err(|error| io_error(RESTORE_FILE, error))
}

/// Refuses a directory that a log is, or was, being restored into.
pub(super) fn refuse_half_restored(disk: &dyn Disk) -> Result<(), OpenError> {
    let names = disk.list().map_err(|error| io_error("listing the directory", error))?;
    if names.iter().any(|name| name == RESTORE_FILE) {
        Err(OpenError::HalfRestored)
    } else {
        Ok(())
    }
}

/// Refuses a directory that has no backup but other files: it was not meant for one. Beside a
/// backup there may be anything.
fn refuse_other_files(target: &dyn Disk) -> Result<(), CopyError> {
    // What a backup that ended early may leave, and what has an error of its own.
    let is_ours =
        |name: &str| [LOCK_FILE, SPARE_FILE, RESTORE_FILE, LOST_AND_FOUND].contains(&name);
    let names = target.list().map_err(|error| io_error("listing the directory", error))?;
    if names.iter().any(|name| number_of(name).is_some()) {
        return Ok(());
    }
    match names.into_iter().find(|name| !is_ours(name)) {
        Some(name) => Err(CopyError::NoBackup(name)),
        None => Ok(()),
    }
}

/// The segments of a directory that must have a log.
fn catalog_of(disk: &dyn Disk) -> Result<Catalog, OpenError> {
    refuse_half_restored(disk)?;
    let catalog = Catalog::read(disk)?;
    if catalog.entries.is_empty() { Err(OpenError::NoLog) } else { Ok(catalog) }
}

/// The same of a log that nobody uses, whose last start must have ended.
pub(super) fn catalog_at_rest(disk: &dyn Disk) -> Result<Catalog, OpenError> {
    let catalog = catalog_of(disk)?;
    if unfinished(disk, &catalog)?.is_some() { Err(OpenError::Unfinished) } else { Ok(catalog) }
}

/// Leaves those segments that have something of the log up to a position. The last of them must
/// reach it.
fn cut(disk: &dyn Disk, catalog: &mut Catalog, until: u64) -> Result<(), CopyError> {
    let log_id = catalog.log_id();
    let begins_later =
        |entry: &Entry| entry.header.as_ref().is_ok_and(|header| header.first_position > until);
    while catalog.entries.len() > 1 && catalog.entries.last().is_some_and(begins_later) {
        catalog.entries.pop();
    }
    let Some(newest) = catalog.entries.last() else { return Err(OpenError::NoLog.into()) };
    let name = file_name(newest.number);
    let position = |until| {
        let alone = Alone { log_id, name: &name, entry: newest, is_last: true, until };
        let scanned = scan_segment(disk, &alone, &mut |_| ())?;
        match scanned.tail {
            Tail::Damaged(damage) => Err(CopyError::Damaged(damage)),
            Tail::Whole | Tail::Torn(_) => Ok(scanned.joint.position()),
        }
    };
    match (position(u64::MAX)?, position(until)?) {
        (end, _) if end < until => Err(CopyError::TooShort(end)),
        (_, 0) => Err(CopyError::NoGroup),
        (_, _) => Ok(()),
    }
}

/// One copy in the making.
struct Copier<'a> {
    source: &'a dyn Disk,
    target: &'a dyn Disk,
    catalog: &'a Catalog,
    log_id: LogId,
    /// The last segment is copied up to the first group that goes beyond this position.
    until: u64,
    progress: Progress<'a>,
    /// How many bytes are copied or kept.
    done: u64,
}

impl<'a> Copier<'a> {
    fn new(
        source: &'a dyn Disk,
        target: &'a dyn Disk,
        catalog: &'a Catalog,
        until: u64,
        progress: Progress<'a>,
    ) -> Self {
        Self { source, target, catalog, log_id: catalog.log_id(), until, progress, done: 0 }
    }

    /// Copies what there is. `wait` is for a log that may be in use; one without is locked already.
    fn run(mut self, mut wait: Option<&mut dyn FnMut()>) -> Result<Copied, CopyError> {
        let kept = self.check_beginning()?;
        // After the kept ones nothing is known but what their headers say.
        let mut joint = match kept {
            0 => Some(Joint { next_position: 1, chain: chain::start(&self.log_id) }),
            _ => None,
        };
        let (count, mut segments_copied) = (wide(self.catalog.entries.len()), 0_u64);
        for (number, entry) in (1..=count).zip(&self.catalog.entries) {
            if number > kept {
                check_header(number, entry, joint)?;
                // The first that is copied is in the backup already, or is the beginning of it.
                let is_new = number > kept.saturating_add(1);
                let copied = if number == count {
                    self.copy_last(entry, is_new, wait.take())?
                } else {
                    Some(self.copy(entry, entry.length, false)?)
                };
                if let Some(copied) = copied {
                    joint = Some(copied.joint);
                    segments_copied = segments_copied.saturating_add(1);
                }
            }
            self.pass(entry);
        }
        let Some(joint) = joint else { unreachable!("one segment is always copied") };
        let (position, hash) = (joint.position(), joint.chain);
        Ok(Copied { log_id: self.log_id, position, hash, segments_copied, segments_kept: kept })
    }

    fn pass(&mut self, entry: &Entry) {
        self.done = self.done.saturating_add(entry.length);
        (self.progress)(self.done, self.catalog.byte_count());
    }

    /// How many segments the target has that need not be copied, all of them those of the log.
    fn check_beginning(&self) -> Result<u64, CopyError> {
        let there = Catalog::read(self.target)?.entries;
        let Some((newest, sealed)) = there.split_last() else { return Ok(0) };
        if there.len() > self.catalog.entries.len() {
            return Err(CopyError::NoBeginning("it has more segments"));
        }
        for (ours, theirs) in there.iter().zip(&self.catalog.entries) {
            let is_same = ours.number == theirs.number && ours.header == theirs.header;
            if !is_same || !ours.is_whole() {
                return Err(CopyError::NoBeginning("a segment is another one"));
            }
        }
        let name = file_name(newest.number);
        let (log_id, until) = (self.log_id, u64::MAX);
        let alone = Alone { log_id, name: &name, entry: newest, is_last: true, until };
        let scanned = scan_segment(self.target, &alone, &mut |_| ())?;
        if !matches!(scanned.tail, Tail::Whole) {
            return Err(CopyError::NoBeginning("its newest segment is damaged"));
        }
        let (ours, theirs) = (open_file(self.target, &name)?, open_file(self.source, &name)?);
        let is_same = is_same_until(&*ours, &*theirs, scanned.end.offset);
        if !is_same.map_err(|error| io_error(&name, error))? {
            return Err(CopyError::NoBeginning("it has something else in its newest segment"));
        }
        Ok(wide(sealed.len()))
    }

    /// Copies the last segment, unless it has no group and `is_new` to the backup, with another one
    /// before it. `wait` is for a log that may be in use; of one without, which is locked already,
    /// all segments are copied.
    fn copy_last(
        &self,
        entry: &Entry,
        is_new: bool,
        wait: Option<&mut dyn FnMut()>,
    ) -> Result<Option<Scanned>, CopyError> {
        let Some(wait) = wait else {
            return self.copy(entry, self.end(entry, None)?, true).map(Some);
        };
        // A log that is free stays so until its last segment is copied.
        let lock = self.source.try_lock().map_err(|e| io_error("locking the directory", e))?;
        let end = match &lock {
            Lock::Taken(_) => self.end(entry, Some(wait))?,
            Lock::Held(_) => {
                if unfinished(self.source, self.catalog)?.is_some() {
                    return Err(OpenError::Unfinished.into());
                }
                // A process that was killed may have left its newest group to the page cache.
                let name = file_name(entry.number);
                let synced = open_file(self.source, &name)?.sync_data();
                synced.map_err(|error| io_error(&name, error))?;
                self.end(entry, None)?
            }
        };
        if is_new && end <= wide(HEADER_BYTES) {
            return Ok(None);
        }
        self.copy(entry, end, true).map(Some)
    }

    /// How far the last segment is copied. `wait` is for a log that is in use.
    fn end(
        &self,
        entry: &Entry,
        mut wait: Option<&mut (dyn FnMut() + '_)>,
    ) -> Result<u64, CopyError> {
        let (name, mut first_wanted, mut damaged_at) = (file_name(entry.number), None, None);
        let (log_id, until) = (self.log_id, self.until);
        let alone = Alone { log_id, name: &name, entry, is_last: true, until };
        let mut looks = 0_usize;
        loop {
            let scanned = scan_segment(self.source, &alone, &mut |_| ())?;
            if let Tail::Damaged(damage) = scanned.tail {
                // A group that was being written when we came by is whole once a later one is
                // there: what looks damaged twice in one place is damaged.
                if wait.is_none() || damaged_at == Some(damage.offset) {
                    return Err(damage.into());
                }
                damaged_at = Some(damage.offset);
                continue;
            }
            let Some(wait) = &mut wait else { return Ok(scanned.end.offset) };
            // What is before the newest group is durable. If that is a mark, it is all there is.
            let end = scanned.end.offset;
            let (durable_end, wanted) = match scanned.end.newest {
                Some(newest) if newest.kind == Kind::Records => (newest.offset, end),
                Some(mark) => (mark.offset, mark.offset),
                None => (end, end),
            };
            looks = looks.saturating_add(1);
            if durable_end >= *first_wanted.get_or_insert(wanted) {
                return Ok(durable_end);
            }
            if looks >= LOOKS_MAX {
                return Err(CopyError::Uncertain(name));
            }
            wait();
        }
    }

    /// Copies a segment up to `end`, verifies what is in the copy, and gives it its name.
    fn copy(&self, entry: &Entry, end: u64, is_last: bool) -> Result<Scanned, CopyError> {
        let (name, number) = (file_name(entry.number), entry.number);
        let write = || {
            spare::remove_left_over(self.target)?;
            let file = self.target.create(SPARE_FILE)?;
            copy_until(&*self.source.open(&name)?, &*file, end)?;
            write_zeros(&*file, end, entry.length.saturating_sub(end))?;
            file.sync_data()?;
            // What is verified is what is on the medium, not what the kernel remembers.
            file.forget(0);
            Ok(())
        };
        write().map_err(|error| io_error(&name, error))?;
        let draft = Entry::read_file(self.target, SPARE_FILE, number)?;
        let (log_id, until) = (self.log_id, u64::MAX);
        let alone = Alone { log_id, name: SPARE_FILE, entry: &draft, is_last, until };
        let scanned = scan_segment(self.target, &alone, &mut |_| ())?;
        match &scanned.tail {
            Tail::Damaged(damage) => {
                return Err(Damage { file: name, ..damage.clone() }.into());
            }
            Tail::Torn(torn) => {
                let what = "the group is not whole".to_owned();
                let (offset, position) = (torn.offset, torn.position);
                return Err(Damage { file: name, offset, position, what }.into());
            }
            Tail::Whole => {}
        }
        let named = self.target.rename(SPARE_FILE, &name).and_then(|()| self.target.sync_dir());
        named.map_err(|error| io_error(&name, error))?;
        Ok(scanned)
    }
}

/// Finds the header of a segment to be the one that comes next.
fn check_header(expected: u64, entry: &Entry, joint: Option<Joint>) -> Result<(), Damage> {
    let what = match &entry.header {
        _ if entry.number != expected => "the segment is missing".to_owned(),
        Err(fault) => fault.to_string(),
        Ok(SegmentHeader { first_position, chain_before, .. }) => {
            let continues = joint.is_none_or(|joint| {
                (joint.next_position, joint.chain) == (*first_position, *chain_before)
            });
            if continues {
                return Ok(());
            }
            "the segment does not continue the one before it".to_owned()
        }
    };
    let position = joint.map_or(1, |joint| joint.next_position);
    Err(Damage { file: file_name(expected), offset: 0, position, what })
}

fn copy_until(from: &dyn DiskFile, to: &dyn DiskFile, end: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut done = 0_u64;
    while done < end {
        let count = narrow(end.saturating_sub(done)).min(PIECE_BYTES);
        let piece = piece.get_mut(..count).unwrap_or_default();
        if read_up_to(from, piece, done)? < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(to, piece, done)?;
        done = done.saturating_add(wide(count));
    }
    Ok(())
}

fn is_same_until(one: &dyn DiskFile, other: &dyn DiskFile, end: u64) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut done = 0_u64;
    while done < end {
        let count = narrow(end.saturating_sub(done)).min(PIECE_BYTES);
        let ours = ours.get_mut(..count).unwrap_or_default();
        let theirs = theirs.get_mut(..count).unwrap_or_default();
        let counts = (read_up_to(one, ours, done)?, read_up_to(other, theirs, done)?);
        if counts != (count, count) || ours != theirs {
            return Ok(false);
        }
        done = done.saturating_add(wide(count));
    }
    Ok(true)
}
