//! Opening a log for writing: scan, repair what a crash may have left, go on.
//!
//! # What opening writes
//! First of all, a group that an earlier start was writing again when it ended is put back, if
//! that left it broken (`rewrite.rs`). Then the log is read. If there is damage, nothing is
//! written. Else, in this order:
//!
//! 1. A torn tail is overwritten with zeros and synced, before the group in front of it is
//!    touched: what is left of a torn group may look like proof that the one before was durable.
//! 2. The newest group of the last segment is written again, as it was read: it may be in the page
//!    cache only. Groups before it need no such thing, since it was begun after their syncs had
//!    returned; nor does a seal with a segment after it.
//! 3. That is synced, and so is the directory.
//! 4. If the newest group has records, a witness for it is appended, and its copy is removed.
//! 5. If the last segment is of an older format, a spare is made, as the next group needs a new
//!    segment: nobody shall be told that there is no room for the moment that this takes. The
//!    segment itself is begun by the first group, so that a log to which nothing was added can
//!    still be opened by the program that it came from.

use std::io;
use std::sync::Arc;

use crate::log::{CheckpointFault, FORMAT_VERSION, LogId, LogWriter, chain};

use super::bytes::{narrow, wide};
use super::catalog::{Catalog, open_file};
use super::checkpoint::{self, Checkpoint, Checkpoints, Resume};
use super::copy::refuse_half_restored;
use super::disk::{Disk, DiskFile, write_all_at};
use super::frame::group_bytes_bound;
use super::reader::Shared;
use super::rewrite::{self, COPY_FILE, Unfinished};
use super::scan::{End, Scanned, Tail, Visit, scan};
use super::scrub::Scrubber;
use super::segment::{self, SegmentHeader, file_name};
use super::spare::{self, Shelf, SpareMaker};
use super::writer::{Current, Start, Writer, begin_segment};
use super::{OpenError, Opened, Options, TornTail, io_error, lock_directory};

/// How many zeros are written at once.
const ZEROS_BYTES: usize = 64 * 1024;

/// A directory that this process has for itself, with a log that is ready to be read.
pub struct Directory {
    disk: Arc<dyn Disk>,
    options: Options,
    lock: Box<dyn Send + Sync>,
    catalog: Catalog,
}

impl Directory {
    /// Takes a directory, makes a log in it if there is none, and finishes what an earlier start
    /// has left unfinished.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn take(disk: Arc<dyn Disk>, options: &Options) -> Result<Self, OpenError> {
        options.check()?;
        let lock = lock_directory(&*disk)?;
        refuse_half_restored(&*disk)?;
        let mut catalog = Catalog::read(&*disk)?;
        if catalog.entries.is_empty() {
            create_log(&*disk, options).map_err(|error| io_error("making a log", error))?;
            tracing::info!("a new ledger was made: there was none in the directory");
            catalog = Catalog::read(&*disk)?;
        }
        if let Some(unfinished) = unfinished(&*disk, &catalog)? {
            unfinished.put_back().map_err(|error| io_error("putting a group back", error))?;
        }
        Ok(Self { disk, options: options.clone(), lock, catalog })
    }

    /// The id of its log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.catalog.log_id()
    }

    /// The checkpoint, if there is one that fits the log.
    ///
    /// # Errors
    /// [`CheckpointFault`] when there is one that is of no use.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, CheckpointFault> {
        Checkpoint::find(&*self.disk, &self.catalog)
    }

    /// Opens the log: as [`super::open`], but reads only what comes after a place, if one is
    /// given.
    ///
    /// # Errors
    /// [`OpenError`]; damage is none of them, see [`Opened::damage`].
    pub fn open(self, from: Option<Resume>, visit: Visit<'_>) -> Result<Opened, OpenError> {
        let Self { disk, options, lock, catalog } = self;
        let mut scanned = scan(&*disk, &catalog, from.as_ref(), visit, &mut |_, _| {})?;
        let index = std::mem::take(&mut scanned.index);
        let shared = Shared::new(Arc::clone(&disk), lock, scanned.log_id, scanned.tip(), index);
        let shared = Arc::new(shared);
        // What is before the place to go on from was not read now.
        let (verified, unseen) = match from {
            Some(_) => (0, 1),
            None => (scanned.joint.position(), scanned.end.segment),
        };
        shared.note_scrubbed(1, verified, None);
        let (torn, damage) = match &scanned.tail {
            Tail::Whole => (None, None),
            Tail::Torn(torn) => (Some(torn.clone()), None),
            Tail::Damaged(damage) => (None, Some(damage.clone())),
        };
        let (mut writer, mut preparer) = (None, None);
        if let Some(damage) = &damage {
            shared.note_scrubbed(damage.position, damage.position, Some(damage.clone()));
        } else {
            let file = repair(&*disk, &scanned, torn.as_ref())?;
            let started = start(Arc::clone(&disk), &options, &shared, &scanned, file)?;
            (writer, preparer) = (Some(started.0), Some(started.1));
        }
        let scrubber = Scrubber::new(Arc::clone(&disk), Arc::clone(&shared), unseen);
        let checkpoints = Checkpoints { disk, shared: Arc::clone(&shared) };
        Ok(Opened { writer, reader: shared, damage, torn, preparer, checkpoints, scrubber })
    }
}

