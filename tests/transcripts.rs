//! Dialogues in plain text, one for each question a reader might ask: `tests/transcripts/*.txt`.
//!
//! ```text
//! client Parse s "select $1"; Sync        what the client says
//!   server< Parse pgusher_1 "select $1"   what a server hears of it
//! server> ParseComplete; ReadyForQuery I  what the server says
//!   client> ParseComplete; ReadyForQuery I
//!   settled                               what became of the turn
//! ```
//!
//! Lines at the margin are done, indented ones must follow from them; `proves` is the answer to a whole prelude, and
//! `server 2` lends another server from the next turn on. A transcript that differs prints its first differing line;
//! `TRANSCRIPTS=write` writes down what happens now, to be read before it is believed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use pgusher::names::{ClientId, ServerId};
use pgusher::session::idle::{self, Idle};
use pgusher::session::prepared::{Interner, Statement};
use pgusher::session::{
    ClientState, Exchange, Form, Grant, Identity, IdentitySettings, Missing, Mode, Outcome, Parameters,
    Pattern, Rules, Scope, ServerState, SetPolicy, TokenFault, Values,
};
use pgusher::wire::frontend::{self, Bind, Parse, Target};
use pgusher::wire::{Buffers, Header, backend, write};

#[test]
fn every_transcript_is_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let is_writing = std::env::var("TRANSCRIPTS").is_ok_and(|what| what == "write");
    let mut differences = String::new();
    for path in &files {
        let written = fs::read_to_string(path).unwrap();
        let played = Stage::default().play(&written);
        if is_writing {
            fs::write(path, &played).unwrap();
        } else if let Some(difference) = first_difference(&written, &played) {
            writeln!(differences, "{}:{difference}", path.display()).unwrap();
        }
    }
    assert!(files.len() > 10, "the transcripts are not found");
    assert!(differences.is_empty(), "\n{differences}");
}

fn first_difference(written: &str, played: &str) -> Option<String> {
    let (written, played): (Vec<_>, Vec<_>) = (written.lines().collect(), played.lines().collect());
    let at = (0..written.len().max(played.len())).find(|at| written.get(*at) != played.get(*at))?;
    let line = |lines: &[&str]| lines.get(at).map_or("(nothing)".to_owned(), |line| (*line).to_owned());
    Some(format!("{}\n  written: {}\n  played:  {}", at + 1, line(&written), line(&played)))
}

#[derive(Default)]
struct Texts(Mutex<HashMap<Vec<u8>, Arc<Statement>>>);

impl Interner for Texts {
    fn intern(&self, definition: &[u8]) -> Arc<Statement> {
        let mut known = self.0.lock().unwrap();
        let number = known.len() as u64 + 1;
        known
            .entry(definition.to_vec())
            .or_insert_with(|| Arc::new(Statement::new(number, number, definition)))
            .clone()
    }

    fn is_proven(&self, definition: &[u8]) -> bool {
        self.0.lock().unwrap().get(definition).is_some_and(|statement| statement.is_proven())
    }
}

struct Server {
    state: ServerState,
    exchange: Exchange,
    buffers: Buffers,
    /// The tags that prove the prelude it has heard.
    proof: Vec<&'static str>,
}

impl Server {
    fn new(number: u64) -> Self {
        Self {
            state: ServerState::new(ServerId(number), Parameters::default()),
            exchange: Exchange::default(),
            buffers: Buffers::default(),
            proof: Vec::new(),
        }
    }
}

/// One client and its servers.
#[derive(Default)]
struct Stage {
    client: Option<ClientState>,
    buffers: Buffers,
    servers: BTreeMap<u64, Server>,
    /// The server lent next.
    next: u64,
    /// The server of this turn, or kept.
    current: Option<u64>,
    is_talking: bool,
    is_over: bool,
}

