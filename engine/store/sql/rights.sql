-- name: claims_of
-- Claims of a resident, newest first, after one of them.
select resident, decision, made, made_ms, state, recall_reason, redemption, redeemed_ms, till
from claims
where resident = $1 and ($2::bigint is null or (made_ms, id) < ($2, $3::text))
order by made_ms desc, id desc limit $4
