-- The window of events: what streams tell, written in the transaction of what it tells.
--
-- An event's number is given in two steps, so that no commit waits for another one. Whoever commits
-- draws a batch from a sequence and writes its events under it. Later `number_events` gives numbers
-- to the batches that are committed and have none, in a short transaction of its own that holds the
-- lock (the row of event_window). So numbers become visible in their order, and whoever has read up
-- to one has missed nothing before it; and a transaction that began after another one's commit has
-- the higher batch, and so the higher numbers.

create table event_window (
    single boolean primary key default true check (single),
    newest bigint not null,
    pruned bigint not null
) with (fillfactor = 10);
comment on column event_window.newest is 'The newest number given; only ever rises.';
comment on column event_window.pruned is 'Events up to this number are gone.';
insert into event_window (newest, pruned) values (0, 0);

create table event_batches (
    batch bigint generated always as identity primary key,
    events integer not null,
    number bigint unique,
    at timestamptz not null default clock_timestamp()
);
comment on column event_batches.number is 'Of the last event of the batch; null: not given yet.';
create index event_batches_new on event_batches (batch) where number is null;

create table events (
    batch bigint not null,
    place integer not null,
    at_ms bigint not null,
    name text not null,
    brand text collate "C",
    resident text collate "C",
    body bytea not null,
    primary key (batch, place)
);
comment on column events.place is 'From 1 in the batch.';
comment on column events.resident is
    'To whom it is told, or who must still allow that it is; null where neither matters.';
create index events_of_resident on events (resident, batch, place)
    where resident is not null and name <> 'transition';

-- Write events in the order given.
create function tell(
    names text[], told_ms bigint[], brands text[], residents text[], bodies bytea[]
) returns void language plpgsql as $$
declare
    drawn bigint;
begin
    if cardinality(names) = 0 then
        return;
    end if;
    insert into event_batches (events) values (cardinality(names)) returning batch into drawn;
    insert into events (batch, place, at_ms, name, brand, resident, body)
        select drawn, g.n, g.at_ms, g.name, g.brand, g.resident, g.body
        from unnest(names, told_ms, brands, residents, bodies) with ordinality
            as g (name, at_ms, brand, resident, body, n);
end $$;

create function server_ms() returns bigint language sql as $$
    select (extract(epoch from clock_timestamp()) * 1000)::bigint
$$;

-- Make a group durable (see commit_group) and tell its transitions, then the claims that stand.
create function commit_told(
    committer bigint,
    residents text[], inserts boolean[], stays bytea[], seen_ms bigint[],
    claim_ids text[], claimant integer[], decisions text[], codes text[], brands text[],
    fences text[], made_ms bigint[], expires_ms bigint[], claims_before integer[],
    budgets_total integer[], budgets_day integer[], total_row integer[], day_row integer[],
    made bytea[], why bytea[],
    claimants text[], count_offers text[], count_days integer[],
    recalls text[], recall_reasons text[], own_recalls text[], own_recall_reasons text[],
    told_ms bigint[], told_brands text[], told_residents text[], told_bodies bytea[],
    out refused text[], out reasons text[],
    out offers text[], out days integer[], out counts integer[]
) language plpgsql as $$
declare
    names text[] := array_fill('transition'::text, array[cardinality(told_ms)]);
    offer_ms bigint[];
    offer_brands text[];
    offer_residents text[];
    offer_bodies bytea[];
begin
    select g.refused, g.reasons, g.offers, g.days, g.counts
        into refused, reasons, offers, days, counts
        from commit_group(
            committer, residents, inserts, stays, seen_ms, claim_ids, claimant, decisions, codes,
            brands, fences, made_ms, expires_ms, claims_before, budgets_total, budgets_day,
            total_row, day_row, made, why, claimants, count_offers, count_days,
            recalls, recall_reasons, own_recalls, own_recall_reasons
        ) as g;
    if cardinality(claim_ids) > cardinality(refused) then
        select array_agg(g.at_ms order by n), array_agg(g.brand order by n),
                array_agg(claimants[g.claimant] order by n), array_agg(g.body order by n)
            into offer_ms, offer_brands, offer_residents, offer_bodies
            from unnest(claim_ids, claimant, brands, made_ms, made) with ordinality
                as g (id, claimant, brand, at_ms, body, n)
            where g.id <> all(refused);
        -- Null where the group held one id twice, which no two offers of ours have: neither is told.
        names := names || array_fill('offer'::text, array[coalesce(cardinality(offer_ms), 0)]);
    end if;
    perform tell(names, told_ms || offer_ms, told_brands || offer_brands,
        told_residents || offer_residents, told_bodies || offer_bodies);
