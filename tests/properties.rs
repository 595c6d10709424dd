//! What holds for any conversation and any bytes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "a test has no outside")]

/// The simulation's model server says what it does; here it need not.
macro_rules! trace {
    ($($words:tt)*) => {};
}
use trace;

#[path = "fuzz/targets.rs"]
mod targets;

#[allow(dead_code, reason = "made for the simulation, which needs more of it")]
#[path = "sim/postgres.rs"]
mod postgres;

#[allow(dead_code, reason = "made for the simulation, which needs more of it")]
#[path = "sim/random.rs"]
mod random;

use bytes::{Buf, BytesMut};
use pgusher::names::ServerId;
use pgusher::session::idle::{self, Idle};
use pgusher::session::transaction::Status;
use pgusher::session::{ClientState, Exchange, Outcome, Parameters, ServerState};
use pgusher::wire::{Buffers, Header, write};
use proptest::prelude::*;

use postgres::Postgres;
use random::Random;

/// What a client may say: whole units, legal ones.
#[derive(Clone, Debug)]
enum Say {
    /// Executions before one Sync; the number of the one that fails, if any does.
    Batch(u8, Option<u8>),
    Begin,
    Commit,
    Fail,
    Many,
    /// Prepared anew under this name, and executed; there are as many names as a client may have statements.
    Prepare(u8),
    SetLocal,
    Sync,
    Tag,
}

impl Say {
    fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Batch(count, failing) => {
                for index in 0..*count {
                    let sql: &[u8] =
                        if *failing == Some(index) { b"SELECT fail($1)" } else { b"SELECT tag($1)" };
                    write::parse(out, b"", sql, &[]);
                    write::bind_text(out, b"", b"", &[Some(b"t")]);
                    write::execute(out, b"", 0);
                }
                write::sync(out);
            }
            Self::Begin => write::query(out, b"BEGIN"),
            Self::Commit => write::query(out, b"COMMIT"),
            Self::Fail => write::query(out, b"SELECT fail('x')"),
            Self::Many => write::query(out, b"SELECT tag('a'); SELECT tag('b')"),
            Self::Prepare(name) => {
                let name = [b's', *name];
                write::close(out, b'S', &name);
                write::parse(out, &name, [b"SELECT tag($1) --", &name[..]].concat().as_slice(), &[]);
                write::describe(out, b'S', &name);
                write::bind_text(out, b"p", &name, &[Some(b"t")]);
                write::execute(out, b"p", 0);
                write::sync(out);
            }
            Self::SetLocal => write::query(out, b"SET LOCAL app.z = 'z'"),
            Self::Sync => write::sync(out),
            Self::Tag => write::query(out, b"SELECT tag('t')"),
        }
    }
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        (1..4u8, proptest::option::of(0..4u8)).prop_map(|(count, failing)| Say::Batch(count, failing)),
        Just(Say::Begin),
        Just(Say::Commit),
        Just(Say::Fail),
        Just(Say::Many),
        (b'0'..b'3').prop_map(Say::Prepare),
        Just(Say::SetLocal),
        Just(Say::Sync),
        Just(Say::Tag),
    ]
}

/// All of it in a row, the last block ended.
fn script(says: &[Say]) -> BytesMut {
    let mut out = BytesMut::new();
    says.iter().chain([&Say::Commit]).for_each(|say| say.write(&mut out));
    out
}

/// What PostgreSQL itself answers to it.
fn alone(script: &[u8]) -> BytesMut {
    let mut postgres = Postgres::new(0, 0);
    postgres.inbox.extend_from_slice(script);
    while postgres.step(&mut Random::new(0)) {}
    postgres.outbox
}

