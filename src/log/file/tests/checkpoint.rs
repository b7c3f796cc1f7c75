//! Checkpoints: a start from one shows the same log, and one that is of no use changes nothing.

use std::io::ErrorKind;

use super::format::hex;
use super::{Shape, check_block, open, options, try_open};
use crate::log::file::{CHECKPOINT_FILE, Directory, Opened};
use crate::log::{CheckpointFault, Checkpoints as _, Pieces as _};
use crate::sim::disk::{Faults, Image, SimDisk};

/// What a checkpoint in these tests says: the shapes of all records up to it.
fn pieces(shapes: &Shape) -> Vec<Vec<u8>> {
    let text: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
    text.chunks(3).map(|texts| texts.join("\n").into_bytes()).collect()
}

fn save(log: &Opened) -> std::io::Result<()> {
    let Some(mut draft) = log.checkpoints.begin() else { return Ok(()) };
    assert_eq!(draft.position(), log.position());
    for piece in pieces(&log.shapes()) {
        draft.push(&piece)?;
    }
    draft.finish()
}

type Found = Option<(u64, Vec<Vec<u8>>)>;

/// The checkpoint that a start would find: its position and its pieces.
fn find(directory: &Directory) -> Result<Found, CheckpointFault> {
    let Some(mut checkpoint) = directory.checkpoint()? else { return Ok(None) };
    let mut pieces = Vec::new();
    while let Some(piece) = checkpoint.next_piece()? {
        pieces.push(piece.to_vec());
    }
    Ok(Some((checkpoint.position(), pieces)))
}

fn take(disk: &SimDisk) -> Directory {
    Directory::take(disk.shared(), &options()).expect("a directory")
}

/// Opens a log from its checkpoint, which must be there, and checks that it is told only what
/// came after.
fn resume(disk: &SimDisk) -> Opened {
    let directory = take(disk);
    let resume = directory.checkpoint().unwrap().expect("a checkpoint").resume();
    let mut position = resume.position();
    let opened = directory.open(Some(resume), &mut |_, block| {
        assert_eq!(block.first_position(), position + 1);
        check_block(block);
        position = block.last_position();
        Ok(())
    });
    let opened = opened.expect("a log");
    assert_eq!(opened.position(), position);
    opened
}

fn fill(log: &mut Opened, groups: usize) {
    for round in 0..groups {
        log.append(&[(1 + round as u32 % 3, 300), (2, 700 + round)]).unwrap();
    }
}

/// Some segments, a checkpoint in the middle of one, and some more.
fn sample() -> Image {
    let disk = SimDisk::new(3);
    let mut log = open(&disk);
    fill(&mut log, 21);
    save(&log).unwrap();
    fill(&mut log, 14);
    log.close().unwrap();
    disk.image()
}

#[test]
fn a_start_from_a_checkpoint_shows_the_whole_log() {
    for groups in 1..24 {
        for after in [0, 1, 9] {
            let disk = SimDisk::new(groups as u64);
            let mut log = open(&disk);
            fill(&mut log, groups);
            save(&log).unwrap();
            let expected = pieces(&log.shapes());
            fill(&mut log, after);
            let shapes = log.shapes();
            drop(log);
            disk.crash();
            assert_eq!(find(&take(&disk)).unwrap().unwrap().1, expected);

            let mut resumed = resume(&disk);
            assert_eq!(resumed.shapes(), shapes, "also what no start has read");
            let head = resumed.reader.head();
            fill(&mut resumed, 3);
            let (shapes, newer) = (resumed.shapes(), resumed.reader.head());
            drop(resumed);
            let whole = try_open(disk.shared(), &options()).unwrap();
            assert_eq!((whole.shapes(), whole.reader.head().hash), (shapes, newer.hash));
            assert!(whole.reader.head().bytes >= head.bytes);
        }
    }
}

#[test]
fn a_start_from_a_checkpoint_counts_bytes_as_a_whole_one_does() {
    let disk = SimDisk::of(&sample(), 1);
    let resumed = resume(&disk).reader.head();
    let disk = SimDisk::of(&sample(), 1);
    assert_eq!(open(&disk).reader.head(), resumed);
}

#[test]
fn a_resumed_log_can_be_saved_again_before_it_grows() {
    let disk = SimDisk::of(&sample(), 1);
    let log = resume(&disk);
    save(&log).unwrap();
    let shapes = log.shapes();
    drop(log);
    let log = resume(&disk);
    assert_eq!(log.shapes(), shapes);
    save(&log).unwrap();
}

#[test]
fn an_empty_log_has_no_checkpoint() {
    let disk = SimDisk::new(1);
    let log = open(&disk);
    assert!(log.checkpoints.begin().is_none());
    drop(log);
    assert_eq!(find(&take(&disk)).unwrap(), None);
}

