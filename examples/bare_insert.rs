//! A bare insert: what a database takes before anybody keeps a ledger in it.
//!
//!     cargo run --release --example bare_insert URL AFTER ROWS
//!
//! Reads the events after the position AFTER of the ledger at URL into memory, and inserts them
//! from there into a new table `bare` that has the same columns and keys: over one connection, ROWS
//! with each statement, which is a transaction of its own. Prints how many it inserted a second.

#![allow(clippy::print_stdout, reason = "a program")]

use std::{
    env,
    error::Error,
    time::{Instant, SystemTime},
};

use tokio_postgres::{
    Client, NoTls, Row,
    types::{FromSqlOwned, ToSql},
};
use uuid::Uuid;

const COLUMNS: &str = "position, account_id, version, event_id, event_type, event_time,
    amount_minor, balance_minor, owner, currency_code, to_account_id, saga_id, error, request_id,
    principal, reason";
const INSERT: &str = "
    insert into bare
    select 0, b.* from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::uuid[], $5::text[],
        $6::timestamptz[], $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::uuid[],
        $12::uuid[], $13::text[], $14::uuid[], $15::text[], $16::text[]) as b";

fn column<T: FromSqlOwned>(rows: &[Row], place: usize) -> Result<Vec<T>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(place)).collect()
}

/// Inserts events once they are in memory. Gives how many there were a second.
async fn insert(client: &Client, events: &[Row], at_once: usize) -> Result<u64, Box<dyn Error>> {
    let parts = events.chunks(at_once).map(|rows| -> Result<_, tokio_postgres::Error> {
        let values: [Box<dyn ToSql + Sync>; 16] = [
            Box::new(column::<i64>(rows, 0)?),
            Box::new(column::<Uuid>(rows, 1)?),
            Box::new(column::<i64>(rows, 2)?),
            Box::new(column::<Uuid>(rows, 3)?),
            Box::new(column::<String>(rows, 4)?),
            Box::new(column::<SystemTime>(rows, 5)?),
            Box::new(column::<Option<i64>>(rows, 6)?),
            Box::new(column::<Option<i64>>(rows, 7)?),
            Box::new(column::<Option<String>>(rows, 8)?),
            Box::new(column::<Option<String>>(rows, 9)?),
            Box::new(column::<Option<Uuid>>(rows, 10)?),
            Box::new(column::<Option<Uuid>>(rows, 11)?),
            Box::new(column::<Option<String>>(rows, 12)?),
            Box::new(column::<Option<Uuid>>(rows, 13)?),
            Box::new(column::<Option<String>>(rows, 14)?),
            Box::new(column::<Option<String>>(rows, 15)?),
        ];
        Ok(values)
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let statement = client.prepare(INSERT).await?;
    let (begun, mut count) = (Instant::now(), 0_u64);
    for part in &parts {
        let values: Vec<&(dyn ToSql + Sync)> = part.iter().map(AsRef::as_ref).collect();
        count = count.saturating_add(client.execute(&statement, &values).await?);
    }
    let micros = u64::try_from(begun.elapsed().as_micros())?;
    Ok(count.saturating_mul(1_000_000).checked_div(micros).unwrap_or_default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, after, at_once] = arguments.as_slice() else {
        return Err("expected: URL AFTER ROWS".into());
    };
    let (after, at_once): (i64, usize) = (after.parse()?, at_once.parse()?);
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let select = format!("select {COLUMNS} from events where position > $1 order by position");
    let events = client.query(&select, &[&after]).await?;
    client.batch_execute("drop table if exists bare").await?;
    client.batch_execute("create table bare (like events including all)").await?;
    println!("{}", insert(&client, &events, at_once.max(1)).await?);
    Ok(())
}
