//! `daybook backup` and `daybook restore`: copies of a data directory, made and used.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{CliError, output, progress::Progress};
use crate::{
    event_store::REQUEST_ID_WINDOW_DEFAULT,
    log::file::{self, Copied, StdDisk},
    views::Fold,
};

/// How long to wait before looking again whether the newest group is durable: a server that has
/// nothing to do says so after 100 ms.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Copies the log of a data directory, also while a server uses it. On top of an earlier backup of
/// the same log, only what is new is copied. Prints the position and the hash that the backup has.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// The directory that keeps the ledger
    #[arg(long, value_name = "DIR", env = "DAYBOOK_DATA_DIR", hide_env_values = true)]
    #[arg(default_value = "./daybook-data")]
    data_dir: PathBuf,

    /// The directory for the backup: a new or empty one, or one with an earlier backup of the same
    /// log
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Makes a data directory from a backup. Verifies all of it; overwrites nothing. Prints the
/// position and the hash that it has.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The directory with the backup
    #[arg(long, value_name = "DIR")]
    from: PathBuf,

    /// Leave out what came after this position, and the commands that became durable together with
    /// the first of that [default: the whole backup]
    #[arg(long, value_name = "POSITION")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    until: Option<u64>,

    /// The directory for the ledger: a new one, or one without files
    #[arg(long, value_name = "DIR", env = "DAYBOOK_DATA_DIR", hide_env_values = true)]
    #[arg(default_value = "./daybook-data")]
    data_dir: PathBuf,
}

/// Runs `daybook backup`.
///
/// # Errors
/// [`CliError::Damaged`] when damage was found in the log, and others when a directory cannot be
/// used.
pub fn backup(args: &BackupArgs) -> Result<(), CliError> {
    let source = StdDisk::open_read_only(&args.data_dir)?;
    let copied = copy_into(&args.to, |target| {
        // Nobody else would notice: a backup writes over the last segment of its target.
        if args.data_dir.canonicalize()? == args.to.canonicalize()? {
            return Err(CliError::Usage("a backup needs a directory of its own"));
        }
        let mut progress = Progress::new("backup");
        let mut tell = |done, total| progress.tell(done, total);
        let copied = file::back_up(&source, target, &mut tell, &mut || {
            std::thread::sleep(LOOK_AGAIN);
        });
        progress.end();
        Ok(copied?)
    });
    Ok(print(&copied?)?)
}

/// Runs `daybook restore`.
///
/// # Errors
/// [`CliError::Damaged`] when damage was found in the backup, and others when a directory cannot
/// be used.
pub fn restore(args: &RestoreArgs) -> Result<(), CliError> {
    let source = StdDisk::open_read_only(&args.from)?;
    let copied = copy_into(&args.data_dir, |target| {
        let mut progress = Progress::new("restore");
        let mut fold = Fold::new(REQUEST_ID_WINDOW_DEFAULT);
        let copied = file::restore(
            &source,
            target,
            args.until,
            &mut |done, total| progress.tell(done, total),
            &mut |log_id, block| fold.add(log_id, block).map_err(|wrong| wrong.to_string()),
        );
        progress.end();
        Ok(copied?)
    });
    Ok(print(&copied?)?)
}

/// Copies into a directory, which is made if there is none. If nothing has come into it, what was
/// made goes away again: an empty directory would be taken for a new ledger.
pub(super) fn copy_into<T>(
    path: &Path,
    copy: impl FnOnce(&StdDisk) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let is_missing = |path: &&Path| path.try_exists().is_ok_and(|exists| !exists);
    let named = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    let missing: Vec<&Path> = named.take_while(is_missing).collect();
    let copied = StdDisk::open(path).map_err(CliError::from).and_then(|target| copy(&target));
    if copied.is_err() {
        for made in missing {
            let _stays_if_something_is_in_it = fs::remove_dir(made);
        }
    }
    copied
}

fn print(copied: &Copied) -> io::Result<()> {
    let Copied { log_id, position, hash, segments_copied, segments_kept } = copied;
    output::print(|out| {
        writeln!(out, "log id    {}", uuid::Uuid::from_bytes(*log_id))?;
        writeln!(out, "position  {position}")?;
        writeln!(out, "hash      {}", blake3::Hash::from_bytes(*hash))?;
        writeln!(out, "segments  {segments_copied} copied, {segments_kept} kept")
    })
}
