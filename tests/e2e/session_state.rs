//! Session state in transaction mode: settings follow their client, what cannot follow keeps its server, and nothing
//! is left to the next client.

use std::time::Duration;

use crate::harness::{Comparison, DelayProxy, Pgusher, Raw, notation, same_answers, say};
use crate::on_every_major;

/// Long enough for an answer that should not come, short enough for many tests.
const A_WHILE: Duration = Duration::from_millis(60);

/// Whatever a client could find of another's on a server.
const LEFT: &str = "select coalesce(string_agg(what, ', '), 'nothing') from (
    select 'setting ' || name || '=' || setting from pg_settings where source = 'session'
        and name not in ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')
    union all select 'custom ' || v from (select coalesce(current_setting('my.var', true), '') v) c where v <> ''
    union all select 'lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
    union all select 'channel' from pg_listening_channels()
    union all select 'cursor ' || name from pg_cursors where is_holdable
    union all select 'plan ' || name from pg_prepared_statements where from_sql
    union all select 'role' where current_setting('role') <> 'none' or session_user <> current_user
    union all select 'temporary ' || relname from pg_class where relnamespace = pg_my_temp_schema()) l (what)";

on_every_major! {
    async fn reported_parameters_belong_to_the_client_and_follow_it(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let one = pgusher.target().with("DateStyle", "German").with("TimeZone", "Asia/Tokyo").with("application_name", "one");
        let two = pgusher.target().with("IntervalStyle", "iso_8601").with("client_encoding", "LATIN1").with("application_name", "two");
        let three = pgusher.target().with("standard_conforming_strings", "off").with("search_path", "three");
        let mut clients =
            [Raw::login(&one).await, Raw::login(&two).await, Raw::login(&three).await, pgusher.client().await];

        for _ in 0..2 {
            let mut seen = Vec::new();
            for client in &mut clients {
                seen.push(client.value(
                    "select concat_ws('|', timestamptz '2026-01-31 00:00+00', interval '1 day', '\\\\',
                        current_setting('application_name'), current_setting('search_path'))").await);
            }
            assert_eq!(seen, [
                r#"31.01.2026 09:00:00 JST|1 day|\\|one|"$user", public"#,
                r#"2026-01-31 00:00:00+00|P1D|\\|two|"$user", public"#,
                r"2026-01-31 00:00:00+00|1 day|\||three",
                r#"2026-01-31 00:00:00+00|1 day|\\||"$user", public"#,
            ]);
            assert_eq!(clients[1].rows("select 'é'").await.len(), 1);
        }
        assert_eq!(clients[3].value(LEFT).await, "nothing");
    }

    async fn every_client_is_told_what_postgresql_tells(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let parameters = [
            ("datestyle", "german"), ("timezone", "utc"), ("client_encoding", "utf-8"), ("intervalstyle", "ISO_8601"),
            ("standard_conforming_strings", "no"), ("application_name", "grün"), ("search_path", " a , B "),
            ("options", "-c default_transaction_read_only=1"),
        ];
        let asked = |target| parameters.iter().fold(target, |target: crate::harness::Target, (name, value)| target.with(name, value));
        let expected = Raw::login(&asked(postgres.target())).await.parameters;

        let mut first = Raw::login(&asked(pgusher.target())).await;
        let second = Raw::login(&asked(pgusher.target())).await;
        let mut plain = pgusher.client().await;
        plain.server_pid().await;
        first.server_pid().await;

        assert_eq!(first.parameters, expected);
        assert_eq!(second.parameters, expected);
        assert_eq!(plain.parameters, postgres.client().await.parameters);
    }

    async fn a_client_is_told_of_its_own_settings_only(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        b.forget();

        let answer = notation(&a.query("set timezone to 'Asia/Tokyo'").await);
        b.value("select 1").await;
        a.forget();
        a.value("select 1").await;

        assert!(answer.contains("S(TimeZone=Asia/Tokyo)"), "{answer}");
        assert_eq!(notation(&b.heard), "T D C(SELECT 1) Z(I)");
        assert_eq!(notation(&a.heard), "T D C(SELECT 1) Z(I)");
    }

    async fn parameters_follow_without_a_round_trip_of_their_own(postgres: Postgres) {
        let proxy = DelayProxy::before(postgres.address(), Duration::ZERO).await;
        let pgusher = Pgusher::before(&postgres).via(proxy.address()).pool_size(1).start().await;
        let mut clients = Vec::new();
        for zone in ["Asia/Tokyo", "America/Lima", "UTC"] {
            let target = pgusher.target().with("TimeZone", zone).with("application_name", zone).with("work_mem", "5MB");
            clients.push((Raw::login(&target).await, zone));
        }
        let before = proxy.round_trips();

        for _ in 0..5 {
            for (client, zone) in &mut clients {
                assert_eq!(client.value("show timezone").await, *zone);
            }
        }

        assert_eq!(proxy.round_trips() - before, 15);
    }

    async fn startup_options_are_read_in_every_spelling_and_escape(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        // A setting of two parts that anybody had once is empty on a server afterwards, where it was none before.
        let shown = "select current_setting('work_mem'), nullif(current_setting('my.var', true), ''), current_setting('search_path')";

        for options in [
            "-c work_mem=5MB",
            "-cwork_mem=5MB",
            "--work_mem=5MB",
            "--work-mem=5MB",
            "-c work-mem=5MB",
            "-c WORK_MEM=5MB",
            "  -c   work_mem=5MB\t-c my.var=x ",
            r"-c my.var=a\ b",
            r"-c my.var=a\\b",
            r"-c my.var=a\=b=c",
            "-c my.var='quoted'",
            r"-c search_path=a,\ \ b",
            r#"-c search_path="A\ b",c"#,
            "-c my.var=first -c my.var=second",
            "-c work_mem=5MB --my.var=x -csearch_path=s",
            "-c my.var=",
            "",
        ] {
            let mut directly = Raw::login(&postgres.target().with("options", options)).await;
            for _ in 0..2 {
                let mut through = Raw::login(&pgusher.target().with("options", options)).await;
                assert_eq!(through.rows(shown).await, directly.rows(shown).await, "{options:?}");
            }
        }
        assert_eq!(pgusher.client().await.value(LEFT).await, "nothing");
    }

    async fn a_startup_parameter_beats_the_same_in_options(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut seen = Vec::new();
        for target in [postgres.target(), pgusher.target()] {
            for parameters in [[("work_mem", "6MB"), ("options", "-c work_mem=5MB")], [("options", "-c work_mem=5MB"), ("work_mem", "6MB")]] {
                let target = parameters.iter().fold(target.clone(), |target, (name, value)| target.with(name, value));
                seen.push(Raw::login(&target).await.value("show work_mem").await);
            }
        }

        assert_eq!(seen, ["6MB"; 4]);
    }

    async fn a_startup_parameter_that_cannot_be_had_is_refused_in_the_servers_own_words(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut kept = pgusher.client().await;
        let pid = kept.server_pid().await;

        for (name, value) in [
            ("nonsense", "1"),
            ("DateStyle", "nonsense"),
            ("TimeZone", "Nowhere/Land"),
            ("client_encoding", "nonsense"),
            ("work_mem", "-1"),
            ("work_mem", "many"),
            ("search_path", "\"a"),
            ("max_connections", "7"),
            ("log_statement", "all"),
            ("options", "-c nonsense=1"),
            ("options", "-c work_mem=none"),
        ] {
            let directly = refusal(&postgres.target().with(name, value)).await;
            for _ in 0..2 {
                assert_eq!(refusal(&pgusher.target().with(name, value)).await, directly, "{name}={value}");
            }
        }
        assert_eq!(kept.server_pid().await, pid);
        assert_eq!(kept.value(LEFT).await, "nothing");
    }

    async fn options_that_cannot_be_understood_are_refused(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        for options in ["-c", "-c work_mem", "--work_mem", "nonsense", "-B 16", "--=x", "-c =x"] {
            let (severity, sqlstate, _) = refusal(&pgusher.target().with("options", options)).await;
            assert_eq!(severity, "FATAL", "{options}");
            assert!(["42601", "08P01", "22023", "42704", "0A000"].contains(&sqlstate.as_str()), "{options}: {sqlstate}");
        }
    }

    async fn a_startup_parameter_may_be_ignored_by_configuration(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .pool_size(1)
            .set("listen", "ignore_startup_parameters", r#"["nonsense", "Extra_Float_Digits"]"#)
            .start()
            .await;
        let target = pgusher.target().with("nonsense", "1").with("extra_float_digits", "0").with("options", "-c NONSENSE=2");

        assert_eq!(Raw::login(&target).await.value("show extra_float_digits").await, "1");
        assert_eq!(refusal(&pgusher.target().with("more_nonsense", "1")).await.1, "42704");
    }

    async fn a_set_follows_its_client_to_every_server_and_reaches_no_other(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let mut other = pgusher.client().await;

        for (set, shown, expected) in [
            ("set work_mem = '5MB'", "show work_mem", "5MB"),
            ("SET SESSION work_mem TO 6000", "show work_mem", "6000kB"),
            ("/* x */ set -- y\n work_mem = '7MB';", "show work_mem", "7MB"),
            ("set time zone 'Asia/Tokyo'", "show timezone", "Asia/Tokyo"),
            ("set time zone interval '+02:00' hour to minute", "show timezone", "<+02>-02"),
            ("set search_path to a, \"B c\"", "show search_path", "a, \"B c\""),
            ("set schema 'it''s'", "show search_path", "\"it's\""),
            ("set names 'LATIN1'", "show client_encoding", "LATIN1"),
            ("set datestyle = 'SQL, DMY'", "show datestyle", "SQL, DMY"),
            ("set my.var = 'it''s \\ mine'", "show my.var", "it's \\ mine"),
            ("set \"my\".\"var\" = 'quoted'", "show my.var", "quoted"),
            ("set My.Var to plain", "show my.var", "plain"),
            ("select set_config('my.var', 'by function', false)", "show my.var", "by function"),
            ("select pg_catalog.set_config('work_mem', '8MB', false)", "show work_mem", "8MB"),
            ("select set_config(n, '9MB', false) from (values ('work_mem'), ('maintenance_work_mem')) v(n)", "show maintenance_work_mem", "9MB"),
            ("update pg_settings set setting = '10240' where name = 'work_mem'", "show work_mem", "10MB"),
            ("do $$ begin set work_mem = '11MB'; end $$", "show work_mem", "11MB"),
            ("do $$ begin perform set_config('work_' || 'mem', '12MB', false); end $$", "show work_mem", "12MB"),
            ("set statement_timeout = '7s'", "show statement_timeout", "7s"),
            ("set lock_timeout = 250", "show lock_timeout", "250ms"),
            ("set idle_in_transaction_session_timeout = '1h'", "show idle_in_transaction_session_timeout", "1h"),
            ("set session characteristics as transaction isolation level serializable", "show transaction_isolation", "serializable"),
            ("set session characteristics as transaction read only", "show transaction_read_only", "on"),
            ("set application_name = 'mine'; set work_mem = '13MB'; select 1", "show application_name", "mine"),
            ("begin; set work_mem = '14MB'; commit", "show work_mem", "14MB"),
            ("set enable_seqscan = off", "show enable_seqscan", "off"),
            ("set xml option document", "show xmloption", "document"),
            ("set bytea_output = escape", "show bytea_output", "escape"),
            ("set seed = 0.5", "select 'follows nobody'", "follows nobody"),
        ] {
            for is_extended in [false, true] {
                if is_extended && set.trim_end_matches(';').contains(';') {
                    continue;
                }
                let mut client = pgusher.client().await;
                let answer = match is_extended {
                    true => client.ask([say::extended(set, &[]), say::sync()]).await,
                    false => notation(&client.query(set).await),
                };
                assert!(!answer.contains("E("), "{set}: {answer}");

                let seen = on_each_server(&pgusher, &mut client, shown).await;
                assert_eq!(seen, [expected, expected], "{set}");
                let others = on_each_server(&pgusher, &mut other, LEFT).await;
                assert_eq!(others, ["nothing", "nothing"], "{set}");
                client.terminate().await;
            }
        }
    }

    async fn a_bound_set_config_follows_its_client(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        client.ask([say::parse("s", "select set_config($1, $2, $3)"), say::sync()]).await;

        for (name, value) in [("work_mem", "5MB"), ("statement_timeout", "9s"), ("My.Bound", "mine")] {
            let given = [Some(name), Some(value), Some("false")];
            let answer = client.ask([say::bind("", "s", &given), say::execute("", 0), say::sync()]).await;
            assert!(answer.ends_with("D C(SELECT 1) Z(I)"), "{answer}");

            let seen = on_each_server(&pgusher, &mut client, &format!("show {name}")).await;
            assert_eq!(seen, [value, value]);
        }
        assert_eq!(on_each_server(&pgusher, &mut other, LEFT).await, ["nothing", "nothing"]);
    }

    async fn a_setting_whose_name_cannot_be_read_reaches_nobody_else(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        let arguments = [Some(&b"my.var"[..]), Some(b"leaked"), Some(b"f")];

        for words in [
            say::query("select set_config('my.' || 'var', 'leaked', false)"),
            say::query("select set_config('my.'\n'var', 'leaked', false)"),
            say::query("select set_config('my.var', 'leaked', not true)"),
            say::query("set U&\"my\".U&\"v\\0061r\" = 'leaked'"),
            say::function_call(2078, &arguments),
        ] {
            let answer = client.ask([words.clone()]).await;
            assert!(!answer.contains("E("), "{words:?}: {answer}");

            assert_eq!(other.value(LEFT).await, "nothing", "{words:?}");
            client.rows("discard all").await;
        }
    }

    async fn a_lock_taken_by_a_function_call_keeps_its_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);

        client.ask([say::function_call(2880, &[Some(b"7")])]).await; // pg_advisory_lock(bigint)
        other.send([say::query("select 1")]).await;
        other.expect_silence(A_WHILE).await;
        client.ask([say::function_call(2884, &[Some(b"7")])]).await; // pg_advisory_unlock(bigint)

        assert_eq!(notation(&other.read_until_ready().await), "T D C(SELECT 1) Z(I)");
        assert_eq!(other.value(LEFT).await, "nothing");
    }

    async fn a_set_in_a_transaction_holds_as_postgresql_says(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;

        same_answers(&postgres, &pgusher, async |client| {
            for script in [
                "begin|set work_mem = '5MB'|commit",
                "begin|set work_mem = '6MB'|set my.var = 'lost'|rollback",
                "begin|set local work_mem = '7MB'|set local my.var = 'lost'|commit",
                "begin|set work_mem = '8MB'|savepoint s|set work_mem = '9MB'|set my.var = 'lost'|rollback to s|commit",
                "begin|savepoint s|set work_mem = '10MB'|set my.var = 'kept'|release s|commit",
                "begin|set work_mem = '11MB'|selec|commit",
                "begin|set work_mem = '12MB'|reset work_mem|commit",
                "set work_mem = '13MB'|begin|reset all|rollback",
                "begin|set local work_mem = '14MB'|set work_mem = '15MB'|commit",
                "begin|set work_mem = '16MB'|set local work_mem = '17MB'|commit",
                "set work_mem = '18MB'; selec|",
                "set work_mem = '19MB'; select 1/0|",
                "begin|discard all|rollback",
                "set work_mem = '20MB'|discard all",
                "set my.var = 'x'|reset my.var",
                "set work_mem = 'nonsense'|set nonsense = 1",
                "set my.var = ''|set timezone to default",
            ] {
                for sql in script.split('|') {
                    client.query(sql).await;
                }
                client.query("show work_mem").await;
                client.query("select current_setting('my.var', true) is not null and current_setting('my.var', true) <> ''").await;
                assert_eq!(other_value(&pgusher).await, "nothing", "{script}");
            }
        })
        .await;
        assert_eq!(other.value(LEFT).await, "nothing");
    }

    async fn a_reset_goes_back_to_what_the_client_began_with(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;

        for reset in ["reset work_mem", "set work_mem to default", "reset all", "discard all", "RESET ALL;", "begin; reset work_mem; commit"] {
            Comparison::of(&postgres, &pgusher)
                .with(&[("work_mem", "5MB"), ("options", "-c my.var=mine")])
                .run(async |client| {
                    client.query("set work_mem = '6MB'").await;
                    client.query("set maintenance_work_mem = '7MB'").await;
                    client.query("show work_mem").await;
                    client.query(reset).await;
                    client.query("show work_mem").await;
                    client.query("show maintenance_work_mem").await;
                    client.query("show my.var").await;
                })
                .await;
            assert_eq!(other.value(LEFT).await, "nothing", "{reset}");
        }
    }

    async fn a_reset_is_told_as_postgresql_tells_it(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        for reset in ["reset all", "discard all", "reset timezone"] {
            Comparison::of(&postgres, &pgusher)
                .with(&[("DateStyle", "German")])
                .run(async |client| {
                    for _ in 0..2 {
                        client.query("set timezone to 'Asia/Tokyo'").await;
                        client.query(reset).await;
                        client.query("select 1").await;
                        client.query("set timezone to 'America/Lima'").await;
                        client.ask([say::extended(reset, &[]), say::sync()]).await;
                        client.query("select 1").await;
                    }
                })
                .await;
        }
    }

    async fn a_reset_on_a_server_that_did_not_have_the_setting_is_told_too(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut client, mut one, mut other) = (pgusher.client().await, pgusher.client().await, pgusher.client().await);

        for (name, value) in [("standard_conforming_strings", "off"), ("TimeZone", "Asia/Tokyo")] {
            let begun = client.value(&format!("show {name}")).await;
            one.rows("begin").await;
            client.rows(&format!("set {name} to '{value}'")).await;
            other.rows("begin").await; // on the server that has it now
            one.rows("commit").await;
            let answer = notation(&client.query(&format!("reset {name}")).await);
            other.rows("commit").await;

            assert_eq!(answer, format!("C(RESET) S({name}={begun}) Z(I)"));
        }
    }

    async fn words_after_a_reset_end_their_strings_where_the_next_server_ends_them(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let target = pgusher.target().with("standard_conforming_strings", "off");
        let (mut client, mut other) = (Raw::login(&target).await, pgusher.client().await);

        // To who takes the backslash for one, the function is in a string.
        let text = r"select '\'', set_config('work_mem', '5MB', false) --'";
        for reset in ["reset standard_conforming_strings", "reset all", "discard all"] {
            client.rows("set standard_conforming_strings = on").await;
            client.rows(reset).await;
            client.rows(text).await;

            assert_eq!(other.value(LEFT).await, "nothing", "{reset}");
            assert_eq!(client.value("show work_mem").await, "5MB", "{reset}");
        }
    }

    async fn words_behind_a_reset_are_an_error_as_in_postgresql(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            for sql in ["reset all now", "discard all of it", "discard everything", "deallocate all of it", "reset", "discard", "deallocate"] {
                client.query(sql).await;
                client.ask([say::extended(sql, &[]), say::sync()]).await;
            }
        })
        .await;
    }

    async fn settings_of_a_client_that_left_reach_nobody(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut next = pgusher.client().await;

        for set in [
            "set work_mem = '5MB'; set my.var = 'x'",
            "begin; set work_mem = '5MB'; set my.var = 'x'",
            "set statement_timeout = '1ms'",
            "set lock_timeout = '1ms'",
            "set idle_in_transaction_session_timeout = '1ms'",
            "set default_transaction_read_only = on",
            "set default_transaction_isolation = serializable",
            "set search_path = pg_temp, nowhere",
            "do $$ begin perform set_config('my.' || 'var', 'hidden', false); end $$",
            "set datestyle = 'SQL, DMY'; set standard_conforming_strings = off; set bytea_output = escape",
        ] {
            for leave in ["terminate", "fin", "rst"] {
                let mut client = pgusher.client().await;
                client.query(set).await;
                match leave {
                    "terminate" => client.terminate().await,
                    "fin" => client.close().await,
                    _ => client.reset(),
                }

                assert_eq!(next.value(LEFT).await, "nothing", "{set}, {leave}");
            }
        }
    }

    async fn timeouts_of_one_client_do_not_reach_another_on_the_same_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut hasty, mut patient) = (pgusher.client().await, pgusher.client().await);
        hasty.rows("set statement_timeout = '50ms'").await;

        for _ in 0..3 {
            assert_eq!(notation(&hasty.query("select pg_sleep(10)").await), "T E(57014) Z(I)");
            assert_eq!(patient.value("select 'slept' from pg_sleep(0.1)").await, "slept");
        }
    }

    async fn a_statement_timeout_of_a_millisecond_is_tracked_and_left_to_nobody(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut next = pgusher.client().await;

        for _ in 0..5 {
            let mut client = pgusher.client().await;
            client.rows("set statement_timeout = '1ms'").await;

            assert_eq!(next.value("select 'slept' from pg_sleep(0.02)").await, "slept");
            assert_eq!(next.value(LEFT).await, "nothing");
            client.send([say::query("select pg_sleep(5)")]).await;
            assert_eq!(client.read_until_ready().await.iter().find(|frame| frame.is(b'E')).map(|error| error.sqlstate()).as_deref(), Some("57014"));
        }
    }

    async fn an_idle_session_timeout_of_a_client_costs_nobody_else_an_error(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut next = pgusher.client().await;
        let mut client = pgusher.client().await;
        client.rows("set idle_session_timeout = '300ms'").await;
        postgres.until("select count(*) from pg_stat_activity where datname = current_database() and usename = 'app'", "0").await;

        assert_eq!(next.value(LEFT).await, "nothing");
        assert_eq!(client.value("show idle_session_timeout").await, "300ms");
    }

    async fn under_set_pin_a_set_keeps_the_server_until_it_is_reset(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "set", "pin").start().await;

        let mut other = pgusher.client().await;
        for release in ["reset work_mem", "reset all", "discard all", "set work_mem to default", ""] {
            let mut client = Raw::login(&pgusher.target().with("DateStyle", "German")).await;
            let pid = client_says(&mut client, "set work_mem = '5MB'").await;
                keeps_its_server_until(&mut other, pid, client, release).await;
        }
        let mut client = Raw::login(&pgusher.target().with("work_mem", "6MB")).await;
        assert_eq!(client.value("show work_mem").await, "6MB");
        client.rows("begin; set local work_mem = '7MB'; commit").await;
        assert_eq!(pgusher.client().await.value(LEFT).await, "nothing");
    }

    async fn under_set_refuse_a_set_is_an_error_and_set_local_is_not(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "set", "refuse").start().await;
        let mut client = Raw::login(&pgusher.target().with("work_mem", "6MB")).await;

        for set in ["set work_mem = '5MB'", "set time zone 'UTC'", "select set_config('my.var', 'x', false)", "select 1; set my.var = 'x'"] {
            assert_eq!(notation(&client.query(set).await), "E(0A000) Z(I)", "{set}");
            if !set.contains(';') {
                assert_eq!(client.ask([say::extended(set, &[]), say::sync()]).await, "E(0A000) Z(I)", "{set}");
            }
            client.rows("begin").await;
            assert_eq!(notation(&client.query(set).await), "E(0A000) Z(E)", "{set}");
            client.rows("rollback").await;
        }
        client.rows("begin").await;
        client.rows("set local work_mem = '7MB'").await;
        client.rows("select set_config('my.var', 'x', true)").await;
        assert_eq!(client.value("show work_mem").await, "7MB");
        client.rows("commit").await;
        assert_eq!(client.value("show work_mem").await, "6MB");
        assert_eq!(pgusher.client().await.value(LEFT).await, "nothing");
    }

    async fn what_cannot_follow_keeps_its_server_until_it_is_gone(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;

        for (make, releases) in [
            ("listen c", &["unlisten *", "unlisten c", "discard all", ""][..]),
            ("select pg_advisory_lock(1)", &["select pg_advisory_unlock(1)", "select pg_advisory_unlock_all()", "discard all", ""]),
            ("select pg_try_advisory_lock_shared(1, 2)", &["select pg_advisory_unlock_shared(1, 2)", ""]),
            ("create temporary table mine (a int)", &["drop table mine", "discard temp", "discard all", ""]),
            ("select 1 as a into temp mine", &["drop table mine"]),
            ("create temp sequence mine", &["drop sequence mine", ""]),
            ("create temp view mine as select 1", &["drop view mine", ""]),
            ("create table pg_temp.mine ()", &["drop table mine", ""]),
            ("create function pg_temp.mine() returns int return 1", &["drop function pg_temp.mine()", ""]),
            ("begin; declare c cursor with hold for select 1; commit", &["close c", "close all", "discard all", ""]),
            ("set role app", &["reset role", "set role none", "discard all", ""]),
            ("prepare mine as select 1", &["deallocate mine", "deallocate all", "discard all", ""]),
            ("do $$ begin perform pg_advisory_lock(1); end $$", &["select pg_advisory_unlock_all()", ""]),
            ("do $$ begin execute 'listen ' || 'c'; end $$", &["unlisten *", ""]),
        ] {
            for release in releases {
                let mut client = pgusher.client().await;
                let pid = client_says(&mut client, make).await;
                keeps_its_server_until(&mut other, pid, client, release).await;
            }
        }
    }

    async fn another_session_authorization_keeps_its_server_until_it_is_reset(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let target = pgusher.target().user("postgres", "postgres");

        for release in ["reset session authorization", "set session authorization default", "discard all"] {
            let (mut client, mut other) = (Raw::login(&target).await, Raw::login(&target).await);
            client.rows("set session authorization app").await;
            assert_eq!(client.value("select session_user").await, "app");
            other.send([say::query("select session_user")]).await;
            other.expect_silence(A_WHILE).await;
            client.rows(release).await;

            assert_eq!(other.read_until_ready().await[1].row(), [Some("postgres".to_owned())], "{release}");
        }
        let mut client = Raw::login(&target).await;
        client.rows("set session authorization app").await;
        client.terminate().await;
        assert_eq!(Raw::login(&target).await.value("select session_user").await, "postgres");
    }

    async fn what_ends_with_its_transaction_keeps_no_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);

        for script in [
            "begin; select pg_advisory_xact_lock(1); commit",
            "begin; create temp table mine () on commit drop; commit",
            "begin; declare c cursor for select 1; commit",
            "begin; set local role app; commit",
            "begin; listen c; rollback",
            "begin; create temp table mine (); rollback",
            "begin; declare c cursor with hold for select 1; rollback",
            "begin; set role app; rollback",
            "begin; savepoint s; listen c; rollback to s; commit",
            "select pg_advisory_lock(1); select pg_advisory_unlock(1)",
            "listen c; unlisten *",
            "create temp table mine (); drop table mine",
        ] {
            client.rows(script).await;

            assert_eq!(other.value(LEFT).await, "nothing", "{script}");
        }
    }

    async fn notifications_reach_a_listening_client_that_says_nothing(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut listener, mut other) = (pgusher.client().await, pgusher.client().await);
        listener.rows("listen c").await;
        listener.forget();

        for payload in ["one", "two"] {
            other.rows(&format!("notify c, '{payload}'")).await;
            let heard = listener.read().await;
            assert_eq!(heard.to_string(), "A(c)");
            assert!(heard.body.ends_with(format!("\0{payload}\0").as_bytes()), "{heard:?}");
        }
        assert_eq!(notation(&listener.query("notify c").await), "C(NOTIFY) A(c) Z(I)");
        listener.rows("unlisten c").await;
        other.rows("notify c").await;
        listener.expect_silence(A_WHILE).await;
    }

    async fn notifications_reach_nobody_after_their_listener_has_left(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut next = pgusher.client().await;

        for _ in 0..2 {
            let mut listener = pgusher.client().await;
            listener.rows("listen c").await;
            listener.reset();
            assert_eq!(next.value(LEFT).await, "nothing");
            postgres.sql("notify c").await;
            next.forget();
            next.value("select 1").await;
            assert_eq!(notation(&next.heard), "T D C(SELECT 1) Z(I)");
        }
    }

    async fn an_advisory_lock_is_its_clients_alone(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        a.rows("select pg_advisory_lock(7)").await;
        for _ in 0..3 {
            assert_eq!(b.value("select pg_try_advisory_lock(7)").await, "f");
        }
        a.terminate().await;

        b.rows("select pg_advisory_lock(7)").await;
        assert_eq!(b.value("select pg_try_advisory_lock(7)").await, "t");
        b.rows("select pg_advisory_unlock(7)").await;
        b.rows("select pg_advisory_unlock(7)").await;
        assert_eq!(on_each_server(&pgusher, &mut b, LEFT).await, ["nothing", "nothing"]);
    }

    async fn startup_settings_hold_again_after_a_discard_all_gave_the_server_back(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = Raw::login(&pgusher.target().with("work_mem", "5MB")).await;
        client.rows("set work_mem = '6MB'").await;
        client.rows("create temp table mine ()").await;
        client.rows("discard all").await;

        assert_eq!(client.value("show work_mem").await, "5MB");
        assert_eq!(pgusher.client().await.value(LEFT).await, "nothing");
    }

    async fn settings_follow_a_client_that_kept_a_server_for_a_while(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        client.rows("set work_mem = '5MB'").await;
        client.rows("create temp table mine ()").await;
        client.rows("set maintenance_work_mem = '6MB'").await;
        client.rows("set my.var = 'x'").await;
        client.ask([say::parse("s", "select 'prepared'"), say::sync()]).await;
        client.rows("drop table mine").await;

        let shown = "select concat_ws(' ', current_setting('work_mem'), current_setting('maintenance_work_mem'), current_setting('my.var'))";
        assert_eq!(on_each_server(&pgusher, &mut client, shown).await, ["5MB 6MB x", "5MB 6MB x"]);
        assert_eq!(on_each_server(&pgusher, &mut other, LEFT).await, ["nothing", "nothing"]);
        let answer = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
        assert_eq!(answer, "2 D C(SELECT 1) Z(I)");
    }

    async fn under_session_state_refuse_what_cannot_follow_is_an_error(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "session_state", "refuse").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);

        for make in [
            "listen c",
            "select pg_advisory_lock(1)",
            "create temporary table mine ()",
            "select 1 as a into temp mine",
            "create table pg_temp.mine ()",
            "declare c cursor with hold for select 1",
            "set role app",
            "set session authorization app",
            "prepare mine as select 1",
        ] {
            assert_eq!(notation(&client.query(make).await), "E(0A000) Z(I)", "{make}");
            assert_eq!(client.ask([say::extended(make, &[]), say::sync()]).await, "E(0A000) Z(I)", "{make}");
            assert_eq!(client.ask([say::parse("s", make), say::sync()]).await, "E(0A000) Z(I)", "{make}");
            client.rows("begin").await;
            assert_eq!(notation(&client.query(make).await), "E(0A000) Z(E)", "{make}");
            client.rows("rollback").await;
            client.rows("begin").await;
            assert_eq!(client.ask([say::extended(make, &[]), say::sync()]).await, "E(0A000) Z(E)", "{make}");
            client.rows("rollback").await;
            assert_eq!(other.value(LEFT).await, "nothing", "{make}");
        }
        client.rows("set work_mem = '5MB'").await;
        assert_eq!(client.value("show work_mem").await, "5MB");
        client.rows("begin; select pg_advisory_xact_lock(1); commit").await;
    }

    async fn under_session_state_refuse_what_slips_through_is_swept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "session_state", "refuse").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);
        client.ask([say::parse("s", "select 'kept'"), say::sync()]).await;

        for (make, kind) in [
            ("do $$ begin perform pg_advisory_lock(1); end $$", "advisory_lock"),
            ("do $$ begin create temp table mine (); end $$", "temporary"),
            ("do $$ begin execute 'lis' || 'ten c'; create temp table mine (); end $$", "listen,temporary"),
            ("do $$ begin set work_mem = '6MB'; execute 'set ro' || 'le app'; end $$", "role"),
            ("do $$ begin execute 'prepare mine as select 1'; end $$", "prepare"),
        ] {
            client.rows(make).await;

            assert_eq!(other.value(LEFT).await, "nothing", "{make}");
            let logged = pgusher.until_logged(&format!("state={kind}")).await;
            for who in ["WARN", "session state is refused here", "client=c2", &format!("pool={}/app", postgres.database())] {
                assert!(logged.contains(who), "{who}: {logged}");
            }
            let answer = client.ask([say::bind("", "s", &[]), say::execute("", 0), say::sync()]).await;
            assert_eq!(answer, "2 D C(SELECT 1) Z(I)");
        }
    }

    async fn what_a_client_that_left_at_once_has_slipped_through_is_swept_and_logged(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "session_state", "refuse").start().await;
        let (mut client, mut other) = (pgusher.client().await, pgusher.client().await);

        client.rows("begin").await;
        client.send([say::query("do $$ begin perform pg_advisory_lock(1); end $$"), say::terminate()]).await;

        let logged = pgusher.until_logged("state=advisory_lock").await;
        assert!(logged.contains("client=c2"), "{logged}");
        assert_eq!(other.value(LEFT).await, "nothing");
    }

    async fn many_clients_with_settings_of_their_own_never_see_anothers(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let clients = (0..6).map(|number| {
            let target = pgusher.target().with("application_name", &format!("client {number}"));
            tokio::spawn(async move {
                let mut raw = Raw::login(&target).await;
                for round in 0..15 {
                    let mine = format!("{number}.{round}");
                    raw.rows(&format!("set my.var = '{mine}'")).await;
                    let seen = raw.value("select current_setting('my.var') || ' ' || current_setting('application_name')").await;
                    assert_eq!(seen, format!("{mine} client {number}"));
                    if round % 5 == 4 {
                        raw.rows("create temp table mine ()").await;
                        raw.rows("discard all").await;
                        assert_eq!(raw.value("select coalesce(current_setting('my.var', true), '')").await, "");
                    }
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        let mut other = pgusher.client().await;
        assert_eq!(on_each_server(&pgusher, &mut other, LEFT).await, ["nothing", "nothing"]);
    }
}

/// The value of a query on one and on the other of two servers.
async fn on_each_server(pgusher: &Pgusher, client: &mut Raw, sql: &str) -> [String; 2] {
    let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
    a.rows("begin").await;
    b.rows("begin").await;
    b.rows("commit").await;
    let first = client.value(sql).await;
    b.rows("begin").await;
    a.rows("commit").await;
    let second = client.value(sql).await;
    b.rows("commit").await;
    a.terminate().await;
    b.terminate().await;
    [first, second]
}

/// What another client finds on the only server.
async fn other_value(pgusher: &Pgusher) -> String {
    let mut other = pgusher.client().await;
    let found = other.value(LEFT).await;
    other.terminate().await;
    found
}

/// Severity, SQLSTATE and words with which a login is refused.
async fn refusal(target: &crate::harness::Target) -> (String, String, String) {
    let mut raw = Raw::connect(&target.address).await;
    let error = raw.try_login(target).await.expect_err("a refusal");
    (error.severity(), error.sqlstate(), error.message())
}

/// Runs what must succeed; the server's process.
async fn client_says(client: &mut Raw, sql: &str) -> String {
    client.rows(sql).await;
    client.server_pid().await
}

/// A client keeps the only server while another waits, until `release` (leaving, if empty): then nothing is left of it.
async fn keeps_its_server_until(other: &mut Raw, pid: String, mut client: Raw, release: &str) {
    other.send([say::query(LEFT)]).await;
    other.expect_silence(A_WHILE).await;
    assert_eq!(client.server_pid().await, pid);
    if release.is_empty() {
        client.terminate().await;
    } else {
        client.rows(release).await;
    }
    let answer = other.read_until_ready().await;
    assert_eq!(answer[1].row(), [Some("nothing".to_owned())], "{release}");
}
