//! What is answered without a server.
//!
//! Between transactions a client holds no server, and much of what it says needs none: who its user is, which names it
//! drops, a Sync to see if we are there. What does need one is left in the inbox for the exchange to judge.
//!
//! # Promises
//! - The answers are those PostgreSQL would give, in both protocols.
//! - After an error of ours in the extended protocol everything is skipped up to the next Sync, as PostgreSQL does.
//!
//! - A token is verified before its SET is answered, by whoever drives this: it has a clock and keys. Until then the SET stays
//!   in the inbox.
//!
//! # Refuses
//! To answer anything whose effect a server would have to share.

use bytes::{BufMut, BytesMut};

use crate::auth::Secret;
use crate::session::bound::{self, Extent, Meaning};
use crate::session::client::ClientState;
use crate::session::exchange::{needed, read_query, refusal, subject};
use crate::session::settings::{IdentitySettings, Missing, Mode, Subject};
use crate::session::sql::{Call, Command, Reading, Value};
use crate::session::violation::{Refusal, Report, Side, TokenFault, Violation};
use crate::wire::Buffers;
use crate::wire::Header;
use crate::wire::Malformed;
use crate::wire::buffer;
use crate::wire::frame::HEADER;
use crate::wire::frame::frontend as tag;
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::write;

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 8 << 10;

/// What a client without a server is waiting for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Idle {
    /// It has said Terminate.
    Left,
    /// It has not said anything that could be judged.
    NeedMore,
    /// It needs a server for what is at the front of its inbox.
    NeedServer,
    /// It gives this token. To be called again when the client's `verdict` says what that proves.
    NeedVerdict(Secret),
}

/// What becomes of a frame.
enum Answer {
    /// It has been answered, or needs no answer.
    Done,
    Left,
    /// More of it must come.
    More,
    Refused(Refusal, Vec<u8>),
    Server,
    Verdict(Secret),
}

/// Answers what can be answered. `holds` is whether the client keeps a server, which must then hear what concerns it.
///
/// # Errors
/// The client broke the protocol.
pub fn answer(client: &mut ClientState, buffers: &mut Buffers, holds: bool) -> Result<Idle, Violation> {
    let broken = |malformed| Violation::Malformed(Side::Client, malformed);
    loop {
        let skipped = client.discarding.min(buffers.inbox.len());
        buffer::discard(&mut buffers.inbox, skipped);
        client.discarding -= skipped;
        if client.discarding > 0 {
            return Ok(Idle::NeedMore);
        }
        let Some(header) = Header::read(&buffers.inbox).map_err(broken)? else { return Ok(Idle::NeedMore) };
        let is_skipped = client.is_skipping && !matches!(header.tag, tag::SYNC | tag::TERMINATE);
        if is_skipped || matches!(header.tag, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL) {
            // A server that is not copying drops these; what a failed COPY still had on its way ends here.
            client.discarding = header.len;
            continue;
        }
        let available = buffers.inbox.len().min(header.len);
        let front = buffers.inbox.get(..available).unwrap_or_default();
        if available < needed(header, front, &client.rules).map_err(broken)? {
            return Ok(Idle::NeedMore);
        }
        match judge(header, front, client, &mut buffers.outbox, holds).map_err(broken)? {
            Answer::Done => client.discarding = header.len,
            Answer::Left => return Ok(Idle::Left),
            Answer::More => return Ok(Idle::NeedMore),
            Answer::Verdict(token) => return Ok(Idle::NeedVerdict(token)),
            Answer::Refused(refusal, name) => {
                client.counts.refusals.count(refusal);
                fail(client, buffers, &refusal.report(&name));
            }
            Answer::Server if !is_known(header.tag) => {
                return Err(Violation::Unexpected(Side::Client, header.tag));
            }
            Answer::Server if lacks_identity(client) => {
                client.counts.refusals.count(Refusal::NoIdentity);
                fail(client, buffers, &Refusal::NoIdentity.report(b""));
            }
            Answer::Server => return Ok(Idle::NeedServer),
        }
    }
}

/// Answers the frame at the front of the inbox with a refusal, and drops it.
pub fn refuse(client: &mut ClientState, buffers: &mut Buffers, refusal: Refusal) {
    client.counts.refusals.count(refusal);
    fail(client, buffers, &refusal.report(b""));
}

fn fail(client: &mut ClientState, buffers: &mut Buffers, report: &Report) {
    deny(client, buffers, |outbox| report.write(outbox));
}

