//! A PostgreSQL that knows a dozen statements, and one more thing than the real one: it writes on each row who it was
//! answering, and keeps a list of what it executed in whose name. Its function `tag` leaves a mark in the session, which no text
//! shows: a statement of another client must not see it.
//!
//! It follows the protocol where a pooler can be led astray: errors void everything up to the next Sync, implicit
//! transactions end there, settings go back with a rollback, COPY ignores Sync, and nothing is flushed unasked.

use std::collections::BTreeMap;

use bytes::BytesMut;
use pgusher::wire::Header;
use pgusher::wire::frame::HEADER;
use pgusher::wire::frame::frontend as tag;
use pgusher::wire::frontend::{self, Bind, Parse, Target};
use pgusher::wire::write;

use crate::random::Random;

/// The variable that carries the identity.
pub const IDENTITY: &str = "app.user";
/// A plain setting that clients change.
pub const SETTING: &str = "app.z";

/// A statement that ran, and what it saw.
#[derive(Clone, Debug)]
pub struct Executed {
    pub token: String,
    pub identity: String,
    pub setting: String,
}

/// Session state, put back by a rollback.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Session {
    pub settings: BTreeMap<String, String>,
    pub pins: BTreeMap<&'static str, ()>,
    /// Whose function left its mark.
    mark: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Block {
    None,
    Implicit,
    Open,
    Failed,
}

struct Portal {
    sql: String,
    values: Vec<String>,
}

/// A COPY FROM STDIN that is under way.
struct Copying {
    is_extended: bool,
}

/// An error: its code.
type Failure = &'static str;

enum Reply {
    CopyIn,
    CopyOut(Vec<String>),
    Empty,
    Rows(Vec<Vec<String>>, String),
}

/// One server process.
pub struct Postgres {
    number: usize,
    /// What has come and has not been read.
    pub inbox: BytesMut,
    /// What has been said and flushed.
    pub outbox: BytesMut,
    unflushed: BytesMut,
    block: Block,
    is_skipping: bool,
    pub session: Session,
    committed: Session,
    local: BTreeMap<String, String>,
    pub statements: BTreeMap<Vec<u8>, String>,
    portals: BTreeMap<Vec<u8>, Portal>,
    copying: Option<Copying>,
    /// Steps until the slow statement at the front of the inbox runs.
    slow: Option<u32>,
    is_cancelled: bool,
    pub is_dead: bool,
    /// How many statements of a thousand fail for no reason of their own.
    pub errors: u32,
    pub executed: Vec<Executed>,
}

impl Postgres {
    pub fn new(number: usize, errors: u32) -> Self {
        let mut session = Session::default();
        session.settings.insert(IDENTITY.into(), String::new());
        Self {
            number,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            unflushed: BytesMut::new(),
            block: Block::None,
            is_skipping: false,
            committed: session.clone(),
            session,
            local: BTreeMap::new(),
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            copying: None,
            slow: None,
            is_cancelled: false,
            is_dead: false,
            errors,
            executed: Vec::new(),
        }
    }

    /// Why another client could not use it this instant, if it could not.
    pub fn uncleanliness(&self) -> Option<String> {
        let reasons = [
            (self.block != Block::None, "in a transaction"),
            (self.is_skipping, "skipping to a Sync"),
            (self.copying.is_some(), "copying"),
            (!self.outbox.is_empty() || !self.unflushed.is_empty(), "has words to say"),
            (self.slow.is_some(), "at work"),
            (!self.session.pins.is_empty(), "holds session state"),
        ];
        let found: Vec<_> = reasons.iter().filter(|(is_so, _)| *is_so).map(|(_, reason)| *reason).collect();
        (!found.is_empty()).then(|| format!("{found:?} {:?}", self.session))
    }

    /// How many statements it has by protocol.
    pub fn plans(&self) -> usize {
        self.statements.keys().filter(|name| !name.is_empty()).count()
    }

    /// A cancel request has arrived. It hits what runs, or nothing.
    pub fn cancel(&mut self) {
        if self.slow.is_some() || !self.inbox.is_empty() {
            self.is_cancelled = true;
        } else if let Some(copying) = self.copying.take() {
            self.fail("57014", copying.is_extended);
        }
    }

