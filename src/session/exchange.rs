//! One client and one server, talking.
//!
//! The exchange is given bytes from either side and moves them, changed or not, to the other, keeping count of what is owed.
//! It is where every decision of the hot path is made, and it performs none of them: sockets belong to [`crate::net`],
//! waiting to [`crate::proxy`].
//!
//! ```text
//!  begin ─► Barrier ── every answer of the prelude as scripted ──► Talking ── at rest ──► Settled(Clean) | Held
//!     │        │  held back: the client's later units stay in its inbox        │
//!     │        └─ E before C(COMMIT): the unit did not run ─► Unwinding ─► Unwound    might have left something:
//!     └─ nothing to say first ─► Talking                                       Inspecting ─► Sweeping ─► Settled
//!                                                                            one of so many: Watching ─► Settled | Lost
//! ```
//!
//! # Promises
//! - [`advance`](Exchange::advance) consumes all it can, and calling it again without new bytes does nothing.
//! - Nothing the client says takes effect unless the prelude before it succeeded, and no answer to the prelude reaches the
//!   client. Until then what was sent stays in the client's inbox, so that it can be said again elsewhere.
//! - A [`Clean`] is minted only if another client could use the server this instant.
//!
//! # Refuses
//! To await, to read a clock, to log, to hold more than one partial frame per side.
//!
//! # Reasons not to be at rest
//! owed answers · status `T` or `E` · copy in progress · a frame half through, either way · extended messages without
//! their Sync · a prelude unproven · bytes not yet on their way to the server

mod conclusion;
mod from_client;
mod from_server;
mod judgement;
mod statements;

pub(in crate::session) use from_client::{needed, read_query};
pub(in crate::session) use judgement::{refusal, subject};

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;

use crate::names::ServerId;
use crate::session::claim::Identity;
use crate::session::client::ClientState;
use crate::session::hold::Pins;
use crate::session::inject::{Cleaning, Prelude};
use crate::session::inspect::Findings;
use crate::session::mutation::{self, Mutation};
use crate::session::pipeline::{Answer, Origin, Owed, Pipeline};
use crate::session::prepared::{Named, Statement};
use crate::session::server::ServerState;
use crate::session::settings::{CleanPolicy, Scope};
use crate::session::sql::Hints;
use crate::session::tally::Errors;
use crate::session::transaction::Status;
use crate::session::violation::Violation;
use crate::wire::Buffers;
use crate::wire::buffer;
use crate::wire::write;

/// Witness that one server owes nothing and holds nothing of its client's.
#[must_use]
#[derive(Debug)]
pub struct Clean(ServerId);

impl Clean {
    /// The server it speaks of.
    pub fn server(&self) -> ServerId {
        self.0
    }
}

/// How a turn of the conversation ended.
#[must_use]
#[derive(Debug)]
pub enum Outcome {
    /// The client has said Terminate; what it leaves must be [abandoned](Exchange::abandon).
    ClientLeft,
    /// The transaction is over, and the client keeps its server.
    Held,
    /// The server cannot be used again.
    Lost(Loss),
    /// The transaction is over, and the server is anyone's.
    Settled(Clean),
    /// The prelude failed. Nothing of the client's ran; its words are in its inbox still.
    /// Without a witness the client keeps its server, and with it what it left there before.
    Unwound(Option<[u8; 5]>, Option<Clean>),
}

/// Why a server is lost, though it broke no rule of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// It could not be cleaned.
    Clean,
    /// It had what nobody believed it had: of these kinds.
    Differs(Pins),
    /// It ended the connection; the client has been told with its own words, if any of the client's ran.
    Fatal {
        /// Whether the client was told: some of its words may have been executed.
        is_told: bool,
    },
    /// What is owed can no longer be known (a Query among un-Synced messages, a copy among others).
    Tainted,
}

/// Where the conversation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// The prelude is on its way with the first unit; the rest is held back.
    Barrier,
    /// Our question is on its way.
    Inspecting,
    /// A turn has begun; nothing has been said.
    Ready,
    /// Between transactions.
    #[default]
    Resting,
    /// Our clean is on its way.
    Sweeping { with_statements: bool },
    /// The client's words go through.
    Talking,
    /// The transaction is over and the server would be anyone's, but for a look at what it really has.
    Watching,
    /// The prelude has failed; back to `Z(I)`.
    Unwinding(Option<[u8; 5]>),
}

