//! What a turn has come to: the server is anyone's, its client's still, or lost; and what is asked and cleaned before that.
//!
//! # Promises
//! - Every reason not to reuse a server is a line of [`conclude`](Exchange::conclude) or of what it calls.
//! - A [`Clean`] is made in one place, and only here.
//! - What a text might have changed is asked of the server, after the client has its answer.
//!
//! # Refuses
//! To give back what cannot be cleaned: it is lost.

use bytes::BytesMut;

use crate::session::client::ClientState;
use crate::session::exchange::{Clean, Exchange, Loss, Outcome, Phase, Rest, Segment};
use crate::session::hold::{Pin, Pins};
use crate::session::inspect::{self, Findings, Question};
use crate::session::mutation::{self, Mutation};
use crate::session::parameters::Values;
use crate::session::pipeline::{Answer, Origin, Owed};
use crate::session::server::ServerState;
use crate::session::settings::{Mode, SetPolicy, StatePolicy};
use crate::session::sql::Hints;
use crate::session::transaction::Status;
use crate::wire::{Buffers, write};

/// How often a question that a timeout cut short is asked again.
const MOST_QUESTIONS: u8 = 10;

impl Exchange {
    /// Whether nothing is under way in either direction.
    fn is_at_rest(&self, server_buffers: &Buffers) -> bool {
        self.pipeline.is_empty()
            && self.client_rest == Rest::None
            && self.server_rest == Rest::None
            && self.segment == Segment::Synced
            && !self.is_copying_in
            && server_buffers.outbox.is_empty()
    }

    /// What the turn has come to. Every reason not to reuse a server is a line here or in [`is_at_rest`](Self::is_at_rest).
    pub(super) fn conclude(
        &mut self,
        client: &mut ClientState,
        server: &mut ServerState,
        buffers: &mut Buffers,
    ) -> Option<Outcome> {
        if !self.is_at_rest(buffers) {
            return None;
        }
        let is_missed = mutation::is_on(Mutation::NoStatus) && self.phase == Phase::Talking;
        if self.status != Status::Idle && !is_missed {
            return self.conclude_open(buffers);
        }
        if self.is_tainted {
            if self.phase == Phase::Talking {
                self.end_transaction(client);
            }
            return Some(Outcome::Lost(Loss::Tainted));
        }
        match self.phase {
            Phase::Barrier | Phase::Ready | Phase::Resting => self.has_left.then_some(Outcome::ClientLeft),
            Phase::Inspecting => self.conclude_inspection(client, server, &mut buffers.outbox),
            Phase::Sweeping { .. } if self.question_failed.take().is_some() => {
                Some(Outcome::Lost(Loss::Clean))
            }
            Phase::Sweeping { with_statements } => {
                server.on_swept(with_statements);
                server.guest = None;
                self.give_back(client, server, &mut buffers.outbox)
            }
            Phase::Watching => self.conclude_watch(client, server, &mut buffers.outbox),
            Phase::Talking => self.conclude_talk(client, server, &mut buffers.outbox),
            Phase::Unwinding(_) if self.is_kept && self.is_abandoned => self.sweep(true, &mut buffers.outbox),
            Phase::Unwinding(sqlstate) if self.is_kept => {
                self.phase = Phase::Resting;
                Some(Outcome::Unwound(sqlstate, None))
            }
            Phase::Unwinding(sqlstate) => Some(Outcome::Unwound(sqlstate, Some(self.settle(server)))),
        }
    }

    /// At rest inside a transaction block.
    fn conclude_open(&mut self, buffers: &mut Buffers) -> Option<Outcome> {
        let ours = matches!(
            self.phase,
            Phase::Unwinding(_) | Phase::Inspecting | Phase::Sweeping { .. } | Phase::Watching
        );
        if self.is_abandoned || ours {
            self.ask_own(&mut buffers.outbox, |outbox| write::query(outbox, b"ROLLBACK"));
            return None;
        }
        self.has_left.then_some(Outcome::ClientLeft)
    }

