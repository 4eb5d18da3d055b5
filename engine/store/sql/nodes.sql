-- name: follow
-- Note how far a process has followed, then read the feed from there on, that line included.
select number, kind, id from follow($1, $2, $3, $4)

-- name: announce
-- Wake whoever waits for a process to have applied more.
select pg_notify('passby_nodes', '')

-- name: join
-- Register a process; one that is there already stays as it is.
insert into nodes (id, lease_ms) values ($1, $2) on conflict (id) do nothing

-- name: leave
-- Forget a process that ends.
with gone as (delete from nodes where id = $1 returning id)
select pg_notify('passby_nodes', '') from gone

-- name: read_nodes
-- Every process that may act on what residents say.
select id, applied, renewed_ms, lease_ms from nodes order by id

-- name: bury
-- Forget processes that have not looked since.
select bury($1, $2)

-- name: put_canary
-- Write what a process' made-up resident says; the feed's number, or null.
select put_canary($1, $2) as number

-- name: read_canary
-- What a process' made-up resident says.
select canary from nodes where id = $1 and canary is not null
