//! What every engine must do, as one suite that is run for each of them.
//!
//! The content of a record follows from its first position ([`record_bytes`]), so any block can
//! be judged by itself, whoever read it and whenever.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::block::BLOCK_BYTES_MAX;
use super::{
    AppendError, Block, Group, Head, LogId, LogReader, LogWriter, RECORD_BYTES_MAX, ReadError,
    chain, file, memory, shared,
};

pub(super) const LOG_ID: LogId = *b"conformance-log!";

/// A log under test. `prepare` is what runs beside it in a server: it is called before each
/// append here, so that nothing depends on timing.
struct Engine {
    writer: Box<dyn LogWriter>,
    reader: Arc<dyn LogReader>,
    prepare: Box<dyn FnMut() + Send>,
    _keep: Box<dyn Any>,
}

fn memory_engine() -> Engine {
    let (writer, reader) = memory::open(LOG_ID);
    Engine { writer, reader, prepare: Box::new(|| {}), _keep: Box::new(()) }
}

/// Files of a real file system, with segments so small that most tests need several.
fn file_engine() -> Engine {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(file::StdDisk::open(directory.path()).expect("a disk"));
    let options = file::Options {
        first_segment_bytes: 256 * 1024,
        segment_bytes: 256 * 1024,
        group_bytes_max: 200 * 1024,
        ..file::Options::new(LOG_ID, 0)
    };
    let opened = file::open(disk, &options, &mut |_, _| Ok(())).expect("a log");
    let mut preparer = opened.preparer.expect("a preparer");
    Engine {
        writer: opened.writer.expect("a writer"),
        reader: opened.reader,
        prepare: Box::new(move || {
            preparer.prepare().expect("a spare");
        }),
        _keep: Box::new(directory),
    }
}

/// A medium that is shared, of which one process is the owner.
fn shared_engine() -> Engine {
    let model = shared::tests::Model::new(LOG_ID);
    let shared::tests::Node { writer, reader, .. } = shared::tests::start(&model).expect("a log");
    Engine { writer, reader, prepare: Box::new(|| {}), _keep: Box::new(()) }
}

impl Engine {
    /// Appends records of so many events and bytes each.
    fn append(&mut self, shape: &[(u32, usize)]) -> Head {
        (self.prepare)();
        let group = group(self.reader.head().position + 1, shape);
        assert!(self.writer.has_room());
        self.writer.append(&group).expect("an append")
    }
}

/// What the record at a position says.
pub(super) fn record_bytes(first_position: u64, length: usize) -> Vec<u8> {
    let mut state = first_position.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A group with records of so many events and bytes each.
pub(super) fn group(first_position: u64, shape: &[(u32, usize)]) -> Group {
    let mut group = Group::new(first_position);
    for (event_count, length) in shape {
        let bytes = record_bytes(group.next_position(), *length);
        group.push(*event_count, |buffer| buffer.extend_from_slice(&bytes));
    }
    group
}

/// Every record of a block says what its position demands.
pub(super) fn check_block(block: &Block) {
    assert!(block.byte_count() <= BLOCK_BYTES_MAX);
    let mut position = block.first_position();
    for record in block.records() {
        assert_eq!(record.first_position, position);
        assert_eq!(record.bytes, record_bytes(position, record.bytes.len()), "at {position}");
        position = record.last_position() + 1;
    }
    assert_eq!(position, block.last_position() + 1);
}

/// Reads a whole log block by block, and returns the shapes of its records.
pub(super) fn read_all(reader: &dyn LogReader) -> Vec<(u32, usize)> {
    let (head, mut position, mut hash) = (reader.head(), 0, chain::start(&reader.log_id()));
    let mut shapes = Vec::new();
    while position < head.position {
        let block = reader.block(position + 1).expect("a block");
        assert_eq!(block.first_position(), position + 1, "no gap and no overlap");
        check_block(&block);
        shapes.extend(block.records().map(|record| (record.event_count, record.bytes.len())));
        let mut payload = Vec::new();
        for record in block.records() {
            payload.extend_from_slice(&u16::try_from(record.bytes.len()).unwrap().to_le_bytes());
            payload.extend_from_slice(&u16::try_from(record.event_count).unwrap().to_le_bytes());
            payload.extend_from_slice(record.bytes);
        }
        hash = chain::extend(&hash, &payload);
        position = block.last_position();
    }
    assert_eq!(position, head.position, "blocks end where the log does");
    assert_eq!(hash, head.hash, "the head's hash is that of the blocks");
    shapes
}

fn assert_refused(reader: &dyn LogReader, position: u64) {
    match reader.block(position) {
        Err(ReadError::Io(error)) => assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput),
        Err(ReadError::Damaged(damage)) => panic!("position {position}: {damage}"),
        Ok(block) => panic!("position {position} is served from {}", block.first_position()),
    }
    assert!(reader.recent_block(position).is_none());
}

