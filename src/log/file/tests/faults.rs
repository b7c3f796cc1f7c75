//! Calls that fail, are short, or find no space.

use std::io::ErrorKind;

use super::{Shape, open, options, try_open, verify};
use crate::log::conformance::group;
use crate::log::file::{Opened, SPARE_FILE};
use crate::log::{AppendError, LogWriter};
use crate::sim::disk::{Call, Faults, SimDisk};

const KINDS: [ErrorKind; 3] = [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::QuotaExceeded];

/// What a client knows of its records.
#[derive(Default)]
struct Client {
    acked: Shape,
    /// The group whose fate is unknown.
    unknown: Shape,
}

impl Client {
    /// What is read is what was acknowledged, and then perhaps the group of unknown fate.
    fn check(&self, shapes: &Shape, what: &str) {
        let with_unknown = [self.acked.clone(), self.unknown.clone()].concat();
        assert!(*shapes == self.acked || *shapes == with_unknown, "{what}: {shapes:?}");
    }

    /// Appends groups, with everything that a server does; ends at the first failure.
    fn work(&mut self, log: &mut Opened) -> Result<(), AppendError> {
        for round in 0..12 {
            let shape: Shape = vec![(1, 100 + round), (2, 600)];
            match log.append(&shape) {
                Ok(head) => assert_eq!(head, log.reader.head()),
                // Nothing was written, so nothing may be seen.
                Err(AppendError::Full) => continue,
                Err(error) => {
                    self.unknown = shape;
                    return Err(error);
                }
            }
            self.acked.extend(shape);
            if round % 5 == 4 {
                log.witness()?;
            }
        }
        log.close()
    }
}

/// Fails the n-th changing call, for every n until there is none: whatever it is, the log
/// latches, what was acknowledged stays, and what is shown once is there for ever.
#[test]
fn whichever_call_fails_nothing_acknowledged_is_lost() {
    let mut faults = 0;
    for kind in KINDS {
        for n in 0.. {
            if !fail(n, kind) {
                break;
            }
            faults += 1;
        }
    }
    assert!(faults > 150, "{faults}");
}

/// Returns whether there was an n-th call.
fn fail(n: usize, kind: ErrorKind) -> bool {
    let what = format!("call {n} fails with {kind}");
    let disk = SimDisk::new(n as u64);
    disk.set_faults(Faults { fail_after: Some((n, kind)), ..Faults::default() });
    let mut client = Client::default();
    if let Ok(mut log) = try_open(disk.shared(), &options()) {
        let outcome = client.work(&mut log);
        client.check(&log.shapes(), &what);
        assert_eq!(log.shapes(), client.acked, "{what}: only what is durable is shown");
        if let Err(error) = outcome {
            assert!(matches!(error, AppendError::Failed(_)), "{what}: {error}");
            check_latched(&mut log, &what);
            assert_eq!(log.shapes(), client.acked, "{what}: reading goes on");
        }
    }
    let has_failed = disk.has_failed();
    disk.set_faults(Faults::default());
    // The process starts again: the page cache shows things that the disk may not have.
    let log = open(&disk);
    let shown = log.shapes();
    client.check(&shown, &what);
    drop(log);
    // The power goes: whatever was shown must be there still.
    disk.crash();
    assert_eq!(verify(&disk).unwrap().damage, None, "{what}");
    let log = open(&disk);
    assert_eq!(log.shapes(), shown, "{what}: what was shown is lost");
    assert_eq!(log.torn, None, "{what}");
    has_failed
}

fn check_latched(log: &mut Opened, what: &str) {
    assert!(!log.has_room(), "{what}");
    assert!(matches!(log.append(&[(1, 1)]), Err(AppendError::Latched)), "{what}");
    assert!(matches!(log.witness(), Err(AppendError::Latched)), "{what}");
    assert!(matches!(log.close(), Err(AppendError::Latched)), "{what}");
}

