//! Logs that are rebuilt from blocks: the same as before, and none before all of it is there.

use super::{open, options, sample, segments, tiny, try_open, verify};
use crate::log::block::BLOCK_BYTES_MAX;
use crate::log::conformance::{LOG_ID, record_bytes};
use crate::log::file::segment::{SegmentHeader, make_version_1};
use crate::log::file::{self, CopyError, OpenError, Options, RESTORE_FILE, Rebuild, Verified};
use crate::log::{Block, FORMAT_VERSION};
use crate::sim::disk::{Faults, Image, SimDisk};

/// All blocks of a log, in order.
fn blocks(disk: &SimDisk) -> Vec<Block> {
    let mut blocks = Vec::new();
    let _verified = file::verify(disk, &mut |_, _| (), &mut |_, block| {
        blocks.push(Block::clone(block));
        Ok(())
    })
    .unwrap();
    blocks
}

fn rebuild(target: &SimDisk, options: &Options, blocks: &[Block]) -> Result<Verified, CopyError> {
    let mut rebuild = Rebuild::new(target, options)?;
    for block in blocks {
        rebuild.push(block)?;
    }
    rebuild.finish(&mut |done, all| assert!(done <= all), &mut |_, _| Ok(()))
}

fn formats(image: &Image) -> Vec<u32> {
    let header = |name: &String| SegmentHeader::decode(image[name].first_chunk().unwrap()).unwrap();
    segments(image).iter().map(|name| header(name).format).collect()
}

/// A log that a program of version 1 has begun.
fn grown() -> SimDisk {
    let mut image = sample();
    make_version_1(&mut image);
    let disk = SimDisk::of(&image, 0);
    let mut log = try_open(disk.shared(), &tiny()).unwrap();
    for _ in 0..9 {
        log.append(&[(1, 300), (2, 40)]).unwrap();
    }
    drop(log);
    disk
}

#[test]
fn a_log_that_is_rebuilt_is_the_same() {
    for source in [SimDisk::of(&sample(), 1), grown()] {
        let (before, blocks) = (verify(&source).unwrap(), blocks(&source));
        let target = SimDisk::new(2);
        let rebuilt = rebuild(&target, &tiny(), &blocks).unwrap();
        assert_eq!(
            (rebuilt.head.position, rebuilt.head.hash),
            (before.head.position, before.head.hash)
        );
        let verified = verify(&target).unwrap();
        assert_eq!(verified, rebuilt);
        assert!(verified.is_stopped && verified.log_id == LOG_ID);
        let again = self::blocks(&target);
        let said =
            |block: &Block| (block.format(), block.first_position(), block.payload().to_vec());
        assert!(again.iter().map(said).eq(blocks.iter().map(said)));
        let mut versions = formats(&target.image());
        assert!(versions.len() >= 4, "{versions:?}");
        versions.dedup();
        assert_eq!(versions.last(), Some(&FORMAT_VERSION));
        // It goes on like any other.
        let mut log = try_open(target.shared(), &tiny()).unwrap();
        log.append(&[(1, 30)]).unwrap();
        log.close().unwrap();
        drop(log);
        assert_eq!(verify(&target).unwrap().head.position, before.head.position + 1);
    }
}

#[test]
fn a_log_without_records_is_rebuilt() {
    let target = SimDisk::new(0);
    assert_eq!(rebuild(&target, &options(), &[]).unwrap().head.position, 0);
    let mut log = open(&target);
    log.append(&[(2, 30)]).unwrap();
    assert_eq!(log.shapes(), [(2, 30)]);
}

/// Blocks were larger once, and a segment may have to be, too.
#[test]
fn blocks_of_every_size_that_is_read_are_rebuilt() {
    let block = |length: usize| {
        let (mut payload, mut position, mut next) = (Vec::new(), 1, 1_u32);
        while payload.len() < length {
            let bytes = record_bytes(position, 1_000);
            payload.extend_from_slice(&1_000_u16.to_le_bytes());
            payload.extend_from_slice(&1_u16.to_le_bytes());
            payload.extend_from_slice(&bytes);
            (position, next) = (position + 1, next + 1);
        }
        Block::parse(FORMAT_VERSION, 1, next - 1, payload).unwrap()
    };
    let large = block(32 * 1024 - 1_004);
    assert!(large.byte_count() > BLOCK_BYTES_MAX && large.byte_count() <= 32 * 1024);
    let target = SimDisk::new(0);
    let rebuilt = rebuild(&target, &options(), std::slice::from_ref(&large)).unwrap();
    assert_eq!(rebuilt.head.position, large.last_position());
    assert_eq!(blocks(&target)[0].payload(), large.payload());
    let log = file::open(target.shared(), &options(), &mut |_, _| Ok(())).unwrap();
    assert_eq!(log.reader.block(7).unwrap().payload(), large.payload());
    drop(log);

    let refused = |block: &Block| {
        let target = SimDisk::new(0);
        let error = rebuild(&target, &options(), std::slice::from_ref(block)).unwrap_err();
        assert!(target.image().is_empty(), "nothing is made for it");
        error.to_string()
    };
    assert!(refused(&block(32 * 1024 + 1)).contains("too large for a frame"));
    let payload = large.payload().to_vec();
    let count = u32::try_from(large.last_position()).unwrap();
    let newer = Block::parse(FORMAT_VERSION + 1, 1, count, payload.clone()).unwrap();
    assert!(refused(&newer).contains("unknown format version"));
    let later = Block::parse(FORMAT_VERSION, 2, count, payload).unwrap();
    assert!(refused(&later).contains("does not follow"));
}

#[test]
fn only_an_empty_directory_is_for_a_log() {
    let blocks = blocks(&SimDisk::of(&sample(), 1));
    let target = SimDisk::new(0);
    let _verified = rebuild(&target, &tiny(), &blocks).unwrap();
    let before = target.image();
    assert!(matches!(rebuild(&target, &tiny(), &blocks), Err(CopyError::NotEmpty(_))));
    assert!(target.image() == before);
}

/// The call that fails may be any, and the power may be cut then: nobody takes what is there for a
/// log before all of it is there, for good.
#[test]
fn whatever_call_fails_what_is_there_is_no_log() {
    let source = SimDisk::of(&sample(), 1);
    let (head, blocks) = (verify(&source).unwrap().head, blocks(&source));
    let (mut calls, mut unopened) = (0, 0);
    loop {
        let disk = SimDisk::new(calls);
        let kind = std::io::ErrorKind::Other;
        let fail_after = Some((usize::try_from(calls).unwrap(), kind));
        disk.set_faults(Faults { fail_after, short: false, ..Faults::default() });
        let rebuilt = rebuild(&disk, &tiny(), &blocks);
        let has_failed = disk.has_failed();
        disk.crash();
        let image = disk.image();
        match verify(&disk) {
            Ok(verified) => {
                assert_eq!(
                    (verified.head.position, verified.head.hash),
                    (head.position, head.hash)
                );
                assert_eq!(verified.damage, None);
            }
            Err(error) => {
                assert!(rebuilt.is_err(), "it was said to be there: {error}");
                assert!(matches!(error, OpenError::HalfRestored | OpenError::NoLog), "{error}");
                assert!(segments(&image).is_empty() || image.contains_key(RESTORE_FILE));
                unopened += 1;
            }
        }
        if !has_failed {
            assert!(rebuilt.is_ok());
            break;
        }
        calls += 1;
    }
    assert!(calls > 30 && unopened > 20, "{calls} {unopened}");
}
