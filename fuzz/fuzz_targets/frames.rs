//! The scanner: a log is written, its files are changed, and it is read again. Nothing but a
//! beginning of what was written is ever shown, whatever the change and whether or not checksums
//! were made to match again.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use daybook::log::{
    Block, Group, LogReader,
    file::{self, COPY_FILE, OpenError, Opened, Options, SPARE_FILE, Verified},
};
use daybook_fuzz::{
    bank::{LOG_ID, TIME_MICROS},
    change::{Change, fix_copy, fix_frames, fix_header},
    disk::{Image, MemoryDisk},
    has_canary,
};
use libfuzzer_sys::fuzz_target;

/// How many groups a log has at most: enough for a few segments.
const GROUPS_MAX: usize = 24;

#[derive(Arbitrary, Debug)]
struct Input {
    size: Size,
    groups: Vec<Vec<Written>>,
    is_closed: bool,
    is_reopened: bool,
    changes: Vec<FileChange>,
    is_forged: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    /// Groups of one frame, five or so a segment.
    Small,
    /// Groups of a few frames.
    Large,
}

/// A record to write.
#[derive(Arbitrary, Debug)]
struct Written {
    events: u8,
    length: u8,
    fill: u8,
}

#[derive(Arbitrary, Debug)]
enum FileChange {
    Inside(u8, Change),
    Remove(u8),
    CopyTo(u8, u8),
}

/// A record that was written or is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    first_position: u64,
    event_count: u32,
    bytes: Vec<u8>,
}

/// What was written: the records, and how many of them there were after each group.
#[derive(Default)]
struct Log {
    records: Vec<Shown>,
    ends: Vec<usize>,
}

impl Size {
    fn options(self) -> Options {
        let (segment_bytes, group_bytes_max) = match self {
            Self::Small => (4 * 1024, 512),
            Self::Large => (64 * 1024, 24 * 1024),
        };
        Options {
            first_segment_bytes: segment_bytes,
            segment_bytes,
            group_bytes_max,
            ..Options::new(LOG_ID, TIME_MICROS)
        }
    }

    fn record(self, written: &Written) -> Vec<u8> {
        let length = match self {
            Self::Small => 1 + usize::from(written.length),
            Self::Large => 1 + usize::from(written.length) * 16,
        };
        vec![written.fill; length]
    }
}

impl Log {
    /// The next group, as much as one may hold.
    fn group(&mut self, size: Size, records: &[Written]) -> Group {
        let first_position =
            self.records.last().map_or(1, |last| last.first_position + u64::from(last.event_count));
        let mut group = Group::new(first_position);
        for written in records {
            let (event_count, bytes) = (1 + u32::from(written.events % 4), size.record(written));
            if group.byte_count() + 4 + bytes.len() > size.options().group_bytes_max {
                break;
            }
            let first_position = group.next_position();
            group.push(event_count, |out| out.extend_from_slice(&bytes));
            self.records.push(Shown { first_position, event_count, bytes });
        }
        if !group.is_empty() {
            self.ends.push(self.records.len());
        }
        group
    }

    /// That what is shown is a beginning, and when nobody forged a checksum, one of whole groups.
    fn check(&self, shown: &[Shown], is_forged: bool) {
        let written = self.records.get(..shown.len());
        assert_eq!(Some(shown), written, "what is shown was not written");
        let is_whole = shown.is_empty() || self.ends.contains(&shown.len());
        assert!(is_whole || is_forged, "a group is shown in part");
    }

    /// Plants the defect: the newest record is said never to have been written.
    fn forget_newest(&mut self) {
        self.records.pop();
        self.ends.pop();
        self.ends.push(self.records.len());
    }
}

fuzz_target!(|input: Input| {
    let mut log = Log::default();
    let disk = MemoryDisk::default();
    write(&disk, &input, &mut log);
    let mut image = disk.image();
    for change in &input.changes {
        change_file(&mut image, change);
    }
    if input.is_forged {
        forge(&mut image);
    }
    if has_canary() && log.ends.len() > 1 && input.changes.len() > 1 {
        log.forget_newest();
    }
    read(&MemoryDisk::of(&image), &input, log);
});

fn write(disk: &MemoryDisk, input: &Input, log: &mut Log) {
    let options = input.size.options();
    let mut opened = open(disk, &options, &mut Vec::new()).expect("a new log opens");
    let half = if input.is_reopened { input.groups.len() / 2 } else { usize::MAX };
    for (number, records) in input.groups.iter().take(GROUPS_MAX).enumerate() {
        if number == half {
            drop(opened);
            opened = open(disk, &options, &mut Vec::new()).expect("a whole log opens");
        }
        let group = log.group(input.size, records);
        if !group.is_empty() {
            append(&mut opened, &group);
        }
    }
    if let Some(writer) = opened.writer.as_mut().filter(|_| input.is_closed) {
        writer.close().expect("memory does not fail");
    }
}

