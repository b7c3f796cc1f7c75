//! Changes to the bytes of a file, as rot, a torn write, a lost one or a misdirected one make them.

use arbitrary::Arbitrary;

/// The unit that misdirected writes come in.
const SECTOR: usize = 512;

/// One change. Places are taken modulo what there is, so that each one hits something.
#[derive(Arbitrary, Clone, Debug)]
pub enum Change {
    /// One bit is another one.
    Flip(u16, u8),
    /// Some bytes are others.
    Write(u16, Box<[u8]>),
    /// A number is another one, by so much.
    Add(u16, i8),
    /// Some bytes are zero.
    Zero(u16, u16),
    /// The file ends early.
    Truncate(u16),
    /// The file goes on, with so many bytes of one value.
    Grow(u16, u8),
    /// Some bytes are those of another place.
    Copy {
        /// Where they are from.
        from: u16,
        /// Where they go.
        to: u16,
        /// How many.
        count: u16,
    },
    /// A sector is that of another place.
    CopySector(u8, u8),
    /// A sector and all after it come once more.
    Duplicate(u8),
}

impl Change {
    /// Makes the change.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, bit) => {
                let at = place(*at, bytes);
                bytes[at] ^= 1 << (bit % 8);
            }
            Self::Write(at, written) => {
                let at = place(*at, bytes);
                let count = written.len().min(bytes.len() - at);
                bytes[at..at + count].copy_from_slice(&written[..count]);
            }
            Self::Add(at, by) => {
                let at = place(*at, bytes);
                bytes[at] = bytes[at].wrapping_add_signed(*by);
            }
            Self::Zero(at, count) => {
                let at = place(*at, bytes);
                let end = bytes.len().min(at + usize::from(*count));
                bytes[at..end].fill(0);
            }
            Self::Truncate(at) => bytes.truncate(place(*at, bytes)),
            Self::Grow(count, value) => bytes.resize(bytes.len() + usize::from(*count), *value),
            Self::Copy { from, to, count } => {
                let (from, to) = (place(*from, bytes), place(*to, bytes));
                copy(bytes, from, to, usize::from(*count));
            }
            Self::CopySector(from, to) => {
                let (from, to) = (sector(*from, bytes), sector(*to, bytes));
                copy(bytes, from, to, SECTOR);
            }
            Self::Duplicate(at) => {
                let at = sector(*at, bytes);
                let end = bytes.len().min(at + SECTOR);
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

fn copy(bytes: &mut [u8], from: usize, to: usize, count: usize) {
    let count = count.min(bytes.len() - from).min(bytes.len() - to);
    bytes.copy_within(from..from + count, to);
}

fn place(at: u16, bytes: &[u8]) -> usize {
    usize::from(at) % bytes.len()
}

fn sector(number: u8, bytes: &[u8]) -> usize {
    usize::from(number) % bytes.len().div_ceil(SECTOR) * SECTOR
}

/// Makes the checksum of a sector match again that stands in its bytes 12 to 16, as in the headers
/// of segments and checkpoints.
pub fn fix_header(bytes: &mut [u8]) {
    let Some(header) = bytes.get_mut(..SECTOR) else { return };
    header[12..16].fill(0);
    let checksum = crc32c::crc32c(header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
}

/// Makes the checksum of a copied group match again, which covers the whole file.
pub fn fix_copy(bytes: &mut [u8]) {
    if bytes.len() < SECTOR {
        return;
    }
    bytes[12..16].fill(0);
    let checksum = crc32c::crc32c(bytes);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
}

/// Makes the checksums of a checkpoint match again: that of its header, and those of its pieces,
/// as far as their lengths make sense.
pub fn fix_checkpoint(bytes: &mut [u8]) {
    const PIECE_HEADER: usize = 8;
    fix_header(bytes);
    let Some(header) = bytes.get(..SECTOR) else { return };
    let seed = crc32c::crc32c(header).to_le_bytes();
    let (mut at, mut number) = (SECTOR, 0_u64);
    while let Some(length) = number_at(bytes, at) {
        let end = at + PIECE_HEADER + length;
        let Some(piece) = bytes.get(at + PIECE_HEADER..end) else { return };
        let mut checksum = crc32c::crc32c(&seed);
        for part in [&number.to_le_bytes(), &bytes[at..at + 4], piece] {
            checksum = crc32c::crc32c_append(checksum, part);
        }
        bytes[at + 4..at + PIECE_HEADER].copy_from_slice(&checksum.to_le_bytes());
        (at, number) = (end, number + 1);
    }
}

/// Makes the checksums of every frame in a segment match again that begins at a sector, as far as
/// its length makes sense.
pub fn fix_frames(bytes: &mut [u8], log_id: &[u8], segment: u64) {
    const FRAME_HEADER: usize = 88;
    let tie = crc32c::crc32c_append(crc32c::crc32c(log_id), &segment.to_le_bytes());
    for at in (SECTOR..bytes.len()).step_by(SECTOR) {
        let Some(length) = number_at(bytes, at) else { return };
        let Some(payload) = bytes.get(at + FRAME_HEADER..at + length) else { continue };
        let checksum = crc32c::crc32c(payload);
        bytes[at + 48..at + 52].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32c::crc32c_append(tie, &bytes[at..at + 4]);
        let checksum = crc32c::crc32c_append(checksum, &bytes[at + 8..at + FRAME_HEADER]);
        bytes[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The little-endian u32 at a place.
fn number_at(bytes: &[u8], at: usize) -> Option<usize> {
    let (number, _) = bytes.get(at..)?.split_first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*number)).ok()
}