/// The extended messages since the last Sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Segment {
    /// Some have been sent.
    Open,
    /// None.
    #[default]
    Synced,
    /// The server skips them: one failed.
    Void,
}

/// How the first unit ended, while the barrier stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Unit {
    /// It has not.
    #[default]
    Open,
    /// With a Query or a FunctionCall: no ReadyForQuery comes if the prelude fails.
    Query,
    /// With a Sync.
    Sync,
    /// It is too long to be kept: it waits for the prelude.
    TooLong,
}

/// The rest of a frame that is half through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Rest {
    /// There is none.
    #[default]
    None,
    /// So many bytes are still to be dropped.
    Discard(usize),
    /// So many bytes are still to be forwarded.
    Forward(usize),
}

/// What must be taken back if the server refuses a message, in the order of the messages.
#[derive(Debug)]
enum Undo {
    /// A name taken away by Close.
    Closed(Box<[u8]>, Named),
    /// A name given by Parse.
    Parsed(Box<[u8]>),
}

impl Undo {
    fn name(&self) -> &[u8] {
        match self {
            Self::Closed(name, _) | Self::Parsed(name) => name,
        }
    }
}

/// One client and one server, talking.
#[derive(Default)]
pub struct Exchange {
    phase: Phase,
    status: Status,
    segment: Segment,
    unit: Unit,
    pipeline: Pipeline,
    /// Bytes of the client's inbox that have been sent and are kept; 0 but in the barrier.
    cursor: usize,
    client_rest: Rest,
    server_rest: Rest,
    is_copying_in: bool,
    /// Whether each unit is answered before the next is heard.
    is_one_shot: bool,
    /// Whether the turn ends with the transaction that is under way, whatever else has come.
    ends_soon: bool,
    is_abandoned: bool,
    /// Whether a client's startup settings are tried.
    is_trial: bool,
    /// Whether the client keeps the server from turn to turn.
    is_kept: bool,
    is_tainted: bool,
    has_left: bool,
    /// Whether any of the client's words were taken in this turn.
    has_spoken: bool,
    /// How many statements of the prelude the server will have by name, once it is proven.
    named: usize,
    /// Whether the prelude has a token in it.
    is_signed: bool,
    /// Whether the prelude discards plans, and has not done so yet.
    discards_plans: bool,
    /// Whether the prelude changes settings: the server reports them only with its next ReadyForQuery.
    changes_settings: bool,
    /// How many units the client has ended: what was said before the last end may fail without what comes after it.
    epoch: u64,
    /// The statement bound last.
    bound: u64,
    /// Whether the text bound last puts names or state away.
    bound_cleans: bool,
    /// Whether such a text runs: nothing is judged before it is known what is left.
    is_cleaning: bool,
    /// Whether the server's unnamed statement is this client's.
    has_unnamed: bool,
    /// Whether there was an Execute since the last Sync.
    has_executed: bool,
    /// Whether the client has prepared on this server what has no name of ours, by the tags of its commands; counts where
    /// the server does not say what is there.
    has_prepared: bool,
    hints: Hints,
    custom: Vec<Vec<u8>>,
    /// What to take back, and in which epoch it was said.
    undo: VecDeque<(u64, Undo)>,
    /// Statements that the server has been told to close and has not closed yet, and in which epoch.
    closing: Vec<(u64, Arc<Statement>)>,
    /// The names that texts sent and not yet answered deallocate, in their order.
    deallocating: VecDeque<Box<[u8]>>,
    /// The names in the refusals that are owed, in their order.
    refused: VecDeque<Box<[u8]>>,
    /// The server's words when it refused a prelude.
    failure: Box<[u8]>,
    fatal: Option<Loss>,
    findings: Findings,
    /// What is refused and was there all the same.
    slipped: Pins,
    is_just_proven: bool,
    question_failed: Option<[u8; 5]>,
    /// How often the question was asked again.
    questions: u8,
    /// Units of the client's answered so far: a new one is a new query for its deadline.
    answered: u64,
    sweeps: u64,
    errors: Errors,
}

