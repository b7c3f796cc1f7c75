//! Logs that a program of format version 1 has written: they are read, and go on in segments of
//! version 2.

use super::{open, options, sample, segments, tiny, try_open, verify};
use crate::log::file::segment::{SegmentHeader, file_name, make_version_1};
use crate::log::file::{self, Opened};
use crate::log::{AppendError, FORMAT_VERSION, Scrubber as _};
use crate::sim::disk::{Call, Faults, Image, SimDisk};

/// The sample as a program of version 1 would have written it.
fn older_sample() -> Image {
    let mut image = sample();
    make_version_1(&mut image);
    image
}

/// The formats of all segments, in order.
fn formats(image: &Image) -> Vec<u32> {
    segments(image).iter().map(|name| header(image, name).format).collect()
}

fn header(image: &Image, name: &str) -> SegmentHeader {
    SegmentHeader::decode(image[name].first_chunk().unwrap()).unwrap()
}

/// The formats of all records, in order, as they are read one by one and in runs.
fn record_formats(log: &Opened) -> Vec<u32> {
    let (mut formats, mut next) = (Vec::new(), 1);
    while next <= log.position() {
        let block = log.reader.block(next).unwrap();
        for more in log.reader.blocks(next).unwrap().iter().take(1) {
            let format = |block: &crate::log::Block| block.records().next().unwrap().format;
            assert_eq!(format(more), format(&block));
        }
        formats.extend(block.records().map(|record| record.format));
        next = block.last_position() + 1;
    }
    formats
}

#[test]
fn a_log_of_version_1_goes_on_in_a_segment_of_version_2() {
    let disk = SimDisk::of(&older_sample(), 0);
    let before = verify(&disk).unwrap();
    let mut log = try_open(disk.shared(), &tiny()).unwrap();
    let old_shapes = log.shapes();
    assert_eq!((log.position(), log.reader.head().hash), (before.head.position, before.head.hash));
    assert!(log.writer.as_mut().unwrap().has_room(), "nobody waits for the new segment");
    log.append(&[(1, 30), (2, 40)]).unwrap();
    log.append(&[(1, 50)]).unwrap();
    let shapes = [old_shapes.clone(), vec![(1, 30), (2, 40), (1, 50)]].concat();
    let expected = [vec![1; old_shapes.len()], vec![FORMAT_VERSION; 3]].concat();
    assert_eq!((log.shapes(), record_formats(&log)), (shapes.clone(), expected.clone()));
    log.close().unwrap();
    drop(log);
    assert_eq!(formats(&disk.image()), [1, 1, 1, 1, 2]);
    assert_eq!(header(&disk.image(), &file_name(5)).first_position, before.head.position + 1);
    let verified = verify(&disk).unwrap();
    assert_eq!((verified.damage, verified.is_stopped), (None, true));
    // Everything is read from the files now.
    let log = try_open(disk.shared(), &tiny()).unwrap();
    assert_eq!((log.shapes(), record_formats(&log)), (shapes, expected));
}

/// To look at a log, to mark it and to stop it makes it no newer, so the older program can still
/// have it.
#[test]
fn a_log_that_nothing_is_added_to_stays_of_version_1() {
    let disk = SimDisk::of(&older_sample(), 0);
    for _ in 0..3 {
        let mut log = try_open(disk.shared(), &tiny()).unwrap();
        log.witness().unwrap();
        log.close().unwrap();
    }
    let mut image = disk.image();
    assert_eq!(formats(&image), [1, 1, 1, 1]);
    // What is there is what that program would have there.
    let as_it_is = image.clone();
    make_version_1(&mut image);
    assert_eq!(image, as_it_is);
}