    /// The client's transaction is over.
    fn conclude_talk(
        &mut self,
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Option<Outcome> {
        self.end_transaction(client);
        if self.has_left {
            return Some(Outcome::ClientLeft);
        }
        let may_have_set = self.hints.any(Hints::SETS.with(Hints::STATE).with(Hints::OPAQUE));
        let has_some = !client.pins.is_empty() || !server.applied.is_empty();
        if self.is_abandoned && client.rules.mode == Mode::Session {
            return self.sweep(true, outbox);
        }
        let may_have_reset = self.may_have_reset_identity(client);
        if may_have_set || may_have_reset || (self.hints.has(Hints::CLEANS) && has_some) {
            return self.inspect(false, client, server, outbox);
        }
        self.finish(client, server, outbox)
    }

    /// What was said for one transaction holds no longer.
    pub(super) fn end_transaction(&mut self, client: &mut ClientState) {
        if self.has_spoken && !self.is_abandoned {
            client.claim.on_transaction_end(client.rules.identity.scope);
            self.undo.clear();
        }
    }

    /// Whether the client may have put its identity back to what it began with; a ROLLBACK takes that back too, so the server
    /// is asked.
    fn may_have_reset_identity(&self, client: &ClientState) -> bool {
        self.hints.has(Hints::RESETS_IDENTITY) && !self.is_one_shot && client.claim.is_changed()
    }

    /// Nothing more is to be asked.
    fn finish(
        &mut self,
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Option<Outcome> {
        let is_sessions = client.rules.mode == Mode::Session && self.has_spoken;
        if !self.is_abandoned && (is_sessions || !client.pins.is_empty()) {
            self.phase = Phase::Resting;
            self.is_kept = true;
            return Some(Outcome::Held);
        }
        let identity = &client.rules.identity;
        if identity.enabled && identity.strict {
            return self.sweep(true, outbox);
        }
        self.give_back(client, server, outbox)
    }

    /// The server is anyone's; but of so many one is looked at first.
    fn give_back(
        &mut self,
        client: &ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Option<Outcome> {
        server.returns = server.returns.wrapping_add(1);
        match client.rules.canary {
            Some(every) if server.returns.is_multiple_of(every) => self.watch(false, server, outbox),
            _ => Some(Outcome::Settled(self.settle(server))),
        }
    }

    fn watch(&mut self, guarded: bool, server: &ServerState, outbox: &mut BytesMut) -> Option<Outcome> {
        self.phase = Phase::Watching;
        self.questions = if guarded { self.questions + 1 } else { 0 };
        self.findings = Findings::default();
        self.question_failed = None;
        let custom = server.applied.iter().map(|(name, _)| name).filter(|name| name.contains(&b'.'));
        let question =
            Question { identity: None, is_guarded: guarded, with_statements: !server.hides_statements };
        self.ask_own(outbox, |outbox| inspect::ask(outbox, custom, question));
        None
    }

    /// The server has said what it really has.
    fn conclude_watch(
        &mut self,
        client: &ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Option<Outcome> {
        match self.question_failed.take().as_ref() {
            None => {}
            Some(b"57014") if self.questions < MOST_QUESTIONS => return self.watch(true, server, outbox),
            Some(b"42501") if !server.hides_statements => {
                server.hides_statements = true;
                return self.watch(self.questions > 0, server, outbox);
            }
            Some(_) => return Some(Outcome::Lost(Loss::Clean)),
        }
        let findings = std::mem::take(&mut self.findings);
        let own = if client.rules.server_statements == 0 {
            findings.plans.unwrap_or(0)
        } else {
            server.statements.len() + server.prelude
        };
        let beyond = findings.beyond(&server.applied, own);
        if !beyond.is_empty() {
            return Some(Outcome::Lost(Loss::Differs(beyond)));
        }
        Some(Outcome::Settled(self.settle(server)))
    }

    /// The only mint.
    fn settle(&mut self, server: &ServerState) -> Clean {
        self.phase = Phase::Resting;
        self.is_abandoned = false;
        self.is_kept = false;
        Clean(server.id)
    }

    fn inspect(
        &mut self,
        guarded: bool,
        client: &ClientState,
        server: &ServerState,
        outbox: &mut BytesMut,
    ) -> Option<Outcome> {
        self.phase = Phase::Inspecting;
        self.questions = if guarded { self.questions + 1 } else { 0 };
        self.findings = Findings::default();
        self.question_failed = None;
        let custom = std::mem::take(&mut self.custom);
        let known = client.wanted.iter().chain(server.applied.iter()).map(|(name, _)| name);
        let mut names: Vec<&[u8]> =
            known.filter(|name| name.contains(&b'.')).chain(custom.iter().map(|name| &**name)).collect();
        names.sort_unstable();
        names.dedup();
        let variable =
            client.claimed_variable().filter(|_| self.may_have_reset_identity(client)).map(str::as_bytes);
        let question =
            Question { identity: variable, is_guarded: guarded, with_statements: !server.hides_statements };
        self.ask_own(outbox, |outbox| inspect::ask(outbox, names.into_iter(), question));
        self.custom = custom;
        None
    }

    fn sweep(&mut self, with_statements: bool, outbox: &mut BytesMut) -> Option<Outcome> {
        self.phase = Phase::Sweeping { with_statements };
        self.sweeps += 1;
        self.question_failed = None;
        self.ask_own(outbox, |outbox| inspect::sweep(outbox, with_statements));
        None
    }

    /// Sends a Query of ours and expects its answer.
    fn ask_own(&mut self, outbox: &mut BytesMut, say: impl FnOnce(&mut BytesMut)) {
        say(outbox);
        self.pipeline.push(Owed::client(Answer::Query).by(Origin::Injected));
    }

    /// The server has said what is left on it.
    fn conclude_inspection(
        &mut self,
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Option<Outcome> {
        if let Some(sqlstate) = self.question_failed.take() {
            return self.ask_again(sqlstate, client, server, outbox);
        }
        let findings = std::mem::take(&mut self.findings);
        let mut pins = findings.pins;
        if findings.plans.is_none() && self.has_prepared {
            pins.insert(Pin::Prepare);
        }
        let has_foreign_plans = match findings.plans {
            Some(plans) => plans != server.statements.len().saturating_add(server.prelude),
            None => self.hints.has(Hints::OPAQUE), // nobody says what that has done to them
        };
        // What slipped through the words that are refused.
        let is_refused = !pins.is_empty()
            && client.rules.state == StatePolicy::Refuse
            && client.rules.mode != Mode::Session;
        if is_refused {
            self.slipped = pins;
        }
        let own = server.prelude + server.statements.len();
        if client.rules.server_statements == 0 && findings.plans.is_some_and(|plans| plans > own) {
            pins.insert(Pin::Prepare);
        }
        let had_pins = !client.pins.is_empty();
        server.applied = findings.values.clone();
        server.tier.set_known(findings.knows_token);
        if self.is_abandoned {
            let is_dirty = had_pins || !pins.is_empty() || has_foreign_plans || self.hints.has(Hints::OPAQUE);
            return if is_dirty { self.sweep(true, outbox) } else { self.finish(client, server, outbox) };
        }
        if self.may_have_reset_identity(client) && !findings.has_identity {
            client.claim.reset_all();
        }
        client.wanted = self.wanted_after(findings.values.beyond(&server.base), client);
        if self.is_trial {
            client.startup = client.wanted.clone();
            return self.finish(client, server, outbox);
        }
        if client.rules.set == SetPolicy::Pin && !client.wanted.is_same(&client.startup) {
            pins.insert(Pin::Setting);
        }
        if is_refused {
            client.pins = Pins::default();
            return self.sweep(true, outbox);
        }
        client.pins = pins;
        if !pins.is_empty() || client.rules.mode == Mode::Session {
            return self.finish(client, server, outbox);
        }
        if has_foreign_plans || had_pins || self.hints.has(Hints::OPAQUE) {
            return self.sweep(has_foreign_plans || had_pins, outbox);
        }
        self.finish(client, server, outbox)
    }

    /// The question has failed.
    fn ask_again(
        &mut self,
        sqlstate: [u8; 5],
        client: &ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Option<Outcome> {
        match &sqlstate {
            // A timeout of a millisecond may cut even the guard short.
            b"57014" if self.questions < MOST_QUESTIONS => self.inspect(true, client, server, outbox),
            b"42501" if !server.hides_statements => {
                server.hides_statements = true;
                self.inspect(self.questions > 0, client, server, outbox)
            }
            _ => Some(Outcome::Lost(Loss::Clean)),
        }
    }

    /// What the client wants from here on: what its session has and, where that is a RESET's doing, what it began with.
    fn wanted_after(&self, found: Values, client: &ClientState) -> Values {
        let mut wanted = found;
        for (name, value) in client.startup.iter() {
            if wanted.value(name).is_some() {
                continue;
            }
            // A two-part setting is empty after a RESET, and after being set to nothing.
            let is_emptied = client.wanted.value(name) == Some(b"")
                || self.custom.iter().any(|set| set.eq_ignore_ascii_case(name));
            wanted.set(name, if is_emptied { b"" } else { value });
        }
        wanted
    }
}
