//! Groups and frames: what a segment holds after its header.
//!
//! # A group, version 1
//! What is written and synced at once: one or more frames, from the start of a sector on, filled
//! up with zeros to the end of its last sector. So the write of a group never touches a sector
//! that holds anything acknowledged, and a torn write damages the group alone. Each frame begins
//! at a multiple of 8 bytes. The bytes between frames and after the last one carry nothing and
//! are not read.
//!
//! The writer has one group in flight: it begins a group after the sync of the one before has
//! returned. A valid frame of a later group thus proves that all groups before it were durable.
//! It says so itself, too: its *witness* is the newest position that was durable then.
//!
//! # A frame, version 1
//! A header of 88 bytes, then the payload. Integers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | length of the frame, header included, u32; 0 where the log ends |
//! | 4..8 | CRC-32C of log id, segment number (u64), bytes 0..4 and bytes 8..88 |
//! | 8..16 | offset of this frame in its file, u64 |
//! | 16..24 | position of its first event, or of the next event if it has none, u64 |
//! | 24..32 | the witness, u64: the position before the group |
//! | 32..40 | offset of the group's first frame in its file, u64 |
//! | 40..44 | number of events, u32 |
//! | 44..46 | number of records, u16 |
//! | 46 | kind: 1 records, 2 witness, 3 seal, 4 stop |
//! | 47 | flags: bit 0 says that the frame is the last of its group; the others are zero |
//! | 48..52 | CRC-32C of the payload |
//! | 52..56 | zero |
//! | 56..88 | hash of the chain including this frame |
//!
//! The payload of *records* is a block: for each record its length (u16), how many events it has
//! (u16), and its bytes; at most 32 KiB in all, of which 8 are used now. The other kinds have no
//! payload, are alone in their group and leave the chain as it is. A *witness* is written by an
//! idle writer, so that its last group does not stay unwitnessed. A *seal* ends a segment: nothing
//! follows it in its file. A *stop* says that the log was closed in order.
//!
//! Log id, segment number and offset are in the checksum: a frame that was moved, misdirected,
//! copied from another log, or left over from another use of the same blocks is not valid.

use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};

use crate::log::block::{BLOCK_BYTES_MAX, put_block};
use crate::log::{Block, ChainHash, FORMAT_VERSION, Group, LogId, chain};

use super::bytes::{Put, Take, align, narrow, wide};
use super::segment::SECTOR_BYTES;

/// How many bytes of a frame come before its payload.
pub(super) const HEADER_BYTES: usize = 88;

/// The largest payload that is read. Blocks were as large once, and their logs stay readable.
pub(super) const PAYLOAD_BYTES_MAX: usize = 32 * 1024;

/// The largest frame: bounds what is allocated before a checksum has been seen.
pub(super) const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

/// The largest frame that is written now.
pub(super) const WRITTEN_BYTES_MAX: usize = HEADER_BYTES + BLOCK_BYTES_MAX;

/// Where frames of a group may begin.
const ALIGNMENT: u64 = 8;

const LAST_OF_GROUP: u8 = 1;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Records,
    Witness,
    Seal,
    Stop,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Records => 1,
            Self::Witness => 2,
            Self::Seal => 3,
            Self::Stop => 4,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Records, Self::Witness, Self::Seal, Self::Stop]
            .into_iter()
            .find(|k| k.code() == code)
    }
}

/// What ties a frame to its segment: the checksum of log id and segment number, which that of
/// each header goes on from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tie(u32);

impl Tie {
    pub(super) fn new(log_id: &LogId, segment: u64) -> Self {
        Self(crc32c_append(crc32c(log_id), &segment.to_le_bytes()))
    }

    fn checksum(self, length: [u8; 4], rest: &[u8]) -> u32 {
        crc32c_append(crc32c_append(self.0, &length), rest)
    }
}

/// The header of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) length: u32,
    pub(super) offset: u64,
    pub(super) first_position: u64,
    pub(super) witness: u64,
    pub(super) group_offset: u64,
    pub(super) event_count: u32,
    pub(super) record_count: u16,
    pub(super) kind: Kind,
    pub(super) is_last: bool,
    pub(super) payload_checksum: u32,
    pub(super) chain: ChainHash,
}

/// Why bytes are not the frame that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameFault {
    #[error("there is no frame")]
    Absent,
    #[error("the file ends within a frame")]
    EndOfFile,
    #[error("the frame's header does not match its checksum")]
    HeaderChecksum,
    #[error("the frame's header has a field that no frame has")]
    HeaderField,
    #[error("the frame's header tells another place")]
    Place,
    #[error("the frame's positions do not follow those before it")]
    Positions,
    #[error("the frame's payload does not match its checksum")]
    PayloadChecksum,
    #[error("the frame's records are not as its header tells")]
    Records,
    #[error("the hash chain is broken")]
    Chain,
    #[error("there are bytes after the end of the log")]
    AfterEnd,
}

