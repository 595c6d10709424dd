//! What servers do around the injection, those that follow a script included; and what it costs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::{A, B, ME, Stage, act, first_column, is, me};
use crate::contract;
use crate::harness::fake_server::FakeClient;
use crate::harness::{DelayProxy, FakeServer, Frame, Pgusher, Postgres, StopMode, answer, notation, say};
use crate::on_every_major;

contract! {
    /// 53.
    async fn defaults_that_forbid_or_isolate_are_the_clients_not_the_injections(setting: Setting) {
        let database = setting.postgres.database().to_owned();
        for default in ["default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on", "default_transaction_read_only = on"] {
            setting.postgres.sql(&format!("alter database {database} set {default}")).await;
        }
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;

        for _ in 0..2 {
            for (client, who) in [(&mut a, A), (&mut b, B)] {
                assert_eq!(me(client).await, who);
                assert_eq!(client.value("show transaction_isolation").await, "serializable");
                assert_eq!(notation(&client.query(&act(who)).await), "E(25006) Z(I)");
                client.rows("begin read write").await;
                client.rows(&act(who)).await;
                client.rows("commit").await;
            }
        }

        assert_eq!((stage.acts_of(A).await, stage.acts_of(B).await), (2, 2));
        stage.nobody_acted_as_another().await;
    }
}

on_every_major! {
    /// 53.
    async fn a_hot_standby_serves_each_as_itself(postgres: Postgres) {
        let major = postgres.major();
        drop(postgres);
        let mut standby = Postgres::private(major, &[("hot_standby", "on"), ("autovacuum", "off")], "").await;
        standby.sql("create table notes (said text, owner uuid); alter table notes enable row level security; create policy own on notes using (owner = current_setting('app.current_user_id')::uuid); grant select on notes to app").await;
        standby.sql(&format!("insert into notes values ('{A}', '{A}'), ('{B}', '{B}')")).await;
        standby.sql("checkpoint").await;
        standby.stop(StopMode::Fast).await;
        standby.write("standby.signal", "");
        standby.start().await;
        let pgusher = Pgusher::before(&standby).pool_size(1).identity().start().await;
        let (mut a, mut b) = (pgusher.client_for(A).await, pgusher.client_for(B).await);

        assert_eq!(a.value("select pg_is_in_recovery()").await, "t");
        for _ in 0..3 {
            for (client, who) in [(&mut a, A), (&mut b, B)] {
                assert_eq!(me(client).await, who);
                assert_eq!(client.rows("select said from notes").await, [[Some(who.to_owned())]]);
                assert_eq!(notation(&client.query("insert into notes values ('x')").await), "E(25006) Z(I)");
            }
        }
    }

    /// Section 1: no extra round trip, in any protocol.
    async fn an_identity_costs_no_round_trip(postgres: Postgres) {
        let mut counts = Vec::new();
        for identity in ["off", "on"] {
            let network = DelayProxy::before(postgres.address(), Duration::from_millis(20)).await;
            let pgusher = Pgusher::before(&postgres)
                .via(network.address())
                .pool_size(1)
                .text("identity", "enabled", identity)
                .start()
                .await;
            // Identity off, the variable would be a setting like any other, which a change of client must say.
            let (mut a, mut b) = match identity {
                "on" => (pgusher.client_for(A).await, pgusher.client_for(B).await),
                _ => (pgusher.client().await, pgusher.client().await),
            };
            for client in [&mut a, &mut b] {
                client.rows("select 1").await;
            }
            for turn in 0..4 {
                let client = if turn % 2 == 0 { &mut a } else { &mut b };
                let before = network.round_trips();
                client.rows("select 1").await;
                client.ask([say::extended("select 1", &[]), say::sync()]).await;
                client.rows("begin").await;
                client.rows("select 1").await;
                client.rows("commit").await;
                counts.push(network.round_trips() - before);
            }
        }

        // One for each of the five; one more for each transaction would be eight. Their time says nothing on a busy machine.
        assert_eq!(counts, [5; 8], "four turns without, four with");
    }
}