impl Stage {
    fn play(mut self, text: &str) -> String {
        let mut played = String::new();
        self.next = 1;
        let mut rules = "";
        for line in text.lines() {
            if line.starts_with("  ") {
                continue;
            }
            writeln!(played, "{line}").unwrap();
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            match verb {
                "rules" => rules = rest,
                "client" | "server>" | "hangs-up" | "expires" => {
                    self.client.get_or_insert_with(|| client(rules));
                    self.act(verb, rest);
                    self.settle(&mut played);
                }
                "server" => self.next = rest.parse().expect("the number of a server"),
                "" | "#" => {}
                _ => panic!("not a line of a transcript: {line}"),
            }
        }
        played
    }

    fn act(&mut self, verb: &str, rest: &str) {
        if verb == "client" {
            return messages(rest).iter().for_each(|words| say(words, &mut self.buffers.inbox, true));
        }
        let server = self.servers.get_mut(&self.current.expect("a server")).unwrap();
        if verb == "expires" {
            return server.exchange.end_soon();
        }
        if verb == "hangs-up" {
            let can = server.exchange.abandon(&mut server.buffers.outbox);
            assert!(can, "the server is lost");
            return;
        }
        for words in messages(rest) {
            if words == ["proves"] {
                for tag in std::mem::take(&mut server.proof) {
                    match tag {
                        "1" => write::parse_complete(&mut server.buffers.inbox),
                        "2" => write::bind_complete(&mut server.buffers.inbox),
                        tag => write::command_complete(&mut server.buffers.inbox, tag.as_bytes()),
                    }
                }
            } else {
                say(&words, &mut server.buffers.inbox, false);
            }
        }
    }

    /// Until nothing moves; what is seen is written down.
    fn settle(&mut self, played: &mut String) {
        let client = self.client.as_mut().unwrap();
        loop {
            if !self.is_talking && !self.is_over {
                let wish = idle::answer(client, &mut self.buffers, self.current.is_some());
                hear(played, "client>", &mut self.buffers.outbox, false);
                match wish.unwrap() {
                    Idle::NeedMore => return,
                    Idle::Left => {
                        self.is_over = true;
                        return writeln!(played, "  left").unwrap();
                    }
                    Idle::NeedServer => {}
                    Idle::NeedVerdict(token) => {
                        writeln!(played, "  asks what a token proves").unwrap();
                        client.verdict = Some(Box::new(verdict(token.expose())));
                        continue;
                    }
                }
                let number = *self.current.get_or_insert(self.next);
                let server = self.servers.entry(number).or_insert_with(|| Server::new(number));
                let (told, outbox) = (&mut self.buffers.outbox, &mut server.buffers.outbox);
                server.exchange.begin(client, told, &mut server.state, outbox);
                self.is_talking = true;
            }
            let Some(server) = self.current.and_then(|number| self.servers.get_mut(&number)) else { return };
            let result =
                server.exchange.advance(client, &mut self.buffers, &mut server.state, &mut server.buffers);
            let proof = hear(played, "server<", &mut server.buffers.outbox, true);
            if !proof.is_empty() {
                server.proof = proof;
            }
            hear(played, "client>", &mut self.buffers.outbox, false);
            let outcome = match result {
                Ok(None) => return,
                Ok(Some(outcome)) => outcome,
                Err(violation) => {
                    (self.is_over, self.current) = (true, None);
                    return writeln!(played, "  violation: {violation}").unwrap();
                }
            };
            let text = match &outcome {
                Outcome::ClientLeft => "left".to_owned(),
                Outcome::Held => "held".to_owned(),
                Outcome::Lost(loss) => format!("lost {loss:?}"),
                Outcome::Settled(_) => "settled".to_owned(),
                Outcome::Unwound(sqlstate, clean) => format!(
                    "unwound {} {}",
                    sqlstate.map_or_else(String::new, |code| String::from_utf8_lossy(&code).into_owned()),
                    if clean.is_some() { "clean" } else { "held" }
                ),
            };
            writeln!(played, "  {text}").unwrap();
            self.is_talking = false;
            match outcome {
                Outcome::Held | Outcome::Unwound(_, None) => {}
                Outcome::ClientLeft => {
                    self.is_over = true;
                    return;
                }
                Outcome::Lost(_) => {
                    self.servers.remove(&self.current.take().unwrap());
                }
                Outcome::Settled(_) | Outcome::Unwound(..) => self.current = None,
            }
        }
    }
}

