//! Bytes that are not those that were written: found, named, and never served.

use std::collections::BTreeMap;

use super::{Shape, roomy, sample, sample_of, segments, tiny, try_open, verify};
use crate::log::file::segment::{SegmentHeader, file_name};
use crate::log::file::{OpenError, Opened, Options};
use crate::log::{Damage, Head, chain};
use crate::sim::{
    disk::{Image, SimDisk},
    number,
};

/// A log that is whole, and what is in it.
pub(super) struct Sample {
    pub(super) image: Image,
    pub(super) shapes: Shape,
    pub(super) head: Head,
    pub(super) options: Options,
}

/// What became of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Damage was found and named.
    Damaged,
    /// Nothing that was recorded is touched; the log goes on.
    Harmless,
    /// The last mark was lost, no record was; the log goes on.
    Cut,
}

impl Sample {
    pub(super) fn new(image: Image, options: Options) -> Self {
        let disk = SimDisk::of(&image, 0);
        let log = try_open(disk.shared(), &options).unwrap();
        assert_eq!((&log.damage, &log.torn), (&None, &None));
        let (shapes, head) = (log.shapes(), log.reader.head());
        Self { image, shapes, head, options }
    }

    /// Opens a log that was tampered with. Whatever is served must be a beginning of what was
    /// recorded; after damage, nothing may have been changed.
    /// Verification must have found the same.
    pub(super) fn judge(&self, image: &Image, what: &str) -> Outcome {
        let disk = SimDisk::of(image, 0);
        let found = verify(&disk).unwrap();
        let log = self.open(&disk);
        assert_eq!((&log.damage, &log.torn), (&found.damage, &found.torn), "{what}");
        assert_eq!(log.position(), found.head.position, "{what}");
        self.judge_opened(&disk, &log, image, what)
    }

    fn judge_opened(&self, disk: &SimDisk, log: &Opened, image: &Image, what: &str) -> Outcome {
        let served = log.shapes();
        assert!(self.shapes.starts_with(&served), "{what}: a wrong record is served");
        if let Some(Damage { file, offset, position, .. }) = &log.damage {
            assert_eq!(*position, log.position() + 1, "{what}");
            let length = image.get(file).map_or(0, Vec::len);
            assert!(*offset <= length as u64, "{what}: {offset} is not in {file}");
            assert!(log.preparer.is_none());
            assert_eq!(&disk.image(), image, "{what}: a damaged log is left alone");
            return Outcome::Damaged;
        }
        assert_eq!(log.position(), self.head.position, "{what}: records are lost");
        assert_eq!(log.reader.head().hash, self.head.hash, "{what}");
        if log.torn.is_some() { Outcome::Cut } else { Outcome::Harmless }
    }

    fn open(&self, disk: &SimDisk) -> Opened {
        try_open(disk.shared(), &self.options).unwrap()
    }

    pub(super) fn with(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Image {
        let mut image = self.image.clone();
        change(image.get_mut(name).unwrap());
        image
    }
}

pub(super) fn small() -> Sample {
    Sample::new(sample(), tiny())
}

/// One group of several frames in the middle, and groups around it.
pub(super) fn large() -> Sample {
    let disk = SimDisk::new(2);
    let mut log = try_open(disk.shared(), &roomy()).unwrap();
    log.append(&[(1, 30)]).unwrap();
    let shape: Shape = (0..60).map(|index| (1 + index % 3, 999)).collect();
    log.append(&shape).unwrap();
    log.append(&[(1, 30)]).unwrap();
    log.close().unwrap();
    drop(log);
    Sample::new(disk.image(), roomy())
}

/// Where frames are: (file, offset, length, kind).
pub(super) fn frames(image: &Image) -> Vec<(String, usize, usize, u8)> {
    let mut frames = Vec::new();
    for name in segments(image) {
        let (bytes, mut at) = (&image[&name], 512);
        while at + 88 <= bytes.len() {
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            if length == 0 {
                break;
            }
            frames.push((name.clone(), at, length, bytes[at + 46]));
            let step = if bytes[at + 47] & 1 == 1 { 512 } else { 8 };
            at = (at + length).next_multiple_of(step);
        }
    }
    frames
}

/// Every bit of everything that is used, and one bit of each byte that is not; of a log of
/// `DAYBOOK_TEST_SEGMENTS` segments of 4 KiB.
#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let count = number("DAYBOOK_TEST_SEGMENTS").map_or(4, |count| count.try_into().unwrap());
    let sample = Sample::new(sample_of(count), tiny());
    let frames = frames(&sample.image);
    let stop = frames.last().unwrap().clone();
    assert_eq!(stop.3, 4);
    let mut tally: BTreeMap<(bool, Outcome), usize> = BTreeMap::new();
    for name in segments(&sample.image) {
        for offset in 0..sample.image[&name].len() {
            let is_used = offset < 512
                || frames.iter().any(|(file, at, length, _)| {
                    *file == name && (*at..*at + *length).contains(&offset)
                });
            let is_stop = name == stop.0 && (stop.1..stop.1 + stop.2).contains(&offset);
            for bit in 0..if is_used { 8 } else { 1 } {
                let image = sample.with(&name, |bytes| bytes[offset] ^= 1 << bit);
                let what = format!("bit {bit} of byte {offset} of {name}");
                let disk = SimDisk::of(&image, 0);
                let outcome = sample.judge_opened(&disk, &sample.open(&disk), &image, &what);
                let expected = match (is_used, is_stop) {
                    (true, false) => outcome == Outcome::Damaged,
                    (true, true) => outcome == Outcome::Cut,
                    (false, _) => outcome != Outcome::Damaged,
                };
                assert!(expected, "{what}: {outcome:?}");
                *tally.entry((is_used, outcome)).or_default() += 1;
            }
        }
    }
    println!("P10: {count} segments, {tally:?}");
    assert!(tally[&(true, Outcome::Damaged)] > 25_000, "{tally:?}");
}

