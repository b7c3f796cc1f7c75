//! `daybook verify`: looks at every byte of a data directory that no server uses.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::CliError;
use crate::{
    event_store::REQUEST_ID_WINDOW_DEFAULT,
    log::file::{self, StdDisk, Verified},
    views::Fold,
};

/// Verifies a data directory that no server uses: every checksum, the hash chain, and that all
/// events add up. Changes nothing. Prints the head position and hash.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The directory that keeps the ledger
    #[arg(long, value_name = "DIR", env = "DAYBOOK_DATA_DIR", hide_env_values = true)]
    #[arg(default_value = "./daybook-data")]
    data_dir: PathBuf,
}

/// Runs `daybook verify`.
///
/// # Errors
/// [`CliError::Damaged`] when damage was found, and others when the directory cannot be read.
pub fn verify(args: &VerifyArgs) -> Result<(), CliError> {
    let disk = StdDisk::open_read_only(&args.data_dir)?;
    let bar = ProgressBar::new(0).with_style(style());
    let mut fold = Fold::new(REQUEST_ID_WINDOW_DEFAULT);
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let verified = file::verify(&disk, &mut progress, &mut |log_id, block| {
        fold.add(log_id, block).map_err(|wrong| wrong.to_string())
    });
    bar.finish_and_clear();
    let verified = verified?;
    print(&verified)?;
    verified.damage.map_or(Ok(()), |damage| Err(damage.into()))
}

fn print(verified: &Verified) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let end = match (&verified.damage, &verified.torn, verified.is_stopped) {
        (Some(_), _, _) => "damaged".to_owned(),
        (None, Some(torn), _) => {
            format!("torn: {} bytes will be cut at the next start", torn.bytes)
        }
        (None, None, true) => "closed in order".to_owned(),
        (None, None, false) => "not closed: the server was killed".to_owned(),
    };
    writeln!(out, "log id    {}", uuid::Uuid::from_bytes(verified.log_id))?;
    writeln!(out, "position  {}", verified.head.position)?;
    writeln!(out, "hash      {}", blake3::Hash::from_bytes(verified.head.hash))?;
    writeln!(out, "segments  {}", verified.segments)?;
    writeln!(out, "frames    {}", verified.frames)?;
    writeln!(out, "end       {end}")
}

/// A bar with bytes and time; where there is no terminal, indicatif draws nothing.
fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}
