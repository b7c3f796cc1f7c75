//! Comparing the events for people with the log that they were written from.

use super::{
    Database, PARTITION,
    rows::Columns,
    session::{Link, Use},
    signed, unsigned,
};
use crate::{
    event_store::{Codec, EventIds},
    log::{Block, Damage, LogId, ReadError, shared::StoreError},
};

/// Events as the log says they are, beside those that are there: the first that differs. The
/// columns are those of an append, in its order.
const COMPARE: &str = "
    select coalesce(said.position, there.position), there.position is null, said.position is null
    from unnest($4::bigint[], $5::uuid[], $6::bigint[], $7::uuid[], $8::text[],
        $9::timestamptz[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::uuid[],
        $15::uuid[], $16::text[], $17::uuid[], $18::text[], $19::text[])
        as said (position, account_id, version, event_id, event_type, event_time, amount_minor,
        balance_minor, owner, currency_code, to_account_id, saga_id, error, request_id, principal,
        reason)
    full join (
        select position, account_id, version, event_id, event_type, event_time, amount_minor,
            balance_minor, owner, currency_code, to_account_id, saga_id, error, request_id,
            principal, reason
        from events where partition = $1 and position between $2 and $3
    ) as there on said.position = there.position
    where said.* is distinct from there.*
    order by 1 limit 1";

/// What is where no log is: after the head, or in another partition.
const STRAY: &str = "
    (select 'events', position from events where partition = $1
        and position > (select position from partition_head where partition = $1) limit 1)
    union all
    (select 'blocks', first_position from blocks where partition = $1
        and first_position > (select position from partition_head where partition = $1) limit 1)
    union all (select 'events', position from events where partition < $1 limit 1)
    union all (select 'events', position from events where partition > $1 limit 1)
    union all (select 'blocks', first_position from blocks where partition < $1 limit 1)
    union all (select 'blocks', first_position from blocks where partition > $1 limit 1)";

/// The events of a ledger.
pub struct Events {
    link: Link,
    codec: Codec,
    /// The last position that was compared.
    compared: i64,
}

impl Events {
    /// Of the log with this id. Connects when something is asked.
    #[must_use]
    pub fn new(database: Database, log_id: LogId) -> Self {
        let codec = Codec::new(EventIds::new(log_id));
        Self { link: Link::new(database, Use::Read), codec, compared: i64::MIN }
    }

    /// Finds the events of the blocks that come next to be rows that say the same, and no others
    /// to be between.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] with the first that is not so, or [`ReadError::Io`].
    pub fn compare(&mut self, blocks: &[Block]) -> Result<(), ReadError> {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Ok(()) };
        let columns = Columns::of(&self.codec, blocks.iter());
        let columns = columns.map_err(|error| {
            Damage::in_table("blocks", first.first_position(), error.to_string())
        })?;
        let (from, to) = (self.compared.saturating_add(1), signed(last.last_position()));
        let mut values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            vec![&PARTITION, &from, &to];
        values.extend(columns.values());
        let found = self.link.call(|session| {
            let rows = session.query(COMPARE, &values)?;
            let Some(row) = rows.first() else { return Ok(None) };
            Ok(Some((row.try_get::<_, i64>(0)?, row.try_get(1)?, row.try_get(2)?)))
        });
        self.compared = to;
        let what = match found.map_err(unreadable)? {
            None => return Ok(()),
            Some((position, true, _)) => (position, "the event has no row"),
            Some((position, _, true)) => (position, "the row is of no event"),
            Some((position, false, false)) => (position, "the row says something else"),
        };
        Err(Damage::in_table("events", unsigned(what.0), what.1).into())
    }

    /// Finds nothing to be where no log is.
    ///
    /// # Errors
    /// As [`Events::compare`].
    pub fn check_end(&mut self) -> Result<(), ReadError> {
        let stray = self.link.call(|session| {
            let rows = session.query(STRAY, &[&PARTITION])?;
            let Some(row) = rows.first() else { return Ok(None) };
            Ok(Some((row.try_get::<_, String>(0)?, row.try_get::<_, i64>(1)?)))
        });
        match stray.map_err(unreadable)? {
            None => Ok(()),
            Some((table, position)) => {
                let what = "the row is outside of the log";
                Err(Damage::in_table(&table, unsigned(position), what).into())
            }
        }
    }
}

fn unreadable(error: super::session::CallError) -> ReadError {
    ReadError::Io(std::io::Error::other(StoreError::from(error)))
}
