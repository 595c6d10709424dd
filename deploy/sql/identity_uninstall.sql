-- Takes the login tier out of a database. Policies that use app.uid() keep it from going: change them first.
--
--     psql -v ON_ERROR_STOP=1 -1 -f identity_uninstall.sql
--
-- The role pgusher_identity belongs to the cluster. It goes with the last database that has the login tier.

drop function if exists app.uid();
drop function if exists ident.rotate_key(text, interval);
drop function if exists ident.add_key(text);
drop function if exists ident.rotate_secret(bytea, interval);
drop function if exists ident.add_secret(bytea);
drop function if exists ident.uid();
drop function if exists ident.login(text);
drop table if exists ident.keys;
drop schema if exists ident;

do $$
begin
    revoke set on parameter backtrace_functions from pgusher_identity;
    drop role pgusher_identity;
exception
    when undefined_object then null;
    when dependent_objects_still_exist then null; -- another database has it still; the rollback of this block keeps its right
end
$$;
