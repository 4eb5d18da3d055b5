-- What must happen in one transaction and one round trip.

create function refuse_rewriting() returns trigger language plpgsql as $$
begin
    raise exception 'consent records are append-only';
end $$;

create trigger consent_records_append_only
    before update or delete or truncate on consent_records
    for each statement execute function refuse_rewriting();

-- Draw the feed's next numbers for these ids; returns the last of them.
-- The lock is held until the writer's transaction ends, so numbers become visible in their order.
create function append_changes(a_kind text, ids text[]) returns bigint language plpgsql as $$
declare
    newest bigint;
begin
    perform pg_advisory_xact_lock(hashtextextended('passby_changes', 0));
    -- A statement of its own, so that it sees what the lock's holder before us committed.
    select coalesce(max(number), 0) into newest from changes;
    insert into changes (number, kind, id)
        select newest + n, a_kind, i from unnest(ids) with ordinality as given (i, n);
    perform pg_notify('passby_changes', '');
    return newest + cardinality(ids);
end $$;

-- Write fences; returns each one's version, and its number in the feed, or 0 if it is unchanged.
create function put_fences(ids text[], brands text[], features bytea[])
returns table (fence text, version integer, number bigint) language plpgsql as $$
declare
    written text[];
    newest bigint;
begin
    with put as (
        insert into fences as f (id, brand, feature, version)
            select g.id, g.brand, g.feature, 1
            from unnest(ids, brands, features) as g (id, brand, feature)
            order by g.id collate "C"
            on conflict (id) do update
                set brand = excluded.brand, feature = excluded.feature, version = f.version + 1
                where f.feature <> excluded.feature or f.brand <> excluded.brand
            returning id
    )
    select coalesce(array_agg(id order by id), '{}') into written from put;
    newest := 0;
    if cardinality(written) > 0 then
        newest := append_changes('fence', written);
    end if;
    return query
        select f.id, f.version, coalesce(newest - cardinality(written) + w.n, 0)
        from fences f
        left join unnest(written) with ordinality as w (id, n) on w.id = f.id
        where f.id = any(ids);
end $$;

-- Append consent records if the resident's version is still `before`. Returns the feed's number,
-- or null and the version found, or two nulls if there is no such resident.
create function append_records(
    who text, before integer, versions integer[], record_ids text[], bodies bytea[],
    out number bigint, out version_found integer
) language plpgsql as $$
declare
    newest integer;
begin
    select r.version into version_found from residents r where r.id = who for update;
    if version_found is distinct from before then
        return;
    end if;
    update residents set version = versions[cardinality(versions)] where id = who;
    select coalesce(max(c.position), 0) into newest from consent_records c where c.resident = who;
    insert into consent_records (resident, position, version, id, body)
        select who, newest + g.n, g.version, g.id, g.body
        from unnest(versions, record_ids, bodies) with ordinality as g (version, id, body, n);
    number := append_changes('resident', array[who]);
end $$;

-- Use a claim's code; returns null, or why not.
create function redeem(a_claim text, an_id text, an_at_ms bigint, a_till text)
returns text language plpgsql as $$
declare
    c claims;
begin
    select * into c from claims where id = a_claim for update;
    if not found then
        return 'unknown_claim';
    elsif c.state <> 'made' then
        return 'recalled';
    elsif c.redemption is not null or exists (select from claims where redemption = an_id) then
        return 'already_redeemed';
    elsif c.expires_ms <= an_at_ms then
        return 'expired';
    end if;
    update claims set redemption = an_id, redeemed_ms = an_at_ms, till = a_till where id = a_claim;
    return null;
end $$;

-- A committer, once no other commit of it is under way; an error if it was revoked.
create function allowed_committer(a_committer bigint) returns bigint language plpgsql as $$
begin
    perform pg_advisory_xact_lock(a_committer);
    if exists (select from revoked_committers r where r.committer = a_committer) then
        raise exception 'this committer was revoked' using errcode = '57P01';
    end if;
    return a_committer;
