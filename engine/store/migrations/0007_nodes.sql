-- The processes that may act on what residents say: who has heard how much of the feed.
--
-- A process renews its lease only by `follow`, which first writes its row and then reads the feed,
-- each statement with a snapshot of its own. So whoever commits a line of the feed and then reads
-- this table sees the row of every process that may hold a lease from before that line.

create table nodes (
    id text collate "C" primary key,
    applied bigint not null default -1,
    renewed_ms bigint not null default -1,
    lease_ms integer not null,
    canary bytea
) with (fillfactor = 10);
comment on column nodes.applied is 'All lines of the feed up to this one are in its memory.';
comment on column nodes.renewed_ms is
    'When it began its last look, by a clock of its own that nobody else can read: it only tells '
    'whether there was another look.';
comment on column nodes.canary is 'What its made-up resident says.';

-- Note that a process has applied the feed up to a line, then read on; the process' own line comes
-- first. One row of nulls: there is no such process any more, and it must not renew its lease.
-- Nothing depends on the flush of this: a row that comes back older only makes others wait. And no
-- NOTIFY: its commit would stand in one line with those of all writers, disk included, and a lease
-- must not.
create function follow(a_node text, after bigint, renewing_ms bigint, most integer)
returns table (number bigint, kind text, id text) language plpgsql
set enable_seqscan = off as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    update nodes n set applied = after, renewed_ms = renewing_ms where n.id = a_node;
    if not found then
        return query select null::bigint, null::text, null::text;
        return;
    end if;
    return query
        select c.number, c.kind, c.id from changes c
        where c.number >= after order by c.number limit most;
end $$;

-- Forget processes that have not looked since; it waits for a look that is under way.
create function bury(nodes_gone text[], seen_ms bigint[]) returns void language plpgsql as $$
declare
    gone record;
begin
    for gone in select g.id, g.renewed_ms from unnest(nodes_gone, seen_ms) as g (id, renewed_ms)
        order by g.id collate "C"
    loop
        delete from nodes n where n.id = gone.id and n.renewed_ms = gone.renewed_ms;
    end loop;
    perform pg_notify('passby_nodes', '');
end $$;

-- Write what a process' made-up resident says; the feed's number, or null if there is no such
-- process.
create function put_canary(a_node text, body bytea) returns bigint language plpgsql as $$
begin
    update nodes set canary = body where id = a_node;
    if not found then
        return null;
    end if;
    return append_changes('canary', array[a_node]);
end $$;
