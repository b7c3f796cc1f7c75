//! Backups and restored logs: what is in them, what is refused, and what is left of one that ended
//! early.

use std::io::ErrorKind;

use super::{open, options, sample, segments, tiny, try_open, verify};
use crate::log::file::bytes::wide;
use crate::log::file::{self, COPY_FILE, Copied, CopyError, OpenError, Options};
use crate::sim::disk::{Faults, Image, SimDisk};

/// A backup of a log; nobody who uses it says anything meanwhile.
fn back_up(source: &SimDisk, target: &SimDisk) -> Result<Copied, CopyError> {
    file::back_up(source, target, &mut |done, all| assert!(done <= all), &mut || ())
}

fn restore(source: &SimDisk, target: &SimDisk) -> Result<Copied, CopyError> {
    restore_until(source, target, None)
}

fn restore_until(
    source: &SimDisk,
    target: &SimDisk,
    until: Option<u64>,
) -> Result<Copied, CopyError> {
    let mut told = |done, all| assert!(done <= all);
    file::restore(source, target, until, &mut told, &mut |_, _| Ok(()))
}

/// The sample, closed in order, and a backup of it.
fn backed_up() -> (SimDisk, SimDisk) {
    let (source, target) = (SimDisk::of(&sample(), 1), SimDisk::new(2));
    let copied = back_up(&source, &target).unwrap();
    assert_eq!(copied.segments_kept, 0);
    (source, target)
}

/// The segments with their bytes.
fn log(disk: &SimDisk) -> Image {
    let mut image = disk.image();
    image.retain(|name, _| super::super::segment::number_of(name).is_some());
    image
}

/// Where a copy ends.
fn end(copied: &Copied) -> (u64, crate::log::ChainHash) {
    (copied.position, copied.hash)
}

/// Where a log ends.
fn end_of(disk: &SimDisk) -> (u64, crate::log::ChainHash) {
    let head = verify(disk).unwrap().head;
    (head.position, head.hash)
}

fn append(disk: &SimDisk, count: usize) {
    let mut log = try_open(disk.shared(), &tiny()).unwrap();
    for _ in 0..count {
        log.append(&[(1, 64)]).unwrap();
    }
    log.close().unwrap();
}

#[test]
fn a_backup_has_all_of_a_log_that_nobody_uses() {
    let (source, target) = backed_up();
    let (ours, theirs) = (verify(&source).unwrap(), verify(&target).unwrap());
    assert_eq!(ours, theirs);
    assert!(log(&source) == log(&target), "byte by byte");

    let restored = SimDisk::new(3);
    let copied = restore(&target, &restored).unwrap();
    assert_eq!(end(&copied), end_of(&source));
    assert_eq!((copied.log_id, copied.segments_copied), (ours.log_id, 4));
    assert!(log(&source) == log(&restored));
    append(&restored, 1);
    assert_eq!(verify(&restored).unwrap().head.position, ours.head.position + 1);
}

/// As it is of a ledger that was found to be wrong from some position on: all that had ended by
/// then is there, whatever the segments, and it goes on from there.
#[test]
fn a_log_is_restored_as_far_as_wanted() {
    let disk = SimDisk::new(1);
    let mut log = try_open(disk.shared(), &tiny()).unwrap();
    let mut ends = Vec::new();
    for index in 0..40 {
        let records = [(2 + index % 3, 64); 2];
        log.append(if index % 2 == 0 { &records } else { &records[..1] }).unwrap();
        let head = log.reader.head();
        ends.push((head.position, head.hash));
    }
    log.close().unwrap();
    drop(log);
    assert!(segments(&disk.image()).len() > 4, "some of them end where a segment does");
    let (first, last) = (ends[0].0, ends[ends.len() - 1].0);
    let backup = SimDisk::new(3);
    assert_eq!(back_up(&disk, &backup).unwrap().position, ends[ends.len() - 1].0);
    for until in first..=last {
        let restored = SimDisk::new(2);
        let copied = restore_until(&disk, &restored, Some(until)).unwrap();
        let expected = *ends.iter().rfind(|(position, _)| *position <= until).unwrap();
        assert_eq!((end(&copied), end_of(&restored)), (expected, expected), "until {until}");
        append(&restored, 3);
        assert_eq!(end_of(&restored).0, expected.0 + 3);
        let other = back_up(&restored, &backup).err();
        let is_refused = matches!(other, Some(CopyError::NoBeginning(_)));
        assert_eq!(is_refused, expected.0 < last, "until {until}: {other:?}");
    }
    let refused = |until| {
        let restored = SimDisk::new(2);
        let error = restore_until(&disk, &restored, Some(until)).unwrap_err();
        assert!(restored.image().is_empty(), "nothing was begun");
        error
    };
    assert!(matches!(refused(last + 1), CopyError::TooShort(end) if end == last));
    assert!(matches!(refused(first - 1), CopyError::NoGroup));
}