#[test]
fn a_flipped_bit_in_a_large_group_is_found_wherever_it_is() {
    let sample = large();
    let frames = frames(&sample.image);
    assert!(frames.iter().filter(|frame| frame.2 > 8_000).count() >= 2, "{frames:?}");
    let name = segments(&sample.image).pop().unwrap();
    for (_, at, length, kind) in frames {
        let sparse = (at + 88..at + length).step_by(61);
        for offset in (at..at + 88).chain(sparse).filter(|_| kind != 4) {
            let image = sample.with(&name, |bytes| bytes[offset] ^= 1 << (offset % 8));
            assert_eq!(sample.judge(&image, &format!("byte {offset}")), Outcome::Damaged);
        }
    }
}

#[test]
fn every_truncation_is_found() {
    let sample = small();
    for name in segments(&sample.image) {
        for length in 0..sample.image[&name].len() {
            let image = sample.with(&name, |bytes| bytes.truncate(length));
            let outcome = sample.judge(&image, &format!("{name} cut to {length}"));
            assert_eq!(outcome, Outcome::Damaged, "{name} cut to {length}");
        }
        let image = sample.with(&name, |bytes| bytes.extend_from_slice(&[0; 512]));
        assert_eq!(sample.judge(&image, "extended"), Outcome::Damaged);
    }
}

/// Frames that are zeroed, doubled, swapped, or moved to any other place in the log.
#[test]
fn every_misplaced_frame_is_found() {
    let sample = small();
    let frames = frames(&sample.image);
    let sectors = |frame: &(String, usize, usize, u8)| {
        sample.image[&frame.0][frame.1..(frame.1 + frame.2).next_multiple_of(512)].to_vec()
    };
    let mut cases = 0;
    for (index, target) in frames.iter().enumerate() {
        let is_stop = index + 1 == frames.len();
        let zeroed = sample.with(&target.0, |bytes| {
            bytes[target.1..(target.1 + target.2).next_multiple_of(512)].fill(0);
        });
        let expected = if is_stop { Outcome::Harmless } else { Outcome::Damaged };
        assert_eq!(sample.judge(&zeroed, &format!("zeroed {target:?}")), expected);
        for source in frames.iter().filter(|source| *source != target) {
            let written = sectors(source);
            let image = sample.with(&target.0, |bytes| {
                let count = written.len().min(target.2.next_multiple_of(512));
                bytes[target.1..target.1 + count].copy_from_slice(&written[..count]);
            });
            let outcome = sample.judge(&image, &format!("{source:?} over {target:?}"));
            let expected = if is_stop { Outcome::Cut } else { Outcome::Damaged };
            assert_eq!(outcome, expected, "{source:?} over {target:?}");
            cases += 1;
        }
    }
    assert!(cases > 300, "{cases}");
}

#[test]
fn frames_and_files_of_another_log_are_found() {
    let sample = small();
    let other_options = Options { new_log_id: *b"another-log-id!!", ..tiny() };
    let disk = SimDisk::new(9);
    let mut log = try_open(disk.shared(), &other_options).unwrap();
    for _ in 0..9 {
        log.append(&[(1, 40), (2, 7)]).unwrap();
    }
    let other = disk.image();
    let name = file_name(1);
    for at in (512..512 * 6).step_by(512) {
        let image = sample.with(&name, |bytes| {
            bytes[at..at + 512].copy_from_slice(&other[&name][at..at + 512]);
        });
        assert_eq!(sample.judge(&image, &format!("foreign sector at {at}")), Outcome::Damaged);
    }
    for number in 1..=4 {
        let file = other[&name].clone();
        let image = sample.with(&file_name(number), |bytes| *bytes = file);
        assert_eq!(sample.judge(&image, &format!("foreign file {number}")), Outcome::Damaged);
    }
}

