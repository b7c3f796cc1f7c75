//! What the fuzz targets share: a disk in memory, changes to its files, a small bank, and the
//! switch that plants a defect.
//!
//! It owns no expectation: what must hold is said in each target.
#![forbid(unsafe_code)]

use std::{env, sync::OnceLock};

pub mod bank;
pub mod change;
pub mod disk;
pub mod store;

/// The variable that plants a defect in each target's own view of what must hold. A run must find
/// it: that shows that the target can fail.
pub const CANARY_VARIABLE: &str = "DAYBOOK_FUZZ_CANARY";

/// Whether the defect is planted.
#[expect(clippy::disallowed_methods, reason = "no product: the fuzzer's own flags are not ours")]
#[must_use]
pub fn has_canary() -> bool {
    static CANARY: OnceLock<bool> = OnceLock::new();
    *CANARY.get_or_init(|| env::var_os(CANARY_VARIABLE).is_some())
}
