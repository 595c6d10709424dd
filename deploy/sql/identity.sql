-- The login tier: who the user is, where the application's own SQL cannot change it.
--
-- pgusher calls ident.login(token) before each transaction. The token says who the user is, and is signed (HMAC-SHA256) with a key
-- that only pgusher and the table ident.keys have. The identity is kept in a setting that the application's role may not
-- set, and policies read it through app.uid().
--
-- PostgreSQL 15 to 18. Run by a superuser in the application's database, as often as you like (it upgrades what is there):
--
--     pgusher identity install                                        with the key of the configuration, or by hand
--     psql -v ON_ERROR_STOP=1 -1 -f identity.sql -c "select ident.add_key('the text of identity.login_key')"
--
-- Why backtrace_functions: a setting that is not changed without the right to (GRANT SET ON PARAMETER), takes any text of
-- [0-9A-Za-z_, ], and otherwise does next to nothing. Settings of an application's own cannot be protected, in any version.

do $$
begin
    if current_setting('server_version_num')::int < 150000 then
        raise exception 'the login tier needs PostgreSQL 15 or later, this is %', current_setting('server_version')
            using errcode = '0A000', hint = 'Before 15 there is no GRANT SET ON PARAMETER. Use identity.form = "bound".';
    end if;
    if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        raise exception 'the login tier has to be installed by a superuser, % is none', current_user
            using errcode = '42501', hint = 'Only a superuser can GRANT SET ON PARAMETER.';
    end if;
end
$$;

do $$
begin
    -- It owns the functions and the keys, and nothing else; nobody is a member of it. Roles and rights to parameters belong to the
    -- cluster: they may be there from another database, or be made this instant.
    lock table pg_catalog.pg_parameter_acl in share row exclusive mode;
    if to_regrole('pgusher_identity') is null then
        create role pgusher_identity nologin;
    end if;
    if not has_parameter_privilege('pgusher_identity', 'backtrace_functions', 'SET') then
        grant set on parameter backtrace_functions to pgusher_identity;
    end if;
end
$$;

create schema if not exists ident authorization pgusher_identity;
alter schema ident owner to pgusher_identity;
revoke all on schema ident from public;
grant usage on schema ident to public;

-- Of each key what HMAC makes of it (RFC 2104): the blocks that the inner and the outer hash begin with.
create table if not exists ident.keys (
    id         text primary key,
    inner_pad  bytea not null check (length(inner_pad) = 64),
    outer_pad  bytea not null check (length(outer_pad) = 64),
    created_at timestamptz not null default now(),
    retires_at timestamptz
);
alter table ident.keys owner to pgusher_identity;
revoke all on ident.keys from public;

-- Who logs in: one call for each transaction. A token is
--     1.key.pid.sequence.first.expires.identity.mac
-- identity being hexadecimal, and mac HMAC-SHA256 over all before it, hexadecimal. What is not exactly so is 28000.
create or replace function ident.login(token text) returns void
language plpgsql security definer parallel restricted set search_path = pg_catalog as $$
declare
    part   text[] := string_to_array(token, '.');
    pad    record;
    known  text := current_setting('backtrace_functions');
    mac    text;
    reason text;
begin
    select k.inner_pad, k.outer_pad, k.retires_at into pad from ident.keys k where k.id = part[2];
    mac := encode(sha256(pad.outer_pad || sha256(pad.inner_pad || convert_to(left(token, -1 - length(part[8])), 'UTF8'))), 'hex');
    if part[1] is distinct from '1' or cardinality(part) <> 8 then
        reason := 'the token is not understood';
    elsif pad.inner_pad is null then
        reason := 'the token was signed with a key that is not in ident.keys';
    elsif sha256(convert_to(mac, 'UTF8')) is distinct from sha256(convert_to(part[8], 'UTF8')) then -- how far they agree takes no time
        reason := 'the signature of the token is wrong';
    elsif pad.retires_at < clock_timestamp() then
        reason := 'the token was signed with a key that has been retired';
    elsif part[3] <> pg_backend_pid()::text then
        reason := 'the token was made for another server process';
    elsif to_timestamp(part[6]::bigint) < clock_timestamp() then
        reason := 'the token has expired';
    elsif known !~ '^pgusher_[0-9]+_[0-9a-f]*$' then
        -- Nobody has logged in here, or somebody has said RESET ALL: only a token made for that may follow.
        if part[5] <> '1' then
            reason := 'the token is not the first of this session';
        end if;
    elsif part[5] = '1' or part[4]::bigint <= split_part(known, '_', 2)::bigint then
        reason := 'the token has been used';
    end if;
    if reason is not null then
        raise exception 'identity refused: %', reason using errcode = '28000';
    end if;
    perform set_config('backtrace_functions', 'pgusher_' || part[4] || '_' || part[7], false);
