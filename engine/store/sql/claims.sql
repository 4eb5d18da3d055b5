-- name: commit_group
-- Make a group of changes durable, with what it tells.
select refused, reasons, offers, days, counts
from commit_told(
    allowed_committer($1),
    $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
    $22, $23, $24, $25, $26, $27, $28, $29, $30, $31
)

-- name: wait_for_committer
-- Return once no commit of this committer is under way.
select allowed_committer($1)

-- name: revoke_committer
-- Return once no commit of this committer is under way, and none ever will be.
select revoke_committer($1)

-- name: all_states
-- Presence and number of claims of every resident who has either.
select resident, claims, stays, seen_ms from resident_states
where stays is not null or claims > 0 order by resident

-- name: read_states
-- Presence and number of claims of these residents.
select resident, claims, stays, seen_ms from resident_states
where resident = any($1::text[]) order by resident

-- name: all_recent_claims
-- Claims that stand and were made since an instant, by resident and time.
select resident, decision, made, made_ms from claims
where state = 'made' and made_ms >= $1 and not anonymous order by resident, made_ms, id

-- name: read_recent_claims
-- Claims of these residents that stand and were made since an instant, by resident and time.
select resident, decision, made, made_ms from claims
where state = 'made' and made_ms >= $1 and resident = any($2::text[])
order by resident, made_ms, id

-- name: all_claims_by_offer
-- How many claims of each offer stand for every resident, and the newest before an instant.
select resident, offer, count(*) as claims, max(made_ms) filter (where made_ms < $1) as older_ms
from claims where state = 'made' and not anonymous
group by resident, offer order by resident, offer

-- name: read_claims_by_offer
-- How many claims of each offer stand for these residents, and the newest before an instant.
select resident, offer, count(*) as claims, max(made_ms) filter (where made_ms < $1) as older_ms
from claims where state = 'made' and resident = any($2::text[])
group by resident, offer order by resident, offer

-- name: all_counts
-- Totals of every offer, and its days since one.
select offer, day, claims from offer_counts where day = -1 or day >= $1 order by offer, day

-- name: read_counts
-- Totals of these offers, and their days since one.
select offer, day, claims from offer_counts
where offer = any($2::text[]) and (day = -1 or day >= $1) order by offer, day

-- name: claim_by_code
-- The claim of a code.
select resident, decision, made, made_ms, state, recall_reason, redemption, why
from claims where code = $1

-- name: claim_by_id
-- The claim of an id, or else one made by the decision of that id.
select resident, decision, made, made_ms, state, recall_reason, redemption, why
from claims where id = $1 or decision = $1 order by id <> $1, id limit 1

-- name: redeem
-- Use a claim's code; null, or why not.
select redeem($1, $2, $3, $4)

-- name: redemption
-- The redemption of an id.
select redemption as id, id as claim, offer, brand, redeemed_ms as at_ms, till
from claims where redemption = $1

-- name: roll_back
-- Take a redemption back; the claim if there was one.
with gone as (
    update claims set redemption = null, redeemed_ms = null, till = null
    where redemption = $1 returning id, brand
), noted as (
    select note($2, 'redemption', array[$1], array[brand], array[0], array['deleted']) from gone
)
select id from gone, noted
