//! Prepared statements in transaction mode: a name is its client's own, on whichever server is next.

use crate::harness::{Comparison, Frame, Pgusher, Raw, notation, say};
use crate::on_every_major;

const INT4: u32 = 23;
const TEXT: u32 = 25;

on_every_major! {
    async fn a_named_statement_works_on_whichever_server_is_next(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut client, "s", "select pg_backend_pid()::text || $1").await;
        let first = execute(&mut client, "s", &[Some("!")]).await;

        other.rows("begin").await;
        let taken = other.server_pid().await;
        let mut seen = vec![first];
        for _ in 0..3 {
            seen.push(execute(&mut client, "s", &[Some("!")]).await);
        }
        let mut third = pgusher.client().await;
        third.rows("begin").await;
        other.rows("commit").await;
        seen.push(execute(&mut client, "s", &[Some("!")]).await);

        assert_eq!(seen[4], format!("{taken}!"));
        assert_ne!(seen[3], seen[4]);
    }

    async fn equal_statements_of_many_clients_share_one_name_on_the_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut clients = Vec::new();
        for number in 0..5 {
            let mut client = pgusher.client().await;
            let name = format!("of_{number}");
            prepare(&mut client, &name, "select $1::int * 2").await;
            assert_eq!(execute(&mut client, &name, &[Some("4")]).await, "8");
            clients.push(client);
        }

        let known = known(&mut clients[0]).await;

        assert_eq!(texts(&known), ["select $1::int * 2"]);
        assert!(known[0].0.starts_with("pgusher_"), "{known:?}");
    }

    async fn statements_that_differ_in_types_only_are_kept_apart(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        a.ask([say::parse_typed("s", "select pg_typeof($1)::text", &[INT4]), say::sync()]).await;
        b.ask([say::parse_typed("s", "select pg_typeof($1)::text", &[TEXT]), say::sync()]).await;

        for _ in 0..2 {
            assert_eq!(execute(&mut a, "s", &[Some("1")]).await, "integer");
            assert_eq!(execute(&mut b, "s", &[Some("1")]).await, "text");
        }
        assert_eq!(known(&mut a).await.len(), 2);
    }

    async fn one_name_is_each_clients_own_statement(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut a, "s", "select 'of a'").await;
        prepare(&mut b, "s", "select 'of b'").await;

        for _ in 0..2 {
            assert_eq!(execute(&mut a, "s", &[]).await, "of a");
            assert_eq!(execute(&mut b, "s", &[]).await, "of b");
        }
        a.ask([say::close_statement("s"), say::sync()]).await;

        assert_eq!(a.ask([say::bind("", "s", &[]), say::sync()]).await, "E(26000) Z(I)");
        assert_eq!(execute(&mut b, "s", &[]).await, "of b");
    }

    async fn a_statement_is_described_on_a_server_that_did_not_have_it(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        client.rows("begin").await;
        prepare(&mut client, "s", "select $1::int as a, 'x'::text as b").await;
        let here = describe(&mut client, "s").await;
        other.rows("begin").await;
        client.rows("commit").await;
        let mut third = pgusher.client().await;
        third.rows("begin").await;
        other.rows("commit").await;

        let there = describe(&mut client, "s").await;

        assert_eq!(notation(&here), "t T Z(T)");
        assert_eq!(notation(&there), "t T Z(I)");
        assert_eq!(here[..2], there[..2]);
    }

    async fn the_least_recently_used_statement_is_closed_beyond_the_limit(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "2").start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut a, "one", "select 1").await;
        prepare(&mut b, "two", "select 2").await;
        assert_eq!(execute(&mut a, "one", &[]).await, "1");

        prepare(&mut a, "three", "select 3").await;

        assert_eq!(texts(&known(&mut a).await), ["select 1", "select 3"]);
        assert_eq!(execute(&mut b, "two", &[]).await, "2");
        assert_eq!(texts(&known(&mut a).await), ["select 2", "select 3"]);
    }

    async fn any_number_of_statements_works_on_a_server_that_keeps_one(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "1").start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        for number in 0..5 {
            prepare(&mut a, &format!("s{number}"), &format!("select 'a{number}'")).await;
            prepare(&mut b, &format!("s{number}"), &format!("select 'b{number}'")).await;
        }

        for number in [3, 0, 0, 4, 2] {
            let name = format!("s{number}");
            assert_eq!(execute(&mut a, &name, &[]).await, format!("a{number}"));
            assert_eq!(execute(&mut b, &name, &[]).await, format!("b{number}"));
        }
        let mixed = [0, 1, 0, 2].map(|number| {
            say::join([say::bind("", &format!("s{number}"), &[]), say::execute("", 0)])
        });
        a.send(mixed.into_iter().chain([say::sync()])).await;
        let answer = a.read_until_ready().await;

        assert_eq!(values(&answer), ["a0", "a1", "a0", "a2"]);
        assert_eq!(known(&mut a).await.len(), 1);
    }

    async fn a_name_is_never_reused_after_its_eviction(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "1").start().await;
        let mut client = pgusher.client().await;
        let mut names = std::collections::BTreeMap::new();

        for number in [1, 2, 3, 1, 4, 2, 5, 1] {
            let (name, sql) = (format!("s{number}"), format!("select {number}"));
            client.ask([say::close_statement(&name), say::sync()]).await;
            prepare(&mut client, &name, &sql).await;
            assert_eq!(execute(&mut client, &name, &[]).await, number.to_string());
            for (name, text) in known(&mut client).await {
                assert_eq!(names.entry(name).or_insert_with(|| text.clone()), &text);
            }
        }
        assert_eq!(names.len(), 5, "{names:?}");
    }

    async fn a_limit_of_zero_leaves_the_names_to_the_client_which_keeps_its_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).set("pool", "server_statements", "0").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        let pid = client.server_pid().await;

        prepare(&mut client, "mine", "select 'mine'").await;
        prepare(&mut other, "mine", "select 'other''s'").await;

        assert_ne!(other.server_pid().await, pid);
        for _ in 0..2 {
            assert_eq!(execute(&mut client, "mine", &[]).await, "mine");
            assert_eq!(execute(&mut other, "mine", &[]).await, "other's");
        }
        assert_eq!(client.value("select name from pg_prepared_statements").await, "mine");
    }

    async fn under_a_limit_of_zero_a_close_gives_the_server_back(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "0").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);

        for release in [
            say::join([say::close_statement("s"), say::sync()]),
            say::query("deallocate s"),
            say::query("deallocate all"),
            say::query("discard all"),
            say::join([say::extended("deallocate s", &[]), say::sync()]),
        ] {
            prepare(&mut client, "s", "select 'mine'").await;
            assert_eq!(execute(&mut client, "s", &[]).await, "mine");
            let answer = client.ask([release]).await;
            assert!(!answer.contains("E("), "{answer}");

            assert_eq!(other.value("select count(*) from pg_prepared_statements").await, "0");
        }
    }

    async fn deallocate_all_and_discard_all_forget_for_that_client_only(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut b, "s", "select 'of b'").await;

        for sql in ["deallocate all", "DEALLOCATE PREPARE ALL;", "discard all", " Discard /* it */ All ; "] {
            for forget in [say::query(sql), say::join([say::extended(sql, &[]), say::sync()])] {
                prepare(&mut a, "s", "select 'of a'").await;
                prepare(&mut a, "t", "select 'of b'").await;

                let answer = a.ask([forget]).await;

                assert!(answer.contains("ALL)") && answer.ends_with("Z(I)"), "{sql}: {answer}");
                for name in ["s", "t"] {
                    let bound = a.ask([say::bind("", name, &[]), say::sync()]).await;
                    assert_eq!(bound, "E(26000) Z(I)", "{sql}");
                }
                assert_eq!(execute(&mut b, "s", &[]).await, "of b", "{sql}");
            }
        }
    }

    async fn deallocate_all_inside_a_transaction_leaves_other_clients_their_statements(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut b, "s", "select 'of b'").await;

        for sql in ["deallocate all", "select 1; deallocate all"] {
            prepare(&mut a, "s", "select 'of a'").await;
            assert_eq!(execute(&mut a, "s", &[]).await, "of a");
            a.rows("begin").await;
            a.rows(sql).await;
            assert_eq!(a.ask([say::bind("", "s", &[]), say::sync()]).await, "E(26000) Z(E)");
            a.rows("rollback").await;

            assert_eq!(a.ask([say::bind("", "s", &[]), say::sync()]).await, "E(26000) Z(I)");
            assert_eq!(execute(&mut b, "s", &[]).await, "of b");
        }
    }

    async fn statements_after_a_deallocate_all_in_the_same_write_are_kept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            client.ask([say::parse("s", "select 1"), say::sync()]).await;
            for reset in ["deallocate all", "discard all"] {
                client.send([
                    say::query("select 'before'"),
                    say::query(reset),
                    say::parse("s", "select 1"),
                    say::sync(),
                    say::bind("", "s", &[]),
                    say::execute("", 0),
                    say::sync(),
                ])
                .await;
                client.read_until_ready_times(4).await;
                client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
            }
            client.query("begin").await;
            client.send([
                say::extended("deallocate all", &[]),
                say::parse("s", "select 1"),
                say::bind("", "s", &[]),
                say::execute("", 0),
                say::sync(),
            ])
            .await;
            client.read_until_ready().await;
            client.query("commit").await;
            client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        })
        .await;
    }

    async fn a_statement_is_deallocated_by_its_clients_name(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;
        for (name, sql) in [("s", "select 1"), ("Q", "select 2"), ("a\"b", "select 3")] {
            prepare(&mut other, name, sql).await;
        }

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            for transaction in [false, true] {
                if transaction {
                    client.query("begin").await;
                }
                for (name, sql, deallocate) in [
                    ("s", "select 1", "deallocate s"),
                    ("s", "select 1", "DEALLOCATE PREPARE S;"),
                    ("Q", "select 2", "deallocate \"Q\""),
                    ("a\"b", "select 3", "deallocate \"a\"\"b\""),
                ] {
                    client.ask([say::parse(name, sql), say::sync()]).await;
                    client.query(deallocate).await;
                    client.ask([say::parse(name, sql), say::bind("", name, &[]), say::execute("", 0), say::sync()]).await;
                    client.ask([say::parse("", deallocate), say::bind("", "", &[]), say::execute("", 0), say::sync()]).await;
                    client.ask([say::parse(name, sql), say::sync()]).await;
                    client.ask([say::parse("d", deallocate), say::sync()]).await;
                    client.ask([say::bind("", "d", &[]), say::execute("", 0), say::close_statement("d"), say::sync()]).await;
                }
                if transaction {
                    client.ask([say::bind("", "s", &[]), say::sync()]).await;
                    client.query("rollback").await;
                }
            }
            client.query("deallocate s").await;
            client.query("deallocate \"Q\"").await;
        })
        .await;
        assert_eq!(execute(&mut other, "s", &[]).await, "1");
        assert_eq!(execute(&mut other, "Q", &[]).await, "2");
        assert_eq!(execute(&mut other, "a\"b", &[]).await, "3");
    }

    async fn a_closed_name_is_unknown_and_an_unknown_one_may_be_closed(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            client.ask([say::close_statement("never"), say::sync()]).await;
            client.ask([say::parse("s", "select 1"), say::sync()]).await;
            client.ask([say::close_statement("s"), say::sync()]).await;
            client.ask([say::describe_statement("s"), say::sync()]).await;
            client.ask([say::close_statement("s"), say::sync()]).await;
            client.ask([say::parse("s", "select 2"), say::bind("", "s", &[]), say::execute("", 0), say::close_statement("s"), say::sync()]).await;
            client.ask([say::parse("s", "select 3"), say::close_statement("s"), say::bind("", "s", &[]), say::sync()]).await;
            client.ask([say::bind("", "s", &[]), say::sync()]).await;
        })
        .await;
    }

    async fn a_close_that_an_error_voids_has_not_happened(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            client.ask([say::parse("s", "select 1"), say::sync()]).await;
            client.ask([say::extended("select 1/0", &[]), say::close_statement("s"), say::parse("s", "select 2"), say::sync()]).await;
            client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        })
        .await;
    }

    async fn a_parse_that_failed_is_not_remembered(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher).before_each("drop table if exists later").in_notation().run(async |client| {
            for name in ["s", ""] {
                client.ask([say::parse(name, "selec"), say::sync()]).await;
                client.ask([say::bind("", name, &[]), say::execute("", 0), say::sync()]).await;
                client.ask([say::parse(name, "select * from later"), say::describe_statement(name), say::sync()]).await;
                client.ask([say::bind("", name, &[]), say::execute("", 0), say::sync()]).await;
            }
            client.query("create table later ()").await;
            client.ask([say::parse("s", "select * from later"), say::describe_statement("s"), say::sync()]).await;
            client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        })
        .await;
    }

    async fn a_parse_that_an_error_voided_is_not_remembered(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            client.ask([
                say::parse("a", "select 'a'"),
                say::parse("b", "selec"),
                say::parse("c", "select 'c'"),
                say::bind("", "c", &[]),
                say::sync(),
            ])
            .await;
            for name in ["a", "b", "c"] {
                client.ask([say::bind("", name, &[]), say::execute("", 0), say::sync()]).await;
            }
            client.ask([say::parse("c", "select 'new c'"), say::bind("", "c", &[]), say::execute("", 0), say::sync()]).await;
        })
        .await;
    }

    async fn a_failed_pipeline_with_an_eviction_in_it_loses_nobodys_statement(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "2").start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut a, "one", "select 1").await;
        prepare(&mut b, "two", "select 2").await;

        for broken in ["selec", "select * from nowhere"] {
            let before = b.ask([say::parse("bad", broken), say::sync()]).await;
            let behind = b.ask([
                say::extended("select 1/0", &[]),
                say::parse("new", "select 'new'"),
                say::parse("newer", "select 'newer'"),
                say::parse("newest", "select 'newest'"),
                say::sync(),
            ])
            .await;
            assert!(before.starts_with("E(42") && behind.ends_with("E(22012) Z(I)"), "{before} {behind}");
            for name in ["bad", "new", "newer", "newest"] {
                assert_eq!(b.ask([say::bind("", name, &[]), say::sync()]).await, "E(26000) Z(I)", "{name}");
            }
            assert_eq!(execute(&mut a, "one", &[]).await, "1");
            assert_eq!(execute(&mut b, "two", &[]).await, "2");
            assert!(known(&mut a).await.len() <= 2);
        }
    }

    async fn a_failed_parse_in_front_of_an_eviction_leaves_the_count_right(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "2").start().await;
        let mut client = pgusher.client().await;
        for number in 0..6 {
            let (good, bad) = (format!("good{number}"), format!("bad{number}"));
            let answer = client.ask([
                say::parse(&good, &format!("select {number}")),
                say::parse(&bad, &format!("selec {number}")),
                say::parse("never", "select 'never'"),
                say::sync(),
            ])
            .await;
            assert_eq!(answer, "1 E(42601) Z(I)");
            assert!(known(&mut client).await.len() <= 2);
        }

        for number in 0..6 {
            assert_eq!(execute(&mut client, &format!("good{number}"), &[]).await, number.to_string());
        }
    }

    async fn taken_and_unknown_names_are_errors_anywhere_and_the_session_is_kept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            client.ask([say::parse("s", "select 1"), say::sync()]).await;
            for mistake in [
                say::parse("s", "select 2"),
                say::bind("", "unknown", &[]),
                say::describe_statement("unknown"),
                say::execute("unknown", 0),
                say::describe_portal("unknown"),
            ] {
                // alone; in the middle of a pipeline; in a transaction; between two units of one write
                client.ask([mistake.clone(), say::sync()]).await;
                client.ask([
                    say::extended("select 'before'", &[]),
                    mistake.clone(),
                    say::extended("select 'skipped'", &[]),
                    say::parse("skipped", "select 3"),
                    say::sync(),
                ])
                .await;
                client.ask([say::bind("", "skipped", &[]), say::sync()]).await;
                client.query("begin").await;
                client.ask([mistake.clone(), say::sync()]).await;
                client.ask([say::extended("select 'failed'", &[]), say::sync()]).await;
                client.query("rollback").await;
                client.send([
                    say::extended("select 'before'", &[]),
                    say::sync(),
                    mistake.clone(),
                    say::extended("select 'skipped'", &[]),
                    say::sync(),
                    say::extended("select 'after'", &[]),
                    say::sync(),
                ])
                .await;
                client.read_until_ready_times(3).await;
                client.send([mistake.clone(), say::flush()]).await;
                client.read_until(b'E').await;
                client.send([say::extended("select 'skipped'", &[])]).await;
                client.ask([say::sync()]).await;
            }
            client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        })
        .await;
    }

    async fn each_error_names_its_own_statement(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let script = async |client: &mut Raw| {
            prepare(client, "a", "select 1").await;
            prepare(client, "b", "select 1").await;
            client.query("begin").await;
            client.send([
                say::query("savepoint p"),
                say::parse("a", "select 2"),
                say::sync(),
                say::query("rollback to p"),
                say::bind("", "nothing", &[]),
                say::sync(),
                say::query("rollback to p"),
                say::parse("b", "select 2"),
                say::bind("", "skipped", &[]),
                say::sync(),
                say::query("rollback"),
            ])
            .await;
            let answer = client.read_until_ready_times(7).await;
            answer.iter().filter(|frame| frame.is(b'E')).map(Frame::message).collect::<Vec<_>>()
        };

        let directly = script(&mut postgres.client().await).await;
        let through = script(&mut pgusher.client().await).await;

        assert_eq!(through, directly);
        assert_eq!(through.len(), 3);
    }

    async fn a_statement_whose_result_type_changed_is_prepared_anew(postgres: Postgres) {
        postgres.sql("create table t (a int); insert into t values (1); alter table t owner to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut a, "s", "select * from t").await;
        prepare(&mut b, "s", "select * from t").await;
        assert_eq!(execute(&mut a, "s", &[]).await, "1");

        for column in ["b", "c"] {
            postgres.sql(&format!("alter table t add column {column} int default 2")).await;

            let first = a.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
            assert_eq!(first, "E(0A000) Z(I)");
            for client in [&mut a, &mut b] {
                let described = notation(&describe(client, "s").await);
                let again = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
                assert_eq!((described.as_str(), again.as_str()), ("t T Z(I)", "2 D C(SELECT 1) Z(I)"));
            }
        }
        assert_eq!(a.value("select count(*) from pg_prepared_statements").await, "1");
    }

    async fn a_statement_whose_result_type_changed_inside_a_transaction_works_in_the_next(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        client.rows("create table t (a int)").await;
        prepare(&mut client, "s", "select * from t").await;

        client.rows("begin").await;
        client.rows("alter table t add column b int").await;
        let inside = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        client.rows("rollback").await;
        let after = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        client.rows("alter table t alter column a type text").await;
        let changed = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        client.rows("begin").await;
        let healed = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        client.rows("commit").await;

        assert_eq!((inside.as_str(), after.as_str()), ("E(0A000) Z(E)", "2 C(SELECT 0) Z(I)"));
        assert_eq!((changed.as_str(), healed.as_str()), ("E(0A000) Z(I)", "2 C(SELECT 0) Z(T)"));
    }

    async fn a_statement_whose_table_is_gone_fails_and_comes_back_with_it(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        client.rows("create table t (a int)").await;
        prepare(&mut client, "s", "select a from t").await;
        client.rows("drop table t").await;

        for _ in 0..2 {
            assert_eq!(client.ask([say::bind("", "s", &[]), say::sync()]).await, "E(42P01) Z(I)");
            let anew = other.ask([say::parse("x", "select a from t"), say::bind("", "x", &[]), say::sync()]).await;
            assert!(anew.ends_with("E(42P01) Z(I)"), "{anew}");
            other.ask([say::close_statement("x"), say::sync()]).await;
        }
        client.rows("create table t (a int)").await;

        let answer = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        assert_eq!(answer, "2 C(SELECT 0) Z(I)");
    }

    async fn an_unnamed_statement_follows_its_client_to_another_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        client.rows("begin").await;
        let here = client.server_pid().await;
        client.ask([say::parse("", "select pg_backend_pid()::text || $1"), say::sync()]).await;
        other.rows("begin").await;
        client.rows("commit").await;
        // A Query ends the unnamed statement, so it is made again where the transaction was, and used elsewhere.
        other.rows("commit").await;
        client.ask([say::parse("", "select pg_backend_pid()::text || $1"), say::sync()]).await;
        let mut holders = [pgusher.client().await, pgusher.client().await];
        let mut served = Vec::new();
        for holder in &mut holders {
            holder.rows("begin").await;
            let taken = holder.server_pid().await;
            served.push(execute(&mut client, "", &[Some("!")]).await);
            assert_ne!(served.last().unwrap(), &format!("{taken}!"));
            let described = notation(&describe(&mut client, "").await);
            assert_eq!(described, "t T Z(I)");
            client.send([say::bind("", "", &[Some("?")]), say::execute("", 0), say::sync()]).await;
            client.read_until_ready().await;
            holder.rows("commit").await;
            // The next holder gets whichever server was used last; let the other one be it.
            client.ask([say::sync()]).await;
        }
        assert!(!here.is_empty());
        assert_eq!(served.len(), 2);
    }

    async fn an_unnamed_statement_is_its_clients_own_after_others_used_the_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        a.ask([say::parse("", "select 'of a'"), say::sync()]).await;
        b.ask([say::parse("", "select 'of b'"), say::sync()]).await;

        for _ in 0..2 {
            assert_eq!(execute(&mut a, "", &[]).await, "of a");
            assert_eq!(execute(&mut b, "", &[]).await, "of b");
        }
    }

    async fn an_unnamed_statement_ends_where_postgresql_ends_it(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;
        other.ask([say::parse("", "select 'of another'"), say::sync()]).await;

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            let used = || [say::bind("", "", &[]), say::execute("", 0), say::sync()];
            client.ask(used()).await;
            client.ask([say::parse("", "select 1"), say::sync()]).await;
            client.ask(used()).await;
            client.query("select 'ends it'").await;
            client.ask(used()).await;
            client.ask([say::parse("", "select 1"), say::close_statement(""), say::sync()]).await;
            client.ask(used()).await;
            client.ask([say::parse("", "select 1"), say::sync()]).await;
            client.ask([say::parse("", "selec"), say::sync()]).await;
            client.ask(used()).await;
            client.query("begin").await;
            client.ask([say::parse("", "select 1"), say::sync()]).await;
            client.ask(used()).await;
            client.query("commit").await;
            client.ask(used()).await;
        })
        .await;
    }

    async fn an_unnamed_parse_that_an_error_voids_never_runs(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        client.ask([say::parse("", "select 'first'"), say::sync()]).await;
        client.ask([say::parse("bad", "selec"), say::parse("", "select 'voided'"), say::sync()]).await;

        client.send([say::bind("", "", &[]), say::execute("", 0), say::sync()]).await;
        let answer = client.read_until_ready().await;

        // PostgreSQL runs the first. To know of none is fine as well; to run the one it skipped is not.
        assert!(!values(&answer).contains(&"voided".to_owned()), "{answer:?}");
    }

    async fn a_statement_prepared_in_sql_works_for_its_client_and_no_other(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        a.rows("prepare s (int) as select 'a' || $1").await;
        b.rows("prepare s (int) as select 'b' || $1").await;

        for n in ["1", "2"] {
            assert_eq!(a.value(&format!("execute s({n})")).await, format!("a{n}"));
            assert_eq!(b.value(&format!("execute s({n})")).await, format!("b{n}"));
        }
        a.rows("deallocate s").await;
        assert_eq!(notation(&a.query("execute s(1)").await), "E(26000) Z(I)");
        assert_eq!(b.value("execute s(3)").await, "b3");
    }

    async fn a_statement_prepared_in_sql_goes_when_its_client_gives_it_up(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;

        for release in ["deallocate s", "deallocate prepare s", "deallocate all", "discard all", ""] {
            for is_extended in [false, true] {
                let mut client = pgusher.client().await;
                client.rows("prepare s as select 'mine'").await;
                assert_eq!(client.value("execute s").await, "mine");
                match (release, is_extended) {
                    ("", false) => client.terminate().await,
                    ("", true) => client.reset(),
                    (release, true) => {
                        client.ask([say::extended(release, &[]), say::sync()]).await;
                    }
                    (release, false) => {
                        client.rows(release).await;
                    }
                }

                assert_eq!(notation(&other.query("execute s").await), "E(26000) Z(I)", "{release}");
            }
        }
    }

    async fn a_statement_prepared_by_protocol_is_executed_in_sql_only_by_its_name_there(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        prepare(&mut client, "s", "select 'mine'").await;

        assert_eq!(notation(&client.query("execute s").await), "E(26000) Z(I)");
        assert_eq!(execute(&mut client, "s", &[]).await, "mine");
    }

    async fn clients_may_use_names_that_look_like_ours(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;
        prepare(&mut other, "theirs", "select 'theirs'").await;
        let (ours, _) = known(&mut other).await.remove(0);
        let mut client = pgusher.client().await;

        for number in 0..4 {
            let name = format!("pgusher_{number}");
            prepare(&mut client, &name, &format!("select 'mine {number}'")).await;
        }
        for number in 0..4 {
            let mine = execute(&mut client, &format!("pgusher_{number}"), &[]).await;
            assert_eq!(mine, format!("mine {number}"));
        }
        client.ask([say::close_statement(&ours), say::sync()]).await;
        assert_eq!(client.ask([say::bind("", &ours, &[]), say::sync()]).await, "E(26000) Z(I)");

        assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs");
    }

    async fn a_name_like_ours_cannot_be_deallocated_or_taken_in_sql(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut other, "theirs", "select 'theirs'").await;
        let (ours, _) = known(&mut other).await.remove(0);

        for transaction in [false, true] {
            if transaction {
                client.rows("begin").await;
            }
            let refused = notation(&client.query(&format!("deallocate {ours}")).await);
            assert!(refused.starts_with("E(26000)"), "{refused}");
            if transaction {
                client.rows("rollback").await;
            }
            let refused = client.ask([say::extended(&format!("deallocate {ours}"), &[]), say::sync()]).await;
            assert!(refused.contains("E(26000)"), "{refused}");
            assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs");
        }
        assert_eq!(notation(&client.query(&format!("prepare {ours} as select 1")).await), "E(42939) Z(I)");
        assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs");
    }

    async fn sql_cannot_name_a_statement_of_another_client(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        prepare(&mut other, "theirs", "select 'theirs'").await;
        let (ours, _) = known(&mut other).await.remove(0);
        let pid = client.server_pid().await;

        for (sql, sqlstate) in [
            (format!("execute {ours}"), "26000"),
            (format!("EXECUTE \"{ours}\""), "26000"),
            (format!("explain execute {ours}"), "26000"),
            (format!("explain (analyze, costs off) execute {ours}"), "26000"),
            (format!("create table t as execute {ours}"), "26000"),
            (format!("deallocate {ours}"), "26000"),
            (format!("deallocate prepare \"{ours}\""), "26000"),
            (format!("prepare {ours} as select 'mine'"), "42939"),
            ("prepare pgusher_any as select 'mine'".to_owned(), "42939"),
        ] {
            let simple = notation(&client.query(&sql).await);
            let several = notation(&client.query(&format!("select 1; {sql}")).await);
            let extended = client.ask([say::extended(&sql, &[]), say::sync()]).await;
            let named = client.ask([say::parse("s", &sql), say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
            client.rows("begin").await;
            let inside = notation(&client.query(&sql).await);
            let after = notation(&client.query("select 1").await);
            client.rows("rollback").await;

            let refused = format!("E({sqlstate}) Z(I)");
            assert_eq!([simple, several, extended, named], [(); 4].map(|()| refused.clone()), "{sql}");
            assert_eq!((inside, after), (format!("E({sqlstate}) Z(E)"), "E(25P02) Z(E)".to_owned()), "{sql}");
            assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs");
        }
        assert_eq!(client.server_pid().await, pid);
    }

    async fn a_name_on_the_server_cannot_be_guessed(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        for number in 0..10 {
            prepare(&mut other, &format!("s{number}"), &format!("select {number}")).await;
        }

        let guessed = client.query("do $$ begin for i in 0..999 loop begin
                execute 'execute pgusher_' || i;
                raise 'pgusher_% is there', i;
            exception when invalid_sql_statement_name then end; end loop; end $$");

        assert_eq!(notation(&guessed.await), "C(DO) Z(I)");
        assert_eq!(execute(&mut other, "s3", &[]).await, "3");
    }

    async fn what_hidden_sql_does_to_the_names_of_others_is_put_right(postgres: Postgres) {
        // With "always" such words find no names of others at all.
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "clean", "when-needed").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);

        for hidden in [
            "execute 'deallocate ' || n",
            "execute 'deallocate ' || n; execute 'prepare ' || n || ' as select ''mine'''",
            "execute 'deallocate all'",
        ] {
            prepare(&mut other, "theirs", "select 'theirs'").await;
            // The view shows names to whoever asks: only then can hidden words use them.
            let sql = format!(
                "do $$ declare n text; begin
                    select quote_ident(name) into n from pg_prepared_statements where statement = 'select ''theirs''';
                    {hidden}; end $$"
            );
            client.rows(&sql).await;
            client.rows("deallocate all").await;

            assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs", "{hidden}");
            other.ask([say::close_statement("theirs"), say::sync()]).await;
        }
    }

    async fn a_server_that_does_not_show_its_statements_keeps_nothing_of_one_client_for_another(postgres: Postgres) {
        for revoked in ["select on pg_prepared_statements", "execute on function pg_prepared_statement()"] {
            postgres.sql(&format!("revoke {revoked} from public")).await;
            let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
            let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
            let pid = client.server_pid().await;
            prepare(&mut other, "theirs", "select 'theirs'").await;

            client.rows("set work_mem = '5MB'").await;
            assert_eq!(client.value("show work_mem").await, "5MB", "{revoked}");
            assert_eq!(other.value("show work_mem").await, "4MB", "{revoked}");
            client.rows("do $$ begin execute 'prepare hidden as select 1'; end $$").await;
            assert_eq!(notation(&other.query("execute hidden").await), "E(26000) Z(I)");
            assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs");
            client.rows("deallocate all; prepare mine as select 'mine'").await;
            for _ in 0..2 {
                assert_eq!(client.value("execute mine").await, "mine");
            }
            other.send([say::query("execute mine")]).await;
            other.expect_silence(std::time::Duration::from_millis(60)).await;
            client.rows("deallocate all").await;
            assert_eq!(notation(&other.read_until_ready().await), "E(26000) Z(I)");
            assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs");

            client.rows("prepare mine as select 'mine'").await;
            client.terminate().await;
            assert_eq!(notation(&other.query("execute mine").await), "E(26000) Z(I)");
            assert_eq!(execute(&mut other, "theirs", &[]).await, "theirs");
            assert_eq!(other.server_pid().await, pid, "{revoked}");
        }
    }

    async fn a_client_that_keeps_its_own_statements_keeps_a_server_that_does_not_show_them(postgres: Postgres) {
        postgres.sql("revoke select on pg_prepared_statements from public").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "0").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);

        prepare(&mut client, "s", "select 'mine'").await;
        other.send([say::query("select 1")]).await;
        other.expect_silence(std::time::Duration::from_millis(60)).await;
        assert_eq!(execute(&mut client, "s", &[]).await, "mine");
        client.rows("deallocate all").await;

        assert_eq!(notation(&other.read_until_ready().await), "T D C(SELECT 1) Z(I)");
        assert_eq!(other.ask([say::bind("", "s", &[]), say::sync()]).await, "E(26000) Z(I)");
    }

    async fn a_client_may_give_up_its_own_name_that_looks_like_ours(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        prepare(&mut client, "pgusher_mine", "select 'mine'").await;
        client.ask([say::parse("d", "deallocate pgusher_mine"), say::sync()]).await;

        let dropped = client.ask([say::bind("", "d", &[]), say::execute("", 0), say::sync()]).await;
        let again = client.ask([say::bind("", "d", &[]), say::execute("", 0), say::sync()]).await;

        assert_eq!((dropped.as_str(), again.as_str()), ("2 C(DEALLOCATE) Z(I)", "E(26000) Z(I)"));
        assert_eq!(client.ask([say::bind("", "pgusher_mine", &[]), say::sync()]).await, "E(26000) Z(I)");
    }

    async fn a_client_may_name_so_many_statements_and_no_more(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "client_statements", "3").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        for number in 0..3 {
            prepare(&mut client, &format!("s{number}"), &format!("select {number}")).await;
            prepare(&mut other, &format!("s{number}"), &format!("select {number}")).await;
        }

        for sql in ["select 'new'", "select 1"] {
            client.send([say::parse("s3", sql), say::bind("", "s3", &[]), say::execute("", 0), say::sync()]).await;
            let refused = client.read_until_ready().await;
            assert_eq!(notation(&refused), "E(53400) Z(I)");
        }
        let in_pipeline = client.ask([say::extended("select 1", &[]), say::parse("s3", "select 3"), say::sync()]).await;
        assert_eq!(in_pipeline, "1 2 T D C(SELECT 1) E(53400) Z(I)");
        for number in 0..3 {
            assert_eq!(execute(&mut client, &format!("s{number}"), &[]).await, number.to_string());
        }
        client.ask([say::close_statement("s0"), say::sync()]).await;
        prepare(&mut client, "s3", "select 'room'").await;
        assert_eq!(execute(&mut client, "s3", &[]).await, "room");
    }

    async fn a_client_may_hold_so_many_bytes_of_statements_and_no_more(postgres: Postgres) {
        let pgusher =
            Pgusher::before(&postgres).pool_size(1).text("pool", "client_statement_bytes", "8kB").start().await;
        let mut client = pgusher.client().await;
        let text = |number: usize| format!("select {number} /* {} */", "x".repeat(3_000));
        prepare(&mut client, "s0", &text(0)).await;
        prepare(&mut client, "s1", &text(1)).await;

        let refused = client.ask([say::parse("s2", &text(2)), say::sync()]).await;
        let too_long = format!("select 1 /* {} */", "x".repeat(100_000));
        let never = client.ask([say::parse("s3", &too_long), say::sync()]).await;
        let unnamed = client.ask([say::extended(&too_long, &[]), say::sync()]).await;

        assert_eq!((refused.as_str(), never.as_str()), ("E(53400) Z(I)", "E(53400) Z(I)"));
        assert_eq!(unnamed, "1 2 T D C(SELECT 1) Z(I)");
        assert_eq!(execute(&mut client, "s1", &[]).await, "1");
        client.ask([say::close_statement("s0"), say::sync()]).await;
        prepare(&mut client, "s2", &text(2)).await;
        assert_eq!(execute(&mut client, "s2", &[]).await, "2");
    }

    async fn a_failed_unit_in_a_pipeline_does_not_break_the_units_behind_it(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "1").start().await;

        Comparison::of(&postgres, &pgusher).in_notation().run(async |client| {
            client.ask([say::parse("s", "select 's'"), say::sync()]).await;
            client.ask([say::parse("t", "select 't'"), say::sync()]).await;
            let used = |name: &str| say::join([say::bind("", name, &[]), say::execute("", 0)]);
            client.send([
                say::extended("select 1/0", &[]),
                used("s"), // skipped, with what would have made it known to the server
                say::sync(),
                used("s"),
                say::sync(),
                say::extended("select 1/0", &[]),
                say::parse("u", "select 'u'"),
                say::close_statement("s"),
                say::sync(),
                used("s"),
                say::sync(),
                used("u"),
                say::sync(),
                say::parse("u", "select 'new u'"),
                used("u"),
                say::sync(),
                say::parse("v", "selec"),
                say::sync(),
                say::parse("v", "select 'v'"),
                used("v"),
                used("t"),
                say::sync(),
            ])
            .await;
            client.read_until_ready_times(8).await;
            for name in ["s", "t", "u", "v"] {
                client.ask([used(name), say::sync()]).await;
            }
        })
        .await;
    }

    async fn statements_of_a_client_that_left_are_no_ones_names(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;
        prepare(&mut client, "s", "select 'mine'").await;
        client.send([say::parse("t", "select 'never synced'")]).await;
        client.terminate().await;

        let mut next = pgusher.client().await;
        for name in ["s", "t"] {
            assert_eq!(next.ask([say::bind("", name, &[]), say::sync()]).await, "E(26000) Z(I)");
            prepare(&mut next, name, &format!("select 'new {name}'")).await;
            assert_eq!(execute(&mut next, name, &[]).await, format!("new {name}"));
        }
    }

    async fn many_clients_prepare_and_execute_on_two_servers_without_a_wrong_row(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).set("pool", "server_statements", "3").start().await;
        let clients = (0..6).map(|client| {
            let target = pgusher.target();
            tokio::spawn(async move {
                let mut raw = Raw::login(&target).await;
                for round in 0..30 {
                    let (name, text) = (format!("s{}", round % 4), (client + round) % 7);
                    raw.ask([say::close_statement(&name), say::sync()]).await;
                    prepare(&mut raw, &name, &format!("select '{text}-' || $1")).await;
                    let value = format!("{client}.{round}");
                    assert_eq!(execute(&mut raw, &name, &[Some(&value)]).await, format!("{text}-{value}"));
                    if round % 5 == 0 {
                        let failed = raw.ask([say::bind("", &name, &[]), say::sync()]).await;
                        assert_eq!(failed, "E(08P01) Z(I)");
                    }
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    }
}

/// Prepares, which must succeed.
async fn prepare(client: &mut Raw, name: &str, sql: &str) {
    let answer = client.ask([say::parse(name, sql), say::sync()]).await;
    assert!(answer.starts_with("1 Z("), "{name}: {sql}: {answer}");
}

/// Executes, which must succeed: the first value.
async fn execute(client: &mut Raw, name: &str, given: &[Option<&str>]) -> String {
    client.send([say::bind("", name, given), say::execute("", 0), say::sync()]).await;
    let answer = client.read_until_ready().await;
    values(&answer).into_iter().next().unwrap_or_else(|| panic!("{name}: {answer:?}"))
}

async fn describe(client: &mut Raw, name: &str) -> Vec<Frame> {
    client.send([say::describe_statement(name), say::sync()]).await;
    client.read_until_ready().await
}

/// The first value of each row.
fn values(answer: &[Frame]) -> Vec<String> {
    let rows = answer.iter().filter(|frame| frame.is(b'D'));
    rows.map(|row| row.row().swap_remove(0).unwrap_or_default()).collect()
}

/// The statements the server has by protocol, as (name, text), by text.
async fn known(client: &mut Raw) -> Vec<(String, String)> {
    let rows = client
        .rows("select name, statement from pg_prepared_statements where not from_sql order by statement");
    rows.await
        .into_iter()
        .map(|row| match <[_; 2]>::try_from(row) {
            Ok([name, text]) => (name.unwrap_or_default(), text.unwrap_or_default()),
            Err(row) => panic!("{row:?}"),
        })
        .collect()
}

fn texts(known: &[(String, String)]) -> Vec<&str> {
    known.iter().map(|(_, text)| text.as_str()).collect()
}