/// Answers the frame at the front of the inbox with an error, which `say` writes, and drops it.
pub fn deny(client: &mut ClientState, buffers: &mut Buffers, say: impl FnOnce(&mut BytesMut)) {
    client.peeked = None;
    let Ok(Some(header)) = Header::read(&buffers.inbox) else { return };
    client.discarding = header.len;
    say(&mut buffers.outbox);
    if matches!(header.tag, tag::QUERY | tag::FUNCTION_CALL) {
        write::ready_for_query(&mut buffers.outbox, b'I');
    } else {
        client.is_skipping = true;
    }
}

fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        tag::BIND | tag::CLOSE | tag::DESCRIBE | tag::EXECUTE | tag::FUNCTION_CALL | tag::PARSE | tag::QUERY
    )
}

fn lacks_identity(client: &ClientState) -> bool {
    let identity = &client.rules.identity;
    identity.enabled
        && identity.missing == Missing::Deny
        && client.claim.current().is_none()
        && !client.is_exempt
}

/// Judges one frame; `front` has all that is [`needed`] of it.
fn judge(
    header: Header,
    front: &[u8],
    client: &mut ClientState,
    outbox: &mut BytesMut,
    holds: bool,
) -> Result<Answer, Malformed> {
    let body = front.get(HEADER..).unwrap_or_default();
    match header.tag {
        tag::TERMINATE => Ok(Answer::Left),
        tag::FLUSH => Ok(Answer::Done),
        tag::SYNC => {
            client.is_skipping = false;
            client.forget_portal();
            write::ready_for_query(outbox, b'I');
            Ok(Answer::Done)
        }
        tag::QUERY => on_query(body, front.len() == header.len, client, outbox, holds),
        tag::PARSE if front.len() == header.len => on_parse(body, client, outbox, holds),
        tag::BIND => on_bind(header, body, client, outbox, holds),
        tag::FUNCTION_CALL => Ok(match bound::of_function(header, body, &client.rules.identity) {
            None => Answer::More,
            Some(Meaning::Claim(_) | Meaning::Unclear) => {
                Answer::Refused(Refusal::IdentityUnclear, Vec::new())
            }
            Some(Meaning::Local | Meaning::Plain | Meaning::Sets(_)) => Answer::Server,
        }),
        tag::DESCRIBE => Ok(on_describe(frontend::target(header.tag, body)?, client, outbox, holds)),
        tag::EXECUTE => {
            let portal = frontend::execute(body)?;
            let Some(command) = client.portal(portal).cloned() else { return Ok(Answer::Server) };
            if let Some(token) = unjudged(&command, client) {
                return Ok(Answer::Verdict(token));
            }
            Ok(run(&command, client, outbox))
        }
        tag::CLOSE => {
            match frontend::target(header.tag, body)? {
                Target::Statement(_) if client.rules.server_statements == 0 => return Ok(Answer::Server),
                Target::Portal(name) if client.portal(name).is_some() => client.forget_portal(),
                Target::Portal(_) => {}
                Target::Statement(b"") => client.forget_unnamed(),
                Target::Statement(name) => {
                    client.forget_statement(name);
                }
            }
            write::close_complete(outbox);
            Ok(Answer::Done)
        }
        _ => Ok(Answer::Server),
    }
}

fn on_query(
    body: &[u8],
    is_whole: bool,
    client: &mut ClientState,
    outbox: &mut BytesMut,
    holds: bool,
) -> Result<Answer, Malformed> {
    let reading = read_query(body, is_whole, client)?;
    if let Some(command) = reading.command.as_ref().filter(|command| is_ours(command, client, holds)) {
        if command.is_bound() {
            // There is no parameter in a Query: the server says so.
            return Ok(Answer::Server);
        }
        if let Some(token) = unjudged(command, client) {
            return Ok(Answer::Verdict(token));
        }
        client.forget_unnamed();
        if let Command::SelectIdentity(..) = command {
            write::row_description(outbox, &["set_config"]);
        }
        let answer = run(command, client, outbox);
        if matches!(answer, Answer::Done) {
            write::ready_for_query(outbox, b'I');
        }
        return Ok(answer);
    }
    if let Some(refusal) = refusal(&reading, client, false) {
        return Ok(Answer::Refused(refusal, subject(&reading, b"").to_vec()));
    }
    client.peeked = Some(reading);
    Ok(Answer::Server)
}

