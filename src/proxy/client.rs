//! One client's life, top to bottom.
//!
//! ```text
//! receive ─► [ idle ─► checkout ─► relay ─► release ]* ─► farewell
//!                        pinned: idle ─► relay, on the same server
//! ```
//!
//! # Promises
//! - A server is released before the client has read its answer.
//! - Whatever ends a client, its server is led back to `Z(I)` and cleaned, or closed; its words are never half executed
//!   in the next client's name.
//! - A statement none of whose words were executed is tried again on another server, and the client never knows.
//!
//! # Refuses
//! To judge bytes; to find words for a client beyond [`crate::proxy::farewell`].

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::auth::{Method, Secret};
use crate::drain::Present;
use crate::names::ClientId;
use crate::net::stream::Remote;
use crate::net::{Peer, Stream};
use crate::pool::{Doing, Injected, Lease, Tally};
use crate::proxy::Proxy;
use crate::proxy::cancel::{Entry, Found, Order, deliver};
use crate::proxy::catalog::Seat;
use crate::proxy::checkout::{NoLease, checkout};
use crate::proxy::counts::{Cancelled, Login};
use crate::proxy::entrance::{Arrival, Guest, receive};
use crate::proxy::farewell::{Denied, Ended};
use crate::proxy::relay::{self, Lateness, Watch, relay, relay_abandoned, tell_time};
use crate::proxy::replication;
use crate::session::exchange::Loss;
use crate::session::idle::{self, Idle};
use crate::session::violation::Side;
use crate::session::{
    Adoption, Clean, CleanPolicy, ClientState, MustLogInAnew, Outcome, Refusal, TokenFault,
};
use crate::telemetry::instruments::Counter;
use crate::token::has_passed;

/// Times a turn is begun again when none of the client's words were executed.
const TRIES: u32 = 3;

/// A turn that took less has not run into a timeout; below a tenth of a second nobody sets one for all.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// Serves a client until it is gone; until then it is `here`.
///
/// What logging in and leaving need is boxed: the task is kept small for the thousands that idle.
pub(super) fn serve(
    proxy: Arc<Proxy>,
    stream: Stream,
    remote: Remote,
    id: ClientId,
    here: Present,
) -> impl Future<Output = ()> + Send {
    let arriving = Box::pin(arrive(proxy, stream, remote, id));
    async move {
        // Not `if let`: what is matched there stays until the end, and the client would be there twice.
        let Some(mut client) = arriving.await else { return drop(here) };
        let ended = client.live().await;
        if let Some((peer, limit)) = client.farewell(ended) {
            Box::pin(say(peer, limit)).await;
        }
        drop(here);
    }
}

/// Last words are owed to a client, but not for ever.
async fn say(last_words: Peer, limit: Duration) {
    let _ = timeout(limit, last_words.close()).await;
}

/// Until there is a client that has been let in, or whoever came is gone.
async fn arrive(proxy: Arc<Proxy>, stream: Stream, remote: Remote, id: ClientId) -> Option<Client> {
    let came = Instant::now();
    let Some(stranger) = proxy.strangers.take_now() else {
        turn_away(&proxy, stream, id, remote);
        return None;
    };
    let arrival = receive(&proxy, Peer::new(stream), remote, id).await;
    drop(stranger);
    match arrival {
        Arrival::Cancel(key, peer) => {
            let cancelled = match proxy.clients.cancel(&key) {
                Found::Aim(aim) => match Box::pin(deliver(aim)).await {
                    Ok(()) => Cancelled::Delivered,
                    Err(error) => {
                        tracing::warn!(client = %id, %remote, %error, "cancel request could not be delivered");
                        Cancelled::Failed
                    }
                },
                Found::Nothing => Cancelled::Nothing,
                Found::Waiting => Cancelled::Waiting,
            };
            proxy.counts.cancels.count(cancelled);
            // Closed only now: who asked sends its next statement when it sees this, and must not have that cancelled.
            // In TLS it is told so: libpq takes an end without a word for a failure of its cancel.
            if let Some(peer) = peer {
                let _ = timeout(proxy.edition().settings.login_timeout, peer.close()).await;
            }
        }
        Arrival::Lost(login) => {
            proxy.counts.logins.count(login);
            tracing::info!(client = %id, %remote, reason = login.word(), "login abandoned");
        }
        Arrival::Refused(login, reason) => {
            proxy.counts.logins.count(login);
            tracing::warn!(client = %id, %remote, reason, "login refused");
        }
        Arrival::Replication(pilgrim) => {
            proxy.counts.logins.count(Login::Replication);
            Box::pin(replication::serve(&proxy, *pilgrim)).await;
        }
        Arrival::Visitor(visitor) => {
            proxy.counts.logins.count(Login::Ok);
            if let Some(console) = proxy.console.get().cloned() {
                console.serve(*visitor).await;
            }
        }
        Arrival::Welcome(guest) => {
            proxy.counts.logins.count(Login::Ok);
            proxy.counts.login.observe(came.elapsed());
            return Some(Client::new(proxy, guest, id));
        }
    }
    None
}

