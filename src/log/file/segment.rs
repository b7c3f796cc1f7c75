//! A segment: one file of the log, and the header it begins with.
//!
//! # The header, versions 1 and 2
//! It is the first sector (512 bytes) of the file. Integers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | magic: `DAYBOOK` and a zero byte |
//! | 8..12 | format version, u32: 1 or 2 |
//! | 12..16 | CRC-32C of the sector, these four bytes taken as zero |
//! | 16..32 | log id |
//! | 32..40 | segment number, u64, from 1 |
//! | 40..48 | first position, u64: that of the first event after this header |
//! | 48..56 | length of the file in bytes, u64, a multiple of 512 |
//! | 56..64 | when it was made, i64, microseconds since 1970; information only |
//! | 64..96 | hash of the chain before this segment |
//! | 96..512 | zero |
//!
//! The first sixteen bytes, and the extent of the checksum, are the same in every version: a
//! reader can tell a newer format, which it refuses and leaves alone, from a damaged header.
//!
//! # Versions
//! All bytes that the log itself gives meaning are the same in version 2 as in version 1. What is
//! new is what records may say: they may name a principal, see the codec of the event store. A
//! program that knows version 1 only would call such a record damage; so it stands in a segment
//! whose version such a program refuses. Segments of version 1 are read for ever, and may be
//! marked, stopped and sealed; new records are added to segments of the newest version only. Those
//! that another engine has kept come back into segments of the version that they were written in.
//!
//! # How a segment is made
//! The file is filled with zeros to its full length under the name [`SPARE_FILE`] and synced, so
//! no group ever waits for the file system to find space, and no length in it is ahead of the
//! file's own. When its turn comes the header is written and synced, the file gets its final name,
//! and the directory is synced; only then is a group written to it. So a file with a final name
//! has a durable header and its full length whatever happened, and anything else is damage.

use std::ops::RangeInclusive;

use crate::log::{ChainHash, FORMAT_VERSION, LogId};

use super::bytes::{Put, Take};

/// What a disk writes at once: whole, not at all, or as garbage, but never beside the sector.
pub(super) const SECTOR_BYTES: u64 = 512;

/// A header takes one sector, so it is never half there.
pub(super) const HEADER_BYTES: usize = 512;

/// The name of a segment in the making.
pub const SPARE_FILE: &str = "spare.tmp";

/// The formats that this code reads.
pub(super) const FORMATS: RangeInclusive<u32> = 1..=FORMAT_VERSION;

const MAGIC: [u8; 8] = *b"DAYBOOK\0";

/// How many digits the number in a file name has: as many as a u64 can have.
const NAME_DIGITS: usize = 20;

const NAME_SUFFIX: &str = ".seg";

/// The name of the file of a segment. Names sort as numbers do.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:0NAME_DIGITS$}{NAME_SUFFIX}")
}

/// The number of the segment in a file of that name, if it is the name of one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(NAME_SUFFIX)?;
    let plain = digits.len() == NAME_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The version of the format that its records are in.
    pub(super) format: u32,
    pub(super) log_id: LogId,
    pub(super) number: u64,
    pub(super) first_position: u64,
    pub(super) length: u64,
    pub(super) created_micros: i64,
    pub(super) chain_before: ChainHash,
}

/// Why a sector is no header that this code understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderFault {
    #[error("the file is shorter than its header")]
    Short,
    #[error("the header does not begin as one")]
    Magic,
    #[error("the header does not match its checksum")]
    Checksum,
    #[error("the header is of format version {0}")]
    Version(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut sector = [0; HEADER_BYTES];
        self.put(&mut sector, 0);
        let checksum = crc32c::crc32c(&sector);
        self.put(&mut sector, checksum);
        sector
    }

    fn put(&self, sector: &mut [u8; HEADER_BYTES], checksum: u32) {
        let mut put = Put(sector);
        put.field(MAGIC);
        put.field(self.format.to_le_bytes());
        put.field(checksum.to_le_bytes());
        put.field(self.log_id);
        put.field(self.number.to_le_bytes());
        put.field(self.first_position.to_le_bytes());
        put.field(self.length.to_le_bytes());
        put.field(self.created_micros.to_le_bytes());
        put.field(self.chain_before);
    }

    pub(super) fn decode(sector: &[u8; HEADER_BYTES]) -> Result<Self, HeaderFault> {
        let mut take = Take(sector);
        if take.field() != MAGIC {
            return Err(HeaderFault::Magic);
        }
        let format = take.field::<4>();
        let checksum = take.u32();
        let mut expected = crc32c::crc32c(&MAGIC);
        for part in [&format[..], &[0; 4], take.0] {
            expected = crc32c::crc32c_append(expected, part);
        }
        if checksum != expected {
            return Err(HeaderFault::Checksum);
        }
        let format = u32::from_le_bytes(format);
        if !FORMATS.contains(&format) {
            return Err(HeaderFault::Version(format));
        }
        Ok(Self {
            format,
            log_id: take.field(),
            number: take.u64(),
            first_position: take.u64(),
            length: take.u64(),
            created_micros: i64::from_le_bytes(take.field()),
            chain_before: take.field(),
        })
    }
}

/// Makes the segments of a directory those of a program that knew format version 1 only: the header
/// alone tells.
#[cfg(test)]
pub(crate) fn make_version_1(files: &mut std::collections::BTreeMap<String, Vec<u8>>) {
    for (name, file) in files {
        if number_of(name).is_some() {
            let sector = file.first_chunk_mut::<HEADER_BYTES>().expect("a header");
            let header = SegmentHeader::decode(sector).expect("a header that can be read");
            *sector = SegmentHeader { format: 1, ..header }.encode();
        }
    }
}