end $$;

-- See to it that no commit of a committer becomes durable from now on, however late the server
-- gets to it; waits for one that is under way.
create function revoke_committer(a_committer bigint) returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock(a_committer);
    insert into revoked_committers (committer) values (a_committer) on conflict do nothing;
    delete from revoked_committers r where r.at < now() - interval '1 day';
end $$;

-- Make a group of changes durable. The order of locks is the whole point: first the committer's
-- own (so that whoever reads after a lost answer can wait for it), then all residents in id order
-- in one pass, then the recalled claims (which their residents' locks already guard), then the
-- counts in the order of (offer, day) in one pass.
--
-- residents: each resident of the group once. inserts: whether a missing row is made. stays: null
-- leaves the presence alone, empty ends it. seen_ms: of the presence, or the touch.
-- claims come as columns, in the order in which they were made; claimant, total_row and day_row
-- are places, from 1, in claimants and in count_offers/count_days.
-- own_recalls: those recalls whose claims are made in this very group.
--
-- Every statement is driven by a few given rows into an index; the planner, which may look while
-- the tables are still empty, must not remember a scan.
create function commit_group(
    committer bigint,
    residents text[], inserts boolean[], stays bytea[], seen_ms bigint[],
    claim_ids text[], claimant integer[], decisions text[], codes text[], brands text[],
    fences text[], made_ms bigint[], expires_ms bigint[], claims_before integer[],
    budgets_total integer[], budgets_day integer[], total_row integer[], day_row integer[],
    made bytea[], why bytea[],
    claimants text[], count_offers text[], count_days integer[],
    recalls text[], recall_reasons text[], own_recalls text[], own_recall_reasons text[],
    out refused text[], out reasons text[],
    out offers text[], out days integer[], out counts integer[]
) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    c record;
    reason text;
    recalled_offers text[] := '{}';
    recalled_days integer[] := '{}';
    own_offers text[];
    own_days integer[];
    known integer[];
    accepted integer[];
    standing integer[];
begin
    perform pg_advisory_xact_lock(committer);

    insert into resident_states as s (resident, stays, seen_ms)
        select g.resident, g.stays, g.seen_ms
        from unnest(residents, inserts, stays, seen_ms) as g (resident, inserts, stays, seen_ms)
        where g.inserts
            or exists (select from resident_states e where e.resident = g.resident)
        order by g.resident collate "C"
        on conflict (resident) do update
            set stays = case when excluded.stays is null then s.stays
                    else nullif(excluded.stays, '') end,
                seen_ms = case when excluded.stays is null
                    then greatest(s.seen_ms, excluded.seen_ms) else excluded.seen_ms end
            where excluded.stays is not null or excluded.seen_ms > s.seen_ms;

    refused := '{}';
    reasons := '{}';
    if cardinality(claim_ids) = 0 and cardinality(recalls) = 0 then
        offers := '{}';
        days := '{}';
        counts := '{}';
        return;
    end if;

    if cardinality(recalls) > 0 then
        with gone as (
            update claims t set state = 'recalled', recall_reason = g.reason
            from unnest(recalls, recall_reasons) as g (id, reason)
            where t.id = g.id and t.state = 'made'
            returning t.offer, t.day
        )
        select coalesce(array_agg(offer), '{}'), coalesce(array_agg(day), '{}')
            into recalled_offers, recalled_days from gone;
    end if;

    insert into offer_counts as o (offer, day, claims)
        select d.offer, d.day, sum(d.claims) from (
            select offer, day, 0 from unnest(count_offers, count_days) as a (offer, day)
            union all
            select offer, day, -1 from unnest(recalled_offers, recalled_days) as b (offer, day)
            union all
            select offer, -1, -1 from unnest(recalled_offers) as b (offer)
        ) as d (offer, day, claims)
        group by d.offer, d.day
        order by d.offer collate "C", d.day
        on conflict (offer, day) do update set claims = o.claims + excluded.claims
            where excluded.claims <> 0;

    select array_agg(s.claims order by g.n), array_agg(0 order by g.n) into known, accepted
        from unnest(claimants) with ordinality as g (resident, n)
        join resident_states s on s.resident = g.resident;
    select array_agg(o.claims order by g.n) into standing
        from unnest(count_offers, count_days) with ordinality as g (offer, day, n)
        join offer_counts o on o.offer = g.offer and o.day = g.day;

    for c in
        select * from unnest(
            claim_ids, claimant, decisions, codes, brands, fences, made_ms, expires_ms,
            claims_before, budgets_total, budgets_day, total_row, day_row, made, why
        ) with ordinality as g (
            id, claimant, decision, code, brand, fence, made_ms, expires_ms,
            claims_before, budget_total, budget_day, total_row, day_row, made, why, n
        ) order by n
    loop
        reason := null;
        if known[c.claimant] is distinct from c.claims_before then
            reason := 'conflict';
        elsif standing[c.total_row] >= c.budget_total then
            reason := 'budget_total';
        elsif standing[c.day_row] >= c.budget_day then
            reason := 'budget_day';
        else
            insert into claims (
                id, code, resident, decision, offer, brand, fence, day,
                made_ms, expires_ms, made, why
            ) values (
                c.id, c.code, claimants[c.claimant], c.decision, count_offers[c.total_row],
                c.brand, c.fence, count_days[c.day_row], c.made_ms, c.expires_ms, c.made, c.why
            ) on conflict do nothing;
            if not found then
                reason := 'conflict';
            end if;
        end if;
        if reason is null then
            known[c.claimant] := known[c.claimant] + 1;
            accepted[c.claimant] := accepted[c.claimant] + 1;
            standing[c.total_row] := standing[c.total_row] + 1;
            standing[c.day_row] := standing[c.day_row] + 1;
        else
            -- Whatever the resident got later in this group was decided on top of this claim.
            known[c.claimant] := null;
            refused := refused || c.id;
            reasons := reasons || reason;
        end if;
    end loop;

    update resident_states s set claims = s.claims + g.n
        from unnest(claimants, accepted) as g (resident, n)
        where s.resident = g.resident and g.n > 0;
    update offer_counts o set claims = g.claims
        from unnest(count_offers, count_days, standing) as g (offer, day, claims)
        where o.offer = g.offer and o.day = g.day and o.claims <> g.claims;

    if cardinality(own_recalls) > 0 then
        with gone as (
            update claims t set state = 'recalled', recall_reason = g.reason
            from unnest(own_recalls, own_recall_reasons) as g (id, reason)
            where t.id = g.id and t.state = 'made'
            returning t.offer, t.day
        )
        select coalesce(array_agg(offer), '{}'), coalesce(array_agg(day), '{}')
            into own_offers, own_days from gone;
        update offer_counts o set claims = o.claims - d.claims
            from (
                select g.offer, g.day, count(*) as claims from (
                    select offer, day from unnest(own_offers, own_days) as a (offer, day)
                    union all
                    select offer, -1 from unnest(own_offers) as b (offer)
                ) as g (offer, day) group by g.offer, g.day
            ) as d
            where o.offer = d.offer and o.day = d.day;
    end if;

    select coalesce(array_agg(o.offer order by o.offer, o.day), '{}'),
            coalesce(array_agg(o.day order by o.offer, o.day), '{}'),
            coalesce(array_agg(o.claims order by o.offer, o.day), '{}')
        into offers, days, counts
        from (
            select offer, day from unnest(count_offers, count_days) as a (offer, day)
            union
            select offer, day from unnest(recalled_offers, recalled_days) as b (offer, day)
            union
            select offer, -1 from unnest(recalled_offers) as b (offer)
        ) as g (offer, day)
        join offer_counts o on o.offer = g.offer and o.day = g.day;
end $$;
