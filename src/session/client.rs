//! What follows a client from server to server.
//!
//! Everything PostgreSQL would keep in a session that lives with one process, and that can be put back on another:
//! settings, statement names, the unnamed statement, the claimed identity. What cannot be put back pins
//! (see [`crate::session::hold`]).
//!
//! # Promises
//! - A client that has said little costs little: the tables are made when first needed.
//!
//! # Refuses
//! To know a socket or a server.

use std::sync::Arc;

use bytes::BytesMut;
use memchr::memchr;

use crate::names::ClientId;
use crate::session::claim::{Claim, Grant, Identities};
use crate::session::hold::Pins;
use crate::session::parameters::{Parameters, Values};
use crate::session::prepared::{self, ClientStatements, Interner, Named};
use crate::session::settings::{CleanPolicy, IdentitySettings, Nth, Rules};
use crate::session::sql::{self, Command, Hints, Reading};
use crate::session::tally::Refusals;
use crate::session::violation::TokenFault;
use crate::wire::write;

/// What a token proves, or why it proves nothing.
pub type Verdict = Result<Grant, TokenFault>;

/// One client's side of the conversation.
pub struct ClientState {
    /// Which client: servers remember whose words they ran.
    pub id: ClientId,
    /// The rules, as they were last [adopted](Self::adopt).
    pub rules: Arc<Rules>,
    /// Who its user is.
    pub claim: Claim,
    /// Whether a transaction without identity is allowed in spite of `missing = "deny"`.
    pub is_exempt: bool,
    /// The settings it asked for at startup: what RESET ALL goes back to.
    pub startup: Values,
    /// The settings it wants now.
    pub wanted: Values,
    /// The parameter values it has been told.
    pub told: Parameters,
    /// Those it was told at login.
    began: Parameters,
    /// Why it keeps its server.
    pub pins: Pins,
    /// Bytes at the front of what comes that are dropped.
    pub discarding: usize,
    /// Whether everything is skipped up to the next Sync, after an error we answered ourselves.
    pub is_skipping: bool,
    /// What was found out about the token at the front of the inbox.
    pub verdict: Option<Box<Verdict>>,
    /// What was read of the Query at the front of the inbox, so that it is read once.
    pub peeked: Option<Reading>,
    /// What was done for its statements since this was last taken.
    pub counts: Counts,
    interner: Arc<dyn Interner>,
    statements: Option<Box<ClientStatements>>,
    unnamed: Option<Box<Unnamed>>,
    portal: Option<Box<(Box<[u8]>, Command)>>,
}

/// How far new rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Adoption {
    /// Not all, until the server it keeps is given back.
    UntilGivenBack,
    /// Not all, while it has named statements.
    WhileItHasNames,
    /// Altogether.
    #[default]
    Whole,
}

/// What a client said at login does not mean the same under new rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MustLogInAnew;

/// What was done in one turn.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Parse messages of the client for named statements.
    pub client_parses: u32,
    /// Parse messages to servers for them.
    pub server_parses: u32,
    /// Bind messages for named statements.
    pub binds: u32,
    /// Uses of named statements that the server had.
    pub prepared_hits: u32,
    /// Statements closed on a server to make room for others.
    pub prepared_evictions: u32,
    /// Statements refused for the sake of the identity.
    pub refusals: Refusals,
}

/// The unnamed statement: its definition, and what was read of it.
pub struct Unnamed {
    /// Text, terminator and types; kept to be sent again.
    pub definition: Vec<u8>,
    /// What its text might do.
    pub reading: Reading,
}

impl Unnamed {
    /// Whether this is its text.
    fn has(&self, text: &[u8]) -> bool {
        self.definition.strip_prefix(text).is_some_and(|rest| rest.first() == Some(&0))
    }
}

impl ClientState {
    /// A client that has just been admitted.
    pub fn new(
        id: ClientId,
        rules: Arc<Rules>,
        identities: impl Into<Identities>,
        is_exempt: bool,
        startup: Values,
        told: Parameters,
        interner: Arc<dyn Interner>,
    ) -> Self {
        Self {
            id,
            claim: Claim::at_startup(identities.into()),
            is_exempt,
            wanted: startup.clone(),
            startup,
            began: told.clone(),
            told,
            pins: Pins::default(),
            discarding: 0,
            is_skipping: false,
            verdict: None,
            peeked: None,
            counts: Counts::default(),
            interner,
            statements: None,
            unnamed: None,
            portal: None,
            rules,
        }
    }

