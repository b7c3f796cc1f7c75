//! The scrub: what rots while the log is used is found, and nothing else is.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::{sample, segments, tiny, try_open};
use crate::log::file::{Directory, Disk, DiskFile, Lock, Opened};
use crate::log::{Scrubbed, Scrubber as _};
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

/// What the files of a disk had when they were read first, as a kernel keeps it.
type Memory = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A disk whose reads come from memory once they came from the medium.
#[derive(Clone)]
struct Remembering(SimDisk, Memory);

struct Remembered {
    file: Arc<dyn DiskFile>,
    name: String,
    memory: Memory,
}

impl Disk for Remembering {
    fn try_lock(&self) -> io::Result<Lock> {
        self.0.try_lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (file, memory) = (self.0.open(name)?, Arc::clone(&self.1));
        Ok(Arc::new(Remembered { file, name: name.to_owned(), memory }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
}

impl DiskFile for Remembered {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut memory = self.memory.lock().unwrap();
        let bytes = memory.entry(self.name.clone()).or_insert_with(|| {
            let mut bytes = vec![0; usize::try_from(self.file.length().unwrap()).unwrap()];
            assert_eq!(self.file.read_at(&mut bytes, 0).unwrap(), bytes.len());
            bytes
        });
        let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.memory.lock().unwrap().remove(&self.name);
        self.file.write_at(bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn forget(&self, _offset: u64) {
        self.memory.lock().unwrap().remove(&self.name);
    }
}

#[test]
fn what_the_kernel_remembers_hides_no_rot() {
    let whole = sample();
    let disk = SimDisk::of(&whole, 0);
    let mut opened =
        try_open(Arc::new(Remembering(disk.clone(), Memory::default())), &tiny()).unwrap();
    let (steps, scrubbed) = scrub(&mut opened);
    assert_eq!((steps, scrubbed.damage), (3, None));
    let name = &segments(&whole)[1];
    disk.poke(name, 700, !whole[name][700]);
    let damage = scrub(&mut opened).1.damage.expect("it is found");
    assert_eq!(damage.file, *name);
}
