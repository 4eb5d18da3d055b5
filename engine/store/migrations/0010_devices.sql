-- A resident's devices: codes by which a second one joins, and two residents who become one.

create table pairings (
    hash text primary key,
    resident text collate "C" not null references residents (id) on delete cascade,
    expires_ms bigint not null
);
create index pairings_of_resident on pairings (resident);
comment on table pairings is 'SHA-256 of codes that can still be used, once.';

alter table residents add column merged_into text collate "C";
create index residents_merged on residents (merged_into) where merged_into is not null;
comment on column residents.merged_into is
    'Whose settings hold for whoever this was; the records stay, and nothing is granted by them.';

-- Keep a code for a resident, and at most five of them; false if there is no such resident.
create function put_pairing(a_hash text, who text, until_ms bigint, now_ms bigint) returns boolean
language plpgsql as $$
begin
    perform from residents r where r.id = who and r.merged_into is null for key share;
    if not found then
        return false;
    end if;
    delete from pairings p where p.expires_ms <= now_ms;
    delete from pairings p where p.hash in (
        select o.hash from pairings o where o.resident = who
        order by o.expires_ms desc, o.hash offset 4
    );
    insert into pairings (hash, resident, expires_ms) values (a_hash, who, until_ms);
    return true;
end $$;

create function add_records(who text, versions integer[], record_ids text[], bodies bytea[])
returns void language sql as $$
    insert into consent_records (resident, position, version, id, body)
        select who, n.newest + g.n, g.version, g.id, g.body
        from (select coalesce(max(c.position), 0) as newest
            from consent_records c where c.resident = who) as n,
            unnest(versions, record_ids, bodies) with ordinality as g (version, id, body, n);
    update residents set version = versions[cardinality(versions)] where id = who;
$$;

create function guard_version(who text) returns integer language sql stable as $$
    select coalesce((select p.version from protections p where p.resident = who), 0)
$$;

-- Make one resident of two. Returns the feed's number; or `moved` if somebody wrote meanwhile; or
-- neither, if one of them is not there, or was merged before.
create function merge_residents(
    kept_id text, gone_id text, version_stays integer, version_goes integer,
    versions integer[], record_ids text[], bodies bytea[],
    goes_versions integer[], goes_ids text[], goes_bodies bytea[],
    a_settings bytea, a_protection bytea, guard_stays integer, guard_goes integer, author text[],
    out number bigint, out moved boolean
) language plpgsql as $$
declare
    there integer;
    moved_keys text[];
    moved_claims integer;
begin
    moved := false;
    perform from residents r where r.id in (kept_id, gone_id) order by r.id for update;
    select count(*) into there from residents r
        where r.id in (kept_id, gone_id) and r.merged_into is null;
    if there < 2 then
        return;
    end if;
    moved := version_stays <> (select r.version from residents r where r.id = kept_id)
        or version_goes <> (select r.version from residents r where r.id = gone_id)
        or guard_stays <> guard_version(kept_id)
        or guard_goes <> guard_version(gone_id);
    if moved then
        return;
    end if;

    perform add_records(kept_id, versions, record_ids, bodies);
    perform add_records(gone_id, goes_versions, goes_ids, goes_bodies);
    update residents r set settings = a_settings where r.id = kept_id;
    update residents r set merged_into = kept_id where r.id = gone_id or r.merged_into = gone_id;
    delete from pairings p where p.resident = gone_id;
    with given as (
        update keys k
            set document = convert_to((convert_from(k.document, 'UTF8')::jsonb
                || jsonb_build_object('resident', kept_id))::text, 'UTF8')
            where resident_of(k.document) = gone_id returning k.id
    )
    select coalesce(array_agg(id order by id), '{}') into moved_keys from given;

    -- As a group commit locks: residents' states in the order of their ids, then claims.
    insert into resident_states (resident)
        select g.id from unnest(array[kept_id, gone_id]) as g (id) order by g.id collate "C"
        on conflict (resident) do nothing;
    perform from resident_states s where s.resident in (kept_id, gone_id)
        order by s.resident for update;
    update claims c set resident = kept_id where c.resident = gone_id;
    get diagnostics moved_claims = row_count;
    update resident_states s set claims = s.claims + moved_claims where s.resident = kept_id;
    delete from resident_states s where s.resident = gone_id;
    update events e set resident = case when e.name = 'preferences' then null else kept_id end
        where e.resident = gone_id and e.name <> 'transition';
    update events e set resident = null where e.resident = gone_id and e.name = 'transition';

    perform note(author, 'resident', array[kept_id, gone_id], array[null, null]::text[],
        array[versions[cardinality(versions)], goes_versions[cardinality(goes_versions)]],
        array['updated', 'updated']);
    if cardinality(moved_keys) > 0 then
        perform append_changes('key', moved_keys);
    end if;
    if a_protection is not null then
        insert into protections as p (resident, version, body)
            values (kept_id, guard_stays + 1, a_protection)
            on conflict (resident) do update set version = excluded.version, body = excluded.body;
        update protections p set version = p.version + 1, body = convert_to('{}', 'UTF8')
            where p.resident = gone_id;
        perform append_changes('protection', array[kept_id, gone_id]);
    end if;
    number := append_changes('resident', array[kept_id, gone_id]);
end $$;

-- As before, with all that was merged into the resident.
create or replace function erase_resident(who text, an_erasure text, author text[]) returns bigint
language plpgsql as $$
declare
    ids text[];
    one text;
    gone_keys text[];
begin
    perform from residents r where r.id = who or r.merged_into = who order by r.id for update;
    select array_agg(r.id order by r.id) into ids
        from residents r where r.id = who or r.merged_into = who;
    if ids is null or who <> all(ids) then
        return null;
    end if;
    perform set_config('passby.erasing', 'on', true);
    insert into erased_records (erasure, position, id)
        select an_erasure, row_number() over (order by c.resident, c.position), c.id
        from consent_records c
        where c.resident = any(ids) and convert_from(c.body, 'UTF8')::jsonb ? 'salt';
    delete from consent_records c where c.resident = any(ids);
    with gone as (
        delete from keys k where resident_of(k.document) = any(ids) returning k.id
    )
    select coalesce(array_agg(id order by id), '{}') into gone_keys from gone;
    delete from kept_answers a where a.key = any(gone_keys);
    delete from residents r where r.id = any(ids);
    update audit a set id = an_erasure
        where a.id = any(ids) and a.kind in ('resident', 'protection');
    foreach one in array ids loop
        perform forget_traces(one);
        insert into erasures (erasure, resident)
            values (an_erasure || case when one = who then '' else '-' || md5(random()::text) end,
                one);
    end loop;
    perform note(author, 'resident', array[an_erasure], array[null]::text[], array[0],
        array['deleted']);
    perform set_config('passby.erasing', '', true);
    if cardinality(gone_keys) > 0 then
        perform append_changes('key', gone_keys);
    end if;
    return append_changes('resident', ids || array['']);
end $$;