    /// As whom it is better served by the server it had last, if by any: one that must be cleaned for everybody else.
    pub fn returns_as(&self) -> Option<ClientId> {
        (self.rules.clean == CleanPolicy::Always).then_some(self.id)
    }

    /// Takes other rules, between two transactions; `holds` is whether it keeps a server.
    ///
    /// What it has may depend on the rules it got it under. On a server that it keeps, mode, identity and the policies on session
    /// state stay until the server is given back. And names that it gave while servers kept statements for it go on being kept,
    /// one at a time.
    ///
    /// # Errors
    /// It must log in anew.
    pub fn adopt(
        &mut self,
        rules: &Arc<Rules>,
        is_exempt: bool,
        holds: bool,
    ) -> Result<Adoption, MustLogInAnew> {
        self.peeked = None;
        if holds {
            let old = &*self.rules;
            let is_kept_alike = (old.server_statements == 0) == (rules.server_statements == 0);
            let kept = Rules {
                mode: old.mode,
                set: old.set,
                state: old.state,
                identity: old.identity.clone(),
                server_statements: if is_kept_alike {
                    rules.server_statements
                } else {
                    old.server_statements
                },
                ..(**rules).clone()
            };
            if kept == **rules {
                self.rules = rules.clone();
                return Ok(Adoption::Whole);
            }
            self.rules = Arc::new(kept);
            return Ok(Adoption::UntilGivenBack);
        }
        self.is_exempt = is_exempt;
        let is_other_identity = self.rules.identity != rules.identity;
        if is_other_identity && !self.may_stay_under(&rules.identity) {
            return Err(MustLogInAnew);
        }
        if rules.server_statements == 0 && self.rules.server_statements > 0 && self.statement_count() > 0 {
            self.rules = Arc::new(Rules { server_statements: 1, ..(**rules).clone() });
        } else {
            self.rules = rules.clone();
        }
        if is_other_identity {
            self.read_again();
        }
        let is_whole = self.rules.server_statements == rules.server_statements;
        Ok(if is_whole { Adoption::Whole } else { Adoption::WhileItHasNames })
    }

    /// Whether what it said at login means the same under these settings.
    fn may_stay_under(&self, identity: &IdentitySettings) -> bool {
        let is_set = |name: &[u8]| self.startup.value(name).is_some() || self.wanted.value(name).is_some();
        let are_names_alike = identity.stated().map(|(name, _)| name).skip(1).eq(self
            .rules
            .identity
            .stated()
            .map(|(name, _)| name)
            .skip(1));
        let before = &self.rules.identity;
        let takes_tokens = identity.takes_tokens();
        if takes_tokens != before.takes_tokens()
            || (takes_tokens && identity.token.claims != before.token.claims)
        {
            return false;
        }
        !identity.enabled
            || (self.claim.fits(identity)
                && (are_names_alike || !self.rules.identity.enabled)
                && !identity.said().any(|name| is_set(name.as_bytes())))
    }

    /// Texts are read under the rules; those that are kept are read anew.
    fn read_again(&mut self) {
        // Without what was read under the old ones: `read` would find it.
        let (mut statements, unnamed) = (self.statements.take(), self.unnamed.take());
        if let Some(statements) = &mut statements {
            statements.for_each(|named| named.reading = Arc::new(self.read(named.statement.text())));
        }
        self.statements = statements;
        if let Some(mut unnamed) = unnamed {
            unnamed.reading = self.read(prepared::text(&unnamed.definition));
            self.unnamed = Some(unnamed);
        }
    }

    /// Its servers come from another pool from now on, where texts have other numbers.
    pub fn move_to(&mut self, interner: Arc<dyn Interner>) {
        if let Some(statements) = &mut self.statements {
            statements.for_each(|named| named.statement = interner.intern(&named.statement.definition));
        }
        self.interner = interner;
    }