/// What a scripted server heard, connection by connection.
type Heard = Arc<Mutex<Vec<Vec<Frame>>>>;

/// The frames that belong to one of our preludes: three statements.
const PRELUDE: [u8; 9] = *b"PBEPBEPBE";

fn prelude_answers() -> [Bytes; 9] {
    [
        answer::parse_complete(),
        answer::bind_complete(),
        answer::command_complete("BEGIN"),
        answer::parse_complete(),
        answer::bind_complete(),
        say::join([answer::data_row(&[Some(A.as_bytes())]), answer::command_complete("SELECT 1")]),
        answer::parse_complete(),
        answer::bind_complete(),
        answer::command_complete("COMMIT"),
    ]
}

/// Reads the first unit that has words of a client's in it, up to its Query. Before it the pooler may try the settings out,
/// with a prelude and a Sync, which is let pass.
async fn first_unit(peer: &mut FakeClient, heard: &Heard) -> Option<()> {
    let mut frames = Vec::new();
    loop {
        let frame = peer.read().await?;
        let tag = frame.tag;
        frames.push(frame);
        if tag == b'S' {
            assert_eq!(frames.len(), PRELUDE.len() + 1, "{}", notation(&frames));
            frames.clear();
            peer.send([say::join(prelude_answers()), answer::ready(b'I')]).await;
        }
        if tag == b'Q' {
            let tags: Vec<u8> = frames.iter().take(PRELUDE.len()).map(|frame| frame.tag).collect();
            assert_eq!(tags, PRELUDE, "no prelude before the first unit");
            heard.lock().unwrap()[peer.number] = frames;
            return Some(());
        }
    }
}