impl Exchange {
    /// A turn begins: `server` is at a proven `Z(I)`, and the client has something to say.
    pub fn begin(
        &mut self,
        client: &mut ClientState,
        told: &mut BytesMut,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) {
        self.forget_turn();
        let cleaning = cleaning(client, server);
        let wanted = server.settings_for(&client.wanted);
        let identity = &client.rules.identity;
        self.is_one_shot = identity.enabled && identity.scope == Scope::Transaction;
        let key = identity.signing();
        if let Some(key) = key {
            if cleaning != Cleaning::None {
                server.tier.set_known(false);
            }
            server.tier.prepare(key, client.claim.current().map_or(b"", Identity::as_bytes));
        }
        self.is_signed = key.is_some();
        let prelude = Prelude {
            identity,
            claim: &client.claim,
            token: key.map(|_| server.tier.token()),
            prepared: if cleaning == Cleaning::All { 0 } else { server.prelude },
            applied: &server.applied,
            wanted: &wanted,
            cleaning,
            discards_sequences: client
                .peeked
                .as_ref()
                .is_some_and(|reading| reading.hints.has(Hints::SEQUENCES)),
        };
        self.changes_settings = !server.applied.is_same(&wanted);
        self.named = prelude.named();
        if prelude.is_needed() {
            prelude.write(outbox, &mut self.pipeline);
            self.discards_plans = cleaning == Cleaning::All && server.has_plans();
            if self.discards_plans {
                server.forget_statements(); // what the client's words need is prepared behind it
            }
            self.phase = Phase::Barrier;
            return;
        }
        self.phase = Phase::Ready;
        server.guest = Some(client.id);
        client.tell(&mut server.reported, told);
    }

    /// What the turn before has left is not this one's.
    fn forget_turn(&mut self) {
        self.status = Status::Idle;
        self.has_unnamed = false;
        self.refused.clear();
        self.deallocating.clear();
        self.has_executed = false;
        self.has_prepared &= self.is_kept;
        self.unit = Unit::Open;
        self.cursor = 0;
        self.hints = Hints::default();
        self.custom.clear();
        self.has_spoken = false;
        self.is_trial = false;
        self.is_cleaning = false;
        self.ends_soon = false;
    }

    /// A turn without words of the client's: the prelude alone, to see whether the server takes its settings. Its startup
    /// settings become what the server made of them: `german` is `German, DMY`.
    pub fn begin_trial(
        &mut self,
        client: &mut ClientState,
        told: &mut BytesMut,
        server: &mut ServerState,
        outbox: &mut BytesMut,
    ) {
        self.begin(client, told, server, outbox);
        self.is_trial = true;
        if !client.startup.is_empty() {
            self.hints = Hints::SETS;
        }
        if self.phase == Phase::Barrier {
            self.sync_own(outbox);
            self.unit = Unit::Sync;
        } else {
            self.phase = Phase::Talking;
        }
    }

    /// A turn without words of the client's, on a server that has been idle for long: does it answer?
    pub fn begin_check(&mut self, outbox: &mut BytesMut) {
        self.phase = Phase::Talking;
        self.status = Status::Idle;
        self.hints = Hints::default();
        self.has_spoken = false;
        self.sync_own(outbox);
    }

    /// Moves what can be moved, and says if that ended the turn.
    ///
    /// # Errors
    /// One side broke the protocol: its connection cannot go on, and the server's is not reused.
    pub fn advance(
        &mut self,
        client: &mut ClientState,
        client_buffers: &mut Buffers,
        server: &mut ServerState,
        server_buffers: &mut Buffers,
    ) -> Result<Option<Outcome>, Violation> {
        if let Some(outcome) = self.hear_server(client, client_buffers, server, server_buffers)? {
            return Ok(Some(outcome));
        }
        if self.is_abandoned {
            self.end_what_is_open(&mut server_buffers.outbox);
        }
        // A new transaction is a new turn: what has come to rest is concluded before the client is heard again.
        if let Some(outcome) = self.conclude(client, server, server_buffers) {
            return Ok(Some(outcome));
        }
        if self.is_abandoned {
            return Ok(None);
        }
        self.hear_client(client, client_buffers, server, &mut server_buffers.outbox)?;
        if !self.has_left {
            return Ok(None);
        }
        // What is half said will not be finished; there is nothing to wait for.
        if self.segment == Segment::Open || self.is_copying_in || self.is_unit_open() {
            return Ok(Some(Outcome::ClientLeft));
        }
        Ok(self.conclude(client, server, server_buffers))
    }