end
$$;
alter function ident.login(text) owner to pgusher_identity;
revoke all on function ident.login(text) from public;
grant execute on function ident.login(text) to public; -- without the key it lets nobody in

-- Who is logged in, as text; NULL is nobody.
create or replace function ident.uid() returns text
language sql stable parallel safe as $$
    select pg_catalog.convert_from(pg_catalog.decode(nullif(case
        when pg_catalog.current_setting('backtrace_functions') operator(pg_catalog.~~) 'pgusher\_%'
        then pg_catalog.split_part(pg_catalog.current_setting('backtrace_functions'), '_', 3) end, ''), 'hex'), 'UTF8')
$$;
alter function ident.uid() owner to pgusher_identity;
grant execute on function ident.uid() to public;

-- The same for policies: USING (owner_id = (SELECT app.uid())). Never IMMUTABLE: it would be folded into cached plans.
create schema if not exists app;
grant usage on schema app to public;
create or replace function app.uid() returns uuid
language sql stable parallel safe as $$ select ident.uid()::uuid $$;
grant execute on function app.uid() to public;

-- Adds a key, given by the SHA-256 of its text; gives the name that tokens call it by. Others stay as they are.
create or replace function ident.add_secret(secret bytea) returns text
language plpgsql set search_path = pg_catalog as $$
declare
    inside bytea := decode(repeat('36', 64), 'hex');
    around bytea := decode(repeat('5c', 64), 'hex');
    name   text := left(encode(sha256('pgusher key '::bytea || secret), 'hex'), 16);
begin
    for at in 0..31 loop
        inside := set_byte(inside, at, get_byte(secret, at) # 54);
        around := set_byte(around, at, get_byte(secret, at) # 92);
    end loop;
    insert into ident.keys (id, inner_pad, outer_pad) values (name, inside, around)
    on conflict (id) do update set retires_at = null;
    return name;
end
$$;

-- Adds a key, and ends all others after a while: as long as it takes until every pgusher has the new one.
create or replace function ident.rotate_secret(secret bytea, grace interval default '1 hour') returns text
language plpgsql set search_path = pg_catalog as $$
declare
    name text := ident.add_secret(secret);
begin
    delete from ident.keys where retires_at < now();
    update ident.keys set retires_at = least(retires_at, now() + grace) where id <> name;
    return name;
end
$$;

-- The same by hand, with the text of identity.login_key.
create or replace function ident.add_key(key text) returns text
language plpgsql set search_path = pg_catalog as $$
begin
    if octet_length(key) < 32 then
        raise exception 'a key has at least 32 characters' using errcode = '22023', hint = 'openssl rand -hex 32';
    end if;
    return ident.add_secret(sha256(convert_to(key, 'UTF8')));
end
$$;

create or replace function ident.rotate_key(key text, grace interval default '1 hour') returns text
language plpgsql set search_path = pg_catalog as $$
begin
    perform ident.add_key(key);
    return ident.rotate_secret(sha256(convert_to(key, 'UTF8')), grace);
end
$$;

do $$
declare
    function regprocedure;
begin
    foreach function in array array['ident.add_secret(bytea)', 'ident.rotate_secret(bytea, interval)', 'ident.add_key(text)', 'ident.rotate_key(text, interval)']::regprocedure[] loop
        execute format('alter function %s owner to pgusher_identity', function);
        execute format('revoke all on function %s from public', function);
    end loop;
end
$$;
