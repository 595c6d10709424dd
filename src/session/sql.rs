//! What a text might do to its session, read from its words.
//!
//! This is not a parser and decides nothing about safety: the identity is safe whatever SQL does (see
//! [`crate::session::inject`]). It answers two questions. *Might this leave session state behind?* Then the server is asked
//! what is really there ([`crate::session::inspect`]), so the answer may err on the side of yes. *Is this a single
//! command that the pooler answers itself?* There it must be exact, and says no when in doubt.
//!
//! # Promises
//! - One pass over the pieces that PostgreSQL's lexer would see (`tokens`), no allocation but for the value of a command found;
//!   and over most texts a shorter one (`plain`).
//!
//! # Refuses
//! To look into strings: what `DO` or `EXECUTE` run is unknown, and said to be.

mod plain;
mod tokens;

use std::fmt;

use memchr::memchr;

use crate::session::prepared::ServerName;
use crate::session::settings::{IdentitySettings, Subject};
use crate::session::sql::tokens::{Token, Tokens, unquote};

/// What a text might do, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hints(u16);

impl Hints {
    /// Opens a transaction block.
    pub const BEGIN: Self = Self(1);
    /// Puts session state away; it cannot make any.
    pub const CLEANS: Self = Self(2);
    /// Sets what only its parameters, or what it runs, could tell.
    pub const COMPUTES: Self = Self(256);
    /// The same for the transaction; only where that would not be taken for the identity.
    pub const COMPUTES_LOCAL: Self = Self(2048);
    /// Sets the identity for the session, in a text that does more than that.
    pub const IDENTITY: Self = Self(4);
    /// Sets the identity for the transaction.
    pub const LOCAL_IDENTITY: Self = Self(1024);
    /// Has a variable of the identity among its strings; only while it is being read.
    const MENTIONS: Self = Self(512);
    /// Runs what cannot be read here: DO, CALL, EXECUTE, a setting whose name is computed.
    pub const OPAQUE: Self = Self(128);
    /// Puts every setting back: the identity goes with them.
    pub const RESETS_IDENTITY: Self = Self(8);
    /// Reads what sequences the session last used.
    pub const SEQUENCES: Self = Self(16);
    /// A plain SET or `set_config` for the session.
    pub const SETS: Self = Self(32);
    /// May make session state of another kind.
    pub const STATE: Self = Self(64);

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The first without the second.
    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are here.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is here.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Where a command's value comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Written in the text.
    Literal(Vec<u8>),
    /// The bound parameter of this number, from 1.
    Parameter(u16),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(…)"),
            Self::Parameter(number) => write!(f, "Parameter({number})"),
        }
    }
}

/// `SELECT set_config(variable, value, is_local)` of which more is bound than the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The variable: the identity's, or the parameter of this number.
    pub variable: Result<Subject, u16>,
    /// The value.
    pub value: Value,
    /// The parameter that says whether it is for the transaction only; `None` is `false`.
    pub is_local: Option<u16>,
}

/// A text that is one command of those the pooler may answer itself. Its `Debug` shows no identity and no token.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// `DEALLOCATE name`; the name as PostgreSQL folds it.
    Deallocate(Vec<u8>),
    /// `DEALLOCATE ALL`.
    DeallocateAll,
    /// `DISCARD ALL`.
    DiscardAll,
    /// `RESET ALL`.
    ResetAll,
    /// `RESET variable`, `SET variable TO DEFAULT`: of the identity.
    ResetIdentity {
        /// Of what.
        subject: Subject,
        /// Whether it was written as a SET: the command tag says so too.
        is_set: bool,
    },
    /// `SELECT set_config(...)`, perhaps of the identity: known when it is bound.
    SelectBound(Call),
    /// `SELECT set_config(variable, value, false)` of the identity.
    SelectIdentity(Subject, Value),
    /// `SET variable = value` of the identity.
    SetIdentity(Subject, Vec<u8>),
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deallocate(name) => write!(f, "Deallocate({})", name.escape_ascii()),
            Self::DeallocateAll => f.write_str("DeallocateAll"),
            Self::DiscardAll => f.write_str("DiscardAll"),
            Self::ResetAll => f.write_str("ResetAll"),
            Self::ResetIdentity { subject, is_set } => write!(f, "ResetIdentity({subject:?}, {is_set})"),
            Self::SelectIdentity(subject, value) => write!(f, "SelectIdentity({subject:?}, {value:?})"),
            Self::SelectBound(call) => write!(f, "SelectBound({call:?})"),
            Self::SetIdentity(subject, _) => write!(f, "SetIdentity({subject:?}, …)"),
        }
    }
}