    /// An administrator ends it.
    pub fn kill(&mut self, politely: bool) {
        if politely {
            write::error_response(
                &mut self.unflushed,
                "FATAL",
                "57P01",
                "terminating connection",
                None,
                None,
                None,
            );
            self.flush();
        }
        self.is_dead = true;
    }

    /// Reads one message, if one has come; whether anything happened.
    pub fn step(&mut self, random: &mut Random) -> bool {
        if self.is_dead {
            return false;
        }
        let Ok(Some(header)) = Header::read(&self.inbox) else { return false };
        if self.inbox.len() < header.len {
            return false;
        }
        if self.is_slow(header) && !self.is_skipping {
            let left = *self.slow.get_or_insert_with(|| 1 + random.below(6) as u32);
            if left > 0 && !self.is_cancelled {
                self.slow = Some(left - 1);
                return true;
            }
        }
        self.slow = None;
        let frame = self.inbox.split_to(header.len);
        self.on_frame(header.tag, &frame[HEADER..], random);
        if self.inbox.is_empty() {
            // A signal that finds nobody at work is forgotten.
            self.is_cancelled = false;
        }
        true
    }

    fn is_slow(&self, header: Header) -> bool {
        let body = &self.inbox[HEADER..header.len];
        match header.tag {
            tag::QUERY => body.windows(5).any(|window| window == b"slow("),
            tag::EXECUTE => frontend::execute(body)
                .ok()
                .and_then(|name| self.portals.get(name))
                .is_some_and(|portal| portal.sql.contains("slow(")),
            _ => false,
        }
    }

    fn flush(&mut self) {
        let said = self.unflushed.split();
        self.outbox.extend_from_slice(&said);
    }

    fn ready(&mut self) {
        let status = match self.block {
            Block::None | Block::Implicit => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        };
        write::ready_for_query(&mut self.unflushed, status);
        self.flush();
    }

    fn on_frame(&mut self, tag: u8, body: &[u8], random: &mut Random) {
        crate::trace!("  server {} hears {} {}", self.number, char::from(tag), crate::shown(body));
        if self.copying.is_some() {
            return self.on_copy_frame(tag);
        }
        match tag {
            tag::SYNC => {
                self.is_skipping = false;
                if self.block == Block::Implicit {
                    self.commit();
                }
                self.ready()
            }
            tag::TERMINATE => self.is_dead = true,
            _ if self.is_skipping => {}
            tag::FLUSH => self.flush(),
            tag::QUERY => self.on_query(frontend::query(body).unwrap(), random),
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            _ => {
                if let Err(code) = self.on_extended(tag, body, random) {
                    self.fail(code, true);
                }
            }
        }
    }

    fn on_copy_frame(&mut self, tag: u8) {
        match tag {
            tag::COPY_DATA | tag::SYNC | tag::FLUSH => {}
            tag::COPY_DONE => {
                let copying = self.copying.take().unwrap();
                write::command_complete(&mut self.unflushed, b"COPY 1");
                if !copying.is_extended {
                    self.end_simple();
                }
            }
            _ => {
                let copying = self.copying.take().unwrap();
                self.fail(if tag == tag::COPY_FAIL { "57014" } else { "08P01" }, copying.is_extended);
            }
        }
    }

    /// Says an error, undoes what it undoes.
    fn fail(&mut self, code: Failure, is_extended: bool) {
        crate::trace!("  server {} fails {code}", self.number);
        write::error_response(&mut self.unflushed, "ERROR", code, "it failed", None, None, None);
        // "This flush is normally not necessary" (elog.c, send_message_to_frontend), but it is there.
        self.flush();
        match self.block {
            Block::Open => self.block = Block::Failed,
            Block::Implicit => self.roll_back(),
            Block::None | Block::Failed => {}
        }
        if self.block == Block::Failed {
            self.portals.clear();
        }
        if is_extended {
            self.is_skipping = true;
        } else {
            self.ready();
        }
    }

    fn commit(&mut self) {
        self.committed = self.session.clone();
        self.end_transaction();
    }

    fn roll_back(&mut self) {
        self.session = self.committed.clone();
        self.end_transaction();
    }

    fn end_transaction(&mut self) {
        self.local.clear();
        self.portals.clear();
        self.block = Block::None;
    }

    fn start(&mut self) {
        if self.block == Block::None {
            self.block = Block::Implicit;
        }
    }

    fn end_simple(&mut self) {
        if self.block == Block::Implicit {
            self.commit();
        }
        self.ready();
    }