/// Each bit of it, and each length of it.
#[test]
fn a_damaged_checkpoint_is_found_out() {
    let image = sample();
    let whole = &image[CHECKPOINT_FILE];
    let try_it = |bytes: Vec<u8>, what: &str| {
        let mut image = image.clone();
        image.insert(CHECKPOINT_FILE.into(), bytes);
        let disk = SimDisk::of(&image, 0);
        let found = find(&take(&disk));
        assert!(found.is_err(), "{what}: {found:?}");
        assert_eq!(disk.image(), image, "{what}: it is left alone");
    };
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        try_it(bytes, &format!("bit {bit}"));
    }
    for length in 0..whole.len() {
        try_it(whole[..length].to_vec(), &format!("length {length}"));
    }
    let length = u32::from_le_bytes(whole[512..516].try_into().unwrap()) as usize;
    let doubled = [&whole[..520 + length], &whole[512..]].concat();
    try_it(doubled, "a piece twice");
}

#[test]
fn a_checkpoint_of_another_log_or_another_past_is_not_taken() {
    let image = sample();
    let foreign = |change: &dyn Fn(&mut Image)| {
        let mut image = image.clone();
        change(&mut image);
        let disk = SimDisk::of(&image, 0);
        let found = find(&take(&disk));
        assert!(matches!(found, Err(CheckpointFault::Foreign)), "{found:?}");
    };
    // The log is an older copy, shorter than the checkpoint.
    let disk = SimDisk::new(3);
    let mut log = open(&disk);
    fill(&mut log, 12);
    drop(log);
    let older = disk.image();
    foreign(&|image| {
        let checkpoint = image.remove(CHECKPOINT_FILE).unwrap();
        *image = older.clone();
        image.insert(CHECKPOINT_FILE.into(), checkpoint);
    });
    // The log has gone another way since. The second way has frames of the same sizes at the same
    // positions, so that only the hash tells.
    for is_alike in [false, true] {
        let disk = SimDisk::of(&older, 1);
        let mut log = open(&disk);
        for round in 12..24 {
            let alike = [(2, 300), (1 + round % 3, 700 + round as usize)];
            log.append(if is_alike { &alike } else { &[(1, 300), (2, 90)] }).unwrap();
        }
        drop(log);
        let other = disk.image();
        foreign(&|image| {
            let checkpoint = image.remove(CHECKPOINT_FILE).unwrap();
            *image = other.clone();
            image.insert(CHECKPOINT_FILE.into(), checkpoint);
        });
    }
    // A segment before it is missing: the start must read the log, and say so.
    foreign(&|image| {
        image.remove("00000000000000000002.seg").unwrap();
    });
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let mut image = sample();
    image.get_mut(CHECKPOINT_FILE).unwrap()[8] = 2;
    let found = find(&take(&SimDisk::of(&image, 0)));
    assert!(matches!(found, Err(CheckpointFault::Version(2))), "{found:?}");
}

/// Fails the n-th call of making the second checkpoint, for every n, and cuts the power.
#[test]
fn a_checkpoint_counts_when_it_is_finished_and_not_before() {
    let mut failed = 0;
    for n in 0.. {
        let disk = SimDisk::new(n as u64);
        let mut log = open(&disk);
        fill(&mut log, 5);
        save(&log).unwrap();
        let (first, before) = (log.position(), pieces(&log.shapes()));
        fill(&mut log, 5);
        let (second, after) = (log.position(), pieces(&log.shapes()));
        let fail_after = Some((n, ErrorKind::Other));
        disk.set_faults(Faults { fail_after, ..Faults::default() });
        let saved = save(&log);
        drop(log);
        disk.set_faults(Faults::default());
        disk.crash();
        let found = find(&take(&disk)).unwrap().unwrap();
        if saved.is_ok() {
            assert_eq!(found, (second, after));
            break;
        }
        assert!(found == (first, before) || found == (second, after), "{n}: {found:?}");
        failed += 1;
        resume(&disk);
        assert!(!disk.image().contains_key("checkpoint.tmp"), "{n}: the draft is removed");
    }
    assert!(failed > 6, "{failed}");
}

#[test]
fn the_bytes_of_a_checkpoint_are_for_ever() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    log.append(&[(1, 5), (2, 3)]).unwrap();
    save(&log).unwrap();
    let image = disk.image();
    let file = &image[CHECKPOINT_FILE];
    assert_eq!(hex(&file[..96]), HEADER);
    assert!(file[96..512].iter().all(|byte| *byte == 0));
    assert_eq!(hex(&file[512..]), PIECES);
}

const HEADER: &str = "\
44415942434b505401000000585f8b2c
636f6e666f726d616e63652d6c6f6721
0300000000000000acf3cb9ab1c22402
9014798926985442ec3daf98d91468a7
628836d8ecfd09a70100000000000000
00020000000000000000000000000000
";
const PIECES: &str = "\
0d000000fb536d6128312c2035290a28
322c20332900000000b0a88880
";