/// Nothing is read of whoever comes when too many are on their way in, and nobody waits for it to listen.
fn turn_away(proxy: &Proxy, stream: Stream, id: ClientId, remote: Remote) {
    let (denied, mut peer) = (Denied::TooManyClients, Peer::new(stream));
    denied.write("FATAL", &mut peer.buffers.outbox);
    let _ = peer.poll_drain(&mut Context::from_waker(Waker::noop()));
    proxy.counts.logins.count(denied.login());
    tracing::warn!(client = %id, %remote, reason = "too many are on their way in", "login refused");
}

/// What is looked at rarely, kept apart so that an idle client is small.
struct Record {
    id: ClientId,
    since: Instant,
    /// How far the rules of its edition hold.
    adoption: Adoption,
    /// Its bytes that have been counted, from it and to it.
    counted: (u64, u64),
    guest: Guest,
}

/// A client that has been let in.
struct Client {
    proxy: Arc<Proxy>,
    record: Box<Record>,
    /// The server it has: while a turn lasts, or longer if it keeps it although its transaction is over.
    held: Option<Lease>,
}

/// What an idle client wants.
enum Wish {
    End(Ended),
    /// To be told what the configuration says now.
    News,
    Server,
    /// To know what this token proves.
    Verdict(Secret),
}

impl Client {
    fn new(proxy: Arc<Proxy>, guest: Box<Guest>, id: ClientId) -> Self {
        let (since, adoption) = (Instant::now(), Adoption::Whole);
        let record = Record { id, since, adoption, counted: (0, 0), guest: *guest };
        if record.guest.edition.logs_connections {
            let Guest { user, database, entry, .. } = &record.guest;
            let remote = origin(entry);
            tracing::info!(client = %id, remote, %database, %user, "client connected");
        }
        Self { proxy, record: Box::new(record), held: None }
    }

    /// Until it ends, and why it does.
    async fn live(&mut self) -> Ended {
        loop {
            match self.idle().await {
                Wish::End(ended) => return ended,
                Wish::News => match Box::pin(self.hear_news()).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                Wish::Server => {}
                Wish::Verdict(token) => {
                    self.judge(&token).await;
                    continue;
                }
            }
            if let Err(ended) = self.turn().await {
                return ended;
            }
        }
    }

    /// Until there is something to do for a server.
    async fn idle(&mut self) -> Wish {
        match self.record.guest.edition.settings.client_idle_timeout {
            None => self.wish().await,
            Some(limit) => match timeout(limit, self.wish()).await {
                Ok(wish) => wish,
                Err(_) => Wish::End(Ended::Idle),
            },
        }
    }

    /// Finds out what a token proves, once for each that is given.
    async fn judge(&mut self, token: &Secret) {
        let Guest { state, tokens, .. } = &mut self.record.guest;
        let verdict = match tokens {
            Some(tokens) => Box::pin(tokens.verify(token)).await,
            None => Err(TokenFault::KeysUnavailable),
        };
        if let Err(fault) = &verdict {
            tracing::warn!(client = %self.record.id, reason = fault.words(), "token refused");
        }
        state.verdict = Some(Box::new(verdict));
    }

    async fn wish(&mut self) -> Wish {
        poll_fn(|cx| self.poll_wish(cx)).await
    }

    /// Whether there is something new in the configuration that it can take now.
    fn is_behind(&self) -> bool {
        let guest = &self.record.guest;
        let has_more = match self.record.adoption {
            Adoption::UntilGivenBack => self.held.is_none(),
            Adoption::WhileItHasNames => self.held.is_none() && guest.state.statement_count() == 0,
            Adoption::Whole => false,
        };
        has_more || self.proxy.has_newer_than(&guest.edition)
    }