fn on_parse(
    body: &[u8],
    client: &mut ClientState,
    outbox: &mut BytesMut,
    holds: bool,
) -> Result<Answer, Malformed> {
    let parse = Parse::read(body)?;
    let reading = client.read(parse.text);
    let is_ours = reading.command.as_ref().is_some_and(|command| is_ours(command, client, holds));
    if !is_ours && let Some(refusal) = refusal(&reading, client, false) {
        return Ok(Answer::Refused(refusal, subject(&reading, parse.name).to_vec()));
    }
    // A text that a server has accepted before need not be asked about again: a client that only prepares holds no server,
    // and one that prepares while others of its thread hold them all does not wait for ever.
    let is_known =
        !parse.name.is_empty() && client.rules.server_statements > 0 && client.is_proven(parse.definition);
    if !is_ours && !is_known {
        return Ok(Answer::Server);
    }
    if parse.name.is_empty() {
        client.set_unnamed(parse.definition, reading);
    } else if client.statement(parse.name).is_some() {
        return Ok(Answer::Refused(Refusal::DuplicateStatement, parse.name.to_vec()));
    } else if !client.has_room(parse.definition.len()) {
        return Ok(Answer::Refused(Refusal::ClientStatements, parse.name.to_vec()));
    } else {
        client.counts.client_parses += 1;
        client.name_statement(parse.name, parse.definition, reading);
    }
    write::parse_complete(outbox);
    Ok(Answer::Done)
}

/// What was read of the statement of this name, if we know; refused if there is no such name.
fn reading<'a>(name: &[u8], client: &'a ClientState) -> Result<Option<&'a Reading>, Answer> {
    match (name, client.unnamed(), client.statement(name)) {
        (b"", unnamed, _) => Ok(unnamed.map(|unnamed| &unnamed.reading)),
        (_, _, Some(named)) => Ok(Some(&named.reading)),
        (_, _, None) if client.rules.server_statements == 0 => Ok(None),
        (_, _, None) => Err(Answer::Refused(Refusal::UnknownStatement, name.to_vec())),
    }
}

/// The command behind a statement name, if it is one we answer; refused if there is no such name.
fn command(name: &[u8], client: &ClientState, holds: bool) -> Result<Option<Command>, Answer> {
    let command = reading(name, client)?.and_then(|reading| reading.command.as_ref());
    Ok(command.filter(|command| is_ours(command, client, holds)).cloned())
}

fn on_bind(
    header: Header,
    body: &[u8],
    client: &mut ClientState,
    outbox: &mut BytesMut,
    holds: bool,
) -> Result<Answer, Malformed> {
    let wrong = Malformed::Body { tag: header.tag };
    let bind = Bind::read(body).ok_or(wrong)?;
    let reading = match reading(bind.statement, client) {
        Ok(Some(reading)) => reading,
        Ok(None) => return Ok(Answer::Server),
        Err(refused) => return Ok(refused),
    };
    let unclear = || Ok(Answer::Refused(Refusal::IdentityUnclear, bind.statement.to_vec()));
    let command = match Extent::of(header, body) {
        _ if !reading.needs_parameters() => reading.command.clone(),
        Extent::More => return Ok(Answer::More),
        Extent::TooLong => return unclear(),
        Extent::Whole => {
            let given = body.get(bind.names..).unwrap_or_default();
            match bound::meaning(reading, given, header.tag, &client.rules.identity)? {
                Meaning::Claim(command) => Some(command),
                Meaning::Local | Meaning::Plain | Meaning::Sets(_) => None,
                Meaning::Unclear => return unclear(),
            }
        }
    };
    let Some(command) = command.filter(|command| is_ours(command, client, holds)) else {
        return Ok(Answer::Server);
    };
    client.set_portal(bind.portal, command);
    write::bind_complete(outbox);
    Ok(Answer::Done)
}

fn on_describe(target: Target<'_>, client: &ClientState, outbox: &mut BytesMut, holds: bool) -> Answer {
    let described = match target {
        Target::Portal(name) => client.portal(name).cloned(),
        Target::Statement(name) => match command(name, client, holds) {
            Ok(described) => described,
            Err(refused) => return refused,
        },
    };
    let Some(described) = described else { return Answer::Server };
    if let Target::Statement(_) = target {
        match &described {
            Command::SelectIdentity(_, Value::Parameter(number)) => parameters(outbox, *number, None),
            Command::SelectBound(call) => parameters(outbox, most_of(call), call.is_local),
            _ => parameters(outbox, 0, None),
        }
    }
    match described {
        Command::SelectBound(_) | Command::SelectIdentity(..) => {
            write::row_description(outbox, &["set_config"])
        }
        _ => write::no_data(outbox),
    }
    Answer::Done
}

/// The highest number of a parameter.
fn most_of(call: &Call) -> u16 {
    let value = match call.value {
        Value::Literal(_) => 0,
        Value::Parameter(number) => number,
    };
    value.max(call.variable.err().unwrap_or(0)).max(call.is_local.unwrap_or(0))
}

