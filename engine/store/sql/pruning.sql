-- name: prune
-- Forget some of what is too old; how many rows of each kind, or that another process is at it.
select busy, changes, batches, entries, calls from prune($1, $2, $3, $4)