    /// Between two transactions, what the configuration says now becomes what holds for this client.
    async fn hear_news(&mut self) -> Result<(), Ended> {
        let guest = &mut self.record.guest;
        let edition = self.proxy.edition();
        let before = std::mem::replace(&mut guest.edition, edition.clone());
        if before.catalog.knows_user(&guest.user)
            && !edition.catalog.knows_user(&guest.user)
            && edition.settings.auth != Method::Trust
            && edition.verifiers.find(&guest.database, &guest.user).await.is_none()
        {
            return Err(Ended::UserRemoved);
        }
        let Some(seat) = edition.catalog.seat(&guest.database, &guest.user) else {
            return Err(Ended::DatabaseRemoved);
        };
        let adopted = guest.state.adopt(&seat.rules, seat.is_exempt, self.held.is_some());
        self.record.adoption = adopted.map_err(|MustLogInAnew| Ended::LogInAnew)?;
        if self.record.adoption != Adoption::UntilGivenBack {
            guest.tokens = seat.tokens.clone();
        }
        for cap in &seat.caps {
            if !guest.permits.iter().any(|place| place.is_of(cap)) {
                guest.permits.push(cap.take_anyway());
            }
        }
        if self.held.is_none() && *guest.member.pool().key() != seat.key {
            self.move_to(&seat);
        }
        Ok(())
    }

    /// Its servers come from another pool from now on.
    fn move_to(&mut self, seat: &Seat) {
        let pool = self.proxy.pools.pool(&seat.key, || seat.recipe.clone());
        let guest = &mut self.record.guest;
        guest.member.pool().forget(guest.state.id);
        guest.state.move_to(pool.statements());
        guest.member = pool.join();
    }