fn an_empty_log_has_no_position(engine: Engine) {
    let Engine { mut writer, reader, .. } = engine;
    assert_eq!(reader.log_id(), LOG_ID);
    assert_eq!(reader.head().position, 0);
    assert_eq!(reader.head().hash, chain::start(&LOG_ID));
    assert!(writer.has_room());
    assert_refused(&*reader, 0);
    assert_refused(&*reader, 1);
}

fn records_are_read_back_as_they_were_appended(mut engine: Engine) {
    let groups: [&[(u32, usize)]; 4] =
        [&[(1, 1)], &[(3, 100), (1, 200), (5, 50)], &[(2, RECORD_BYTES_MAX)], &[(65_535, 9)]];
    for shape in groups {
        engine.append(shape);
    }
    assert_eq!(read_all(&*engine.reader), groups.concat());
}

fn every_position_finds_its_block(mut engine: Engine) {
    for round in 0..40 {
        engine.append(&[(1 + round % 3, 700), (1, 300)]);
    }
    for position in 1..=engine.reader.head().position {
        let block = engine.reader.block(position).expect("a block");
        assert!((block.first_position()..=block.last_position()).contains(&position));
        let record = block.record_at(position).expect("a record");
        assert!((record.first_position..=record.last_position()).contains(&position));
    }
    assert_refused(&*engine.reader, 0);
    assert_refused(&*engine.reader, engine.reader.head().position + 1);
    assert_refused(&*engine.reader, u64::MAX);
}

fn an_append_returns_the_head_that_readers_see(mut engine: Engine) {
    let mut before = engine.reader.head();
    for _ in 0..5 {
        let head = engine.append(&[(2, 64), (1, 64)]);
        assert_eq!(head, engine.reader.head());
        assert_eq!(head.position, before.position + 3);
        assert_ne!(head.hash, before.hash);
        assert!(head.bytes > before.bytes);
        before = head;
    }
}

fn an_empty_group_changes_nothing(mut engine: Engine) {
    let head = engine.append(&[(1, 10)]);
    assert_eq!(engine.append(&[]), head);
    assert_eq!(engine.reader.head(), head);
    assert_eq!(engine.append(&[(1, 10)]).position, 2);
}

fn a_large_group_is_split_into_blocks(mut engine: Engine) {
    let shape: Vec<(u32, usize)> = (0..400).map(|index| (1 + index % 4, 400)).collect();
    engine.append(&[(1, 10)]);
    let head = engine.append(&shape);
    engine.append(&[(1, 10)]);
    let block = engine.reader.block(2).expect("a block");
    assert!(block.last_position() < head.position, "several blocks");
    assert!(block.byte_count() > BLOCK_BYTES_MAX - 404, "well filled blocks");
    assert_eq!(read_all(&*engine.reader).len(), 402);
}

fn a_witness_changes_no_position_and_no_hash(mut engine: Engine) {
    engine.writer.witness().expect("a witness of nothing");
    for _ in 0..3 {
        let head = engine.append(&[(1, 100)]);
        for _ in 0..3 {
            engine.writer.witness().expect("a witness");
        }
        assert_eq!(engine.reader.head().position, head.position);
        assert_eq!(engine.reader.head().hash, head.hash);
    }
    assert_eq!(read_all(&*engine.reader).len(), 3);
}

