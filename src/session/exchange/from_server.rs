//! What the server says: forwarded, swallowed, replaced, and counted against what it owes.
//!
//! # Promises
//! - Rows and copied data are judged by their header alone and never held whole.
//! - Consecutive frames that go to the client move as one piece.
//!
//! # Refuses
//! To send anything to the server but the Sync that ends a failed prelude.

use bytes::BytesMut;

use crate::session::client::ClientState;
use crate::session::exchange::{Exchange, Loss, Outcome, Phase, Rest, Segment, Unit, is_undoable};
use crate::session::pipeline::{Answer, Origin, Owed, Step};
use crate::session::server::{ServerState, is_belated};
use crate::session::sql::Hints;
use crate::session::transaction::Status;
use crate::session::violation::{Refusal, Side, Violation};
use crate::wire::Buffers;
use crate::wire::Header;
use crate::wire::Malformed;
use crate::wire::backend;
use crate::wire::buffer;
use crate::wire::frame::HEADER;
use crate::wire::frame::backend as tag;
use crate::wire::write;

/// What a standby says to whoever writes, and any server inside `READ ONLY`.
const READ_ONLY_SQL_TRANSACTION: &[u8; 5] = b"25006";

/// The most of a control frame that is read whole.
const WHOLE: usize = 1 << 20;

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// To the client, as it is.
    Forward,
    /// To the client, with our words in its place.
    Replace(Refusal),
    /// Nowhere.
    Swallow,
}

impl Fate {
    /// What becomes of bytes of the frame that have not come yet.
    fn of_rest(self, rest: usize) -> Rest {
        match (self, rest) {
            (_, 0) => Rest::None,
            (Self::Forward, rest) => Rest::Forward(rest),
            (Self::Replace(_) | Self::Swallow, rest) => Rest::Discard(rest),
        }
    }
}

impl Exchange {
    /// Judges all that has come from the server.
    pub(super) fn hear_server(
        &mut self,
        client: &mut ClientState,
        client_buffers: &mut Buffers,
        server: &mut ServerState,
        server_buffers: &mut Buffers,
    ) -> Result<Option<Outcome>, Violation> {
        let broken = |malformed| Violation::Malformed(Side::Server, malformed);
        let (inbox, outbox) = (&mut server_buffers.inbox, &mut client_buffers.outbox);
        let mut run = 0;
        loop {
            run = self.pass_rest_from_server(inbox, run, outbox);
            if self.server_rest != Rest::None {
                break;
            }
            let Some(left) = inbox.get(run..) else { break };
            let Some(header) = Header::read(left).map_err(broken)? else { break };
            if is_row(header.tag) && self.has_rows_for_client() {
                run = self.pass_rows(inbox, run).map_err(broken)?;
                continue;
            }
            let available = left.len().min(header.len);
            if available < self.needed(header).map_err(broken)? {
                break;
            }
            let body = left.get(HEADER..available).unwrap_or_default();
            let fate = self.on_frame(header, body, client, server)?;
            if header.tag == tag::READY_FOR_QUERY && fate == Fate::Forward && self.changes_settings {
                // The server has said what the prelude changed, but not what was so before.
                self.changes_settings = false;
                buffer::forward(inbox, run, outbox);
                run = 0;
                client.tell(&mut server.reported, outbox);
            }
            if fate == Fate::Forward {
                run += available;
            } else {
                buffer::forward(inbox, run, outbox);
                run = 0;
                buffer::discard(inbox, available);
            }
            self.server_rest = fate.of_rest(header.len - available);
            if let Fate::Replace(refusal) = fate {
                refusal.report(&self.refused.pop_front().unwrap_or_default()).write(outbox);
            }
            if header.tag == tag::ERROR
                && let Some(outcome) = self.after_error(&mut server_buffers.outbox)
            {
                buffer::forward(inbox, run, outbox);
                return Ok(Some(outcome));
            }
            if std::mem::take(&mut self.is_just_proven) {
                self.on_proven(client, &mut client_buffers.inbox, server, outbox);
            }
            if self.pipeline.front().is_some_and(|owed| owed.origin == Origin::Supplied) {
                buffer::forward(inbox, run, outbox);
                run = 0;
                self.supply(outbox);
            }
        }
        buffer::forward(inbox, run, outbox);
        Ok(None)
    }

