//! What any bytes may do, one function for each reader of bytes: to answer or to refuse, never to panic.
//!
//! The fuzzer runs them (`cargo fuzz run --fuzz-dir tests/fuzz exchange_client`), and `tests/properties.rs` on stable,
//! on chance and on the checked-in corpus.

use std::sync::Arc;

use bytes::BytesMut;
use pgusher::auth::ident::{self, Mapping};
use pgusher::auth::rules::{self, Knock, Rule, Transport};
use pgusher::auth::scram::{ClientFirst, Nonce, ServerStart, Standing};
use pgusher::auth::{ChannelBinding, Credential, Method, Salts, ScramKeys, ScramVerifier, Secret, shadow};
use pgusher::names::{ClientId, Database, ServerId, User};
use pgusher::session::idle::{self, Idle};
use pgusher::session::login::{BindingPolicy, Login, LoginPlan};
use pgusher::session::opening::{Opening, Settings, Step, Tls};
use pgusher::session::prepared::{Interner, Statement};
use pgusher::session::question::Question;
use pgusher::session::{
    ClientState, Exchange, IdentitySettings, Parameters, Pattern, Rules, ServerState, Values, sql,
};
use pgusher::wire::{Buffers, Header, backend, control, frontend, startup, write};

/// Takes any bytes, and must not panic.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const ALL: [(&str, Target); 8] = [
    ("exchange_client", exchange_client),
    ("exchange_server", exchange_server),
    ("rules", read_rules),
    ("scan", scan),
    ("scram", scram),
    ("shadow", read_shadow),
    ("sql", read_sql),
    ("startup", start),
];

/// Every text is its own statement.
pub struct NoTexts;

impl Interner for NoTexts {
    fn intern(&self, definition: &[u8]) -> Arc<Statement> {
        let number = definition.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31) ^ u64::from(*byte));
        Arc::new(Statement::new(number.max(1), number, definition))
    }

    fn is_proven(&self, _: &[u8]) -> bool {
        false
    }
}

/// A client as admitted, under small limits.
pub fn client(identity: bool) -> ClientState {
    let rules = Rules {
        server_statements: 2,
        client_statements: 3,
        client_statement_bytes: 200,
        retained: 300,
        identity: IdentitySettings {
            enabled: identity,
            variable: "app.user".into(),
            pattern: Pattern::Any,
            ..IdentitySettings::default()
        },
        ..Rules::default()
    };
    let texts = Arc::new(NoTexts);
    ClientState::new(
        ClientId(1),
        Arc::new(rules),
        None,
        false,
        Values::default(),
        Parameters::default(),
        texts,
    )
}

/// Frames, one after the other, and every view of their bodies.
pub fn scan(mut bytes: &[u8]) {
    while let Ok(Some(header)) = Header::read(bytes) {
        let body = header.body(bytes).unwrap_or_default();
        let _ = control::decode(bytes.get(..header.len).unwrap_or(bytes));
        let _ = frontend::Parse::read(body);
        let _ = frontend::Bind::read(body);
        let _ = frontend::execute(body);
        let _ = frontend::query(body);
        if matches!(header.tag, b'C' | b'D') {
            let _ = frontend::target(header.tag, body);
        }
        let _ = backend::command_complete(body);
        let _ = backend::error_front(body);
        let _ = backend::parameter_status(body);
        let _ = backend::data_row(body).map(|columns| columns.count());
        let Some(rest) = bytes.get(header.len..) else { break };
        bytes = rest;
    }
}

/// The first bytes of a connection, and what a login makes of them.
pub fn start(bytes: &[u8]) {
    let _ = startup::take(&mut BytesMut::from(bytes));
    let _ = startup::parse_options(bytes);
    for method in [Method::Md5, Method::Password, Method::ScramSha256] {
        be_asked(method, bytes);
    }
    for credential in [None, Some(Credential::Password(Secret::from("secret")))] {
        log_in(credential, bytes);
    }
}

/// As a stranger who says this, until it has said all.
fn be_asked(method: Method, bytes: &[u8]) {
    let settings = Settings { salts: Salts::from_key([7; 32]), tls: Tls::Unavailable };
    let (mut opening, mut outbox) = (Opening::new(settings), BytesMut::new());
    let mut inbox = BytesMut::from(bytes);
    loop {
        match opening.on_input(&mut inbox, &mut outbox) {
            Ok(Step::LookUp(_)) => drop(opening.on_verifier(method, None, &mut outbox)),
            Ok(Step::NeedsKeys { password, salt, .. }) => {
                let keys = ScramKeys::derive(password.expose(), &salt, 1);
                assert!(opening.with_keys(&keys).is_err(), "a stranger is let in");
            }
            Ok(Step::Proven(_)) => panic!("a stranger is let in"),
            _ => return,
        }
    }
}

/// To a server that says this.
fn log_in(credential: Option<Credential>, bytes: &[u8]) {
    let mut login = Login::new(LoginPlan {
        user: User::from("app"),
        database: Database::from("shop"),
        parameters: Vec::new(),
        credential,
        minor: 2,
        binding: ChannelBinding::Unavailable,
        policy: BindingPolicy::Prefer,
    });
    let (mut inbox, mut outbox) = (BytesMut::from(bytes), BytesMut::new());
    login.begin(&mut outbox);
    let _ = login.on_input(&mut inbox, &mut outbox);
}