/// `good.NAME` proves that the user is NAME; everything else has a wrong signature.
fn verdict(token: &[u8]) -> Result<Grant, TokenFault> {
    let name = token.strip_prefix(b"good.").ok_or(TokenFault::Signature)?;
    Ok(Grant { identities: Identity::new(name, &Pattern::Any).into(), until: NonZeroU64::MAX })
}

fn client(words: &str) -> ClientState {
    let mut rules = Rules {
        identity: IdentitySettings {
            variable: "app.user".into(),
            pattern: Pattern::Any,
            enabled: false,
            ..IdentitySettings::default()
        },
        ..Rules::default()
    };
    let mut identity = None;
    for word in words.split_whitespace() {
        match word.split_once('=').expect("rules are key=value") {
            ("identity", "on") => rules.identity.enabled = true,
            ("identity", value) => {
                rules.identity.enabled = true;
                identity = Identity::new(value.as_bytes(), &Pattern::Any);
            }
            ("form", "literal") => rules.identity.form = Form::Literal,
            ("missing", "deny") => rules.identity.missing = Missing::Deny,
            ("mode", "session") => rules.mode = Mode::Session,
            ("mode", "statement") => rules.mode = Mode::Statement,
            ("retained", bytes) => rules.retained = bytes.parse().unwrap(),
            ("scope", "transaction") => rules.identity.scope = Scope::Transaction,
            ("server_statements", count) => rules.server_statements = count.parse().unwrap(),
            ("set", "pin") => rules.set = SetPolicy::Pin,
            ("tokens", "on") => rules.identity.token.key = Some("a key".into()),
            ("strict", "on") => rules.identity.strict = true,
            _ => panic!("no such rule: {word}"),
        }
    }
    let (values, told, texts) = (Values::default(), Parameters::default(), Arc::new(Texts::default()));
    ClientState::new(ClientId(1), Arc::new(rules), identity, false, values, told, texts)
}

/// `Parse s "select 1"; Sync` as words.
fn messages(text: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut rest) = (Vec::new(), Vec::new(), text.trim());
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('"') {
            let (word, after) = after.split_once('"').expect("a closing quote");
            words.push(word.to_owned());
            rest = after.trim_start();
        } else if let Some(after) = rest.strip_prefix(';') {
            all.push(std::mem::take(&mut words));
            rest = after.trim_start();
        } else {
            let end = rest.find([' ', ';']).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
    }
    all.push(words);
    all
}

