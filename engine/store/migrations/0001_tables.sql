-- Everything that survives. Ids are compared byte by byte, so that the order of rows, and with it
-- the order of locks, is the same whatever collation the database was made with.
-- Documents are the bytes of compact JSON: they are read whole, never searched, and bytes come
-- back without being parsed or converted on the way.

create table secrets (
    name text collate "C" primary key,
    value bytea not null
);

create table changes (
    number bigint primary key,
    kind text not null,
    id text collate "C" not null,
    at timestamptz not null default clock_timestamp()
);
comment on table changes is
    'The feed. Numbers have no gaps; lines may be deleted from the old end, never the newest one.';

create table brands (
    id text collate "C" primary key,
    document bytea not null,
    version integer not null
);

create table fences (
    id text collate "C" primary key,
    brand text collate "C" not null,
    feature bytea not null,
    version integer not null
);

create table offers (
    id text collate "C" primary key,
    document bytea not null,
    version integer not null
);

create table keys (
    id text collate "C" primary key,
    document bytea not null
);

create table residents (
    id text collate "C" primary key,
    settings bytea not null,
    version integer not null default 0
);

create table consent_records (
    resident text collate "C" not null references residents (id),
    position integer not null,
    version integer not null,
    id text not null,
    body bytea not null,
    primary key (resident, position)
);
comment on column consent_records.id is 'SHA-256 of the body: stays when a body is erased.';

create table resident_states (
    resident text collate "C" primary key,
    claims integer not null default 0,
    stays bytea,
    seen_ms bigint
) with (fillfactor = 70);
comment on table resident_states is
    'One row for each resident who was ever inside a fence or got a claim. Rows are never deleted '
    'by a group commit, which is why one ordered pass over them locks without deadlock.';
comment on column resident_states.claims is 'Claims ever accepted; never falls.';
comment on column resident_states.stays is 'Null: outside everywhere, and seen_ms means nothing.';

create table claims (
    id text collate "C" primary key,
    code text collate "C" not null unique,
    resident text collate "C" not null,
    decision text collate "C" not null,
    offer text collate "C" not null,
    brand text collate "C" not null,
    fence text collate "C" not null,
    day integer not null,
    made_ms bigint not null,
    expires_ms bigint not null,
    state text not null default 'made' check (state in ('made', 'recalled')),
    recall_reason text,
    redemption text collate "C",
    redeemed_ms bigint,
    till text,
    made bytea not null,
    why bytea not null,
    unique (decision, resident)
) with (fillfactor = 90);
create index claims_of_resident on claims (resident, made_ms);
create unique index claims_redemption on claims (redemption) where redemption is not null;

create table offer_counts (
    offer text collate "C" not null,
    day integer not null,
    claims integer not null,
    primary key (offer, day)
) with (fillfactor = 50);
comment on column offer_counts.day is 'Days since 1970-01-01 in the offer''s zone; -1: all days.';

create table revoked_committers (
    committer bigint primary key,
    at timestamptz not null default now()
);
comment on table revoked_committers is 'Whose lost commits must not become durable any more.';
