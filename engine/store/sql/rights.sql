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
