//! What a client calls its statements, made what the server calls them: Parse, Bind, Describe, Close.
//!
//! # Promises
//! - A server has a statement when the message that uses it is read, and never more of them than it may.
//! - What depends on an answer still to come waits for it.
//! - Values of a Bind stream behind its names, but where they say what the statement means.
//!
//! # Refuses
//! To close a client's statement on a server: others may use the text still, and eviction closes it in time.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::session::client::ClientState;
use crate::session::exchange::from_client::Move;
use crate::session::exchange::judgement::{Judgement, subject};
use crate::session::exchange::{Exchange, Segment, Undo};
use crate::session::pipeline::{Answer, Origin, Owed};
use crate::session::prepared::{Known, Named, ServerName, Statement};
use crate::session::server::ServerState;
use crate::session::sql::{Command, Hints, Reading};
use crate::session::transaction::Status;
use crate::session::violation::Refusal;
use crate::wire::Header;
use crate::wire::Malformed;
use crate::wire::frame::HEADER;
use crate::wire::frame::frontend as tag;
use crate::wire::frontend::{Bind, Parse};
use crate::wire::write;

impl Exchange {
    /// Parse of a text too long to be kept: it goes by, and can be bound on this server only.
    pub(super) fn on_long_parse(
        &mut self,
        body: &[u8],
        client: &mut ClientState,
        outbox: &mut BytesMut,
    ) -> Move {
        if body.first() != Some(&0) {
            let name: Vec<u8> = body.iter().copied().take_while(|byte| *byte != 0).collect();
            return self.refuse(Refusal::ClientStatements, &name, outbox);
        }
        client.forget_unnamed();
        self.has_unnamed = true;
        self.hints = self.hints.with(Hints::SETS).with(Hints::STATE);
        self.pass_extended(Owed::client(Answer::Parse))
    }

    pub(super) fn on_parse(
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

    pub(super) fn on_bind(
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

    pub(super) fn on_describe(
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
    pub(super) fn on_close(&mut self, name: &[u8], client: &mut ClientState, server: &ServerState) -> Move {
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
        client: &mut ClientState,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) -> bool {
        let limit = client.rules.server_statements.max(1);
        match server.statements.touch(statement.number) {
            Known::Yes => {
                client.counts.prepared_hits += 1;
                // The limit may have come down since.
                while let Some(evicted) = server.statements.evict(limit + 1) {
                    client.counts.prepared_evictions += 1;
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
            client.counts.prepared_evictions += 1;
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

/// Parse of a definition, which carries its own types.
fn put_parse(outbox: &mut BytesMut, name: &[u8], definition: &[u8]) {
    outbox.put_u8(tag::PARSE);
    outbox.put_u32((4 + name.len() + 1 + definition.len()) as u32);
    outbox.put_slice(name);
    outbox.put_u8(0);
    outbox.put_slice(definition);
}