/// The same with the opening of a log that has a torn tail and an unwitnessed group.
#[test]
fn whichever_call_of_a_recovery_fails_another_recovers() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    for _ in 0..2 {
        log.append(&[(1, 300), (1, 400)]).unwrap();
    }
    let acked = log.shapes();
    let mut image = disk.image();
    let file = image.get_mut("00000000000000000001.seg").unwrap();
    file[512 + 2 * 1024 + 600] = 1;
    let mut faults = 0;
    for n in 0.. {
        let disk = SimDisk::of(&image, n as u64);
        disk.set_faults(Faults { fail_after: Some((n, ErrorKind::Other)), ..Faults::default() });
        assert!(try_open(disk.shared(), &options()).is_err() || !disk.has_failed());
        let has_failed = disk.has_failed();
        if n % 2 == 0 {
            disk.crash();
        }
        disk.set_faults(Faults::default());
        assert_eq!(open(&disk).shapes(), acked, "call {n}");
        disk.crash();
        assert_eq!(open(&disk).shapes(), acked, "call {n}, then a crash");
        if !has_failed {
            break;
        }
        faults += 1;
    }
    assert!(faults >= 6, "{faults}");
}

#[test]
fn short_and_interrupted_calls_change_nothing() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.set_faults(Faults { short: true, ..Faults::default() });
        let mut client = Client::default();
        client.work(&mut open(&disk)).unwrap();
        let log = open(&disk);
        assert_eq!(log.shapes(), client.acked, "seed {seed}");
        assert_eq!((&log.torn, &log.damage), (&None, &None), "seed {seed}");
    }
}

/// The newest group is written again on start, for it may be in the page cache only.
#[test]
fn opening_writes_the_newest_group_again_and_witnesses_it() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    log.append(&[(1, 10)]).unwrap();
    drop(log);
    disk.take_calls();
    drop(open(&disk));
    let calls = disk.take_calls();
    let (copy, rest) = calls[1..].split_at(5);
    assert_eq!(calls[0], Call::Remove, "the spare of the life before");
    assert_eq!(copy, [Call::Create, Call::Write, Call::Sync, Call::Rename, Call::SyncDir]);
    let (group, rest) = rest.split_at(3);
    assert_eq!(group, [Call::Write, Call::Sync, Call::SyncDir]);
    let (witness, rest) = rest.split_at(2);
    assert_eq!(witness, [Call::Write, Call::Sync]);
    assert_eq!(rest, [Call::Remove, Call::SyncDir], "the copy has done its service");
    drop(open(&disk));
    // Now the witness is the newest group, and a witness needs none.
    assert_eq!(disk.take_calls(), [Call::Write, Call::Sync, Call::SyncDir]);
}

/// What is left of a torn group may look like proof that the group before it was durable, so it
/// must be gone for good before that one is written again.
#[test]
fn a_torn_group_is_cut_and_synced_before_the_group_in_front_is_touched() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    log.append(&[(1, 10)]).unwrap();
    log.witness().unwrap();
    log.append(&[(1, 1000)]).unwrap();
    let mut image = disk.image();
    // The witness is at 1024, the torn group at 1536: its first sector is whole.
    image.get_mut("00000000000000000001.seg").unwrap()[2048..2560].fill(0);
    image.remove(SPARE_FILE);
    let disk = SimDisk::of(&image, 0);
    let log = open(&disk);
    assert_eq!(log.torn.as_ref().map(|torn| torn.offset), Some(1536));
    let calls = disk.take_calls();
    assert_eq!(calls, [Call::Write, Call::Sync, Call::Write, Call::Sync, Call::SyncDir]);
}

/// A full disk has no space for a copy of the newest group, and the log is opened all the same.
#[test]
fn a_full_disk_keeps_no_log_from_opening() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    log.writer.as_mut().unwrap().append(&group(1, &[(1, 10)])).unwrap();
    drop(log);
    for spare in [0, 1, 600] {
        let disk = SimDisk::of(&disk.image(), 0);
        disk.set_faults(Faults { capacity: Some(8 * 1024 + spare), ..Faults::default() });
        let mut log = open(&disk);
        assert_eq!(disk.image().len(), 1, "no copy is left behind");
        assert_eq!(log.shapes(), [(1, 10)]);
        assert!(log.has_room());
    }
}