    /// Another with the same rules, that has said nothing.
    pub fn blank(&self) -> Self {
        let (rules, interner) = (self.rules.clone(), self.interner.clone());
        Self::new(
            self.id,
            rules,
            Identities::default(),
            self.is_exempt,
            Values::default(),
            Parameters::default(),
            interner,
        )
    }

    /// It is let in, and told this.
    pub fn welcome(&mut self, told: Parameters) {
        self.began = told.clone();
        self.told = told;
    }

    /// Tells it what is not as it was at login.
    pub fn tell_reset(&mut self, outbox: &mut BytesMut) {
        let mut began = self.began.clone();
        self.tell(&mut began, outbox);
    }

    /// Tells it what differs from what it was told before.
    pub fn tell(&mut self, reported: &mut Parameters, outbox: &mut BytesMut) {
        if self.told.unite(reported) {
            return;
        }
        for (name, value) in reported.iter() {
            if self.told.value(name) != Some(value) {
                write::parameter_status(outbox, name, value);
            }
        }
        self.told = reported.clone();
    }

    /// Reads a text under this client's rules.
    pub fn read(&self, text: &[u8]) -> Reading {
        let has_backslash = memchr(b'\\', text).is_some();
        // Most who use the unnamed statement say the same again and again, and pipelines do so in one breath.
        if let Some(unnamed) = self.unnamed.as_ref().filter(|unnamed| !has_backslash && unnamed.has(text)) {
            return unnamed.reading.clone();
        }
        let mut reading = sql::read(text, &self.rules.identity);
        if has_backslash && !self.quotes_plainly() {
            // The text may end its strings elsewhere than it seems to.
            reading.hints = reading.hints.with(Hints::OPAQUE);
            if reading.command.take().is_some_and(|command| command.is_identity()) {
                reading.hints = reading.hints.with(Hints::IDENTITY);
            }
        }
        reading
    }

    /// A variable that the server has a value for in this client's name, if there is one.
    pub fn claimed_variable(&self) -> Option<&str> {
        let identity = &self.rules.identity;
        let mut stated = identity.stated().enumerate();
        let claimed = stated.find(|(at, _)| self.claim.value(Nth(*at)).is_some());
        claimed.or_else(|| identity.stated().enumerate().next()).map(|(_, (name, _))| name)
    }

    /// Whether a backslash is a backslash: not under `standard_conforming_strings = off`, nor in encodings where it can be
    /// the second byte of a character; neither as the last server had it nor as the next one will.
    fn quotes_plainly(&self) -> bool {
        const UNPLAIN: [&[u8]; 7] =
            [b"BIG5", b"GB18030", b"GBK", b"JOHAB", b"SHIFT_JIS_2004", b"SJIS", b"UHC"];
        let either = |name: &[u8]| [self.told.value(name), self.wanted.value(name)].into_iter().flatten();
        let is_unplain =
            |encoding: &[u8]| UNPLAIN.iter().any(|unplain| unplain.eq_ignore_ascii_case(encoding));
        !either(b"client_encoding").any(is_unplain)
            && !either(b"standard_conforming_strings").any(|value| value == b"off")
    }

    /// The statement this client calls `name`.
    pub fn statement(&self, name: &[u8]) -> Option<&Named> {
        self.statements.as_ref()?.named(name)
    }

    /// How many statements it has named.
    pub fn statement_count(&self) -> usize {
        self.statements.as_ref().map_or(0, |statements| statements.len())
    }

    /// Whether one more statement of `bytes` is within its limits.
    pub fn has_room(&self, bytes: usize) -> bool {
        let (most, most_bytes) = (self.rules.client_statements, self.rules.client_statement_bytes);
        match &self.statements {
            Some(statements) => statements.has_room(bytes, most, most_bytes),
            None => most > 0 && bytes <= most_bytes,
        }
    }

    /// Whether a server has accepted this definition.
    pub fn is_proven(&self, definition: &[u8]) -> bool {
        self.interner.is_proven(definition)
    }

    /// Gives `name` to the statement of this definition.
    pub fn name_statement(&mut self, name: &[u8], definition: &[u8], reading: Reading) -> Named {
        let named = Named { statement: self.interner.intern(definition), reading: Arc::new(reading) };
        self.restore_statement(name, named.clone());
        named
    }

