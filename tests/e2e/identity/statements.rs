//! Statements that allow nothing before them, and prepared ones that many share.

use super::{A, B, ME, act, first_column, is, me};
use crate::contract;
use crate::harness::{Raw, notation, say};

contract! {
    /// 33.
    async fn statements_that_allow_no_transaction_may_come_first(setting: Setting) {
        let stage = setting.stage().await;
        let superuser = stage.target.clone().user("postgres", "postgres");
        let mut a = Raw::login(&superuser.clone().with("app.current_user_id", A)).await;
        let mut b = Raw::login(&superuser.with("app.current_user_id", B)).await;
        let database = format!("{}_more", stage.postgres.database());

        for simple in [true, false] {
            for statement in [
                "vacuum notes",
                "vacuum analyze ledger",
                &format!("create database {database} template template0"),
                &format!("drop database {database}"),
                "create index concurrently i on notes (said)",
                "reindex index concurrently i",
                "drop index concurrently i",
                "alter system reset work_mem",
                "discard all",
                "begin isolation level serializable; commit",
            ] {
                if !simple && statement.starts_with("begin") {
                    continue;
                }
                assert_eq!(me(&mut b).await, B);
                let answer = if simple {
                    notation(&a.query(statement).await)
                } else {
                    a.ask([say::extended(statement, &[]), say::sync()]).await
                };
                assert!(!answer.contains("E(") && answer.ends_with("Z(I)"), "{statement}: {answer}");
                assert_eq!(me(&mut b).await, B);
                a.rows(&act(A)).await;
            }
        }

        stage.nobody_acted_as_another().await;
    }

    /// 34.
    async fn a_statement_that_is_shared_shows_each_only_its_own(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let texts = [
            ("me", ME),
            ("mine", "select distinct owner::text from notes"),
            ("indexed", "select owner::text from notes where id > $1 limit 1"),
        ];

        for (client, who) in [(&mut a, A), (&mut b, B)] {
            is(client, who).await;
            for (name, sql) in texts {
                assert_eq!(client.ask([say::parse(name, sql), say::sync()]).await, "1 Z(I)");
            }
        }
        // More than five times: by then a plan is the statement's, no longer the execution's.
        for _ in 0..8 {
            for (client, who) in [(&mut a, A), (&mut b, B)] {
                for (name, sql) in texts {
                    let values: &[_] = if sql.contains("$1") { &[Some("0")] } else { &[] };
                    client.send([say::bind("", name, values), say::execute("", 0), say::sync()]).await;
                    let answer = client.read_until_ready().await;
                    assert_eq!(first_column(&answer), [who], "{name}: {}", notation(&answer));
                }
            }
        }

        let shared = a.value("select count(*) from pg_prepared_statements where not from_sql").await;
        assert_eq!(shared, "3", "one on the server for both");
        stage.nobody_acted_as_another().await;
    }

    /// 36.
    async fn plans_made_under_another_role_or_without_row_security_show_nobody_elses(setting: Setting) {
        let stage = setting.stage().await;
        let aide = format!("{}_aide", stage.postgres.database());
        stage.postgres.sql(&format!("create role {aide}; grant select on notes to {aide}; grant {aide} to app")).await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut a, A).await;
        is(&mut b, B).await;
        let mine = "select distinct owner::text from notes";
        for client in [&mut a, &mut b] {
            client.ask([say::parse("mine", mine), say::sync()]).await;
        }
        let run = || [say::bind("", "mine", &[]), say::execute("", 0), say::sync()];

        for switch in [&*format!("set local role {aide}"), "set local row_security = off"] {
            for _ in 0..6 {
                a.rows("begin").await;
                a.rows(switch).await;
                a.send(run()).await;
                let answer = a.read_until_ready().await;
                assert!(first_column(&answer).iter().all(|who| who == A), "{switch}: {}", notation(&answer));
                a.query("rollback").await;
                for (client, who) in [(&mut b, B), (&mut a, A)] {
                    client.send(run()).await;
                    let answer = client.read_until_ready().await;
                    assert_eq!(first_column(&answer), [who], "after {switch}: {}", notation(&answer));
                }
            }
        }

        stage.postgres.sql(&format!("drop owned by {aide}; drop role {aide}")).await;
        stage.nobody_acted_as_another().await;
    }

    /// 23.
    async fn names_on_the_server_that_a_client_takes_away_or_makes_up_change_nobodys_words(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        for client in [&mut a, &mut b] {
            client.ask([say::parse("me", ME), say::sync()]).await;
            client.ask([say::bind("", "me", &[]), say::execute("", 0), say::sync()]).await;
        }
        let name = a.value("select name from pg_prepared_statements where not from_sql").await;
        let hijack = format!("prepare {name} as select 'hijacked'");

        for attack in [
            vec!["deallocate all".to_owned()],
            vec![format!("deallocate {name}"), hijack.clone()],
            vec![format!("deallocate {name}; {hijack}")],
            vec![hijack.clone()],
            vec!["do $$ begin execute 'deallocate all'; end $$".to_owned()],
            vec![format!("do $$ begin execute 'deallocate {name}'; execute '{}'; end $$", hijack.replace('\'', "''"))],
        ] {
            let mut attacker = stage.client_for(A).await;
            for sql in &attack {
                attacker.query(sql).await;
            }
            attacker.terminate().await;
            for (client, who) in [(&mut b, B), (&mut a, A)] {
                client.send([say::bind("", "me", &[]), say::execute("", 0), say::sync()]).await;
                let answer = client.read_until_ready().await;
                if notation(&answer).contains("E(26000)") {
                    // Its own name is gone from the server; prepared again, it is the right one.
                    client.send([say::bind("", "me", &[]), say::execute("", 0), say::sync()]).await;
                    assert_eq!(first_column(&client.read_until_ready().await), [who], "{attack:?}");
                    continue;
                }
                assert_eq!(first_column(&answer), [who], "{attack:?}: {}", notation(&answer));
            }
        }

        stage.nobody_acted_as_another().await;
    }

    /// 23, by a function, whose text cannot be read: in `strict` mode every server is swept of plans as well.
    async fn names_that_a_function_makes_up_change_nobodys_words_when_strict(setting: Setting) {
        let stage = setting.stage_with(|pgusher| pgusher.set("identity", "strict", "true")).await;
        stage.postgres.sql(
            "create function hijack() returns void language plpgsql as $$
             declare name text;
             begin
                 for name in select p.name from pg_prepared_statements p loop
                     execute format('deallocate %I', name);
                     execute format('prepare %I as select ''hijacked''', name);
                 end loop;
             end $$").await;
        let (mut a, mut b) = stage.pair().await;

        for _ in 0..3 {
            b.ask([say::parse("me", ME), say::sync()]).await;
            a.ask([say::parse("me", ME), say::bind("", "me", &[]), say::execute("", 0), say::sync()]).await;
            a.query("select hijack()").await;
            b.send([say::bind("", "me", &[]), say::execute("", 0), say::sync()]).await;
            let answer = b.read_until_ready().await;
            assert_eq!(first_column(&answer), [B], "{}", notation(&answer));
            a.ask([say::close_statement("me"), say::sync()]).await;
            b.ask([say::close_statement("me"), say::sync()]).await;
        }
    }
}