    fn poll_wish(&mut self, cx: &mut Context<'_>) -> Poll<Wish> {
        self.record.guest.entry.handle.is_served_by(cx.waker());
        if self.is_behind() {
            return Poll::Ready(Wish::News);
        }
        let Guest { peer, state, entry, member, .. } = &mut self.record.guest;
        let handle = &entry.handle;
        loop {
            match idle::answer(state, &mut peer.buffers, self.held.is_some()) {
                Ok(Idle::Left) => return Poll::Ready(Wish::End(Ended::ClientLeft)),
                Ok(Idle::NeedMore) => {}
                Ok(Idle::NeedServer) if state.claim.until().is_some_and(has_passed) => {
                    idle::refuse(state, &mut peer.buffers, Refusal::IdentityExpired);
                    continue;
                }
                Ok(Idle::NeedServer) => return Poll::Ready(Wish::Server),
                Ok(Idle::NeedVerdict(token)) => return Poll::Ready(Wish::Verdict(token)),
                Err(violation) => return Poll::Ready(Wish::End(Ended::ClientViolation(violation))),
            }
            if !state.counts.refusals.is_empty() {
                let refusals = std::mem::take(&mut state.counts.refusals);
                Counter::add_each(&member.pool().pressure().refusals, &refusals.each());
            }
            // One that was admitted after the others were told to leave has not been told.
            let must_leave = handle.is_ordered(Order::Leave) || self.proxy.drain.is_leaving();
            if must_leave || handle.is_ordered(Order::Die) {
                return Poll::Ready(Wish::End(Ended::Drained));
            }
            let mut moved = false;
            if let Some(server) = &mut self.held {
                match hear_held(server, peer, state, cx) {
                    Ok(heard) => moved |= heard,
                    Err(ended) => return Poll::Ready(Wish::End(ended)),
                }
            }
            if peer.poll_drain(cx).is_err() {
                return Poll::Ready(Wish::End(Ended::ClientGone));
            }
            if peer.has_room() {
                match peer.poll_fill(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(true)) => moved = true,
                    Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Wish::End(Ended::ClientGone)),
                }
            }
            if !moved {
                peer.give_up();
                return Poll::Pending;
            }
        }
    }

    /// One turn with a server: usually one transaction.
    async fn turn(&mut self) -> Result<(), Ended> {
        for attempt in 1..=TRIES {
            if !self.lease().await? {
                return Ok(());
            }
            match self.talk().await? {
                Spoken::Done => return Ok(()),
                Spoken::Nothing(_) if self.was_cancelled() => {
                    self.deny(&Denied::Cancelled);
                    return Ok(());
                }
                Spoken::Nothing(Some(sqlstate)) if attempt == TRIES && &sqlstate == b"57014" => {
                    self.deny(&Denied::Hasty);
                }
                Spoken::Nothing(sqlstate) if attempt == TRIES => {
                    tracing::error!(client = %self.record.id, pool = %self.pool(), ?sqlstate, "prelude failed");
                    self.deny(&Denied::Prelude);
                }
                Spoken::Nothing(_) => {}
            }
        }
        Ok(())
    }

    fn was_cancelled(&self) -> bool {
        self.record.guest.entry.handle.was_cancelled()
    }

    fn pool(&self) -> &crate::names::PoolKey {
        self.record.guest.member.pool().key()
    }

    /// Answers what is at the front of the inbox with an error; the session goes on.
    fn deny(&mut self, denied: &Denied) {
        let Guest { peer, state, .. } = &mut self.record.guest;
        idle::deny(state, &mut peer.buffers, |outbox| denied.write("ERROR", outbox));
    }

    /// Holds the server it keeps, or one of its pool's; `false` if it has been told why there is none.
    async fn lease(&mut self) -> Result<bool, Ended> {
        if let Some(lease) = &mut self.held {
            lease.pin(false);
            self.record.guest.entry.handle.has(&lease.cancel);
            return Ok(true);
        }
        let Guest { peer, state, entry, member, .. } = &mut self.record.guest;
        match checkout(member.pool(), peer, &entry.handle, state).await {
            Ok(lease) => {
                self.held = Some(lease);
                return Ok(true);
            }
            Err(NoLease::ClientGone) => return Err(Ended::ClientGone),
            Err(NoLease::Ordered) => return Err(Ended::Drained),
            Err(NoLease::Cancelled) => self.deny(&Denied::Cancelled),
            // What it said is judged again, under the rules as they are now.
            Err(NoLease::Outdated) => state.peeked = None,
            Err(NoLease::Checkout(error)) => {
                let denied = Denied::Checkout(error);
                tracing::warn!(client = %self.record.id, pool = %self.pool(), reason = %denied, "no server for a client");
                self.deny(&denied);
            }
        }
        self.record.guest.entry.handle.has_nothing();
        Ok(false)
    }

    /// Moves bytes until the turn is over, and gives the server back.
    ///
    /// The lease stays where it is meanwhile: in a variable of its own, idle clients would have room for it twice.
    async fn talk(&mut self) -> Result<Spoken, Ended> {
        let Some(lease) = &mut self.held else { return Err(Ended::ServerGone) };
        let Guest { peer, state, entry, member, .. } = &mut self.record.guest;
        let server = &mut **lease;
        let began = Instant::now();
        server.cancel.life.lend(self.record.id, began);
        let (answered, swept, pinned) = (server.exchange.answered(), server.exchange.sweeps(), state.pins);
        let (told, outbox) = (&mut peer.buffers.outbox, &mut server.peer.buffers.outbox);
        tell_time(state, &mut server.state);
        server.exchange.begin(state, told, &mut server.state, outbox);
        let mut watch = Watch::new(&state.rules, began.into());
        let result = loop {
            let result = relay(peer, state, server, &entry.handle, &mut watch).await;
            if matches!(result, Err(relay::Ended::Late(Lateness::Query)))
                && watch.grant(member.pool().settings().clean_timeout)
            {
                // The server says 57014 itself, and the session goes on; or it does not, and both end.
                let aim = server.cancel.aim();
                drop(tokio::spawn(async move { drop(deliver(aim).await) }));
                continue;
            }
            break result;
        };
        let now = Instant::now();
        let (whole, thought) = watch.times(now.into());
        let queries = server.exchange.answered().saturating_sub(answered);
        let pressure = member.pool().pressure();
        pressure.cleans.add(server.exchange.sweeps().saturating_sub(swept));
        Counter::add_each(&pressure.errors, &server.exchange.take_errors().each());
        state.pins.iter().filter(|pin| !pinned.contains(*pin)).for_each(|pin| pressure.pinned_by(pin));
        if state.rules.identity.enabled {
            let was_cancelled = entry.handle.was_cancelled();
            pressure.injections.count(match &result {
                Ok(Outcome::Unwound(..)) if was_cancelled => Injected::Cancelled,
                Ok(Outcome::Unwound(..)) => Injected::Failed,
                Ok(_) | Err(_) => Injected::Ok,
            });
        }
        lease.count_traffic();
        self.count(queries, (whole, thought));
        let Some(lease) = self.held.take() else { return Err(Ended::ServerGone) };
        match result {
            Ok(outcome) => self.conclude(outcome, lease, whole, now),
            Err(ended) => self.interrupted(ended, lease),
        }
    }

    /// Adds what this turn was to what its pool has done.
    fn count(&mut self, queries: u64, (whole, thought): (Duration, Duration)) {
        let Guest { peer, state, member, entry, .. } = &mut self.record.guest;
        entry.handle.has_statements(state.statement_count());
        let counts = std::mem::take(&mut state.counts);
        Counter::add_each(&member.pool().pressure().refusals, &counts.refusals.each());
        let (received, sent) = peer.traffic();
        let (before_received, before_sent) = std::mem::replace(&mut self.record.counted, (received, sent));
        let pressure = member.pool().pressure();
        pressure.transaction.observe(whole);
        if let Ok(count @ 1..) = u32::try_from(queries) {
            pressure.query.observe_many(whole.saturating_sub(thought) / count, queries);
        }
        // What is still in its outbox is counted with the next turn, or when it leaves.
        member.pool().stats().add(Tally {
            queries,
            received: received.saturating_sub(before_received),
            sent: sent.saturating_sub(before_sent),
            whole,
            thought,
            client_parses: counts.client_parses,
            server_parses: counts.server_parses,
            binds: counts.binds,
            prepared_hits: counts.prepared_hits,
            prepared_evictions: counts.prepared_evictions,
        });
    }

    /// What came of the turn `now`, after so long.
    fn conclude(
        &mut self,
        outcome: Outcome,
        mut lease: Lease,
        took: Duration,
        now: Instant,
    ) -> Result<Spoken, Ended> {
        note_slipped(self.record.id, &mut lease);
        match outcome {
            Outcome::ClientLeft => {
                self.abandon(lease);
                return Err(Ended::ClientLeft);
            }
            Outcome::Held => {
                lease.cancel.life.pin(self.record.guest.state.pins, now);
                self.hold(lease);
            }
            Outcome::Lost(loss) => return self.lost(loss, lease),
            Outcome::Settled(clean) => {
                lease.state.is_doubtful |= self.may_leave_timeout(took);
                self.give_back(lease, clean, now);
            }
            Outcome::Unwound(sqlstate, clean) => {
                // Read before the server is anyone's again: a cancel after this is not for this turn.
                let was_cancelled = self.was_cancelled();
                let id = self.record.guest.state.id;
                let is_to_blame = !was_cancelled && lease.state.is_to_blame(id, sqlstate);
                match clean {
                    Some(_) if is_to_blame => {
                        self.record.guest.entry.handle.has_nothing();
                        drop(lease);
                    }
                    Some(clean) => self.give_back(lease, clean, now),
                    None => self.hold(lease),
                }
                if was_cancelled {
                    self.deny(&Denied::Cancelled);
                    return Ok(Spoken::Done);
                }
                return Ok(Spoken::Nothing(sqlstate));
            }
        }
        self.note_slow(took);
        Ok(Spoken::Done)
    }

    /// Keeps a server although the transaction is over.
    fn hold(&mut self, mut lease: Lease) {
        lease.pin(true);
        self.held = Some(lease);
    }

    /// Whether a timeout of the server's own may have run out as the turn ended: PostgreSQL then fails the next message it reads.
    /// That is one of a prelude's, or of a Sync of ours.
    fn may_leave_timeout(&self, took: Duration) -> bool {
        let rules = &self.record.guest.state.rules;
        let has_prelude = rules.clean != CleanPolicy::WhenNeeded || rules.identity.enabled;
        took >= SHORTEST_TIMEOUT && !has_prelude
    }

    fn give_back(&self, lease: Lease, clean: Clean, now: Instant) {
        self.record.guest.entry.handle.has_nothing();
        lease.release(clean, now);
    }

    fn note_slow(&self, took: Duration) {
        let Some(limit) = self.record.guest.state.rules.slow_transaction else { return };
        if took >= limit {
            tracing::warn!(client = %self.record.id, pool = %self.pool(), seconds = took.as_secs_f64(), "slow transaction");
        }
    }

    /// The server cannot be used again, and said so or made it so.
    fn lost(&mut self, loss: Loss, lease: Lease) -> Result<Spoken, Ended> {
        let (pool, server) = (self.pool(), lease.id());
        tracing::warn!(client = %self.record.id, %pool, %server, ?loss, "server lost");
        self.record.guest.entry.handle.has_nothing();
        let may_have_run = lease.exchange.may_have_run();
        let loses_state = lease.exchange.loses_state();
        match loss {
            Loss::Fatal { .. } => lease.lose(),
            Loss::Differs(kinds) => {
                tracing::error!(%pool, %server, %kinds, "the canary found on a server what was not believed of it; it is closed");
                lease.distrust();
            }
            Loss::Clean | Loss::Tainted => drop(lease),
        }
        match loss {
            Loss::Fatal { is_told: true } => Err(Ended::ServerFatal),
            _ if loses_state => Err(Ended::ServerGone),
            Loss::Fatal { is_told: false } if !may_have_run => Ok(Spoken::Nothing(None)),
            Loss::Clean | Loss::Differs(_) | Loss::Fatal { .. } | Loss::Tainted => Ok(Spoken::Done),
        }
    }

    /// The relay stopped without an outcome.
    fn interrupted(&mut self, ended: relay::Ended, lease: Lease) -> Result<Spoken, Ended> {
        match ended {
            relay::Ended::Client => {
                self.abandon(lease);
                Err(Ended::ClientGone)
            }
            relay::Ended::Late(lateness) => {
                self.abandon(lease);
                Err(match lateness {
                    Lateness::IdleInTransaction => Ended::IdleInTransaction,
                    Lateness::Query | Lateness::Transaction => Ended::TransactionTimeout,
                })
            }
            relay::Ended::Ordered => {
                self.abandon(lease);
                Err(Ended::Drained)
            }
            relay::Ended::Server(error) => {
                let (pool, server) = (self.pool(), lease.id());
                tracing::warn!(client = %self.record.id, %pool, %server, %error, "server gone");
                let is_safe = !lease.exchange.may_have_run() && !lease.exchange.loses_state();
                let is_between = lease.exchange.is_between_frames();
                self.record.guest.entry.handle.has_nothing();
                lease.lose();
                match (is_safe, is_between) {
                    (true, _) => Ok(Spoken::Nothing(None)),
                    (false, true) => Err(Ended::ServerGone),
                    (false, false) => Err(Ended::ClientGone),
                }
            }
            relay::Ended::Violation(violation) => match violation.side() {
                Side::Client => {
                    self.abandon(lease);
                    Err(Ended::ClientViolation(violation))
                }
                Side::Server => {
                    tracing::error!(pool = %self.pool(), server = %lease.id(), %violation, "server broke the protocol");
                    self.record.guest.entry.handle.has_nothing();
                    drop(lease);
                    Err(Ended::ServerViolation(violation))
                }
            },
        }
    }

    /// Leads a server back that its client has left, in a task of its own.
    fn abandon(&mut self, mut lease: Lease) {
        self.record.guest.entry.handle.has_nothing();
        lease.await_nobody();
        let is_busy = lease.exchange.is_busy();
        lease.cancel.life.turn_to(Doing::Recovering, Instant::now());
        let server = &mut *lease;
        if !server.exchange.abandon(&mut server.peer.buffers.outbox) {
            return;
        }
        let state = self.leave_state();
        let aim = is_busy.then(|| lease.cancel.aim());
        let id = self.record.id;
        self.proxy.drain.clone().track(move |here| async move {
            recover(id, lease, state, aim).await;
            drop(here);
        });
    }

    /// The client's side of the conversation, for whoever finishes it.
    fn leave_state(&mut self) -> ClientState {
        let guest = &mut self.record.guest;
        let blank = guest.state.blank();
        std::mem::replace(&mut guest.state, blank)
    }

    /// The end. What is left to say, if the socket does not take all of it, and how long that may take.
    fn farewell(mut self, ended: Ended) -> Option<(Peer, Duration)> {
        if let Some(lease) = self.held.take() {
            self.abandon(lease);
        }
        let Record { id, since, guest, counted, .. } = &mut *self.record;
        guest.member.pool().forget(*id);
        self.proxy.counts.departures.count(ended.departure());
        let (received, sent) = guest.peer.traffic();
        let stats = guest.member.pool().stats();
        stats.add_bytes(received.saturating_sub(counted.0), sent.saturating_sub(counted.1));
        if guest.edition.logs_connections {
            let Guest { user, database, entry, .. } = guest;
            let remote = origin(entry);
            let seconds = since.elapsed().as_secs_f64();
            tracing::info!(client = %id, remote, %database, %user, reason = %ended, seconds, received, sent, "client disconnected");
        }
        guest.permits.clear();
        if let Some(report) = ended.report() {
            report.write(&mut guest.peer.buffers.outbox);
        }
        let limit = guest.edition.settings.login_timeout;
        let is_gone = guest.peer.poll_drain(&mut Context::from_waker(Waker::noop())).is_err();
        let peer = self.record.guest.peer;
        (!is_gone && peer.has_last_words()).then_some((peer, limit))
    }
}