impl Command {
    /// Whether it is about the identity, whatever is bound.
    pub fn is_identity(&self) -> bool {
        self.subject().is_some()
    }

    /// Whether it has parameters.
    pub fn is_bound(&self) -> bool {
        matches!(self, Self::SelectBound(_) | Self::SelectIdentity(_, Value::Parameter(_)))
    }

    /// What of the identity it is about, whatever is bound.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::ResetIdentity { subject, .. }
            | Self::SelectIdentity(subject, _)
            | Self::SetIdentity(subject, _) => Some(*subject),
            Self::SelectBound(call) => call.variable.ok(),
            Self::Deallocate(_) | Self::DeallocateAll | Self::DiscardAll | Self::ResetAll => None,
        }
    }
}

/// A statement name kept for the pooler, as PostgreSQL folds it, and what a text wants with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reserved {
    /// PREPARE.
    Taken(Vec<u8>),
    /// EXECUTE, DEALLOCATE.
    Used(Vec<u8>),
}

impl Reserved {
    /// The name.
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Taken(name) | Self::Used(name) => name,
        }
    }
}

/// All that is read from a text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// What it might do.
    pub hints: Hints,
    /// What it is, if it is one command we know.
    pub command: Option<Command>,
    /// A statement name kept for the pooler that it names in SQL.
    pub reserved: Option<Reserved>,
    /// The two-part settings it sets for the session, lower case: the server does not list those, they must be asked for.
    pub custom: Vec<Vec<u8>>,
}

impl Reading {
    /// Whether what it does can be told only with the parameters it is bound to.
    pub fn needs_parameters(&self) -> bool {
        self.hints.any(Hints::COMPUTES.with(Hints::COMPUTES_LOCAL))
            || self.command.as_ref().is_some_and(Command::is_bound)
    }
}

/// Reads `text`; the variables of `identity` are those whose commands are ours.
pub fn read(text: &[u8], identity: &IdentitySettings) -> Reading {
    if plain::is_plain(text) { Reading::default() } else { read_closely(text, identity) }
}

fn read_closely(text: &[u8], identity: &IdentitySettings) -> Reading {
    let mut reading = Reading::default();
    let mut tokens = Tokens::of(text);
    let mut statements = 0usize;
    while let Some(first) = tokens.next() {
        if first == Token::Symbol(b';') {
            continue;
        }
        statements += 1;
        let single = statements == 1;
        if let Token::Word(word) = first {
            statement(word, &mut tokens, identity, &mut reading, single);
        } else {
            rest(first, &mut tokens, identity, &mut reading);
        }
    }
    if statements > 1 {
        // What stood alone does not any more: a command on the identity is then one we do not follow.
        if reading.command.take().is_some_and(|command| command.is_identity()) {
            reading.hints = reading.hints.with(Hints::IDENTITY);
        }
    }
    if reading.hints.has(Hints::COMPUTES.with(Hints::MENTIONS)) {
        reading.hints = reading.hints.with(Hints::IDENTITY);
    }
    if reading.hints.has(Hints::COMPUTES_LOCAL.with(Hints::MENTIONS)) {
        reading.hints = reading.hints.with(Hints::LOCAL_IDENTITY);
    }
    reading.hints = reading.hints.without(Hints::MENTIONS);
    reading
}

/// Reads one statement that begins with `word`, up to and including its semicolon.
fn statement(
    word: &[u8],
    tokens: &mut Tokens<'_>,
    identity: &IdentitySettings,
    reading: &mut Reading,
    single: bool,
) {
    let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
    let rewind = *tokens;
    let (hints, command) = match () {
        () if is("select") => {
            let command = select_identity(tokens, identity);
            match &command {
                Some(Command::SelectBound(Call { variable: Err(_), .. })) => {
                    (Hints::OPAQUE.with(Hints::COMPUTES), command)
                }
                Some(_) => (Hints::SETS, command),
                None => {
                    *tokens = rewind;
                    (Hints::default(), None)
                }
            }
        }
        () if is("set") => set(tokens, identity, &mut reading.custom),
        () if is("reset") => reset(tokens, identity),
        () if is("begin") || is("start") => (Hints::BEGIN, None),
        () if is("discard") => discard(tokens),
        () if is("deallocate") => deallocate(tokens, &mut reading.reserved),
        () if is("unlisten") || is("close") || is("drop") => (Hints::CLEANS, None),
        () if is("listen") || is("load") => (Hints::STATE, None),
        () if is("do") || is("call") => (Hints::OPAQUE, None),
        () if is("execute") => {
            note_reserved(tokens, Reserved::Used, &mut reading.reserved);
            (Hints::OPAQUE.with(Hints::COMPUTES), None)
        }
        () if is("prepare") && tokens.peek_word().is_some_and(|word| eq(word, "transaction")) => {
            (Hints::default(), None)
        }
        () if is("prepare") => {
            note_reserved(tokens, Reserved::Taken, &mut reading.reserved);
            (Hints::STATE, None)
        }
        () => (Hints::default(), None),
    };
    reading.hints = reading.hints.with(hints);
    if single {
        reading.command = command;
    } else if command.is_some_and(|command| command.is_identity()) {
        reading.hints = reading.hints.with(Hints::IDENTITY);
    }
    while let Some(token) = tokens.next() {
        if token == Token::Symbol(b';') {
            return;
        }
        rest(token, tokens, identity, reading);
    }
}

