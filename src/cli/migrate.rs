//! `daybook migrate`: takes a ledger from files into a database, or back.
//!
//! The log stays the same one: its id, its positions, times, blocks and hashes. Nothing is changed
//! before the source is known to be whole and the target to be fit for it; and what has not come
//! to its end is no ledger yet, for anybody: see [`postgres::set_whole`] and
//! [`RESTORE_FILE`](crate::log::file::RESTORE_FILE).

use std::{io, path::PathBuf, sync::Arc, thread, time::Duration};

use super::{
    CliError, Site,
    backup::copy_into,
    output,
    owned::Owned,
    progress::Progress,
    reading::{Figures, Reading},
};
use crate::{
    event_store::REQUEST_ID_WINDOW_DEFAULT,
    log::{
        AppendError, ChainHash, Head, LogId, chain,
        file::{AtRest, Options, Rebuild, StdDisk, Verified},
        shared::Import,
    },
    postgres::{self, Blocks, Database, Found, StartError},
    views::Fold,
};

/// How often an append is tried that the database does not answer, and the pause between: a
/// server that is started anew, or another one that takes over for it, is there by then.
const TRIES: u32 = 40;
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Takes a ledger from a data directory into a database, or back, as it is: with its log id, and
/// every position, time and hash. No server may use either meanwhile. The source stays as it is.
///
/// Into a database that has no ledger, or only a beginning of this one: run it again after it was
/// interrupted, and it goes on. Back into a new directory, or one without files. At the end the
/// target is verified and compared with the source. Prints the position, the hash, and what the
/// ledger adds up to.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// Which way to go
    #[arg(long, value_name = "TARGET", default_value = "database")]
    to: Target,

    /// The directory that keeps the ledger, or shall
    #[arg(long, value_name = "DIR", env = "DAYBOOK_DATA_DIR", hide_env_values = true)]
    #[arg(default_value = "./daybook-data")]
    data_dir: PathBuf,
}

/// What the ledger is taken into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// From the directory into the database
    Database,
    /// From the database into the directory
    Directory,
}

/// Runs `daybook migrate`. `now_micros` is what time it is, in microseconds since 1970.
///
/// # Errors
/// [`CliError::Damaged`] when damage was found in the source; [`CliError::NoBeginning`],
/// [`CliError::NotEmpty`] or a [`CliError::Database`] when the target is for something else;
/// [`CliError::InUse`] and [`CliError::Open`] when somebody uses one of them; others when one
/// cannot be used.
pub fn migrate(args: &MigrateArgs, site: &Site, now_micros: i64) -> Result<(), CliError> {
    let migrated = match args.to {
        Target::Database => into_database(args, site)?,
        Target::Directory => into_directory(args, site, now_micros)?,
    };
    Ok(migrated.print()?)
}

/// What was migrated.
struct Migrated {
    log_id: LogId,
    head: Head,
    figures: Figures,
}

impl Migrated {
    fn print(&self) -> io::Result<()> {
        output::print(|out| {
            writeln!(out, "log id    {}", uuid::Uuid::from_bytes(self.log_id))?;
            writeln!(out, "position  {}", self.head.position)?;
            writeln!(out, "hash      {}", blake3::Hash::from_bytes(self.head.hash))?;
            writeln!(out, "{}", self.figures)
        })
    }

    /// Finds both sides to be the same.
    fn compare(self, source: &Self) -> Result<Self, CliError> {
        let place = |it: &Self| (it.log_id, it.head.position, it.head.hash);
        if place(&self) != place(source) {
            return Err(CliError::Unsound("the heads are not the same on both sides".into()));
        }
        if self.figures != source.figures {
            let (from, to) = (&source.figures, &self.figures);
            return Err(CliError::Unsound(format!("the source has {from}, and the target {to}")));
        }
        Ok(self)
    }
}

fn into_database(args: &MigrateArgs, site: &Site) -> Result<Migrated, CliError> {
    let disk = StdDisk::open_read_only(&args.data_dir)?;
    let source = AtRest::take(&disk)?;
    let (log_id, database) = (source.log_id(), &site.database);
    let there = match postgres::find(database)? {
        None => Head::start(&log_id),
        Some(found) if found.log_id == log_id => found.head,
        Some(Found { log_id: found, .. }) => {
            let [found, expected] = [found, log_id].map(uuid::Uuid::from_bytes);
            return Err(StartError::OtherLog { found, expected }.into());
        }
    };
    let ours = examine(&source, &there)?;
    postgres::begin_migration(database, log_id)?;
    let Owned { owner, lease, store, membership } = Owned::take(site, log_id)?;
    let blocks = Arc::new(Blocks::new(database.clone(), log_id));
    let mut import = Import::new(blocks, store, lease, owner);
    let migrated = if import.durable() == there {
        fill(&source, &mut import, database, &ours)
    } else {
        // Another migration has ended since we looked.
        Err(CliError::InUse { holder: "which has appended to it meanwhile".into() })
    };
    import.close();
    drop(membership);
    migrated
}

