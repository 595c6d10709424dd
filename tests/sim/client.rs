//! A client that knows what it must be told.
//!
//! It speaks in units, each ended by a Query or a Sync, some before the last was answered, and checks every message that
//! comes back: its place, its row's token, and on whose behalf the row says it was made. Where chance may have lost a
//! statement (a cancel, an error out of nowhere) it knows the few values that are possible, never more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;
use pgusher::wire::Header;
use pgusher::wire::frame::HEADER;
use pgusher::wire::write;

use crate::random::Random;

/// How the world of this client is.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Nothing fails but what the client makes fail: everything can be foretold.
    pub is_calm: bool,
    /// A claim holds for one transaction.
    pub is_one_shot: bool,
    /// A statement without an identity is refused.
    pub is_denying: bool,
    /// Units under way at once.
    pub depth: usize,
    /// Whether it makes session state.
    pub makes_state: bool,
}

/// What a statement may see.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub identities: BTreeSet<String>,
    pub settings: BTreeSet<String>,
}

/// What a unit does to what the client knows.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Effect {
    Identity(String),
    LocalIdentity(String),
    LocalSetting(String),
    /// Nothing.
    None,
    ResetAll,
    Setting(String),
}

/// One Query, or messages up to a Sync.
#[derive(Clone, Debug)]
struct Unit {
    /// The tags it is answered with, in order, if all goes well; `E` for the failure it asks for.
    answers: VecDeque<u8>,
    tokens: VecDeque<String>,
    effect: Effect,
    is_extended: bool,
    has_failed: bool,
    names: Vec<String>,
}

/// A value that is known, or about to be.
#[derive(Clone, Debug)]
struct Belief {
    known: String,
    possible: BTreeSet<String>,
}

impl Belief {
    fn new(value: &str) -> Self {
        Self { known: value.into(), possible: BTreeSet::from([value.into()]) }
    }

    fn foresee(&mut self, value: &str, is_certain: bool) {
        if is_certain {
            self.possible.clear();
        }
        self.possible.insert(value.into());
    }

    fn settle(&mut self) {
        self.possible = BTreeSet::from([self.known.clone()]);
    }
}

pub struct Client {
    pub index: usize,
    pub inbox: BytesMut,
    pub outbox: BytesMut,
    manners: Manners,
    random: Random,
    expecting: VecDeque<Unit>,
    left: usize,
    tokens: usize,
    pub allowed: BTreeMap<String, Allowed>,
    status: u8,
    is_in_block: bool,
    startup: String,
    identity: Belief,
    setting: Belief,
    /// What they may be inside the block.
    block: (BTreeSet<String>, BTreeSet<String>),
    names: BTreeMap<String, Option<usize>>,
    /// Names of which it is not known what they stand for.
    unsure: BTreeSet<String>,
    is_exclusive: bool,
    pub has_left: bool,
    pub readies: usize,
}

impl Client {
    pub fn new(index: usize, startup: &str, manners: Manners, mut random: Random) -> Self {
        let left = 4 + random.below(20);
        Self {
            index,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            manners,
            random,
            expecting: VecDeque::new(),
            left,
            tokens: 0,
            allowed: BTreeMap::new(),
            status: b'I',
            is_in_block: false,
            startup: startup.into(),
            identity: Belief::new(startup),
            setting: Belief::new(""),
            block: Default::default(),
            names: BTreeMap::new(),
            unsure: BTreeSet::new(),
            is_exclusive: false,
            has_left: false,
            readies: 0,
        }
    }

    /// Whether it still waits for an answer.
    pub fn is_waiting(&self) -> bool {
        !self.expecting.is_empty()
    }

    /// Reads what has come, and says something; whether anything happened.
    pub fn step(&mut self) -> bool {
        let heard = self.hear();
        let may_speak = !self.has_left
            && !self.is_exclusive
            && self.expecting.len() < if self.is_in_block { 1 } else { self.manners.depth };
        if !may_speak {
            return heard;
        }
        if self.is_in_block {
            self.speak_in_block();
        } else if self.left == 0 {
            if self.expecting.is_empty() {
                write::terminate(&mut self.outbox);
                self.has_left = true;
            } else {
                return heard;
            }
        } else {
            self.left -= 1;
            self.speak();
        }
        true
    }

