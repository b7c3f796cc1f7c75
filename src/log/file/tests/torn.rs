//! What is left of the last group after a crash in its write: all of it or nothing.

use super::{Shape, open, roomy, segments, try_open, verify};
use crate::log::file::{Opened, Options};
use crate::sim::{
    disk::{Image, Rng, SimDisk},
    number,
};

/// A log before and after its last group, and where in its last file that group is.
struct Last {
    before: Image,
    after: Image,
    file: String,
    start: usize,
    end: usize,
    options: Options,
}

impl Last {
    /// Appends `shape` to a log that has some groups, and a witness of them if `is_witnessed`.
    fn group(shape: &[(u32, usize)], options: Options, is_witnessed: bool) -> Self {
        let disk = SimDisk::new(3);
        let mut log = try_open(disk.shared(), &options).unwrap();
        log.append(&[(1, 30)]).unwrap();
        log.append(&[(2, 600), (1, 30)]).unwrap();
        if is_witnessed {
            log.witness().unwrap();
        }
        let before = disk.image();
        log.append(shape).unwrap();
        let after = disk.image();
        let file = segments(&after).pop().unwrap();
        let differ = |index: &usize| before[&file][*index] != after[&file][*index];
        // A group begins at a sector; its first byte may be zero.
        let start = (0..after[&file].len()).find(differ).unwrap() / 512 * 512;
        let last = (0..after[&file].len()).rfind(differ).unwrap();
        let end = (last + 1).next_multiple_of(512);
        Self { before, after, file, start, end, options }
    }

    /// Opens a log whose last file is this one, and then uses and closes and opens it again. The
    /// group must be there as a whole, or not at all.
    fn check(&self, bytes: Vec<u8>, whole: bool, what: &str) {
        let mut image = self.after.clone();
        let is_untouched = bytes == self.before[&self.file];
        image.insert(self.file.clone(), bytes);
        let disk = SimDisk::of(&image, 5);
        let found = verify(&disk).unwrap();
        assert_eq!(disk.image(), image, "{what}: verification changes nothing");
        let open = |disk: &SimDisk| try_open(disk.shared(), &self.options).unwrap();
        let mut log: Opened = open(&disk);
        assert_eq!(log.damage, None, "{what}");
        assert_eq!(log.torn, found.torn, "{what}");
        assert_eq!(log.torn.is_some(), !whole && !is_untouched, "{what}");
        if let Some(torn) = &log.torn {
            assert_eq!((torn.offset, torn.position), (self.start as u64, 5), "{what}");
        }
        assert_eq!(log.position() >= 5, whole, "{what}");
        let mut shapes: Shape = log.shapes();
        assert_eq!(log.append(&[(1, 77)]).unwrap().position, log.position());
        shapes.push((1, 77));
        log.close().unwrap();
        drop(log);
        let log = open(&disk);
        assert_eq!(log.torn, None, "{what}: cut once and for all");
        assert_eq!(log.shapes(), shapes, "{what}");
        drop(log);
        assert_eq!(verify(&disk).unwrap().damage, None);
    }

    /// The file with what `keep` says of each byte of the last group: written, or as it was.
    fn mixed(&self, keep: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut bytes = self.before[&self.file].clone();
        for offset in (self.start..self.end).filter(|offset| keep(*offset)) {
            bytes[offset] = self.after[&self.file][offset];
        }
        bytes
    }

    fn is_whole(&self, bytes: &[u8]) -> bool {
        bytes == self.after[&self.file]
    }

    fn check_mixed(&self, keep: impl Fn(usize) -> bool, what: &str) {
        let bytes = self.mixed(keep);
        let whole = self.is_whole(&bytes);
        self.check(bytes, whole, what);
    }
}

fn groups() -> [Last; 3] {
    let frames: Shape = (0..45).map(|index| (1 + index % 2, 1000)).collect();
    [
        Last::group(&[(1, 50)], super::options(), false),
        Last::group(&[(1, 700), (3, 700), (1, 400)], super::options(), true),
        Last::group(&frames, roomy(), false),
    ]
}

#[test]
fn a_group_that_ends_early_is_cut_wherever_it_ends() {
    for last in groups() {
        let boundaries = (last.start..=last.end).step_by(512);
        let step = if last.end - last.start > 4096 { 293 } else { 1 };
        for cut in boundaries.chain((last.start..last.end).step_by(step)) {
            last.check_mixed(|offset| offset < cut, &format!("cut at {cut}"));
        }
    }
}

/// Groups of any shape, `DAYBOOK_TEST_GROUPS` of them, cut at every sector.
#[test]
fn a_group_of_any_shape_is_cut_wherever_it_ends() {
    let (count, mut boundaries, mut rng) = (number("DAYBOOK_TEST_GROUPS").unwrap_or(20), 0, Rng(9));
    for number in 0..count {
        let most = [3, 12, 40][rng.below(3)];
        let records = 1 + rng.below(most);
        let record = |_| (1 + rng.below(5) as u32, 20 + rng.below(1_400));
        let shape: Shape = (0..records).map(record).collect();
        let last = Last::group(&shape, roomy(), number % 2 == 0);
        for cut in (last.start..=last.end).step_by(512) {
            last.check_mixed(|offset| offset < cut, &format!("group {number} cut at {cut}"));
            boundaries += 1;
        }
    }
    println!("P2: {count} groups, {boundaries} boundaries");
    assert!(boundaries >= 10 * count, "{boundaries}");
}

#[test]
fn a_group_with_a_missing_sector_is_cut_whichever_it_is() {
    for last in groups() {
        for missing in (last.start..last.end).step_by(512) {
            let is_missing = |offset: usize| (missing..missing + 512).contains(&offset);
            last.check_mixed(|offset| !is_missing(offset), &format!("without {missing}"));
            last.check_mixed(is_missing, &format!("only {missing}"));
        }
    }
}

#[test]
fn a_group_with_sectors_lost_at_random_and_garbage_among_them_is_cut() {
    for last in groups() {
        for seed in 0..200 {
            let mut rng = Rng(seed);
            let mut bytes = last.before[&last.file].clone();
            for start in (last.start..last.end).step_by(512) {
                let sector = start..start + 512;
                match rng.below(4) {
                    0 => {}
                    1 if rng.one_in(3) => bytes[sector].fill_with(|| rng.next().to_le_bytes()[1]),
                    _ => bytes[sector.clone()].copy_from_slice(&last.after[&last.file][sector]),
                }
            }
            let whole = last.is_whole(&bytes);
            last.check(bytes, whole, &format!("seed {seed}"));
        }
    }
}

/// A group may be torn right after a stop: the process after it died in its first write.
#[test]
fn a_stop_is_no_proof_against_a_torn_tail() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    log.append(&[(1, 10)]).unwrap();
    log.close().unwrap();
    drop(log);
    let mut image = disk.image();
    let name = segments(&image).pop().unwrap();
    image.get_mut(&name).unwrap()[1536 + 100] = 1;
    let log = open(&SimDisk::of(&image, 0));
    let torn = log.torn.as_ref().expect("a torn tail");
    assert_eq!((torn.offset, torn.bytes, torn.position), (1536, 101, 2));
    assert_eq!(log.shapes(), [(1, 10)]);
}
