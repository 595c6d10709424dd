//! What a session can leave behind, and hostile SQL on purpose.

use super::{A, B, ME, act, first_column, is, me};
use crate::contract;
use crate::harness::{Raw, notation, say};

contract! {
    /// 22.
    async fn discarding_everything_leaves_each_itself(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let mut c = stage.client().await;

        for _ in 0..2 {
            for client in [&mut a, &mut c] {
                client.rows("discard all").await;
                client.ask([say::extended("discard all", &[]), say::sync()]).await;
            }
            is(&mut a, A).await;
            is(&mut b, B).await;
            assert_eq!(me(&mut c).await, "");
        }
        c.rows(&format!("set app.current_user_id = '{B}'")).await;
        is(&mut c, B).await;
        c.rows("discard all").await;
        assert_eq!(me(&mut c).await, "", "what was set goes with it, as on a server of one's own");

        stage.nobody_acted_as_another().await;
    }

    /// 24.
    async fn a_search_path_of_traps_catches_nobody(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        a.rows("create schema evil").await;
        a.rows("create function evil.set_config(text, text, boolean) returns text language sql as $$ select 'evil' $$").await;
        a.rows("create function evil.current_setting(text, boolean) returns text language sql as $$ select 'evil' $$").await;
        a.rows("create function evil.equals(text, text) returns boolean language sql as $$ select true $$").await;
        a.rows("create operator evil.= (leftarg = text, rightarg = text, function = evil.equals)").await;
        a.rows("create table evil.pg_settings (name text, setting text, source text)").await;

        for path in [
            "set search_path = evil, pg_catalog",
            "do $$ begin set search_path = evil, pg_catalog; end $$",
            "do $$ begin perform pg_catalog.set_config('search_path', 'evil, pg_catalog', false); end $$",
        ] {
            a.rows(path).await;
            assert_eq!(me(&mut a).await, A, "{path}");
            is(&mut b, B).await;
            a.rows("reset search_path").await;
            is(&mut a, A).await;
            is(&mut b, B).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 25.
    async fn an_identity_changed_by_code_ends_with_its_transaction(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        stage.postgres.sql(
            "create function become(who text) returns text language sql as
             $$ select set_config('app.current_user_id', who, false) $$").await;
        let code = format!("do $$ begin perform set_config('app.current_user_id', '{B}', false); end $$");
        let computed = format!("select set_config('app.' || 'current_user_id', '{B}', false)");

        for sql in [&code, &computed, &format!("select become('{B}')"), &format!("select query_to_xml('select become(''{B}'')', true, true, '')")] {
            a.rows("begin").await;
            a.rows(sql).await;
            assert_eq!(me(&mut a).await, B, "{sql}: PostgreSQL allows it, in its own transaction");
            a.rows("commit").await;
            is(&mut a, A).await;
            is(&mut b, B).await;
            a.query(sql).await;
            is(&mut a, A).await;
            is(&mut b, B).await;
            a.query(sql).await;
            is(&mut b, B).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 37.
    async fn a_cursor_that_outlives_its_transaction_is_nobody_elses(setting: Setting) {
        let stage = setting.stage_with(|pgusher| pgusher.pool_size(2)).await;
        let mut b = stage.client_for(B).await;

        for says_so in [true, false] {
            let mut a = stage.client_for(A).await;
            is(&mut a, A).await;
            let declare = "declare c scroll cursor with hold for select said from notes";
            if says_so {
                a.rows(declare).await;
            } else {
                a.rows(&format!("do $$ begin execute '{declare}'; end $$")).await;
            }
            for _ in 0..3 {
                assert_eq!(notation(&b.query("fetch c").await), "E(34000) Z(I)");
                assert_eq!(a.value("fetch first from c").await, A);
            }
            a.terminate().await;
            for _ in 0..3 {
                let mut other = stage.client_for(B).await;
                let (one, two) = tokio::join!(b.query("fetch all c"), other.query("fetch all c"));
                assert_eq!((notation(&one).as_str(), notation(&two).as_str()), ("E(34000) Z(I)", "E(34000) Z(I)"));
            }
        }

        is(&mut b, B).await;
        stage.nobody_acted_as_another().await;
    }

    /// 38.
    async fn a_temporary_table_catches_nobody_elses_rows(setting: Setting) {
        let stage = setting.stage_with(|pgusher| pgusher.pool_size(2)).await;
        let mut b = stage.client_for(B).await;

        for create in [
            "create temporary table notes (said text)",
            "select 1 as said into temp notes",
            "do $$ begin create temp table notes (said text); end $$",
            "create table pg_temp.notes (said text)",
        ] {
            let mut a = stage.client_for(A).await;
            a.rows(create).await;
            is(&mut b, B).await;
            a.rows("insert into notes (said) values (1)").await;
            is(&mut b, B).await;
            a.terminate().await;
            let mut other = stage.client_for(B).await;
            b.rows("begin").await;
            is(&mut other, B).await;
            b.rows(&act(B)).await;
            b.rows("commit").await;
        }

        assert_eq!(stage.postgres.value("select count(*) from notes where owner is null").await, "0");
        stage.nobody_acted_as_another().await;
    }

    /// 39.
    async fn a_role_or_switch_that_is_left_behind_is_nobody_elses(setting: Setting) {
        let stage = setting.stage().await;
        let superuser = stage.target.clone().user("postgres", "postgres");
        let mut b = Raw::login(&superuser.clone().with("app.current_user_id", B)).await;

        for set in [
            "set role app",
            "set session authorization app",
            "do $$ begin set role app; end $$",
            "do $$ begin set session authorization app; end $$",
            "select set_config('role', 'app', false)",
        ] {
            let mut a = Raw::login(&superuser.clone().with("app.current_user_id", A)).await;
            a.rows(set).await;
            assert_eq!(a.value("select current_user").await, "app", "{set}");
            assert_eq!(me(&mut a).await, A);
            a.terminate().await;
            assert_eq!(b.value("select current_user || ' ' || session_user").await, "postgres postgres", "after {set}");
            assert_eq!(me(&mut b).await, B);
        }
        let (mut c, mut d) = stage.pair().await;
        is(&mut d, B).await;
        for set in ["set row_security = off", "do $$ begin set row_security = off; end $$"] {
            c.rows(set).await;
            assert_eq!(notation(&c.query("select * from notes").await), "E(42501) Z(I)", "{set}");
            is(&mut d, B).await;
            c.rows("reset row_security").await;
            is(&mut c, A).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 40.
    async fn locks_listening_and_sequences_are_nobody_elses(setting: Setting) {
        let stage = setting.stage().await;
        stage.postgres.sql("create sequence s; grant usage on s to app").await;
        let mut b = stage.client_for(B).await;

        let mut a = stage.client_for(A).await;
        a.rows("select pg_advisory_lock(42)").await;
        a.terminate().await;
        assert_eq!(b.value("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()").await, "0");

        let mut a = stage.client_for(A).await;
        a.rows("listen news").await;
        a.terminate().await;
        assert_eq!(b.value("select count(*) from pg_listening_channels()").await, "0");
        stage.postgres.sql("notify news").await;
        assert_eq!(notation(&b.query(ME).await), "T D C(SELECT 1) Z(I)");

        let mut a = stage.client_for(A).await;
        a.rows("select nextval('s')").await;
        for unit in [vec![say::query("select lastval()")], vec![say::extended("select lastval()", &[]), say::sync()]] {
            let answer = b.ask(unit).await;
            assert!(answer.contains("E(55000)"), "{answer}");
        }

        is(&mut b, B).await;
        is(&mut a, A).await;
        stage.nobody_acted_as_another().await;
    }

    /// 43.
    async fn what_a_startup_option_opened_is_not_what_a_reset_goes_back_to(setting: Setting) {
        let stage = setting.stage().await;
        let options = stage.target.clone().with("options", &format!("-c app.current_user_id={A}"));
        let mut a = Raw::login(&options).await;
        is(&mut a, A).await;
        let (mut b, mut c) = (stage.client_for(B).await, stage.client().await);

        for reset in ["reset all", "reset app.current_user_id", "set app.current_user_id to default", "discard all"] {
            for client in [&mut b, &mut c] {
                client.rows(reset).await;
                client.ask([say::extended(reset, &[]), say::sync()]).await;
            }
            assert_eq!(me(&mut b).await, B, "{reset}");
            assert_eq!(me(&mut c).await, "", "{reset}");
            let reset = if reset == "discard all" { "reset all" } else { reset };
            for statement in ["begin", reset, "commit"] {
                b.rows(statement).await;
            }
            assert_eq!(me(&mut b).await, B, "{reset}");
            c.rows("begin").await;
            c.rows(reset).await;
            assert_eq!(first_column(&c.query(ME).await), [""], "{reset}");
            c.rows("rollback").await;
            is(&mut a, A).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 43, the other way round: what the role or the database sets is overridden for every client.
    async fn an_identity_set_for_the_role_or_database_is_nobodys(setting: Setting) {
        let stage = setting.stage().await;
        let database = stage.postgres.database().to_owned();
        stage.postgres.sql(&format!("alter role app in database {database} set app.current_user_id = '{A}'")).await;
        let (mut b, mut c) = (stage.client_for(B).await, stage.client().await);

        is(&mut b, B).await;
        assert_eq!(me(&mut c).await, "");
        assert_eq!(notation(&c.query(&act("")).await), "C(INSERT 0 1) Z(I)");
        is(&mut b, B).await;

        stage.postgres.sql("delete from audit where said = ''").await;
        stage.nobody_acted_as_another().await;
    }
}
