//! Keeping checkpoints.

use std::sync::Mutex;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    APPEND_WITHIN, Database, PARTITION, hash_of,
    session::{CallError, Link, Session, Use},
    signed, unsigned,
};
use crate::log::{
    Head,
    guard::lock,
    shared::{CheckpointId, Kept, StoreError, Vault},
};

const BEGIN: &str = "
    insert into checkpoints (partition, position, hash, bytes, format)
    values ($1, $2, $3, $4, $5)
    returning id";

const PUT: &str = "insert into checkpoint_parts (checkpoint, number, payload) values ($1, $2, $3)";

const FINISH: &str = "update checkpoints set is_finished = true where id = $1 returning id";

/// Begins a statement with those that count: finished, and of a place that the log has.
macro_rules! counting {
    () => {
        "with counting as (
    select c.id, c.format, c.position, c.hash, c.bytes, c.partition, c.create_time
    from checkpoints as c
    where c.is_finished and c.hash = (
        select case when b.last_position = c.position then b.hash end
        from blocks as b where b.partition = c.partition and b.first_position <= c.position
        order by b.first_position desc limit 1
    )
)"
    };
}

/// The one before stays: somebody may be reading it.
const USELESS: &str = concat!(
    counting!(),
    ", this as (select id, partition, position from counting where id = $1),
    before as (
        select counting.id from counting join this on this.partition = counting.partition
        where counting.id <> this.id and counting.position <= this.position
        order by counting.position desc, counting.create_time desc limit 1
    )
    select c.id from checkpoints as c join this on this.partition = c.partition
    where c.id <> this.id and c.id not in (select id from before) and (
        c.position <= this.position
        or (c.is_finished and c.id not in (select id from counting))
    )"
);

const NEWEST: &str = concat!(
    counting!(),
    " select id, format, position, hash, bytes from counting
    where partition = $1 order by position desc, create_time desc limit 1"
);

/// Of one that is removed, so many parts at once: whoever appends meanwhile does not wait long.
const REMOVE_PARTS: &str = "
    delete from checkpoint_parts where checkpoint = $1 and number in (
        select number from checkpoint_parts where checkpoint = $1 order by number limit 16
    )";

const REMOVE: &str = "delete from checkpoints where id = $1";

const PART: &str = "select payload from checkpoint_parts where checkpoint = $1 and number = $2";

/// The checkpoints of a ledger, for who reads or makes one at a time.
pub struct Checkpoints {
    link: Mutex<Link>,
}

impl Checkpoints {
    /// To make them. Connects when something is asked.
    #[must_use]
    pub fn to_make(database: Database) -> Self {
        Self { link: Mutex::new(Link::new(database, Use::Write)) }
    }

    /// To read them only.
    #[must_use]
    pub fn to_read(database: Database) -> Self {
        Self { link: Mutex::new(Link::new(database, Use::Read)) }
    }

    fn once<T>(&self, run: impl Fn(&mut Session) -> Result<T, CallError>) -> Result<T, StoreError> {
        Ok(lock(&self.link).call_once(run)?)
    }

    fn call<T>(&self, run: impl Fn(&mut Session) -> Result<T, CallError>) -> Result<T, StoreError> {
        Ok(lock(&self.link).call(run)?)
    }
}

impl Vault for Checkpoints {
    fn begin(&self, format: u32, head: &Head) -> Result<CheckpointId, StoreError> {
        let format = i32::try_from(format).unwrap_or(i32::MAX);
        let (position, hash, bytes) =
            (signed(head.position), head.hash.as_slice(), signed(head.bytes));
        // Twice is once too often, and harmless: what is not finished goes with the next one.
        let id: Option<Uuid> = self.call(|session| {
            let rows = session.query(BEGIN, &[&PARTITION, &position, &hash, &bytes, &format])?;
            Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
        })?;
        let id = id.ok_or_else(|| StoreError::Refused("a checkpoint has no id".into()))?;
        Ok(id.into_bytes())
    }

    fn put(&self, id: CheckpointId, number: u32, part: &[u8]) -> Result<(), StoreError> {
        let (id, number) = (Uuid::from_bytes(id), part_number(number));
        self.once(|session| session.execute(APPEND_WITHIN, PUT, &[&id, &number, &part]))?;
        Ok(())
    }

    fn finish(&self, id: CheckpointId) -> Result<bool, StoreError> {
        let id = Uuid::from_bytes(id);
        let finish = |session: &mut Session| Ok(!session.query(FINISH, &[&id])?.is_empty());
        self.call(|session| session.certainly("the checkpoint", finish))
    }

    fn useless(&self, id: CheckpointId) -> Result<Vec<CheckpointId>, StoreError> {
        let id = Uuid::from_bytes(id);
        self.call(|session| {
            let rows = session.query(USELESS, &[&id])?;
            let ids = rows.iter().map(|row| Ok(row.try_get::<_, Uuid>(0)?.into_bytes()));
            ids.collect()
        })
    }

    fn remove(&self, id: CheckpointId) -> Result<(), StoreError> {
        let id = Uuid::from_bytes(id);
        self.call(|session| {
            while session.execute(APPEND_WITHIN, REMOVE_PARTS, &[&id])? > 0 {}
            session.execute(APPEND_WITHIN, REMOVE, &[&id])
        })?;
        Ok(())
    }

    fn newest(&self) -> Result<Option<Kept>, StoreError> {
        self.call(|session| session.query(NEWEST, &[&PARTITION])?.first().map(kept).transpose())
    }

    fn part(&self, id: CheckpointId, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let (id, number) = (Uuid::from_bytes(id), part_number(number));
        self.call(|session| {
            let rows = session.query(PART, &[&id, &number])?;
            Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
        })
    }
}

fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn kept(row: &Row) -> Result<Kept, CallError> {
    let id: Uuid = row.try_get(0)?;
    let head = Head {
        position: unsigned(row.try_get(2)?),
        hash: hash_of(row.try_get(3)?),
        bytes: unsigned(row.try_get(4)?),
    };
    let format = u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or(0);
    Ok(Kept { id: id.into_bytes(), format, head })
}
