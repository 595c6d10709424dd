//! What the pooler says before a client's words, settings and identity, is neither heard in the answers nor in the way
//! of the words.

use crate::harness::{Frame, Pgusher, Raw, notation, say};
use crate::on_every_major;

const A: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const B: &str = "bbbbbbbb-0000-0000-0000-000000000002";

on_every_major! {
    async fn a_named_statement_is_bound_whole_behind_a_prelude(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        a.query("set statement_timeout = '33s'").await;
        b.ask([say::parse("s", "select $1::text, current_setting('statement_timeout')"), say::sync()]).await;

        for value in ["short", &"long".repeat(2_000)] {
            a.query("select 1").await;
            b.send([say::bind("", "s", &[Some(value)]), say::execute("", 0), say::sync()]).await;
            let answer = b.read_until_ready().await;
            let row = answer.iter().find(|frame| frame.is(b'D')).map(Frame::row);
            assert_eq!(row, Some(vec![Some(value.to_owned()), Some("0".to_owned())]), "{}", notation(&answer));
        }
    }

    async fn a_reset_goes_back_to_what_the_client_began_with(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).no_identity().start().await;
        let own = pgusher.target().with("options", "-c statement_timeout=71s -c own.value=mine");
        let (mut a, mut b) = (Raw::login(&own).await, pgusher.client().await);

        for name in ["statement_timeout", "own.value"] {
            let usual = a.value(&format!("show {name}")).await;
            for reset in [format!("reset {name}"), format!("set {name} to default"), "reset all; select 1".into()] {
                a.rows(&format!("set {name} = '5s'")).await;
                assert_eq!(a.value(&format!("show {name}")).await, "5s");
                a.ask([say::extended(&reset, &[]), say::sync()]).await;
                a.rows(&reset).await;
                b.rows("select 1").await;
                assert_eq!(a.value(&format!("show {name}")).await, usual, "{reset}");
            }
        }
        a.rows("set own.value = ''").await;
        b.rows("select 1").await;
        assert_eq!(a.value("show own.value").await, "");
        assert_eq!(b.value("show statement_timeout").await, "0");
    }

    async fn a_driver_that_heals_by_the_routine_of_an_error_finds_it(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        for in_transaction in [false, true] {
            let (mut through, mut directly) = (pgusher.client().await, postgres.client().await);
            let mut answers = Vec::new();
            for client in [&mut through, &mut directly] {
                if in_transaction {
                    client.rows("begin").await;
                }
                client.send([say::bind("", "gone", &[]), say::execute("", 0), say::sync()]).await;
                let answer = client.read_until_ready().await;
                answers.push((answer[0].sqlstate(), answer[0].message(), answer[0].field(b'R')));
            }
            assert_eq!(answers[0], answers[1]);
        }
    }

    async fn a_first_unit_too_long_to_be_kept_waits_for_the_prelude(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).identity().start().await;
        let (mut a, mut b) = (pgusher.client_for(A).await, pgusher.client_for(B).await);
        let long = "x".repeat(1 << 20);
        let sql = "select current_setting('app.current_user_id'), length($1::text)";
        b.ask([say::parse("s", sql), say::sync()]).await;

        for (client, own) in [(&mut a, A), (&mut b, B)] {
            let own_and_length = [Some(own.to_owned()), Some(long.len().to_string())];
            let query = sql.replace("$1", &format!("'{long}'"));
            for unit in [
                vec![say::query(&query)],
                vec![say::extended(&query, &[]), say::sync()],
                vec![say::extended(sql, &[Some(&long)]), say::sync()],
                vec![say::parse(&long[..9_000], sql), say::bind("", &long[..9_000], &[Some(&long)]), say::execute("", 0), say::close_statement(&long[..9_000]), say::sync()],
            ] {
                client.send(unit).await;
                let answer = client.read_until_ready().await;
                let row = answer.iter().find(|frame| frame.is(b'D')).map(Frame::row);
                assert_eq!(row.as_deref(), Some(&own_and_length[..]), "{answer:?}");
            }
        }
        b.send([say::bind("", "s", &[Some(&long)]), say::execute("", 0), say::sync()]).await;
        assert_eq!(notation(&b.read_until_ready().await), "2 D C(SELECT 1) Z(I)");
    }

    async fn a_flush_behind_a_prelude_brings_the_answers(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).identity().start().await;
        let mut clients = [pgusher.client_for(A).await, pgusher.client_for(B).await];

        for round in 0..2 {
            for client in &mut clients {
                let name = &format!("s{round}");
                client.send([say::parse(name, "select $1::text"), say::describe_statement(name), say::flush()]).await;
                assert_eq!(notation(&client.read_until(b'T').await), "1 t T");
                let answer = client.ask([say::bind("", name, &[Some("x")]), say::execute("", 0), say::sync()]).await;
                assert_eq!(answer, "2 D C(SELECT 1) Z(I)");
            }
            // While others wait for the server, in whatever pieces the words come.
            let [a, b] = &mut clients;
            a.rows("begin").await;
            let name = &format!("t{round}");
            b.send([say::parse(name, "select $1::text"), say::describe_statement(name), say::flush()]).await;
            a.rows("commit").await;
            assert_eq!(notation(&b.read_until(b'T').await), "1 t T");
            assert_eq!(b.ask([say::sync()]).await, "Z(I)");
        }
    }
}
