-- What protects residents whatever they grant, and the texts that they are shown.

create table protections (
    resident text collate "C" primary key references residents (id) on delete cascade,
    version integer not null,
    body bytea not null
);
comment on table protections is
    'Private zones and age. A row is never deleted while its resident is there, so that a version '
    'never means two things.';

create table notices (
    id text collate "C" not null,
    version text collate "C" not null,
    locale text collate "C" not null,
    hash text not null,
    at_ms bigint not null,
    text text not null,
    primary key (id, version, locale)
);

create trigger notices_append_only
    before update or delete or truncate on notices
    for each statement execute function refuse_rewriting();

-- Replace what protects a resident if its version has not moved (0: there was nothing).
create function put_protection(
    who text, before integer, a_body bytea, author text[],
    out number bigint, out version_found integer
) language plpgsql as $$
begin
    perform from residents r where r.id = who for update;
    if not found then
        return;
    end if;
    version_found := coalesce((select p.version from protections p where p.resident = who), 0);
    if version_found <> before then
        return;
    end if;
    insert into protections as p (resident, version, body) values (who, before + 1, a_body)
        on conflict (resident) do update set version = excluded.version, body = excluded.body;
    perform note(author, 'protection', array[who], array[null]::text[], array[before + 1],
        array[case before when 0 then 'created' else 'updated' end]);
    number := append_changes('protection', array[who]);
end $$;

-- Keep the text of a notice, if there is none yet; the hash of the one that is there.
create function put_notice(
    an_id text, a_version text, a_locale text, a_hash text, an_at_ms bigint, a_text text,
    author text[], out hash_kept text, out made boolean
) language plpgsql as $$
begin
    insert into notices (id, version, locale, hash, at_ms, text)
        values (an_id, a_version, a_locale, a_hash, an_at_ms, a_text)
        on conflict (id, version, locale) do nothing;
    made := found;
    if made then
        perform note(author, 'notice', array[an_id], array[null]::text[], array[0],
            array['created']);
    end if;
    select n.hash into hash_kept from notices n
        where n.id = an_id and n.version = a_version and n.locale = a_locale;
end $$;