impl FrameHeader {
    pub(super) fn encode(&self, tie: Tie) -> [u8; HEADER_BYTES] {
        let length = self.length.to_le_bytes();
        let mut rest = [0; HEADER_BYTES - 8];
        let mut put = Put(&mut rest);
        put.field(self.offset.to_le_bytes());
        put.field(self.first_position.to_le_bytes());
        put.field(self.witness.to_le_bytes());
        put.field(self.group_offset.to_le_bytes());
        put.field(self.event_count.to_le_bytes());
        put.field(self.record_count.to_le_bytes());
        put.field([self.kind.code(), if self.is_last { LAST_OF_GROUP } else { 0 }]);
        put.field(self.payload_checksum.to_le_bytes());
        put.field([0; 4]);
        put.field(self.chain);
        let mut header = [0; HEADER_BYTES];
        let mut put = Put(&mut header);
        put.field(length);
        put.field(tie.checksum(length, &rest).to_le_bytes());
        put.field(rest);
        header
    }

    /// Reads a header that is said to be at `offset`. A valid one has a length that no payload
    /// and no file limit is exceeded by, and tells of a place inside its group.
    pub(super) fn decode(
        header: &[u8; HEADER_BYTES],
        tie: Tie,
        offset: u64,
    ) -> Result<Self, FrameFault> {
        let mut take = Take(header);
        let length = take.field();
        let checksum = take.u32();
        if length == [0; 4] {
            return Err(FrameFault::Absent);
        }
        if checksum != tie.checksum(length, take.0) {
            return Err(FrameFault::HeaderChecksum);
        }
        let length = u32::from_le_bytes(length);
        let told_offset = take.u64();
        let first_position = take.u64();
        let witness = take.u64();
        let group_offset = take.u64();
        let event_count = take.u32();
        let record_count = u16::from_le_bytes(take.field());
        let [kind, flags] = take.field();
        let payload_checksum = take.u32();
        let reserved = take.u32();
        let kind = Kind::of(kind).ok_or(FrameFault::HeaderField)?;
        let header = Self {
            length,
            offset: told_offset,
            first_position,
            witness,
            group_offset,
            event_count,
            record_count,
            kind,
            is_last: flags == LAST_OF_GROUP,
            payload_checksum,
            chain: take.field(),
        };
        if flags > LAST_OF_GROUP || reserved != 0 || !header.is_sound() {
            return Err(FrameFault::HeaderField);
        }
        if told_offset != offset || group_offset > offset {
            return Err(FrameFault::Place);
        }
        Ok(header)
    }

    /// Whether the fields agree with each other and with the limits.
    fn is_sound(&self) -> bool {
        let payload = u64::from(self.length).checked_sub(wide(HEADER_BYTES));
        let bounded = payload.is_some_and(|bytes| bytes <= wide(PAYLOAD_BYTES_MAX));
        let counted = match self.kind {
            Kind::Records => self.event_count > 0 && self.record_count > 0,
            Kind::Witness | Kind::Seal | Kind::Stop => {
                let alone = self.is_last && self.group_offset == self.offset;
                alone && payload == Some(0) && self.event_count == 0 && self.record_count == 0
            }
        };
        bounded && counted && self.first_position > 0
    }

    /// How many bytes the payload has.
    pub(super) fn payload_bytes(&self) -> usize {
        narrow(u64::from(self.length)).saturating_sub(HEADER_BYTES)
    }

    /// The position after its last event.
    pub(super) fn next_position(&self) -> u64 {
        self.first_position.saturating_add(u64::from(self.event_count))
    }

    /// Where the next frame begins, or the next group if this is the last frame of its group.
    pub(super) fn next_offset(&self) -> u64 {
        let end = self.offset.saturating_add(u64::from(self.length));
        align(end, if self.is_last { SECTOR_BYTES } else { ALIGNMENT })
    }

    /// Whether a payload has the checksum that the header tells.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        crc32c(payload) == self.payload_checksum
    }

    /// Takes the payload, if it is the one that the header tells of. The chain is not looked at.
    /// `format` is that of the segment.
    pub(super) fn block(&self, format: u32, payload: &[u8]) -> Result<Arc<Block>, FrameFault> {
        if !self.matches(payload) {
            return Err(FrameFault::PayloadChecksum);
        }
        self.parse(format, payload)
    }

    /// Takes a payload whose checksum is known to match.
    fn parse(&self, format: u32, payload: &[u8]) -> Result<Arc<Block>, FrameFault> {
        Block::parse(format, self.first_position, self.event_count, payload.to_vec())
            .filter(|block| block.records().count() == usize::from(self.record_count))
            .map(Arc::new)
            .ok_or(FrameFault::Records)
    }
}

/// The log as it is where a group begins: what the group has to continue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joint {
    /// The position of the next event.
    pub(super) next_position: u64,
    /// The chain of everything before.
    pub(super) chain: ChainHash,
}