    /// The prelude is proven: what was kept of the client's words has been said.
    fn on_proven(
        &mut self,
        client: &mut ClientState,
        inbox: &mut BytesMut,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) {
        buffer::discard(inbox, std::mem::take(&mut self.cursor));
        server.applied = server.settings_for(&client.wanted).into_owned();
        server.guest = Some(client.id);
        server.prelude = server.prelude.max(self.named);
        if self.is_signed {
            server.tier.set_known(true);
        }
        if !self.changes_settings {
            client.tell(&mut server.reported, outbox);
        }
    }

    /// Passes the rest of a frame that is half through; returns the new end of the run.
    fn pass_rest_from_server(&mut self, inbox: &mut BytesMut, run: usize, outbox: &mut BytesMut) -> usize {
        let available = inbox.len().saturating_sub(run);
        match self.server_rest {
            Rest::None => run,
            Rest::Forward(rest) => {
                let taken = rest.min(available);
                self.server_rest = if taken == rest { Rest::None } else { Rest::Forward(rest - taken) };
                run + taken
            }
            Rest::Discard(rest) => {
                buffer::forward(inbox, run, outbox);
                let taken = rest.min(available);
                buffer::discard(inbox, taken);
                self.server_rest = if taken == rest { Rest::None } else { Rest::Discard(rest - taken) };
                0
            }
        }
    }

    /// Whether rows and copied data go to the client, and nobody has to look at them.
    fn has_rows_for_client(&self) -> bool {
        let is_ours = matches!(self.phase, Phase::Inspecting | Phase::Watching);
        !is_ours
            && self.pipeline.front().is_some_and(|owed| {
                matches!(owed.answer, Answer::Execute | Answer::Query)
                    && matches!(owed.origin, Origin::Client | Origin::Refused(_))
            })
    }

    /// Rows and copied data, as many frames as there are: they change nothing that is owed. Returns the new end of the run.
    fn pass_rows(&mut self, inbox: &[u8], run: usize) -> Result<usize, Malformed> {
        let mut run = run;
        while let Some(left) = inbox.get(run..)
            && let Some(header) = Header::read(left)?
            && is_row(header.tag)
        {
            let available = left.len().min(header.len);
            run += available;
            self.server_rest = Fate::Forward.of_rest(header.len - available);
        }
        Ok(run)
    }

    /// How many bytes of a frame must have come before it can be judged.
    fn needed(&self, header: Header) -> Result<usize, Malformed> {
        let is_whole = match header.tag {
            // In the barrier it may be the prelude's, whose words are kept; else its front is enough.
            tag::ERROR if self.phase == Phase::Barrier && header.len <= WHOLE => true,
            tag::ERROR => return Ok(header.len.min(HEADER + backend::ERROR_FRONT)),
            tag::COMMAND_COMPLETE | tag::PARAMETER_STATUS | tag::READY_FOR_QUERY => true,
            tag::DATA_ROW => matches!(self.phase, Phase::Inspecting | Phase::Watching),
            _ => false,
        };
        if !is_whole {
            return Ok(HEADER);
        }
        if header.len > WHOLE {
            return Err(Malformed::TooLong { tag: header.tag, len: header.len, limit: WHOLE });
        }
        Ok(header.len)
    }

    /// Judges one frame.
    fn on_frame(
        &mut self,
        header: Header,
        body: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
    ) -> Result<Fate, Violation> {
        let broken = |malformed| Violation::Malformed(Side::Server, malformed);
        let unexpected = Violation::Unexpected(Side::Server, header.tag);
        match header.tag {
            tag::NOTIFICATION => return Ok(Fate::Forward),
            tag::PARAMETER_STATUS => return self.on_parameter_status(body, client, server).map_err(broken),
            tag::ERROR => return Ok(self.on_error(body, client, server)),
            _ => {}
        }
        let Some(owed) = self.pipeline.front() else {
            // A notice may come at any time; nothing else may come unasked.
            return if header.tag == tag::NOTICE { Ok(Fate::Forward) } else { Err(unexpected) };
        };
        let fate = match owed.origin {
            Origin::Client | Origin::Refused(_) => Fate::Forward,
            Origin::Injected | Origin::Prelude(_) => Fate::Swallow,
            Origin::Supplied => return Err(unexpected),
        };
        if !self.on_answer(header.tag, owed, fate, body, client, server)? {
            return Err(unexpected);
        }
        Ok(fate)
    }

