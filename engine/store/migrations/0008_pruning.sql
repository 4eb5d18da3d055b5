-- Old lines of the feed, what imports wrote, old entries of the audit log and kept answers are
-- forgotten, a few thousand at a time.

alter table batches add column at timestamptz not null default clock_timestamp();
create index batches_at on batches (at);
create index changes_batch on changes (id) where kind = 'batch';
create index audit_at on audit (at_ms);

-- Entries go by age alone, and only as a whole.
create function keep_audit() returns trigger language plpgsql as $$
begin
    if tg_op <> 'DELETE' or coalesce(current_setting('passby.pruning', true), '') <> 'on' then
        raise exception 'audit is append-only';
    end if;
    return null;
end $$;

drop trigger audit_append_only on audit;
create trigger audit_append_only
    before update or delete or truncate on audit
    for each statement execute function keep_audit();

-- Forget what is too old, at most so many rows of each table; how many, or `busy`: another process
-- is at it.
--
-- A line of the feed goes when the one after it is old too: whoever has read up to it had that long
-- to see that there is more. So the newest line stays, and the newest old one.
create function prune(
    change_age_ms bigint, audit_before_ms bigint, calls_before_ms bigint, most integer,
    out busy boolean, out changes integer, out batches integer, out entries integer,
    out calls integer
) language plpgsql
set enable_seqscan = off as $$
declare
    old timestamptz := clock_timestamp() - change_age_ms * interval '1 millisecond';
    oldest_kept bigint;
begin
    busy := not pg_try_advisory_xact_lock(hashtextextended('passby_prune', 0));
    if busy then
        return;
    end if;

    select coalesce(min(f.number) filter (where f.at >= old) - 1, max(f.number))
        into oldest_kept
        from (select c.number, c.at from changes c order by c.number limit most + 1) as f;
    delete from changes c where c.number < oldest_kept;
    get diagnostics changes = row_count;

    with gone as (
        delete from batches b
            using (select o.batch from batches o where o.at < old order by o.at limit most) as o
            where b.batch = o.batch
                and not exists (select from changes c where c.kind = 'batch' and c.id = b.batch)
            returning b.batch
    )
    select count(distinct gone.batch) into batches from gone;

    perform set_config('passby.pruning', 'on', true);
    delete from audit a
        using (select o.number from audit o where o.at_ms < audit_before_ms
            order by o.at_ms limit most) as o
        where a.number = o.number;
    get diagnostics entries = row_count;
    perform set_config('passby.pruning', '', true);

    delete from kept_answers k
        using (select o.key, o.name from kept_answers o where o.at_ms <= calls_before_ms
            order by o.at_ms limit most) as o
        where k.key = o.key and k.name = o.name;
    get diagnostics calls = row_count;
end $$;
