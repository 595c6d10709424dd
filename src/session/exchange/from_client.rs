//! What the client says: held back, passed on, answered in the server's place, or refused.
//!
//! The loop over its frames, and those that name no statement; those that do are in `statements`, and what may pass is decided in
//! `judgement`.
//!
//! # Promises
//! - Copied data is never looked at.
//! - What is refused in the middle of things is refused by the server too: it is sent a text that cannot be parsed, so that
//!   its transaction fails as the client expects, and the error is given our words.
//!
//! # Refuses
//! To let a unit pass the barrier behind the first.

use bytes::BytesMut;

use crate::session::bound::{self, Meaning};
use crate::session::client::ClientState;
use crate::session::exchange::judgement::{Judgement, subject};
use crate::session::exchange::{Exchange, Phase, Rest, Segment, Unit};
use crate::session::mutation::{self, Mutation};
use crate::session::pipeline::{Answer, Origin, Owed};
use crate::session::server::ServerState;
use crate::session::settings::Rules;
use crate::session::sql::{Command, Hints, Reading};
use crate::session::transaction::Status;
use crate::session::violation::{Refusal, Side, Violation};
use crate::wire::Buffers;
use crate::wire::Header;
use crate::wire::Malformed;
use crate::wire::buffer;
use crate::wire::frame::HEADER;
use crate::wire::frame::frontend as tag;
use crate::wire::frontend::{self, Bind, Target};
use crate::wire::write;

/// Most answers owed before a client is not read any further.
const MOST_OWED: usize = 1 << 15;

/// The longest Describe, Close, Execute, Sync, Flush or Terminate (PostgreSQL's `PQ_SMALL_MESSAGE_LIMIT`).
const SMALL: usize = 10_000 + 1;

/// The longest names a Bind or a Parse may begin with.
const NAMES: usize = 1 << 16;

/// What the server is sent in place of a statement we refuse: it fails to parse, so it fails.
const POISON: &[u8] = b"refused by pgusher";

/// What becomes of a frame of the client's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// It has been dealt with; this many bytes of it are done, the rest follows to the server.
    Done(usize),
    /// Dropped.
    Drop,
    /// Not now: it waits in the inbox.
    Hold,
    /// As it is.
    Pass,
}

/// How many bytes of a frame must have come before it can be judged; [`usize::MAX`] is more than has come.
///
/// # Errors
/// A frame that must be read whole and is too long for that.
pub(in crate::session) fn needed(header: Header, front: &[u8], rules: &Rules) -> Result<usize, Malformed> {
    let whole = |limit: usize| match header.len {
        len if len <= limit => Ok(len),
        len => Err(Malformed::TooLong { tag: header.tag, len, limit }),
    };
    match header.tag {
        tag::QUERY => Ok(header.len.min(rules.retained.max(HEADER))),
        tag::FUNCTION_CALL => Ok(header.len.min(HEADER + 4)), // which function
        tag::PARSE if header.len <= rules.client_statement_bytes => Ok(header.len),
        tag::PARSE | tag::BIND => {
            let body = front.get(HEADER..).unwrap_or_default();
            let names = if header.tag == tag::BIND { Bind::read(body).is_some() } else { body.contains(&0) };
            match (names, front.len() >= header.len, front.len() >= NAMES) {
                (true, _, _) | (_, true, _) => Ok(HEADER),
                (false, false, true) => {
                    Err(Malformed::TooLong { tag: header.tag, len: header.len, limit: NAMES })
                }
                (false, false, false) => Ok(usize::MAX),
            }
        }
        tag::DESCRIBE | tag::CLOSE | tag::EXECUTE | tag::SYNC | tag::FLUSH | tag::TERMINATE => whole(SMALL),
        _ => Ok(HEADER),
    }
}

