-- name: all_protections
-- What protects residents, of all who have something.
select resident, version, body from protections order by resident

-- name: read_protections
-- What protects these residents.
select resident, version, body from protections
where resident = any($1::text[]) order by resident

-- name: put_protection
-- Replace what protects a resident if its version has not moved.
select number, version_found from put_protection($1, $2, $3, $4)

-- name: put_notice
-- Keep the text of a notice, if there is none yet.
select hash_kept, made from put_notice($1, $2, $3, $4, $5, $6, $7)

-- name: read_notice
-- The text of a notice.
select id, version, locale, hash, at_ms, text from notices
where id = $1 and version = $2 and locale = $3

-- name: list_notices
-- Notices of an id, or all, newest first; without their texts.
select id, version, locale, hash, at_ms from notices
where $1::text is null or id = $1 order by at_ms desc, id, version, locale limit $2