fn a_closed_log_takes_nothing_and_is_still_read(mut engine: Engine) {
    let head = engine.append(&[(1, 100)]);
    engine.writer.close().expect("a close");
    engine.writer.close().expect("closing twice is closing");
    engine.writer.witness().expect("nothing is left to witness");
    assert!(!engine.writer.has_room());
    let refused = engine.writer.append(&group(head.position + 1, &[(1, 1)]));
    assert!(matches!(refused, Err(AppendError::Latched)), "{refused:?}");
    assert_eq!(engine.reader.head().position, head.position);
    drop(engine.writer);
    assert_eq!(read_all(&*engine.reader), [(1, 100)]);
}

fn recent_blocks_are_those_that_are_read(mut engine: Engine) {
    for _ in 0..50 {
        engine.append(&[(1, 1000), (2, 1000)]);
    }
    let newest = engine.reader.head().position;
    assert!(engine.reader.recent_block(newest).is_some(), "the newest is at hand");
    for position in 1..=newest {
        let block = engine.reader.block(position).expect("a block");
        if let Some(recent) = engine.reader.recent_block(position) {
            assert_eq!(recent.first_position(), block.first_position());
            assert!(recent.records().eq(block.records()));
        }
    }
}

/// Readers on other threads never see a position without its block, nor a wrong one.
fn readers_see_whole_blocks_while_groups_are_appended(mut engine: Engine) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| (Arc::clone(&engine.reader), &done))
            .map(|(reader, done)| scope.spawn(move || follow(&*reader, done)))
            .collect();
        for round in 0..150 {
            engine.append(&[(1, 10 + round), (2, 3000)]);
            if round % 10 == 0 {
                engine.writer.witness().expect("a witness");
            }
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            assert_eq!(reader.join().expect("a reader"), 450);
        }
    });
}

/// Reads on until the log is done and read; returns the last position.
fn follow(reader: &dyn LogReader, done: &AtomicBool) -> u64 {
    let mut position = 0;
    loop {
        let is_done = done.load(Ordering::Acquire);
        let head = reader.head();
        while position < head.position {
            let block = reader.block(position + 1).expect("a block");
            assert_eq!(block.first_position(), position + 1);
            check_block(&block);
            position = block.last_position();
        }
        assert!(position >= head.position);
        if is_done {
            return position;
        }
        std::thread::yield_now();
    }
}

/// The chain tells what was recorded, not by whom or where.
fn engines_agree_on_the_chain(mut engine: Engine) {
    let mut other = memory_engine();
    for round in 1..30 {
        let shape: Vec<_> = (0..round).map(|index| (1 + index % 2, 1000)).collect();
        let head = engine.append(&shape);
        assert_eq!(head.hash, other.append(&shape).hash);
        engine.writer.witness().expect("a witness");
    }
    assert_eq!(engine.reader.head().hash, other.reader.head().hash);
}

/// One test per property and engine.
macro_rules! conformance {
    ($($property:ident),+ $(,)?) => {
        mod in_memory {
            $(#[test] fn $property() { super::$property(super::memory_engine()); })+
        }
        mod in_what_is_shared {
            $(#[test] fn $property() { super::$property(super::shared_engine()); })+
        }
        mod in_files {
            $(#[test] fn $property() { super::$property(super::file_engine()); })+
        }
    };
}

conformance!(
    an_empty_log_has_no_position,
    records_are_read_back_as_they_were_appended,
    every_position_finds_its_block,
    an_append_returns_the_head_that_readers_see,
    an_empty_group_changes_nothing,
    a_large_group_is_split_into_blocks,
    a_witness_changes_no_position_and_no_hash,
    a_closed_log_takes_nothing_and_is_still_read,
    recent_blocks_are_those_that_are_read,
    readers_see_whole_blocks_while_groups_are_appended,
    engines_agree_on_the_chain,
);
