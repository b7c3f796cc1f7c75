//! Operations: what any service needs, and nothing of the bank.
//!
//! It owns the configuration ([`config`]), the logs of the process ([`telemetry`]), what is counted
//! ([`figures`]) and how scrapers read it ([`exposition`]), what the process takes of the machine
//! ([`process`]), the traces of calls ([`traces`]), what the service manager is told ([`notify`]),
//! files of PEM ([`pem`]), files that are read again ([`Followed`]) and the wall clock ([`Clock`]).
//! It must not know accounts, money, events or the log that keeps them: a setting that one of those
//! rooms reads is a plain number, path or duration here.

mod clock;
pub mod config;
pub mod exposition;
pub mod figures;
mod followed;
pub mod notify;
pub mod pem;
pub mod process;
pub mod telemetry;
pub mod traces;

pub use clock::{Clock, ManualClock, SystemClock};
pub use exposition::Exposition;
pub use figures::{Counter, Gauge, Histogram, Presence};
pub use followed::{Changes, Followed};
