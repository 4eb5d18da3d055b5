-- name: all_said
-- Every resident with every consent record in the order in which it was said; one row a record.
select r.id, r.settings, r.version, c.id as record, c.body
from residents r left join consent_records c on c.resident = r.id
order by r.id, c.position

-- name: read_residents
-- These residents, with their consent records in the order in which they were said.
select r.id, r.settings, r.version, r.merged_into, array(
    select c.body from consent_records c where c.resident = r.id order by c.position
) as records
from residents r where r.id = any($1::text[]) order by r.id

-- name: create_residents
-- Make those of the residents that are not there; their ids.
insert into residents (id, settings)
select id, settings from unnest($1::text[], $2::bytea[]) as given (id, settings)
order by id collate "C"
on conflict (id) do nothing
returning id

-- name: put_settings
-- Replace a resident's settings; the feed's number if there is such a resident.
with put as (update residents set settings = $2 where id = $1 returning id, version), noted as (
    select note($3, 'resident', array[id], array[null], array[version], array['updated']) from put
)
select append_changes('resident', array[id]) from put, noted

-- name: append_records
-- Append consent records if the version has not moved.
with done as (select number, version_found from append_records($1, $2, $3, $4, $5)), noted as (
    select note($6, 'resident', array[$1], array[null], ($3::integer[])[array_upper($3, 1):],
        array['updated'])
    from done where number is not null
)
select number, version_found from done left join noted on true

-- name: import_residents
-- Make residents and append to those who never said anything.
select number, made, said from import_residents($1, $2, $3, $4, $5, $6, $7)
