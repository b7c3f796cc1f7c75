//! Writing the newest group over itself on start, with a copy beside it.
//!
//! A process whose sync failed leaves pages that the operating system shows to every reader but
//! may never store. So what is read on start must be written again before anything is built on
//! it. But a power cut can turn a sector that is being written into garbage, also when it is given
//! the bytes it has already, and the newest group may be an acknowledged one. Therefore a group of
//! records is copied to [`COPY_FILE`] first, the copy is synced and so is its entry, and it stays
//! until the group is durable and witnessed. A start that finds the group broken and a whole copy
//! puts it back. A witness, a stop or a seal needs no copy: nothing is lost with it.
//!
//! A copy that is there already may be the only good one: the start before may have died while it
//! wrote the group, and the power may go at any moment. So it is replaced, never removed before
//! the new one is durable.
//!
//! # The copy, version 1
//! One sector, then the bytes of the group. Integers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | magic: `DAYBCOPY` |
//! | 8..12 | format version, u32: 1 |
//! | 12..16 | CRC-32C of the whole file, these four bytes taken as zero |
//! | 16..32 | log id |
//! | 32..40 | number of the segment, u64 |
//! | 40..48 | offset of the group in it, u64 |
//! | 48..56 | length of the group, u64 |
//! | 56..512 | zero |

use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::log::LogId;

use super::bytes::{Put, Take, narrow, wide};
use super::catalog::Entry;
use super::disk::{Disk, DiskFile, read_up_to, write_all_at};
use super::frame::{FrameHeader, Kind, Tie};
use super::scan::{End, Newest};
use super::segment::file_name;

/// The name of the copy.
pub const COPY_FILE: &str = "newest.tmp";

/// The name of a copy in the making.
const DRAFT_FILE: &str = "newest.new";

const MAGIC: [u8; 8] = *b"DAYBCOPY";

/// The copy's own version. It is that of no segment: a copy that a program left which knew only
/// older segments may be the only good one of its group, and so may ours be for such a program.
const VERSION: u32 = 1;

const HEADER_BYTES: usize = 512;

/// A group, and where it belongs.
#[derive(Debug, PartialEq, Eq)]
struct Copy {
    log_id: LogId,
    segment: u64,
    offset: u64,
    group: Vec<u8>,
}

impl Copy {
    fn encode(&self) -> Vec<u8> {
        let mut file = vec![0; HEADER_BYTES];
        file.extend_from_slice(&self.group);
        self.put_header(&mut file, 0);
        let checksum = crc32c::crc32c(&file);
        self.put_header(&mut file, checksum);
        file
    }

    fn put_header(&self, file: &mut [u8], checksum: u32) {
        let mut put = Put(file);
        put.field(MAGIC);
        put.field(VERSION.to_le_bytes());
        put.field(checksum.to_le_bytes());
        put.field(self.log_id);
        put.field(self.segment.to_le_bytes());
        put.field(self.offset.to_le_bytes());
        put.field(wide(self.group.len()).to_le_bytes());
    }

    /// Takes a whole file, if it is a copy that was finished.
    fn decode(file: &[u8]) -> Option<Self> {
        let (header, group) = file.split_first_chunk::<HEADER_BYTES>()?;
        let mut take = Take(header);
        let is_known = take.field() == MAGIC && take.u32() == VERSION;
        // The checksum is compared by encoding again: there is one way to say each thing.
        let _checksum = take.u32();
        let copy = Self {
            log_id: take.field(),
            segment: take.u64(),
            offset: take.u64(),
            group: group.to_vec(),
        };
        (is_known && copy.encode() == file).then_some(copy)
    }

    /// Reads the copy, if there is one that was finished. None is longer than its segment.
    fn load(disk: &dyn Disk, segment_length: u64) -> io::Result<Option<Self>> {
        let file = match disk.open(COPY_FILE) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let length = file.length()?.min(segment_length);
        Ok(Self::decode(&read(&*file, 0, narrow(length))?))
    }

    /// Makes it durable, in the place of any other copy.
    fn save(&self, disk: &dyn Disk) -> io::Result<()> {
        remove_file(disk, DRAFT_FILE)?;
        let file = disk.create(DRAFT_FILE)?;
        write_all_at(&*file, &self.encode(), 0)?;
        file.sync_data()?;
        disk.rename(DRAFT_FILE, COPY_FILE)?;
        disk.sync_dir()
    }
}

