-- Who wrote what, writes that rest on a version, imports that go live together, and answers that
-- are kept so that a call sent twice is done once.

create table last_versions (
    kind text not null,
    id text collate "C" not null,
    version integer not null,
    primary key (kind, id)
);
comment on table last_versions is
    'The version at which something was deleted: one made anew under its id goes on from there, so '
    'that a version never means two things.';

create table audit (
    number bigint generated always as identity primary key,
    at_ms bigint not null,
    key text collate "C" not null,
    name text not null,
    role text not null,
    action text not null,
    request text not null,
    kind text not null,
    id text collate "C" not null,
    brand text collate "C",
    version integer not null,
    outcome text not null
);
create index audit_of_thing on audit (id, number);
create index audit_of_brand on audit (brand, number) where brand is not null;

create or replace function refuse_rewriting() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name;
end $$;

create trigger audit_append_only
    before update or delete or truncate on audit
    for each statement execute function refuse_rewriting();

create table batches (
    batch text collate "C" not null,
    part integer not null,
    kind text not null,
    ids text[] not null,
    primary key (batch, kind, part)
);
comment on table batches is
    'What an import wrote: one line of the feed stands for all of it, so that it goes live at once.';

create table kept_answers (
    key text collate "C" not null,
    name text collate "C" not null,
    fingerprint bytea not null,
    at_ms bigint not null,
    state text not null check (state in ('doing', 'done', 'lost')),
    answer bytea,
    primary key (key, name)
);
create index kept_answers_at on kept_answers (at_ms);

-- Note who wrote something. `who` is null (nobody asks), or at_ms, key, name, role, action, request.
create function note(
    who text[], a_kind text, ids text[], brands text[], versions integer[], outcomes text[]
) returns void language sql as $$
    insert into audit (
        at_ms, key, name, role, action, request, kind, id, brand, version, outcome
    )
    select who[1]::bigint, who[2], who[3], who[4], who[5], who[6], a_kind, g.id, g.brand,
        g.version, g.outcome
    from unnest(ids, brands, versions, outcomes) with ordinality
        as g (id, brand, version, outcome, n)
    where who is not null
    order by n
$$;

-- Whether a write that expects some versions may go on; 0: nothing is there, -1: anything is.
create function allows(expected integer[], there integer) returns boolean
language sql immutable as $$
    select expected is null or coalesce(there, 0) = any(expected)
        or (there is not null and -1 = any(expected))
$$;

create function first_version(a_kind text, an_id text) returns integer language sql stable as $$
    select 1 + coalesce(
        (select version from last_versions where kind = a_kind and id = an_id), 0)
$$;

create function remember_version(a_kind text, an_id text, a_version integer) returns void
language sql as $$
    insert into last_versions (kind, id, version) values (a_kind, an_id, a_version)
    on conflict (kind, id) do update set version = excluded.version
$$;

-- The writes of one thing. They return its number in the feed (0: it is as it was), its version,
-- and whether it was made; or, where it is not as expected, only `moved`: the version found, 0 for
-- nothing. A row that is not there can't be locked, so whoever loses a race to make it looks again.

create function put_brand(
    an_id text, a_document bytea, expected integer[], who text[],
    out number bigint, out version integer, out created boolean, out moved integer
) language plpgsql as $$
declare
    old brands;
begin
    loop
        select * into old from brands b where b.id = an_id for update;
        if not allows(expected, old.version) then
            moved := coalesce(old.version, 0);
            return;
        end if;
        if old.id is null then
            insert into brands as b (id, document, version)
                values (an_id, a_document, first_version('brand', an_id))
                on conflict (id) do nothing returning b.version into version;
            continue when version is null;
        elsif old.document = a_document then
            version := old.version;
        else
            version := old.version + 1;
            update brands b set document = a_document, version = put_brand.version
                where b.id = an_id;
        end if;
        exit;
    end loop;
    created := old.id is null;
    number := 0;
    if version is distinct from old.version then
        perform note(who, 'brand', array[an_id], array[an_id], array[version],
            array[case when created then 'created' else 'updated' end]);
        number := append_changes('brand', array[an_id]);
    end if;
end $$;

create function put_offer(
    an_id text, a_brand text, a_document bytea, expected integer[], who text[],
    out number bigint, out version integer, out created boolean, out moved integer
) language plpgsql as $$
declare
    old offers;