#[test]
fn a_log_of_version_1_without_records_goes_on() {
    for is_closed in [false, true] {
        let disk = SimDisk::new(0);
        let mut log = open(&disk);
        if is_closed {
            log.close().unwrap();
        }
        drop(log);
        let mut image = disk.image();
        make_version_1(&mut image);
        let disk = SimDisk::of(&image, 0);
        let mut log = open(&disk);
        log.append(&[(2, 30)]).unwrap();
        assert_eq!(log.shapes(), [(2, 30)]);
        drop(log);
        assert_eq!(formats(&disk.image()), [1, 2]);
        let mut log = open(&disk);
        assert_eq!(log.shapes(), [(2, 30)]);
        log.scrubber.restart();
        assert!(log.scrubber.step(&mut |_| ()).unwrap(), "the empty segment is verified like any");
        assert_eq!(log.reader.scrubbed().damage, None);
        log.append(&[(1, 9)]).unwrap();
        assert_eq!(log.shapes(), [(2, 30), (1, 9)]);
        drop(log);
        assert_eq!(verify(&disk).unwrap().damage, None);
    }
}

/// Without space for a new segment nothing can be added, as in any full log; everything is read,
/// and when there is space again, the log goes on.
#[test]
fn a_full_disk_keeps_a_log_of_version_1_readable() {
    let mut image = older_sample();
    image.remove(file::SPARE_FILE);
    let disk = SimDisk::of(&image, 0);
    let used = image.values().map(Vec::len).sum();
    disk.set_capacity(Some(used));
    let mut log = try_open(disk.shared(), &tiny()).unwrap();
    assert_eq!(log.damage, None);
    assert!(!log.writer.as_mut().unwrap().has_room());
    assert!(matches!(log.append(&[(1, 5)]), Err(AppendError::Full)));
    assert_eq!(formats(&disk.image()), [1, 1, 1, 1]);
    disk.set_capacity(None);
    log.append(&[(1, 5)]).unwrap();
    assert_eq!(formats(&disk.image()), [1, 1, 1, 1, 2]);
}

/// The call that fails may be any of those that the start, the roll and the append make, and the
/// power may be cut then: the log is what it was, or has the group, and goes on either way.
#[test]
fn whatever_call_fails_on_the_way_to_version_2_nothing_is_lost() {
    let image = older_sample();
    let shapes = try_open(SimDisk::of(&image, 0).shared(), &tiny()).unwrap().shapes();
    let with_group = [shapes.clone(), vec![(1, 30)]].concat();
    let (mut calls, mut outcomes) = (0, [0; 3]);
    loop {
        let disk = SimDisk::of(&image, calls);
        let kind = std::io::ErrorKind::Other;
        let fail_after = Some((usize::try_from(calls).unwrap(), kind));
        disk.set_faults(Faults { fail_after, short: false, ..Faults::default() });
        let appended = try_open(disk.shared(), &tiny()).ok().map(|mut log| log.append(&[(1, 30)]));
        let has_failed = disk.has_failed();
        let is_acked = matches!(appended, Some(Ok(_)));
        disk.crash();
        let formats_left = formats(&disk.image());
        let log = try_open(disk.shared(), &tiny()).unwrap();
        assert_eq!(log.damage, None);
        let found = log.shapes();
        assert!(found == with_group || (found == shapes && !is_acked), "{calls}: {found:?}");
        // A record in a segment of version 1 would be one that this program wrote there.
        assert_eq!(record_formats(&log)[..shapes.len()], vec![1; shapes.len()]);
        assert!(found == shapes || record_formats(&log).last() == Some(&FORMAT_VERSION));
        assert!(matches!(formats_left[..], [1, 1, 1, 1] | [1, 1, 1, 1, 2]), "{formats_left:?}");
        outcomes[usize::from(found == with_group) + usize::from(is_acked)] += 1;
        drop(log);
        let mut log = try_open(disk.shared(), &tiny()).unwrap();
        log.append(&[(2, 77)]).unwrap();
        assert_eq!(log.shapes(), [found, vec![(2, 77)]].concat());
        drop(log);
        assert_eq!(formats(&disk.image()), [1, 1, 1, 1, 2]);
        assert_eq!(verify(&disk).unwrap().damage, None);
        if !has_failed {
            break;
        }
        calls += 1;
    }
    assert!(calls > 8 && outcomes[0] > 5 && outcomes[2] > 0, "{calls} {outcomes:?}");
}