#[test]
fn missing_and_swapped_segments_are_found() {
    let sample = small();
    for number in [1, 2, 3] {
        let mut image = sample.image.clone();
        image.remove(&file_name(number));
        assert_eq!(sample.judge(&image, &format!("without {number}")), Outcome::Damaged);
        let damage = verify(&SimDisk::of(&image, 0)).unwrap().damage.unwrap();
        assert_eq!((damage.file, damage.offset), (file_name(number), 0));
    }
    for (one, two) in [(1, 2), (2, 3), (1, 3), (3, 4)] {
        let mut image = sample.image.clone();
        let first = image.remove(&file_name(one)).unwrap();
        let second = image.insert(file_name(two), first).unwrap();
        image.insert(file_name(one), second);
        assert_eq!(sample.judge(&image, &format!("{one} and {two} swapped")), Outcome::Damaged);
    }
    for name in segments(&sample.image) {
        let image = sample.with(&name, |bytes| bytes.fill(0));
        assert_eq!(sample.judge(&image, &format!("{name} zeroed")), Outcome::Damaged);
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let sample = small();
    for number in 1..=4 {
        let name = file_name(number);
        let image = sample.with(&name, |bytes| {
            bytes[8..12].copy_from_slice(&3_u32.to_le_bytes());
            bytes[12..16].fill(0);
            let checksum = crc32c::crc32c(&bytes[..512]);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        });
        let disk = SimDisk::of(&image, 0);
        for outcome in [try_open(disk.shared(), &tiny()).err(), verify(&disk).err()] {
            let Some(OpenError::UnknownVersion { file, found, supported }) = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!((file, found, supported), (name.clone(), 3, 2));
        }
        assert_eq!(disk.image(), image);
        assert_eq!(disk.take_calls(), [], "nothing was written");
    }
}

/// Frames whose checksums are right but which do not continue the log: only the chain tells.
#[test]
fn an_edited_log_breaks_the_chain() {
    let sample = small();
    let name = file_name(2);
    let image = sample.with(&name, |bytes| {
        let header = SegmentHeader::decode(bytes[..512].first_chunk().unwrap()).unwrap();
        let edited = SegmentHeader { chain_before: chain::start(b"an edited log id"), ..header };
        bytes[..512].copy_from_slice(&edited.encode());
    });
    assert_eq!(sample.judge(&image, "edited hash"), Outcome::Damaged);
}

/// What the visitor finds wrong is damage, and the log ends before it.
#[test]
fn a_block_that_the_visitor_refuses_is_damage() {
    let sample = small();
    let disk = SimDisk::of(&sample.image, 0);
    let mut seen = 0;
    let opened = crate::log::file::open(disk.shared(), &tiny(), &mut |_, block| {
        if block.first_position() > 6 {
            return Err("not understood".to_owned());
        }
        seen = block.last_position();
        Ok(())
    });
    let log = opened.unwrap();
    let damage = log.damage.as_ref().unwrap();
    assert_eq!((damage.position, damage.what.as_str()), (seen + 1, "not understood"));
    assert_eq!(log.position(), seen);
    assert_eq!(log.shapes(), sample.shapes[..5]);
    assert_eq!(disk.image(), sample.image);
}

/// Rot that comes while the log is in use is found when the block is read.
#[test]
fn a_block_that_rots_is_not_served() {
    let sample = small();
    let disk = SimDisk::of(&sample.image, 0);
    let log = sample.open(&disk);
    let mut records = frames(&sample.image).into_iter().filter(|frame| frame.3 == 1);
    let target = records.nth(1).unwrap();
    let file = crate::log::file::Disk::open(&disk, &target.0).unwrap();
    let byte = sample.image[&target.0][target.1 + 90] ^ 1;
    file.write_at(&[byte], target.1 as u64 + 90).unwrap();
    let before = log.reader.block(1).expect("blocks beside it are served");
    let position = before.last_position() + 1;
    let Err(crate::log::ReadError::Damaged(damage)) = log.reader.block(position) else {
        panic!("a rotten block is served");
    };
    assert_eq!(
        (damage.file, damage.offset, damage.position),
        (target.0, target.1 as u64, position)
    );
}
