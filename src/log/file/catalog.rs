//! The catalog: which segments a directory has, and their headers. It is read before anything
//! else, so that a log of a newer format is left alone.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::log::{FORMAT_VERSION, LogId};

use super::bytes::wide;
use super::disk::{Disk, DiskFile, read_up_to};
use super::segment::{
    HEADER_BYTES, HeaderFault, SECTOR_BYTES, SegmentHeader, file_name, number_of,
};
use super::{OpenError, io_error};

/// The segments of a log, by number.
pub(super) struct Catalog {
    pub(super) entries: Vec<Entry>,
}

/// One segment that is there.
pub(super) struct Entry {
    pub(super) number: u64,
    /// How long its file is.
    pub(super) length: u64,
    pub(super) header: Result<SegmentHeader, HeaderFault>,
}

impl Catalog {
    /// The segments of a directory. Where it lists no more of them, it is believed only if there
    /// is no next one: what that has would be missing, and another one would take its name.
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, OpenError> {
        let mut found = None;
        loop {
            let catalog = Self::listed(disk)?;
            let next = catalog.entries.last().map_or(1, |last| last.number.saturating_add(1));
            let name = file_name(next);
            match disk.open(&name) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(catalog),
                Err(error) => return Err(io_error(&name, error)),
                // A log in use may have got it since it was listed.
                Ok(_) if found != Some(next) => found = Some(next),
                Ok(_) => {
                    let error = io::Error::other("it is there, and the directory does not list it");
                    return Err(io_error(&name, error));
                }
            }
        }
    }

    fn listed(disk: &dyn Disk) -> Result<Self, OpenError> {
        let names = disk.list().map_err(|e| io_error("listing the directory", e))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        let mut entries = Vec::with_capacity(numbers.len());
        for number in numbers {
            let entry = Entry::read(disk, number)?;
            if let Err(HeaderFault::Version(found)) = entry.header {
                let file = file_name(number);
                return Err(OpenError::UnknownVersion { file, found, supported: FORMAT_VERSION });
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The id that most headers tell: one foreign file among others is damage, wherever it is,
    /// and its records are not taken for those of the log. Without a header nothing will be read,
    /// and no id is needed.
    pub(super) fn log_id(&self) -> LogId {
        let mut counts: BTreeMap<LogId, usize> = BTreeMap::new();
        for header in self.entries.iter().filter_map(|entry| entry.header.as_ref().ok()) {
            let count = counts.entry(header.log_id).or_default();
            *count = count.saturating_add(1);
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(id, _)| id).unwrap_or_default()
    }

    /// How many bytes all files have.
    pub(super) fn byte_count(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.length))
    }
}

impl Entry {
    pub(super) fn read(disk: &dyn Disk, number: u64) -> Result<Self, OpenError> {
        Self::read_file(disk, &file_name(number), number)
    }

    /// The same of a file that may have another name.
    pub(super) fn read_file(disk: &dyn Disk, name: &str, number: u64) -> Result<Self, OpenError> {
        let file = open_file(disk, name)?;
        let mut sector = [0; HEADER_BYTES];
        let length = file.length().map_err(|error| io_error(name, error))?;
        let filled = read_up_to(&*file, &mut sector, 0).map_err(|error| io_error(name, error))?;
        let header = if filled < HEADER_BYTES {
            Err(HeaderFault::Short)
        } else {
            SegmentHeader::decode(&sector)
        };
        Ok(Self { number, length, header })
    }

    /// Whether the file has the length that its header tells, in whole sectors.
    pub(super) fn is_whole(&self) -> bool {
        let told = self.header.as_ref().map_or(0, |header| header.length);
        let in_sectors = told.checked_rem(SECTOR_BYTES) == Some(0) && told > wide(HEADER_BYTES);
        in_sectors && self.length == told
    }
}

pub(super) fn open_file(disk: &dyn Disk, name: &str) -> Result<Arc<dyn DiskFile>, OpenError> {
    disk.open(name).map_err(|error| io_error(name, error))
}