/// What an earlier start has left unfinished.
pub(super) fn unfinished(
    disk: &dyn Disk,
    catalog: &Catalog,
) -> Result<Option<Unfinished>, OpenError> {
    let Some(newest) = catalog.entries.last() else { return Ok(None) };
    Unfinished::find(disk, &catalog.log_id(), newest).map_err(|error| io_error(COPY_FILE, error))
}

/// Makes the first segment.
fn create_log(disk: &dyn Disk, options: &Options) -> io::Result<()> {
    let length = options.first_segment_length();
    // Nobody else needs the disk now, so one sync is enough.
    let file = spare::make(disk, length, length)?;
    let header = SegmentHeader {
        format: FORMAT_VERSION,
        log_id: options.new_log_id,
        number: 1,
        first_position: 1,
        length,
        created_micros: options.now_micros,
        chain_before: chain::start(&options.new_log_id),
    };
    begin_segment(disk, &*file, &header)
}

/// Steps 1 to 3. Returns the last segment's file.
fn repair(
    disk: &dyn Disk,
    scanned: &Scanned,
    torn: Option<&TornTail>,
) -> Result<Arc<dyn DiskFile>, OpenError> {
    let name = file_name(scanned.end.segment);
    let file = open_file(disk, &name)?;
    let steps = || {
        spare::remove_left_over(disk)?;
        checkpoint::remove_draft(disk)?;
        if let Some(torn) = torn {
            let TornTail { file: name, offset, bytes, position } = torn;
            tracing::warn!(file = name, offset, bytes, position, "cutting an incomplete group");
            write_zeros(&*file, *offset, *bytes)?;
            file.sync_data()?;
        }
        if let Some(newest) = scanned.end.newest {
            rewrite::rewrite(disk, &*file, scanned.log_id, newest, scanned.end)?;
        }
        file.sync_data()?;
        disk.sync_dir()
    };
    steps().map_err(|error| io_error(&name, error))?;
    Ok(file)
}

/// Writes zeros over whole sectors, as many as have any of the bytes.
pub(super) fn write_zeros(file: &dyn DiskFile, offset: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let end = super::bytes::align(offset.saturating_add(bytes), segment::SECTOR_BYTES);
    let mut at = offset;
    while at < end {
        let count = end.saturating_sub(at).min(wide(ZEROS_BYTES));
        write_all_at(file, zeros.get(..narrow(count)).unwrap_or_default(), at)?;
        at = at.saturating_add(count);
    }
    Ok(())
}

/// Steps 4 and 5, with the writer that goes on from there.
fn start(
    disk: Arc<dyn Disk>,
    options: &Options,
    reader: &Arc<Shared>,
    scanned: &Scanned,
    file: Arc<dyn DiskFile>,
) -> Result<(Box<dyn LogWriter>, SpareMaker), OpenError> {
    let End { segment: number, format, length, offset: end, newest } = scanned.end;
    let newest = newest.map(|newest| newest.kind);
    let start = Start {
        current: Current { file, number, format, length, end, newest },
        joint: scanned.joint,
        sealed_bytes: scanned.sealed_bytes,
        group_room: group_bytes_bound(wide(options.group_bytes_max)),
        created_micros: options.now_micros,
    };
    let shelf = Arc::new(Shelf::default());
    shelf.request();
    let mut writer = Writer::new(Arc::clone(&disk), Arc::clone(reader), Arc::clone(&shelf), start);
    let witnessed = writer.witness().map_err(io::Error::other);
    witnessed.map_err(|error| io_error(&file_name(number), error))?;
    // Before anything is appended: a copy that came back would be one of an older group.
    rewrite::remove(&*disk).map_err(|error| io_error(COPY_FILE, error))?;
    let mut preparer = SpareMaker::new(disk, shelf, options.segment_length());
    if format != FORMAT_VERSION
        && let Err(error) = preparer.prepare()
    {
        tracing::warn!(%error, "cannot prepare a segment of the newest format yet");
    }
    Ok((Box::new(writer), preparer))
}
