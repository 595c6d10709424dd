//! How clients say who they are, in all the ways that are understood and all those that are not.

use super::{A, B, ME, act, first_column, is, me};
use crate::contract;
use crate::harness::{Raw, notation, say};

contract! {
    /// Section 2: SET, RESET and set_config, in all their spellings and both protocols.
    async fn every_spelling_of_set_and_reset_is_kept_per_client(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for set in [
            format!("set app.current_user_id = '{B}'"),
            format!("SET APP.Current_User_Id TO '{B}';"),
            format!("set session app.current_user_id to '{B}'"),
            format!("set \"app\".\"current_user_id\" = '{B}'"),
            format!("/* why */ set app . current_user_id = -- so\n '{B}' ;"),
            format!("select set_config('app.current_user_id', '{B}', false)"),
            format!("SELECT pg_catalog.set_config('APP.current_user_id', '{B}'::text, FALSE);"),
        ] {
            for reset in ["reset app.current_user_id", "set app.current_user_id to default", "SET app.current_user_id = DEFAULT;"] {
                a.rows(&set).await;
                is(&mut a, B).await;
                is(&mut b, B).await;
                a.rows(reset).await;
                is(&mut a, A).await;
                let answer = a.ask([say::extended(&set, &[]), say::sync()]).await;
                assert!(answer.starts_with("1 2 ") && answer.ends_with("Z(I)") && !answer.contains("E("), "{set}: {answer}");
                is(&mut a, B).await;
                let answer = a.ask([say::extended(reset, &[]), say::sync()]).await;
                assert!(!answer.contains("E("), "{reset}: {answer}");
                is(&mut a, A).await;
            }
        }
        for (values, who) in [([Some(B)], B), ([Some(A)], A), ([Some("")], ""), ([None], "")] {
            a.send([say::extended("select set_config('app.current_user_id', $1, false)", &values), say::sync()]).await;
            let answer = a.read_until_ready().await;
            assert_eq!(first_column(&answer), [who], "{}", notation(&answer));
            assert_eq!(me(&mut a).await, who);
        }

        stage.nobody_acted_as_another().await;
    }

    /// Section 2: the startup packet, in both ways; never the server's own.
    async fn the_startup_packet_says_who_a_client_is(setting: Setting) {
        let stage = setting.stage().await;

        for target in [
            stage.target.clone().with("app.current_user_id", A),
            stage.target.clone().with("App.Current_User_Id", A),
            stage.target.clone().with("options", &format!("-c app.current_user_id={A}")),
            stage.target.clone().with("options", &format!("-capp.current_user_id={A} -c work_mem=5MB")),
            stage.target.clone().with("options", &format!("--app.current_user_id={A}")),
        ] {
            let mut a = Raw::login(&target).await;
            is(&mut a, A).await;
            is(&mut stage.client_for(B).await, B).await;
            assert_eq!(me(&mut stage.client().await).await, "");
            is(&mut a, A).await;
        }
        let mut refused = Raw::reach(&stage.target).await.unwrap();
        let report = refused.try_login(&stage.target.clone().with("app.current_user_id", "not a uuid")).await.unwrap_err();
        assert_eq!(report.severity(), "FATAL");

        stage.nobody_acted_as_another().await;
    }

    /// Section 2: the login role, and a suffix of the user's name, where they are configured.
    async fn a_login_role_or_a_suffix_of_it_may_be_the_identity(setting: Setting) {
        let stage = setting
            .stage_with(|pgusher| {
                pgusher
                    .set("identity", "from_login_role", "true")
                    .set("identity", "from_user_suffix", "true")
                    .text("identity", "pattern", "any")
            })
            .await;
        stage.postgres.sql("alter table notes drop column owner cascade; alter table notes add owner text; alter table notes alter owner set default current_setting('app.current_user_id'); create policy own on notes using (owner = current_setting('app.current_user_id')) with check (true)").await;
        let mut login = stage.client().await;
        let mut suffixed = Raw::login(&stage.target.clone().user(&format!("app.{A}"), "app")).await;
        let mut stated = stage.client_for(B).await;

        for _ in 0..2 {
            is(&mut login, "app").await;
            is(&mut suffixed, A).await;
            is(&mut stated, B).await;
            assert_eq!(suffixed.value("select current_user").await, "app");
        }

        stage.nobody_acted_as_another().await;
    }

    /// 44.
    async fn a_value_that_is_no_identity_is_refused_and_changes_nothing(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let long = "a".repeat(2048);

        for value in ["'", "\\", "$1", "--", "x' or true --", "é", "0a0a0a0a", &long, "a\nb", &format!("{A} "), &format!("{{{A}}}")] {
            let quoted = value.replace('\'', "''");
            assert_eq!(notation(&a.query(&format!("set app.current_user_id = '{quoted}'")).await), "E(22023) Z(I)", "{value}");
            assert_eq!(me(&mut a).await, A);
            let answer = a.ask([say::extended("select set_config('app.current_user_id', $1, false)", &[Some(value)]), say::sync()]).await;
            assert!(answer.contains("E(22023)") && answer.ends_with("Z(I)"), "{value}: {answer}");
            is(&mut a, A).await;
            is(&mut b, B).await;
        }
        // Bytes that are no text in any encoding, and a NUL within the value.
        for bytes in [&b"\xff\xfe"[..], b"a\0b", &[A.as_bytes(), b"\0"].concat()] {
            a.send([
                say::parse("", "select set_config('app.current_user_id', $1, false)"),
                say::bind_as("", "", &[], &[Some(bytes)], &[]),
                say::execute("", 0),
                say::sync(),
            ]).await;
            let answer = notation(&a.read_until_ready().await);
            assert!(answer.contains("E(22023)") && answer.ends_with("Z(I)"), "{answer}");
            is(&mut a, A).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 44, where any text may be an identity: it arrives as it was, whatever the form and the client's encoding.
    async fn a_value_with_every_quote_in_it_arrives_as_it_was(setting: Setting) {
        for form in ["bound", "literal"] {
            let stage = setting.again().await
                .stage_with(|pgusher| pgusher.text("identity", "pattern", "any").text("identity", "form", form))
                .await;
            let mut client = Raw::login(&stage.target.clone().with("client_encoding", "LATIN1")).await;
            let mut other = stage.client_for("other").await;

            for value in ["o'hara", "''", "a\\b", "\\'; drop table notes; --", "$1", "--", "/*", "\"", "$$", "%s", "a b", "E'x'", &"x".repeat(256)] {
                client.rows(&format!("set app.current_user_id = '{}'", value.replace('\'', "''"))).await;
                assert_eq!(me(&mut client).await, value, "{form}");
                assert_eq!(me(&mut other).await, "other", "{form}");
                client.rows("reset app.current_user_id").await;
                client.ask([say::extended("select set_config('app.current_user_id', $1, false)", &[Some(value)]), say::sync()]).await;
                assert_eq!(me(&mut client).await, value, "{form}, bound by the client");
            }
            client.rows("set standard_conforming_strings = off").await;
            assert_eq!(me(&mut client).await, "x".repeat(256), "{form}, strings not conforming");
            // Where a backslash may end a string elsewhere, it is not read, and not passed on either.
            let answer = notation(&client.query("set app.current_user_id = 'a\\b'").await);
            assert_eq!(answer, "E(0A000) Z(I)", "{form}");
            assert_eq!(me(&mut client).await, "x".repeat(256), "{form}");
            for refused in ["é", &"x".repeat(257), "a\tb"] {
                let answer = notation(&client.query(&format!("set app.current_user_id = '{refused}'")).await);
                assert_eq!(answer, "E(22023) Z(I)", "{refused}");
            }
        }
    }

    /// 45.
    async fn nobody_is_the_empty_identity(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut nobody) = (stage.client_for(A).await, stage.client().await);

        for _ in 0..3 {
            is(&mut a, A).await;
            assert_eq!(nobody.sql_null_or_empty().await, Some(String::new()), "fresh and used servers alike");
            assert_eq!(notation(&nobody.query("select * from notes").await), "E(22P02) Z(I)");
            assert_eq!(nobody.ask([say::extended("select * from notes", &[]), say::sync()]).await, "1 E(22P02) Z(I)");
        }

        stage.nobody_acted_as_another().await;
    }

    /// 45, denied: no server is touched, nothing is executed, and the session goes on.
    async fn nobody_is_denied_where_an_identity_is_demanded(setting: Setting) {
        let stage = setting
            .stage_with(|pgusher| pgusher.text("identity", "missing", "deny").set("identity", "exempt", "[\"postgres\"]"))
            .await;
        let (mut a, mut nobody) = (stage.client_for(A).await, stage.client().await);
        let mut exempt = Raw::login(&stage.target.clone().user("postgres", "postgres")).await;

        for _ in 0..2 {
            is(&mut a, A).await;
            assert_eq!(notation(&nobody.query(&act("")).await), "E(28000) Z(I)");
            assert_eq!(nobody.ask([say::extended(&act(""), &[]), say::sync()]).await, "E(28000) Z(I)");
            assert_eq!(notation(&nobody.query("begin").await), "E(28000) Z(I)");
            assert_eq!(exempt.value("select 1").await, "1");
        }
        // In a pipeline: each unit is denied on its own, until the identity is there.
        let set = format!("set app.current_user_id = '{B}'");
        nobody.send([&act(""), &set, &act(B), "reset app.current_user_id", &act("")].map(say::query)).await;
        let answer = notation(&nobody.read_until_ready_times(5).await);

        assert_eq!(answer, "E(28000) Z(I) C(SET) Z(I) C(INSERT 0 1) Z(I) C(RESET) Z(I) E(28000) Z(I)");
        assert_eq!(stage.acts_of("").await, 0);
        stage.nobody_acted_as_another().await;
    }

    /// 47.
    async fn an_identity_of_one_transaction_is_gone_in_the_next(setting: Setting) {
        let stage = setting
            .stage_with(|pgusher| pgusher.text("identity", "scope", "transaction").text("identity", "missing", "deny"))
            .await;
        let (mut a, mut b) = (stage.client().await, stage.client().await);
        let set = |who: &str| format!("set app.current_user_id = '{who}'");

        for _ in 0..2 {
            a.rows(&set(A)).await;
            b.rows(&set(B)).await;
            a.rows("begin").await;
            assert_eq!(me(&mut a).await, A);
            a.rows(&act(A)).await;
            a.rows("commit").await;
            assert_eq!(notation(&a.query(ME).await), "E(28000) Z(I)");
            assert_eq!(me(&mut b).await, B);
            assert_eq!(notation(&b.query(&act(B)).await), "E(28000) Z(I)");
            // A transaction that fails is one, too.
            a.rows(&set(A)).await;
            assert_eq!(notation(&a.query("select 1/0").await), "E(22012) Z(I)");
            assert_eq!(notation(&a.query(&act(A)).await), "E(28000) Z(I)");
            // And one that a Query ends in place of its Sync; from 18 on the Query is inside of it. Its server is closed.
            a.rows(&set(A)).await;
            a.send([say::extended("select 1", &[]), say::query("select 2"), say::sync()]).await;
            let answer = notation(&a.read_until_ready_times(2).await);
            assert!(answer.starts_with("1 2 T D C(SELECT 1) T D C(SELECT 1) Z(") && answer.ends_with(") Z(I)"), "{answer}");
            assert_eq!(notation(&a.query(ME).await), "E(28000) Z(I)");
        }
        a.send([&set(A), &act(A), &act(A), &set(B), ME, ME].map(say::query)).await;
        let answer = a.read_until_ready_times(6).await;

        assert_eq!(
            notation(&answer),
            "C(SET) Z(I) C(INSERT 0 1) Z(I) E(28000) Z(I) C(SET) Z(I) T D C(SELECT 1) Z(I) E(28000) Z(I)"
        );
        stage.nobody_acted_as_another().await;
    }

    /// 48.
    async fn a_set_that_is_not_understood_is_refused_or_does_nothing_else(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for text in [
            format!("set app.current_user_id = E'{B}'"),
            format!("set app.current_user_id = E'\\x30{}'", &B[1..]),
            format!("set app.current_user_id = U&'{B}'"),
            format!("set app.current_user_id = U&'\\0030{}'", &B[1..]),
            format!("set U&\"app\".current_user_id = '{B}'"),
            format!("set U&\"\\0061pp\".current_user_id = '{B}'"),
            format!("set U&\"!0061pp\" UESCAPE '!' .current_user_id = '{B}'"),
            format!("set app.U&\"current_user_id\" = '{B}'"),
            format!("set app.current_user_id = $${B}$$"),
            format!("set app.current_user_id to '{B}', '{B}'"),
            format!("set app.current_user_id = '{}'\n'{}'", &B[..9], &B[9..]),
            format!("set app.current_user_id = '{B}'; select 1"),
            format!("select 1; set app.current_user_id = '{B}'"),
            format!("set app.current_user_id = '{B}'; set app.current_user_id = '{B}'"),
            format!("set work_mem = '5MB'; set app.current_user_id = '{B}'"),
            "set app.current_user_id".to_owned(),
            "set app.current_user_id =".to_owned(),
            "set app.current_user_id from current".to_owned(),
            format!("select set_config('app.current_user_id', '{B}', false) as who"),
            format!("select set_config('app.current_user_id', '{B}', 'f')"),
            format!("select set_config('app.current_user_id', '{B}', 1 > 2)"),
            format!("select set_config('app.current_user_id', '{B}', false), 2"),
            format!("select set_config(E'app.current_user_id', '{B}', false)"),
            format!("select set_config(U&'app.current_user_id', '{B}', false)"),
            format!("select set_config($$app.current_user_id$$, '{B}', false)"),
            format!("select set_config('app.current_user_id', concat('{B}'), false)"),
            format!("select set_config(setting_name => 'app.current_user_id', new_value => '{B}', is_local => false)"),
            format!("select set_config('app.current_user_id', '{B}', false) from generate_series(1, 2)"),
            format!("with x as (select set_config('app.current_user_id', '{B}', false)) select * from x"),
            format!("values (set_config('app.current_user_id', '{B}', false))"),
        ] {
            for extended in [false, true] {
                let unit = if extended { vec![say::extended(&text, &[]), say::sync()] } else { vec![say::query(&text)] };
                let answer = a.ask(unit).await;
                assert!(answer.ends_with("Z(I)"), "{text}: {answer}");
                let who = me(&mut a).await;
                // Told yes, it is so; told no, nothing has changed. Never: told yes, and on as somebody else.
                let told = if answer.contains("E(") { A } else { B };
                assert_eq!(who, told, "{text} (extended: {extended}): {answer}");
                is(&mut b, B).await;
                a.rows(&format!("set app.current_user_id = '{A}'")).await;
                is(&mut a, A).await;
            }
        }

        stage.nobody_acted_as_another().await;
    }

    /// Section 2: the name of the variable may be bound too; then only the Bind says what the statement is.
    async fn a_claim_whose_variable_is_bound_is_kept_per_client(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for (text, values) in [
            ("select set_config($1, $2, false)", &[Some("app.current_user_id"), Some(B)][..]),
            ("SELECT pg_catalog.set_config($1::text, $2::text, false);", &[Some("APP.current_user_id"), Some(B)]),
            ("select \"pg_catalog\".\"set_config\"($2, $1, $3)", &[Some(B), Some("app.current_user_id"), Some("f")]),
            ("select set_config('app.current_user_id', $1, $2)", &[Some(B), Some("false")]),
        ] {
            let units = [
                vec![say::extended(text, values), say::sync()],
                vec![say::parse("", text), say::describe_statement(""), say::bind("", "", values), say::execute("", 0), say::sync()],
                vec![say::parse("s", text), say::bind("p", "s", values), say::execute("p", 0), say::close_statement("s"), say::sync()],
                vec![say::query(ME), say::extended(text, values), say::sync()],
            ];
            for unit in units {
                let count = unit.iter().filter(|message| matches!(message.first(), Some(b'Q' | b'S'))).count();
                a.send(unit).await;
                let answer = a.read_until_ready_times(count).await;
                assert_eq!(first_column(&answer).last().map(String::as_str), Some(B), "{text}: {}", notation(&answer));
                is(&mut a, B).await;
                is(&mut b, B).await;
                a.rows("reset app.current_user_id").await;
                is(&mut a, A).await;
            }
            // Prepared once, bound to this and to that.
            a.ask([say::parse("s", text), say::describe_statement("s"), say::sync()]).await;
            for _ in 0..2 {
                a.ask([say::bind("", "s", values), say::execute("", 0), say::sync()]).await;
                is(&mut a, B).await;
                a.rows("reset app.current_user_id").await;
            }
            // In a transaction it is PostgreSQL's own, and ends with it.
            a.rows("begin").await;
            let answer = a.ask([say::bind("", "s", values), say::execute("", 0), say::sync()]).await;
            assert_eq!(answer, "2 D C(SELECT 1) Z(T)", "{text}");
            assert_eq!(me(&mut a).await, B);
            a.rows("commit").await;
            is(&mut a, A).await;
            a.ask([say::close_statement("s"), say::sync()]).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 48, where the variable is bound, or called by number.
    async fn a_bound_variable_that_is_not_understood_is_refused(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        let values = [Some("App.Current_User_Id"), Some(B)];

        for text in [
            "select set_config($1, $2, false) as who",
            "select set_config($1, $2, false), 1",
            "select set_config($1, $2, 'f')",
            "select set_config($1, $2, not true)",
            "select set_config(lower($1), $2, false)",
            "select set_config(n, $2, false) from (values ($1)) v(n)",
            "select (select set_config($1, $2, false))",
            "with x as (select set_config($1, $2, false)) select * from x",
        ] {
            for name in ["", "s"] {
                let unit = [say::parse(name, text), say::bind("", name, &values), say::execute("", 0), say::sync()];
                let answer = a.ask(unit).await;
                assert!(answer.ends_with("E(0A000) Z(I)"), "{text}: {answer}");
                is(&mut a, A).await;
                is(&mut b, B).await;
                a.ask([say::close_statement(name), say::sync()]).await;
            }
        }
        let arguments = [values[0].map(str::as_bytes), values[1].map(str::as_bytes), Some(&b"f"[..])];
        assert_eq!(a.ask([say::function_call(2078, &arguments)]).await, "E(0A000) Z(I)");
        is(&mut a, A).await;
        is(&mut b, B).await;
        // What sets something else is passed on, and what is for the transaction.
        let local = [values[0], values[1], Some("true")];
        let answer = a.ask([say::extended("select set_config($1, $2, $3)", &local), say::sync()]).await;
        assert!(answer.ends_with("C(SELECT 1) Z(I)"), "{answer}");
        is(&mut a, A).await;
        let other = [Some("work_mem"), Some("5MB")];
        let answer = a.ask([say::extended("select set_config($1, $2, false), 1", &other), say::sync()]).await;
        assert!(answer.ends_with("C(SELECT 1) Z(I)"), "{answer}");
        assert_eq!(a.value("show work_mem").await, "5MB");
        assert_eq!(b.value("show work_mem").await, "4MB");

        stage.nobody_acted_as_another().await;
    }

    /// 46, a part of it that is quick; the whole is in the storm.
    async fn a_client_that_is_somebody_else_each_time_is_that_each_time(setting: Setting) {
        let stage = setting.stage_with(|pgusher| pgusher.pool_size(2)).await;
        let switching = async |offset: usize| {
            let mut client = stage.client().await;
            for round in 0..60 {
                let who = if (round + offset).is_multiple_of(2) { A } else { B };
                if round % 3 == 0 {
                    client.send([say::query(&format!("set app.current_user_id = '{who}'"))]).await;
                } else {
                    client.send([say::extended("select set_config('app.current_user_id', $1, false)", &[Some(who)]), say::sync()]).await;
                }
                client.send([say::query(&format!("{}; {ME}", act(who)))]).await;
                let answer = client.read_until_ready_times(2).await;
                assert_eq!(first_column(&answer).last().map(String::as_str), Some(who), "{}", notation(&answer));
            }
        };

        tokio::join!(switching(0), switching(1), switching(0), switching(1));

        stage.nobody_acted_as_another().await;
    }
}

impl Raw {
    /// The identity, NULL told from the empty value.
    async fn sql_null_or_empty(&mut self) -> Option<String> {
        self.rows(ME).await.remove(0).remove(0)
    }
}
