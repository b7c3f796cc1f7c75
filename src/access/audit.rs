//! The audit: one line of the log for each call that was denied, and no more than a disk can bear.

use std::{net::SocketAddr, sync::Mutex};

use tokio::time::Instant;
use tracing::{field::display, info};

use super::{bucket::Bucket, lock};
use crate::domain::Principal;

/// How many lines are written in a second of callers that are known, and as many of those that are
/// not, so that no stranger can hide what a principal was denied: a flood of denied calls is then
/// a few kilobytes a second, and its beginning is told in full.
const LINES_PER_SECOND: u32 = 20;

/// Tells of denied calls, under the target `daybook::audit`.
#[derive(Debug)]
pub struct Audit {
    of_known: Mutex<Lines>,
    of_strangers: Mutex<Lines>,
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// The other end of its connection.
    pub peer: Option<SocketAddr>,
    /// Where it came from before, as a server says that has passed it on. Anybody can say that, and
    /// nothing else than an address.
    pub passed_on_for: Option<SocketAddr>,
}

#[derive(Debug)]
struct Lines {
    bucket: Bucket,
    /// How many were left out since the last one.
    left_out: u64,
}

impl Audit {
    pub(super) fn new() -> Self {
        let lines = || {
            let bucket = Bucket::new(LINES_PER_SECOND, Instant::now());
            Mutex::new(Lines { bucket, left_out: 0 })
        };
        Self { of_known: lines(), of_strangers: lines() }
    }

    /// Tells that a call was denied, for what reason, and by what `cause` of that, which its caller
    /// is not told. `method` is one that the server knows, or `-`: no text that a stranger has
    /// chosen gets into the log.
    pub fn denied(
        &self,
        principal: Option<&Principal>,
        method: &'static str,
        origin: Origin,
        reason: &'static str,
        cause: Option<&'static str>,
    ) {
        let lines = if principal.is_some() { &self.of_known } else { &self.of_strangers };
        let Some(left_out) = lock(lines).add(Instant::now()) else { return };
        let principal = principal.map_or("-", Principal::as_str);
        let peer = origin.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let passed_on_for = origin.passed_on_for.map(display);
        info!(
            target: "daybook::audit",
            principal, method, peer, passed_on_for, reason, cause, left_out,
            "denied"
        );
    }

    /// Tells how many lines were left out, if some were and there is room for one again.
    pub(super) fn settle(&self) {
        for lines in self.each() {
            let room = lock(lines).room(Instant::now());
            tell_left_out(room.unwrap_or(0));
        }
    }

    fn each(&self) -> [&Mutex<Lines>; 2] {
        [&self.of_known, &self.of_strangers]
    }
}

/// Whatever was left out last is told at the end, room or not.
impl Drop for Audit {
    fn drop(&mut self) {
        for lines in self.each() {
            tell_left_out(lock(lines).left_out);
        }
    }
}

fn tell_left_out(left_out: u64) {
    if left_out > 0 {
        info!(target: "daybook::audit", left_out, "denied calls that were not told");
    }
}

impl Lines {
    /// As [`Lines::room`], for a call that is left out if there is none.
    fn add(&mut self, now: Instant) -> Option<u64> {
        let room = self.room(now);
        if room.is_none() {
            self.left_out = self.left_out.saturating_add(1);
        }
        room
    }

    /// How many were left out before a line for which there is room, if there is.
    fn room(&mut self, now: Instant) -> Option<u64> {
        self.bucket.take(now).ok()?;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_told_by_its_number() {
        let audit = Audit::new();
        let now = Instant::now() + Duration::from_secs(1);
        let mut lines = lock(&audit.of_strangers);
        let told = (0..1_000).filter(|_| lines.add(now) == Some(0)).count();
        assert_eq!(told, 20);
        assert_eq!(lines.room(now), None, "to ask is not to leave one out");
        let later = now + Duration::from_millis(50);
        assert_eq!(lines.add(later), Some(980), "none is forgotten");
        assert_eq!((lines.add(later), lines.left_out), (None, 1));
        let known = (0..1_000).filter(|_| lock(&audit.of_known).add(now) == Some(0)).count();
        assert_eq!(known, 20, "strangers do not take their lines");
    }
}
