//! Remembered request ids: since when they are, for whoever has to know how late a repeat may come.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::{event_store::History, ops::exposition::Page};

/// By what share of the window what is told may be too late: it is looked up again after so much.
const SHARE: u64 = 64;

/// Looks up when the oldest event was recorded whose request id is remembered.
#[derive(Debug)]
pub(super) struct Remembered {
    /// Of how many of the newest events they are.
    window: u64,
    /// The position that was looked up last, and its time.
    seen: Mutex<Option<(u64, i64)>>,
}

impl Remembered {
    pub(super) fn new(window: u64) -> Self {
        Self { window, seen: Mutex::default() }
    }

    /// Puts that on the page. Reads from the log now and then, if `may_read`.
    pub(super) fn tell(
        &self,
        page: &mut Page<'_>,
        history: &History,
        may_read: bool,
    ) -> fmt::Result {
        let since = self.since_1970(history, may_read);
        page.gauges(
            (
                "daybook_request_ids_timestamp_seconds",
                "When the oldest event was recorded whose request id is remembered; nothing while \
                 all are",
            ),
            [],
            since.map(|since| ([], since)),
        )
    }

    /// That time, in seconds since 1970; `None` while all are remembered, or where it cannot be
    /// read.
    fn since_1970(&self, history: &History, may_read: bool) -> Option<u64> {
        let head = history.log().head().position;
        let forgotten = head.checked_sub(self.window).filter(|newest| *newest > 0)?;
        let near = forgotten.saturating_sub(self.window.checked_div(SHARE).unwrap_or(0));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if may_read && seen.is_none_or(|(position, _)| position < near) {
            let oldest = forgotten.saturating_add(1);
            let entry = history.cursor().entry(oldest).ok()?;
            *seen = Some((oldest, entry.time_micros));
        }
        let (_, micros) = (*seen)?;
        u64::try_from(micros.div_euclid(1_000_000)).ok()
    }
}