/// Looks at a word in the middle of a statement.
fn rest(token: Token<'_>, tokens: &mut Tokens<'_>, identity: &IdentitySettings, reading: &mut Reading) {
    let word = match token {
        Token::Word(word) => word,
        Token::Quoted(name) => name,
        Token::String(text) | Token::Dollar(text) => {
            if identity.subject(text).is_some() {
                reading.hints = reading.hints.with(Hints::MENTIONS);
            }
            return;
        }
        Token::Escaped => {
            reading.hints = reading.hints.with(Hints::OPAQUE);
            return;
        }
        _ => return,
    };
    let found = match matter(word) {
        Some(Matter::Hints(hints)) => hints,
        Some(Matter::Execute) => execute(tokens, &mut reading.reserved),
        Some(Matter::SetConfig) => set_config(tokens, identity, &mut reading.custom),
        None => return,
    };
    reading.hints = reading.hints.with(found);
}

/// What a word in the middle of a statement can be about.
enum Matter {
    Execute,
    Hints(Hints),
    SetConfig,
}

/// Most words are none of these; the first letter and the length tell.
fn matter(word: &[u8]) -> Option<Matter> {
    let hints = match (word.first().map(u8::to_ascii_lowercase), word.len()) {
        (Some(b't'), 4 | 9) if eq(word, "temp") || eq(word, "temporary") => Hints::STATE,
        (Some(b'e'), 7) if eq(word, "execute") => return Some(Matter::Execute),
        (Some(b'h'), 4) if eq(word, "hold") => Hints::STATE,
        (Some(b's'), 10) if eq(word, "set_config") => return Some(Matter::SetConfig),
        (Some(b'p'), 7..) if starts(word, "pg_temp") => Hints::STATE,
        (Some(b'p'), 11) if eq(word, "pg_settings") => Hints::OPAQUE,
        (Some(b'p'), 16..) if contains(word, b"advisory_unlock") => Hints::CLEANS,
        (Some(b'p'), 16..) if contains(word, b"advisory_lock") => Hints::STATE,
        (Some(b'l' | b'c'), 7) if eq(word, "lastval") || eq(word, "currval") => Hints::SEQUENCES,
        _ => return None,
    };
    Some(Matter::Hints(hints))
}