/// Removes the copy, if there is one, for good.
pub(super) fn remove(disk: &dyn Disk) -> io::Result<()> {
    let had_draft = remove_file(disk, DRAFT_FILE)?;
    let had_copy = remove_file(disk, COPY_FILE)?;
    if had_draft || had_copy { disk.sync_dir() } else { Ok(()) }
}

fn remove_file(disk: &dyn Disk, name: &str) -> io::Result<bool> {
    match disk.remove(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A group that a start was writing again when it ended, and that is not whole now.
pub(super) struct Unfinished {
    file: Arc<dyn DiskFile>,
    copy: Copy,
}

impl Unfinished {
    /// Looks whether the log has such a group in its newest segment.
    pub(super) fn find(
        disk: &dyn Disk,
        log_id: &LogId,
        newest_segment: &Entry,
    ) -> io::Result<Option<Self>> {
        let segment = newest_segment.number;
        let copy = Copy::load(disk, newest_segment.length)?.filter(|copy| {
            let tie = Tie::new(log_id, segment);
            let is_here = copy.log_id == *log_id && copy.segment == segment;
            is_here && is_whole(&copy.group, tie, copy.offset)
        });
        let Some(copy) = copy else { return Ok(None) };
        let file = disk.open(&file_name(segment))?;
        let now = read(&*file, copy.offset, copy.group.len())?;
        // Less than that: the file is shorter, which no start has done.
        let is_unfinished = now.len() == copy.group.len() && now != copy.group;
        Ok(is_unfinished.then_some(Self { file, copy }))
    }

    /// Puts the group back. Durable when it returns.
    pub(super) fn put_back(&self) -> io::Result<()> {
        let Copy { segment, offset, group, .. } = &self.copy;
        tracing::warn!(segment, offset, bytes = group.len(), "putting the newest group back");
        write_all_at(&*self.file, group, *offset)?;
        self.file.sync_data()
    }
}

/// Writes the newest group over itself. Not durable before the file is synced.
pub(super) fn rewrite(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    log_id: LogId,
    newest: Newest,
    end: End,
) -> io::Result<()> {
    let length = narrow(end.offset.saturating_sub(newest.offset));
    let group = read(file, newest.offset, length)?;
    if group.len() < length || !is_whole(&group, Tie::new(&log_id, end.segment), newest.offset) {
        return Err(io::Error::other("the newest group reads differently from moment to moment"));
    }
    let copy = Copy { log_id, segment: end.segment, offset: newest.offset, group };
    if newest.kind == Kind::Records {
        match copy.save(disk) {
            // A full disk must not keep a log from starting.
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "no space to copy the newest group before it is rewritten");
                remove_file(disk, DRAFT_FILE)?;
            }
            saved => saved?,
        }
    }
    write_all_at(file, &copy.group, newest.offset)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn read(file: &dyn DiskFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let count = read_up_to(file, &mut bytes, offset)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Whether bytes are a whole group for this place, as far as a group tells by itself.
fn is_whole(group: &[u8], tie: Tie, start: u64) -> bool {
    let mut offset = start;
    loop {
        let from = narrow(offset.saturating_sub(start));
        let rest = group.get(from..).unwrap_or_default();
        let Some((header, rest)) = rest.split_first_chunk() else { return false };
        let Ok(header) = FrameHeader::decode(header, tie, offset) else { return false };
        let payload = rest.get(..header.payload_bytes());
        let is_intact = payload.is_some_and(|payload| header.matches(payload));
        if !is_intact || header.is_last {
            return is_intact && header.group_offset == start;
        }
        offset = header.next_offset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_finished_copy_is_taken() {
        let copy = Copy { log_id: [5; 16], segment: 3, offset: 1024, group: vec![7; 1024] };
        let file = copy.encode();
        assert_eq!(Copy::decode(&file), Some(copy));
        for length in 0..file.len() {
            assert_eq!(Copy::decode(&file[..length]), None, "{length} bytes of it");
        }
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Copy::decode(&flipped), None, "bit {bit} flipped");
        }
    }
}