/// Verifies the whole directory, and finds what is in the database already to be a beginning of
/// it.
fn examine(source: &AtRest<'_>, there: &Head) -> Result<Migrated, CliError> {
    let log_id = source.log_id();
    let mut hash: ChainHash = chain::start(&log_id);
    let mut is_beginning = (there.position, there.hash) == (0, hash);
    let mut fold = Fold::new(REQUEST_ID_WINDOW_DEFAULT);
    let mut progress = Progress::new("verify the directory");
    let tell = &mut |done, total| progress.tell(done, total);
    let verified = source.verify(tell, &mut |log_id, block| {
        hash = chain::extend(&hash, block.payload());
        is_beginning |= (there.position, there.hash) == (block.last_position(), hash);
        fold.add(log_id, block).map_err(|wrong| wrong.to_string())
    });
    progress.end();
    let Verified { head, damage, .. } = verified?;
    if let Some(damage) = damage {
        return Err(damage.into());
    }
    if !is_beginning {
        return Err(CliError::NoBeginning { position: there.position });
    }
    Ok(Migrated { log_id, head, figures: Figures::of(fold, log_id) })
}

/// Copies what the database does not have yet, and reads all of it back.
fn fill(
    source: &AtRest<'_>,
    import: &mut Import,
    database: &Database,
    ours: &Migrated,
) -> Result<Migrated, CliError> {
    if import.durable().position < ours.head.position {
        postgres::set_whole(database, false)?;
        copy(source, import)?;
    }
    let (log_id, head) = (ours.log_id, import.durable());
    let found = Found { log_id, head, is_whole: false, has_checkpoints: false };
    let mut reading = Reading::new(database, &found);
    reading.run("verify the database", &mut |_| Ok(()))?;
    let migrated = Migrated { log_id, head, figures: reading.figures() }.compare(ours)?;
    // Whoever has taken it over meanwhile may have gone on with it.
    append(import)?;
    postgres::set_whole(database, true)?;
    Ok(migrated)
}

fn copy(source: &AtRest<'_>, import: &mut Import) -> Result<(), CliError> {
    let (mut failure, mut progress) = (None, Progress::new("migrate"));
    let tell = &mut |done, total| progress.tell(done, total);
    let copied = source.verify(tell, &mut |_, block| {
        if import.push(block)
            && let Err(error) = append(import)
        {
            let what = error.to_string();
            failure = Some(error);
            return Err(what);
        }
        Ok(())
    });
    progress.end();
    // What ended the reading is no damage of the directory.
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    if let Some(damage) = copied?.damage {
        return Err(damage.into());
    }
    Ok(append(import)?)
}

fn append(import: &mut Import) -> Result<(), AppendError> {
    let mut tries = 0_u32;
    loop {
        tries = tries.saturating_add(1);
        match import.append() {
            Err(AppendError::Unreachable(_)) if tries < TRIES => thread::sleep(TRY_AGAIN),
            appended => return appended.map(|_| ()),
        }
    }
}

fn into_directory(args: &MigrateArgs, site: &Site, now_micros: i64) -> Result<Migrated, CliError> {
    let found = postgres::find(&site.database)?.ok_or(CliError::NoLedger)?;
    if !found.is_whole {
        return Err(StartError::Unfinished.into());
    }
    copy_into(&args.data_dir, |target| {
        let rebuild = Rebuild::new(target, &Options::new(found.log_id, now_micros))?;
        let Owned { owner, lease: _, mut store, membership } = Owned::take(site, found.log_id)?;
        let found = Found { head: owner.head(), ..found };
        let migrated = rebuild_from(site, &found, rebuild, &mut || {
            let tip = store.touch()?;
            if (tip.epoch, tip.head) == (owner.epoch(), owner.head()) {
                return Ok(());
            }
            Err(AppendError::Fenced("it was taken over meanwhile").into())
        });
        let _others_wait_until_the_lease_ends = owner.release(&mut *store);
        drop(membership);
        migrated
    })
}

/// Reads all of a database, and makes a directory of it. `check` finds the ledger to be this
/// process's still.
fn rebuild_from(
    site: &Site,
    found: &Found,
    mut rebuild: Rebuild<'_>,
    check: &mut dyn FnMut() -> Result<(), CliError>,
) -> Result<Migrated, CliError> {
    let Found { log_id, head, .. } = *found;
    let mut reading = Reading::new(&site.database, found);
    reading.run("migrate", &mut |block| Ok(rebuild.push(block)?))?;
    let ours = Migrated { log_id, head, figures: reading.figures() };
    check()?;
    let mut fold = Fold::new(REQUEST_ID_WINDOW_DEFAULT);
    let mut progress = Progress::new("verify the directory");
    let tell = &mut |done, total| progress.tell(done, total);
    let verified = rebuild.finish(tell, &mut |log_id, block| {
        fold.add(log_id, block).map_err(|wrong| wrong.to_string())
    });
    progress.end();
    let Verified { log_id, head, .. } = verified?;
    Migrated { log_id, head, figures: Figures::of(fold, log_id) }.compare(&ours)
}