    fn on_query(&mut self, text: &[u8], random: &mut Random) {
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        let text = String::from_utf8(text.to_vec()).unwrap();
        let statements: Vec<_> =
            text.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
        if statements.is_empty() {
            write::empty_query_response(&mut self.unflushed);
            return self.end_simple();
        }
        if statements.iter().any(|statement| !is_known(statement)) {
            return self.fail("42601", false);
        }
        for statement in statements {
            self.start();
            match self.execute(statement, &[], random) {
                Ok(Reply::CopyIn) => {
                    self.copying = Some(Copying { is_extended: false });
                    return self.copy_in();
                }
                Ok(reply) => self.say(reply, true),
                Err(code) => return self.fail(code, false),
            }
        }
        self.end_simple();
    }

    fn on_extended(&mut self, tag: u8, body: &[u8], random: &mut Random) -> Result<(), Failure> {
        match tag {
            tag::PARSE => {
                let parse = Parse::read(body).unwrap();
                let sql = String::from_utf8(parse.text.to_vec()).unwrap();
                self.start();
                if parse.name.is_empty() {
                    self.statements.remove(&b""[..]);
                }
                if !is_known(sql.trim()) && !sql.trim().is_empty() {
                    return Err("42601");
                }
                self.refuse_if_failed(&sql)?;
                if self.statements.contains_key(parse.name) {
                    return Err("42P05");
                }
                self.statements.insert(parse.name.to_vec(), sql);
                write::parse_complete(&mut self.unflushed);
            }
            tag::BIND => {
                let bind = Bind::read(body).unwrap();
                self.start();
                let sql = self.statements.get(bind.statement).cloned().ok_or("26000")?;
                self.refuse_if_failed(&sql)?;
                let values = values(&body[bind.names..]);
                self.portals.insert(bind.portal.to_vec(), Portal { sql, values });
                write::bind_complete(&mut self.unflushed);
            }
            tag::DESCRIBE => {
                self.start();
                let sql = match frontend::target(tag, body).unwrap() {
                    Target::Portal(name) => {
                        self.portals.get(name).map(|portal| &portal.sql).ok_or("34000")?
                    }
                    Target::Statement(name) => {
                        let sql = self.statements.get(name).ok_or("26000")?;
                        write::parameter_description_empty(&mut self.unflushed);
                        sql
                    }
                };
                if gives_rows(sql) {
                    write::row_description(&mut self.unflushed, &["token"]);
                } else {
                    write::no_data(&mut self.unflushed);
                }
            }
            tag::EXECUTE => {
                let name = frontend::execute(body).unwrap().to_vec();
                self.start();
                let portal = self.portals.get(&name).ok_or("34000")?;
                let (sql, values) = (portal.sql.clone(), portal.values.clone());
                self.refuse_if_failed(&sql)?;
                match self.execute(sql.trim(), &values, random)? {
                    Reply::CopyIn => {
                        self.copying = Some(Copying { is_extended: true });
                        self.copy_in();
                    }
                    reply => self.say(reply, false),
                }
            }
            tag::CLOSE => {
                self.start();
                match frontend::target(tag, body).unwrap() {
                    Target::Portal(name) => drop(self.portals.remove(name)),
                    Target::Statement(name) => drop(self.statements.remove(name)),
                }
                write::close_complete(&mut self.unflushed);
            }
            other => panic!("the server was sent {:?}", char::from(other)),
        }
        Ok(())
    }

    fn copy_in(&mut self) {
        self.unflushed.extend_from_slice(b"G\0\0\0\x07\0\0\0");
        self.flush();
    }

    fn say(&mut self, reply: Reply, is_simple: bool) {
        let out = &mut self.unflushed;
        match reply {
            Reply::CopyIn => {}
            Reply::CopyOut(lines) => {
                out.extend_from_slice(b"H\0\0\0\x07\0\0\0");
                for line in lines {
                    out.extend_from_slice(b"d");
                    out.extend_from_slice(&(4 + line.len() as u32).to_be_bytes());
                    out.extend_from_slice(line.as_bytes());
                }
                out.extend_from_slice(b"c\0\0\0\x04");
                write::command_complete(out, b"COPY 1");
            }
            Reply::Empty => write::empty_query_response(out),
            Reply::Rows(rows, tag) => {
                if is_simple && !rows.is_empty() {
                    write::row_description(out, &["token"]);
                }
                for row in &rows {
                    let columns: Vec<_> = row.iter().map(|column| Some(column.as_bytes())).collect();
                    write::data_row(out, &columns);
                }
                write::command_complete(out, tag.as_bytes());
            }
        }
    }

