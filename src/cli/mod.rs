//! The commands beside serving: they watch, verify, copy and measure a ledger.
//!
//! They own what a person at a terminal sees. `tail`, `bench` and `healthcheck` are clients like
//! any other, over gRPC; `token` makes what they show to a server. `verify`, `restore` and
//! `migrate` work on data directories that no server uses, and `backup` on any; `verify` and
//! `migrate` on ledgers in databases as well.

mod backup;
mod bench;
mod compared;
mod connect;
mod healthcheck;
mod json;
mod migrate;
mod output;
mod owned;
mod progress;
mod reading;
mod tail;
mod token;
mod verify;

pub use backup::{BackupArgs, RestoreArgs, backup, restore};
pub use bench::{BenchArgs, bench};
pub use healthcheck::{HealthcheckArgs, healthcheck};
pub use migrate::{MigrateArgs, migrate};
pub use output::{print, tell};
pub use owned::Site;
pub use tail::{TailArgs, tail};
pub use token::{TokenArgs, token};
pub use verify::{VerifyArgs, verify, verify_database};

/// How a command went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(&'static str),
    /// A file that was named cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The server could not be reached or answered with an error.
    #[error("{0}")]
    Call(String),
    /// The log is damaged.
    #[error("{0}")]
    Damaged(#[from] crate::log::Damage),
    /// The log is whole, and not the one that was expected.
    #[error("the hash is {hash}, not {expected}")]
    OtherHash {
        /// What was expected.
        expected: blake3::Hash,
        /// What is there.
        hash: blake3::Hash,
    },
    /// It is no token.
    #[error("{0}")]
    Token(#[from] crate::access::TokenError),
    /// The data directory could not be opened.
    #[error("{0}")]
    Open(#[from] crate::log::file::OpenError),
    /// What is in the directory of a backup belongs to another log, or is not enough of this one.
    #[error("{0}")]
    OtherLog(crate::log::file::CopyError),
    /// A log cannot be restored over something else.
    #[error("{0}")]
    NotEmpty(crate::log::file::CopyError),
    /// What should be copied may lack something.
    #[error("{0}")]
    Uncertain(crate::log::file::CopyError),
    /// The database cannot carry the ledger, or has another one.
    #[error("{0}")]
    Database(#[from] crate::postgres::StartError),
    /// The database has none.
    #[error("there is no ledger in the database")]
    NoLedger,
    /// What is in the database is no beginning of the log in the directory.
    #[error(
        "what is in the database is no beginning of the log in the directory: it has gone its own \
         way by position {position}"
    )]
    NoBeginning {
        /// The newest position in the database.
        position: u64,
    },
    /// The ledger in the database is another process's.
    #[error("the ledger in the database is in use by another process ({holder})")]
    InUse {
        /// Where that is reached, as far as it is known.
        holder: String,
    },
    /// The database failed.
    #[error("{0}")]
    Store(#[from] crate::log::shared::StoreError),
    /// The log in the database could not be written.
    #[error("{0}")]
    Append(#[from] crate::log::AppendError),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// What was measured does not add up: money was lost or made.
    #[error("{0}")]
    Unsound(String),
}

impl From<crate::log::file::CopyError> for CliError {
    fn from(error: crate::log::file::CopyError) -> Self {
        use crate::log::file::CopyError;
        match error {
            CopyError::Open(error) => error.into(),
            CopyError::Damaged(damage) => damage.into(),
            CopyError::NoBeginning(_)
            | CopyError::NoBackup(_)
            | CopyError::TooShort(_)
            | CopyError::NoGroup => Self::OtherLog(error),
            CopyError::NotEmpty(_) => Self::NotEmpty(error),
            CopyError::Uncertain(_) => Self::Uncertain(error),
        }
    }
}

impl From<crate::log::ReadError> for CliError {
    fn from(error: crate::log::ReadError) -> Self {
        match error {
            crate::log::ReadError::Damaged(damage) => damage.into(),
            crate::log::ReadError::Io(error) => error.into(),
        }
    }
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