/// ParameterDescription of so many texts, one of them perhaps a boolean.
fn parameters(outbox: &mut BytesMut, count: u16, boolean: Option<u16>) {
    const BOOL: u32 = 16;
    const TEXT: u32 = 25;
    outbox.put_u8(crate::wire::frame::backend::PARAMETER_DESCRIPTION);
    outbox.put_u32(6u32.saturating_add(u32::from(count).saturating_mul(4)));
    outbox.put_u16(count);
    for number in 1..=count {
        outbox.put_u32(if boolean == Some(number) { BOOL } else { TEXT });
    }
}

/// Whether a command is answered here, for this client, now.
fn is_ours(command: &Command, client: &ClientState, holds: bool) -> bool {
    match command {
        Command::Deallocate(name) => client.statement(name).is_some(),
        Command::DeallocateAll => client.rules.server_statements > 0 && client.pins.is_empty(),
        Command::DiscardAll | Command::ResetAll => !holds && client.rules.mode != Mode::Session,
        Command::SelectBound(_) => client.rules.identity.enabled,
        Command::ResetIdentity { .. } | Command::SelectIdentity(..) | Command::SetIdentity(..) => true,
    }
}

/// The token that a command gives, if it is yet to be judged.
fn unjudged(command: &Command, client: &ClientState) -> Option<Secret> {
    let (Command::SetIdentity(Subject::Token, value)
    | Command::SelectIdentity(Subject::Token, Value::Literal(value))) = command
    else {
        return None;
    };
    let is_asked =
        client.verdict.is_none() && client.rules.identity.from_set && (1..=MAX_TOKEN).contains(&value.len());
    std::str::from_utf8(value).ok().filter(|_| is_asked).map(Secret::from)
}

/// A SET of a variable, or of the token that states them all; an empty token is none.
fn set(
    subject: Subject,
    value: &[u8],
    client: &mut ClientState,
    settings: &IdentitySettings,
) -> Result<(), Refusal> {
    let nth = match subject {
        Subject::Variable(nth) => nth,
        Subject::Token if !settings.from_set => return Err(Refusal::IdentityChannel),
        Subject::Token if value.is_empty() => {
            client.claim.forget();
            return Ok(());
        }
        Subject::Token if value.len() > MAX_TOKEN => return Err(Refusal::Token(TokenFault::TooLong)),
        Subject::Token => {
            // Without a verdict it was nothing that could be asked about.
            let verdict = client.verdict.take().map_or(Err(TokenFault::Malformed), |verdict| *verdict);
            client.claim.grant(verdict.map_err(Refusal::Token)?);
            return Ok(());
        }
    };
    client.claim.set(nth, value, settings)
}

/// A RESET of a variable, or of the token: back to what the client came with.
fn reset(subject: Subject, client: &mut ClientState, settings: &IdentitySettings) -> Result<(), Refusal> {
    match subject {
        Subject::Variable(nth) => client.claim.reset(nth, settings),
        Subject::Token if !settings.from_set => Err(Refusal::IdentityChannel),
        Subject::Token => {
            client.claim.reset_all();
            Ok(())
        }
    }
}

/// Does what a command says, and answers as its Execute.
fn run(command: &Command, client: &mut ClientState, outbox: &mut BytesMut) -> Answer {
    let settings = client.rules.clone();
    let tag: &[u8] = match command {
        Command::Deallocate(name) => {
            client.forget_statement(name);
            b"DEALLOCATE"
        }
        Command::DeallocateAll => {
            client.forget_statements();
            b"DEALLOCATE ALL"
        }
        Command::DiscardAll => {
            client.discard_all();
            b"DISCARD ALL"
        }
        Command::ResetAll => {
            client.reset_all();
            b"RESET"
        }
        Command::ResetIdentity { subject, is_set } => {
            if let Err(refusal) = reset(*subject, client, &settings.identity) {
                return Answer::Refused(refusal, Vec::new());
            }
            if *is_set { b"SET" } else { b"RESET" }
        }
        Command::SelectIdentity(subject, Value::Literal(value)) => {
            if let Err(refusal) = set(*subject, value, client, &settings.identity) {
                return Answer::Refused(refusal, Vec::new());
            }
            write::data_row(outbox, &[Some(value)]);
            b"SELECT 1"
        }
        Command::SelectBound(_) | Command::SelectIdentity(_, Value::Parameter(_)) => return Answer::Server,
        Command::SetIdentity(subject, value) => {
            if let Err(refusal) = set(*subject, value, client, &settings.identity) {
                return Answer::Refused(refusal, Vec::new());
            }
            b"SET"
        }
    };
    write::command_complete(outbox, tag);
    if matches!(command, Command::DiscardAll | Command::ResetAll) {
        client.tell_reset(outbox);
    }
    Answer::Done
}
