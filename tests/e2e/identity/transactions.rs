//! Everything that begins and ends transactions, from within.

use super::{A, B, ME, act, first_column, is, me};
use crate::contract;
use crate::harness::{notation, say};

contract! {
    /// 21.
    async fn a_reset_of_everything_in_a_transaction_makes_nobody_another(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        for end in ["commit", "rollback"] {
            a.rows("begin").await;
            a.rows("reset all").await;
            assert_ne!(me(&mut a).await, B);
            a.rows(end).await;
            is(&mut a, A).await;
            is(&mut b, B).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 21: what a ROLLBACK takes back, a RESET ALL included, is as if it had not been said.
    async fn a_reset_of_everything_that_is_rolled_back_changes_nothing(setting: Setting) {
        let stage = setting.stage().await;
        let mut client = stage.client_for(A).await;
        client.rows(&format!("set app.current_user_id = '{B}'")).await;

        for end in ["rollback", "select 1/0; commit"] {
            client.rows("begin").await;
            client.rows("reset all").await;
            for statement in end.split("; ") {
                client.query(statement).await;
            }
            assert_eq!(me(&mut client).await, B, "{end}");
        }
        client.query("select 1/0; reset all").await;
        assert_eq!(me(&mut client).await, B);
        client.query("begin; reset all; rollback").await;
        assert_eq!(me(&mut client).await, B);

        client.rows("begin; reset all; commit").await;
        assert_eq!(me(&mut client).await, A);
    }

    /// 26.
    async fn a_set_in_a_transaction_ends_with_it(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        for set in [
            format!("set app.current_user_id = '{B}'"),
            format!("set local app.current_user_id = '{B}'"),
            format!("select set_config('app.current_user_id', '{B}', false)"),
            format!("select set_config('app.current_user_id', '{B}', true)"),
        ] {
            for end in ["commit", "rollback"] {
                a.rows("begin").await;
                a.rows(&set).await;
                assert_eq!(me(&mut a).await, B, "{set}");
                a.rows(end).await;
                assert_eq!(me(&mut a).await, A, "{set}; {end}");
                a.rows("begin").await;
                a.ask([say::extended(&set, &[]), say::sync()]).await;
                a.rows(end).await;
                is(&mut a, A).await;
                is(&mut b, B).await;
            }
        }

        stage.nobody_acted_as_another().await;
    }

    /// 27.
    async fn an_embedded_rollback_brings_nobody_back(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        for sql in [
            format!("{ME}; rollback; {ME}"),
            format!("{}; rollback; {ME}; {}; {ME}", act(A), act(A)),
            format!("{ME}; commit; {ME}; begin; {ME}; rollback; {ME}"),
            format!("begin; {}; rollback; {ME}; begin; {ME}; commit", act(A)),
        ] {
            let answer = a.query(&sql).await;
            assert!(!notation(&answer).contains("E("), "{sql}: {}", notation(&answer));
            assert!(first_column(&answer).iter().all(|who| who == A), "{sql}: {:?}", first_column(&answer));
            is(&mut b, B).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 28.
    async fn every_transaction_within_one_query_is_its_clients(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        a.rows(&format!("{0}; commit; begin; {0}", act(A))).await;
        b.send([say::query(ME)]).await;
        a.rows("commit").await;

        assert_eq!(first_column(&b.read_until_ready().await), [B]);
        assert_eq!(stage.acts_of(A).await, 2);
        stage.nobody_acted_as_another().await;
    }

    /// 29.
    async fn a_chain_of_transactions_is_one_clients(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        a.rows("begin isolation level repeatable read").await;
        for link in ["commit and chain", "rollback and chain", "commit and chain"] {
            a.rows(&act(A)).await;
            assert_eq!(me(&mut a).await, A);
            a.rows(link).await;
            assert_eq!(me(&mut a).await, A, "after {link}");
        }
        a.rows(&act(A)).await;
        a.rows("commit").await;
        is(&mut b, B).await;

        assert_eq!(stage.acts_of(A).await, 3);
        stage.nobody_acted_as_another().await;
    }

    /// 30.
    async fn a_procedure_that_ends_transactions_stays_its_callers(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let body = format!("{0}; commit; {0}; rollback; {0}; commit; {0};", act(A));
        stage.postgres.sql(&format!("create procedure work() language plpgsql as $$ begin {body} end $$")).await;
        is(&mut b, B).await;

        a.rows("call work()").await;
        is(&mut b, B).await;
        assert_eq!(a.ask([say::extended("call work()", &[]), say::sync()]).await, "1 2 n C(CALL) Z(I)");
        is(&mut b, B).await;
        a.rows(&format!("do $$ begin {body} end $$")).await;
        is(&mut b, B).await;

        assert_eq!(stage.acts_of(A).await, 9);
        stage.nobody_acted_as_another().await;
    }

    /// 31.
    async fn savepoints_bring_back_no_identity_but_the_clients(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        a.rows("begin").await;
        a.rows("savepoint s").await;
        a.rows(&format!("set app.current_user_id = '{B}'")).await;
        a.rows("rollback to s").await;
        assert_eq!(me(&mut a).await, A);
        a.rows(&act(A)).await;
        a.rows(&format!("savepoint t; set local app.current_user_id = '{B}'; release t")).await;
        assert_eq!(me(&mut a).await, B);
        a.rows("rollback to s; release s").await;
        assert_eq!(me(&mut a).await, A);
        a.rows(&act(A)).await;
        a.rows("commit").await;
        is(&mut b, B).await;
        is(&mut a, A).await;

        stage.nobody_acted_as_another().await;
    }

    /// 32.
    async fn what_must_come_first_in_a_transaction_comes_first(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for (first, isolation) in [
            ("begin isolation level serializable, read only, deferrable", "serializable"),
            ("begin; set transaction isolation level repeatable read", "repeatable read"),
            ("start transaction isolation level serializable", "serializable"),
            ("begin; lock table ledger in access exclusive mode", "read committed"),
        ] {
            is(&mut b, B).await;
            a.rows(first).await;
            assert_eq!(me(&mut a).await, A, "{first}");
            assert_eq!(a.value("show transaction_isolation").await, isolation, "{first}");
            a.rows("commit").await;
            is(&mut b, B).await;
            let texts = first.split("; ").chain([ME, "commit"]);
            let units: Vec<_> = texts.map(|sql| say::join([say::extended(sql, &[]), say::sync()])).collect();
            let count = units.len();
            a.send(units).await;
            let answer = a.read_until_ready_times(count).await;
            assert_eq!(first_column(&answer), [A], "{first}: {}", notation(&answer));
        }

        stage.nobody_acted_as_another().await;
    }

    /// 59.
    async fn the_audit_trail_names_who_wrote_at_once_and_at_commit(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for _ in 0..3 {
            a.rows("begin").await;
            a.rows(&act(A)).await;
            b.send([say::query(&act(B))]).await;
            a.rows("commit").await;
            b.read_until_ready().await;
            a.rows(&act(A)).await;
            b.ask([say::extended(&act(B), &[]), say::sync()]).await;
        }

        assert_eq!(stage.nobody_acted_as_another().await, 24);
        let deferred = stage.postgres.value("select count(*) from audit where at_commit").await;
        assert_eq!(deferred, "12");
    }

    /// 59, on the schema of a product whose policies raise an error for nobody.
    async fn a_products_own_policies_and_trail_work_unchanged(setting: Setting) {
        setting.postgres.load_schema().await;
        let stage = setting.stage_with(|pgusher| pgusher.user("saas_user", "saas_user")).await;
        let [ada, bob] = [1, 2].map(|n: u8| {
            let id = "00000000-0000-0000-0000-000000000000".replace('0', &n.to_string());
            (stage.target.clone().user("saas_user", "saas_user").with("app.current_user_id", &id), id)
        });
        let mut nobody = crate::harness::Raw::login(&stage.target.clone().user("saas_user", "saas_user")).await;
        let mut clients = Vec::new();
        for (target, id) in [ada, bob] {
            clients.push((crate::harness::Raw::login(&target).await, id));
        }

        for _ in 0..3 {
            for (client, id) in &mut clients {
                assert_eq!(client.value("select string_agg(id::text, ',') from users.users").await, *id);
                assert_eq!(client.value("select string_agg(distinct user_id::text, ',') from billing.subscriptions").await, *id);
                client.rows("update billing.subscriptions set price = price + 1").await;
            }
            assert_eq!(notation(&nobody.query("select * from users.users").await), "E(22P02) Z(I)");
            assert_eq!(nobody.ask([say::extended("update users.users set full_name = 'x'", &[]), say::sync()]).await, "1 E(22P02) Z(I)");
        }

        let trail = "select count(*), count(*) filter (where who = new_row ->> 'user_id') from audit.audit_log where table_name = 'billing.subscriptions' and action = 'UPDATE'";
        assert_eq!(stage.postgres.sql(trail).await, [[Some("9".to_owned()), Some("9".to_owned())]]);
    }
}