#[test]
fn a_backup_on_top_of_another_copies_what_is_new() {
    let (source, target) = backed_up();
    let again = back_up(&source, &target).unwrap();
    assert_eq!((again.segments_copied, again.segments_kept), (1, 3), "the last may have grown");
    for count in [1, 8] {
        append(&source, count);
        let more = back_up(&source, &target).unwrap();
        assert_eq!(end(&more), end_of(&source));
        assert_eq!(verify(&target).unwrap(), verify(&source).unwrap());
        assert!(more.segments_kept >= 3, "{more:?}");
    }
}

#[test]
fn a_backup_of_a_log_in_use_ends_with_what_is_known_to_be_durable() {
    let (source, target) = (SimDisk::new(1), SimDisk::new(2));
    let mut log = open(&source);
    log.append(&[(2, 40)]).unwrap();
    log.append(&[(3, 40)]).unwrap();
    // Whoever looks from outside cannot know whether the newest group is durable, and it may have
    // been acknowledged.
    let uncertain = back_up(&source, &target);
    assert!(matches!(uncertain, Err(CopyError::Uncertain(_))), "{uncertain:?}");
    let mut looks = 0;
    let copied = file::back_up(&source, &target, &mut |_, _| (), &mut || {
        looks += 1;
        if looks == 3 {
            log.witness().unwrap();
        }
    });
    assert_eq!((copied.unwrap().position, looks), (5, 3));
    // The process is gone, and nobody will say more of its last group.
    log.append(&[(1, 40)]).unwrap();
    drop(log);
    assert_eq!(back_up(&source, &target).unwrap().position, 6);
}

#[test]
fn what_is_no_beginning_of_the_log_is_not_written_over() {
    let (source, target) = backed_up();
    append(&target, 1);
    let ahead = target.image();
    for (source, target) in [
        // The backup was written to, by a few events or more segments, or is of another log.
        (&source, &target),
        (&source, &{
            append(&target, 20);
            target.clone()
        }),
        (&source, &{
            let other = SimDisk::new(3);
            let options = crate::log::file::Options { new_log_id: [9; 16], ..tiny() };
            drop(try_open(other.shared(), &options).unwrap());
            other
        }),
    ] {
        let before = target.image();
        let refused = back_up(source, target);
        assert!(matches!(refused, Err(CopyError::NoBeginning(_))), "{refused:?}");
        assert!(target.image() == before, "nothing was touched");
    }
    // Once the log has come to the same place with other events, it is another one as well.
    let target = SimDisk::of(&ahead, 4);
    let mut log = try_open(source.shared(), &tiny()).unwrap();
    log.append(&[(1, 65)]).unwrap();
    log.close().unwrap();
    drop(log);
    assert!(matches!(back_up(&source, &target), Err(CopyError::NoBeginning(_))));
}

#[test]
fn nothing_is_restored_over_something() {
    let (_, backup) = backed_up();
    for name in ["00000000000000000001.seg", COPY_FILE, "notes.txt"] {
        let target = SimDisk::of(&Image::from([(name.to_owned(), b"mine".to_vec())]), 1);
        let refused = restore(&backup, &target);
        assert!(matches!(&refused, Err(CopyError::NotEmpty(it)) if it == name), "{refused:?}");
        assert_eq!(target.image()[name], b"mine");
        assert_eq!(target.image().len(), 1);
    }
    let empty = Image::from([("lost+found".to_owned(), Vec::new())]);
    assert!(restore(&backup, &SimDisk::of(&empty, 1)).is_ok());
    let nothing = restore(&SimDisk::new(1), &SimDisk::new(2));
    assert!(matches!(nothing, Err(CopyError::Open(OpenError::NoLog))), "{nothing:?}");
}

/// Somebody's files are not mixed with a backup that was meant for another place; but whoever has a
/// backup may put something beside it.
#[test]
fn a_backup_is_not_begun_beside_other_files() {
    let (source, target) = backed_up();
    let with = |name: &str| Image::from([(name.to_owned(), b"mine".to_vec())]);
    for name in ["notes.txt", ".profile", "checkpoint", COPY_FILE, "1.seg"] {
        let target = SimDisk::of(&with(name), 2);
        let refused = back_up(&source, &target);
        assert!(matches!(&refused, Err(CopyError::NoBackup(it)) if it == name), "{refused:?}");
        assert!(target.image() == with(name), "nothing was touched");
    }
    for name in [file::LOCK_FILE, file::SPARE_FILE, "lost+found"] {
        let begun = back_up(&source, &SimDisk::of(&with(name), 2)).unwrap();
        assert_eq!(end(&begun), end_of(&source), "{name}");
    }
    let mut beside = target.image();
    beside.extend(with("notes.txt"));
    let target = SimDisk::of(&beside, 3);
    assert_eq!(back_up(&source, &target).unwrap().segments_kept, 3);
    assert_eq!(target.image()["notes.txt"], b"mine");
}