    fn refuse_if_failed(&self, sql: &str) -> Result<(), Failure> {
        let ends = ["COMMIT", "ROLLBACK"].contains(&sql.trim());
        if self.block == Block::Failed && !ends { Err("25P02") } else { Ok(()) }
    }

    fn value(&self, name: &str) -> String {
        self.local.get(name).or_else(|| self.session.settings.get(name)).cloned().unwrap_or_default()
    }

    fn note(&mut self, token: &str) -> Vec<String> {
        let (identity, setting) = (self.value(IDENTITY), self.value(SETTING));
        if let (Some(mark), Some(reader)) = (&self.session.mark, whose(token)) {
            assert_eq!(mark, reader, "{token} has met what another client's function left");
        }
        self.executed.push(Executed {
            token: token.into(),
            identity: identity.clone(),
            setting: setting.clone(),
        });
        vec![token.into(), identity, setting]
    }

    fn execute(&mut self, sql: &str, values: &[String], random: &mut Random) -> Result<Reply, Failure> {
        self.refuse_if_failed(sql)?;
        if std::mem::take(&mut self.is_cancelled) {
            return Err("57014");
        }
        if sql != "ROLLBACK" && random.permille(self.errors) {
            return Err("53200");
        }
        let done = |tag: &str| Ok(Reply::Rows(Vec::new(), tag.into()));
        if let Some((verb, token)) = call(sql, values) {
            let row = self.note(&token);
            return match verb {
                "fail" => Err("22012"),
                "tag" => {
                    self.session.mark = whose(&token).map(str::to_owned);
                    Ok(Reply::Rows(vec![row], "SELECT 1".into()))
                }
                "copy_in" => Ok(Reply::CopyIn),
                "copy_out" => Ok(Reply::CopyOut(vec![row.join("\t")])),
                _ => Ok(Reply::Rows(vec![row], "SELECT 1".into())),
            };
        }
        let words: Vec<_> = sql.split_whitespace().collect();
        match words[..] {
            [] => Ok(Reply::Empty),
            ["BEGIN", ..] => {
                self.block = Block::Open;
                done("BEGIN")
            }
            ["COMMIT"] if self.block != Block::Failed => {
                self.commit();
                done("COMMIT")
            }
            ["COMMIT" | "ROLLBACK"] => {
                self.roll_back();
                done("ROLLBACK")
            }
            ["SET", "SESSION", "AUTHORIZATION", "DEFAULT"] => done("SET"),
            ["SET", "LOCAL", "statement_timeout=0"]
            | ["SET", "LOCAL", "statement_timeout", "TO", "DEFAULT"] => done("SET"),
            ["SET", "LOCAL", name, "=", value] => {
                self.local.insert(unquoted(name), unquoted(value));
                done("SET")
            }
            ["SET", name, "=", value] => {
                self.assign(&unquoted(name), &unquoted(value));
                done("SET")
            }
            ["RESET", "ALL"] => {
                self.reset_all();
                done("RESET")
            }
            ["DISCARD", "ALL"] => {
                self.reset_all();
                self.session.pins.clear();
                self.statements.clear();
                self.commit(); // at once: it is no part of what follows
                done("DISCARD ALL")
            }
            ["RESET", name] => {
                self.session.settings.remove(&unquoted(name));
                self.local.remove(&unquoted(name));
                done("RESET")
            }
            ["select", "pg_catalog.set_config($1,$2,false)"] => {
                self.assign(&values[0], &values[1]);
                Ok(Reply::Rows(vec![vec![values[1].clone()]], "SELECT 1".into()))
            }
            ["LISTEN", _] => {
                self.session.pins.insert("listen", ());
                done("LISTEN")
            }
            ["UNLISTEN", _] => {
                self.session.pins.remove("listen");
                done("UNLISTEN")
            }
            ["CREATE", "TEMP", ..] => {
                self.session.pins.insert("temporary", ());
                done("CREATE TABLE")
            }
            ["DISCARD", "TEMP"] => {
                self.session.pins.remove("temporary");
                done("DISCARD TEMP")
            }
            ["DISCARD", what] => done(&format!("DISCARD {what}")),
            ["CLOSE", "ALL"] => done("CLOSE CURSOR ALL"),
            ["DEALLOCATE", "ALL"] => {
                self.statements.clear();
                done("DEALLOCATE ALL")
            }
            ["SELECT", "pg_catalog.pg_advisory_unlock_all()"] => {
                Ok(Reply::Rows(vec![vec![String::new()]], "SELECT 1".into()))
            }
            _ if sql.starts_with("SELECT 'guarded'") || sql.starts_with("SELECT 'default'") => {
                let kind = sql.split('\'').nth(1).unwrap_or_default().to_owned();
                Ok(Reply::Rows(vec![vec![kind, "statement_timeout".into(), "0".into()]], "SELECT 1".into()))
            }
            _ if sql.starts_with("SELECT 'setting'") => Ok(self.inspection(sql)),
            _ => panic!("the server was asked {sql:?}"),
        }
    }