    // What it says.

    fn token(&mut self) -> String {
        self.tokens += 1;
        let token = format!("c{}n{}", self.index, self.tokens);
        let allowed = if self.is_in_block {
            Allowed { identities: self.block.0.clone(), settings: self.block.1.clone() }
        } else {
            Allowed { identities: self.identity.possible.clone(), settings: self.setting.possible.clone() }
        };
        self.allowed.insert(token.clone(), allowed);
        token
    }

    fn expect(&mut self, answers: &str, tokens: Vec<String>, effect: Effect, is_extended: bool) {
        crate::trace!("client {} has said {:?}", self.index, crate::shown(&self.outbox));
        let is_spending = !self.is_in_block && !matches!(effect, Effect::Identity(_));
        self.expecting.push_back(Unit {
            answers: answers.bytes().collect(),
            tokens: tokens.into(),
            effect,
            is_extended,
            has_failed: false,
            names: Vec::new(),
        });
        if is_spending && self.manners.is_one_shot {
            self.identity.foresee("", self.manners.is_calm);
        }
    }

    fn query(&mut self, sql: &str, answers: &str, tokens: Vec<String>, effect: Effect) {
        write::query(&mut self.outbox, sql.as_bytes());
        self.expect(answers, tokens, effect, false);
    }

    /// Parse, Bind and Execute of the unnamed statement.
    fn put(&mut self, sql: &str, values: &[&str]) {
        let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
        write::parse(&mut self.outbox, b"", sql.as_bytes(), &[]);
        write::bind_text(&mut self.outbox, b"", b"", &values);
        write::execute(&mut self.outbox, b"", 0);
    }

    fn speak(&mut self) {
        let is_quiet = self.expecting.is_empty();
        match self.random.below(if is_quiet { 20 } else { 15 }) {
            0 => {
                let token = self.token();
                self.query(&format!("SELECT tag('{token}')"), "TDC", vec![token], Effect::None);
            }
            1 => {
                let (a, b) = (self.token(), self.token());
                let sql = format!("SELECT tag('{a}'); SELECT slow('{b}')");
                self.query(&sql, "TDCTDC", vec![a, b], Effect::None);
            }
            2 => {
                let token = self.token();
                self.query(&format!("SELECT slow('{token}')"), "TDC", vec![token], Effect::None);
            }
            3 => {
                let token = self.token();
                self.query(&format!("SELECT fail('{token}')"), "E", vec![], Effect::None);
            }
            4 | 5 => self.say_batch(),
            6 | 7 => self.say_named(),
            8 => self.say_void(),
            9 | 10 => self.say_identity(),
            11 => {
                let value = format!("z{}", self.random.below(3));
                self.setting.foresee(&value, self.manners.is_calm);
                let sql = format!("SET {} = '{value}'", crate::postgres::SETTING);
                self.query(&sql, "C", vec![], Effect::Setting(value));
            }
            12 => self.say_pipelined_transaction(),
            13 => {
                let token = self.token();
                write::parse(&mut self.outbox, b"", b"SELECT tag($1)", &[]);
                write::describe(&mut self.outbox, b'S', b"");
                write::flush(&mut self.outbox);
                write::bind_text(&mut self.outbox, b"p", b"", &[Some(token.as_bytes())]);
                write::execute(&mut self.outbox, b"p", 0);
                write::close(&mut self.outbox, b'P', b"p");
                write::sync(&mut self.outbox);
                self.expect("1tT2DC3", vec![token], Effect::None, true);
            }
            14 => {
                write::sync(&mut self.outbox);
                let spent = self.identity.clone();
                self.expect("", vec![], Effect::None, true);
                if !is_quiet || self.manners.is_one_shot {
                    // A Sync alone runs nothing, but it may be the end of a transaction.
                    self.identity.possible.extend(spent.possible);
                }
            }
            15 | 16 => {
                let (identity, setting) = (self.identity.possible.clone(), self.setting.possible.clone());
                self.query("BEGIN", "C", vec![], Effect::None);
                self.is_in_block = true;
                self.block = (identity, setting);
            }
            17 => {
                self.is_exclusive = true;
                let token = self.token();
                self.query(&format!("COPY copy_in('{token}')"), "GC", vec![], Effect::None);
            }
            18 => {
                self.is_exclusive = true;
                let token = self.token();
                self.put(&format!("COPY copy_in('{token}')"), &[]);
                write::sync(&mut self.outbox);
                self.expect("12GC", vec![], Effect::None, true);
            }
            _ if self.manners.makes_state => self.say_state(),
            _ => {
                let token = self.token();
                self.query(&format!("COPY copy_out('{token}')"), "HdcC", vec![token], Effect::None);
            }
        }
    }