fn append(opened: &mut Opened, group: &Group) {
    let (Some(writer), Some(preparer)) = (&mut opened.writer, &mut opened.preparer) else {
        panic!("a whole log can be written")
    };
    if !writer.has_room() {
        preparer.prepare().expect("memory does not fail");
    }
    writer.append(group).expect("there is room");
}

/// Changes a file, or gives it another's name.
fn change_file(image: &mut Image, change: &FileChange) {
    let name = |number: u8, image: &Image| {
        let number = usize::from(number) % image.len().max(1);
        image.keys().nth(number).cloned().unwrap_or_default()
    };
    match change {
        FileChange::Inside(file, change) => {
            let name = name(*file, image);
            if let Some(bytes) = image.get_mut(&name) {
                change.apply(bytes);
            }
        }
        FileChange::Remove(file) => {
            image.remove(&name(*file, image));
        }
        FileChange::CopyTo(from, to) => {
            let Some(bytes) = image.get(&name(*from, image)).cloned() else { return };
            let name = match to % 8 {
                0 => SPARE_FILE.to_owned(),
                1 => COPY_FILE.to_owned(),
                number => format!("{:020}.seg", number - 1),
            };
            image.insert(name, bytes);
        }
    }
}

/// Makes all checksums match again; the chain of hashes stays as it is.
fn forge(image: &mut Image) {
    for (name, bytes) in image {
        if name == COPY_FILE {
            fix_copy(bytes);
        } else if let Some(number) = name.strip_suffix(".seg").and_then(|name| name.parse().ok()) {
            fix_header(bytes);
            fix_frames(bytes, &LOG_ID, number);
        }
    }
}

/// Verifies, opens, and goes on if it can.
fn read(disk: &MemoryDisk, input: &Input, mut log: Log) {
    let (options, is_forged) = (input.size.options(), input.is_forged);
    let mut verified_records = Vec::new();
    let verified = verify(disk, &mut verified_records);
    log.check(&verified_records, is_forged);
    if let Ok(verified) = &verified {
        check_end(verified.head.position, &verified_records);
    }
    let mut shown = Vec::new();
    let Ok(mut opened) = open(disk, &options, &mut shown) else { return };
    log.check(&shown, is_forged);
    check_end(opened.reader.head().position, &shown);
    if let Ok(verified) = &verified {
        assert_eq!(verified.head.position, opened.reader.head().position);
        assert_eq!(verified.damage, opened.damage);
    }
    read_blocks(&*opened.reader, &shown);
    assert_eq!(opened.writer.is_some(), opened.damage.is_none());
    if opened.writer.is_some() && !is_forged {
        log.records.truncate(shown.len());
        log.ends.retain(|end| *end <= shown.len());
        let group = log.group(input.size, &[Written { events: 2, length: 9, fill: 0xa5 }]);
        append(&mut opened, &group);
        drop(opened);
        let mut shown = Vec::new();
        let verified = verify(disk, &mut shown).expect("what was repaired is a log");
        assert_eq!((verified.damage, verified.torn), (None, None));
        assert_eq!(shown, log.records);
    }
}

fn verify(disk: &MemoryDisk, shown: &mut Vec<Shown>) -> Result<Verified, OpenError> {
    file::verify(disk, &mut |_, _| (), &mut |_, block| {
        show(block, shown);
        Ok(())
    })
}

fn open(disk: &MemoryDisk, options: &Options, shown: &mut Vec<Shown>) -> Result<Opened, OpenError> {
    file::open(Arc::new(disk.clone()), options, &mut |_, block| {
        show(block, shown);
        Ok(())
    })
}

fn show(block: &Block, shown: &mut Vec<Shown>) {
    shown.extend(block.records().map(|record| Shown {
        first_position: record.first_position,
        event_count: record.event_count,
        bytes: record.bytes.to_vec(),
    }));
}

fn check_end(head: u64, shown: &[Shown]) {
    let end = shown.last().map_or(0, |last| last.first_position + u64::from(last.event_count) - 1);
    assert_eq!(head, end, "the head is the newest position that was shown");
}

/// The reader gives what was shown when the log was opened, and nothing else.
fn read_blocks(reader: &dyn LogReader, expected: &[Shown]) {
    let (mut shown, mut next) = (Vec::new(), 1);
    while next <= reader.head().position {
        let block = reader.block(next).expect("what was verified can be read");
        next = block.last_position() + 1;
        show(&block, &mut shown);
    }
    assert_eq!(shown, expected);
}
