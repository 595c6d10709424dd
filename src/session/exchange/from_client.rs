//! What the client says: held back, passed on, renamed, answered in the server's place, or refused.
//!
//! # Promises
//! - Bytes of values and of copied data are never looked at.
//! - What is refused in the middle of things is refused by the server too: it is sent a text that cannot be parsed, so that
//!   its transaction fails as the client expects, and the error is given our words.
//!
//! # Refuses
//! To let a unit pass the barrier behind the first.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::session::bound::{self, Extent, Meaning};
use crate::session::client::ClientState;
use crate::session::exchange::{Exchange, Phase, Rest, Segment, Undo, Unit};
use crate::session::mutation::{self, Mutation};
use crate::session::pipeline::{Answer, Origin, Owed};
use crate::session::prepared::{Known, Named, ServerName, Statement};
use crate::session::server::ServerState;
use crate::session::settings::{Mode, Rules, SetPolicy, StatePolicy, Subject};
use crate::session::sql::{Command, Hints, Reading, Reserved};
use crate::session::transaction::Status;
use crate::session::violation::{Refusal, Side, Violation};
use crate::wire::Buffers;
use crate::wire::Header;
use crate::wire::Malformed;
use crate::wire::buffer;
use crate::wire::frame::HEADER;
use crate::wire::frame::frontend as tag;
use crate::wire::frontend::{self, Bind, Parse, Target};
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
enum Move {
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
            let available = front.len().min(header.len);
            if self.phase == Phase::Barrier && self.cursor.saturating_add(header.len) > client.rules.retained
            {
                self.wait_for_proof(outbox);
                break;
            }
            // What is kept is kept in whole frames: half of one could not be taken back.
            let is_kept = self.phase == Phase::Barrier;
            if available < needed(header, front, &client.rules).map_err(broken)?
                || (is_kept && available < header.len)
            {
                break;
            }
            if header.tag == tag::COPY_DATA && self.phase == Phase::Talking {
                self.pass_copy_data(&mut buffers.inbox, outbox).map_err(broken)?;
                continue;
            }
            let frame = front.get(..available).unwrap_or_default();
            let (done, discards) = match self.on_client_frame(header, frame, client, server, outbox)? {
                Move::Hold => break,
                // What follows in the inbox is the rest only if what came before is gone from it.
                Move::Done(done) if is_kept => {
                    outbox.extend_from_slice(frame.get(done..).unwrap_or_default());
                    (available, false)
                }
                Move::Done(done) => (done, false),
                Move::Drop => (available, true),
                Move::Pass => {
                    outbox.extend_from_slice(frame);
                    (available, false)
                }
            };
            let rest = header.len - done;
            self.has_spoken = true;
            if self.phase == Phase::Ready {
                self.phase = Phase::Talking;
            }
            self.consume(&mut buffers.inbox, done);
            self.client_rest = match rest {
                0 => Rest::None,
                _ if discards => Rest::Discard(rest),
                _ => Rest::Forward(rest),
            };
            if self.pipeline.front().is_some_and(|owed| owed.origin == Origin::Supplied) {
                self.supply(&mut buffers.outbox);
            }
        }
        Ok(())
    }

    pub(super) fn is_holding_back(&self) -> bool {
        let may_talk = match self.phase {
            Phase::Barrier if mutation::is_on(Mutation::NoHoldBack) => self.unit != Unit::TooLong,
            Phase::Barrier => self.unit == Unit::Open,
            Phase::Ready | Phase::Talking => true,
            Phase::Inspecting | Phase::Resting | Phase::Sweeping { .. } | Phase::Unwinding(_) => false,
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
        match header.tag {
            tag::TERMINATE => {
                self.has_left = true;
                return Ok(Move::Drop);
            }
            tag::SYNC if self.is_copying_in => return Ok(Move::Drop),
            tag::SYNC => {
                self.segment = Segment::Synced;
                self.epoch += 1;
                self.has_executed = false;
                self.end_unit(Unit::Sync);
                self.pipeline.push(Owed::client(Answer::Sync));
                return Ok(Move::Pass);
            }
            // The server skips these as well.
            _ if self.segment == Segment::Void => return Ok(Move::Drop),
            tag::FLUSH => return Ok(if self.is_copying_in { Move::Drop } else { Move::Pass }),
            tag::COPY_DATA => return Ok(Move::Pass),
            tag::COPY_DONE | tag::COPY_FAIL => {
                if !std::mem::take(&mut self.is_copying_in) {
                    self.pipeline.push_copy_end();
                }
                return Ok(Move::Pass);
            }
            _ => {}
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
            tag::EXECUTE => {
                frontend::execute(body).map_err(broken)?;
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
            unexpected => Err(Violation::Unexpected(Side::Client, unexpected)),
        }
    }

    /// The first unit has ended; what comes behind it waits for the prelude.
    pub(super) fn end_unit(&mut self, how: Unit) {
        if self.phase == Phase::Barrier {
            self.unit = how;
        }
    }

    fn pass_extended(&mut self, owed: Owed) -> Move {
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

    /// Parse of a text too long to be kept: it goes by, and can be bound on this server only.
    fn on_long_parse(&mut self, body: &[u8], client: &mut ClientState, outbox: &mut BytesMut) -> Move {
        if body.first() != Some(&0) {
            let name: Vec<u8> = body.iter().copied().take_while(|byte| *byte != 0).collect();
            return self.refuse(Refusal::ClientStatements, &name, outbox);
        }
        client.forget_unnamed();
        self.has_unnamed = true;
        self.hints = self.hints.with(Hints::SETS).with(Hints::STATE);
        self.pass_extended(Owed::client(Answer::Parse))
    }

    fn on_parse(
        &mut self,
        frame: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Result<Move, Malformed> {
        let parse = Parse::read(frame.get(HEADER..).unwrap_or_default())?;
        let reading = client.read(parse.text);
        match self.judge(&reading, client) {
            Judgement::Hold => return Ok(Move::Hold),
            Judgement::Pass => {}
            Judgement::Refuse(refusal) => {
                return Ok(self.refuse(refusal, subject(&reading, parse.name), outbox));
            }
        }
        if parse.name.is_empty() {
            client.set_unnamed(parse.definition, reading);
            self.has_unnamed = true;
            return Ok(self.pass_extended(Owed::client(Answer::Parse)));
        }
        if client.rules.server_statements == 0 {
            self.hints = self.hints.with(Hints::STATE);
            self.has_prepared = true;
            return Ok(self.pass_extended(Owed::client(Answer::Parse)));
        }
        if self.is_in_doubt(parse.name, client, server) {
            return Ok(Move::Hold);
        }
        if client.statement(parse.name).is_some() {
            return Ok(self.refuse(Refusal::DuplicateStatement, parse.name, outbox));
        }
        if !client.has_room(parse.definition.len()) {
            return Ok(self.refuse(Refusal::ClientStatements, parse.name, outbox));
        }
        client.counts.client_parses += 1;
        let named = client.name_statement(parse.name, parse.definition, reading);
        let number = named.statement.number;
        if self.is_in_doubt(parse.name, client, server) {
            client.forget_statement(parse.name);
            return Ok(Move::Hold);
        }
        self.undo.push_back((self.epoch, Undo::Parsed(parse.name.into())));
        let is_there = self.make_room_for(&named.statement, client, server, outbox);
        self.segment = Segment::Open;
        let owed = Owed::client(Answer::Parse).about(number);
        if is_there {
            if self.status == Status::Failed || self.pipeline.owes_an_end() {
                self.probe(parse.definition, outbox);
            }
            self.pipeline.push(owed.by(Origin::Supplied));
        } else {
            put_parse(outbox, named.statement.server_name(), parse.definition);
            server.statements.tell(named.statement, self.epoch);
            client.counts.server_parses += 1;
            self.pipeline.push(owed);
        }
        Ok(Move::Done(frame.len()))
    }

    /// Has the server parse a text that it knows, without keeping it: in a failed transaction it refuses, as it would refuse
    /// the client's own Parse.
    fn probe(&mut self, definition: &[u8], outbox: &mut BytesMut) {
        put_parse(outbox, b"", definition);
        self.has_unnamed = false;
        self.pipeline.push(Owed::client(Answer::Parse).by(Origin::Injected));
    }

    /// Makes the server's unnamed statement one that is answered as `DEALLOCATE name`: the name is ours to forget, so the
    /// server is given one to forget that nobody has.
    fn put_deallocate(&mut self, outbox: &mut BytesMut) {
        let spare = ServerName::new(0);
        write::close(outbox, b'S', spare.as_bytes());
        write::parse(outbox, spare.as_bytes(), b"select", &[]);
        write::parse(outbox, b"", &[b"DEALLOCATE ", spare.as_bytes()].concat(), &[]);
        for answer in [Answer::Close, Answer::Parse, Answer::Parse] {
            self.pipeline.push(Owed::client(answer).by(Origin::Injected));
        }
        self.has_unnamed = false;
        self.segment = Segment::Open;
    }

    /// Whether what a name stands for depends on an answer still to come: to words before the last Sync, which may fail
    /// while those after it do not.
    fn is_in_doubt(&self, name: &[u8], client: &ClientState, server: &ServerState) -> bool {
        if self.pipeline.is_empty() {
            return false;
        }
        let number = client.statement(name).map_or(0, |named| named.statement.number);
        self.undo.iter().any(|(epoch, undo)| *epoch < self.epoch && undo.name() == name)
            || self.closing.iter().any(|(epoch, closed)| *epoch < self.epoch && closed.number == number)
            || server.statements.is_in_doubt(number, self.epoch)
            || server.statements.is_room_in_doubt(number, client.rules.server_statements.max(1), self.epoch)
    }

    fn on_bind(
        &mut self,
        header: Header,
        body: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Result<Move, Malformed> {
        let bind = Bind::read(body).ok_or(Malformed::Body { tag: header.tag })?;
        if self.is_in_doubt(bind.statement, client, server) {
            return Ok(Move::Hold);
        }
        if let Some(name) = self.deallocated(bind.statement, client) {
            self.put_deallocate(outbox);
            self.deallocating.push_back(name);
            (self.bound, self.bound_cleans) = (0, true);
            self.pipeline.push(Owed::client(Answer::Bind));
            return Ok(self.bind_to(b"", &bind, header, outbox));
        }
        match self.judge_bound(&bind, header, body, client)? {
            Judgement::Hold => return Ok(Move::Hold),
            Judgement::Pass => {}
            Judgement::Refuse(refusal) => return Ok(self.refuse(refusal, bind.statement, outbox)),
        }
        let statement = match self.find(bind.statement, client, server, outbox) {
            Found::AsIs => {
                let unnamed = client.unnamed().map_or(Hints::default(), |unnamed| unnamed.reading.hints);
                self.bound_cleans = unnamed.has(Hints::CLEANS);
                self.bound = 0;
                return Ok(self.pass_extended(Owed::client(Answer::Bind)));
            }
            Found::Named(named) => named,
            Found::Nothing => return Ok(self.refuse(Refusal::UnknownStatement, bind.statement, outbox)),
        };
        client.counts.binds += 1;
        self.note((*statement.reading).clone());
        let moved = self.bind_to(statement.statement.server_name(), &bind, header, outbox);
        self.bound_cleans = statement.reading.hints.has(Hints::CLEANS);
        self.bound = statement.statement.number;
        self.pipeline.push(Owed::client(Answer::Bind).about(self.bound));
        Ok(moved)
    }

    /// The name of its own that a client would deallocate by what it calls `statement`.
    fn deallocated(&self, statement: &[u8], client: &ClientState) -> Option<Box<[u8]>> {
        let command = match (statement, client.unnamed()) {
            (b"", unnamed) => unnamed?.reading.command.as_ref(),
            (name, _) => client.statement(name)?.reading.command.as_ref(),
        };
        match command {
            Some(Command::Deallocate(name)) if client.statement(name).is_some() => Some((**name).into()),
            _ => None,
        }
    }

    /// The front of a Bind, of a statement by the name the server knows; its values follow.
    fn bind_to(&mut self, name: &[u8], bind: &Bind<'_>, header: Header, outbox: &mut BytesMut) -> Move {
        let values = header.len - HEADER - bind.names;
        outbox.put_u8(tag::BIND);
        outbox.put_u32((4 + bind.portal.len() + 1 + name.len() + 1 + values) as u32);
        outbox.put_slice(bind.portal);
        outbox.put_u8(0);
        outbox.put_slice(name);
        outbox.put_u8(0);
        self.segment = Segment::Open;
        Move::Done(HEADER + bind.names)
    }

    fn on_describe(
        &mut self,
        name: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Move {
        if self.is_in_doubt(name, client, server) {
            return Move::Hold;
        }
        match self.find(name, client, server, outbox) {
            Found::AsIs => self.pass_extended(Owed::client(Answer::DescribeStatement)),
            Found::Named(named) => {
                write::describe(outbox, b'S', named.statement.server_name());
                self.segment = Segment::Open;
                self.pipeline.push(Owed::client(Answer::DescribeStatement).about(named.statement.number));
                Move::Drop
            }
            Found::Nothing => self.refuse(Refusal::UnknownStatement, name, outbox),
        }
    }

    /// A name is the client's own: closing it costs the server nothing, and others may use the text still.
    fn on_close(&mut self, name: &[u8], client: &mut ClientState, server: &ServerState) -> Move {
        if client.rules.server_statements == 0 && !name.is_empty() {
            self.hints = self.hints.with(Hints::CLEANS);
            return self.pass_extended(Owed::client(Answer::Close));
        }
        if self.is_in_doubt(name, client, server) {
            return Move::Hold;
        }
        self.segment = Segment::Open;
        let mut owed = Owed::client(Answer::Close).by(Origin::Supplied);
        if name.is_empty() {
            client.forget_unnamed();
        } else if let Some(named) = client.forget_statement(name) {
            owed = owed.about(named.statement.number);
            self.undo.push_back((self.epoch, Undo::Closed(name.into(), named)));
        }
        self.pipeline.push(owed);
        Move::Drop
    }

    /// The statement a client means by `name`, made known to the server.
    fn find(
        &mut self,
        name: &[u8],
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> Found {
        if name.is_empty() {
            return self.find_unnamed(client, outbox);
        }
        if client.rules.server_statements == 0 {
            return Found::AsIs;
        }
        let Some(named) = client.statement(name).cloned() else { return Found::Nothing };
        self.ensure(&named.statement, client, server, outbox);
        Found::Named(named)
    }

    fn find_unnamed(&mut self, client: &mut ClientState, outbox: &mut BytesMut) -> Found {
        let Some(unnamed) = client.unnamed() else {
            return if self.has_unnamed { Found::AsIs } else { Found::Nothing };
        };
        let (hints, custom) = (unnamed.reading.hints, unnamed.reading.custom.clone());
        if !self.has_unnamed {
            put_parse(outbox, b"", &unnamed.definition);
            self.segment = Segment::Open;
            self.pipeline.push(Owed::client(Answer::Parse).by(Origin::Injected));
            self.has_unnamed = true;
        }
        self.note(Reading { hints, custom, ..Reading::default() });
        Found::AsIs
    }

    /// Sees to it that the server has the statement when the next message is read.
    fn ensure(
        &mut self,
        statement: &Arc<Statement>,
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) {
        if self.make_room_for(statement, client, server, outbox) {
            return;
        }
        client.counts.server_parses += 1;
        put_parse(outbox, statement.server_name(), &statement.definition);
        server.statements.tell(statement.clone(), self.epoch);
        self.segment = Segment::Open;
        self.pipeline.push(Owed::client(Answer::Parse).by(Origin::Injected).about(statement.number));
    }

    /// Whether the server has the statement; if not, others are closed until it may.
    fn make_room_for(
        &mut self,
        statement: &Arc<Statement>,
        client: &ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> bool {
        let limit = client.rules.server_statements.max(1);
        match server.statements.touch(statement.number) {
            Known::Yes => {
                // The limit may have come down since.
                while let Some(evicted) = server.statements.evict(limit + 1) {
                    self.close(evicted, outbox);
                }
                return true;
            }
            Known::Stale => {
                server.statements.remove(statement.number);
                self.close(statement.clone(), outbox);
            }
            Known::No => {}
        }
        while let Some(evicted) = server.statements.evict(limit) {
            self.close(evicted, outbox);
        }
        false
    }

    fn close(&mut self, statement: Arc<Statement>, outbox: &mut BytesMut) {
        write::close(outbox, b'S', statement.server_name());
        self.segment = Segment::Open;
        self.pipeline.push(Owed::client(Answer::Close).by(Origin::Injected).about(statement.number));
        self.closing.push((self.epoch, statement));
    }

    /// Makes the server fail in the client's place; the error will carry our words.
    fn refuse(&mut self, refusal: Refusal, name: &[u8], outbox: &mut BytesMut) -> Move {
        self.refused.push_back(name.into());
        write::parse(outbox, b"", POISON, &[]);
        self.has_unnamed = false;
        self.segment = Segment::Open;
        self.pipeline.push(Owed::client(Answer::Parse).by(Origin::Refused(refusal)));
        Move::Drop
    }

    /// Remembers what a text might do, until the transaction is over.
    fn note(&mut self, reading: Reading) {
        self.hints = self.hints.with(reading.hints);
        self.custom.extend(reading.custom);
    }

    /// Whether a text may go to the server now.
    fn judge(&self, reading: &Reading, client: &ClientState) -> Judgement {
        let is_open = self.status != Status::Idle;
        if !concerns_identity(reading) {
            // What may turn out to be a claim when it is bound is answered by the pooler, where it can be.
            let may_claim = matches!(&reading.command, Some(Command::SelectBound(_)));
            if may_claim
                && client.rules.identity.enabled
                && self.segment == Segment::Synced
                && !self.knows_its_block()
            {
                return Judgement::Hold;
            }
            return Judgement::of(refusal(reading, client, is_open));
        }
        match (self.segment, self.knows_its_block()) {
            (Segment::Open, true) if is_open => in_block(reading, client),
            (Segment::Open, _) => Judgement::Refuse(Refusal::IdentityUnclear),
            // At the start of a unit the pooler answers it itself, once what came before is answered.
            (_, false) => Judgement::Hold,
            (_, true) if is_command_on_identity(reading) => in_block(reading, client),
            (_, true) => Judgement::of(refusal(reading, client, is_open)),
        }
    }

    /// The same when a statement that was judged long ago is bound: it may have been inside a block then, and a name in it
    /// may have been the client's own.
    fn judge_bound(
        &mut self,
        bind: &Bind<'_>,
        header: Header,
        body: &[u8],
        client: &ClientState,
    ) -> Result<Judgement, Malformed> {
        let reading = match bind.statement {
            b"" => client.unnamed().map(|unnamed| &unnamed.reading),
            name => client.statement(name).map(|named| &*named.reading),
        };
        let Some(reading) = reading else { return Ok(Judgement::Pass) };
        if reading.needs_parameters() {
            return self.judge_parameters(reading, bind, header, body, client);
        }
        if concerns_identity(reading) || reading.reserved.is_some() {
            return Ok(self.judge(reading, client));
        }
        Ok(Judgement::Pass)
    }

    /// The same of a statement that only its parameters make one on the identity, or not.
    fn judge_parameters(
        &mut self,
        reading: &Reading,
        bind: &Bind<'_>,
        header: Header,
        body: &[u8],
        client: &ClientState,
    ) -> Result<Judgement, Malformed> {
        let given = body.get(bind.names..).unwrap_or_default();
        let meaning = match Extent::of(header, body) {
            Extent::More => return Ok(Judgement::Hold),
            Extent::TooLong => Meaning::Unclear,
            Extent::Whole => bound::meaning(reading, given, header.tag, &client.rules.identity)?,
        };
        Ok(match meaning {
            Meaning::Claim(command) => {
                let reading = Reading { command: Some(command), ..reading.clone() };
                self.judge(&reading, client)
            }
            Meaning::Local => {
                let hints = reading.hints.with(Hints::LOCAL_IDENTITY);
                Judgement::of(refusal(&Reading { command: None, hints, ..reading.clone() }, client, true))
            }
            Meaning::Plain => Judgement::Pass,
            Meaning::Sets(name) => {
                self.custom.push(name);
                Judgement::Pass
            }
            Meaning::Unclear => {
                let hints = reading.hints.with(Hints::IDENTITY);
                self.judge(&Reading { command: None, hints, ..reading.clone() }, client)
            }
        })
    }

    /// Whether the last status still says if the next message is inside a transaction block: nothing that could have
    /// begun or ended one is on its way.
    fn knows_its_block(&self) -> bool {
        !self.has_executed && !self.pipeline.owes_an_end()
    }
}

/// Whether a text is one of the commands on the identity that the pooler answers outside of transactions.
fn is_command_on_identity(reading: &Reading) -> bool {
    reading.command.as_ref().is_some_and(Command::is_identity)
}

/// A command on the identity inside a transaction block is PostgreSQL's own and ends with it; but a token never leaves the
/// pooler, and where tokens say who the user is nothing else does.
fn in_block(reading: &Reading, client: &ClientState) -> Judgement {
    match reading.command.as_ref().and_then(Command::subject) {
        _ if !client.rules.identity.takes_tokens() => Judgement::Pass,
        Some(Subject::Token) => Judgement::Refuse(Refusal::IdentityUnclear),
        _ => Judgement::Refuse(Refusal::IdentityChannel),
    }
}

/// Whether a text changes the identity: what it means depends on whether it is inside a transaction block.
fn concerns_identity(reading: &Reading) -> bool {
    is_command_on_identity(reading) || reading.hints.has(Hints::IDENTITY)
}

/// Whether a text may go to the server now.
enum Judgement {
    Hold,
    Pass,
    Refuse(Refusal),
}

impl Judgement {
    fn of(refusal: Option<Refusal>) -> Self {
        refusal.map_or(Self::Pass, Self::Refuse)
    }
}

/// What a client's name stands for.
enum Found {
    /// What the server knows by the same name.
    AsIs,
    /// A statement the server knows by a name of ours.
    Named(Named),
    /// Nothing.
    Nothing,
}

/// What configuration forbids in a text. `is_open`: inside a transaction block, where a SET of the identity ends with it.
pub(in crate::session) fn refusal(reading: &Reading, client: &ClientState, is_open: bool) -> Option<Refusal> {
    let (hints, rules) = (reading.hints, &client.rules);
    let takes_tokens = rules.identity.takes_tokens();
    if hints.has(Hints::IDENTITY) && (!is_open || takes_tokens) {
        return Some(Refusal::IdentityUnclear);
    }
    if hints.has(Hints::LOCAL_IDENTITY) && takes_tokens {
        return Some(Refusal::IdentityChannel);
    }
    if hints.has(Hints::BEGIN) && rules.mode == Mode::Statement {
        return Some(Refusal::StatementMode);
    }
    let is_pooled = rules.mode != Mode::Session;
    if hints.has(Hints::SETS) && !hints.has(Hints::IDENTITY) && rules.set == SetPolicy::Refuse && is_pooled {
        return Some(Refusal::SetRefused);
    }
    if let Some(reserved) = reading.reserved.as_ref().filter(|_| rules.server_statements > 0)
        && !deallocates_its_own(reading, client)
    {
        return Some(match reserved {
            Reserved::Taken(_) => Refusal::ReservedStatement,
            Reserved::Used(_) => Refusal::UnknownStatement,
        });
    }
    (hints.has(Hints::STATE) && rules.state == StatePolicy::Refuse && is_pooled)
        .then_some(Refusal::SessionState)
}

/// Whether a text is the command that gives up a name of the client's own.
fn deallocates_its_own(reading: &Reading, client: &ClientState) -> bool {
    matches!(&reading.command, Some(Command::Deallocate(name)) if client.statement(name).is_some())
}

/// The statement a refusal of this text is about; `name` unless the text names another.
pub(in crate::session) fn subject<'a>(reading: &'a Reading, name: &'a [u8]) -> &'a [u8] {
    reading.reserved.as_ref().map_or(name, Reserved::name)
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

/// Parse of a definition, which carries its own types.
fn put_parse(outbox: &mut BytesMut, name: &[u8], definition: &[u8]) {
    outbox.put_u8(tag::PARSE);
    outbox.put_u32((4 + name.len() + 1 + definition.len()) as u32);
    outbox.put_slice(name);
    outbox.put_u8(0);
    outbox.put_slice(definition);
}