    /// Some statements before one Sync; one of them may fail, and then the rest does not run.
    fn say_batch(&mut self) {
        let count = 1 + self.random.below(3);
        let failing = self.random.coin().then(|| self.random.below(count));
        let (mut answers, mut tokens) = (String::new(), Vec::new());
        for index in 0..count {
            let token = self.token();
            let has_failed = failing.is_some_and(|at| at < index);
            if failing == Some(index) {
                self.put("SELECT fail($1)", &[&token]);
                answers.push_str("12E");
                continue;
            }
            self.put("SELECT tag($1)", &[&token]);
            if has_failed {
                // It must not run at all.
                self.allowed.remove(&token);
            } else {
                answers.push_str("12DC");
                tokens.push(token);
            }
        }
        write::sync(&mut self.outbox);
        self.expect(&answers, tokens, Effect::None, true);
    }

    fn text(text: usize) -> String {
        format!("SELECT tag($1) /*{text}*/")
    }

    /// A named statement, prepared when needed, perhaps long ago and elsewhere.
    fn say_named(&mut self) {
        let name = ["s0", "s1", "s2", "v0", "v1"][self.random.below(5)].to_owned();
        let token = self.token();
        let mut answers = String::new();
        let prepared = self.names.get(&name).copied().flatten();
        let is_sure = !self.unsure.contains(&name);
        if prepared.is_none() || !is_sure || self.random.below(4) == 0 {
            if prepared.is_some() || !is_sure {
                write::close(&mut self.outbox, b'S', name.as_bytes());
                answers.push('3');
            }
            let text = self.random.below(5);
            write::parse(&mut self.outbox, name.as_bytes(), Self::text(text).as_bytes(), &[]);
            answers.push('1');
            self.names.insert(name.clone(), Some(text));
        }
        if self.random.coin() {
            write::describe(&mut self.outbox, b'S', name.as_bytes());
            answers.push_str("tT");
        }
        write::bind_text(&mut self.outbox, b"", name.as_bytes(), &[Some(token.as_bytes())]);
        write::execute(&mut self.outbox, b"", 0);
        write::sync(&mut self.outbox);
        answers.push_str("2DC");
        self.expect(&answers, vec![token], Effect::None, true);
        self.unsure.remove(&name);
        if let Some(unit) = self.expecting.back_mut() {
            unit.names.push(name);
        }
    }

    /// A Parse and a Close that are void because what stands before them fails.
    fn say_void(&mut self) {
        let fresh = format!("v{}", self.random.below(2));
        let token = self.token();
        self.put("SELECT fail($1)", &[&token]);
        let text = self.random.below(5);
        write::parse(&mut self.outbox, fresh.as_bytes(), Self::text(text).as_bytes(), &[]);
        write::close(&mut self.outbox, b'S', b"s0");
        write::sync(&mut self.outbox);
        self.expect("12E", vec![], Effect::None, true);
    }

