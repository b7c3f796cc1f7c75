//! How far a long command is: a bar on a terminal, a line for each tenth elsewhere.

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::output;

/// Told how many bytes are done, and how many there are.
pub(super) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    /// Tenths that were told.
    tenths: u64,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, bar: ProgressBar::new(0).with_style(style()), tenths: 0 }
    }

    pub(super) fn tell(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let tenths = done.saturating_mul(10).checked_div(total).unwrap_or_default();
        if self.bar.is_hidden() && tenths > self.tenths {
            self.tenths = tenths;
            let percent = tenths.saturating_mul(10);
            output::tell(format_args!("{}: {percent} % of {}", self.what, HumanBytes(total)));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}