fn eq(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

fn starts(word: &[u8], keyword: &str) -> bool {
    word.get(..keyword.len()).is_some_and(|front| eq(front, keyword))
}

fn contains(word: &[u8], part: &[u8]) -> bool {
    word.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// After `set_config`: for the session, for the transaction, and of which variable.
fn set_config(tokens: &Tokens<'_>, identity: &IdentitySettings, custom: &mut Vec<Vec<u8>>) -> Hints {
    let computed = Hints::OPAQUE.with(Hints::COMPUTES);
    let mut look = *tokens;
    if look.next() != Some(Token::Symbol(b'(')) {
        return computed;
    }
    let name = look.next();
    // `'a' || 'b'`, and `'a'` with more of the string on the next line, are other names than the first piece of them.
    let is_all_of_it = {
        let mut look = look;
        look.cast();
        look.symbol(b',').is_some()
    };
    let names_it = |token| match token {
        Token::String(text) | Token::Dollar(text) => identity.subject(text).is_some(),
        _ => false,
    };
    let mut mentions =
        name.is_some_and(|token| names_it(token) || (identity.enabled && token == Token::Escaped));
    let (mut depth, mut last) = (1usize, [None; 3]);
    for token in look.by_ref() {
        mentions |= names_it(token);
        match token {
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if matches!(token, Token::Word(word) | Token::Quoted(word) if eq(word, "set_config")) {
            // The call within is looked at by itself. Whoever nests thousands is not to have each read to its end: of this
            // one it is not known then whether it is local.
            last = [None; 3];
            break;
        }
        let [_, before, latest] = last;
        last = [before, latest, Some(token)];
    }
    if is_true(last) {
        return match name {
            _ if mentions => Hints::LOCAL_IDENTITY,
            Some(Token::String(_) | Token::Dollar(_)) if is_all_of_it => Hints::default(),
            _ if identity.takes_tokens() => Hints::COMPUTES_LOCAL,
            _ => Hints::default(),
        };
    }
    match name {
        // Also by a named argument, or in escapes that are not read here: then it might be.
        _ if mentions => Hints::SETS.with(Hints::IDENTITY),
        Some(Token::String(text) | Token::Dollar(text)) if is_all_of_it => {
            note_custom(text, custom);
            Hints::SETS
        }
        _ => computed,
    }
}

/// Whether a last argument is `true` and nothing but that: `not true` ends with the same word.
fn is_true(last: [Option<Token<'_>>; 3]) -> bool {
    let [before, sign, Some(Token::Word(word))] = last else { return false };
    let is_named = [before, sign] == [Some(Token::Symbol(b'=')), Some(Token::Symbol(b'>'))];
    eq(word, "true") && (is_named || sign == Some(Token::Symbol(b',')))
}

/// Keeps `name` if it is of two parts.
fn note_custom(name: &[u8], custom: &mut Vec<Vec<u8>>) {
    if memchr(b'.', name).is_some() {
        custom.push(name.to_ascii_lowercase());
    }
}

/// `SELECT set_config(variable, value, is_local)` and no more, where it is of the identity or may be.
fn select_identity(tokens: &mut Tokens<'_>, identity: &IdentitySettings) -> Option<Command> {
    let word = tokens.next()?;
    if word.is_name("pg_catalog") {
        tokens.symbol(b'.')?;
        if !tokens.next()?.is_name("set_config") {
            return None;
        }
    } else if !word.is_name("set_config") {
        return None;
    }
    tokens.symbol(b'(')?;
    let variable = match tokens.next()? {
        Token::String(name) | Token::Dollar(name) => Ok(identity.subject(name)?),
        Token::Parameter(number) => Err(number),
        _ => return None,
    };
    tokens.cast();
    tokens.symbol(b',')?;
    let value = match tokens.next()? {
        Token::Dollar(text) => Value::Literal(text.to_vec()),
        Token::String(text) => Value::Literal(unquote(text, b'\'')),
        Token::Parameter(number) => Value::Parameter(number),
        _ => return None,
    };
    tokens.cast();
    tokens.symbol(b',')?;
    let is_local = match tokens.next()? {
        Token::Parameter(number) => Some(number),
        Token::Word(word) if eq(word, "false") => None,
        _ => return None,
    };
    tokens.cast();
    tokens.symbol(b')')?;
    if let Some(alias) = tokens.peek_word() {
        // `AS name` changes the answer's column: not ours to supply.
        let _ = alias;
        return None;
    }
    if !tokens.is_end() {
        return None;
    }
    Some(match (variable, is_local) {
        (Ok(subject), None) => Command::SelectIdentity(subject, value),
        _ => Command::SelectBound(Call { variable, value, is_local }),
    })
}

/// After `SET`.
fn set(
    tokens: &mut Tokens<'_>,
    identity: &IdentitySettings,
    custom: &mut Vec<Vec<u8>>,
) -> (Hints, Option<Command>) {
    let mut look = *tokens;
    match look.peek_word() {
        Some(word) if eq(word, "local") => {
            let _ = look.next();
            return (set_local(look, identity), None);
        }
        Some(word) if eq(word, "transaction") || eq(word, "constraints") => {
            return (Hints::default(), None);
        }
        Some(word) if eq(word, "session") => {
            let _ = look.next();
            if look.peek_word().is_some_and(|word| eq(word, "authorization")) {
                return (Hints::STATE, None);
            }
        }
        Some(word) if eq(word, "role") => return (Hints::STATE, None),
        _ => {}
    }
    let name = look.variable();
    let subject = match (name.as_ref().and_then(|name| identity.subject(name)), name) {
        (Some(subject), _) => subject,
        (None, Some(name)) => {
            let _ = look.next(); // `=` or TO
            if !look.peek_word().is_some_and(|word| eq(word, "default")) {
                note_custom(&name, custom);
            }
            return (Hints::SETS, None);
        }
        // A name in escapes might be the identity's.
        (None, None) if identity.enabled => return (Hints::SETS.with(Hints::IDENTITY), None),
        (None, None) => return (Hints::SETS.with(Hints::OPAQUE), None),
    };
    *tokens = look;
    let unclear = (Hints::SETS.with(Hints::IDENTITY), None);
    match tokens.next() {
        Some(Token::Symbol(b'=')) => {}
        Some(Token::Word(word)) if eq(word, "to") => {}
        _ => return unclear,
    }
    let command = match tokens.next() {
        Some(Token::Dollar(text)) => Command::SetIdentity(subject, text.to_vec()),
        Some(Token::String(text)) => Command::SetIdentity(subject, unquote(text, b'\'')),
        Some(Token::Quoted(text)) => Command::SetIdentity(subject, unquote(text, b'"')),
        Some(Token::Word(word)) if eq(word, "default") => Command::ResetIdentity { subject, is_set: true },
        Some(Token::Word(word)) => Command::SetIdentity(subject, word.to_ascii_lowercase()),
        Some(Token::Number(digits)) => Command::SetIdentity(subject, digits.to_vec()),
        _ => return unclear,
    };
    if tokens.is_end_of_statement() { (Hints::SETS, Some(command)) } else { unclear }
}

/// After `SET LOCAL`; a name in escapes might be the identity's.
fn set_local(mut tokens: Tokens<'_>, identity: &IdentitySettings) -> Hints {
    let is_identity = match tokens.variable() {
        Some(name) => identity.subject(&name).is_some(),
        None => identity.enabled,
    };
    if is_identity { Hints::LOCAL_IDENTITY } else { Hints::default() }
}

/// After `RESET`.
fn reset(tokens: &mut Tokens<'_>, identity: &IdentitySettings) -> (Hints, Option<Command>) {
    let mut look = *tokens;
    match look.peek_word() {
        Some(word) if eq(word, "all") => {
            let _ = look.next();
            let command = look.is_end_of_statement().then_some(Command::ResetAll);
            return (Hints::CLEANS.with(Hints::RESETS_IDENTITY), command);
        }
        Some(word) if eq(word, "role") || eq(word, "session") => return (Hints::CLEANS, None),
        _ => {}
    }
    match look.variable().and_then(|name| identity.subject(&name)) {
        Some(subject) => {
            *tokens = look;
            (Hints::SETS, Some(Command::ResetIdentity { subject, is_set: false }))
        }
        None => (Hints::SETS, None),
    }
}

/// After `DISCARD`.
fn discard(tokens: &mut Tokens<'_>) -> (Hints, Option<Command>) {
    let mut look = *tokens;
    match look.peek_word() {
        Some(word) if eq(word, "all") => {
            let _ = look.next();
            let command = look.is_end_of_statement().then_some(Command::DiscardAll);
            (Hints::CLEANS.with(Hints::RESETS_IDENTITY), command)
        }
        _ => (Hints::CLEANS, None),
    }
}

/// After an EXECUTE within a statement: EXPLAIN's, CREATE TABLE AS's; or the privilege, or a trigger's.
fn execute(tokens: &mut Tokens<'_>, reserved: &mut Option<Reserved>) -> Hints {
    match tokens.peek_word() {
        Some(word) if eq(word, "function") || eq(word, "procedure") || eq(word, "on") => Hints::default(),
        _ => {
            note_reserved(tokens, Reserved::Used, reserved);
            Hints::OPAQUE
        }
    }
}

/// Keeps the name that follows, if it is kept for us.
fn note_reserved(tokens: &Tokens<'_>, what: fn(Vec<u8>) -> Reserved, reserved: &mut Option<Reserved>) {
    let mut look = *tokens;
    if let Some(name) = look.name().filter(|name| ServerName::is_like(name)) {
        *reserved = Some(what(name));
    }
}

/// After `DEALLOCATE`.
fn deallocate(tokens: &mut Tokens<'_>, reserved: &mut Option<Reserved>) -> (Hints, Option<Command>) {
    let mut look = *tokens;
    if look.peek_word().is_some_and(|word| eq(word, "prepare")) {
        let _ = look.next();
    }
    note_reserved(&look, Reserved::Used, reserved);
    let command = match look.next() {
        Some(Token::Word(word)) if eq(word, "all") => Command::DeallocateAll,
        Some(Token::Word(word)) => Command::Deallocate(word.to_ascii_lowercase()),
        Some(Token::Quoted(name)) => Command::Deallocate(unquote(name, b'"')),
        _ => return (Hints::CLEANS, None),
    };
    if look.is_end_of_statement() {
        *tokens = look;
        return (Hints::CLEANS, Some(command));
    }
    (Hints::CLEANS, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::{Nth, Pattern, Variable};

    const MAIN: Subject = Subject::Variable(Nth::MAIN);
    const SECOND: Subject = Subject::Variable(Nth(1));

    fn reading(text: &str) -> Reading {
        read(text.as_bytes(), &IdentitySettings::default())
    }

    fn hints(text: &str) -> Hints {
        reading(text).hints
    }

    fn command(text: &str) -> Option<Command> {
        reading(text).command
    }

    #[test]
    fn ordinary_sql_has_no_hints() {
        for text in [
            "select abalance from pgbench_accounts where aid = 17",
            "insert into t values ('set role x; listen y', $$create temp table$$, $a$ do $a$)",
            "update t set a = 1 where b = 'x''; reset all; --'",
            "/* set role /* nested */ x */ select 1 -- listen x",
            "set local statement_timeout = 1",
            "set transaction isolation level serializable",
            "select set_config('app.x', 'x', true), pg_advisory_xact_lock(1)",
            "commit",
            "",
        ] {
            assert_eq!(hints(text), Hints::default(), "{text}");
        }
    }

    #[test]
    fn what_may_leave_state_behind_is_hinted_at() {
        for text in [
            "create temp table t (a int)",
            "CREATE TEMPORARY VIEW v AS SELECT 1",
            "select 1 into temp t",
            "select 1; listen x",
            "declare c cursor with hold for select 1",
            "select pg_advisory_lock(1)",
            "select pg_try_advisory_lock_shared(1)",
            "set role x",
            "set session authorization x",
            "prepare p as select 1",
            "load 'x'",
            "create table pg_temp.t (a int)",
        ] {
            assert!(hints(text).has(Hints::STATE), "{text}");
        }
        for text in [
            "do $$ begin end $$",
            "call p()",
            "execute p",
            "select U&\"set\\005fconfig\"('a', 'b', false)",
            "select set_config($1, $2, false)",
        ] {
            assert!(hints(text).has(Hints::OPAQUE), "{text}");
        }
        for text in ["set work_mem = '1MB'", "select set_config('work_mem', '1MB', false)", "reset work_mem"]
        {
            assert!(hints(text).has(Hints::SETS), "{text}");
        }
        assert_eq!(reading("set App.Tenant = 'x'").custom, [b"app.tenant"]);
        assert!(reading("set app.tenant to default; reset app.tenant").custom.is_empty());
        assert_eq!(reading("select set_config('app.tenant', $1, false)").custom, [b"app.tenant"]);
        for text in ["begin", "START TRANSACTION", "select 1; begin; select 2"] {
            assert!(hints(text).has(Hints::BEGIN), "{text}");
        }
        assert!(hints("select lastval()").has(Hints::SEQUENCES));
    }

    #[test]
    fn a_statement_name_kept_for_us_is_found_wherever_sql_may_name_one() {
        let used = Some(Reserved::Used(b"pgusher_x".into()));
        for text in [
            "execute pgusher_x",
            "EXECUTE Pgusher_X (1, 2)",
            "execute \"pgusher_x\"",
            "execute/**/pgusher_x",
            "select 1; execute pgusher_x; select 2",
            "explain (analyze, costs off) execute pgusher_x(1)",
            "EXPLAIN ANALYZE VERBOSE EXECUTE pgusher_x",
            "create table t as execute pgusher_x(1) with no data",
            "create temp table t as execute pgusher_x",
            "deallocate pgusher_x",
            "deallocate prepare \"pgusher_x\"",
            "deallocate pgusher_x; select 1",
        ] {
            assert_eq!(reading(text).reserved, used, "{text}");
        }
        for text in [
            "prepare pgusher_x as select 1",
            "PREPARE PGUSHER_X (int) AS SELECT $1",
            "prepare \"pgusher_x\" as x",
        ] {
            assert_eq!(reading(text).reserved, Some(Reserved::Taken(b"pgusher_x".into())), "{text}");
        }
        for text in [
            "execute x",
            "execute \"PGUSHER_X\"",
            "select 'execute pgusher_x', pgusher_x from pgusher_x -- execute pgusher_x",
            "create trigger t after insert on t execute function pgusher_x()",
            "create trigger t after insert on t execute procedure pgusher_x()",
            "grant execute on function pgusher_x to app",
            "prepare transaction 'pgusher_x'",
            "deallocate all",
        ] {
            assert_eq!(reading(text).reserved, None, "{text}");
        }
        assert!(hints("explain analyze execute p").has(Hints::OPAQUE));
        assert_eq!(hints("grant execute on function f to app"), Hints::default());
        assert_eq!(hints("prepare transaction 'x'"), Hints::default());
    }

    #[test]
    fn the_identity_is_read_in_every_spelling() {
        for text in [
            "SET app.current_user_id = 'a'",
            "set app.current_user_id to 'a';",
            "set session APP.Current_User_Id='a' ; ",
            "SET \"app\".\"current_user_id\" TO 'a' -- why",
            "/* x */ set app.current_user_id = a",
            "set app.current_user_id = \"a\"",
        ] {
            assert_eq!(command(text), Some(Command::SetIdentity(MAIN, b"a".into())), "{text}");
        }
        assert_eq!(
            command("set app.current_user_id = 'o''k'"),
            Some(Command::SetIdentity(MAIN, b"o'k".into()))
        );
        assert_eq!(command("set app.current_user_id = 42"), Some(Command::SetIdentity(MAIN, b"42".into())));
        assert_eq!(
            command("reset app.current_user_id"),
            Some(Command::ResetIdentity { subject: MAIN, is_set: false })
        );
        assert_eq!(
            command("set app.current_user_id to default"),
            Some(Command::ResetIdentity { subject: MAIN, is_set: true })
        );
        assert_eq!(
            command("select set_config('app.current_user_id', 'a', false)"),
            Some(Command::SelectIdentity(MAIN, Value::Literal(b"a".into())))
        );
        assert_eq!(
            command("SELECT pg_catalog.set_config('app.current_user_id', $1::text, FALSE);"),
            Some(Command::SelectIdentity(MAIN, Value::Parameter(1)))
        );
    }

    #[test]
    fn every_stated_variable_is_read_as_the_main_one_is() {
        let further = Variable { name: "app.Tenant_Id".into(), pattern: Pattern::Any };
        let settings = IdentitySettings {
            variable: "App.User".into(),
            variables: vec![further],
            ..IdentitySettings::default()
        };
        let command = |text: &str| read(text.as_bytes(), &settings).command;

        assert_eq!(command("set app.user = 1"), Some(Command::SetIdentity(MAIN, b"1".into())));
        assert_eq!(command("set \"APP\".tenant_id = 1"), Some(Command::SetIdentity(SECOND, b"1".into())));
        assert_eq!(
            command("reset app.tenant_id"),
            Some(Command::ResetIdentity { subject: SECOND, is_set: false })
        );
        assert_eq!(
            command("select set_config('app.tenant_id', $1, false)"),
            Some(Command::SelectIdentity(SECOND, Value::Parameter(1)))
        );
        assert_eq!(command("set app.current_user_id = 'a'"), None);
        let both = read(b"set app.user = 'a'; set app.tenant_id = 'b'", &settings);
        assert!(both.command.is_none() && both.hints.has(Hints::IDENTITY));
        let off = IdentitySettings { enabled: false, ..settings.clone() };
        assert_eq!(read(b"set app.user = 'a'", &off).command, None);
    }

    #[test]
    fn an_identity_for_the_transaction_is_seen() {
        for text in [
            "set local app.current_user_id = 'x'",
            "begin; set local \"app\".current_user_id to 'x'",
            "set local U&\"app\".current_user_id = 'x'",
            "select set_config('app.current_user_id', 'x', true)",
            "select 1, pg_catalog.set_config('app.current_user_id', $1, true)",
        ] {
            assert!(hints(text).has(Hints::LOCAL_IDENTITY), "{text}");
            assert!(!hints(text).has(Hints::IDENTITY) && command(text).is_none(), "{text}");
        }
        assert_eq!(hints("set local app.other = 'x'"), Hints::default());
    }

    #[test]
    fn a_token_is_a_subject_where_there_is_a_key_and_never_printed() {
        let mut settings = IdentitySettings::default();
        assert_eq!(read(b"set app.jwt = 'x.y.z'", &settings).command, None);

        settings.token.key = Some("a key".into());

        let read = |text: &str| read(text.as_bytes(), &settings).command;
        assert_eq!(
            read("set app.jwt = 'x.y.z'"),
            Some(Command::SetIdentity(Subject::Token, b"x.y.z".into()))
        );
        assert_eq!(
            read("select set_config('app.jwt', 'x.y.z', false)"),
            Some(Command::SelectIdentity(Subject::Token, Value::Literal(b"x.y.z".into())))
        );
        assert_eq!(
            read("reset app.jwt"),
            Some(Command::ResetIdentity { subject: Subject::Token, is_set: false })
        );
        for text in ["set app.jwt = 'x.y.z'", "select set_config('app.jwt', 'x.y.z', false)"] {
            assert!(!format!("{:?}", read(text)).contains("x.y"), "{text}");
        }
    }

    #[test]
    fn an_identity_that_cannot_be_understood_is_never_taken_for_one() {
        for text in [
            "set app.current_user_id = 'a'; select 1",
            "select 1; set app.current_user_id = 'a'",
            "set app.current_user_id = 'a', 'b'",
            "set app.current_user_id = E'\\x41'",
            "set app.current_user_id = U&'\\0041'",
            "select set_config('app.current_user_id', 'a', false), 1",
            "select set_config('app.current_user_id', 'a', false) as x",
            "select set_config('app.current_user_id', a, false) from t",
            "reset app.current_user_id; select 1",
        ] {
            assert_eq!(command(text), None, "{text}");
            assert!(hints(text).has(Hints::IDENTITY), "{text}");
        }
    }

    #[test]
    fn other_commands_of_our_own_stand_alone() {
        assert_eq!(command("DISCARD ALL"), Some(Command::DiscardAll));
        assert_eq!(command("deallocate all;"), Some(Command::DeallocateAll));
        assert_eq!(command("DEALLOCATE PREPARE \"Foo\""), Some(Command::Deallocate(b"Foo".into())));
        assert_eq!(command("deallocate Foo"), Some(Command::Deallocate(b"foo".into())));
        assert_eq!(command("RESET ALL"), Some(Command::ResetAll));
        assert_eq!(command("reset all; select 1"), None);
        assert!(hints("select 1; reset all").has(Hints::RESETS_IDENTITY));
    }

    #[test]
    fn a_setting_is_named_by_all_of_its_string() {
        for text in [
            "select set_config('my.' || 'var', 'x', false)",
            "select set_config('my.'\n'var', 'x', false)",
            "select set_config(lower('MY.VAR'), 'x', false)",
            "select set_config('my.var', 'x', not true)",
            "set U&\"my.var\" = 'x'",
        ] {
            let reading = reading(text);
            assert!(
                reading.hints.any(Hints::OPAQUE.with(Hints::IDENTITY)) || reading.custom == [b"my.var"],
                "{text}"
            );
        }
        assert_eq!(hints("select set_config('my.var', 'x', is_local => true)"), Hints::default());
        assert_eq!(
            command("set app.current_user_id = $$o''k$$"),
            Some(Command::SetIdentity(MAIN, b"o''k".into()))
        );
    }

    #[test]
    fn what_only_mentions_the_identity_is_no_command_on_it() {
        for text in
            ["select current_setting('app.current_user_id')", "insert into t values ('app.current_user_id')"]
        {
            assert_eq!(hints(text), Hints::default(), "{text}");
        }
        for text in [
            "select set_config(n, 'x', false) from (values ('app.current_user_id')) v(n)",
            "select 'app.current_user_id' as n; select set_config(n, 'x', false) from t",
            "execute p('app.current_user_id', 'x')",
        ] {
            assert!(hints(text).has(Hints::IDENTITY), "{text}");
        }
    }

    #[test]
    fn a_call_within_a_call_hides_neither() {
        for text in [
            "select set_config('app.current_user_id', set_config('my.var', 'x', false), false)",
            "select set_config('my.var', set_config('app.current_user_id', 'x', false), true)",
            "select set_config(new_value => set_config('my.var', 'x', true), setting_name => 'app.current_user_id', is_local => false)",
            "select set_config(lower(set_config('my.var', 'APP.CURRENT_USER_ID', true)), 'x', false), 'app.current_user_id'",
        ] {
            assert!(hints(text).has(Hints::IDENTITY), "{text}");
        }
        let both = reading("select set_config('my.a', set_config('my.b', 'x', false), false)");
        assert_eq!(both.custom, [b"my.a", b"my.b"]);
    }

    #[test]
    fn thousands_of_calls_within_each_other_are_read_in_no_time() {
        let nested = "select ".to_owned() + &"set_config(".repeat(6_000);
        let closed = nested.clone() + &")".repeat(6_000);
        let quoted = nested.replace("set_config", "\"SET_CONFIG\"");

        let began = std::time::Instant::now();
        for text in [nested, closed, quoted] {
            assert!(hints(&text).has(Hints::OPAQUE));
        }

        // Where each call was read to its end it took the fuzzer ten seconds.
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn nothing_unfinished_confuses_it() {
        for text in
            ["'", "\"", "$a$", "/*", "--", "e'\\", "$", "U&'", "select set_config(", "set app.", "\u{fffd}"]
        {
            let _ = reading(text);
        }
    }
}