/// Where a client comes from, for the log.
fn origin(entry: &Entry) -> Option<tracing::field::DisplayValue<Remote>> {
    entry.handle.about().map(|about| tracing::field::display(about.origin()))
}

/// What came of a turn.
enum Spoken {
    /// The client's words went through.
    Done,
    /// None of them were executed.
    Nothing(Option<[u8; 5]>),
}

/// What a held server says while its client is quiet: notifications, notices, or that it is going away.
fn hear_held(
    lease: &mut Lease,
    peer: &mut Peer,
    state: &mut ClientState,
    cx: &mut Context<'_>,
) -> Result<bool, Ended> {
    let server = &mut **lease;
    let heard = match server.peer.poll_fill(cx) {
        Poll::Pending => return Ok(false),
        Poll::Ready(Ok(heard)) => heard,
        Poll::Ready(Err(_)) => return Err(Ended::ServerGone),
    };
    let (ours, theirs) = (&mut peer.buffers, &mut server.peer.buffers);
    match server.exchange.advance(state, ours, &mut server.state, theirs) {
        Ok(Some(Outcome::Lost(_))) => Err(Ended::ServerFatal),
        Ok(_) if heard => Ok(true),
        Ok(_) => Err(Ended::ServerGone),
        Err(violation) => Err(Ended::ServerViolation(violation)),
    }
}

