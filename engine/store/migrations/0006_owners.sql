-- A merchant's write never replaces or deletes what belongs to another brand, not even where two
-- make a thing of the same new id at once: each looked before there was anything to see.

-- Let the rest of this transaction touch the author's brands only, if it has any, in `who[7]` with
-- a comma before each. Gives `who`, so that a write can take it from here and happens afterwards.
create function guard(who text[]) returns text[] language plpgsql as $$
begin
    perform set_config('passby.brands', coalesce(who[7], ''), true);
    return who;
end $$;

create function keep_foreign() returns trigger language plpgsql as $$
declare
    own text := nullif(current_setting('passby.brands', true), '');
    owner text;
begin
    if own is not null then
        if tg_table_name = 'fences' then
            owner := old.brand;
        else
            owner := convert_from(old.document, 'UTF8')::jsonb ->> 'brand';
        end if;
        if owner <> all(string_to_array(own, ',')) then
            raise exception 'it belongs to another brand' using errcode = 'PB001';
        end if;
    end if;
    return case tg_op when 'DELETE' then old else new end;
end $$;

create trigger keep_foreign before update or delete on fences
    for each row execute function keep_foreign();
create trigger keep_foreign before update or delete on offers
    for each row execute function keep_foreign();
