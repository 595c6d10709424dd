//! Several units in one write.

use super::stage::Injection;
use super::{A, B, ME, act, first_column, is, me};
use crate::contract;
use crate::harness::{notation, say};

contract! {
    /// 17.
    async fn a_pipelined_transaction_whose_injection_fails_runs_nothing(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;
        let unit = |sql: &str| say::join([say::extended(sql, &[]), say::sync()]);
        stage.injection(Injection::Fails).await;

        a.send([unit("begin"), unit(&act(A)), unit("commit"), unit(ME)]).await;
        let answer = a.read_until_ready_times(4).await;
        stage.injection(Injection::Works).await;

        assert!(answer.iter().all(|frame| frame.is(b'E') || frame.is(b'Z')), "{}", notation(&answer));
        assert_eq!(stage.acts_of(A).await, 0);
        is(&mut a, A).await;
        is(&mut b, B).await;
        stage.nobody_acted_as_another().await;
    }

    /// 17 and 18, the injection failing once: it is said again, and the client never knows.
    async fn a_pipeline_whose_injection_fails_once_is_answered_in_full(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;

        stage.injection(Injection::FailsOnce).await;
        let texts = ["begin", &act(A), "commit", ME];
        a.send(texts.map(|sql| say::join([say::extended(sql, &[]), say::sync()]))).await;
        assert_eq!(
            notation(&a.read_until_ready_times(4).await),
            "1 2 n C(BEGIN) Z(T) 1 2 n C(INSERT 0 1) Z(T) 1 2 n C(COMMIT) Z(I) 1 2 T D C(SELECT 1) Z(I)"
        );
        stage.injection(Injection::FailsOnce).await;
        a.send([ME, &act(A), ME].map(say::query)).await;
        let answer = a.read_until_ready_times(3).await;

        assert_eq!(notation(&answer), "T D C(SELECT 1) Z(I) C(INSERT 0 1) Z(I) T D C(SELECT 1) Z(I)");
        assert_eq!(first_column(&answer), [A, A]);
        is(&mut b, B).await;
        assert_eq!(stage.acts_of(A).await, 2);
        stage.nobody_acted_as_another().await;
    }

    /// 18.
    async fn queries_in_one_write_whose_injection_fails_run_nothing(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;
        stage.injection(Injection::Fails).await;

        a.send([&act(A), "commit", &act(A)].map(say::query)).await;
        let answer = notation(&a.read_until_ready_times(3).await);
        stage.injection(Injection::Works).await;

        assert_eq!(answer.matches("E(").count(), 3, "{answer}");
        assert_eq!(stage.acts_of(A).await, 0);
        is(&mut b, B).await;
        is(&mut a, A).await;
        stage.nobody_acted_as_another().await;
    }

    /// 19.
    async fn a_hundred_pipelined_units_interleave_with_anothers(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let units = |who: &str| {
            let simple = say::query(&format!("{}; {ME}", act(who)));
            let extended = say::join([say::extended(ME, &[]), say::sync()]);
            (0..100).map(move |n| if n % 2 == 0 { simple.clone() } else { extended.clone() })
        };

        a.send(units(A)).await;
        b.send(units(B)).await;
        let (of_a, of_b) = tokio::join!(a.read_until_ready_times(100), b.read_until_ready_times(100));

        assert_eq!(first_column(&of_a), vec![A; 100]);
        assert_eq!(first_column(&of_b), vec![B; 100]);
        assert_eq!((stage.acts_of(A).await, stage.acts_of(B).await), (50, 50));
        stage.nobody_acted_as_another().await;
    }

    /// 20.
    async fn an_identity_set_between_pipelined_units_holds_from_there_on(setting: Setting) {
        let stage = setting.stage().await;
        let mut client = stage.client_for(A).await;
        let set = |who: &str| format!("set app.current_user_id = '{who}'");

        client.send([&act(A), ME, &set(B), &act(B), ME, &set(A), ME].map(say::query)).await;
        let simple = client.read_until_ready_times(7).await;
        let extended = |sql: &str| say::join([say::extended(sql, &[]), say::sync()]);
        let config = say::join([
            say::parse("", "select set_config('app.current_user_id', $1, false)"),
            say::bind("", "", &[Some(B)]),
            say::execute("", 0),
            say::sync(),
        ]);
        client.send([extended(ME), extended(&set(B)), extended(ME), extended(&set(A)), extended(&act(A)), config, extended(ME), extended("reset app.current_user_id"), extended(ME)]).await;
        let answer = client.read_until_ready_times(9).await;

        assert_eq!(first_column(&simple), [A, B, A], "{}", notation(&simple));
        assert_eq!(first_column(&answer), [A, B, B, B, A], "{}", notation(&answer));
        stage.nobody_acted_as_another().await;
    }

    /// 20, by what puts every setting back: RESET ALL and DISCARD ALL go back to the startup packet's identity.
    async fn settings_put_back_between_pipelined_units_are_put_back_before_the_next(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for all in ["reset all", "discard all"] {
            a.send([ME, all, ME, &act(A)].map(say::query)).await;
            let answer = a.read_until_ready_times(4).await;
            assert_eq!(first_column(&answer), [A, A], "{all}: {}", notation(&answer));
            a.send([ME, all, ME].map(|sql| say::join([say::extended(sql, &[]), say::sync()]))).await;
            let answer = a.read_until_ready_times(3).await;
            assert_eq!(first_column(&answer), [A, A], "{all}: {}", notation(&answer));
            is(&mut b, B).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 25, in one write: code that changes the identity harms its own transaction only.
    async fn an_identity_changed_by_code_ends_with_its_unit_of_a_pipeline(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let code = format!("do $$ begin perform set_config('app.current_user_id', '{B}', false); end $$");

        a.send([ME, &code, ME, &act(A)].map(say::query)).await;
        let simple = a.read_until_ready_times(4).await;
        a.send([ME, &code, ME].map(|sql| say::join([say::extended(sql, &[]), say::sync()]))).await;
        let extended = a.read_until_ready_times(3).await;
        a.send(["begin", &code, "commit", ME, &act(A)].map(say::query)).await;
        let block = a.read_until_ready_times(5).await;

        assert_eq!(first_column(&simple), [A, A], "{}", notation(&simple));
        assert_eq!(first_column(&extended), [A, A], "{}", notation(&extended));
        assert_eq!(first_column(&block), [A], "{}", notation(&block));
        is(&mut b, B).await;
        stage.nobody_acted_as_another().await;
    }

    /// 41.
    async fn an_unnamed_statement_survives_another_user_of_the_server(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        assert_eq!(a.ask([say::parse("", ME), say::sync()]).await, "1 Z(I)");
        is(&mut b, B).await;
        a.send([say::bind("", "", &[]), say::execute("", 0), say::sync()]).await;
        let answer = a.read_until_ready().await;
        assert_eq!(notation(&answer), "2 D C(SELECT 1) Z(I)");
        assert_eq!(first_column(&answer), [A]);

        assert_eq!(a.ask([say::parse("", &act(A)), say::sync()]).await, "1 Z(I)");
        assert_eq!(b.ask([say::parse("", &act(B)), say::sync()]).await, "1 Z(I)");
        for client in [&mut a, &mut b] {
            assert_eq!(client.ask([say::bind("", "", &[]), say::execute("", 0), say::sync()]).await, "2 C(INSERT 0 1) Z(I)");
        }

        assert_eq!((stage.acts_of(A).await, stage.acts_of(B).await), (1, 2));
        stage.nobody_acted_as_another().await;
    }

    /// 42.
    async fn whatever_the_first_unit_is_the_next_is_its_own_clients(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let function: u32 = stage.postgres.value("select 'txid_current()'::regprocedure::oid").await.parse().unwrap();

        for (first, answer) in [
            (vec![say::sync()], "Z(I)"),
            (vec![say::query("")], "I Z(I)"),
            (vec![say::parse("", ME), say::describe_statement(""), say::sync()], "1 t T Z(I)"),
            (vec![say::close_statement("none"), say::sync()], "3 Z(I)"),
            (vec![say::close_portal("none"), say::sync()], "3 Z(I)"),
            (vec![say::function_call(function, &[])], "V Z(I)"),
            (vec![say::flush(), say::sync()], "Z(I)"),
        ] {
            is(&mut b, B).await;
            assert_eq!(a.ask(first).await, answer);
            is(&mut b, B).await;
            is(&mut a, A).await;
        }
        // Flush alone owes nothing, and asks for what is owed.
        a.send([say::flush()]).await;
        is(&mut b, B).await;
        a.send([say::extended(ME, &[]), say::flush()]).await;
        assert_eq!(notation(&a.read_until(b'C').await), "1 2 T D C(SELECT 1)");
        assert_eq!(a.ask([say::sync()]).await, "Z(I)");
        is(&mut b, B).await;

        stage.nobody_acted_as_another().await;
    }

    /// 52.
    async fn a_first_unit_too_long_to_be_kept_waits_for_its_injection(setting: Setting) {
        let stage = setting.with_faults().stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;
        let long = format!("{} /* {} */", act(A), "x".repeat(200_000));
        let bound = say::join([
            say::parse("", "insert into notes (said, body) values ($1, $2)"),
            say::bind("", "", &[Some(A), Some(&"x".repeat(200_000))]),
            say::execute("", 0),
            say::sync(),
        ]);

        for (unit, answer) in [
            (say::query(&long), "C(INSERT 0 1) Z(I)"),
            (say::join([say::extended(&long, &[]), say::sync()]), "1 2 n C(INSERT 0 1) Z(I)"),
            (bound, "1 2 C(INSERT 0 1) Z(I)"),
        ] {
            stage.injection(Injection::Fails).await;
            let refused = a.ask([unit.clone()]).await;
            stage.injection(Injection::Works).await;
            assert!(refused.starts_with("E(") && refused.ends_with("Z(I)"), "{refused}");
            let before = stage.acts_of(A).await;
            is(&mut b, B).await;
            assert_eq!(a.ask([unit.clone()]).await, answer);
            stage.injection(Injection::FailsOnce).await;
            assert_eq!(a.ask([unit]).await, answer);
            assert_eq!(stage.acts_of(A).await, before + 2);
        }
        assert_eq!(me(&mut a).await, A);

        stage.nobody_acted_as_another().await;
    }

    /// 54.
    async fn messages_without_a_sync_before_a_query_leave_no_trace(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for _ in 0..3 {
            a.send([say::extended(&act(A), &[]), say::query(ME)]).await;
            let answer = a.read_until_ready().await;
            // What PostgreSQL makes of it differs by version; whose it is does not.
            assert!(first_column(&answer).iter().all(|who| who == A), "{}", notation(&answer));
            if answer.last().is_some_and(|frame| frame.body.as_ref() == b"T") {
                a.ask([say::sync()]).await;
            }
            is(&mut b, B).await;
            is(&mut a, A).await;
        }

        stage.nobody_acted_as_another().await;
    }
}