/// SCRAM from both sides.
pub fn scram(bytes: &[u8]) {
    let nonce = || Nonce::random().expect("there is randomness");
    let verifier = ScramVerifier::derive(b"secret", b"salt", 1);
    let _ = ScramVerifier::parse(bytes);
    let start = ServerStart::new(verifier, Standing::Sincere, ChannelBinding::Unavailable, nonce());
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    for first in [first, &b"n,,n=,r=abc"[..]] {
        let verifier = ScramVerifier::derive(b"secret", b"salt", 1);
        let start = ServerStart::new(verifier, Standing::Sincere, ChannelBinding::Unavailable, nonce());
        if let Ok((awaiting, _)) = start.on_client_first(b"SCRAM-SHA-256", first) {
            assert!(awaiting.on_client_final(rest).is_err(), "a stranger is let in");
        }
    }
    let _ = start.on_client_first(bytes, bytes);
    if let Ok(first) = ClientFirst::new([&b"SCRAM-SHA-256"[..]], &ChannelBinding::Unavailable, nonce()) {
        let _ = first.on_server_first(bytes);
    }
}

/// An operator may write anything as a rule or a map.
pub fn read_rules(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let rules: Vec<_> = text.lines().filter_map(|line| Rule::parse(line).ok()).collect();
    let maps: Vec<_> = text.lines().filter_map(Mapping::parse).collect();
    for line in text.lines() {
        let _ = rules::field(line, 3);
    }
    let (remote, local) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    for transport in [Transport::Local, Transport::Tcp { remote, local, is_encrypted: true }] {
        let knock = Knock { transport, database: b"d", user: b"u", is_replication: false };
        if let Some(rule) = rules::decide(&rules, &knock) {
            assert!(rules.iter().any(|other| other == rule), "a rule that nobody wrote");
        }
    }
    let outside = [text.chars().take(9).collect()];
    let _ = ident::permits(&maps, maps.first().map(Mapping::map), &outside, b"u");
}

/// A server may answer anything to the question about a user.
pub fn read_shadow(bytes: &[u8]) {
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let (mut question, mut inbox) = (Question::default(), BytesMut::new());
    for part in [first, rest] {
        inbox.extend_from_slice(part);
        match question.on_input(&mut inbox) {
            Ok(None) => {}
            Ok(Some(rows)) => drop(shadow::read(b"ann", &rows)),
            Err(_) => return,
        }
    }
}

/// Any text is read.
pub fn read_sql(bytes: &[u8]) {
    let identity = IdentitySettings { variable: "app.user".into(), ..IdentitySettings::default() };
    let reading = sql::read(bytes, &identity);
    // Reading is of the text alone: a second look sees the same.
    assert_eq!(reading, sql::read(bytes, &identity));
}

/// A client may say anything, before and after its prelude is proven.
pub fn exchange_client(bytes: &[u8]) {
    for identity in [false, true] {
        let mut client = client(identity);
        let mut buffers = Buffers::default();
        buffers.inbox.extend_from_slice(bytes);
        match idle::answer(&mut client, &mut buffers, false) {
            Ok(Idle::NeedServer) => {}
            Ok(Idle::Left | Idle::NeedMore | Idle::NeedVerdict(_)) | Err(_) => continue,
        }
        let mut server = ServerState::new(ServerId(1), Parameters::default());
        let (mut exchange, mut theirs) = (Exchange::default(), Buffers::default());
        exchange.begin(&mut client, &mut buffers.outbox, &mut server, &mut theirs.outbox);
        for _ in 0..2 {
            if exchange.advance(&mut client, &mut buffers, &mut server, &mut theirs).is_err() {
                break;
            }
            theirs.outbox.clear();
            prove(&mut theirs.inbox);
        }
        let _ = exchange.abandon(&mut theirs.outbox);
    }
}

/// A server may say anything, to a prelude, to a query and to a pipeline.
pub fn exchange_server(bytes: &[u8]) {
    for (identity, proven) in [(false, false), (true, false), (true, true)] {
        let mut client = client(identity);
        let mut buffers = Buffers::default();
        write::parse(&mut buffers.inbox, b"s", b"select $1", &[]);
        write::bind_text(&mut buffers.inbox, b"", b"s", &[None]);
        write::execute(&mut buffers.inbox, b"", 0);
        write::sync(&mut buffers.inbox);
        write::query(&mut buffers.inbox, b"copy t from stdin");
        let mut server = ServerState::new(ServerId(1), Parameters::default());
        let (mut exchange, mut theirs) = (Exchange::default(), Buffers::default());
        exchange.begin(&mut client, &mut buffers.outbox, &mut server, &mut theirs.outbox);
        let _ = exchange.advance(&mut client, &mut buffers, &mut server, &mut theirs);
        if proven {
            prove(&mut theirs.inbox);
        }
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        for part in [first, rest] {
            theirs.inbox.extend_from_slice(part);
            if exchange.advance(&mut client, &mut buffers, &mut server, &mut theirs).is_err() {
                break;
            }
        }
        let _ = exchange.abandon(&mut theirs.outbox);
    }
}

/// The answers that prove a prelude of the identity alone.
fn prove(inbox: &mut BytesMut) {
    for tag in [&b"BEGIN"[..], b"SELECT 1", b"COMMIT"] {
        write::parse_complete(inbox);
        write::bind_complete(inbox);
        write::command_complete(inbox, tag);
    }
}