    fn reset_all(&mut self) {
        self.session.settings.clear();
        self.session.settings.insert(IDENTITY.into(), String::new());
        self.session.mark = None;
    }

    fn assign(&mut self, name: &str, value: &str) {
        self.local.remove(name);
        self.session.settings.insert(name.into(), value.into());
    }

    fn inspection(&self, sql: &str) -> Reply {
        let mut rows = Vec::new();
        for (name, value) in self.session.settings.iter().filter(|(name, _)| !name.contains('.')) {
            rows.push(vec!["setting".into(), name.clone(), value.clone()]);
        }
        for pin in self.session.pins.keys() {
            rows.push(vec!["pin".into(), (*pin).to_owned(), String::new()]);
        }
        rows.push(vec!["plans".into(), String::new(), self.plans().to_string()]);
        for asked in sql.split("SELECT E'").skip(1) {
            let mut texts = asked.split('\'');
            let (kind, name) = (texts.next().unwrap(), texts.nth(1).unwrap());
            rows.push(vec![kind.into(), name.into(), self.value(name)]);
        }
        let tag = format!("SELECT {}", rows.len());
        Reply::Rows(rows, tag)
    }
}

fn gives_rows(sql: &str) -> bool {
    let sql = sql.trim();
    !sql.starts_with("SELECT fail") && (sql.starts_with("SELECT") || sql.starts_with("select"))
}

fn is_known(sql: &str) -> bool {
    let first = sql.split_whitespace().next().unwrap_or_default();
    let known = [
        "BEGIN",
        "CLOSE",
        "COMMIT",
        "COPY",
        "CREATE",
        "DEALLOCATE",
        "DISCARD",
        "LISTEN",
        "RESET",
        "ROLLBACK",
        "SELECT",
        "SET",
        "UNLISTEN",
        "select",
    ];
    known.contains(&first)
}

/// `SELECT verb('token')`, `SELECT verb($1)`, `COPY verb('token')`.
fn call(sql: &str, values: &[String]) -> Option<(&'static str, String)> {
    let rest = sql.strip_prefix("SELECT ").or_else(|| sql.strip_prefix("COPY "))?;
    let verb = ["tag", "slow", "fail", "copy_in", "copy_out"]
        .into_iter()
        .find(|verb| rest.strip_prefix(verb).is_some_and(|rest| rest.starts_with('(')))?;
    let argument = rest[verb.len() + 1..].split(')').next()?;
    let token = match argument {
        "$1" => values.first().cloned().unwrap_or_default(),
        literal => literal.trim_matches('\'').to_owned(),
    };
    Some((verb, token))
}

/// The client of a token, if it says so: `c1n7`.
fn whose(token: &str) -> Option<&str> {
    Some(token.split_once('n')?.0).filter(|client| client.starts_with('c'))
}

fn unquoted(text: &str) -> String {
    text.trim_start_matches('E').replace(['"', '\''], "")
}

/// The values of a Bind in text format.
fn values(mut rest: &[u8]) -> Vec<String> {
    let mut number = |len: usize| {
        let (front, after) = rest.split_at(len);
        rest = after;
        front.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    assert_eq!(number(2), 0, "formats are not used here");
    let count = number(2);
    (0..count)
        .map(|_| {
            let len = number(4);
            (0..len).map(|_| char::from(number(1) as u8)).collect()
        })
        .collect()
}
