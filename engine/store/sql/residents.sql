-- name: all_said
-- Every resident with all that they said, in order: the records' ids in one piece, and of each body
-- what it says and the end of it, cut out as `saying.cut` does; or the whole body and no end, where
-- that can't be done.
select r.id, r.settings, r.version, s.ids, s.contents, s.ends
from residents r left join (
    select resident,
        string_agg(decode(id, 'hex'), '' order by position) as ids,
        array_agg(
            case when cut then
                substr(body, actor + 1, version_ - actor - 1) || substr(body, channels, notice - channels)
            else body end
            order by position
        ) as contents,
        array_agg(
            case when cut then substr(body, expires + 14, channels - expires - 14) end
            order by position
        ) as ends
    from (
        select *, 0 < actor and actor < version_ and version_ < expires and expires < channels
            and channels < notice as cut
        from (
            select resident, position, id, body,
                position(',"actor":'::bytea in body) as actor,
                position(',"version":'::bytea in body) as version_,
                position(',"expires_ms":'::bytea in body) as expires,
                position(',"channels":'::bytea in body) as channels,
                position(',"notice":'::bytea in body) as notice
            from consent_records
            order by resident, position
            offset 0  -- finds each place once
        ) found
    ) places
    group by resident
) s on s.resident = r.id
order by r.id

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
