//! The scrub: what rots while the log is used is found, and nothing else is.

use super::{sample, segments, tiny, try_open};
use crate::log::Scrubbed;
use crate::log::file::{Directory, Opened};
use crate::sim::disk::{Image, SimDisk};

fn open(disk: &SimDisk) -> Opened {
    try_open(disk.shared(), &tiny()).expect("a log")
}

fn scrub(opened: &mut Opened) -> (u64, Scrubbed) {
    opened.scrubber.restart();
    let mut steps = 0;
    while opened.scrubber.step(&mut |_| ()).unwrap() {
        steps += 1;
    }
    (steps, opened.reader.scrubbed())
}

#[test]
fn a_whole_start_has_verified_everything() {
    let disk = SimDisk::of(&sample(), 0);
    let mut opened = open(&disk);
    let head = opened.reader.head().position;
    assert_eq!(opened.reader.scrubbed(), Scrubbed { position: head, damage: None });
    assert!(!opened.scrubber.step(&mut |_| ()).unwrap(), "there is nothing that was not read");
    let (steps, scrubbed) = scrub(&mut opened);
    assert_eq!(steps, 3, "all segments but the one that is written to");
    assert_eq!(scrubbed, Scrubbed { position: head, damage: None });
}

#[test]
fn every_byte_that_rots_meanwhile_is_found() {
    let whole = sample();
    let names = segments(&whole);
    let mut found = 0;
    for name in &names[..3] {
        let used = whole[name].iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..used).step_by(7) {
            found += u64::from(rots(&whole, name, at));
        }
    }
    assert!(found > 500, "{found}");
}

/// Whether the scrub finds a byte that was changed after the start. It may miss only what nothing
/// depends on: the fill between the end of a group and the next sector.
fn rots(whole: &Image, name: &str, at: usize) -> bool {
    let disk = SimDisk::of(whole, 0);
    let mut opened = open(&disk);
    let before = disk.image()[name][at];
    disk.poke(name, at, before ^ 0x10);
    let (_, scrubbed) = scrub(&mut opened);
    let Some(damage) = scrubbed.damage else {
        assert_eq!(before, 0, "{name} at {at}: a byte that says something");
        return false;
    };
    assert!(damage.file == *name || damage.offset == 0, "{name} at {at}: {damage}");
    let again = Directory::take(disk.shared(), &tiny());
    assert!(again.is_err(), "the log is still in use: nothing was changed by the scrub");
    true
}
