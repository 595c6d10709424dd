//! The canary: what a server really has, held against what is believed of it.

use super::{A, is};
use crate::contract;
use crate::harness::{PATIENCE, eventually, say};

contract! {
    /// A plain SELECT of a function shows nothing to who reads its text; the canary sees what it left.
    async fn the_canary_finds_what_no_text_shows(setting: Setting) {
        setting.postgres.sql(FUNCTIONS).await;
        let stage = setting.stage_with(|pgusher| pgusher.set("pool", "canary", "1")).await;
        let (mut a, mut b) = stage.pair().await;
        let backend = "select pg_backend_pid()";
        a.rows("set work_mem = '5MB'").await;
        for _ in 0..3 {
            is(&mut a, A).await;
        }
        let before = a.value(backend).await;
        assert_eq!(b.value(backend).await, before, "closed though nothing was left");
        assert_eq!(a.value("show work_mem").await, "5MB");

        for (text, kinds) in [
            ("select public.leave_setting()", "setting"),
            ("select public.leave_role()", "role"),
            ("select public.leave_lock()", "advisory_lock"),
            ("select public.leave_table()", "temporary"),
            ("select public.leave_channel()", "listen"),
            ("select public.leave_statement()", "prepare"),
        ] {
            let before = b.value(backend).await;
            assert!(a.ask([say::extended(text, &[]), say::sync()]).await.ends_with("C(SELECT 1) Z(I)"), "{text}");
            let after = b.value(backend).await;
            assert_ne!(after, before, "{text}: the server was lent on");
            let said = eventually("the canary is heard", PATIENCE, async || {
                let log = stage.pgusher.log();
                // Without its time, which may have any digits.
                let last = log.lines().filter_map(|line| line.split_once("the canary found")).next_back();
                last.map(|(_, said)| said).filter(|said| said.contains(kinds)).map(str::to_owned)
            })
            .await;
            assert!(!said.contains("secret") && !said.contains("4242"), "{said}");
        }
        is(&mut a, A).await;

        stage.nobody_acted_as_another().await;
    }
}

/// Each leaves something behind, by words that no text shows.
const FUNCTIONS: &str = r#"
create function leave_setting() returns int language plpgsql as $$ begin execute 'set lock_timeout = 4242'; return 1; end $$;
create function leave_role() returns int language plpgsql as $$ begin execute 'set role app'; return 1; end $$;
create function leave_lock() returns int language plpgsql as $$ begin execute 'select pg_advisory_lock(1)'; return 1; end $$;
create function leave_table() returns int language plpgsql as $$ begin execute 'create temp table secret (a int)'; return 1; end $$;
create function leave_channel() returns int language plpgsql as $$ begin execute 'listen secret'; return 1; end $$;
create function leave_statement() returns int language plpgsql as $$ begin execute 'prepare secret as select 1'; return 1; end $$;
"#;
