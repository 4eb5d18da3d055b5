-- name: note
-- Note who wrote something.
select note($1, $2, $3, $4, $5, $6)

-- name: audit
-- Entries, newest first: before a number, of a kind, an id, since an instant, of brands.
select number, at_ms, key, name, role, action, request, kind, id, brand, version, outcome
from audit
where ($1::bigint is null or number < $1) and ($2::text is null or kind = $2)
    and ($3::text is null or id = $3) and ($4::bigint is null or at_ms >= $4)
    and ($5::text[] is null or brand = any($5))
order by number desc limit $6

-- name: make_staging
-- Have a place of the session's own for the rows of an import.
create temporary table if not exists staged (
    kind text, id text collate "C", brand text collate "C", body bytea,
    version integer, outcome text, primary key (kind, id)
) on commit delete rows

-- name: stage_rows
-- Take rows of an import.
insert into staged (kind, id, brand, body)
select kind, id, brand, body from unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
    as given (kind, id, brand, body)

-- name: compare_staged
-- What an import would make, change and leave as it is.
select 0 as number, count(*) filter (where there is null)::integer as created,
    count(*) filter (where not equal)::integer as updated,
    count(*) filter (where equal)::integer as unchanged
from (
    select b.id as there, b.document = s.body as equal
        from staged s left join brands b on b.id = s.id where s.kind = 'brand'
    union all
    select f.id, f.feature = s.body and f.brand = s.brand
        from staged s left join fences f on f.id = s.id where s.kind = 'fence'
    union all
    select o.id, o.document = s.body
        from staged s left join offers o on o.id = s.id where s.kind = 'offer'
) as compared

-- name: put_staged
-- Write what was staged, in one line of the feed.
select number, created, updated, unchanged
from guard($2) as g (who), lateral put_staged($1, g.who)

-- name: read_batch
-- What an import wrote.
select kind, ids from batches where batch = $1 order by kind, part

-- name: keep_call
-- Take an Idempotency-Key that is free or whose time is over; a row if it was.
insert into kept_answers as k (key, name, fingerprint, at_ms, state)
values ($1, $2, $3, $4, 'doing')
on conflict (key, name) do update
    set fingerprint = excluded.fingerprint, at_ms = excluded.at_ms, state = 'doing', answer = null
    where k.at_ms <= $5
returning key

-- name: kept_call
-- What is known of the call with an Idempotency-Key.
select fingerprint, at_ms, state, answer from kept_answers where key = $1 and name = $2

-- name: end_call
-- Keep what came of a call.
update kept_answers set state = $4, answer = $5 where key = $1 and name = $2 and at_ms = $3

-- name: free_call
-- Give an Idempotency-Key free again.
delete from kept_answers where key = $1 and name = $2 and at_ms = $3
