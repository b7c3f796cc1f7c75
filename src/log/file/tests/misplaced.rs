//! Bytes of a log in other places than their own, and bursts of any bytes anywhere: found and
//! named, or nothing that anybody was told of is touched. `damage.rs` has single bits and single
//! frames; this has pairs of them, whole segments, what an earlier use left behind, and chance.

use std::collections::BTreeMap;
use std::ops::Range;

use super::damage::{Outcome, Sample, frames, large, small};
use super::{options, segments, tiny, try_open, verify};
use crate::log::file::segment::file_name;
use crate::log::file::{CHECKPOINT_FILE, Directory};
use crate::log::{Checkpoints as _, Pieces as _};
use crate::sim::disk::{Image, Rng, SimDisk};

const SECTOR: usize = 512;

/// What a damage was, and how often it came to what.
type Tally = BTreeMap<(&'static str, Outcome), usize>;

fn count(tally: &mut Tally, class: &'static str, outcome: Outcome) {
    *tally.entry((class, outcome)).or_default() += 1;
}

/// Where a frame lies with all of its sectors.
fn sectors(frame: &(String, usize, usize, u8)) -> Range<usize> {
    frame.1..(frame.1 + frame.2).next_multiple_of(SECTOR)
}

/// Two frames change places, as far as the smaller of them reaches.
#[test]
fn frames_that_change_places_are_found() {
    let (sample, mut tally) = (small(), Tally::new());
    let frames = frames(&sample.image);
    for (index, one) in frames.iter().enumerate() {
        for two in &frames[index + 1..] {
            let length = sectors(one).len().min(sectors(two).len());
            let mut image = sample.image.clone();
            let first = image[&one.0][one.1..one.1 + length].to_vec();
            let second = image[&two.0][two.1..two.1 + length].to_vec();
            image.get_mut(&one.0).unwrap()[one.1..one.1 + length].copy_from_slice(&second);
            image.get_mut(&two.0).unwrap()[two.1..two.1 + length].copy_from_slice(&first);
            // The last two are all that was written last, which a torn write may be as well.
            let is_end = index + 2 == frames.len();
            let hit = one.1..sectors(two).end;
            let outcome = if is_end {
                sample.judge_end(&image, &two.0, &hit, "swapped")
            } else {
                sample.judge(&image, &format!("{one:?} and {two:?}"))
            };
            let expected = if is_end { Outcome::Cut } else { Outcome::Damaged };
            assert_eq!(outcome, expected, "{one:?} and {two:?}");
            count(&mut tally, "swapped", outcome);
        }
    }
    assert!(tally[&("swapped", Outcome::Damaged)] >= 150, "{tally:?}");
}

/// A frame is written, or moved, to each other sector of the log: used, unused, or a header.
#[test]
fn frames_in_any_other_sector_are_found() {
    let (sample, mut tally) = (small(), Tally::new());
    let frames = frames(&sample.image);
    let stop = frames.last().unwrap();
    for frame in &frames {
        let bytes = sample.image[&frame.0][sectors(frame)].to_vec();
        for (name, at) in all_sectors(&sample.image) {
            let until = at + bytes.len();
            let is_home =
                name == frame.0 && at < sectors(frame).end && sectors(frame).start < until;
            if is_home || until > sample.image[&name].len() {
                continue;
            }
            // Written twice: whether that is harmless is up to what was there before.
            let is_end = name == stop.0 && until > stop.1;
            let twice = sample.with(&name, |file| file[at..until].copy_from_slice(&bytes));
            let outcome = sample.judge_end(&twice, &name, &(at..until), "written twice");
            let is_used = at < SECTOR
                || frames.iter().any(|other| {
                    other.0 == name && sectors(other).start < until && at < sectors(other).end
                });
            assert!(outcome == Outcome::Damaged || !is_used || is_end, "{frame:?} at {at}");
            count(&mut tally, "written twice", outcome);
            // What is written last may vanish, and a stop without its place is only written twice.
            if is_end || frame == stop {
                continue;
            }
            // Moved: it is missing from its own place as well.
            let mut moved = twice;
            moved.get_mut(&frame.0).unwrap()[sectors(frame)].fill(0);
            let outcome = sample.judge(&moved, &format!("{frame:?} moved to {at} of {name}"));
            assert_eq!(outcome, Outcome::Damaged, "{frame:?} moved to {at}");
            count(&mut tally, "moved", outcome);
        }
    }
    assert!(tally[&("written twice", Outcome::Damaged)] >= 300, "{tally:?}");
    assert!(tally[&("moved", Outcome::Damaged)] >= 400, "{tally:?}");
}

fn all_sectors(image: &Image) -> Vec<(String, usize)> {
    let of = |name: String| {
        let length = image[&name].len();
        (0..length).step_by(SECTOR).map(move |at| (name.clone(), at))
    };
    segments(image).into_iter().flat_map(of).collect()
}

/// A log with the same id that went another way after its first group, as a file system may show
/// it in blocks that it gives out again: each of its groups is valid by itself in its place. One
/// that follows on what is there cannot be told from the log; what comes after it gives it away.
#[test]
fn what_an_earlier_use_of_a_file_left_behind_is_found() {
    let (sample, mut tally) = (small(), Tally::new());
    let disk = SimDisk::new(5);
    let mut log = try_open(disk.shared(), &tiny()).unwrap();
    log.append(&[(1, 40), (2, 7)]).unwrap();
    for round in 0..22 {
        log.append(&[(1 + round % 3, 90 + round as usize)]).unwrap();
    }
    let earlier_shapes = log.shapes();
    drop(log);
    let earlier = disk.image();
    let ours = frames(&sample.image);
    let stop = ours.last().unwrap();
    for (name, at) in all_sectors(&sample.image) {
        let Some(stale) = earlier.get(&name) else { continue };
        for length in [SECTOR, 2 * SECTOR, 4096] {
            let until = (at + length).min(stale.len());
            let image =
                sample.with(&name, |file| file[at..until].copy_from_slice(&stale[at..until]));
            if image == sample.image || (name == stop.0 && until > stop.1) {
                continue;
            }
            let log = try_open(SimDisk::of(&image, 0).shared(), &tiny()).unwrap();
            let (is_found, served) = (log.damage.is_some(), log.shapes());
            let is_stale = is_found && earlier_shapes.starts_with(&served);
            assert!(is_stale || sample.shapes.starts_with(&served), "{name} from {at} to {until}");
            let is_used = ours.iter().any(|frame| {
                frame.0 == name && sectors(frame).start < until && at < sectors(frame).end
            });
            assert!(is_found || !is_used, "{name} from {at} to {until}");
            assert!(is_found || log.position() == sample.head.position);
            let outcome = if is_found { Outcome::Damaged } else { Outcome::Harmless };
            count(&mut tally, "left behind", outcome);
        }
    }
    assert!(tally[&("left behind", Outcome::Damaged)] >= 40, "{tally:?}");
}

/// Each whole segment in the place of each other, and one more at the end.
#[test]
fn segments_in_the_place_of_others_are_found() {
    let sample = small();
    let names = segments(&sample.image);
    let mut cases = 0;
    for from in &names {
        let bytes = sample.image[from].clone();
        for to in names.iter().cloned().chain([file_name(5), file_name(9)]) {
            if to == *from {
                continue;
            }
            let mut image = sample.image.clone();
            image.insert(to.clone(), bytes.clone());
            assert_eq!(sample.judge(&image, &format!("{from} as {to}")), Outcome::Damaged);
            cases += 1;
        }
    }
    let mut image = sample.image.clone();
    image.insert(file_name(5), vec![0; 4096]);
    assert_eq!(sample.judge(&image, "a segment of zeros at the end"), Outcome::Damaged);
    assert_eq!(cases, 4 * 5);
}

/// The newest segments are gone as if they had never been: what is left is a log that ends
/// earlier. Nothing in the directory can tell, which is why the hash of the head is worth keeping
/// elsewhere. What is served is what was recorded up to there, and a checkpoint beyond that is not
/// taken.
#[test]
fn without_its_newest_segments_a_log_is_its_beginning() {
    let sample = small();
    for kept in 1..4 {
        let mut image = sample.image.clone();
        image.retain(|name, _| *name <= file_name(kept));
        let disk = SimDisk::of(&image, 0);
        let found = verify(&disk).unwrap();
        assert_eq!((found.damage, found.torn), (None, None));
        assert_ne!(found.head.hash, sample.head.hash, "whoever kept the hash knows");
        let log = try_open(disk.shared(), &tiny()).unwrap();
        assert!(sample.shapes.starts_with(&log.shapes()), "{kept} segments");
        assert!(log.position() < sample.head.position);
    }
}

impl Sample {
    /// Judges a log of which a range of one file was overwritten. If all that came after some
    /// group was hit, this may be a torn write, and the log may end there.
    fn judge_end(&self, image: &Image, name: &str, hit: &Range<usize>, what: &str) -> Outcome {
        let found = verify(&SimDisk::of(image, 0)).unwrap();
        let is_whole = found.damage.is_some() || found.head.position == self.head.position;
        if is_whole {
            return self.judge(image, &format!("{what} at {hit:?} of {name}"));
        }
        let log = try_open(SimDisk::of(image, 0).shared(), &self.options).unwrap();
        let shapes = log.shapes();
        assert!(self.shapes.starts_with(&shapes), "{what}: a wrong record is served");
        let frames = frames(&self.image);
        let position = |frame: &&(String, usize, usize, u8)| {
            let bytes = &self.image[&frame.0][frame.1 + 16..frame.1 + 24];
            u64::from_le_bytes(bytes.try_into().unwrap())
        };
        let group = |frame: &(String, usize, usize, u8)| {
            let bytes = &self.image[&frame.0][frame.1 + 32..frame.1 + 40];
            (frame.0.clone(), u64::from_le_bytes(bytes.try_into().unwrap()))
        };
        let touches = |frame: &&(String, usize, usize, u8)| {
            frame.0 == name && frame.1 < hit.end && hit.start < frame.1 + frame.2
        };
        // A group is there as a whole or not at all.
        let groups_hit: Vec<_> = frames.iter().filter(touches).map(group).collect();
        let lost = frames.iter().filter(|frame| position(frame) > found.head.position);
        for frame in lost {
            let is_hit = groups_hit.contains(&group(frame));
            let is_record = frame.3 == 1;
            assert!(is_hit || !is_record, "{what} at {hit:?} of {name}: {frame:?} is lost");
        }
        let stop = frames.last().unwrap();
        assert!(stop.0 == name && stop.1 < hit.end && hit.start < stop.1 + stop.2, "{what}");
        Outcome::Cut
    }
}

/// Any bytes, in any place, of any length: what chance has in store.
#[test]
fn bursts_are_found_or_harmless() {
    for (seed, sample, rounds) in [(1, small(), 4_000), (2, large(), 1_000)] {
        let mut tally = Tally::new();
        let mut chance = Rng(seed);
        let names = segments(&sample.image);
        for round in 0..rounds {
            let name = names[chance.below(names.len())].clone();
            let length = sample.image[&name].len();
            let at = chance.below(length);
            let bits = 1 + chance.below(11);
            let until = (at + 1 + chance.below(1 << bits)).min(length);
            let (class, bytes) = burst(&sample, &mut chance, until - at);
            let image = sample.with(&name, |file| file[at..until].copy_from_slice(&bytes));
            let what = format!("seed {seed}, round {round}: {class}");
            count(&mut tally, class, sample.judge_end(&image, &name, &(at..until), &what));
        }
        for class in ["noise", "zeros", "ones", "misdirected"] {
            let found = tally[&(class, Outcome::Damaged)];
            assert!(found >= rounds / 20, "seed {seed}: {class}: {tally:?}");
        }
        println!("seed {seed}: {tally:?}");
    }
}

/// Bytes that something may have written there.
pub(super) fn burst(sample: &Sample, chance: &mut Rng, length: usize) -> (&'static str, Vec<u8>) {
    match chance.below(4) {
        0 => ("noise", (0..length).map(|_| chance.next() as u8).collect()),
        1 => ("zeros", vec![0; length]),
        2 => ("ones", vec![0xff; length]),
        _ => {
            let names = segments(&sample.image);
            let file = &sample.image[&names[chance.below(names.len())]];
            let at = chance.below(file.len() - length + 1);
            let at = if chance.one_in(2) { at } else { at / SECTOR * SECTOR };
            ("misdirected", file[at..at + length].to_vec())
        }
    }
}

/// A checkpoint of some pieces at each of two places of one log.
fn checkpoints() -> (Image, Vec<u8>, Vec<u8>) {
    let disk = SimDisk::new(4);
    let mut log = try_open(disk.shared(), &options()).unwrap();
    let mut saved = Vec::new();
    for _ in 0..2 {
        log.append(&[(1, 300), (2, 700)]).unwrap();
        let mut draft = log.checkpoints.begin().unwrap();
        for number in 0..6_u8 {
            draft.push(&[number; 40]).unwrap();
        }
        draft.finish().unwrap();
        saved.push(disk.image()[CHECKPOINT_FILE].clone());
    }
    let newer = saved.pop().unwrap();
    (disk.image(), saved.pop().unwrap(), newer)
}

/// Pieces that are swapped, dropped, doubled, zeroed, or those of another checkpoint, and bursts.
#[test]
fn a_checkpoint_of_misplaced_pieces_is_not_taken() {
    const PIECE: usize = 8 + 40;
    let (image, older, newer) = checkpoints();
    let refuse = |bytes: Vec<u8>, what: &str| {
        let mut image = image.clone();
        image.insert(CHECKPOINT_FILE.into(), bytes);
        let disk = SimDisk::of(&image, 0);
        let directory = Directory::take(disk.shared(), &options()).unwrap();
        let mut pieces = directory.checkpoint();
        while let Ok(Some(checkpoint)) = &mut pieces {
            match checkpoint.next_piece() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}: taken"),
                Err(_) => break,
            }
        }
        assert_eq!(disk.image(), image, "{what}: it is left alone");
    };
    let at = |number: usize| SECTOR + number * PIECE..SECTOR + (number + 1) * PIECE;
    let mut cases = 0;
    for one in 0..6 {
        for two in 0..6 {
            let mut bytes = newer.clone();
            bytes[at(one)]
                .copy_from_slice(if one == two { &older } else { &newer }.get(at(two)).unwrap());
            refuse(bytes, &format!("piece {two} at {one}"));
            cases += 1;
        }
        refuse([&newer[..at(one).start], &newer[at(one).end..]].concat(), "dropped");
        let mut bytes = newer.clone();
        bytes[at(one)].fill(0);
        refuse(bytes, "zeroed");
    }
    let mut chance = Rng(3);
    for round in 0..2_000 {
        let mut bytes = newer.clone();
        let from = chance.below(bytes.len());
        let until = (from + 1 + chance.below(64)).min(bytes.len());
        bytes[from..until].iter_mut().for_each(|byte| *byte ^= 1 + chance.below(255) as u8);
        refuse(bytes, &format!("burst {round}"));
        cases += 1;
    }
    refuse([&older[..SECTOR], &newer[SECTOR..]].concat(), "the header of the older one");
    assert!(cases > 2_000, "{cases}");
}