/// A pooler before a server that serves each connection's first unit as `serve` says.
async fn scripted<Served>(
    serve: impl Fn(FakeClient, Heard) -> Served + Clone + Send + 'static,
) -> (FakeServer, Pgusher, Heard)
where
    Served: Future<Output = ()> + Send + 'static,
{
    let heard = Heard::default();
    let writing = Arc::clone(&heard);
    let server = FakeServer::start(move |mut peer: FakeClient| {
        let (serve, heard) = (serve.clone(), Arc::clone(&writing));
        async move {
            {
                let mut heard = heard.lock().unwrap();
                let connections = heard.len().max(peer.number + 1);
                heard.resize(connections, Vec::new());
            }
            if peer.let_in().await.is_some() {
                serve(peer, heard).await;
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).identity().start().await;
    (server, pgusher, heard)
}

/// Serves every unit, behind its prelude.
async fn serve_rest(peer: &mut FakeClient) {
    while first_words(peer).await.is_some() {
        let said = say::join(prelude_answers());
        peer.send([said, answer::one_value("who", A)]).await;
    }
}

/// The next Query; a prelude with a Sync behind it, by which settings are tried out, is let pass.
async fn first_words(peer: &mut FakeClient) -> Option<Frame> {
    loop {
        let frame = peer.read().await?;
        match frame.tag {
            b'Q' => return Some(frame),
            b'S' => {
                let said = say::join(prelude_answers());
                peer.send([said, answer::ready(b'I')]).await;
            }
            _ => {}
        }
    }
}

/// 17 and 18, on a server that fails at every step of the injection in turn: of a client's pipeline nothing but the first
/// unit, which went with it, is said before the failed injection has been ended.
#[tokio::test]
async fn nothing_behind_the_first_unit_is_said_before_the_injection_is_proven() {
    for step in 0..PRELUDE.len() {
        let (server, pgusher, heard) = scripted(move |mut peer, heard: Heard| async move {
            if first_unit(&mut peer, &heard).await.is_none() {
                return;
            }
            let mut said = prelude_answers()[..step].to_vec();
            said.push(answer::error_of("ERROR", "XX000", "the injection fails"));
            peer.send(said).await;
            // Everything up to the Sync is skipped; what it is, is what the test asks.
            loop {
                let Some(frame) = peer.read().await else { return };
                heard.lock().unwrap()[peer.number].push(frame.clone());
                if frame.is(b'S') {
                    break;
                }
            }
            // In a failed block until it is rolled back, if BEGIN was reached.
            peer.send([answer::ready(if step > 2 { b'E' } else { b'I' })]).await;
            loop {
                let Some(frame) = peer.read().await else { return };
                heard.lock().unwrap()[peer.number].push(frame.clone());
                if frame.is(b'Q') && frame.body.starts_with(b"ROLLBACK") {
                    peer.send([answer::command_complete("ROLLBACK"), answer::ready(b'I')]).await;
                } else if frame.is(b'Q') && !frame.body.starts_with(b"select") {
                    return;
                } else if frame.is(b'Q') {
                    peer.send([say::join(prelude_answers()), answer::one_value("who", A)]).await;
                }
            }
        })
        .await;
        let mut client = pgusher.client_for(A).await;
        let units = ["select 'first'", "select 'second'", "select 'third'"];

        client.send(units.map(say::query)).await;
        let answer = notation(&client.read_until_ready_times(3).await);

        assert_eq!(answer.matches("D C(SELECT 1) Z(I)").count(), 3, "failing at step {step}: {answer}");
        assert_eq!(server.connections(), 1, "step {step}");
        let heard = heard.lock().unwrap()[0].clone();
        let sync = heard.iter().position(|frame| frame.is(b'S')).expect("a Sync");
        let before: Vec<_> =
            heard[..sync].iter().filter(|frame| frame.is(b'Q')).map(Frame::strings).collect();
        assert_eq!(before.len(), 1, "step {step}: {before:?}");
        assert_eq!(before[0][0], "select 'first'");
        assert_eq!(
            heard[sync + 1].is(b'Q') && heard[sync + 1].body.starts_with(b"ROLLBACK"),
            step > 2,
            "step {step}"
        );
    }
}

/// 49, dead at every answer of the injection. A server that says it ends before the last has run nothing: the client's words
/// are said again elsewhere. One that says nothing may have died with the proof unsent: they are not.
#[tokio::test]
async fn a_server_that_dies_is_asked_again_elsewhere_only_if_it_says_so_before_the_proof() {
    for (step, says_so) in (0..=PRELUDE.len()).flat_map(|step| [(step, false), (step, true)]) {
        let (server, pgusher, heard) = scripted(move |mut peer, heard: Heard| async move {
            if peer.number > 0 {
                return serve_rest(&mut peer).await;
            }
            if first_unit(&mut peer, &heard).await.is_some() {
                let fatal =
                    answer::error_of("FATAL", "57P01", "terminating connection due to administrator command");
                let last = says_so.then_some(fatal);
                peer.send(prelude_answers()[..step].iter().cloned().chain(last)).await;
            }
        })
        .await;
        let mut client = pgusher.client_for(A).await;

        client.send([say::query("select 'once'")]).await;
        let answer = notation(&client.read_until(b'Z').await);

        if says_so && step < PRELUDE.len() {
            assert_eq!(
                (answer.as_str(), server.connections()),
                ("T D C(SELECT 1) Z(I)", 2),
                "dead at step {step}"
            );
        } else {
            assert!(answer.starts_with("E("), "dead at step {step}, says so: {says_so}: {answer}");
            assert_eq!(server.connections(), 1, "{:?}", heard.lock().unwrap());
        }
    }
}

/// Rule 4: an answer that is not the injection's own closes the server, and the client is served by another or told.
#[tokio::test]
async fn an_unexpected_answer_to_the_injection_closes_the_server() {
    let strange: [(usize, Bytes); 6] = [
        (2, answer::command_complete("ROLLBACK")),
        (8, answer::command_complete("ROLLBACK")),
        (5, say::join([answer::data_row(&[None]), answer::command_complete("SELECT 2")])),
        (3, answer::bind_complete()),
        (8, answer::ready(b'I')),
        (0, answer::empty_query_response()),
    ];
    for (step, wrong) in strange {
        let said = wrong.clone();
        let (server, pgusher, heard) = scripted(move |mut peer, heard: Heard| {
            let said = said.clone();
            async move {
                if first_unit(&mut peer, &heard).await.is_none() {
                    return;
                }
                let mut answers = prelude_answers();
                answers[step] = said;
                peer.send([say::join(answers), answer::one_value("who", "somebody")]).await;
                peer.until_gone().await;
            }
        })
        .await;
        let mut client = pgusher.client_for(A).await;

        client.send([say::query("select 'x'"), say::query("select 'y'")]).await;
        let answer = client.read_until(b'E').await;

        assert!(first_column(&answer).is_empty(), "step {step}, {wrong:?}: {}", notation(&answer));
        assert!(server.connections() >= 1 && !heard.lock().unwrap().is_empty());
    }
}

/// 50.
#[tokio::test]
async fn what_servers_say_unasked_amid_the_injection_reaches_the_client_and_breaks_nothing() {
    let (_server, pgusher, _) = scripted(|mut peer, _| async move {
        while first_words(&mut peer).await.is_some() {
            for said in prelude_answers() {
                peer.send([
                    answer::notice("amid"),
                    answer::parameter_status("TimeZone", "Mars/Olympus"),
                    answer::notification(1, "news", "amid"),
                    said,
                ])
                .await;
            }
            peer.send([answer::one_value("who", A)]).await;
        }
    })
    .await;
    let mut client = pgusher.client_for(A).await;

    for _ in 0..3 {
        let answer = client.query("select 1").await;
        let own: Vec<_> = answer
            .iter()
            .filter(|frame| !frame.is(b'N') && !frame.is(b'S') && !frame.is(b'A'))
            .cloned()
            .collect();
        assert_eq!(notation(&own), "T D C(SELECT 1) Z(I)", "{}", notation(&answer));
    }
    assert_eq!(client.parameters["TimeZone"], "Mars/Olympus");
}

/// 51.
#[tokio::test]
async fn answers_to_the_injection_cut_anywhere_are_the_same_answers() {
    let whole = say::join([say::join(prelude_answers()), answer::one_value("who", A)]);
    let length = whole.len();
    let (_server, pgusher, _) = scripted(move |mut peer, _| {
        let whole = whole.clone();
        async move {
            let mut at = 0;
            while first_words(&mut peer).await.is_some() {
                peer.send_cut(&whole, at % whole.len()).await;
                at += 1;
            }
        }
    })
    .await;
    let mut client = pgusher.client_for(A).await;

    for at in 0..length {
        let answer = client.query("select 1").await;
        assert_eq!(notation(&answer), "T D C(SELECT 1) Z(I)", "cut at {at}");
        assert_eq!(first_column(&answer), [A]);
    }
}

/// 51, on a real server, in both directions and on both sides: a network that delivers single bytes.
#[tokio::test]
async fn words_and_answers_that_come_byte_by_byte_are_the_same() {
    let postgres = Postgres::shared(18).await;
    let network = DelayProxy::before(postgres.address(), Duration::ZERO).await;
    let setting =
        super::Setting::new(postgres, super::stage::Transport::Tcp, super::stage::Form::Bound).await;
    let stage: Stage = setting.stage_with(|pgusher| pgusher.via(network.address())).await;
    let (mut a, mut b) = stage.pair().await;
    is(&mut a, A).await;
    network.chop(true);

    for _ in 0..3 {
        is(&mut a, A).await;
        is(&mut b, B).await;
        a.send_in_bytes([say::query(ME), say::extended(&act(A), &[]), say::sync()]).await;
        let answer = a.read_until_ready_times(2).await;
        assert_eq!(notation(&answer), "T D C(SELECT 1) Z(I) 1 2 n C(INSERT 0 1) Z(I)");
        assert_eq!(first_column(&answer), [A]);
    }

    stage.nobody_acted_as_another().await;
}
