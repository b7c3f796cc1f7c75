//! The process: what it takes of the machine, as `/proc` tells.

use std::{path::Path, time::Duration};

use procfs::process::{LimitValue, Process};

/// What the process takes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How long it has kept processors busy.
    pub cpu: Duration,
    /// How much memory it has, in bytes.
    pub resident_bytes: u64,
    /// How much address space it has, in bytes.
    pub virtual_bytes: u64,
    /// How many files it has open, connections among them.
    pub open_files: u64,
    /// How many files it may have open.
    pub open_files_max: u64,
    /// How many threads it has.
    pub threads: u64,
}

/// What this process takes now; None where `/proc` does not tell. Only what it has of the process
/// itself is read: a service manager may hide the rest. Blocks, though not on a disk.
#[must_use]
pub fn usage() -> Option<Usage> {
    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second();
    let limits = process.limits().ok()?;
    let open_files_max = match limits.max_open_files.soft_limit {
        LimitValue::Unlimited => u64::MAX,
        LimitValue::Value(files) => files,
    };
    Some(Usage {
        cpu: of_ticks(stat.utime.saturating_add(stat.stime), ticks),
        resident_bytes: stat.rss.saturating_mul(procfs::page_size()),
        virtual_bytes: stat.vsize,
        open_files: u64::try_from(process.fd_count().ok()?).unwrap_or(u64::MAX),
        open_files_max,
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
    })
}

fn of_ticks(ticks: u64, per_second: u64) -> Duration {
    let millis = ticks.saturating_mul(1_000).checked_div(per_second);
    Duration::from_millis(millis.unwrap_or(0))
}

/// How many bytes the file system of a directory has for this process; None where it does not tell.
/// Blocks, as long as its disk does.
#[must_use]
pub fn free_bytes(directory: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(directory).ok()?;
    space.f_bavail.checked_mul(space.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_told_as_it_is() {
        let usage = usage().unwrap();
        assert!((1 << 20..1 << 40).contains(&usage.resident_bytes), "{usage:?}");
        assert!(usage.virtual_bytes >= usage.resident_bytes, "{usage:?}");
        assert!((3..usage.open_files_max).contains(&usage.open_files), "{usage:?}");
        assert!(usage.threads >= 1, "{usage:?}");
    }

    #[test]
    fn open_files_are_counted() {
        let before = usage().unwrap().open_files;
        let files: Vec<_> = (0..40).map(|_| tempfile::tempfile().unwrap()).collect();
        assert!(usage().unwrap().open_files >= before.saturating_sub(20) + 20, "{before}");
        drop(files);
    }

    #[test]
    fn a_directory_has_room() {
        let directory = tempfile::tempdir().unwrap();
        assert!(free_bytes(directory.path()).unwrap() > 0);
        assert_eq!(free_bytes(Path::new("/no/such/directory")), None);
    }
}