    /// The identity has ended: what is under way is finished, and nothing new begins in this turn.
    pub fn end_soon(&mut self) {
        self.ends_soon = true;
    }

    /// The client is gone. What it was doing is given up; the server is led back to `Z(I)` and cleaned, if that can be done.
    ///
    /// The caller cancels what runs, if [`is_busy`](Self::is_busy). Whether it can be done at all is the answer.
    #[must_use]
    pub fn abandon(&mut self, outbox: &mut BytesMut) -> bool {
        // Un-Synced messages would be committed by a Sync; half a frame cannot be completed.
        if self.client_rest != Rest::None
            || (self.segment == Segment::Open && !self.is_copying_in && !mutation::is_on(Mutation::NoSegment))
            || self.is_tainted
        {
            return false;
        }
        self.is_abandoned = true;
        self.has_left = false;
        self.hints = self.hints.with(Hints::STATE);
        if matches!(self.phase, Phase::Ready | Phase::Resting) {
            self.phase = Phase::Talking;
        }
        self.end_what_is_open(outbox);
        true
    }

    /// Ends a copy and a unit that nobody will end any more. A copy may begin after its client has left.
    fn end_what_is_open(&mut self, outbox: &mut BytesMut) {
        if std::mem::take(&mut self.is_copying_in) {
            write::copy_fail(outbox, "client connection was lost");
        }
        if self.segment != Segment::Synced || self.is_unit_open() {
            self.segment = Segment::Synced;
            self.end_unit(Unit::Sync);
            self.sync_own(outbox);
        }
    }

    /// Whether a prelude is on its way without anything behind it that makes the server answer.
    fn is_unit_open(&self) -> bool {
        self.phase == Phase::Barrier && matches!(self.unit, Unit::Open | Unit::TooLong)
    }