/// A sync fails, the process starts again without a crash, and only then the power goes.
#[test]
fn a_group_that_is_shown_after_a_failed_sync_survives_a_crash() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let mut log = open(&disk);
        log.append(&[(1, 10)]).unwrap();
        disk.set_faults(Faults { fail_after: Some((1, ErrorKind::Other)), ..Faults::default() });
        let group = group(2, &[(1, 700)]);
        let outcome = log.writer.as_mut().unwrap().append(&group);
        assert!(matches!(outcome, Err(AppendError::Failed(_))));
        assert_eq!(log.shapes(), [(1, 10)]);
        drop(log);
        assert_eq!(open(&disk).shapes(), [(1, 10), (1, 700)], "the page cache has it");
        disk.crash();
        assert_eq!(open(&disk).shapes(), [(1, 10), (1, 700)], "seed {seed}: the disk has it too");
    }
}

/// Without space for another segment the log is full before it is half-way through anything, and
/// it goes on by itself when there is space.
#[test]
fn a_full_disk_refuses_groups_until_there_is_space() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    disk.set_faults(Faults { capacity: Some(8 * 1024 + 3000), ..Faults::default() });
    let mut acked = 0;
    while log.has_room() {
        log.append(&[(1, 1500)]).unwrap();
        acked += 1;
    }
    assert!(acked >= 2, "{acked}");
    let preparer = log.preparer.as_mut().unwrap();
    assert_eq!(preparer.prepare().unwrap_err().kind(), ErrorKind::StorageFull);
    assert!(!disk.image().contains_key(SPARE_FILE), "space that is of no use is given back");
    let head = log.reader.head();
    disk.take_calls();
    let large = group(log.position() + 1, &[(1, 1020), (1, 1020)]);
    for _ in 0..3 {
        let outcome = log.writer.as_mut().unwrap().append(&large);
        assert!(matches!(outcome, Err(AppendError::Full)), "{outcome:?}");
    }
    assert_eq!(disk.take_calls(), [], "nothing was written");
    assert_eq!(log.reader.head(), head);
    assert_eq!(log.shapes().len(), acked, "reading goes on");
    disk.set_faults(Faults::default());
    assert!(log.preparer.as_mut().unwrap().prepare().unwrap());
    assert!(log.has_room());
    assert_eq!(log.writer.as_mut().unwrap().append(&large).unwrap().position, head.position + 2);
    assert!(log.preparer.as_mut().unwrap().prepare().unwrap(), "the next is wanted");
    assert!(!log.preparer.as_mut().unwrap().prepare().unwrap(), "and then no more");
}

/// A log that is full can be witnessed, closed, opened, and closed again.
#[test]
fn a_full_log_has_room_for_its_marks() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    let writer: &mut Box<dyn LogWriter> = log.writer.as_mut().unwrap();
    let mut position = 0;
    // Without a spare, until not even the smallest group fits.
    while writer.append(&group(position + 1, &[(1, 1)])).is_ok() {
        position += 1;
    }
    assert_eq!(position, 12, "one sector each, but for the header and three marks");
    drop(log);
    for _ in 0..5 {
        let mut log = open(&disk);
        assert_eq!((log.position(), &log.torn), (position, &None));
        log.witness().unwrap();
        log.close().unwrap();
    }
    let mut log = open(&disk);
    log.append(&[(1, 1)]).unwrap();
    assert_eq!(log.position(), position + 1, "and for a seal when there is a spare");
    drop(log);
    assert_eq!(verify(&disk).unwrap().segments, 2);
}

/// A log whose newest segment is sealed, as a crash in the middle of a change leaves it.
#[test]
fn a_crash_between_two_segments_is_no_damage() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    let mut acked = 0;
    while !disk.image().contains_key("00000000000000000002.seg") {
        log.append(&[(1, 1500)]).unwrap();
        acked += 1;
    }
    drop(log);
    let mut image = disk.image();
    image.retain(|name, _| name.starts_with("00000000000000000001"));
    let disk = SimDisk::of(&image, 0);
    let mut log = open(&disk);
    assert_eq!((&log.damage, &log.torn, log.position()), (&None, &None, acked - 1));
    assert!(!log.has_room(), "there is no segment to go on in");
    log.witness().unwrap();
    log.append(&[(1, 1500)]).unwrap();
    assert!(log.has_room());
    log.close().unwrap();
    drop(log);
    assert_eq!(verify(&disk).unwrap().head.position, acked);
}