/// A copy that a start of the older program has left is put back by this one.
#[test]
fn the_copy_of_a_newest_group_is_of_no_segments_version() {
    let mut image = older_sample();
    // Without its stop the log ends with a group of records, which a start copies.
    let name = segments(&image).pop().unwrap();
    let file = image.get_mut(&name).unwrap();
    let stop = (512..file.len()).step_by(512).rfind(|at| file[at + 46] == 4).unwrap();
    file[stop..stop + 512].fill(0);
    let disk = SimDisk::of(&image, 0);
    let whole = verify(&disk).unwrap().head;
    // The start dies in its write of the group, after the copy was made.
    for calls in 0.. {
        let disk = SimDisk::of(&image, calls);
        let fail_after = Some((usize::try_from(calls).unwrap(), std::io::ErrorKind::Other));
        disk.set_faults(Faults { fail_after, short: false, ..Faults::default() });
        let started = try_open(disk.shared(), &tiny()).is_ok();
        assert!(!started, "the group was never in danger");
        let mut left = disk.image();
        let Some(copy) = left.get(file::COPY_FILE) else { continue };
        assert_eq!(copy[8..12], 1_u32.to_le_bytes());
        let file = left.get_mut(&name).unwrap();
        file[stop - 512..stop].fill(0xee);
        let disk = SimDisk::of(&left, 0);
        let log = try_open(disk.shared(), &tiny()).unwrap();
        assert_eq!((log.damage.clone(), log.reader.head().hash), (None, whole.hash));
        return;
    }
}

/// A spare of the older program is like any other left-over: made anew.
#[test]
fn a_spare_of_the_older_program_is_made_anew() {
    let mut image = older_sample();
    image.insert(file::SPARE_FILE.to_owned(), image[&file_name(1)].clone());
    let disk = SimDisk::of(&image, 0);
    let mut log = try_open(disk.shared(), &tiny()).unwrap();
    assert!(disk.take_calls().contains(&Call::Remove));
    log.append(&[(1, 30)]).unwrap();
    drop(log);
    assert_eq!(formats(&disk.image()), [1, 1, 1, 1, 2]);
    assert_eq!(verify(&disk).unwrap().damage, None);
}

/// A backup that was made of the log when it was of version 1 goes on with it, and what is
/// restored from either can be opened.
#[test]
fn backups_go_on_over_the_change_of_version() {
    let (source, target) = (SimDisk::of(&older_sample(), 1), SimDisk::new(2));
    let back_up = || file::back_up(&source, &target, &mut |_, _| (), &mut || ()).unwrap();
    let restore = || {
        let restored = SimDisk::new(3);
        let visit: &mut file::Visitor<'_> = &mut |_, _| Ok(());
        let copied = file::restore(&target, &restored, None, &mut |_, _| (), visit).unwrap();
        assert_eq!(copied.hash, verify(&source).unwrap().head.hash);
        restored
    };
    assert_eq!(back_up().segments_copied, 4);
    assert_eq!(formats(&target.image()), [1, 1, 1, 1]);
    let older = restore();
    let mut log = try_open(source.shared(), &tiny()).unwrap();
    log.append(&[(1, 30)]).unwrap();
    log.close().unwrap();
    drop(log);
    let more = back_up();
    assert_eq!((more.segments_kept, more.segments_copied), (3, 2));
    let newer = restore();
    for (restored, before) in [(older, 4), (newer, 5)] {
        assert_eq!(segments(&restored.image()).len(), before);
        let mut log = try_open(restored.shared(), &tiny()).unwrap();
        log.append(&[(1, 31)]).unwrap();
        drop(log);
        assert_eq!(formats(&restored.image()), [1, 1, 1, 1, 2]);
        assert_eq!(verify(&restored).unwrap().damage, None);
    }
}

/// The first segment of a new log is of the newest version, and so is every one after it.
#[test]
fn new_logs_are_of_version_2() {
    let disk = SimDisk::of(&sample(), 0);
    assert_eq!(formats(&disk.image()), [FORMAT_VERSION; 4]);
    let disk = SimDisk::new(0);
    let log = try_open(disk.shared(), &options()).unwrap();
    assert_eq!((log.position(), formats(&disk.image())), (0, vec![FORMAT_VERSION]));
}