impl Exchange {
    /// Judges what has come from the client, as far as it may speak now.
    pub(super) fn hear_client(
        &mut self,
        client: &mut ClientState,
        buffers: &mut Buffers,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Result<(), Violation> {
        let broken = |malformed| Violation::Malformed(Side::Client, malformed);
        self.is_cleaning &= !self.pipeline.is_empty();
        loop {
            // What is half through is finished, whoever must wait.
            self.pass_rest_from_client(&mut buffers.inbox, outbox);
            if self.client_rest != Rest::None || self.is_holding_back() {
                break;
            }
            let Some(front) = buffers.inbox.get(self.cursor..) else { break };
            let Some(header) = Header::read(front).map_err(broken)? else { break };
            let Some(frame) = self.judgeable(header, front, &client.rules, outbox).map_err(broken)? else {
                break;
            };
            if header.tag == tag::COPY_DATA && self.phase == Phase::Talking {
                self.pass_copy_data(&mut buffers.inbox, outbox).map_err(broken)?;
                continue;
            }
            let moved = self.on_client_frame(header, frame, client, server, outbox)?;
            let Some((done, rest)) = self.carry_out(moved, header, frame, outbox) else { break };
            self.has_spoken = true;
            if self.phase == Phase::Ready {
                self.phase = Phase::Talking;
            }
            self.consume(&mut buffers.inbox, done);
            self.client_rest = rest;
            if self.pipeline.front().is_some_and(|owed| owed.origin == Origin::Supplied) {
                self.supply(&mut buffers.outbox);
            }
        }
        Ok(())
    }

    /// What there is of a frame, if that is enough to judge it.
    fn judgeable<'a>(
        &mut self,
        header: Header,
        front: &'a [u8],
        rules: &Rules,
        outbox: &mut BytesMut,
    ) -> Result<Option<&'a [u8]>, Malformed> {
        if self.phase == Phase::Barrier && self.cursor.saturating_add(header.len) > rules.retained {
            self.wait_for_proof(outbox);
            return Ok(None);
        }
        let frame = front.get(..front.len().min(header.len)).unwrap_or_default();
        // What is kept is kept in whole frames: half of one could not be taken back.
        let is_half = self.phase == Phase::Barrier && frame.len() < header.len;
        let is_enough = frame.len() >= needed(header, front, rules)? && !is_half;
        Ok(is_enough.then_some(frame))
    }

    /// Does with a frame what was judged: how many bytes of it are done, and what becomes of the rest; `None` if it waits.
    fn carry_out(
        &mut self,
        moved: Move,
        header: Header,
        frame: &[u8],
        outbox: &mut BytesMut,
    ) -> Option<(usize, Rest)> {
        let (done, discards) = match moved {
            Move::Hold => return None,
            // What follows in the inbox is the rest only if what came before is gone from it.
            Move::Done(done) if self.phase == Phase::Barrier => {
                outbox.extend_from_slice(frame.get(done..).unwrap_or_default());
                (frame.len(), false)
            }
            Move::Done(done) => (done, false),
            Move::Drop => (frame.len(), true),
            Move::Pass => {
                outbox.extend_from_slice(frame);
                (frame.len(), false)
            }
        };
        let rest = match header.len - done {
            0 => Rest::None,
            rest if discards => Rest::Discard(rest),
            rest => Rest::Forward(rest),
        };
        Some((done, rest))
    }

    pub(super) fn is_holding_back(&self) -> bool {
        let may_talk = match self.phase {
            Phase::Barrier if mutation::is_on(Mutation::NoHoldBack) => self.unit != Unit::TooLong,
            Phase::Barrier => self.unit == Unit::Open,
            Phase::Ready | Phase::Talking => true,
            Phase::Inspecting
            | Phase::Resting
            | Phase::Sweeping { .. }
            | Phase::Unwinding(_)
            | Phase::Watching => false,
        };
        let is_cleaning = self.is_cleaning && !self.pipeline.is_empty();
        !may_talk || is_cleaning || self.has_left || self.is_in_lockstep() || self.pipeline.len() >= MOST_OWED
    }

    /// Whether a unit must be answered before the next is heard. A claim that holds for one transaction ends with it; and
    /// what may have changed the identity on the server must not reach the transaction behind it in the pipeline.
    ///
    /// Never amid a frame, and not in the barrier: there the first unit must follow the prelude, which is not answered before.
    fn is_in_lockstep(&self) -> bool {
        const MAY_CHANGE: Hints =
            Hints::IDENTITY.with(Hints::OPAQUE).with(Hints::RESETS_IDENTITY).with(Hints::SETS);
        (self.is_one_shot || self.ends_soon || self.hints.any(MAY_CHANGE))
            && self.phase == Phase::Talking
            && self.client_rest == Rest::None
            && self.segment == Segment::Synced
            && !self.pipeline.is_empty()
            && !self.is_copying_in
    }

    /// The first unit is too long to be kept: the prelude is proven before it is sent.
    fn wait_for_proof(&mut self, outbox: &mut BytesMut) {
        self.unit = Unit::TooLong;
        write::flush(outbox);
    }

    fn pass_rest_from_client(&mut self, inbox: &mut BytesMut, outbox: &mut BytesMut) {
        let (rest, forwards) = match self.client_rest {
            Rest::None => return,
            Rest::Discard(rest) => (rest, false),
            Rest::Forward(rest) => (rest, true),
        };
        let taken = rest.min(inbox.len());
        if forwards {
            buffer::forward(inbox, taken, outbox);
        } else {
            buffer::discard(inbox, taken);
        }
        self.client_rest = match (rest - taken, forwards) {
            (0, _) => Rest::None,
            (rest, true) => Rest::Forward(rest),
            (rest, false) => Rest::Discard(rest),
        };
    }

    /// CopyData, as many frames as there are: they owe nothing and move as one piece.
    fn pass_copy_data(&mut self, inbox: &mut BytesMut, outbox: &mut BytesMut) -> Result<(), Malformed> {
        let mut run = 0;
        while let Some(left) = inbox.get(run..)
            && let Some(header) = Header::read(left)?
            && header.tag == tag::COPY_DATA
        {
            let available = left.len().min(header.len);
            run += available;
            if available < header.len {
                self.client_rest = Rest::Forward(header.len - available);
                break;
            }
        }
        if self.segment == Segment::Void {
            buffer::discard(inbox, run);
            if let Rest::Forward(rest) = self.client_rest {
                self.client_rest = Rest::Discard(rest);
            }
        } else {
            buffer::forward(inbox, run, outbox);
        }
        Ok(())
    }

    /// Judges one frame. `frame` may end before the frame does; [`needed`] bytes of it are there.
    fn on_client_frame(
        &mut self,
        header: Header,
        frame: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Result<Move, Violation> {
        let broken = |malformed| Violation::Malformed(Side::Client, malformed);
        let body = frame.get(HEADER..).unwrap_or_default();
        if let Some(moved) = self.on_bodiless(header.tag) {
            return Ok(moved);
        }
        // Anything else in the middle of COPY IN ends it with an error, at a place we cannot know.
        self.is_tainted |= self.is_copying_in;
        match header.tag {
            tag::QUERY => self.on_query(header, body, client, outbox).map_err(broken),
            tag::FUNCTION_CALL => Ok(self.on_function_call(header, body, client, outbox)),
            tag::PARSE if header.len > client.rules.client_statement_bytes => {
                Ok(self.on_long_parse(body, client, outbox))
            }
            tag::PARSE => self.on_parse(frame, client, server, outbox).map_err(broken),
            tag::BIND => self.on_bind(header, body, client, server, outbox).map_err(broken),
            tag::DESCRIBE => match frontend::target(header.tag, body).map_err(broken)? {
                Target::Portal(_) => Ok(self.pass_extended(Owed::client(Answer::DescribePortal))),
                Target::Statement(name) => Ok(self.on_describe(name, client, server, outbox)),
            },
            tag::CLOSE => match frontend::target(header.tag, body).map_err(broken)? {
                Target::Portal(_) => Ok(self.pass_extended(Owed::client(Answer::Close))),
                Target::Statement(name) => Ok(self.on_close(name, client, server)),
            },
            tag::EXECUTE => self.on_execute(frame, outbox).map_err(broken),
            unexpected => Err(Violation::Unexpected(Side::Client, unexpected)),
        }
    }

    /// Judges a frame whose body does not matter, or that is skipped; `None` if it is another.
    fn on_bodiless(&mut self, tag: u8) -> Option<Move> {
        Some(match tag {
            tag::TERMINATE => {
                self.has_left = true;
                Move::Drop
            }
            tag::SYNC if self.is_copying_in => Move::Drop,
            tag::SYNC => {
                self.segment = Segment::Synced;
                self.epoch += 1;
                self.has_executed = false;
                self.end_unit(Unit::Sync);
                self.pipeline.push(Owed::client(Answer::Sync));
                Move::Pass
            }
            // The server skips these as well.
            _ if self.segment == Segment::Void => Move::Drop,
            tag::FLUSH if self.is_copying_in => Move::Drop,
            tag::COPY_DATA | tag::FLUSH => Move::Pass,
            tag::COPY_DONE | tag::COPY_FAIL => {
                if !std::mem::take(&mut self.is_copying_in) {
                    self.pipeline.push_copy_end();
                }
                Move::Pass
            }
            _ => return None,
        })
    }

    fn on_execute(&mut self, frame: &[u8], outbox: &mut BytesMut) -> Result<Move, Malformed> {
        frontend::execute(frame.get(HEADER..).unwrap_or_default())?;
        self.has_executed = true;
        let owed = Owed::client(Answer::Execute).about(self.bound);
        if !self.bound_cleans {
            return Ok(self.pass_extended(owed));
        }
        outbox.extend_from_slice(frame);
        write::flush(outbox); // what follows waits for the answer, so the answer must not wait for a Sync
        self.is_cleaning = true;
        let _ = self.pass_extended(owed);
        Ok(Move::Drop)
    }

    /// The first unit has ended; what comes behind it waits for the prelude.
    pub(super) fn end_unit(&mut self, how: Unit) {
        if self.phase == Phase::Barrier {
            self.unit = how;
        }
    }

    pub(super) fn pass_extended(&mut self, owed: Owed) -> Move {
        self.segment = Segment::Open;
        self.pipeline.push(owed);
        Move::Pass
    }

    fn on_query(
        &mut self,
        header: Header,
        body: &[u8],
        client: &mut ClientState,
        outbox: &mut BytesMut,
    ) -> Result<Move, Malformed> {
        let is_whole = body.len() + HEADER == header.len;
        let mut reading = match client.peeked.take().filter(|_| !self.has_spoken) {
            Some(reading) => reading,
            None => read_query(body, is_whole, client)?,
        };
        // There is no parameter in a Query: the server says so.
        reading.command.take_if(|command| command.is_bound());
        match self.judge(&reading, client) {
            Judgement::Hold => return Ok(Move::Hold),
            Judgement::Pass => {}
            Judgement::Refuse(refusal) => {
                return Ok(self.refuse_query(refusal, subject(&reading, b""), outbox));
            }
        }
        if let Some(Command::Deallocate(name)) = &reading.command
            && self.status != Status::Failed
            && client.forget_statement(name).is_some()
        {
            self.end_unit(Unit::Query);
            self.pipeline.push(Owed::client(Answer::Query).by(Origin::Supplied));
            return Ok(Move::Drop);
        }
        self.is_cleaning = reading.hints.has(Hints::CLEANS);
        self.epoch += 1;
        self.note(reading);
        // A Query ends the unnamed statement, and un-Synced messages with it.
        client.forget_unnamed();
        self.has_unnamed = false;
        self.end_segment();
        self.end_unit(Unit::Query);
        self.pipeline.push(Owed::client(Answer::Query));
        Ok(Move::Pass)
    }

    /// Any function may be called, so what it does is asked of the server.
    fn on_function_call(
        &mut self,
        header: Header,
        body: &[u8],
        client: &mut ClientState,
        outbox: &mut BytesMut,
    ) -> Move {
        let mut reading = Reading { hints: Hints::OPAQUE, ..Reading::default() };
        match bound::of_function(header, body, &client.rules.identity) {
            None => return Move::Hold,
            Some(Meaning::Claim(_) | Meaning::Unclear) => {
                reading.hints = reading.hints.with(Hints::IDENTITY);
            }
            Some(Meaning::Local) => reading.hints = reading.hints.with(Hints::LOCAL_IDENTITY),
            Some(Meaning::Plain) => {}
            Some(Meaning::Sets(name)) => reading.custom.push(name),
        }
        match self.judge(&reading, client) {
            Judgement::Hold => return Move::Hold,
            Judgement::Pass => {}
            Judgement::Refuse(refusal) => return self.refuse_query(refusal, b"", outbox),
        }
        self.note(reading);
        self.end_unit(Unit::Query);
        self.end_segment();
        self.pipeline.push(Owed::client(Answer::Query));
        Move::Pass
    }

    /// Makes the server fail in the client's place at a Query or a FunctionCall.
    fn refuse_query(&mut self, refusal: Refusal, name: &[u8], outbox: &mut BytesMut) -> Move {
        self.end_unit(Unit::Query);
        self.refused.push_back(name.into());
        write::query(outbox, POISON);
        self.pipeline.push(Owed::client(Answer::Query).by(Origin::Refused(refusal)));
        Move::Drop
    }

    /// A Query or a FunctionCall ends what came without a Sync before it; what that makes of the transaction differs by version.
    fn end_segment(&mut self) {
        self.is_tainted |= self.segment == Segment::Open;
        self.segment = Segment::Synced;
    }

    /// Makes the server fail in the client's place; the error will carry our words.
    pub(super) fn refuse(&mut self, refusal: Refusal, name: &[u8], outbox: &mut BytesMut) -> Move {
        self.refused.push_back(name.into());
        write::parse(outbox, b"", POISON, &[]);
        self.has_unnamed = false;
        self.segment = Segment::Open;
        self.pipeline.push(Owed::client(Answer::Parse).by(Origin::Refused(refusal)));
        Move::Drop
    }

    /// Remembers what a text might do, until the transaction is over.
    pub(super) fn note(&mut self, reading: Reading) {
        self.hints = self.hints.with(reading.hints);
        self.custom.extend(reading.custom);
    }
}

/// Reads a Query's text, or as much of it as is read.
///
/// # Errors
/// A whole body without its terminator.
pub(in crate::session) fn read_query(
    body: &[u8],
    is_whole: bool,
    client: &ClientState,
) -> Result<Reading, Malformed> {
    if is_whole {
        return Ok(client.read(frontend::query(body)?));
    }
    let mut reading = client.read(body);
    reading.command = None;
    reading.hints = reading.hints.with(Hints::SETS).with(Hints::STATE);
    Ok(reading)
}
