//! `daybook verify`: looks at every byte of a data directory that no server uses, or at every block
//! and every row of a ledger in a database.

use std::{io, path::PathBuf};

use super::{CliError, compared::Compared, output, progress::Progress, reading::Reading};
use crate::{
    event_store::REQUEST_ID_WINDOW_DEFAULT,
    log::{
        ChainHash,
        file::{AtRest, CHECKPOINT_FILE, StdDisk, Verified},
    },
    postgres::{self, Database, StartError},
    views::Fold,
};

/// Verifies a data directory that no server uses: every checksum, the hash chain, that all events
/// add up, and that the checkpoint says the same. Or a ledger in a database, also while servers
/// use it: the hash chain up to the head, that all events add up, that each has a row that says the
/// same, and the checkpoint. Changes nothing. Prints the head position and hash.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The directory that keeps the ledger
    #[arg(long, value_name = "DIR", env = "DAYBOOK_DATA_DIR", hide_env_values = true)]
    #[arg(default_value = "./daybook-data")]
    data_dir: PathBuf,

    /// Fail unless the hash at the end is this one, as it was noted somewhere else
    #[arg(long, value_name = "HASH")]
    expect_hash: Option<blake3::Hash>,
}

/// Runs `daybook verify`.
///
/// # Errors
/// [`CliError::Damaged`] when damage was found, [`CliError::OtherHash`] when there is another hash
/// than the expected one, and others when the directory cannot be read.
pub fn verify(args: &VerifyArgs) -> Result<(), CliError> {
    let disk = StdDisk::open_read_only(&args.data_dir)?;
    let log = AtRest::take(&disk)?;
    let mut checkpoint = Compared::new(log.checkpoint());
    let mut progress = Progress::new("verify");
    let mut fold = Fold::new(REQUEST_ID_WINDOW_DEFAULT);
    let verified =
        log.verify(&mut |done, total| progress.tell(done, total), &mut |log_id, block| {
            fold.add(log_id, block).map_err(|wrong| wrong.to_string())?;
            let _as_it_says_later = checkpoint.look(&mut fold, block.last_position());
            Ok(())
        });
    progress.end();
    let verified = verified?;
    checkpoint.expect_read()?;
    print(&verified, &checkpoint)?;
    if let Some(damage) = verified.damage {
        return Err(damage.into());
    }
    checkpoint.check(CHECKPOINT_FILE)?;
    args.expect(verified.head.hash)
}

/// Runs `daybook verify` over the ledger in a database.
///
/// # Errors
/// As [`verify`].
pub fn verify_database(args: &VerifyArgs, database: &Database) -> Result<(), CliError> {
    let found = postgres::find(database)?.ok_or(CliError::NoLedger)?;
    if !found.is_whole {
        return Err(StartError::Unfinished.into());
    }
    let mut reading = Reading::new(database, &found);
    if found.has_checkpoints {
        reading.compare_checkpoint(database);
    }
    let verified = reading.run("verify", &mut |_| Ok(()));
    let end = match &verified {
        Ok(()) => "the head of the database",
        Err(CliError::Damaged(_)) => "damaged",
        Err(_) => return verified,
    };
    let Reading { good: head, blocks, checkpoint, .. } = &reading;
    checkpoint.expect_read()?;
    output::print(|out| {
        writeln!(out, "log id    {}", uuid::Uuid::from_bytes(found.log_id))?;
        writeln!(out, "position  {}", head.position)?;
        writeln!(out, "hash      {}", blake3::Hash::from_bytes(head.hash))?;
        writeln!(out, "blocks    {blocks}")?;
        writeln!(out, "checkpoint {checkpoint}")?;
        writeln!(out, "end       {end}")
    })?;
    verified?;
    checkpoint.check("checkpoints")?;
    args.expect(head.hash)
}

impl VerifyArgs {
    /// Finds the hash to be the expected one, if one was.
    fn expect(&self, hash: ChainHash) -> Result<(), CliError> {
        let hash = blake3::Hash::from_bytes(hash);
        match self.expect_hash {
            Some(expected) if expected != hash => Err(CliError::OtherHash { expected, hash }),
            _ => Ok(()),
        }
    }
}

/// What there is to say of a log that has no mark of a stop at its end. A backup of a log in use
/// has none, nor has what was restored from it.
const NOT_CLOSED: &str = "not closed in order: its server was killed, or it is a copy";

fn print(verified: &Verified, checkpoint: &Compared) -> io::Result<()> {
    let end = match (&verified.damage, &verified.torn, verified.is_stopped) {
        (Some(_), _, _) => "damaged".to_owned(),
        (None, Some(torn), _) => {
            format!("torn: {} bytes will be cut at the next start", torn.bytes)
        }
        (None, None, true) => "closed in order".to_owned(),
        (None, None, false) => NOT_CLOSED.to_owned(),
    };
    output::print(|out| {
        writeln!(out, "log id    {}", uuid::Uuid::from_bytes(verified.log_id))?;
        writeln!(out, "position  {}", verified.head.position)?;
        writeln!(out, "hash      {}", blake3::Hash::from_bytes(verified.head.hash))?;
        writeln!(out, "segments  {}", verified.segments)?;
        writeln!(out, "frames    {}", verified.frames)?;
        writeln!(out, "checkpoint {checkpoint}")?;
        writeln!(out, "end       {end}")
    })
}
