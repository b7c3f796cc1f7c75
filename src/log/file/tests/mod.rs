//! What the file engine promises beyond what every engine does: its format, and what is left of
//! a log after damage, faults and crashes.

mod bursts;
mod checkpoint;
mod copy;
mod crash;
mod damage;
mod directory;
mod edits;
mod faults;
mod format;
mod misplaced;
mod older;
mod reads;
mod rebuild;
mod scrub;
mod torn;

use std::sync::Arc;

use crate::log::conformance::{LOG_ID, check_block, group, read_all};
use crate::log::{AppendError, Head};

use super::{Disk, OpenError, Opened, Options, Verified};
use crate::sim::disk::{Image, SimDisk};

/// The shape of a group: how many events and bytes each record has.
type Shape = Vec<(u32, usize)>;

/// Segments so small that a few groups fill one.
fn options() -> Options {
    Options {
        first_segment_bytes: 8 * 1024,
        segment_bytes: 8 * 1024,
        group_bytes_max: 2 * 1024,
        ..Options::new(LOG_ID, 1_700_000_000_000_000)
    }
}

/// Opens a log; every block that it is given is checked.
fn try_open(disk: Arc<dyn Disk>, options: &Options) -> Result<Opened, OpenError> {
    let (mut position, mut visited_id) = (0, None);
    let opened = super::open(disk, options, &mut |log_id, block| {
        visited_id = Some(*log_id);
        assert_eq!(block.first_position(), position + 1);
        check_block(block);
        position = block.last_position();
        Ok(())
    })?;
    assert_eq!(opened.reader.head().position, position, "what is read is what was visited");
    assert!(visited_id.is_none_or(|id| id == opened.reader.log_id()));
    assert_eq!(opened.writer.is_some(), opened.damage.is_none());
    Ok(opened)
}

fn open(disk: &SimDisk) -> Opened {
    try_open(disk.shared(), &options()).expect("a log")
}

fn verify(disk: &SimDisk) -> Result<Verified, OpenError> {
    super::verify(disk, &mut |done, all| assert!(done <= all), &mut |_, block| {
        check_block(block);
        Ok(())
    })
}

impl Opened {
    /// Appends a group, after a spare was made if one is wanted and there is space for it.
    fn append(&mut self, shape: &[(u32, usize)]) -> Result<Head, AppendError> {
        let _outcome = self.preparer.as_mut().expect("a preparer").prepare();
        let group = group(self.reader.head().position + 1, shape);
        self.writer.as_mut().expect("a writer").append(&group)
    }

    fn witness(&mut self) -> Result<(), AppendError> {
        self.writer.as_mut().expect("a writer").witness()
    }

    fn close(&mut self) -> Result<(), AppendError> {
        self.writer.as_mut().expect("a writer").close()
    }

    fn has_room(&mut self) -> bool {
        self.writer.as_mut().expect("a writer").has_room()
    }

    fn position(&self) -> u64 {
        self.reader.head().position
    }

    fn shapes(&self) -> Shape {
        read_all(&*self.reader)
    }
}

/// Options for a log so small that each of its bits can be tried.
fn tiny() -> Options {
    Options {
        first_segment_bytes: 4 * 1024,
        segment_bytes: 4 * 1024,
        group_bytes_max: 512,
        ..options()
    }
}

/// A tiny log with every kind of frame, in four segments, closed in order: what is on the disk.
fn sample() -> Image {
    sample_of(4)
}

/// The same in as many segments, four at least.
fn sample_of(count: usize) -> Image {
    let disk = SimDisk::new(1);
    let open = || try_open(disk.shared(), &tiny()).expect("a log");
    let mut log = open();
    log.append(&[(1, 40), (2, 7)]).unwrap();
    log.witness().unwrap();
    log.append(&[(1, 490)]).unwrap();
    log.close().unwrap();
    drop(log);
    let mut log = open();
    for _ in 0..3 {
        log.append(&[(3, 200), (1, 30)]).unwrap();
    }
    log.witness().unwrap();
    log.append(&[(1, 100)]).unwrap();
    drop(log);
    let mut log = open();
    log.append(&[(1, 250), (1, 250)]).unwrap();
    while segments(&disk.image()).len() + 1 < count {
        log.append(&[(2, 300), (1, 90)]).unwrap();
        log.witness().unwrap();
    }
    for _ in 0..3 {
        log.append(&[(1, 64)]).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let image = disk.image();
    assert_eq!(segments(&image).len(), count);
    image
}

/// Options for segments that take a group of several frames.
fn roomy() -> Options {
    Options {
        first_segment_bytes: 96 * 1024,
        segment_bytes: 96 * 1024,
        group_bytes_max: 64 * 1024,
        ..options()
    }
}

/// The files that are segments.
fn segments(image: &Image) -> Vec<String> {
    image.keys().filter(|name| super::segment::number_of(name).is_some()).cloned().collect()
}
