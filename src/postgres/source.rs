//! Reading the log: blocks by position, over a few connections.

use std::sync::Mutex;

use tokio_postgres::Row;

use super::{
    Database, PARTITION, hash_of,
    session::{CallError, Link, Use},
    signed, unsigned,
};
use crate::log::{
    LogId,
    guard::lock,
    shared::{Read, Source, StoreError, Stored},
};

/// How many connections are kept that nobody uses now.
const IDLE_MAX: usize = 4;

/// From the block before the one that holds a position, or would if there was one, on.
const READ: &str = "
    select first_position, last_position, format, hash, payload
    from blocks
    where partition = $1 and last_position <= $3 and first_position >= (
        select coalesce(min(first_position), 0) from (
            select first_position from blocks
            where partition = $1 and first_position <= $2
            order by first_position desc limit 2
        ) as start
    )
    order by first_position limit $4";

/// The blocks of the log.
pub struct Blocks {
    database: Database,
    log_id: LogId,
    idle: Mutex<Idle>,
}

/// The connections that nobody uses now.
#[derive(Default)]
struct Idle {
    links: Vec<Link>,
    /// How often it was begun anew. None is kept that is older.
    era: u64,
}

impl Blocks {
    /// Of the log with this id. Connects when something is read.
    #[must_use]
    pub fn new(database: Database, log_id: LogId) -> Self {
        Self { database, log_id, idle: Mutex::default() }
    }
}

impl Source for Blocks {
    fn log_id(&self) -> LogId {
        self.log_id
    }

    fn engine(&self) -> &'static str {
        "postgres"
    }

    fn read(&self, position: u64, until: u64, count: u32) -> Result<Read, StoreError> {
        let (idle, era) = {
            let mut kept = lock(&self.idle);
            (kept.links.pop(), kept.era)
        };
        let mut link = idle.unwrap_or_else(|| Link::new(self.database.clone(), Use::Read));
        // The block before, and one more if there is none at the position.
        let limit = i64::from(count).saturating_add(2);
        let (from, last) = (signed(position), signed(until));
        let rows = link.call(|session| session.query(READ, &[&PARTITION, &from, &last, &limit]))?;
        let mut kept = lock(&self.idle);
        if link.is_open() && kept.era == era && kept.links.len() < IDLE_MAX {
            kept.links.push(link);
        }
        drop(kept);
        let blocks: Result<Vec<Stored>, CallError> = rows.iter().map(stored).collect();
        let (earlier, mut blocks): (Vec<_>, Vec<_>) =
            blocks?.into_iter().partition(|block| block.last_position < position);
        blocks.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        let before = earlier.last().map(|block| (block.last_position, block.hash));
        Ok(Read { before, blocks })
    }

    fn begin_anew(&self) {
        let mut kept = lock(&self.idle);
        kept.era = kept.era.saturating_add(1);
        kept.links.clear();
    }
}

fn stored(row: &Row) -> Result<Stored, CallError> {
    Ok(Stored {
        first_position: unsigned(row.try_get(0)?),
        last_position: unsigned(row.try_get(1)?),
        format: u32::try_from(row.try_get::<_, i32>(2)?).unwrap_or(0),
        hash: hash_of(row.try_get(3)?),
        payload: row.try_get(4)?,
    })
}
