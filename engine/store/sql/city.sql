-- name: secret
-- The secret of a name, or the one given if there is none yet.
insert into secrets (name, value) values ($1, $2)
on conflict (name) do update set name = excluded.name
returning value

-- name: newest_change
-- The feed's newest number.
select coalesce(max(number), 0) from changes

-- name: changes_from
-- Lines of the feed from a number on, that line included.
select number, kind, id from changes where number >= $1 order by number limit $2

-- name: append_changes
-- Draw numbers of the feed for ids of one kind; the last of them.
select append_changes($1, $2)

-- name: all_brands
-- Every brand.
select document, version from brands order by id

-- name: read_brands
-- Brands of these ids.
select document, version from brands where id = any($1::text[]) order by id

-- name: put_brand
-- Write a brand; the feed's number, the new version, and whether it was made.
select number, version, created, moved from put_brand($1, $2, $3, $4)

-- name: all_fences
-- Every fence.
select id, brand, feature, version from fences order by id

-- name: read_fences
-- Fences of these ids.
select id, brand, feature, version from fences where id = any($1::text[]) order by id

-- name: page_fences
-- Some fences by id: after an id, of some brands; a most of them, and of their bytes.
select id, brand, feature, version, there > count(*) over () as more
from (
    select *, count(*) over () as there, row_number() over (order by id) as n,
        sum(octet_length(feature)) over (order by id) - octet_length(feature) as before
    from (
        select id, brand, feature, version from fences
        where id > $1 and ($2::text[] is null or brand = any($2))
        order by id limit $3::bigint + 1
    ) as asked
) as page
where n <= $3 and before < $4::bigint
order by id

-- name: page_fences_named
-- The same of some ids. In one statement with the other, all fences would be read for them.
select id, brand, feature, version, there > count(*) over () as more
from (
    select *, count(*) over () as there, row_number() over (order by id) as n,
        sum(octet_length(feature)) over (order by id) - octet_length(feature) as before
    from (
        select id, brand, feature, version from fences
        where id = any($5) and id > $1 and ($2::text[] is null or brand = any($2))
    ) as asked
) as page
where n <= $3 and before < $4::bigint
order by id

-- name: page_fence_ids
-- Some ids of fences after one, of some brands or all.
select id from fences where id > $1 and ($2::text[] is null or brand = any($2))
order by id limit $3

-- name: put_fences
-- Write fences together.
select fence, number, version, created, moved
from guard($5) as g (who), lateral put_fences($1, $2, $3, $4, g.who)

-- name: delete_fence
-- Delete a fence; the feed's number if there was one.
select number, moved from guard($3) as g (who), lateral delete_fence($1, $2, g.who)

-- name: all_offers
-- Every offer.
select document, version from offers order by id

-- name: read_offers
-- Offers of these ids.
select document, version from offers where id = any($1::text[]) order by id

-- name: put_offer
-- Write an offer; the feed's number, the new version, and whether it was made.
select number, version, created, moved
from guard($5) as g (who), lateral put_offer($1, $2, $3, $4, g.who)

-- name: delete_offer
-- Delete an offer; the feed's number if there was one.
select number, moved from guard($3) as g (who), lateral delete_offer($1, $2, g.who)

-- name: all_keys
-- Every key.
select document from keys order by id

-- name: read_keys
-- Keys of these ids.
select document from keys where id = any($1::text[]) order by id

-- name: put_key
-- Write a key; the feed's number.
with put as (
    insert into keys as k (id, document) values ($1, $2)
    on conflict (id) do update set document = excluded.document
    returning id, xmax = 0 as made
), noted as (
    select note($3, 'key', array[id], array[null], array[0],
        array[case when made then 'created' else 'updated' end]) from put
)
select append_changes('key', array[id]) from put, noted

-- name: delete_key
-- Delete a key; the feed's number if there was one.
with gone as (delete from keys where id = $1 returning id), noted as (
    select note($2, 'key', array[id], array[null], array[0], array['deleted']) from gone
)
select append_changes('key', array[id]) from gone, noted