begin
    loop
        select * into old from offers o where o.id = an_id for update;
        if not allows(expected, old.version) then
            moved := coalesce(old.version, 0);
            return;
        end if;
        if old.id is null then
            insert into offers as o (id, document, version)
                values (an_id, a_document, first_version('offer', an_id))
                on conflict (id) do nothing returning o.version into version;
            continue when version is null;
        elsif old.document = a_document then
            version := old.version;
        else
            version := old.version + 1;
            update offers o set document = a_document, version = put_offer.version
                where o.id = an_id;
        end if;
        exit;
    end loop;
    created := old.id is null;
    number := 0;
    if version is distinct from old.version then
        perform note(who, 'offer', array[an_id], array[a_brand], array[version],
            array[case when created then 'created' else 'updated' end]);
        number := append_changes('offer', array[an_id]);
    end if;
end $$;

create function delete_offer(
    an_id text, expected integer[], who text[], out number bigint, out moved integer
) language plpgsql as $$
declare
    old offers;
begin
    select * into old from offers o where o.id = an_id for update;
    if not allows(expected, old.version) then
        moved := coalesce(old.version, 0);
    elsif old.id is not null then
        delete from offers where id = an_id;
        perform remember_version('offer', an_id, old.version);
        perform note(who, 'offer', array[an_id],
            array[convert_from(old.document, 'UTF8')::jsonb ->> 'brand'], array[old.version],
            array['deleted']);
        number := append_changes('offer', array[an_id]);
    end if;
end $$;

create function delete_fence(
    an_id text, expected integer[], who text[], out number bigint, out moved integer
) language plpgsql as $$
declare
    old fences;
begin
    select * into old from fences f where f.id = an_id for update;
    if not allows(expected, old.version) then
        moved := coalesce(old.version, 0);
    elsif old.id is not null then
        delete from fences where id = an_id;
        perform remember_version('fence', an_id, old.version);
        perform note(who, 'fence', array[an_id], array[old.brand], array[old.version],
            array['deleted']);
        number := append_changes('fence', array[an_id]);
    end if;
end $$;

-- Write fences together, all or none of them as expected. Returns each one as above; of those that
-- are not as expected only `moved`.
drop function put_fences(text[], text[], bytea[]);
create function put_fences(
    ids text[], brands text[], features bytea[], expected integer[], who text[]
) returns table (fence text, number bigint, version integer, created boolean, moved integer)
language plpgsql as $$
declare
    given text[];
    made boolean[];
    versions integer[];
    newest bigint := 0;
begin
    perform from fences f where f.id = any(ids) order by f.id for update;
    return query
        select g.id, null::bigint, null::integer, null::boolean, coalesce(f.version, 0)
        from unnest(ids) as g (id) left join fences f on f.id = g.id
        where not allows(expected, f.version);
    if found then
        return;
    end if;
    with put as (
        insert into fences as f (id, brand, feature, version)
            select g.id, g.brand, g.feature, 1 + coalesce(l.version, 0)
            from unnest(ids, brands, features) as g (id, brand, feature)
            left join last_versions l on l.kind = 'fence' and l.id = g.id
            order by g.id collate "C"
            on conflict (id) do update
                set brand = excluded.brand, feature = excluded.feature, version = f.version + 1
                where (f.feature <> excluded.feature or f.brand <> excluded.brand)
                    and allows(expected, f.version)
            returning f.id, f.version, f.xmax = 0 as made
    )
    select coalesce(array_agg(p.id order by p.id), '{}'),
            coalesce(array_agg(p.version order by p.id), '{}'),
            coalesce(array_agg(p.made order by p.id), '{}')
        into given, versions, made from put p;
    if cardinality(given) > 0 then
        perform note(who, 'fence', given,
            (select array_agg(f.brand order by f.id) from fences f where f.id = any(given)),
            versions,
            (select array_agg(case when m then 'created' else 'updated' end order by n)
                from unnest(made) with ordinality as w (m, n)));
        newest := append_changes('fence', given);
    end if;
    return query
        select f.id, coalesce(newest - cardinality(given) + w.n, 0), f.version,
            coalesce(w.made, false),
            -- One that another writer made while we looked.
            case when w.n is null and not allows(expected, f.version) then f.version end
        from fences f
        left join unnest(given, made) with ordinality as w (id, made, n) on w.id = f.id
        where f.id = any(ids);
end $$;

