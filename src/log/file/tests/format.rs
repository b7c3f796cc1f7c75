//! Bytes that must never change, and decoders that take nothing else.

use proptest::prelude::*;

use super::{LOG_ID, open, options, segments};
use crate::log::conformance::record_bytes;
use crate::log::file::frame::{FrameHeader, HEADER_BYTES, Kind, Tie};
use crate::log::file::segment::{
    self, HeaderFault, SegmentHeader, file_name, make_version_1, number_of,
};
use crate::log::{FORMAT_VERSION, chain};
use crate::sim::disk::SimDisk;

pub(super) fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    bytes.chunks(16).map(|bytes| line(bytes).concat() + "\n").collect()
}

/// A log with one group of two records, closed in order.
#[test]
fn the_bytes_of_a_small_log_are_for_ever() {
    let disk = SimDisk::new(0);
    let mut log = open(&disk);
    log.append(&[(1, 5), (2, 3)]).unwrap();
    log.close().unwrap();
    let image = disk.image();
    let names = segments(&image);
    assert_eq!(names, ["00000000000000000001.seg"]);
    let file = &image[&names[0]];
    assert_eq!(hex(&file[..96]), SEGMENT_HEADER);
    // Version 1 was the same but for its number.
    let mut older = image.clone();
    make_version_1(&mut older);
    assert_eq!(hex(&older[&names[0]][..96]), SEGMENT_HEADER_1);
    assert_eq!(older[&names[0]][512..], file[512..]);
    assert_eq!(hex(&file[512..616]), RECORDS);
    assert_eq!(hex(&file[1024..1112]), STOP);
    for unused in [96..512, 616..1024, 1112..file.len()] {
        assert!(file[unused].iter().all(|byte| *byte == 0));
    }
}

const SEGMENT_HEADER_1: &str = "\
444159424f4f4b0001000000b4b051b1
636f6e666f726d616e63652d6c6f6721
01000000000000000100000000000000
002000000000000000401e18240a0600
81ddd239ad99c1116f2956654cec0888
25b3d1849ffc7e277851f4d7ea65be94
";
const SEGMENT_HEADER: &str = "\
444159424f4f4b0002000000518b3fd3
636f6e666f726d616e63652d6c6f6721
01000000000000000100000000000000
002000000000000000401e18240a0600
81ddd239ad99c1116f2956654cec0888
25b3d1849ffc7e277851f4d7ea65be94
";
const RECORDS: &str = "\
680000006ff303f80002000000000000
01000000000000000000000000000000
00020000000000000300000002000101
6725edb800000000acf3cb9ab1c22402
9014798926985442ec3daf98d91468a7
628836d8ecfd09a7050001000b02e536
a1030002005708a5
";
const STOP: &str = "\
5800000050c3a9000004000000000000
04000000000000000300000000000000
00040000000000000000000000000401
0000000000000000acf3cb9ab1c22402
9014798926985442ec3daf98d91468a7
628836d8ecfd09a7
";

/// What was written once is read for ever.
#[test]
fn the_golden_bytes_are_read() {
    for header in [SEGMENT_HEADER_1, SEGMENT_HEADER] {
        read_golden_bytes(header);
    }
}

fn read_golden_bytes(header: &str) {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits: String = hex.split_whitespace().collect();
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    };
    let mut file = vec![0; 8192];
    for (offset, part) in [(0, header), (512, RECORDS), (1024, STOP)] {
        let part = bytes(part);
        file[offset..offset + part.len()].copy_from_slice(&part);
    }
    let disk = SimDisk::of(&[(file_name(1), file)].into(), 0);
    assert_eq!(open(&disk).shapes(), [(1, 5), (2, 3)]);
    assert!(super::verify(&disk).unwrap().is_stopped);
}