end $$;

-- What becomes of a claim later is told by the row, so that no way of changing it is silent. At the
-- end of the transaction, because a claim may be recalled in the group that makes it.
create function tell_claim() returns trigger language plpgsql as $$
declare
    an_id text;
    about jsonb := jsonb_build_object('claim', new.id, 'offer', new.offer, 'brand', new.brand);
begin
    if new.state <> old.state then
        perform tell(array['recall'], array[server_ms()], array[new.brand], array[new.resident],
            array[convert_to((about || jsonb_build_object('reason', new.recall_reason))::text,
                'UTF8')]);
    end if;
    if new.redemption is distinct from old.redemption then
        an_id := coalesce(new.redemption, old.redemption);
        about := about || jsonb_build_object('redemption', an_id,
            'till', coalesce(new.till, old.till), 'rolled_back', new.redemption is null);
        perform tell(array['redemption'], array[coalesce(new.redeemed_ms, server_ms())],
            array[new.brand], array[null::text], array[convert_to(about::text, 'UTF8')]);
    end if;
    return null;
end $$;

create constraint trigger claims_told after update on claims
    deferrable initially deferred for each row
    when (new.state <> old.state or new.redemption is distinct from old.redemption)
    execute function tell_claim();

create function tell_preferences() returns trigger language plpgsql as $$
begin
    perform tell(
        array_agg('preferences'::text), array_agg(server_ms()), array_agg(null::text),
        array_agg(n.id order by n.id),
        array_agg(convert_to(jsonb_build_object('version', n.version)::text, 'UTF8') order by n.id)
    ) from new_rows n join old_rows o on o.id = n.id
    where n.version <> o.version
    having count(*) > 0;
    return null;
end $$;

create trigger residents_told after update on residents
    referencing old table as old_rows new table as new_rows
    for each statement execute function tell_preferences();

-- Give numbers to what was committed without; the newest number.
create function number_events() returns bigint language plpgsql
set enable_seqscan = off as $$
declare
    last bigint;
    given bigint;
begin
    if not exists (select from event_batches where number is null) then
        return (select newest from event_window);
    end if;
    select newest into last from event_window for update;
    -- A statement of its own, so that it sees what the lock's holder before us committed.
    with fresh as (
        select batch, sum(events) over (order by batch) as up_to from (
            select batch, events from event_batches where number is null order by batch limit 10000
        ) as few
    ), numbered as (
        update event_batches b set number = last + f.up_to from fresh f where b.batch = f.batch
        returning b.number
    )
    select max(number) into given from numbered;
    if given is not null then
        update event_window set newest = given;
        perform pg_notify('passby_events', '');
    end if;
    return coalesce(given, last);
end $$;

-- The next events after a number: all, those of some brands, or those told to one resident.
create function read_events(after bigint, some_brands text[], a_resident text, most integer)
returns table (number bigint, at_ms bigint, name text, brand text, resident text, body bytea)
language plpgsql stable
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    if a_resident is not null then
        return query
            select b.number - b.events + e.place, e.at_ms, e.name, e.brand, e.resident, e.body
            from events e join event_batches b on b.batch = e.batch
            where e.resident = a_resident and e.name <> 'transition'
                and b.number - b.events + e.place > after
            order by 1 limit most;
    else
        return query
            select b.number - b.events + e.place, e.at_ms, e.name, e.brand, e.resident, e.body
            from event_batches b join events e on e.batch = b.batch
            where b.number > after and b.number - b.events + e.place > after
                and (some_brands is null or e.brand = any(some_brands))
            order by b.number, e.place limit most;
    end if;
end $$;

-- Forget numbered events that are older than an age or beyond a count, at most 1,000 batches at
-- once; how many events.
create function prune_events(age_ms bigint, events_max bigint) returns bigint language plpgsql
set enable_seqscan = off as $$
declare
    gone bigint[];
    cut bigint;
    before bigint;
begin
    select array_agg(batch), max(number), min(number - events) into gone, cut, before from (
        select b.batch, b.number, b.events, b.at from event_batches b
        where b.number is not null order by b.number limit 1000
    ) as oldest (batch, number, events, at)
    where number <= (select newest - events_max from event_window)
        or at < clock_timestamp() - age_ms * interval '1 millisecond';
    if cut is null then
        return 0;
    end if;
    update event_window set pruned = greatest(pruned, cut);
    -- Another process may be doing the same, and batches beside a young one stay for the next time.
    delete from events e using unnest(gone) as g (batch) where e.batch = g.batch;
    delete from event_batches b using unnest(gone) as g (batch) where b.batch = g.batch;
    return cut - before;
end $$;
