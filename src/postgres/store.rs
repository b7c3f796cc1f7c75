//! Writing the log, and who may.

use std::time::Duration;

use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    APPEND_WITHIN, CALL_WITHIN, Database, PARTITION, hash_of,
    rows::Columns,
    session::{CallError, Link, Session, Use},
    signed, unsigned,
};
use crate::{
    event_store::{Codec, EventIds},
    log::{
        Block, ChainHash, Head, LogId,
        shared::{Appended, Durable, Members, NodeId, Store, StoreError, Tip},
    },
};

/// Moves the head if it is where and whose it should be, and adds blocks and events only then.
pub(super) const APPEND: &str = "
    with head as (
        update partition_head set position = $4, hash = $5, bytes = $6
        where partition = $1 and epoch = $2 and position = $3 and hash = $28
        returning partition, epoch
    ), stored as (
        insert into blocks
            (partition, first_position, last_position, epoch, format, hash, payload)
        select head.partition, b.first_position, b.last_position, head.epoch, b.format, b.hash,
            b.payload
        from head, unnest($7::bigint[], $8::bigint[], $9::integer[], $10::bytea[], $11::bytea[])
            as b (first_position, last_position, format, hash, payload)
    )
    insert into events
        (partition, position, account_id, version, event_id, event_type, event_time, amount_minor,
        balance_minor, owner, currency_code, to_account_id, saga_id, error, request_id, principal,
        reason)
    select head.partition, e.*
    from head, unnest($12::bigint[], $13::uuid[], $14::bigint[], $15::uuid[], $16::text[],
        $17::timestamptz[], $18::bigint[], $19::bigint[], $20::text[], $21::text[], $22::uuid[],
        $23::uuid[], $24::text[], $25::uuid[], $26::text[], $27::text[]) as e";

const TOUCH: &str = "
    update partition_head set position = position where partition = $1
    returning epoch, position, hash, bytes";

/// Nodes whose time is over are removed first: the lock on the row decides between that and a
/// renewal that comes late.
const REAP: &str = "delete from nodes where expire_time < now()";

/// A row that was changed while it was waited for is looked at again, but the nodes are those of
/// the beginning: who joined and claimed it meanwhile would not be among them. Its epoch, as it was
/// then, is not that of such a row.
const CLAIM: &str = "
    update assignment set owner = $2, epoch = epoch + 1
    where partition = $1
        and epoch = (select seen.epoch from assignment as seen where seen.partition = $1)
        and (owner is null or owner = $2 or not exists (select from nodes where id = owner))
        and exists (select from nodes where id = $2 and expire_time > now())
    returning epoch";

const OWNER: &str = "
    select address from nodes join assignment on owner = id
    where partition = $1 and expire_time > now()";

const HEAD: &str = "
    select epoch, position, hash, bytes from partition_head where partition = $1";

const SEAL: &str = "
    update partition_head set epoch = $2 where partition = $1 and epoch < $2
    returning epoch, position, hash, bytes";

/// A write of one's own, which waits for whatever was written before it to be durable. What is
/// found is of the same server.
const CONFIRM: &str = "
    with alive as (
        update nodes set expire_time = expire_time where id = $2 and expire_time > now()
        returning id
    )
    select (
        select hash from (
            select last_position, hash from blocks
            where partition = $1 and first_position <= $3
            order by first_position desc limit 1
        ) as block
        where last_position = $3
    ), (select position from partition_head where partition = $1)
    from alive";

const RELEASE: &str = "
    update assignment set owner = null where partition = $1 and owner = $2 and epoch = $3";

const JOIN: &str = "
    insert into nodes (id, address, expire_time)
    values ($1, $2, now() + $3::bigint * interval '1 millisecond')
    on conflict (id) do nothing";

const RENEW: &str = "
    update nodes set expire_time = now() + $2::bigint * interval '1 millisecond'
    where id = $1 and expire_time > now()";

const LEAVE: &str = "delete from nodes where id = $1";

/// The head of the log under its epochs, and what is appended to it.
pub struct Epochs {
    link: Link,
    codec: Codec,
}

impl Epochs {
    /// Of the log with this id. Connects when something is asked.
    #[must_use]
    pub fn new(database: Database, log_id: LogId) -> Self {
        let codec = Codec::new(EventIds::new(log_id));
        Self { link: Link::new(database, Use::Write), codec }
    }
}

