//! Operations: what any service needs, and nothing of the bank.
//!
//! It owns the configuration ([`config`]), the logs of the process ([`telemetry`]), what the
//! service manager is told ([`notify`]) and the wall clock ([`Clock`]). It must not know accounts,
//! money, events or the log that keeps them: a setting that one of those rooms reads is a plain
//! number, path or duration here.

mod clock;
pub mod config;
pub mod notify;
pub mod telemetry;

pub use clock::{Clock, ManualClock, SystemClock};
