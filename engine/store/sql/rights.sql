-- name: claims_of
-- Claims of a resident, newest first, after one of them.
select resident, decision, made, made_ms, state, recall_reason, redemption, redeemed_ms, till
from claims
where resident = $1 and ($2::bigint is null or (made_ms, id) < ($2, $3::text))
order by made_ms desc, id desc limit $4

-- name: erase_resident
-- Erase a resident; the feed's number, or null if there is none.
select erase_resident($1, $2, $3) as append_changes

-- name: retain
-- Look again for traces of the erased, and forget what is too old.
select busy, presences, claims from retain($1, $2, $3)

-- name: put_pairing
-- Keep a code for a resident; whether there is such a resident.
select put_pairing($1, $2, $3, $4) as put

-- name: take_pairing
-- The resident of a code, which can't be used again.
delete from pairings where hash = $1 returning resident, expires_ms

-- name: merge_residents
-- Make one resident of two.
select number, moved
from merge_residents($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- name: read_merged
-- Those who were merged into a resident.
select r.id, r.settings, r.version, r.merged_into, array(
    select c.body from consent_records c where c.resident = r.id order by c.position
) as records
from residents r where r.merged_into = $1 order by r.id