impl Store for Epochs {
    fn append(
        &mut self,
        epoch: u64,
        before: &Head,
        blocks: &[(Block, ChainHash)],
        after: &Head,
    ) -> Result<Appended, StoreError> {
        let columns = Columns::of(&self.codec, blocks.iter().map(|(block, _)| block));
        let columns = columns.map_err(|error| StoreError::Refused(error.to_string()))?;
        let of_blocks = |value: fn(&Block) -> i64| blocks.iter().map(|(it, _)| value(it)).collect();
        let first_positions: Vec<i64> = of_blocks(|block| signed(block.first_position()));
        let last_positions: Vec<i64> = of_blocks(|block| signed(block.last_position()));
        let formats: Vec<i32> =
            blocks.iter().map(|(it, _)| i32::try_from(it.format()).unwrap_or(i32::MAX)).collect();
        let hashes: Vec<&[u8]> = blocks.iter().map(|(_, hash)| hash.as_slice()).collect();
        let payloads: Vec<&[u8]> = blocks.iter().map(|(block, _)| block.payload()).collect();
        let (epoch, from, to) = (signed(epoch), signed(before.position), signed(after.position));
        let (hash, bytes) = (after.hash.as_slice(), signed(after.bytes));
        let hash_before = before.hash.as_slice();
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&PARTITION, &epoch, &from, &to, &hash];
        values.extend::<[&(dyn ToSql + Sync); 6]>([
            &bytes,
            &first_positions,
            &last_positions,
            &formats,
            &hashes,
            &payloads,
        ]);
        values.extend(columns.values());
        values.push(&hash_before);
        let (count, is_certain) = self.link.call_once(|session| {
            session.take_warned();
            let count = session.execute(APPEND_WITHIN, APPEND, &values)?;
            // Whoever cancels the wait for a standby makes the server report success, and warn.
            Ok((count, !session.take_warned()))
        })?;
        let is_whole = u64::try_from(columns.count()) == Ok(count);
        Ok(if is_whole && is_certain { Appended::Durable } else { Appended::Doubtful })
    }

    fn touch(&mut self) -> Result<Tip, StoreError> {
        let touch = |session: &mut Session| tip(session.query(TOUCH, &[&PARTITION])?.first());
        let tip = self.link.call(|session| session.certainly("the head", touch))?;
        tip.ok_or_else(|| StoreError::Refused("the log has no head".into()))
    }

    fn claim(&mut self, node: NodeId) -> Result<Option<u64>, StoreError> {
        let node = Uuid::from_bytes(node);
        Ok(self.link.call(|session| {
            session.execute(CALL_WITHIN, REAP, &[])?;
            let rows = session.query(CLAIM, &[&PARTITION, &node])?;
            Ok(rows.first().map(|row| row.try_get(0)).transpose()?.map(unsigned))
        })?)
    }

    fn owner(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.link.call(|session| {
            let rows = session.query(OWNER, &[&PARTITION])?;
            Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
        })?)
    }

    fn seal(&mut self, epoch: u64) -> Result<Option<Head>, StoreError> {
        let epoch = signed(epoch);
        // Not twice: the second time would say that somebody else had done it.
        let seal = |session: &mut Session| tip(session.query(SEAL, &[&PARTITION, &epoch])?.first());
        let sealed = self.link.call_once(|session| session.certainly("the seal", seal))?;
        Ok(sealed.map(|tip| tip.head))
    }

    fn confirm(&mut self, node: NodeId, position: u64) -> Result<Option<Durable>, StoreError> {
        let (node, position) = (Uuid::from_bytes(node), signed(position));
        let confirm = |session: &mut Session| {
            let rows = session.query(CONFIRM, &[&PARTITION, &node, &position])?;
            let Some(row) = rows.first() else { return Ok(None) };
            let hash: Option<&[u8]> = row.try_get(0)?;
            let chain = hash.map(hash_of);
            Ok(Some(Durable { chain, position: unsigned(row.try_get(1)?) }))
        };
        Ok(self.link.call(|session| session.certainly("what was read", confirm))?)
    }

    fn release(&mut self, node: NodeId, epoch: u64) -> Result<(), StoreError> {
        let (node, epoch) = (Uuid::from_bytes(node), signed(epoch));
        self.link.call(|session| {
            session.execute(CALL_WITHIN, RELEASE, &[&PARTITION, &node, &epoch])?;
            session.execute(CALL_WITHIN, LEAVE, &[&node])
        })?;
        Ok(())
    }
}

/// Where the log stands, as it is read and without waiting for anybody.
pub(super) fn head(session: &mut Session) -> Result<Option<Head>, CallError> {
    Ok(tip(session.query(HEAD, &[&PARTITION])?.first())?.map(|tip| tip.head))
}

fn tip(row: Option<&Row>) -> Result<Option<Tip>, CallError> {
    let Some(row) = row else { return Ok(None) };
    let head = Head {
        position: unsigned(row.try_get(1)?),
        hash: hash_of(row.try_get(2)?),
        bytes: unsigned(row.try_get(3)?),
    };
    Ok(Some(Tip { epoch: unsigned(row.try_get(0)?), head }))
}

/// The processes that take part.
pub struct Nodes {
    link: Link,
    /// Where this one is reached.
    address: String,
}

impl Nodes {
    /// Those of a ledger; this one is reached at `address`. Connects when something is asked.
    #[must_use]
    pub fn new(database: Database, address: String) -> Self {
        Self { link: Link::new(database, Use::Write), address }
    }

    /// Others count on it, also where the database fails over.
    fn change(
        &mut self,
        change: impl Fn(&mut Session) -> Result<u64, CallError>,
    ) -> Result<bool, StoreError> {
        Ok(self.link.call(|session| session.certainly("the membership", &change))? > 0)
    }
}

impl Members for Nodes {
    fn join(&mut self, node: NodeId, time: Duration) -> Result<(), StoreError> {
        let (node, address, time) = (Uuid::from_bytes(node), self.address.clone(), millis(time));
        self.change(|session| session.execute(CALL_WITHIN, JOIN, &[&node, &address, &time]))?;
        Ok(())
    }

    fn renew(&mut self, node: NodeId, time: Duration) -> Result<bool, StoreError> {
        let (node, time) = (Uuid::from_bytes(node), millis(time));
        self.change(|session| session.execute(CALL_WITHIN, RENEW, &[&node, &time]))
    }

    fn leave(&mut self, node: NodeId) -> Result<(), StoreError> {
        let node = Uuid::from_bytes(node);
        self.change(|session| session.execute(CALL_WITHIN, LEAVE, &[&node]))?;
        Ok(())
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