    /// Gives `name` back to a statement it was taken from.
    pub fn restore_statement(&mut self, name: &[u8], named: Named) {
        self.statements.get_or_insert_default().insert(name, named);
    }

    /// Takes `name` away.
    pub fn forget_statement(&mut self, name: &[u8]) -> Option<Named> {
        self.statements.as_mut()?.remove(name)
    }

    /// Takes all names away (`DEALLOCATE ALL`, `DISCARD ALL`).
    pub fn forget_statements(&mut self) {
        self.statements = None;
        self.unnamed = None;
    }

    /// The unnamed statement.
    pub fn unnamed(&self) -> Option<&Unnamed> {
        self.unnamed.as_deref()
    }

    /// Replaces the unnamed statement.
    pub fn set_unnamed(&mut self, definition: &[u8], reading: Reading) {
        match &mut self.unnamed {
            Some(unnamed) => {
                unnamed.definition.clear();
                unnamed.definition.extend_from_slice(definition);
                unnamed.reading = reading;
            }
            None => self.unnamed = Some(Box::new(Unnamed { definition: definition.to_vec(), reading })),
        }
    }

    /// The unnamed statement is gone: closed, or ended by a Query.
    pub fn forget_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// The portal that stands for a command of ours, if `name` is it.
    pub fn portal(&self, name: &[u8]) -> Option<&Command> {
        self.portal.as_ref().filter(|portal| *portal.0 == *name).map(|portal| &portal.1)
    }

    /// Makes `name` stand for a command of ours.
    pub fn set_portal(&mut self, name: &[u8], command: Command) {
        self.portal = Some(Box::new((name.into(), command)));
    }

    /// No portal stands for a command of ours.
    pub fn forget_portal(&mut self) {
        self.portal = None;
    }

    /// As after login: `DISCARD ALL`.
    pub fn discard_all(&mut self) {
        self.forget_statements();
        self.forget_portal();
        self.reset_all();
    }

    /// Settings and identity as after login: `RESET ALL`.
    pub fn reset_all(&mut self) {
        self.wanted = self.startup.clone();
        self.claim.reset_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::session::prepared::Statement;

    const CLAIM: &[u8] = b"set app.current_user_id = 'x'";

    struct NoTexts;

    impl Interner for NoTexts {
        fn intern(&self, definition: &[u8]) -> Arc<Statement> {
            Arc::new(Statement::new(1, 1, definition))
        }

        fn is_proven(&self, _: &[u8]) -> bool {
            false
        }
    }

    fn client() -> ClientState {
        let (values, told) = (Values::default(), Parameters::default());
        ClientState::new(ClientId(1), Arc::default(), None, false, values, told, Arc::new(NoTexts))
    }

    /// The client says it with Parse, without a name and with one.
    fn prepare(client: &mut ClientState, text: &[u8]) {
        let (definition, reading) = ([text, b"\0\0\0"].concat(), client.read(text));
        client.name_statement(b"s", &definition, reading.clone());
        client.set_unnamed(&definition, reading);
    }

    #[test]
    fn a_text_said_again_means_what_it_means_under_the_rules_of_now() {
        let mut client = client();
        prepare(&mut client, CLAIM);
        let is_claim = |client: &ClientState| {
            let named = client.statement(b"s").unwrap().reading.command.clone();
            [client.read(CLAIM).command, client.unnamed().unwrap().reading.command.clone(), named]
                .map(|command| command.is_some_and(|command| command.is_identity()))
        };
        let before = is_claim(&client);
        let identity = IdentitySettings { enabled: false, ..IdentitySettings::default() };

        let adopted = client.adopt(&Arc::new(Rules { identity, ..Rules::default() }), false, false);

        assert!(adopted.is_ok());
        assert_eq!((before, is_claim(&client)), ([true; 3], [false; 3]));
    }

    #[test]
    fn a_text_said_again_ends_its_strings_where_they_end_now() {
        let mut client = client();
        let text = br"select '\' || set_config('app.x', 'y', false)";
        prepare(&mut client, text);
        let before = client.read(text).hints.has(Hints::OPAQUE);

        client.told.set(b"standard_conforming_strings", b"off");

        assert_eq!((before, client.read(text).hints.has(Hints::OPAQUE)), (false, true));
    }
}
