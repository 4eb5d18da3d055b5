-- name: number_events
-- Give numbers to the events that were committed without; the newest number.
select number_events() as number

-- name: events_after
-- The window's ends, and on each row one of its next events, if any.
select w.newest, w.pruned, e.number, e.at_ms, e.name, e.brand, e.resident, e.body
from event_window w left join lateral read_events($1, $2, $3, $4) e on true
order by e.number

-- name: prune_events
-- Forget the oldest events; how many.
select prune_events($1, $2) as events