/// Rot is told at the latest when it is copied, and no copy has other events than the log.
#[test]
fn damage_is_not_copied() {
    let whole = sample();
    let (mut told, mut harmless) = (0, 0);
    for name in &segments(&whole) {
        let used = whole[name].iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..used).step_by(5) {
            let source = SimDisk::of(&whole, 1);
            source.poke(name, at, whole[name][at] ^ 0x10);
            let target = SimDisk::new(2);
            match back_up(&source, &target) {
                Err(CopyError::Damaged(damage)) => {
                    assert!(damage.file >= *name, "{name} at {at}: {damage}");
                    told += 1;
                }
                Err(other) => panic!("{name} at {at}: {other}"),
                // Bytes of the fill between groups; or of the very last group, which looks torn.
                Ok(copied) => {
                    assert_eq!(end(&copied), end_of(&source), "{name} at {at}");
                    harmless += 1;
                }
            }
        }
    }
    assert!(told > 500 && harmless > 100, "{told} {harmless}");
}

/// Each call that changes the target fails in turn, and then its power goes.
#[test]
fn a_backup_that_ends_early_leaves_a_beginning_of_the_log() {
    for count in [0, 12] {
        for fail_after in 0.. {
            let (source, target) = backed_up();
            append(&source, count);
            let kind = ErrorKind::Other;
            target.set_faults(Faults { fail_after: Some((fail_after, kind)), ..Faults::default() });
            let failed = back_up(&source, &target);
            if !target.has_failed() {
                assert!(failed.is_ok());
                assert!(fail_after > 5, "nothing failed");
                break;
            }
            assert!(matches!(failed, Err(CopyError::Open(OpenError::Io { .. }))), "{failed:?}");
            target.crash();
            let left = verify(&target).unwrap();
            assert_eq!(left.damage, None);
            assert_eq!(end(&back_up(&source, &target).unwrap()), end_of(&source));
        }
    }
}

#[test]
fn a_log_that_is_half_restored_is_not_opened() {
    let (source, backup) = backed_up();
    for fail_after in 0.. {
        let target = SimDisk::new(3);
        let kind = ErrorKind::StorageFull;
        target.set_faults(Faults { fail_after: Some((fail_after, kind)), ..Faults::default() });
        let failed = restore(&backup, &target);
        if !target.has_failed() {
            assert!(log(&target) == log(&source));
            assert!(fail_after > 20, "nothing failed");
            break;
        }
        assert!(failed.is_err());
        target.crash();
        let image = target.image();
        if segments(&image).is_empty() {
            continue;
        }
        // The last call takes the mark away: then everything is there.
        match try_open(target.shared(), &tiny()) {
            Err(OpenError::HalfRestored) => {}
            Err(other) => panic!("{other}"),
            Ok(log) => assert_eq!(log.reader.head(), verify(&source).unwrap().head),
        }
        let is_whole = !image.contains_key(file::RESTORE_FILE);
        let refused = back_up(&target, &SimDisk::new(4)).is_err();
        assert_eq!(refused, !is_whole, "nor copied");
    }
}

/// A segment whose name in the directory is not synced yet is there to be read; a power cut takes
/// it, and the one that is begun instead has another header.
#[test]
fn a_segment_that_is_only_begun_is_not_in_a_backup() {
    let mut taken = 0;
    for (fail_after, seed) in (0..40).flat_map(|calls| (0..4).map(move |seed| (calls, seed))) {
        let (source, target) = (SimDisk::new(seed), SimDisk::new(2));
        let mut log = open(&source);
        let fail_after = Some((fail_after, ErrorKind::Other));
        source.set_faults(Faults { fail_after, ..Faults::default() });
        let _failed = (0..12).find(|_| log.append(&[(4, 900)]).is_err());
        source.set_faults(Faults::default());
        // Of a log that has failed nobody knows how far it is durable.
        let copied = match back_up(&source, &target) {
            Ok(copied) => {
                assert_eq!(copied.segments_copied, wide(segments(&target.image()).len()));
                copied.position
            }
            Err(CopyError::Uncertain(_)) => 0,
            Err(other) => panic!("{other}"),
        };
        drop(log);
        let begun = segments(&source.image()).len();
        source.crash();
        taken += begun - segments(&source.image()).len();

        let options = Options { now_micros: options().now_micros + 1, ..options() };
        let mut log = try_open(source.shared(), &options).unwrap();
        assert!(log.position() >= copied);
        for _ in 0..9 {
            log.append(&[(4, 900)]).unwrap();
        }
        log.close().unwrap();
        drop(log);
        assert_eq!(end(&back_up(&source, &target).unwrap()), end_of(&source));
    }
    assert!(taken > 2, "{taken}");
}
