-- The tables of a ledger, version 1. Applied as a whole, in one transaction.

-- What the tables are, in one row.
create table daybook_schema (
    only_row boolean primary key default true check (only_row),
    version integer not null,
    log_id uuid not null,
    partitions integer not null check (partitions > 0),
    -- Not so while a log is copied into it from elsewhere: until then nobody serves it.
    is_whole boolean not null default true,
    create_time timestamptz not null default now()
);

-- Where each partition of the log stands. Whoever appends moves this row, and nobody else's
-- append is between: positions have no gaps, and are committed in their order.
create table partition_head (
    partition integer primary key,
    epoch bigint not null,
    position bigint not null,
    hash bytea not null check (length(hash) = 32),
    bytes bigint not null
) with (fillfactor = 10);

-- The processes that take part, each until its time is over.
create table nodes (
    id uuid primary key,
    address text not null,
    expire_time timestamptz not null
);

-- Who owns each partition.
create table assignment (
    partition integer primary key,
    owner uuid,
    epoch bigint not null
);

-- The log as it is verified and folded: some records each, and the hash of the chain up to them.
create table blocks (
    partition integer not null,
    first_position bigint not null,
    last_position bigint not null,
    epoch bigint not null,
    format integer not null,
    hash bytea not null check (length(hash) = 32),
    payload bytea not null,
    primary key (partition, first_position)
);
-- Its records are small already.
alter table blocks alter column payload set storage external;

-- The same log for people and their queries, written together with it: one row for each event.
-- Amounts and balances are in minor units of the account's currency; columns that an event has no
-- use for are null.
create table events (
    partition integer not null,
    position bigint not null,
    account_id uuid not null,
    version bigint not null,
    event_id uuid not null,
    event_type text not null,
    event_time timestamptz not null,
    amount_minor bigint,
    balance_minor bigint,
    owner text,
    currency_code text,
    to_account_id uuid,
    saga_id uuid,
    error text,
    request_id uuid,
    principal text,
    reason text,
    primary key (partition, position),
    unique (partition, account_id, version)
);

-- The log is only ever added to, also by whoever owns the tables.
create function daybook_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the log is append-only: % on % is refused', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
create trigger append_only before update or delete or truncate on events
    for each statement execute function daybook_refuse_change();
create trigger append_only before update or delete or truncate on blocks
    for each statement execute function daybook_refuse_change();

-- Every event with the owner and the currency of its account.
create view ledger as
select
    e.partition, e.position, e.event_time, e.event_type, e.account_id, o.owner, o.currency_code,
    e.version, e.amount_minor, e.balance_minor, e.to_account_id, e.saga_id, e.error, e.request_id,
    e.principal, e.reason, e.event_id
from events e
join events o on o.partition = e.partition and o.account_id = e.account_id and o.version = 1;
