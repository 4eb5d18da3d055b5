-- What is held on a resident can be forgotten whole, and old things are without being asked.

create table erased_records (
    erasure text collate "C" not null,
    position integer not null,
    id text not null,
    primary key (erasure, position)
);
comment on table erased_records is
    'Hashes of salted records whose bodies are gone: whoever has the receipt can show that there was '
    'one, and nobody can find out by trying what it said.';

create table erasures (
    erasure text collate "C" primary key,
    resident text collate "C" not null,
    at timestamptz not null default clock_timestamp()
);
comment on table erasures is
    'Whose traces are looked for again: what was decided before they were erased may be committed '
    'after it. Gone within the hour.';

alter table claims add column anonymous boolean not null default false;
create index claims_named on claims (made_ms) where not anonymous;
create index events_of_sharing on events (resident)
    where resident is not null and name = 'transition';

-- Whose a key is. Immutable, since a database's encoding is: so that it can be an index.
create function resident_of(document bytea) returns text language sql immutable as $$
    select convert_from(document, 'UTF8')::jsonb ->> 'resident'
$$;
create index keys_of_resident on keys (resident_of(document))
    where resident_of(document) is not null;

create function is_erasing() returns boolean language sql stable as $$
    select coalesce(current_setting('passby.erasing', true), '') = 'on'
$$;

-- Records go whole, and only with their resident.
create function keep_records() returns trigger language plpgsql as $$
begin
    if tg_op <> 'DELETE' or not is_erasing() then
        raise exception 'consent_records is append-only';
    end if;
    return null;
end $$;

drop trigger consent_records_append_only on consent_records;
create trigger consent_records_append_only
    before update or delete or truncate on consent_records
    for each statement execute function keep_records();

-- Entries go by age, and lose the name of a resident who is erased.
create or replace function keep_audit() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and is_erasing() then
        return null;
    end if;
    if tg_op <> 'DELETE' or coalesce(current_setting('passby.pruning', true), '') <> 'on' then
        raise exception 'audit is append-only';
    end if;
    return null;
end $$;

create function nobody() returns text language sql volatile as $$
    select 'erased-' || replace(gen_random_uuid()::text, '-', '')
$$;

-- Claims become nobody's, each nobody of its own, so that they can still be counted and no two be
-- told to be one resident's.
create function anonymise(claim_ids text[]) returns void language sql as $$
    update claims
        set resident = nobody(), decision = nobody(), anonymous = true,
            why = convert_to('{"candidates":[],"allowed_by":[]}', 'UTF8')
        where id = any(claim_ids)
$$;

-- Forget all that is written while pings are answered.
create function forget_traces(who text) returns void language plpgsql
set enable_seqscan = off as $$
begin
    delete from resident_states s where s.resident = who;
    perform anonymise((select coalesce(array_agg(c.id), '{}') from claims c where c.resident = who));
    update events e set resident = null where e.resident = who and e.name <> 'transition';
    update events e set resident = null where e.resident = who and e.name = 'transition';
end $$;

-- Erase a resident; the feed's number, or null if there is none. The line that names them is
-- followed by one that names nobody, since the newest line of the feed is kept for ever.
create function erase_resident(who text, an_erasure text, author text[]) returns bigint
language plpgsql as $$
declare
    gone_keys text[];
begin
    perform from residents r where r.id = who for update;
    if not found then
        return null;
    end if;
    perform set_config('passby.erasing', 'on', true);
    insert into erased_records (erasure, position, id)
        select an_erasure, c.position, c.id from consent_records c
        where c.resident = who and convert_from(c.body, 'UTF8')::jsonb ? 'salt';
    delete from consent_records c where c.resident = who;
    with gone as (
        delete from keys k where resident_of(k.document) = who
        returning k.id
    )
    select coalesce(array_agg(id order by id), '{}') into gone_keys from gone;
    delete from kept_answers a where a.key = any(gone_keys);
    delete from residents r where r.id = who;
    update audit a set id = an_erasure where a.id = who and a.kind in ('resident', 'protection');
    perform forget_traces(who);
    insert into erasures (erasure, resident) values (an_erasure, who);
    perform note(author, 'resident', array[an_erasure], array[null]::text[], array[0],
        array['deleted']);
    perform set_config('passby.erasing', '', true);
    if cardinality(gone_keys) > 0 then
        perform append_changes('key', gone_keys);
    end if;
    return append_changes('resident', array[who, '']);
end $$;

-- Look again for the traces of those who were erased, and forget what is too old, at most so many
-- rows of a kind; how many, or `busy`: another process is at it.
create function retain(
    presence_before_ms bigint, claims_before_ms bigint, most integer,
    out busy boolean, out presences integer, out claims integer
) language plpgsql as $$
declare
    gone record;
    old text[];
begin
    busy := not pg_try_advisory_xact_lock(hashtextextended('passby_retain', 0));
    if busy then
        return;
    end if;
    for gone in select e.erasure, e.resident, e.at from erasures e loop
        if not exists (select from residents r where r.id = gone.resident) then
            perform forget_traces(gone.resident);
        end if;
        delete from erasures e
            where e.erasure = gone.erasure and gone.at < clock_timestamp() - interval '1 hour';
    end loop;

    -- In the order of their ids, as a group commit locks them; one that is being written is not old.
    with oldest as (
        select s.resident from resident_states s
        where s.stays is not null and s.seen_ms < presence_before_ms
        order by s.resident limit most for update skip locked
    )
    update resident_states s set stays = null, seen_ms = null
        from oldest o where s.resident = o.resident;
    get diagnostics presences = row_count;

    select coalesce(array_agg(o.id), '{}') into old from (
        select c.id from claims c where c.made_ms < claims_before_ms and not c.anonymous
        order by c.made_ms limit most
    ) as o;
    perform anonymise(old);
    claims := cardinality(old);
end $$;
