//! Bursts: many bytes that are wrong at once, anywhere in a log of many segments, as a disk leaves
//! them that writes garbage, zeros, or what belongs somewhere else.
//!
//! To read the whole log for each burst would take hours. It is not needed: a log is read segment
//! by segment, each from the position and the hash that the one before it ends with. So one segment
//! is read, as the log reads it, and what it ends with is compared. If that is what it was, all
//! that the log serves is what it was, by the hash; if not, the header of the next segment, which
//! is whole, does not continue it. Some bursts are judged by reading the whole log nevertheless.

use super::damage::{Outcome, Sample, frames};
use super::misplaced::burst;
use super::{Shape, options, segments, try_open, verify};
use crate::log::Damage;
use crate::log::file::catalog::Entry;
use crate::log::file::frame::Joint;
use crate::log::file::scan::{Alone, Scanned, Tail, scan_segment};
use crate::log::file::segment::number_of;
use crate::log::file::{OpenError, Options};
use crate::sim::{
    disk::{Image, Rng, SimDisk},
    number,
};

/// How long a burst is at most, in bytes.
const BURST_BYTES_MAX: usize = 4 * 1024;
/// One in so many is judged by reading the whole log.
const WHOLE_ONE_IN: u64 = 50;

fn large_options() -> Options {
    Options {
        first_segment_bytes: 1024 * 1024,
        segment_bytes: 1024 * 1024,
        group_bytes_max: 256 * 1024,
        ..options()
    }
}

/// A log of so many segments of 1 MiB, with small and large groups, marks, and some stops.
fn large(count: usize) -> Sample {
    let disk = SimDisk::new(3);
    let mut rng = Rng(11);
    let mut log = try_open(disk.shared(), &large_options()).unwrap();
    let made = || disk.shared().list().unwrap().iter().filter_map(|it| number_of(it)).count();
    while made() < count {
        let most = if rng.one_in(8) { 900 } else { 40 };
        let records = 1 + rng.below(most);
        let shape: Shape =
            (0..records).map(|_| (1 + rng.below(3) as u32, 10 + rng.below(240))).collect();
        log.append(&shape).unwrap();
        if rng.one_in(6) {
            log.witness().unwrap();
        }
        if rng.one_in(200) {
            log.close().unwrap();
            drop(log);
            log = try_open(disk.shared(), &large_options()).unwrap();
        }
    }
    log.append(&[(2, 100), (1, 30)]).unwrap();
    log.close().unwrap();
    drop(log);
    Sample::new(disk.image(), large_options())
}

/// What is read of one segment by itself.
fn scanned(name: &str, bytes: &[u8], is_last: bool) -> Option<Scanned> {
    let image = Image::from([(name.to_owned(), bytes.to_vec())]);
    let disk = SimDisk::of(&image, 0);
    let entry = Entry::read(&disk, number_of(name).unwrap()).unwrap();
    let log_id = crate::log::conformance::LOG_ID;
    let alone = Alone { log_id, name, entry: &entry, is_last, until: u64::MAX };
    // A version that is not known is refused before anything is read.
    scan_segment(&disk, &alone, &mut |_| ()).ok()
}

fn is_same(one: &Joint, other: &Joint) -> bool {
    (one.next_position, one.chain) == (other.next_position, other.chain)
}

/// `DAYBOOK_TEST_BURSTS` bursts on a log of `DAYBOOK_TEST_BURST_SEGMENTS` segments of 1 MiB.
#[test]
fn bursts_on_a_large_log_are_found_or_harmless() {
    let bursts = number("DAYBOOK_TEST_BURSTS").unwrap_or(100);
    let count = number("DAYBOOK_TEST_BURST_SEGMENTS").map_or(3, |it| it.try_into().unwrap());
    let sample = large(count);
    let names = segments(&sample.image);
    let frames = frames(&sample.image);
    let used = |name: &str, at: usize| {
        let mut of_file = frames.iter().filter(|frame| frame.0 == name);
        at < 512 || of_file.any(|(_, start, length, _)| (*start..*start + *length).contains(&at))
    };
    let ends: Vec<Joint> = names
        .iter()
        .map(|name| scanned(name, &sample.image[name], names.last() == Some(name)).unwrap().joint)
        .collect();
    let (mut rng, mut damaged, mut harmless, mut cut, mut whole) = (Rng(17), 0, 0, 0, 0);
    for round in 0..bursts {
        let index = rng.below(names.len());
        let (name, is_last) = (&names[index], index + 1 == names.len());
        let original = &sample.image[name];
        let length = 1 + rng.below(BURST_BYTES_MAX);
        let at = rng.below(original.len() - length);
        let mut bytes = original.clone();
        let (class, written) = burst(&sample, &mut rng, length);
        bytes[at..at + length].copy_from_slice(&written);
        let touched: Vec<usize> =
            (at..at + length).filter(|place| bytes[*place] != original[*place]).collect();
        let what = format!("burst {round}: {class}, {length} bytes at {at} of {name}");
        let is_used = touched.iter().any(|place| used(name, *place));
        let outcome = match scanned(name, &bytes, is_last) {
            None => Outcome::Damaged,
            Some(Scanned { tail: Tail::Damaged(Damage { file, offset, .. }), .. }) => {
                assert_eq!(&file, name, "{what}");
                assert!(offset <= original.len() as u64, "{what}: {offset}");
                Outcome::Damaged
            }
            Some(Scanned { tail: Tail::Torn(_), joint, .. }) => {
                assert!(is_last && is_same(&joint, &ends[index]), "{what}: records are cut");
                Outcome::Cut
            }
            Some(Scanned { tail: Tail::Whole, joint, .. }) => {
                assert!(is_same(&joint, &ends[index]), "{what}: another history");
                Outcome::Harmless
            }
        };
        if is_used && outcome == Outcome::Harmless {
            // The mark that says that the log was closed in order, and nothing else, may go.
            let (file, start, ..) = frames.last().unwrap();
            assert!(file == name && at + length > *start, "{what}: not found");
        }
        match outcome {
            Outcome::Damaged => damaged += 1,
            Outcome::Harmless => harmless += 1,
            Outcome::Cut => cut += 1,
        }
        if round % WHOLE_ONE_IN == 0 {
            let image = sample.with(name, |original| *original = bytes);
            let judged = match verify(&SimDisk::of(&image, 0)) {
                Err(OpenError::UnknownVersion { .. }) => Outcome::Damaged,
                _ => sample.judge(&image, &what),
            };
            assert_eq!(judged, outcome, "{what}");
            whole += 1;
        }
    }
    println!(
        "P10: {bursts} bursts on {} MiB, {damaged} found, {harmless} harmless, {cut} cut a mark; \
         {whole} of them by reading all",
        names.len()
    );
    assert!(damaged * 2 > bursts, "{damaged}");
}