/// Blocks had up to 32 KiB once. Such a log is read on start, at random and in runs.
#[test]
fn blocks_as_large_as_they_were_once_are_read() {
    let mut payload = Vec::new();
    for position in 1..=8 {
        payload.extend_from_slice(&4_000_u16.to_le_bytes());
        payload.extend_from_slice(&1_u16.to_le_bytes());
        payload.extend_from_slice(&record_bytes(position, 4_000));
    }
    let length = 64 * 1024;
    let chain_before = chain::start(&LOG_ID);
    let (number, first_position, created_micros) = (1, 1, 0);
    let segment = SegmentHeader {
        format: 1,
        log_id: LOG_ID,
        number,
        first_position,
        length,
        created_micros,
        chain_before,
    };
    let frame = FrameHeader {
        length: (HEADER_BYTES + payload.len()) as u32,
        offset: 512,
        first_position,
        witness: 0,
        group_offset: 512,
        event_count: 8,
        record_count: 8,
        kind: Kind::Records,
        is_last: true,
        payload_checksum: crc32c::crc32c(&payload),
        chain: chain::extend(&chain_before, &payload),
    };
    let mut file = segment.encode().to_vec();
    file.extend_from_slice(&frame.encode(Tie::new(&LOG_ID, number)));
    file.extend_from_slice(&payload);
    file.resize(length as usize, 0);
    let disk = SimDisk::of(&[(file_name(1), file)].into(), 0);
    let log = crate::log::file::open(disk.shared(), &options(), &mut |_, _| Ok(())).unwrap();
    assert_eq!((log.damage, log.reader.head().position), (None, 8));
    for block in [log.reader.block(3).unwrap(), log.reader.blocks(5).unwrap().remove(0)] {
        let records = block.records().map(|record| record.bytes.to_vec());
        let expected = (1..=8).map(|position| record_bytes(position, 4_000));
        assert!(records.eq(expected));
    }
}

#[test]
fn only_twenty_digits_and_the_ending_name_a_segment() {
    for number in [1, 42, u64::MAX] {
        assert_eq!(number_of(&file_name(number)), Some(number));
    }
    let others =
        ["1.seg", "spare.tmp", "lock", "+0000000000000000001.seg", "99999999999999999999.seg"];
    for name in others {
        assert_eq!(number_of(name), None, "{name}");
    }
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        format: FORMAT_VERSION,
        log_id: LOG_ID,
        number: 7,
        first_position: 1234,
        length: 8192,
        created_micros: -5,
        chain_before: [9; 32],
    }
}

#[test]
fn no_bit_of_a_segment_header_can_change() {
    let sector = segment_header().encode();
    assert_eq!(SegmentHeader::decode(&sector), Ok(segment_header()));
    for bit in 0..sector.len() * 8 {
        let mut flipped = sector;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let fault = SegmentHeader::decode(&flipped).expect_err("a flipped bit");
        assert!(!matches!(fault, HeaderFault::Version(_)), "bit {bit} looks like a version");
    }
}

fn frame_header(kind: Kind) -> FrameHeader {
    let events = if kind == Kind::Records { 3 } else { 0 };
    FrameHeader {
        length: if kind == Kind::Records { 188 } else { 88 },
        offset: 1024,
        first_position: 10,
        witness: 9,
        group_offset: 1024,
        event_count: events,
        record_count: u16::try_from(events).unwrap(),
        kind,
        is_last: true,
        payload_checksum: 77,
        chain: [3; 32],
    }
}

#[test]
fn no_bit_of_a_frame_header_can_change() {
    let tie = Tie::new(&LOG_ID, 3);
    for kind in [Kind::Records, Kind::Witness, Kind::Seal, Kind::Stop] {
        let header = frame_header(kind).encode(tie);
        assert_eq!(FrameHeader::decode(&header, tie, 1024), Ok(frame_header(kind)));
        for bit in 0..header.len() * 8 {
            let mut flipped = header;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&flipped, tie, 1024).is_err(), "bit {bit} of {kind:?}");
        }
    }
}

