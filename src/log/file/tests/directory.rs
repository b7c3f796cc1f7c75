//! Directories of a real file system: locks, rights, restarts, many files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use super::{options, roomy, try_open};
use crate::log::file::{Disk, DiskFile, LOCK_FILE, Lock, OpenError, SPARE_FILE, StdDisk, verify};

fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(StdDisk::open(path).unwrap())
}

#[test]
fn a_log_survives_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..6 {
        let mut log = try_open(disk(directory.path()), &roomy()).unwrap();
        assert_eq!(log.shapes(), expected);
        for index in 0..40 {
            let shape = [(1 + index % 3, 700 + round * 13), (1, 5)];
            log.append(&shape).unwrap();
            expected.extend(shape);
        }
        if round % 2 == 0 {
            log.close().unwrap();
        }
    }
    let log = try_open(disk(directory.path()), &roomy()).unwrap();
    assert_eq!(log.shapes(), expected);
    assert!(log.reader.recent_block(1).is_none(), "all of that came from the files");
}

#[test]
fn the_directory_has_one_user_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let log = try_open(disk(directory.path()), &options()).unwrap();
    for outcome in [
        try_open(disk(directory.path()), &options()).err(),
        verify(&*disk(directory.path()), &mut |_, _| {}, &mut |_, _| Ok(())).err(),
        verify(&StdDisk::open_read_only(directory.path()).unwrap(), &mut |_, _| {}, &mut |_, _| {
            Ok(())
        })
        .err(),
    ] {
        let Some(OpenError::Locked { holder }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(holder, format!("pid {}", std::process::id()));
    }
    let reader = Arc::clone(&log.reader);
    drop(log);
    let outcome = try_open(disk(directory.path()), &options());
    assert!(matches!(outcome, Err(OpenError::Locked { .. })), "a reader is a user, too");
    drop((outcome, reader));
    try_open(disk(directory.path()), &options()).unwrap();
}

#[test]
fn only_the_owner_may_look() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("new").join("data");
    let mut log = try_open(disk(&path), &options()).unwrap();
    log.append(&[(1, 1)]).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for name in ["00000000000000000001.seg", LOCK_FILE, SPARE_FILE] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_directory_is_verified_without_a_trace() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let missing = StdDisk::open_read_only(&path.join("nowhere"));
    assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    let read_only = StdDisk::open_read_only(path).unwrap();
    let empty = verify(&read_only, &mut |_, _| {}, &mut |_, _| Ok(()));
    assert!(matches!(empty, Err(OpenError::NoLog)));
    let mut log = try_open(disk(path), &options()).unwrap();
    log.append(&[(2, 10)]).unwrap();
    log.close().unwrap();
    let head = log.reader.head();
    drop(log);
    std::fs::remove_file(path.join(LOCK_FILE)).unwrap();
    let mut progress = Vec::new();
    let verified =
        verify(&read_only, &mut |done, all| progress.push((done, all)), &mut |_, _| Ok(()))
            .unwrap();
    assert_eq!(verified.head, head);
    assert!(verified.is_stopped);
    assert_eq!((verified.segments, verified.frames), (1, 2));
    assert_eq!(progress.last(), Some(&(8192, 8192)));
    assert!(!path.join(LOCK_FILE).exists());
}

#[test]
fn files_of_others_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["notes.txt", "1.seg", "00000000000000000001.seg.bak"] {
        std::fs::write(directory.path().join(name), name).unwrap();
    }
    drop(try_open(disk(directory.path()), &options()).unwrap());
    drop(try_open(disk(directory.path()), &options()).unwrap());
    for name in ["notes.txt", "1.seg", "00000000000000000001.seg.bak"] {
        assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), name);
    }
}

/// More segments than files may be open at once for reading.
#[test]
fn any_block_of_many_segments_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = try_open(disk(directory.path()), &options()).unwrap();
    for _ in 0..600 {
        log.append(&[(1, 1990)]).unwrap();
    }
    drop(log);
    let log = try_open(disk(directory.path()), &options()).unwrap();
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(files > 280, "{files}");
    for position in (1..=600).chain((1..=600).rev()).chain((1..600).step_by(7)) {
        assert_eq!(log.reader.block(position).unwrap().first_position(), position);
    }
}

/// The spare is made on a thread of its own, which ends with the writer.
#[test]
fn the_maker_of_spares_ends_with_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = try_open(disk(directory.path()), &options()).unwrap();
    let preparer = log.preparer.take().unwrap();
    let thread = std::thread::spawn(move || preparer.run());
    let writer = log.writer.as_mut().unwrap();
    let mut position = 0;
    while position < 200 {
        let group = crate::log::conformance::group(position + 1, &[(1, 1800)]);
        match writer.append(&group) {
            Ok(head) => position = head.position,
            Err(crate::log::AppendError::Full) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    log.writer = None;
    thread.join().unwrap();
    assert_eq!(log.shapes().len(), 200);
}

#[test]
fn a_lock_is_free_after_its_guard() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (disk(directory.path()), disk(directory.path()));
    let guard = one.try_lock().unwrap();
    assert!(matches!(guard, Lock::Held(_)));
    assert!(matches!(two.try_lock().unwrap(), Lock::Taken(_)));
    drop(guard);
    assert!(matches!(two.try_lock().unwrap(), Lock::Held(_)));
}

/// A writer that is faster than the disk is slowed down, and not told that the disk is full.
#[test]
fn a_writer_waits_for_the_spare_that_is_being_made() {
    let disk = SlowDisk::new();
    let mut log = try_open(Arc::clone(&disk) as Arc<dyn Disk>, &options()).unwrap();
    let mut preparer = log.preparer.take().unwrap();
    let maker = std::thread::spawn(move || preparer.prepare().unwrap());
    disk.begun.wait();
    let writer = log.writer.as_mut().unwrap();
    let mut position = 0;
    // All that goes without a spare.
    while position < 3 {
        let group = crate::log::conformance::group(position + 1, &[(1, 1800)]);
        position = writer.append(&group).unwrap().position;
    }
    std::thread::scope(|scope| {
        let has_room = scope.spawn(|| writer.has_room());
        // It can end no earlier than the maker, which waits for this.
        disk.may_end.wait();
        assert!(has_room.join().unwrap());
    });
    assert!(maker.join().unwrap());
}

/// Creates spares, after the first, when it is told to.
struct SlowDisk {
    disk: crate::sim::disk::SimDisk,
    is_first: std::sync::atomic::AtomicBool,
    begun: std::sync::Barrier,
    may_end: std::sync::Barrier,
}

impl SlowDisk {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            disk: crate::sim::disk::SimDisk::new(0),
            is_first: true.into(),
            begun: std::sync::Barrier::new(2),
            may_end: std::sync::Barrier::new(2),
        })
    }
}

impl Disk for SlowDisk {
    fn try_lock(&self) -> std::io::Result<Lock> {
        self.disk.try_lock()
    }

    fn list(&self) -> std::io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        if !self.is_first.swap(false, std::sync::atomic::Ordering::AcqRel) {
            self.begun.wait();
            self.may_end.wait();
        }
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> std::io::Result<()> {
        self.disk.sync_dir()
    }
}