impl Joint {
    /// The newest position before.
    pub(super) fn position(&self) -> u64 {
        self.next_position.saturating_sub(1)
    }
}

/// A block, and where its frame begins.
pub(super) struct Placed {
    pub(super) offset: u64,
    pub(super) block: Arc<Block>,
    /// The chain including it.
    pub(super) chain: ChainHash,
}

/// Encodes one group for one place. New records go into segments of the newest format only.
pub(super) struct Encoder<'a> {
    /// Receives the bytes; they begin at `offset` of the file.
    pub(super) buffer: &'a mut Vec<u8>,
    pub(super) tie: Tie,
    pub(super) offset: u64,
    pub(super) joint: Joint,
}

impl Encoder<'_> {
    /// Encodes a group of records. Returns its blocks; nothing of the log's state has changed.
    pub(super) fn records(self, group: &Group) -> Vec<Placed> {
        let Self { buffer, tie, offset: group_offset, joint } = self;
        buffer.clear();
        let (mut records, mut blocks) = (group.records().peekable(), Vec::new());
        let Joint { mut next_position, mut chain } = joint;
        while records.peek().is_some() {
            let start = narrow(align(wide(buffer.len()), ALIGNMENT));
            let payload_start = start.saturating_add(HEADER_BYTES);
            buffer.resize(payload_start, 0);
            let counts = put_block(buffer, &mut records);
            let payload = buffer.get(payload_start..).unwrap_or_default();
            chain = chain::extend(&chain, payload);
            let header = FrameHeader {
                length: frame_length(payload.len()),
                offset: group_offset.saturating_add(wide(start)),
                first_position: next_position,
                witness: joint.position(),
                group_offset,
                event_count: counts.event_count,
                record_count: counts.record_count,
                kind: Kind::Records,
                is_last: records.peek().is_none(),
                payload_checksum: crc32c(payload),
                chain,
            };
            let Ok(block) = header.parse(FORMAT_VERSION, payload) else {
                unreachable!("a payload that was just written is a block")
            };
            next_position = header.next_position();
            blocks.push(Placed { offset: header.offset, block, chain });
            let slot = buffer.get_mut(start..payload_start).unwrap_or_default();
            slot.copy_from_slice(&header.encode(tie));
        }
        fill_sector(buffer);
        blocks
    }

    /// Encodes a group of one block that there is already, of [`PAYLOAD_BYTES_MAX`] at most, for a
    /// segment of its format. Gives the log after it.
    pub(super) fn block(self, block: &Block) -> Joint {
        let payload = block.payload();
        let next_position = block.last_position().saturating_add(1);
        let events = next_position.saturating_sub(block.first_position());
        let header = FrameHeader {
            length: frame_length(payload.len()),
            offset: self.offset,
            first_position: block.first_position(),
            witness: self.joint.position(),
            group_offset: self.offset,
            event_count: u32::try_from(events).unwrap_or(u32::MAX),
            record_count: u16::try_from(block.records().count()).unwrap_or(u16::MAX),
            kind: Kind::Records,
            is_last: true,
            payload_checksum: crc32c(payload),
            chain: chain::extend(&self.joint.chain, payload),
        };
        self.buffer.clear();
        self.buffer.extend_from_slice(&header.encode(self.tie));
        self.buffer.extend_from_slice(payload);
        fill_sector(self.buffer);
        Joint { next_position, chain: header.chain }
    }

    /// Encodes a group of one frame without records.
    pub(super) fn mark(self, kind: Kind) {
        let header = FrameHeader {
            length: frame_length(0),
            offset: self.offset,
            first_position: self.joint.next_position,
            witness: self.joint.position(),
            group_offset: self.offset,
            event_count: 0,
            record_count: 0,
            kind,
            is_last: true,
            payload_checksum: 0,
            chain: self.joint.chain,
        };
        self.buffer.clear();
        self.buffer.extend_from_slice(&header.encode(self.tie));
        fill_sector(self.buffer);
    }
}

fn frame_length(payload_bytes: usize) -> u32 {
    let Ok(length) = u32::try_from(HEADER_BYTES.saturating_add(payload_bytes)) else {
        unreachable!("a frame has at most {FRAME_BYTES_MAX} bytes")
    };
    length
}

fn fill_sector(buffer: &mut Vec<u8>) {
    buffer.resize(narrow(align(wide(buffer.len()), SECTOR_BYTES)), 0);
}

/// How many bytes of a file a group of records of `byte_count` bytes takes at most. A record
/// fits twice in a block, so two blocks together are always more than one block could hold.
pub(super) fn group_bytes_bound(byte_count: u64) -> u64 {
    let half = wide(BLOCK_BYTES_MAX) / 2;
    let frames = byte_count.div_ceil(half).saturating_add(1);
    let headers = frames.saturating_mul(wide(HEADER_BYTES).saturating_add(ALIGNMENT));
    align(byte_count.saturating_add(headers), SECTOR_BYTES)
}