-- Write what was staged (see the query `stage_rows`), in one line of the feed.
create function put_staged(
    a_batch text, who text[],
    out number bigint, out created integer, out updated integer, out unchanged integer
) language plpgsql as $$
begin
    with put as (
        insert into brands as b (id, document, version)
            select s.id, s.body, 1 + coalesce(l.version, 0)
            from staged s left join last_versions l on l.kind = 'brand' and l.id = s.id
            where s.kind = 'brand' order by s.id
            on conflict (id) do update set document = excluded.document, version = b.version + 1
                where b.document <> excluded.document
            returning b.id, b.version, b.xmax = 0 as made
    )
    update staged s set version = p.version,
        outcome = case when p.made then 'created' else 'updated' end
    from put p where s.kind = 'brand' and s.id = p.id;
    with put as (
        insert into fences as f (id, brand, feature, version)
            select s.id, s.brand, s.body, 1 + coalesce(l.version, 0)
            from staged s left join last_versions l on l.kind = 'fence' and l.id = s.id
            where s.kind = 'fence' order by s.id
            on conflict (id) do update
                set brand = excluded.brand, feature = excluded.feature, version = f.version + 1
                where f.feature <> excluded.feature or f.brand <> excluded.brand
            returning f.id, f.version, f.xmax = 0 as made
    )
    update staged s set version = p.version,
        outcome = case when p.made then 'created' else 'updated' end
    from put p where s.kind = 'fence' and s.id = p.id;
    with put as (
        insert into offers as o (id, document, version)
            select s.id, s.body, 1 + coalesce(l.version, 0)
            from staged s left join last_versions l on l.kind = 'offer' and l.id = s.id
            where s.kind = 'offer' order by s.id
            on conflict (id) do update set document = excluded.document, version = o.version + 1
                where o.document <> excluded.document
            returning o.id, o.version, o.xmax = 0 as made
    )
    update staged s set version = p.version,
        outcome = case when p.made then 'created' else 'updated' end
    from put p where s.kind = 'offer' and s.id = p.id;
    select count(*) filter (where outcome = 'created'),
            count(*) filter (where outcome = 'updated'), count(*) filter (where outcome is null)
        into created, updated, unchanged from staged;
    number := 0;
    if created + updated = 0 then
        return;
    end if;
    insert into audit (
        at_ms, key, name, role, action, request, kind, id, brand, version, outcome
    )
    select who[1]::bigint, who[2], who[3], who[4], who[5], who[6], s.kind, s.id, s.brand,
        s.version, s.outcome
    from staged s where who is not null and outcome is not null order by s.kind, s.id;
    insert into batches (batch, part, kind, ids)
        select a_batch, n / 1000, w.kind, array_agg(w.id order by w.id) from (
            select s.kind, s.id, row_number() over (partition by s.kind order by s.id) - 1 as n
            from staged s where outcome is not null
        ) as w group by w.kind, n / 1000;
    number := append_changes('batch', array[a_batch]);
end $$;

-- Make residents who are not there, and append what is known of their say to those who never said
-- anything; whoever has a record keeps just that. Returns those that were written.
-- owners: whose each record is, in their order.
create function import_residents(
    ids text[], all_settings bytea[], owners text[], versions integer[], record_ids text[],
    bodies bytea[], who text[], out number bigint, out made text[], out said text[]
) language plpgsql as $$
begin
    with put as (
        insert into residents (id, settings)
            select g.id, g.settings from unnest(ids, all_settings) as g (id, settings)
            order by g.id collate "C"
            on conflict (id) do nothing returning id
    )
    select coalesce(array_agg(id order by id), '{}') into made from put;
    perform from residents r where r.id = any(ids) order by r.id for update;
    select coalesce(array_agg(r.id order by r.id), '{}') into said
        from residents r where r.id = any(ids) and r.version = 0 and r.id = any(owners);
    insert into consent_records (resident, position, version, id, body)
        select g.owner, row_number() over (partition by g.owner order by g.n), g.version, g.id,
            g.body
        from unnest(owners, versions, record_ids, bodies) with ordinality
            as g (owner, version, id, body, n)
        where g.owner = any(said);
    update residents r set version = g.version
        from (
            select o.owner, max(o.version) as version
            from unnest(owners, versions) as o (owner, version) group by o.owner
        ) as g
        where r.id = g.owner and r.id = any(said);
    select said || coalesce(array_agg(m.id), '{}') into said
        from unnest(made) as m (id) where m.id <> all(said);
    number := 0;
    if cardinality(said) > 0 then
        perform note(who, 'resident', said, array_fill(null::text, array[cardinality(said)]),
            (select array_agg(r.version order by g.n)
                from unnest(said) with ordinality as g (id, n) join residents r on r.id = g.id),
            (select array_agg(case when g.id = any(made) then 'created' else 'updated' end
                order by g.n) from unnest(said) with ordinality as g (id, n)));
        number := append_changes('resident', said);
    end if;
end $$;