    /// The server's words when it refused the last prelude: the body of its ErrorResponse.
    pub fn take_failure(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.failure)
    }

    /// Whether more of the client's words could be judged now, had they come.
    pub fn is_listening(&self) -> bool {
        !self.is_holding_back()
    }

    /// What was found on the server although its like is refused here, and is swept: once.
    pub fn take_slipped(&mut self) -> Pins {
        std::mem::take(&mut self.slipped)
    }

    /// Units of the client's answered so far.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// How often the server has been cleaned.
    pub fn sweeps(&self) -> u64 {
        self.sweeps
    }

    /// The errors it has said to its client since this was last asked.
    pub fn take_errors(&mut self) -> Errors {
        std::mem::take(&mut self.errors)
    }

    /// Whether the server is at work for the client.
    pub fn is_busy(&self) -> bool {
        !self.pipeline.is_empty()
    }

    /// Whether the client is in a transaction, or before the Sync of one, and the server waits for it.
    pub fn is_idle_in_transaction(&self) -> bool {
        self.pipeline.is_empty() && (self.status != Status::Idle || self.segment != Segment::Synced)
    }

    /// Whether any of the client's words may have been executed on this server in this turn.
    ///
    /// Those behind an unproven prelude may: the server may have died with the proof still in its own buffer.
    pub fn may_have_run(&self) -> bool {
        match self.phase {
            Phase::Barrier => self.cursor > 0,
            Phase::Ready | Phase::Resting | Phase::Unwinding(_) => false,
            Phase::Inspecting | Phase::Sweeping { .. } | Phase::Talking | Phase::Watching => true,
        }
    }

    /// Whether something of the client's session would be lost with the server, and known nowhere else: then the client
    /// cannot go on as if nothing had happened.
    pub fn loses_state(&self) -> bool {
        let may_have_set = self.hints.any(Hints::SETS.with(Hints::STATE).with(Hints::OPAQUE));
        match self.phase {
            Phase::Inspecting | Phase::Talking => self.is_kept || may_have_set,
            Phase::Barrier | Phase::Ready | Phase::Resting | Phase::Unwinding(_) => self.is_kept,
            Phase::Sweeping { .. } | Phase::Watching => false,
        }
    }

    /// Whether the client's outbox ends between two frames, so that words of ours may follow.
    pub fn is_between_frames(&self) -> bool {
        !matches!(self.server_rest, Rest::Forward(_))
    }

    /// The last transaction status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Sends a Sync of ours and expects its answer.
    fn sync_own(&mut self, outbox: &mut BytesMut) {
        write::sync(outbox);
        self.pipeline.push(Owed::client(Answer::Sync).by(Origin::Injected));
    }

    /// Takes back what the voided entries had promised, the last first.
    fn void_all(&mut self, voided: &[Owed], client: &mut ClientState, server: &mut ServerState) {
        let undone = voided.iter().filter(|owed| is_undoable(**owed)).count();
        let later = self.undo.split_off(undone.min(self.undo.len()));
        for owed in voided.iter().rev() {
            self.void(*owed, client, server);
        }
        self.undo = later;
    }

    fn void(&mut self, owed: Owed, client: &mut ClientState, server: &mut ServerState) {
        match (owed.answer, owed.origin) {
            (Answer::Parse, Origin::Client | Origin::Injected) if owed.statement != 0 => {
                server.statements.remove(owed.statement)
            }
            (Answer::Close, Origin::Injected) => self.unclose(owed.statement, server),
            // PostgreSQL has kept the one before, if the Parse was skipped; nobody asks for that.
            (Answer::Parse, Origin::Client) => client.forget_unnamed(),
            _ => {}
        }
        if is_undoable(owed) {
            self.undo_next(client);
        }
    }

    /// A statement that was to make room is still there.
    fn unclose(&mut self, number: u64, server: &mut ServerState) {
        if let Some(at) = self.closing.iter().position(|(_, statement)| statement.number == number) {
            server.statements.keep(self.closing.swap_remove(at).1);
        }
    }

    fn undo_next(&mut self, client: &mut ClientState) {
        match self.undo.pop_back() {
            Some((_, Undo::Closed(name, named))) => client.restore_statement(&name, named),
            Some((_, Undo::Parsed(name))) => {
                client.forget_statement(&name);
            }
            None => {}
        }
    }

    /// Drops what has been judged, or keeps it while the barrier stands.
    fn consume(&mut self, inbox: &mut BytesMut, count: usize) {
        if self.phase == Phase::Barrier {
            self.cursor = self.cursor.saturating_add(count);
        } else {
            buffer::discard(inbox, count);
        }
    }
}

/// How the server must be cleaned before this client's words.
fn cleaning(client: &ClientState, server: &ServerState) -> Cleaning {
    let is_anothers = server.guest.is_some_and(|guest| guest != client.id);
    let is_off = client.rules.clean == CleanPolicy::WhenNeeded || mutation::is_on(Mutation::NoClean);
    if !is_anothers || is_off {
        return Cleaning::None;
    }
    // Words about plans are not to meet another client's that SQL has made.
    let is_about_plans =
        client.peeked.as_ref().is_some_and(|reading| reading.hints.any(Hints::STATE.with(Hints::OPAQUE)));
    if server.has_plans() && !is_about_plans { Cleaning::KeepingPlans } else { Cleaning::All }
}

/// Whether an entry has its line in the list of what to take back: the client's Parse and Close of a name.
fn is_undoable(owed: Owed) -> bool {
    matches!(owed.answer, Answer::Parse | Answer::Close)
        && matches!(owed.origin, Origin::Client | Origin::Supplied)
        && owed.statement != 0
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {:?} {:?} {:?} {:?}",
            self.phase, self.status, self.segment, self.pipeline, self.server_rest
        )
    }
}
