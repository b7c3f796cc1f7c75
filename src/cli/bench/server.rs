//! What the server costs, when it runs on this machine: by what Linux tells of its process.

use std::{fs, io};

/// How many ticks of its CPU time Linux counts in a second (`USER_HZ`, the same on every machine).
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// CPU time, in milliseconds.
    pub(super) cpu_millis: u64,
    /// Memory that it has now, in KiB.
    pub(super) resident_kib: u64,
    /// Memory that it has had at most, in KiB.
    pub(super) peak_kib: u64,
}

impl Usage {
    /// Of the process with this id.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        // The name of the command is in parentheses and may have blanks; CPU times are the
        // twelfth and the thirteenth field after it.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Self {
            cpu_millis: ticks.saturating_mul(1_000) / TICKS_PER_SECOND,
            resident_kib: kib(&status, "VmRSS:"),
            peak_kib: kib(&status, "VmHWM:"),
        })
    }
}

fn kib(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