/// What it answers through an exchange, when every stream comes in pieces of these sizes.
fn through(script: &[u8], pieces: &[usize], mut client: ClientState) -> BytesMut {
    let (mut unsaid, mut postgres) = (BytesMut::from(script), Postgres::new(0, 0));
    let (mut ours, mut theirs) = (Buffers::default(), Buffers::default());
    let mut server = ServerState::new(ServerId(1), Parameters::default());
    let (mut exchange, mut is_talking, mut heard) = (Exchange::default(), false, BytesMut::new());
    let mut sizes = pieces.iter().copied().cycle();
    let mut give = |from: &mut BytesMut, to: &mut BytesMut| {
        let count = sizes.next().unwrap_or(usize::MAX).min(from.len());
        to.extend_from_slice(&from[..count]);
        from.advance(count);
        count > 0
    };
    loop {
        let mut moved = give(&mut unsaid, &mut ours.inbox);
        if !is_talking {
            if idle::answer(&mut client, &mut ours, false).unwrap() == Idle::NeedServer {
                exchange.begin(&mut client, &mut ours.outbox, &mut server, &mut theirs.outbox);
                (is_talking, moved) = (true, true);
            }
        } else {
            moved |= give(&mut postgres.outbox, &mut theirs.inbox);
            let outcome = exchange.advance(&mut client, &mut ours, &mut server, &mut theirs).unwrap();
            moved |= give(&mut theirs.outbox, &mut postgres.inbox);
            while postgres.step(&mut Random::new(0)) {}
            match outcome {
                None => {}
                Some(Outcome::Settled(_)) => {
                    assert!(!exchange.is_busy() && exchange.status() == Status::Idle);
                    assert!(theirs.outbox.is_empty() && theirs.inbox.is_empty());
                    assert_eq!(postgres.uncleanliness(), None);
                    assert_eq!(postgres.plans(), server.statements.len());
                    (is_talking, moved) = (false, true);
                }
                Some(outcome) => panic!("{outcome:?}"),
            }
        }
        heard.unsplit(ours.outbox.split());
        if !moved && unsaid.is_empty() && postgres.outbox.is_empty() && theirs.outbox.is_empty() {
            assert!(!is_talking, "the exchange is stuck: {exchange:?}");
            return heard;
        }
    }
}

/// Frames, readable: what differs is seen.
fn shown(bytes: &[u8]) -> Vec<String> {
    let (mut lines, mut rest) = (Vec::new(), bytes);
    while let Ok(Some(header)) = Header::read(rest) {
        let frame = rest.get(..header.len).unwrap_or(rest);
        lines.push(frame.escape_ascii().to_string());
        rest = rest.get(header.len..).unwrap_or_default();
    }
    lines
}

fn readies(bytes: &[u8], tags: &[u8]) -> usize {
    let (mut count, mut rest) = (0, bytes);
    while let Ok(Some(header)) = Header::read(rest) {
        count += usize::from(tags.contains(&header.tag));
        rest = rest.get(header.len..).unwrap_or_default();
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any cut of the same bytes, either way, gives what PostgreSQL itself gives: nothing of ours is forwarded, nothing of
    /// the client's is swallowed, one ReadyForQuery for each that is owed, and a server comes back owing nothing.
    #[test]
    fn chunking_does_not_matter(
        says in proptest::collection::vec(say(), 0..8),
        pieces in proptest::collection::vec(1..60usize, 1..12),
        identity: bool,
    ) {
        let script = script(&says);
        let wanted = alone(&script);

        let whole = through(&script, &[usize::MAX], targets::client(identity));
        let cut = through(&script, &pieces, targets::client(identity));

        prop_assert_eq!(shown(&whole), shown(&wanted));
        prop_assert_eq!(shown(&cut), shown(&wanted));
        prop_assert_eq!(readies(&cut, b"Z"), readies(&script, b"QS"));
    }

    #[test]
    fn no_bytes_make_anything_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        targets::ALL.iter().for_each(|(_, target)| target(&bytes));
    }

    #[test]
    fn no_frames_make_anything_panic(
        frames in proptest::collection::vec(
            ("[BCcDdEfFHPQSXZTtGIKNRsA123n]", proptest::collection::vec(any::<u8>(), 0..30)), 0..12),
        last: bool,
    ) {
        let mut bytes = BytesMut::new();
        for (tag, body) in &frames {
            bytes.extend_from_slice(tag.as_bytes());
            bytes.extend_from_slice(&(4 + body.len() as u32).to_be_bytes());
            bytes.extend_from_slice(body);
        }
        if last {
            bytes.truncate(bytes.len().saturating_sub(3));
        }
        targets::ALL.iter().for_each(|(_, target)| target(&bytes));
    }

    #[test]
    fn no_words_make_sql_panic(text in "[a-zA-Z0-9_ ;'\"$.,()=:/*\\\\\\-]{0,80}") {
        targets::read_sql(text.as_bytes());
    }
}

#[test]
fn a_conversation_survives_a_cut_at_every_byte() {
    let says =
        [Say::Begin, Say::Prepare(b'0'), Say::Batch(2, Some(1)), Say::Commit, Say::Prepare(b'0'), Say::Fail];
    let script = script(&says);
    let wanted = shown(&alone(&script));

    for cut in 1..script.len() {
        let through = through(&script, &[cut, usize::MAX], targets::client(true));
        assert_eq!(shown(&through), wanted, "cut at {cut}");
    }
    assert_eq!(shown(&through(&script, &[1], targets::client(true))), wanted, "byte by byte");
}

#[test]
fn the_corpus_makes_nothing_panic() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in targets::ALL {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            target(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}
