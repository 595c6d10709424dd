//! Whether a text may go to the server now: it passes, waits, or is refused.
//!
//! What configuration forbids is forbidden anywhere; what changes the identity depends on where it is said. Outside of a
//! transaction block it is the pooler's to answer, inside it is PostgreSQL's own and ends with the block.
//!
//! # Promises
//! - Nothing that is known to change the identity passes outside of a block.
//! - While it is not known whether the next message is inside a block, such a text waits.
//!
//! # Refuses
//! To send or to answer anything.

use crate::session::bound::{self, Extent, Meaning};
use crate::session::client::ClientState;
use crate::session::exchange::{Exchange, Segment};
use crate::session::settings::{Mode, SetPolicy, StatePolicy, Subject};
use crate::session::sql::{Command, Hints, Reading, Reserved};
use crate::session::transaction::Status;
use crate::session::violation::Refusal;
use crate::wire::Header;
use crate::wire::Malformed;
use crate::wire::frontend::Bind;

impl Exchange {
    /// Whether a text may go to the server now.
    pub(super) fn judge(&self, reading: &Reading, client: &ClientState) -> Judgement {
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
    pub(super) fn judge_bound(
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
pub(super) enum Judgement {
    Hold,
    Pass,
    Refuse(Refusal),
}

impl Judgement {
    pub(super) fn of(refusal: Option<Refusal>) -> Self {
        refusal.map_or(Self::Pass, Self::Refuse)
    }
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