fn frame(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.extend_from_slice(&[tag]);
    out.extend_from_slice(&(4 + body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
}

fn say(words: &[String], out: &mut BytesMut, is_client: bool) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let error = |out: &mut BytesMut, severity, code| {
        write::error_response(out, severity, code, "no", None, None, None);
    };
    match (is_client, &words[..]) {
        (true, ["Query", text]) => write::query(out, text.as_bytes()),
        (true, ["Parse", name, text]) => write::parse(out, name.as_bytes(), text.as_bytes(), &[]),
        (true, ["Bind", portal, name, values @ ..]) => {
            let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
            write::bind_text(out, portal.as_bytes(), name.as_bytes(), &values);
        }
        (true, ["Describe", kind, name]) => write::describe(out, kind.as_bytes()[0], name.as_bytes()),
        (true, ["Execute", portal]) => write::execute(out, portal.as_bytes(), 0),
        (true, ["Close", kind, name]) => write::close(out, kind.as_bytes()[0], name.as_bytes()),
        (true, ["Sync"]) => write::sync(out),
        (true, ["Flush"]) => write::flush(out),
        (true, ["Terminate"]) => write::terminate(out),
        (true, ["CopyFail"]) => write::copy_fail(out, "no"),
        (_, ["CopyData", data]) => frame(out, b'd', data.as_bytes()),
        (_, ["CopyDone"]) => frame(out, b'c', b""),
        (false, ["ParseComplete"]) => write::parse_complete(out),
        (false, ["BindComplete"]) => write::bind_complete(out),
        (false, ["CloseComplete"]) => write::close_complete(out),
        (false, ["NoData"]) => write::no_data(out),
        (false, ["ParameterDescription"]) => write::parameter_description_empty(out),
        (false, ["RowDescription"]) => write::row_description(out, &["c"]),
        (false, ["DataRow", columns @ ..]) => {
            let columns: Vec<_> = columns.iter().map(|column| Some(column.as_bytes())).collect();
            write::data_row(out, &columns);
        }
        (false, ["CommandComplete", tag]) => write::command_complete(out, tag.as_bytes()),
        (false, ["ReadyForQuery", status]) => write::ready_for_query(out, status.as_bytes()[0]),
        (false, ["Error", code]) => error(out, "ERROR", code),
        (false, ["Fatal", code]) => error(out, "FATAL", code),
        (false, ["Notice"]) => write::notice_response(out, "NOTICE", "00000", "note", None, None),
        (false, ["ParameterStatus", name, value]) => {
            write::parameter_status(out, name.as_bytes(), value.as_bytes());
        }
        (false, ["Notification"]) => frame(out, b'A', b"\0\0\0\x01c\0\0"),
        (false, ["CopyIn"]) => frame(out, b'G', b"\0\0\0"),
        (false, ["CopyOut"]) => frame(out, b'H', b"\0\0\0"),
        _ => panic!("no such message: {words:?}"),
    }
}

/// Writes down all frames of `outbox` in one line; the tags that prove a prelude among them.
fn hear(played: &mut String, who: &str, outbox: &mut BytesMut, is_server: bool) -> Vec<&'static str> {
    let (mut shown, mut proof, mut prelude) = (Vec::new(), Vec::new(), None::<Vec<String>>);
    while let Ok(Some(header)) = Header::read(outbox) {
        let whole = outbox.split_to(header.len.min(outbox.len()));
        let body = &whole[5..];
        if !is_server {
            shown.push(of_server(header.tag, body));
            continue;
        }
        let words = of_client(header.tag, body);
        if words.contains("\"BEGIN ISOLATION LEVEL READ COMMITTED\"") {
            prelude = Some(Vec::new());
        }
        let Some(said) = &mut prelude else {
            shown.push(words);
            continue;
        };
        let is_last = said.last().is_some_and(|said| said == "COMMIT") && header.tag == b'E';
        match header.tag {
            b'P' => {
                proof.push("1");
                said.push(String::from_utf8_lossy(Parse::read(body).unwrap().text).into_owned());
            }
            b'B' => {
                proof.push("2");
                let values = words.split(' ').skip(3).collect::<Vec<_>>().join("=");
                if !values.is_empty() {
                    said.push(values);
                }
            }
            _ => proof.push(match said.iter().rev().find(|said| !said.contains('=')).map(|said| &**said) {
                Some("COMMIT") => "COMMIT",
                Some("DISCARD SEQUENCES") => "DISCARD SEQUENCES",
                Some(text) if text.starts_with("BEGIN") => "BEGIN",
                Some(text) if text.starts_with("RESET") => "RESET",
                Some(text) if text.starts_with("SET") => "SET",
                _ => "SELECT 1",
            }),
        }
        if is_last {
            said.retain(|said| !said.starts_with("BEGIN") && !said.starts_with("select") && said != "COMMIT");
            shown.push(format!("prelude({})", said.join(", ")));
            prelude = None;
        }
    }
    assert!(prelude.is_none(), "half a prelude");
    if !shown.is_empty() {
        writeln!(played, "  {who} {}", shown.join("; ")).unwrap();
    }
    proof
}

fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.is_empty() || text.contains([' ', ';']) { format!("\"{text}\"") } else { text.into_owned() }
}

fn of_client(tag: u8, body: &[u8]) -> String {
    match tag {
        b'Q' => match String::from_utf8_lossy(frontend::query(body).unwrap()).into_owned() {
            text if text.contains("FROM pg_catalog.pg_settings") => "question".into(),
            text if text.ends_with("DEALLOCATE ALL") && text.starts_with("SET SESSION AUTH") => {
                "sweep-all".into()
            }
            text if text.starts_with("SET SESSION AUTHORIZATION DEFAULT") => "sweep".into(),
            text => format!("Query {}", quoted(text.as_bytes())),
        },
        b'P' => {
            let parse = Parse::read(body).unwrap();
            format!("Parse {} \"{}\"", quoted(parse.name), String::from_utf8_lossy(parse.text))
        }
        b'B' => {
            let bind = Bind::read(body).unwrap();
            let values = values(&body[bind.names..]);
            let values: String = values.iter().map(|value| format!(" {}", quoted(value))).collect();
            format!("Bind {} {}{values}", quoted(bind.portal), quoted(bind.statement))
        }
        b'D' | b'C' => {
            let verb = if tag == b'D' { "Describe" } else { "Close" };
            match frontend::target(tag, body).unwrap() {
                Target::Portal(name) => format!("{verb} P {}", quoted(name)),
                Target::Statement(name) => format!("{verb} S {}", quoted(name)),
            }
        }
        b'E' => format!("Execute {}", quoted(frontend::execute(body).unwrap())),
        b'S' => "Sync".into(),
        b'H' => "Flush".into(),
        b'X' => "Terminate".into(),
        b'd' => format!("CopyData {}", quoted(body)),
        b'c' => "CopyDone".into(),
        b'f' => "CopyFail".into(),
        tag => format!("{:?}", char::from(tag)),
    }
}

/// The values of a Bind in text format.
fn values(body: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &body[4..];
    let count = u16::from_be_bytes([body[2], body[3]]);
    let mut values = Vec::new();
    for _ in 0..count {
        let len = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        values.push(rest[4..4 + len].to_vec());
        rest = &rest[4 + len..];
    }
    values
}

fn of_server(tag: u8, body: &[u8]) -> String {
    match tag {
        b'1' => "ParseComplete".into(),
        b'2' => "BindComplete".into(),
        b'3' => "CloseComplete".into(),
        b'n' => "NoData".into(),
        b't' => "ParameterDescription".into(),
        b'T' => "RowDescription".into(),
        b'D' => {
            let columns = backend::data_row(body).unwrap();
            columns.fold("DataRow".into(), |row, column| row + " " + &quoted(column.unwrap_or_default()))
        }
        b'C' => format!("CommandComplete {}", quoted(backend::command_complete(body).unwrap())),
        b'Z' => format!("ReadyForQuery {}", char::from(body[0])),
        b'E' => {
            let front = backend::error_front(body);
            let code = String::from_utf8_lossy(&front.sqlstate.unwrap_or_default()).into_owned();
            format!("{} {code}", if front.is_fatal { "Fatal" } else { "Error" })
        }
        b'N' => "Notice".into(),
        b'A' => "Notification".into(),
        b'S' => {
            let (name, value) = backend::parameter_status(body).unwrap();
            format!("ParameterStatus {} {}", quoted(name), quoted(value))
        }
        b'G' => "CopyIn".into(),
        b'H' => "CopyOut".into(),
        b'd' => format!("CopyData {}", quoted(body)),
        b'c' => "CopyDone".into(),
        tag => format!("{:?}", char::from(tag)),
    }
}
