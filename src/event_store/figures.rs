//! Figures: what the store counts while it works.

use std::time::Duration;

use crate::ops::{Gauge, Histogram};

/// How many commands a group may have, in powers of four: one of each call, to what the mailbox
/// holds.
const GROUP_COMMANDS: &[u64] = &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536];
/// How long the log may take for a group, in nanoseconds: from what memory takes, by what disks
/// take, to what makes callers give up.
const APPEND_NANOS: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// What the store counts. Whoever holds it sees it change.
#[derive(Debug)]
pub struct Figures {
    /// How many commands the groups had that were answered, with or without records.
    pub group_commands: Histogram,
    /// How long the log took to write and to sync each group with records, in nanoseconds.
    pub append_nanos: Histogram,
    /// The newest position that was decided; it may not be durable yet, and never be.
    pub decided: Gauge,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            group_commands: Histogram::new(GROUP_COMMANDS),
            append_nanos: Histogram::new(APPEND_NANOS),
            decided: Gauge::default(),
        }
    }
}

/// A duration as the figures have it.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
