//! Statements and transactions that fail, and the next one.

use super::{A, B, ME, act, first_column, is, me};
use crate::contract;
use crate::harness::{notation, say};

contract! {
    /// 1.
    async fn one_server_serves_each_as_itself(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for _ in 0..3 {
            is(&mut a, A).await;
            is(&mut b, B).await;
        }

        assert_eq!(stage.nobody_acted_as_another().await, 12);
        assert_eq!(a.server_pid().await, b.server_pid().await);
    }

    /// 2.
    async fn a_failed_statement_leaves_no_identity_behind(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        assert_eq!(notation(&a.query("select 1/0").await), "E(22012) Z(I)");
        is(&mut b, B).await;
        assert_eq!(a.ask([say::extended("select 1/0", &[]), say::sync()]).await, "1 E(22012) Z(I)");
        is(&mut b, B).await;
        assert_eq!(a.ask([say::query(&format!("{}; select 1/0", act(A)))]).await, "C(INSERT 0 1) E(22012) Z(I)");
        is(&mut b, B).await;
        is(&mut a, A).await;

        stage.nobody_acted_as_another().await;
        assert_eq!(stage.acts_of(A).await, 1);
    }

    /// 3.
    async fn a_failed_transaction_leaves_no_identity_behind(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        a.rows("begin").await;
        a.rows(&act(A)).await;
        assert_eq!(notation(&a.query("select 1/0").await), "E(22012) Z(E)");
        b.send([say::query(ME)]).await;
        assert_eq!(notation(&a.query(ME).await), "E(25P02) Z(E)");
        a.rows("rollback").await;

        assert_eq!(first_column(&b.read_until_ready().await), [B]);
        is(&mut b, B).await;
        assert_eq!(stage.acts_of(A).await, 0);
        is(&mut a, A).await;
        stage.nobody_acted_as_another().await;
    }

    /// 4.
    async fn a_constraint_that_fails_at_commit_brings_nobody_back(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        a.rows("begin").await;
        a.rows(&act(A)).await;
        a.rows("insert into ledger values (1, 99)").await;
        assert_eq!(notation(&a.query("commit").await), "E(23503) Z(I)");
        is(&mut a, A).await;
        is(&mut b, B).await;
        // The same in a transaction of its own, which fails at its own end.
        assert_eq!(notation(&a.query("insert into ledger values (1, 99)").await), "E(23503) Z(I)");
        is(&mut b, B).await;
        is(&mut a, A).await;

        stage.nobody_acted_as_another().await;
        assert_eq!(stage.acts_of(A).await, 2);
    }

    /// 5.
    async fn a_transaction_that_cannot_be_serialized_is_tried_again_as_the_same(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let mut rival = stage.postgres.client().await;

        for (client, id) in [(&mut a, 1), (&mut rival, 2)] {
            client.rows("begin isolation level serializable").await;
            client.rows("select count(*) from ledger").await;
            client.rows(&format!("insert into ledger values ({id})")).await;
        }
        a.rows(&act(A)).await;
        rival.rows("commit").await;
        assert_eq!(notation(&a.query("commit").await), "E(40001) Z(I)");
        is(&mut b, B).await;
        a.rows("begin isolation level serializable").await;
        assert_eq!(me(&mut a).await, A);
        a.rows(&act(A)).await;
        a.rows("commit").await;
        is(&mut b, B).await;

        stage.nobody_acted_as_another().await;
        assert_eq!(stage.acts_of(A).await, 1);
    }

    /// 16.
    async fn a_statement_after_a_failed_begin_runs_as_its_own_client(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        for failed in ["begin isolation level nonsense", "begin nonsense", "begin; set transaction_isolation = 'x'"] {
            let answer = notation(&a.query(failed).await);
            assert!(answer.contains("E("), "{failed}: {answer}");
            if answer.ends_with("Z(E)") {
                a.rows("rollback").await;
            }
            is(&mut a, A).await;
            is(&mut b, B).await;
            a.ask([say::extended(failed, &[]), say::sync()]).await;
            is(&mut a, A).await;
            is(&mut b, B).await;
        }
        // A BEGIN inside a failed batch.
        assert_eq!(a.ask([say::query(&format!("select 1/0; begin; {}", act(B)))]).await, "E(22012) Z(I)");
        is(&mut a, A).await;

        stage.nobody_acted_as_another().await;
    }

    /// 10.
    async fn a_timeout_left_behind_times_out_nobody_else(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        a.rows("set statement_timeout = '1ms'").await;
        for _ in 0..5 {
            b.rows("select pg_sleep(0.01)").await;
            assert_eq!(me(&mut b).await, B);
            a.query(ME).await;
        }
        a.rows("set statement_timeout = '50ms'").await;
        b.rows("select pg_sleep(0.1)").await;
        assert_eq!(notation(&a.query("select pg_sleep(1)").await), "T E(57014) Z(I)");
        b.rows("select pg_sleep(0.1)").await;
        a.rows("reset statement_timeout").await;
        is(&mut a, A).await;
        is(&mut b, B).await;

        stage.nobody_acted_as_another().await;
    }

    /// 10, behind the pooler's back: a function's text cannot be read, so in `strict` mode every server is swept.
    async fn a_timeout_left_behind_by_a_function_times_out_nobody_else_when_strict(setting: Setting) {
        let stage = setting.stage_with(|pgusher| pgusher.set("identity", "strict", "true")).await;
        let (mut a, mut b) = stage.pair().await;
        stage.postgres.sql(
            "create function sneaky() returns text language plpgsql as
             $$ begin return set_config('statement_timeout', '1ms', false); end $$").await;

        for _ in 0..5 {
            a.rows("select sneaky()").await;
            b.rows("select pg_sleep(0.01)").await;
            is(&mut b, B).await;
            is(&mut a, A).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 10, without `strict`: what is left may fail somebody's statement; it runs nothing as anybody else.
    async fn a_timeout_left_behind_by_a_function_makes_nobody_another(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        stage.postgres.sql(
            "create function sneaky() returns text language plpgsql as
             $$ begin return set_config('statement_timeout', '1ms', false); end $$").await;

        for _ in 0..20 {
            a.query("select sneaky()").await;
            a.query(&act(A)).await;
            b.query(&act(B)).await;
            b.ask([say::extended(&act(B), &[]), say::sync()]).await;
        }

        stage.nobody_acted_as_another().await;
    }
}