/// Says what a client did that its pool refuses, where its words did not show it.
fn note_slipped(client: ClientId, lease: &mut Lease) {
    let slipped = lease.exchange.take_slipped();
    if !slipped.is_empty() {
        slipped.iter().for_each(|pin| lease.pool().pressure().slipped(pin));
        let (pool, server) = (lease.pool().key(), lease.id());
        tracing::warn!(%client, %pool, %server, state = %slipped, "session state is refused here, but was made: removed");
    }
}

/// Cancels what runs, rolls back what is open, sweeps what is left; a server that will not come back in time is closed.
async fn recover(client: ClientId, mut lease: Lease, mut state: ClientState, aim: Option<crate::pool::Aim>) {
    let limit = lease.pool().settings().clean_timeout;
    let swept = lease.exchange.sweeps();
    let result = timeout(limit, async {
        let cancelled = async {
            if let Some(aim) = aim {
                let _ = deliver(aim).await;
            }
        };
        tokio::join!(cancelled, relay_abandoned(&mut state, &mut lease)).1
    })
    .await;
    note_slipped(client, &mut lease);
    lease.pool().pressure().cleans.add(lease.exchange.sweeps().saturating_sub(swept));
    match result {
        Ok(Ok(Outcome::Settled(clean) | Outcome::Unwound(_, Some(clean)))) => {
            lease.release(clean, Instant::now())
        }
        result => {
            tracing::info!(server = %lease.id(), ?result, exchange = ?lease.exchange, "abandoned server closed")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::cancel::About;

    fn size_of_future<F>(_: impl Fn(Arc<Proxy>, Stream, Remote, ClientId, Present) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands idle at once. tokio adds about a hundred bytes to the task, and rounds it up to a multiple of 128.
    #[test]
    fn a_client_that_idles_is_small() {
        assert!(size_of_future(serve) <= 520, "{} bytes in its task", size_of_future(serve));
        assert!(size_of::<Record>() <= 592, "{} bytes in its record", size_of::<Record>());
        assert!(size_of::<About>() <= 168, "{} bytes about it", size_of::<About>());
    }
}