    fn say_identity(&mut self) {
        let value = match self.random.below(5) {
            0 => self.startup.clone(),
            1 if !self.manners.is_denying => String::new(),
            _ => format!("u{}-{}", self.index, self.random.below(3)),
        };
        // In calm, what is said now is so from here on, whatever is still under way.
        self.identity.foresee(&value, self.manners.is_calm);
        let variable = crate::postgres::IDENTITY;
        let effect = Effect::Identity(value.clone());
        match self.random.below(4) {
            0 if value == self.startup => self.query(&format!("RESET {variable}"), "C", vec![], effect),
            1 => {
                let sql = format!("SELECT set_config('{variable}', '{value}', false)");
                self.query(&sql, "TDC", vec![], effect);
            }
            2 => {
                self.put(&format!("SELECT set_config('{variable}', $1, false)"), &[&value]);
                write::sync(&mut self.outbox);
                self.expect("12DC", vec![], effect, true);
            }
            _ => self.query(&format!("SET {variable} = '{value}'"), "C", vec![], effect),
        }
    }

    /// A transaction said in one breath.
    fn say_pipelined_transaction(&mut self) {
        if self.manners.is_one_shot {
            // Whether BEGIN is refused alone cannot be known yet.
            let token = self.token();
            return self.query(&format!("SELECT tag('{token}')"), "TDC", vec![token], Effect::None);
        }
        let token = self.token();
        self.query("BEGIN", "C", vec![], Effect::None);
        self.query(&format!("SELECT slow('{token}')"), "TDC", vec![token], Effect::None);
        self.query("COMMIT", "C", vec![], Effect::None);
    }

    fn say_state(&mut self) {
        let sql = ["LISTEN c", "UNLISTEN c", "CREATE TEMP TABLE t", "DISCARD ALL"][self.random.below(4)];
        let effect = if sql == "DISCARD ALL" { Effect::ResetAll } else { Effect::None };
        if effect == Effect::ResetAll {
            self.names.clear();
        }
        self.is_exclusive = true;
        self.query(sql, "C", vec![], effect);
    }

    fn speak_in_block(&mut self) {
        match (self.status, self.random.below(8)) {
            (b'I', _) => self.is_in_block = false,
            (b'E', _) => self.query("ROLLBACK", "C", vec![], Effect::None),
            (_, 0 | 1) => {
                let sql = if self.random.coin() { "COMMIT" } else { "ROLLBACK" };
                self.query(sql, "C", vec![], Effect::None);
            }
            (_, 2) => {
                let value = format!("l{}-{}", self.index, self.random.below(3));
                let local = if self.random.coin() { "LOCAL " } else { "" };
                let sql = format!("SET {local}{} = '{value}'", crate::postgres::IDENTITY);
                self.query(&sql, "C", vec![], Effect::LocalIdentity(value));
            }
            (_, 3) => {
                let value = format!("y{}", self.random.below(3));
                let sql = format!("SET LOCAL {} = '{value}'", crate::postgres::SETTING);
                self.query(&sql, "C", vec![], Effect::LocalSetting(value));
            }
            (_, 4) => {
                let token = self.token();
                self.query(&format!("SELECT fail('{token}')"), "E", vec![], Effect::None);
            }
            (_, 5) => self.say_named(),
            _ => {
                let token = self.token();
                self.query(&format!("SELECT slow('{token}')"), "TDC", vec![token], Effect::None);
            }
        }
    }

    // What it hears.

    fn hear(&mut self) -> bool {
        let mut heard = false;
        while let Some(header) = Header::read(&self.inbox).expect("only frames reach a client") {
            if self.inbox.len() < header.len {
                break;
            }
            let frame = self.inbox.split_to(header.len);
            self.on_frame(header.tag, &frame[HEADER..]);
            heard = true;
        }
        heard
    }