#[test]
fn a_frame_is_valid_in_its_log_its_segment_and_its_place_only() {
    let tie = Tie::new(&LOG_ID, 3);
    let header = frame_header(Kind::Records).encode(tie);
    let mut other_log = LOG_ID;
    other_log[0] ^= 1;
    assert!(FrameHeader::decode(&header, Tie::new(&other_log, 3), 1024).is_err());
    assert!(FrameHeader::decode(&header, Tie::new(&LOG_ID, 4), 1024).is_err());
    assert!(FrameHeader::decode(&header, tie, 1536).is_err());
}

#[test]
fn a_header_with_impossible_fields_is_refused_although_its_checksum_is_right() {
    let tie = Tie::new(&LOG_ID, 3);
    let records = || frame_header(Kind::Records);
    let witness = || frame_header(Kind::Witness);
    let impossible = [
        FrameHeader { length: 87, ..records() },
        FrameHeader { length: 88 + 32 * 1024 + 1, ..records() },
        FrameHeader { length: u32::MAX, ..records() },
        FrameHeader { event_count: 0, ..records() },
        FrameHeader { record_count: 0, ..records() },
        FrameHeader { first_position: 0, ..records() },
        FrameHeader { group_offset: 1536, ..records() },
        FrameHeader { length: 96, ..witness() },
        FrameHeader { is_last: false, ..witness() },
        FrameHeader { group_offset: 512, ..witness() },
        FrameHeader { event_count: 1, ..witness() },
    ];
    for header in impossible {
        let bytes = header.encode(tie);
        assert!(FrameHeader::decode(&bytes, tie, 1024).is_err(), "{header:?}");
    }
}

proptest! {
    #[test]
    fn segment_headers_come_back(
        format in 1..=FORMAT_VERSION,
        log_id: [u8; 16],
        number: u64,
        first_position: u64,
        length: u64,
        created_micros: i64,
        chain_before: [u8; 32],
    ) {
        let header = SegmentHeader {
            format,
            log_id,
            number,
            first_position,
            length,
            created_micros,
            chain_before,
        };
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    /// Whatever is accepted is encoded to the same bytes: there is one way to say each thing.
    #[test]
    fn frame_headers_are_canonical(
        mut bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES),
        payload in 0..40_000_u32,
        kind in 0..6_u8,
        flags in 0..3_u8,
    ) {
        let tie = Tie::new(&LOG_ID, 1);
        bytes[..4].copy_from_slice(&(88 + payload).to_le_bytes());
        bytes[8..16].copy_from_slice(&512_u64.to_le_bytes());
        bytes[32..40].copy_from_slice(&512_u64.to_le_bytes());
        bytes[46] = kind;
        bytes[47] = flags;
        bytes[52..56].copy_from_slice(&[0; 4]);
        // The checksum is computed here as the format's text says, not by the encoder.
        let mut covered = LOG_ID.to_vec();
        covered.extend_from_slice(&1_u64.to_le_bytes());
        covered.extend_from_slice(&bytes[..4]);
        covered.extend_from_slice(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
        let bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
        let decoded = FrameHeader::decode(&bytes, tie, 512);
        prop_assert_eq!(decoded.is_ok(), kind == 1 && flags < 2 && payload <= 32 * 1024);
        if let Ok(header) = decoded {
            prop_assert_eq!(header.encode(tie), bytes);
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_stumble(
        bytes in proptest::collection::vec(any::<u8>(), segment::HEADER_BYTES),
        offset: u64,
    ) {
        let sector: [u8; segment::HEADER_BYTES] = bytes.try_into().unwrap();
        prop_assert!(SegmentHeader::decode(&sector).is_err());
        let header = sector.first_chunk().unwrap();
        prop_assert!(FrameHeader::decode(header, Tie::new(&LOG_ID, 1), offset).is_err());
    }
}
