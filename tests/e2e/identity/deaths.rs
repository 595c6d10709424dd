//! Clients that die at the worst moment, and servers that do.

use super::stage::Injection;
use super::{A, B, ME, act, first_column, is};
use crate::contract;
use crate::harness::{Raw, notation, say};

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Death {
    Fin,
    Rst,
}

impl Death {
    const BOTH: [Self; 2] = [Self::Fin, Self::Rst];

    async fn take(self, stage: &super::Stage, client: Raw) {
        match self {
            Self::Fin => client.close().await,
            Self::Rst => stage.kill(client),
        }
    }
}

contract! {
    /// 11.
    async fn a_client_that_dies_in_a_transaction_leaves_nothing(setting: Setting) {
        let stage = setting.stage().await;
        let mut b = stage.client_for(B).await;

        for death in Death::BOTH {
            let mut a = stage.client_for(A).await;
            a.rows("begin").await;
            a.rows(&act(A)).await;
            death.take(&stage, a).await;
            is(&mut b, B).await;
            let mut a = stage.client_for(A).await;
            a.rows("begin").await;
            a.rows(&act(A)).await;
            a.query("select 1/0").await;
            death.take(&stage, a).await;
            is(&mut b, B).await;
        }

        assert_eq!(stage.acts_of(A).await, 0);
        stage.nobody_acted_as_another().await;
    }

    /// 12.
    async fn a_client_that_dies_before_its_sync_commits_nothing(setting: Setting) {
        let stage = setting.stage().await;
        let mut b = stage.client_for(B).await;

        for death in Death::BOTH {
            let mut a = stage.client_for(A).await;
            a.send([say::extended(&act(A), &[]), say::flush()]).await;
            assert_eq!(notation(&a.read_until(b'C').await), "1 2 n C(INSERT 0 1)");
            death.take(&stage, a).await;
            is(&mut b, B).await;
            // And without having waited for the answer.
            let mut a = stage.client_for(A).await;
            a.send([say::extended(&act(A), &[]), say::flush()]).await;
            death.take(&stage, a).await;
            is(&mut b, B).await;
        }

        assert_eq!(stage.acts_of(A).await, 0);
        stage.nobody_acted_as_another().await;
    }

    /// 13.
    async fn a_client_that_dies_while_copying_in_copies_nothing(setting: Setting) {
        let stage = setting.stage().await;
        let mut b = stage.client_for(B).await;
        let copy = "copy notes (owner, said) from stdin";
        // COPY FROM is not for tables under row-level security; this table has none of its own.
        stage.postgres.sql("create table copied (said text); grant all on copied to app; grant all on copied to other").await;
        let copy = copy.replace("notes (owner, said)", "copied");

        for death in Death::BOTH {
            for unit in [vec![say::query(&copy)], vec![say::extended(&copy, &[]), say::flush()]] {
                for in_transaction in [false, true] {
                    let mut a = stage.client_for(A).await;
                    if in_transaction {
                        a.rows("begin").await;
                    }
                    a.send(unit.clone()).await;
                    assert!(a.read_until(b'G').await.last().is_some_and(|frame| frame.is(b'G')));
                    a.send([say::copy_data(b"row\n")]).await;
                    death.take(&stage, a).await;
                    is(&mut b, B).await;
                }
            }
        }

        assert_eq!(stage.postgres.value("select count(*) from copied").await, "0");
        stage.nobody_acted_as_another().await;
    }

    /// 14.
    async fn a_client_that_dies_amid_a_huge_result_leaves_its_server_fit(setting: Setting) {
        let stage = setting.stage().await;
        let mut b = stage.client_for(B).await;
        let huge = format!("{}; select repeat('x', 1000) from generate_series(1, 1000000)", act(A));

        for death in Death::BOTH {
            let mut a = stage.client_for(A).await;
            a.send([say::query(&huge)]).await;
            a.read_until(b'D').await;
            death.take(&stage, a).await;
            is(&mut b, B).await;
        }

        assert_eq!(stage.acts_of(A).await, 0);
        stage.nobody_acted_as_another().await;
    }

    /// 15.
    async fn a_client_that_fails_its_copy_goes_on_as_itself(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        stage.postgres.sql("create table copied (said text); grant all on copied to app").await;

        for _ in 0..2 {
            a.send([say::query("copy copied from stdin")]).await;
            a.read_until(b'G').await;
            assert_eq!(a.ask([say::copy_data(b"row\n"), say::copy_fail("no")]).await, "E(57014) Z(I)");
            is(&mut a, A).await;
            is(&mut b, B).await;
            a.send([say::extended("copy copied from stdin", &[]), say::flush()]).await;
            a.read_until(b'G').await;
            assert_eq!(a.ask([say::copy_data(b"row\n"), say::copy_fail("no"), say::sync()]).await, "E(57014) Z(I)");
            is(&mut b, B).await;
            is(&mut a, A).await;
        }

        assert_eq!(stage.postgres.value("select count(*) from copied").await, "0");
        stage.nobody_acted_as_another().await;
    }

    /// 49, before the injection is proven: nothing has run, so it runs elsewhere, once.
    async fn a_backend_killed_in_the_injection_has_run_nothing(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;
        stage.injection(Injection::SleepsOnce).await;

        a.send([say::query(&act(A))]).await;
        stage.postgres.until_asleep(1).await;
        stage.postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").await;

        assert_eq!(notation(&a.read_until_ready().await), "C(INSERT 0 1) Z(I)");
        assert_eq!(stage.acts_of(A).await, 1);
        is(&mut a, A).await;
        is(&mut b, B).await;
        stage.nobody_acted_as_another().await;
    }

    /// 49, whichever server it is: an error in the end, and nothing has run.
    async fn backends_that_die_in_every_injection_run_nothing(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;
        stage.injection(Injection::Dies).await;

        let answer = notation(&a.query(&act(A)).await);
        stage.injection(Injection::Works).await;

        assert!(answer.starts_with("E(") && answer.ends_with("Z(I)"), "{answer}");
        assert_eq!(stage.acts_of(A).await, 0);
        is(&mut a, A).await;
        is(&mut b, B).await;
        stage.nobody_acted_as_another().await;
    }

    /// 49, once the injection is proven: the statement may have run, so it is not said again.
    async fn a_backend_killed_after_the_injection_is_not_asked_twice(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        stage.postgres.sql("create sequence runs; grant usage on runs to app").await;

        a.send([say::query("select nextval('runs'), pg_sleep(600)")]).await;
        stage.postgres.until_asleep(1).await;
        stage.postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").await;

        let answer = notation(&a.read_until(b'E').await);
        assert!(answer.contains("E(57P01)") || answer.contains("E(08006)"), "{answer}");
        assert_eq!(stage.postgres.value("select last_value from runs").await, "1");
        is(&mut b, B).await;
        stage.nobody_acted_as_another().await;
    }

    /// 11, many at once: whoever comes next on a pool of one is who it is.
    async fn clients_that_die_one_after_another_leave_each_other_alone(setting: Setting) {
        let stage = setting.stage().await;

        for round in 0..12 {
            let who = if round % 2 == 0 { A } else { B };
            let mut client = stage.client_for(who).await;
            client.send([say::query(ME)]).await;
            assert_eq!(first_column(&client.read_until_ready().await), [who]);
            client.send([say::query(&format!("begin; {}", act(who))), say::query("select pg_sleep(0.001)")]).await;
            Death::BOTH[round / 2 % 2].take(&stage, client).await;
        }
        is(&mut stage.client_for(A).await, A).await;

        assert_eq!(stage.acts_of(A).await + stage.acts_of(B).await, 1);
        stage.nobody_acted_as_another().await;
    }
}
