//! What the pooler says before a client's words, settings and identity, is neither heard in the answers nor in the way
//! of the words.

use crate::harness::{Frame, Pgusher, notation, say};
use crate::on_every_major;

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
}
