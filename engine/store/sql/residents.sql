-- name: all_said
-- Every resident with all that they said, in order, as `saying.Sayings` has it; no end is $1.
select r.id, r.settings, r.version, s.contents, s.kept
from residents r left join (
    select resident,
        -- Cut out as it stands, without reading it: within a string a quote is escaped, so that a
        -- name is found only where it is one. The whole body, where it is written otherwise.
        string_agg(
            case when cut then
                '{' || substr(body, actor + 1, version_ - actor - 1)
                || substr(body, channels, notice - channels) || '}'
            else convert_to(translate(convert_from(body, 'UTF8'), e'\n\r', '  '), 'UTF8') end,
            e'\n'::bytea order by position
        ) as contents,
        string_agg(
            int8send(coalesce(
                case when cut then nullif(
                    convert_from(substr(body, expires + 14, channels - expires - 14), 'UTF8'), 'null'
                ) else convert_from(body, 'UTF8')::json ->> 'expires_ms' end::bigint,
                $1::bigint
            )) || decode(id, 'hex'),
            '' order by position
        ) as kept
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
