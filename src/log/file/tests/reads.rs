//! Reads that fail, or say that a file ends where it does not, or that there is none.

use std::{io, sync::Arc};

use super::{open, options, sample, segments, tiny, try_open, verify};
use crate::log::ReadError;
use crate::log::file::{CopyError, Disk, DiskFile, Lock, OpenError, back_up};
use crate::sim::disk::{ReadFault, SimDisk};

const FAULTS: [ReadFault; 2] = [ReadFault::Error, ReadFault::End];

/// Fails the n-th read of a start, for every n until there is none: it fails, and the next one
/// finds everything. What cannot be read is neither damage nor the end of the log.
#[test]
fn whichever_read_of_a_start_fails_nothing_is_taken_for_missing() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    for _ in 0..9 {
        log.append(&[(1, 700), (1, 300)]).unwrap();
    }
    let (acked, image) = (log.shapes(), disk.image());
    for fault in FAULTS {
        let mut faults = 0;
        for n in 0.. {
            let disk = SimDisk::of(&image, 0);
            disk.set_read_fault(Some((n, fault)));
            let opened = try_open(disk.shared(), &options());
            if !disk.has_failed_a_read() {
                break;
            }
            let error = opened.map(|_| ()).expect_err("a read has failed");
            assert!(matches!(error, OpenError::Io { .. }), "read {n}, {fault:?}: {error}");
            let log = open(&disk);
            assert_eq!(log.shapes(), acked, "read {n}, {fault:?}");
            assert_eq!((&log.torn, &log.damage), (&None, &None), "read {n}, {fault:?}");
            faults += 1;
        }
        assert!(faults >= 6, "{faults} of {fault:?}");
    }
}

/// The same with the reads of a log that is open: who met it is told so, and is served the next
/// time.
#[test]
fn whichever_read_of_an_open_log_fails_it_is_not_damaged() {
    let disk = SimDisk::of(&sample(), 0);
    // What a start has read is not kept, so every position has to be read.
    let log = try_open(disk.shared(), &tiny()).unwrap();
    for fault in FAULTS {
        for position in 1..=log.position() {
            disk.set_read_fault(Some((0, fault)));
            let error = log.reader.block(position).expect_err("a read has failed");
            assert!(matches!(error, ReadError::Io(_)), "{position}, {fault:?}: {error}");
            assert!(disk.has_failed_a_read());
            let block = log.reader.block(position).unwrap();
            assert!((block.first_position()..=block.last_position()).contains(&position));
        }
    }
}

/// And with those of a verification and of a backup.
#[test]
fn whichever_read_fails_nothing_is_verified_or_backed_up() {
    let source = SimDisk::of(&sample(), 0);
    let whole = verify(&source).unwrap();
    let made = |target: &SimDisk| back_up(&source, target, &mut |_, _| (), &mut || ());
    for fault in FAULTS {
        let mut faults = 0;
        for n in 0.. {
            source.set_read_fault(Some((n, fault)));
            let verified = verify(&source);
            let met_by_verify = source.has_failed_a_read();
            let is_told = matches!(verified, Err(OpenError::Io { .. }));
            assert_eq!(is_told, met_by_verify, "read {n}, {fault:?}: {verified:?}");
            source.set_read_fault(Some((n, fault)));
            let target = SimDisk::new(0);
            let copied = made(&target);
            let met_by_backup = source.has_failed_a_read();
            let is_told = matches!(copied, Err(CopyError::Open(OpenError::Io { .. })));
            assert_eq!(is_told, met_by_backup, "read {n}, {fault:?}: {copied:?}");
            source.set_read_fault(None);
            assert_eq!(made(&target).unwrap().hash, whole.head.hash, "read {n}, {fault:?}");
            if !met_by_verify && !met_by_backup {
                break;
            }
            faults += 1;
        }
        assert!(faults >= 6, "{faults} of {fault:?}");
    }
}

/// A disk that lists only so many files, in the order of their names.
struct Unlisted(SimDisk, usize);

impl Disk for Unlisted {
    fn try_lock(&self) -> io::Result<Lock> {
        self.0.try_lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.list()?.into_iter().take(self.1).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
}

#[test]
fn what_is_not_listed_is_not_overwritten() {
    let image = sample();
    let disk = SimDisk::of(&image, 0);
    let segments = segments(&image).len();
    assert!(segments >= 2);
    for listed in 0..segments {
        let opened = try_open(Arc::new(Unlisted(disk.clone(), listed)), &options());
        let error = opened.map(|_| ()).expect_err("there is more of the log");
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
        assert_eq!(disk.image(), image, "nothing was changed");
    }
}