    fn on_frame(&mut self, tag: u8, body: &[u8]) {
        let shown = char::from(tag);
        crate::trace!("client {} hears {shown} {}", self.index, crate::shown(body));
        if tag == b'E' && body.starts_with(b"SFATAL") {
            assert!(!self.manners.is_calm, "client {} is told it is over: {}", self.index, text(body));
            self.has_left = true;
            self.expecting.clear();
            return;
        }
        assert!(!self.expecting.is_empty(), "client {} is told {shown:?} and owed nothing", self.index);
        if tag == b'Z' {
            return self.on_ready(body[0]);
        }
        let unit = self.expecting.front_mut().unwrap();
        assert!(!unit.has_failed, "client {} is told {shown:?} after an error", self.index);
        if tag == b'E' {
            unit.has_failed = true;
            let is_asked_for = unit.answers.front() == Some(&b'E');
            let is_denied = self.manners.is_denying && text(body).contains("28000");
            assert!(
                is_asked_for || is_denied || !self.manners.is_calm || self.status == b'E',
                "client {} is refused {unit:?}: {}",
                self.index,
                text(body)
            );
            return;
        }
        let due = unit.answers.pop_front();
        assert_eq!(due.map(char::from), Some(shown), "client {} in {unit:?}", self.index);
        match tag {
            b'D' => self.on_row(columns(body)),
            b'd' => self.on_row(text(body).split('\t').map(str::to_owned).collect()),
            b'G' => self.on_copy_in(),
            _ => {}
        }
    }

    fn on_row(&mut self, row: Vec<String>) {
        if row.len() < 3 {
            return;
        }
        let unit = self.expecting.front_mut().unwrap();
        let due = unit.tokens.pop_front();
        assert_eq!(due.as_ref(), Some(&row[0]), "client {} reads a row that is not its own", self.index);
        let allowed = &self.allowed[&row[0]];
        assert!(
            allowed.identities.contains(&row[1]),
            "client {} reads a row of {:?}, and may read those of {allowed:?}",
            self.index,
            row[1]
        );
    }

    fn on_copy_in(&mut self) {
        self.outbox.extend_from_slice(b"d\0\0\0\x07abc");
        if self.random.below(4) == 0 && !self.manners.is_calm {
            write::copy_fail(&mut self.outbox, "no more");
        } else {
            self.outbox.extend_from_slice(b"c\0\0\0\x04");
        }
        if self.expecting.front().unwrap().is_extended {
            write::sync(&mut self.outbox);
        }
    }

    fn on_ready(&mut self, status: u8) {
        self.readies += 1;
        let unit = self.expecting.pop_front().unwrap();
        assert!(
            unit.has_failed || (unit.answers.is_empty() && unit.tokens.is_empty()),
            "client {} is told it is over in the middle of {unit:?}",
            self.index
        );
        self.status = status;
        if unit.has_failed {
            // What was to be prepared from here on may not have been.
            if unit.answers.front() != Some(&b'E') || !self.manners.is_calm {
                self.unsure.extend(unit.names.iter().cloned());
                self.unsure.extend(self.expecting.iter().flat_map(|unit| unit.names.clone()));
            }
        } else {
            self.take_effect(unit.effect);
        }
        if self.is_in_block && status == b'I' {
            self.is_in_block = false;
        }
        if self.expecting.is_empty() {
            self.is_exclusive = false;
            self.setting.settle();
            if !self.manners.is_one_shot {
                self.identity.settle();
            }
        }
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Identity(value) => self.identity.known = value,
            Effect::LocalIdentity(value) => self.block.0 = BTreeSet::from([value]),
            Effect::LocalSetting(value) => self.block.1 = BTreeSet::from([value]),
            Effect::None => {}
            Effect::ResetAll => {
                self.identity = Belief::new(&self.startup);
                if self.manners.is_one_shot {
                    // A server that was kept made a transaction of it.
                    self.identity.foresee("", false);
                }
                self.setting = Belief::new("");
            }
            Effect::Setting(value) => self.setting.known = value,
        }
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).replace('\0', " ")
}

fn columns(body: &[u8]) -> Vec<String> {
    pgusher::wire::backend::data_row(body)
        .unwrap()
        .map(|column| String::from_utf8_lossy(column.unwrap_or_default()).into_owned())
        .collect()
}
