//! The commands beside serving: they watch, verify and measure a ledger.
//!
//! They own what a person at a terminal sees. `tail` and `bench` are clients like any other, over
//! gRPC; `verify` reads a data directory that no server uses.

mod bench;
mod connect;
mod json;
mod tail;
mod verify;

pub use bench::{BenchArgs, bench};
pub use tail::{TailArgs, tail};
pub use verify::{VerifyArgs, verify};

/// How a command went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(&'static str),
    /// The server could not be reached or answered with an error.
    #[error("{0}")]
    Call(String),
    /// The log is damaged.
    #[error("{0}")]
    Damaged(#[from] crate::log::Damage),
    /// The data directory could not be opened.
    #[error("{0}")]
    Open(#[from] crate::log::file::OpenError),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// What was measured does not add up: money was lost or made.
    #[error("{0}")]
    Unsound(String),
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(format!("{:?}: {}", status.code(), status.message()))
    }
}

impl From<tonic::transport::Error> for CliError {
    fn from(error: tonic::transport::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self::Call(format!("{error}{}", cause.unwrap_or_default()))
    }
}