    fn on_parameter_status(
        &mut self,
        body: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
    ) -> Result<Fate, Malformed> {
        let (name, value) = backend::parameter_status(body)?;
        server.on_report(name, value);
        let is_news = client.told.set(name, value);
        if self.phase == Phase::Talking && !self.changes_settings {
            // A setting has changed, by whatever words: a function's too.
            self.hints = self.hints.with(Hints::SETS);
        }
        Ok(if is_news { Fate::Forward } else { Fate::Swallow })
    }

    /// Counts a frame against the answer that is due; whether it may be part of that.
    fn on_answer(
        &mut self,
        tag: u8,
        owed: Owed,
        fate: Fate,
        body: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
    ) -> Result<bool, Violation> {
        let broken = |malformed| Violation::Malformed(Side::Server, malformed);
        match (tag, owed.answer) {
            (tag::NOTICE, _) => {}
            (tag::READY_FOR_QUERY, Answer::Query | Answer::Sync) => {
                self.status = Status::from_byte(backend::ready_for_query(body).map_err(broken)?);
                self.is_copying_in = false;
                self.pipeline.pop();
                self.answered += u64::from(fate == Fate::Forward);
            }
            (tag::DATA_ROW, Answer::Query | Answer::Execute)
                if matches!(self.phase, Phase::Inspecting | Phase::Watching) =>
            {
                self.findings.on_row(body).map_err(broken)?;
            }
            (tag::DATA_ROW, Answer::Query | Answer::Execute) => {}
            (tag::PARSE_COMPLETE, Answer::Parse) => {
                server.statements.on_accepted(owed.statement);
                self.pay(owed);
            }
            (tag::CLOSE_COMPLETE, Answer::Close) => {
                self.closing.retain(|(_, statement)| statement.number != owed.statement);
                self.pay(owed);
                if matches!(owed.origin, Origin::Prelude(_)) {
                    self.after_prelude_step();
                }
            }
            (tag::BIND_COMPLETE, Answer::Bind)
            | (tag::ROW_DESCRIPTION | tag::NO_DATA, Answer::DescribePortal | Answer::DescribeStatement)
            | (tag::PORTAL_SUSPENDED | tag::EMPTY_QUERY, Answer::Execute) => self.pay(owed),
            (tag::COMMAND_COMPLETE, Answer::Execute | Answer::Query) => {
                let command = backend::command_complete(body).map_err(broken)?;
                self.is_copying_in = false;
                if owed.answer == Answer::Execute {
                    self.pay(owed);
                }
                self.on_command(command, owed.origin, client, server)?;
            }
            (tag::COPY_IN, Answer::Execute | Answer::Query) if fate == Fate::Forward => {
                self.on_copy_in(owed.answer == Answer::Execute);
            }
            (tag::PARAMETER_DESCRIPTION, Answer::DescribeStatement)
            | (tag::COPY_OUT | tag::COPY_DATA | tag::COPY_DONE, Answer::Execute | Answer::Query)
            | (tag::ROW_DESCRIPTION | tag::EMPTY_QUERY | tag::FUNCTION_CALL, Answer::Query) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn on_copy_in(&mut self, is_extended: bool) {
        let rest = self.pipeline.on_copy_in(is_extended);
        self.is_tainted |= rest.is_unknown;
        if rest.has_ended {
            return;
        }
        self.is_copying_in = true;
        if is_extended {
            self.segment = Segment::Open;
        }
    }

    /// An entry has been answered in full.
    fn pay(&mut self, owed: Owed) {
        self.pipeline.pop();
        if is_undoable(owed) {
            self.undo.pop_front();
        }
    }

    /// A step of the prelude has been answered as scripted; the last one proves it.
    fn after_prelude_step(&mut self) {
        let next = self.pipeline.front().map(|owed| owed.origin);
        if !matches!(next, Some(Origin::Prelude(_))) {
            // Of a unit too long to be kept nothing may have been said yet: the turn only begins.
            let has_begun = self.unit != Unit::TooLong || self.has_spoken;
            self.phase = if has_begun { Phase::Talking } else { Phase::Ready };
            self.is_just_proven = true;
        }
    }

    /// A command has been executed; its tag says which.
    fn on_command(
        &mut self,
        command: &[u8],
        origin: Origin,
        client: &mut ClientState,
        server: &mut ServerState,
    ) -> Result<(), Violation> {
        match origin {
            Origin::Prelude(step) if command != step.tag() => {
                return Err(Violation::Unexpected(Side::Server, tag::COMMAND_COMPLETE));
            }
            Origin::Prelude(step) => {
                if step == Step::DiscardAll {
                    self.discards_plans = false;
                    server.on_swept(false);
                    server.guest = None;
                }
                self.after_prelude_step();
            }
            Origin::Client => match command {
                b"DEALLOCATE" => {
                    match self.deallocating.pop_front() {
                        Some(name) => drop(client.forget_statement(&name)),
                        // It was one of SQL's, or of ours by whatever words: the server is asked what it has.
                        None => self.hints = self.hints.with(Hints::STATE),
                    }
                }
                b"PREPARE" => self.has_prepared = true,
                b"DEALLOCATE ALL" => {
                    self.has_prepared = false;
                    server.forget_statements();
                    client.forget_statements();
                }
                b"DISCARD ALL" => {
                    self.has_prepared = false;
                    server.on_swept(true);
                    client.discard_all();
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// The server refuses what is due. In the extended protocol everything up to the next Sync is void with it.
    fn on_error(&mut self, body: &[u8], client: &mut ClientState, server: &mut ServerState) -> Fate {
        let front = backend::error_front(body);
        let owed = self.pipeline.front();
        if front.is_fatal {
            self.is_tainted = true;
            let is_ours =
                owed.is_some_and(|owed| !matches!(owed.origin, Origin::Client | Origin::Refused(_)));
            let is_hidden = is_ours && self.phase != Phase::Talking;
            if self.phase == Phase::Barrier {
                // Answers come in order: it ended before the prelude did, and never came to the client's words.
                self.cursor = 0;
            }
            self.fatal = Some(Loss::Fatal { is_told: !is_hidden });
            if is_hidden {
                return Fate::Swallow;
            }
            self.errors.count(front.sqlstate);
            return Fate::Forward;
        }
        let Some(owed) = owed else {
            return self.on_unasked_error(client);
        };
        if matches!(owed.origin, Origin::Prelude(_)) {
            self.failure = body.into();
            self.fail_prelude(front.sqlstate, client, server);
            return Fate::Swallow;
        }
        if front.sqlstate == Some(*READ_ONLY_SQL_TRANSACTION) {
            server.has_refused_write = true;
        }
        if owed.answer == Answer::Query {
            if owed.origin == Origin::Injected {
                self.question_failed = Some(front.sqlstate.unwrap_or_default());
            }
        } else {
            self.void_segment(owed, front.sqlstate, client, server);
        }
        self.is_copying_in = false;
        match owed.origin {
            Origin::Refused(refusal) => {
                client.counts.refusals.count(refusal);
                Fate::Replace(refusal)
            }
            Origin::Injected if owed.answer == Answer::Query => Fate::Swallow,
            _ => {
                // It may have been said unasked, with the answer still to come.
                server.is_doubtful |= is_belated(front.sqlstate);
                self.errors.count(front.sqlstate);
                Fate::Forward
            }
        }
    }

    /// Nothing was asked. At rest it costs the server, which is a step ahead, and nobody else; what a client has begun or
    /// keeps there it is told about.
    fn on_unasked_error(&mut self, client: &mut ClientState) -> Fate {
        if self.is_kept || self.status != Status::Idle || self.segment != Segment::Synced {
            return Fate::Forward;
        }
        if self.phase == Phase::Talking {
            self.end_transaction(client);
        }
        self.is_tainted = true;
        self.fatal = Some(Loss::Tainted);
        Fate::Swallow
    }

    /// Everything owed up to the next Sync will not come.
    fn void_segment(
        &mut self,
        failed: Owed,
        sqlstate: Option<[u8; 5]>,
        client: &mut ClientState,
        server: &mut ServerState,
    ) {
        if failed.statement != 0 {
            match sqlstate.as_ref() {
                // "cached plan must not change result type": it is prepared anew the next time, under its own name.
                Some(b"0A000") if failed.answer != Answer::Parse => {
                    server.statements.mark_stale(failed.statement)
                }
                // The server does not know it after all; or knows another under its name.
                Some(b"26000") => server.statements.remove(failed.statement),
                Some(b"42P05") => self.is_tainted = true,
                _ if failed.answer == Answer::Parse => server.statements.on_refused(failed.statement),
                _ => {}
            }
        }
        let voided: Vec<Owed> = std::iter::from_fn(|| self.pipeline.void()).collect();
        self.void_all(&voided, client, server);
        let unsaid = voided.iter().skip(1).filter(|owed| matches!(owed.origin, Origin::Refused(_))).count();
        let own = usize::from(matches!(failed.origin, Origin::Refused(_))); // its words are still to be said
        for _ in 0..unsaid {
            self.refused.remove(own);
        }
        self.deallocating.clear();
        self.segment = if self.pipeline.is_empty() { Segment::Void } else { self.segment };
    }

    /// The prelude has failed: nothing of the client's has run. Its words stay in its inbox.
    fn fail_prelude(
        &mut self,
        sqlstate: Option<[u8; 5]>,
        client: &mut ClientState,
        server: &mut ServerState,
    ) {
        let voided: Vec<Owed> = std::iter::from_fn(|| self.pipeline.pop()).collect();
        self.void_all(&voided, client, server);
        self.undo.clear();
        self.refused.clear();
        self.deallocating.clear();
        if self.is_signed {
            server.tier.on_refused(sqlstate);
        }
        self.is_tainted |= self.discards_plans; // nobody knows which it has
        server.prelude = 0; // it may have lost one of them; all are said again
        self.phase = Phase::Unwinding(sqlstate);
        self.segment = Segment::Synced;
        self.cursor = 0;
    }

    /// What an error leaves to be done: the Sync a failed prelude needs, or the end.
    fn after_error(&mut self, outbox: &mut BytesMut) -> Option<Outcome> {
        if let Some(loss) = self.fatal.take() {
            return Some(Outcome::Lost(loss));
        }
        if matches!(self.phase, Phase::Unwinding(_)) && self.pipeline.is_empty() {
            if self.unit != Unit::Sync {
                write::sync(outbox);
            }
            self.pipeline.push(Owed::client(Answer::Sync).by(Origin::Injected));
        }
        None
    }

    /// Answers in the server's place, as far as it is our turn.
    pub(super) fn supply(&mut self, outbox: &mut BytesMut) {
        while let Some(owed) = self.pipeline.front().filter(|owed| owed.origin == Origin::Supplied) {
            self.pay(owed);
            match owed.answer {
                Answer::Parse => write::parse_complete(outbox),
                Answer::Close => write::close_complete(outbox),
                Answer::Query => self.supply_deallocate(outbox),
                Answer::Bind
                | Answer::CopyEnd
                | Answer::DescribePortal
                | Answer::DescribeStatement
                | Answer::Execute
                | Answer::Sync => {}
            }
        }
    }

    /// `DEALLOCATE name` as a Query: the name is gone already; a failed transaction refuses even this.
    fn supply_deallocate(&self, outbox: &mut BytesMut) {
        if self.status == Status::Failed {
            Refusal::FailedTransaction.report(b"").write(outbox);
        } else {
            write::command_complete(outbox, b"DEALLOCATE");
        }
        write::ready_for_query(outbox, self.status.byte());
    }
}

/// Whether a frame is a row, or a piece of a copy.
fn is_row(tag: u8) -> bool {
    matches!(tag, tag::COPY_DATA | tag::DATA_ROW)
}
