-- Checkpoints, which a ledger may have been made without. Applied as a whole, in one transaction.

-- What the log up to a position adds up to, so that a start need not read all of it. It follows
-- from the log, and can be deleted at any time. One counts once it is finished.
create table checkpoints (
    id uuid primary key default gen_random_uuid(),
    partition integer not null,
    position bigint not null,
    hash bytea not null check (length(hash) = 32),
    bytes bigint not null,
    format integer not null,
    is_finished boolean not null default false,
    create_time timestamptz not null default now()
);

-- Its bytes, in parts.
create table checkpoint_parts (
    checkpoint uuid not null references checkpoints (id) on delete cascade,
    number integer not null,
    payload bytea not null,
    primary key (checkpoint, number)
);
-- Most of it are ids.
alter table checkpoint_parts alter column payload set storage external;
