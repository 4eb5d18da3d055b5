-- name: last_records
-- Residents after one by id: their version, and the place and id of their last record.
select r.id, r.version, coalesce(c.position, 0) as position, coalesce(c.id, '') as record
from residents r
left join lateral (
    select position, id from consent_records where resident = r.id order by position desc limit 1
) c on true
where r.id > $1 order by r.id limit $2

-- name: put_records
-- Append one record to each of these residents and make its version theirs; the feed's number.
with added as (
    insert into consent_records (resident, position, version, id, body)
    select * from unnest($1::text[], $2::integer[], $3::integer[], $4::text[], $5::bytea[])
), moved as (
    update residents r set version = g.version
    from unnest($1::text[], $3::integer[]) as g (id, version) where r.id = g.id
)
select append_changes('resident', $1)

-- name: renumber_feed
-- Keep the feed's newest line alone, and move it far up.
with newest as (
    select max(number) as number from changes
), older as (
    delete from changes where number < (select number from newest)
)
update changes set number = number + $1 where number = (select number from newest)

-- name: forget_events
-- Empty the window of events, and let its numbers go on far up.
with told as (
    delete from events
), numbered as (
    delete from event_batches
)
update event_window set newest = newest + $1, pruned = newest + $1

-- name: forget_nodes
-- Forget the processes that followed the feed when the backup was made.
delete from nodes

-- name: expire_open_codes
-- End the time of every code that was not redeemed; how many there were.
with ended as (
    update claims set expires_ms = least(expires_ms, $1)
    where state = 'made' and redemption is null and expires_ms > $1 returning 1
)
select count(*) from ended

-- name: other_sessions
-- How many sessions of services this database has.
select count(*) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and application_name = 'passby'

-- name: identities
-- Columns of a table that count by themselves.
select column_name from information_schema.columns
where table_schema = current_schema() and table_name = $1 and is_identity = 'YES'

-- name: columns_of
-- Columns of a table in their order, those left out that are computed.
select column_name from information_schema.columns
where table_schema = current_schema() and table_name = $1 and is_generated = 'NEVER'
order by ordinal_position
