//! Cancel requests that come at the worst moment.

use super::stage::Injection;
use super::{A, B, ME, act, first_column, is};
use crate::contract;
use crate::harness::{notation, say};

contract! {
    /// 6.
    async fn a_cancel_during_the_injection_runs_nothing(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        for statement in [vec![say::query(&act(A))], vec![say::extended(&act(A), &[]), say::sync()]] {
            stage.injection(Injection::Sleeps).await;
            a.send(statement).await;
            stage.postgres.until_asleep(1).await;
            a.cancel().await;
            assert_eq!(notation(&a.read_until_ready().await), "E(57014) Z(I)");
            stage.injection(Injection::Works).await;
            assert_eq!(stage.acts_of(A).await, 0);
            is(&mut b, B).await;
        }
        is(&mut a, A).await;

        stage.nobody_acted_as_another().await;
        assert_eq!(stage.acts_of(A).await, 1);
    }

    /// 6, by somebody else's hand: the client did not ask for it, so it is tried again and never told.
    async fn an_injection_cancelled_by_an_administrator_is_tried_again(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        stage.injection(Injection::SleepsOnce).await;
        a.send([say::query(&act(A))]).await;
        stage.postgres.until_asleep(1).await;
        stage.postgres.sql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").await;

        assert_eq!(notation(&a.read_until_ready().await), "C(INSERT 0 1) Z(I)");
        assert_eq!(stage.acts_of(A).await, 1);
        is(&mut a, A).await;
        is(&mut b, B).await;
        stage.nobody_acted_as_another().await;
    }

    /// 7.
    async fn a_cancelled_statement_leaves_no_identity_behind(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for _ in 0..3 {
            a.send([say::query(&format!("{}; select pg_sleep(600)", act(A)))]).await;
            stage.postgres.until_asleep(1).await;
            b.send([say::query(ME)]).await;
            a.cancel().await;
            assert_eq!(notation(&a.read_until_ready().await), "C(INSERT 0 1) T E(57014) Z(I)");
            assert_eq!(first_column(&b.read_until_ready().await), [B]);
            is(&mut b, B).await;
        }
        is(&mut a, A).await;

        assert_eq!(stage.acts_of(A).await, 1);
        stage.nobody_acted_as_another().await;
    }

    /// 8.
    async fn a_late_cancel_leaves_the_next_client_alone(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for _ in 0..3 {
            is(&mut a, A).await;
            let gate = stage.postgres.gate().await;
            b.send([say::query(&format!("select count(*) from gate; {}", act(B)))]).await;
            stage.postgres.until_at_gate(1).await;
            a.cancel().await;
            gate.open().await;
            assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) C(INSERT 0 1) Z(I)");
        }
        is(&mut b, B).await;

        stage.nobody_acted_as_another().await;
    }

    /// 6 and 8 at once: cancels at any moment of one client's short statements, while another uses the same server.
    async fn cancels_at_any_moment_run_nothing_as_another(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        let mut written = 0;
        for round in 0..60 {
            let unit = if round % 2 == 0 {
                vec![say::query(&act(A))]
            } else {
                vec![say::extended(&act(A), &[]), say::sync()]
            };
            a.send(unit).await;
            b.send([say::query(&act(B))]).await;
            a.cancel().await;
            let (answer, others) = (notation(&a.read_until_ready().await), notation(&b.read_until_ready().await));
            // In the extended protocol the cancel may still come between the command's end and its commit.
            let is_committed = answer.ends_with("C(INSERT 0 1) Z(I)");
            assert!(is_committed || answer.ends_with("E(57014) Z(I)"), "{answer}");
            assert_eq!(others, "C(INSERT 0 1) Z(I)");
            written += usize::from(is_committed);
        }

        assert_eq!((stage.acts_of(A).await, stage.acts_of(B).await), (written, 60));
        stage.nobody_acted_as_another().await;
    }
}
