//! The scrub: reads the sealed segments again while the log is used, so that rot in what nobody
//! reads is found while there is a backup from before. It changes nothing.

use std::io;
use std::sync::Arc;

use crate::log::{self, Damage};

use super::OpenError;
use super::catalog::{Entry, open_file};
use super::disk::Disk;
use super::reader::Shared;
use super::scan::{Alone, Tail, scan_segment};
use super::segment::file_name;

/// Verifies one sealed segment after another.
pub struct Scrubber {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    /// The segment that comes next.
    next: u64,
}

impl Scrubber {
    pub(super) fn new(disk: Arc<dyn Disk>, shared: Arc<Shared>, next: u64) -> Self {
        Self { disk, shared, next }
    }

    /// Verifies the next sealed segment, every byte and that the one after it continues it.
    fn verify_next(&mut self, pace: &mut dyn FnMut(u64)) -> Result<bool, OpenError> {
        if self.shared.newest_segment().is_none_or(|newest| self.next >= newest) {
            return Ok(false);
        }
        let number = self.next;
        // Not what the kernel remembers: what is on the medium.
        open_file(&*self.disk, &file_name(number))?.forget(0);
        let entry = Entry::read(&*self.disk, number)?;
        let after = Entry::read(&*self.disk, number.saturating_add(1))?;
        let (log_id, name) = (self.shared.id(), file_name(number));
        let alone = Alone { log_id, name: &name, entry: &entry, is_last: false, until: u64::MAX };
        let scanned = scan_segment(&*self.disk, &alone, pace)?;
        let joint = scanned.joint;
        let continues = after.header.is_ok_and(|header| {
            (header.first_position, header.chain_before) == (joint.next_position, joint.chain)
        });
        let damage = match scanned.tail {
            Tail::Damaged(damage) => Some(damage),
            Tail::Whole | Tail::Torn(_) => (!continues).then(|| Damage {
                file: file_name(after.number),
                offset: 0,
                position: joint.next_position,
                what: "the segment does not continue the one before it".to_owned(),
            }),
        };
        let first_position = entry.header.map_or(0, |header| header.first_position);
        self.shared.note_scrubbed(first_position, joint.position(), damage);
        self.next = number.saturating_add(1);
        Ok(true)
    }
}

impl log::Scrubber for Scrubber {
    fn restart(&mut self) {
        self.next = 1;
    }

    fn step(&mut self, pace: &mut dyn FnMut(u64)) -> io::Result<bool> {
        self.verify_next(pace).map_err(io::Error::other)
    }
}
