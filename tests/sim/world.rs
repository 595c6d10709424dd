//! Clients, servers, the wires between, and a scheduler that moves one thing at a time.
//!
//! Each client has a task that drives `idle` and `Exchange` as the proxy does: a checkout from a bounded pool in the
//! order of asking, a turn, a release that only a `Clean` allows. Between any two moves of a task anything may happen to
//! anybody else: bytes come in pieces, requests are cancelled, clients hang up, servers die.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use pgusher::names::{ClientId, ServerId};
use pgusher::session::exchange::Loss;
use pgusher::session::idle::{self, Idle};
use pgusher::session::prepared::{Interner, Statement};
use pgusher::session::violation::Side;
use pgusher::session::{
    Clean, ClientState, Exchange, Form, Identity, IdentitySettings, Missing, Mode, Outcome, Parameters,
    Pattern, Rules, Scope, ServerState, Values,
};
use pgusher::wire::{Buffers, Header, write};

use crate::client::{Client, Manners};
use crate::postgres::{IDENTITY, Postgres};
use crate::random::Random;

/// Times a turn is begun again, as in the proxy.
const TRIES: u32 = 3;

/// Moves without any effect after which the world is stuck.
const PATIENCE: usize = 20_000;

/// Equal texts are one statement.
#[derive(Default)]
struct Texts(Mutex<BTreeMap<Vec<u8>, Arc<Statement>>>);

impl Interner for Texts {
    fn intern(&self, definition: &[u8]) -> Arc<Statement> {
        let mut known = self.0.lock().unwrap();
        let number = known.len() as u64 + 1;
        let make = || Arc::new(Statement::new(number, number, definition));
        known.entry(definition.to_vec()).or_insert_with(make).clone()
    }

    fn is_proven(&self, definition: &[u8]) -> bool {
        self.0.lock().unwrap().get(definition).is_some_and(|statement| statement.is_proven())
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Wire {
    bytes: BytesMut,
    is_closed: bool,
}

impl Wire {
    /// Some of what is under way arrives; whether any did.
    fn deliver(&mut self, to: &mut BytesMut, random: &mut Random) -> bool {
        let count = random.portion(self.bytes.len());
        to.extend_from_slice(&self.bytes[..count]);
        self.bytes.advance(count);
        count > 0
    }

    /// Some of what is to be said sets out; whether any did.
    fn accept(&mut self, from: &mut BytesMut, random: &mut Random) -> bool {
        let count = random.portion(from.len());
        self.bytes.extend_from_slice(&from[..count]);
        from.advance(count);
        count > 0
    }

    fn is_at_end(&self) -> bool {
        self.is_closed && self.bytes.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Dead,
    Idle,
    /// By this client.
    Leased(usize),
    /// A cancel request is on its way to it.
    Quarantined,
    /// This client has left it.
    Recovering(usize),
}

struct Slot {
    postgres: Postgres,
    up: Wire,
    down: Wire,
    buffers: Buffers,
    state: ServerState,
    exchange: Exchange,
    standing: Standing,
    /// Cancel requests on their way to it.
    aims: usize,
}

#[derive(Debug)]
enum Place {
    Gone,
    Idle,
    /// A server that must prove itself alive first.
    Proving(usize),
    Talking(usize),
    Waiting,
}

struct Task {
    client: Client,
    up: Wire,
    down: Wire,
    buffers: Buffers,
    state: ClientState,
    place: Place,
    held: Option<usize>,
    attempts: u32,
    was_cancelled: bool,
    must_stop_waiting: bool,
}

/// What may go wrong, in a thousand moves.
#[derive(Clone, Copy, Debug)]
struct Weather {
    cancels: u32,
    disconnects: u32,
    kills: u32,
    errors: u32,
}

pub struct World {
    random: Random,
    tasks: Vec<Task>,
    slots: Vec<Slot>,
    waiting: VecDeque<usize>,
    recovering: Vec<(usize, ClientState)>,
    most: usize,
    weather: Weather,
    full: usize,
    executed: BTreeMap<String, usize>,
    pub statistics: Statistics,
}

/// What happened, so that a quiet world is not taken for a safe one.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    pub cancels: usize,
    pub executed: usize,
    pub held: usize,
    pub kills: usize,
    pub lost: usize,
    pub recovered: usize,
    pub released: usize,
    pub unwound: usize,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let is_calm = seed.is_multiple_of(4);
        let is_denying = !is_calm && random.below(4) == 0;
        let is_one_shot = random.below(4) == 0;
        let weather = if is_calm {
            Weather { cancels: 0, disconnects: 0, kills: 0, errors: 0 }
        } else {
            Weather {
                cancels: random.below(12) as u32,
                disconnects: random.below(2) as u32,
                kills: random.below(2) as u32,
                errors: random.below(40) as u32,
            }
        };
        let rules = Arc::new(Rules {
            mode: if random.below(6) == 0 { Mode::Session } else { Mode::Transaction },
            server_statements: 1 + random.below(5),
            retained: [64, 400, 64 << 10][random.below(3)],
            canary: [Some(1), Some(7), None][random.below(3)],
            identity: IdentitySettings {
                variable: IDENTITY.into(),
                pattern: Pattern::Any,
                missing: if is_denying { Missing::Deny } else { Missing::Empty },
                scope: if is_one_shot { Scope::Transaction } else { Scope::Session },
                form: if random.below(4) == 0 { Form::Literal } else { Form::Bound },
                strict: random.below(6) == 0,
                ..IdentitySettings::default()
            },
            ..Rules::default()
        });
        let texts: Arc<dyn Interner> = Arc::new(Texts::default());
        let makes_state = random.coin();
        let most = 1 + random.below(3);
        // A session keeps its server for as long as it lives: then the others wait.
        let count = 2 + random.below(4);
        let manners = Manners { is_calm, is_one_shot, is_denying, depth: 1 + random.below(4), makes_state };
        let tasks = (0..count).map(|index| {
            let startup = if random.coin() || is_denying { format!("u{index}-start") } else { String::new() };
            let identity = Identity::new(startup.as_bytes(), &Pattern::Any);
            let state = ClientState::new(
                ClientId(index as u64),
                rules.clone(),
                identity,
                false,
                Values::default(),
                Parameters::default(),
                texts.clone(),
            );
            Task {
                client: Client::new(index, &startup, manners, Random::new(random.next())),
                up: Wire::default(),
                down: Wire::default(),
                buffers: Buffers::default(),
                state,
                place: Place::Idle,
                held: None,
                attempts: 0,
                was_cancelled: false,
                must_stop_waiting: false,
            }
        });
        let tasks: Vec<_> = tasks.collect();
        Self {
            full: [300, 256 << 10][random.below(2)],
            tasks,
            slots: Vec::new(),
            waiting: VecDeque::new(),
            recovering: Vec::new(),
            most,
            weather,
            executed: BTreeMap::new(),
            statistics: Statistics::default(),
            random,
        }
    }

    /// Until every client has had its say.
    pub fn run(&mut self) {
        let mut idle_moves = 0;
        while !self.is_over() {
            if self.step() {
                idle_moves = 0;
            } else {
                idle_moves += 1;
            }
            assert!(idle_moves < PATIENCE, "stuck: {}", self.describe());
        }
        for slot in &self.slots {
            assert!(
                matches!(slot.standing, Standing::Dead | Standing::Idle),
                "a server is lost in {:?}",
                slot.standing
            );
        }
        assert!(self.waiting.is_empty());
        self.statistics.executed = self.executed.len();
    }

    fn is_over(&self) -> bool {
        self.tasks.iter().all(|task| matches!(task.place, Place::Gone))
            && self.recovering.is_empty()
            && self.slots.iter().all(|slot| slot.aims == 0)
    }

    fn step(&mut self) -> bool {
        self.meddle();
        let tasks = self.tasks.len();
        let choice = self.random.below(2 * tasks + 2 * self.most + self.recovering.len());
        if choice < tasks {
            return self.step_client(choice);
        }
        if choice < 2 * tasks {
            return self.step_task(choice - tasks);
        }
        if choice < 2 * tasks + 2 * self.most {
            let index = (choice - 2 * tasks) % self.most;
            return index < self.slots.len() && self.step_server(index);
        }
        self.step_recovery(choice - 2 * tasks - 2 * self.most)
    }

    // Chance.

    fn meddle(&mut self) {
        if self.random.permille(self.weather.cancels) {
            self.cancel();
        }
        if self.random.permille(self.weather.disconnects) {
            let index = self.random.below(self.tasks.len());
            let client = &mut self.tasks[index].client;
            if client.is_waiting() || self.random.below(8) == 0 {
                client.has_left = true;
                self.tasks[index].up.is_closed = true;
                let kept = self.random.portion(self.tasks[index].up.bytes.len());
                self.tasks[index].up.bytes.truncate(kept);
            }
        }
        if self.random.permille(self.weather.kills) && !self.slots.is_empty() {
            let index = self.random.below(self.slots.len());
            let slot = &mut self.slots[index];
            if !slot.postgres.is_dead {
                slot.postgres.kill(self.random.coin());
                self.statistics.kills += 1;
            }
        }
        for slot in &mut self.slots {
            if slot.aims > 0 && self.random.below(30) == 0 {
                slot.aims -= 1;
                slot.postgres.cancel();
                self.statistics.cancels += 1;
            }
        }
        for index in 0..self.slots.len() {
            if self.slots[index].standing == Standing::Quarantined && self.slots[index].aims == 0 {
                self.free(index);
            }
        }
    }

    /// A client's cancel request arrives.
    fn cancel(&mut self) {
        let index = self.random.below(self.tasks.len());
        let task = &mut self.tasks[index];
        match task.place {
            Place::Talking(slot) | Place::Proving(slot) => {
                task.was_cancelled = true;
                self.slots[slot].aims += 1;
            }
            Place::Waiting => task.must_stop_waiting = true,
            Place::Gone | Place::Idle => {}
        }
    }

    // The two ends.

    fn step_client(&mut self, index: usize) -> bool {
        let task = &mut self.tasks[index];
        let mut moved = task.down.deliver(&mut task.client.inbox, &mut self.random);
        moved |= task.client.step();
        if !task.up.is_closed {
            moved |= task.up.accept(&mut task.client.outbox, &mut self.random);
            if task.client.has_left && task.client.outbox.is_empty() {
                task.up.is_closed = true;
            }
        }
        if matches!(task.place, Place::Gone) && task.down.is_at_end() {
            task.client.has_left = true;
        }
        moved
    }

    fn step_server(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        let mut moved = slot.up.deliver(&mut slot.postgres.inbox, &mut self.random);
        moved |= slot.postgres.step(&mut self.random);
        moved |= slot.down.accept(&mut slot.postgres.outbox, &mut self.random);
        if slot.postgres.is_dead && slot.postgres.outbox.is_empty() {
            slot.down.is_closed = true;
        }
        for executed in std::mem::take(&mut slot.postgres.executed) {
            let owner = match slot.standing {
                Standing::Leased(owner) | Standing::Recovering(owner) => owner,
                standing => panic!("{executed:?} ran on a server that is {standing:?}"),
            };
            let (client, _) = executed.token[1..].split_once('n').unwrap();
            assert_eq!(client.parse(), Ok(owner), "{executed:?} ran for another client");
            let allowed = self.tasks[owner].client.allowed.get(&executed.token);
            let Some(allowed) = allowed else { panic!("{executed:?} should not have run at all") };
            assert!(
                allowed.identities.contains(&executed.identity)
                    && allowed.settings.contains(&executed.setting),
                "{executed:?} ran, where {allowed:?} was allowed"
            );
            let times = self.executed.entry(executed.token.clone()).or_default();
            *times += 1;
            assert_eq!(*times, 1, "{executed:?} ran twice");
        }
        moved
    }

    // The proxy's task for one client.

    fn step_task(&mut self, index: usize) -> bool {
        match self.tasks[index].place {
            Place::Gone => self.tasks[index].drain(&mut self.random),
            Place::Idle => self.idle(index),
            Place::Proving(slot) => self.prove(index, slot),
            Place::Talking(slot) => self.talk(index, slot),
            Place::Waiting => self.wait(index),
        }
    }

    fn idle(&mut self, index: usize) -> bool {
        let task = &mut self.tasks[index];
        match idle::answer(&mut task.state, &mut task.buffers, task.held.is_some()) {
            Ok(Idle::Left) | Err(_) => {
                self.leave(index);
                return true;
            }
            Ok(Idle::NeedMore | Idle::NeedVerdict(_)) => {}
            Ok(Idle::NeedServer) => {
                task.attempts = 1;
                self.ask(index);
                return true;
            }
        }
        let mut moved = false;
        if let Some(slot) = task.held {
            match self.hear_held(index, slot) {
                Some(heard) => moved |= heard,
                None => return true,
            }
        }
        let task = &mut self.tasks[index];
        moved |= task.drain(&mut self.random);
        if task.up.is_at_end() {
            self.leave(index);
            return true;
        }
        moved | task.up.deliver(&mut task.buffers.inbox, &mut self.random)
    }

    fn hear_held(&mut self, index: usize, at: usize) -> Option<bool> {
        let (task, slot) = (&mut self.tasks[index], &mut self.slots[at]);
        let heard = slot.down.deliver(&mut slot.buffers.inbox, &mut self.random);
        let is_gone = !heard && slot.down.is_at_end();
        if !heard && !is_gone {
            return Some(false);
        }
        let result =
            slot.exchange.advance(&mut task.state, &mut task.buffers, &mut slot.state, &mut slot.buffers);
        if matches!(result, Ok(None)) && !is_gone {
            return Some(true);
        }
        assert!(matches!(result, Ok(None | Some(Outcome::Lost(_)))), "a held server: {result:?}");
        self.destroy(at);
        self.tasks[index].held = None;
        self.end(index, "server gone");
        None
    }

    /// A server, at once or later.
    fn ask(&mut self, index: usize) {
        if let Some(slot) = self.tasks[index].held.take() {
            self.tasks[index].was_cancelled = false;
            return self.begin(index, slot);
        }
        self.waiting.push_back(index);
        self.tasks[index].place = Place::Waiting;
        self.tasks[index].must_stop_waiting = false;
        self.tasks[index].was_cancelled = false;
        self.serve_queue();
    }

    /// Gives servers to those who wait, in their order.
    fn serve_queue(&mut self) {
        while let Some(&index) = self.waiting.front() {
            let Some(slot) = self.spare() else { return };
            self.waiting.pop_front();
            self.slots[slot].standing = Standing::Leased(index);
            self.tasks[index].was_cancelled = false;
            if self.random.below(8) == 0 {
                let slot_ref = &mut self.slots[slot];
                slot_ref.exchange.begin_check(&mut slot_ref.buffers.outbox);
                self.tasks[index].place = Place::Proving(slot);
            } else {
                self.begin(index, slot);
            }
        }
    }

    fn spare(&mut self) -> Option<usize> {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.standing == Standing::Idle && slot.down.is_closed {
                self.destroy_only(index);
            }
        }
        if let Some(index) = self.slots.iter().position(|slot| slot.standing == Standing::Idle) {
            return Some(index);
        }
        if let Some(index) = self.slots.iter().position(|slot| slot.standing == Standing::Dead) {
            self.slots[index] = self.server(index);
            return Some(index);
        }
        if self.slots.len() < self.most {
            let slot = self.server(self.slots.len());
            self.slots.push(slot);
            return Some(self.slots.len() - 1);
        }
        None
    }

    fn server(&mut self, number: usize) -> Slot {
        let id = self.random.next();
        Slot {
            postgres: Postgres::new(number, self.weather.errors),
            up: Wire::default(),
            down: Wire::default(),
            buffers: Buffers::default(),
            state: ServerState::new(ServerId(id), Parameters::default()),
            exchange: Exchange::default(),
            standing: Standing::Idle,
            aims: 0,
        }
    }

    fn prove(&mut self, index: usize, at: usize) -> bool {
        match self.relay_abandoned(at, Some(index)) {
            Relayed::Nothing => false,
            Relayed::Moved => true,
            Relayed::Outcome(Outcome::Settled(_) | Outcome::Held) => {
                self.begin(index, at);
                true
            }
            Relayed::Outcome(_) | Relayed::ServerGone => {
                self.destroy_only(at);
                self.ask(index);
                true
            }
        }
    }

    fn begin(&mut self, index: usize, at: usize) {
        let (task, slot) = (&mut self.tasks[index], &mut self.slots[at]);
        crate::trace!("client {index} begins on server {at}");
        slot.standing = Standing::Leased(index);
        task.place = Place::Talking(at);
        slot.exchange.begin(
            &mut task.state,
            &mut task.buffers.outbox,
            &mut slot.state,
            &mut slot.buffers.outbox,
        );
    }

    fn wait(&mut self, index: usize) -> bool {
        let task = &mut self.tasks[index];
        let gives_up = task.up.is_at_end();
        if task.must_stop_waiting || gives_up {
            self.waiting.retain(|waiting| *waiting != index);
            if gives_up {
                self.leave(index);
            } else {
                self.deny(index);
            }
            return true;
        }
        let moved = task.drain(&mut self.random);
        moved | task.up.deliver(&mut task.buffers.inbox, &mut self.random)
    }

    /// The cancelled statement, or the one for which there is no server, is answered with an error.
    fn deny(&mut self, index: usize) {
        let task = &mut self.tasks[index];
        idle::deny(&mut task.state, &mut task.buffers, |outbox| {
            write::error_response(outbox, "ERROR", "57014", "canceled", None, None, None);
        });
        task.place = Place::Idle;
    }

    /// One round of the relay.
    fn talk(&mut self, index: usize, at: usize) -> bool {
        let (task, slot) = (&mut self.tasks[index], &mut self.slots[at]);
        let mut moved = false;
        if slot.buffers.outbox.len() < self.full {
            if task.up.is_at_end() {
                self.abandon(index, at);
                self.end(index, "client gone");
                return true;
            }
            moved |= task.up.deliver(&mut task.buffers.inbox, &mut self.random);
        }
        if task.buffers.outbox.len() < self.full {
            if slot.down.is_at_end() {
                self.server_gone(index, at);
                return true;
            }
            moved |= slot.down.deliver(&mut slot.buffers.inbox, &mut self.random);
        }
        let result =
            slot.exchange.advance(&mut task.state, &mut task.buffers, &mut slot.state, &mut slot.buffers);
        moved |= slot.up.accept(&mut slot.buffers.outbox, &mut self.random);
        match result {
            Ok(None) => moved |= task.drain(&mut self.random),
            Ok(Some(outcome)) => {
                self.conclude(index, at, outcome);
                return true;
            }
            Err(violation) => {
                assert_eq!(violation.side(), Side::Client, "the server is right: {violation}");
                self.abandon(index, at);
                self.end(index, "violation");
                return true;
            }
        }
        moved
    }

    fn conclude(&mut self, index: usize, at: usize, outcome: Outcome) {
        crate::trace!("turn of client {index} on server {at}: {outcome:?}");
        match outcome {
            Outcome::ClientLeft => {
                self.abandon(index, at);
                self.end(index, "client left");
            }
            Outcome::Held => {
                self.statistics.held += 1;
                self.tasks[index].held = Some(at);
                self.tasks[index].place = Place::Idle;
            }
            Outcome::Lost(loss) => self.lost(index, at, loss),
            Outcome::Settled(clean) => {
                self.release(at, clean);
                self.tasks[index].place = Place::Idle;
            }
            Outcome::Unwound(_, clean) => {
                self.statistics.unwound += 1;
                let was_cancelled = self.tasks[index].was_cancelled;
                match clean {
                    Some(clean) => self.release(at, clean),
                    None => self.tasks[index].held = Some(at),
                }
                if was_cancelled {
                    self.deny(index);
                } else {
                    self.try_again(index);
                }
            }
        }
    }

    fn try_again(&mut self, index: usize) {
        if self.tasks[index].was_cancelled || self.tasks[index].attempts >= TRIES {
            return self.deny(index);
        }
        self.tasks[index].attempts += 1;
        self.ask(index);
    }

    fn lost(&mut self, index: usize, at: usize, loss: Loss) {
        self.statistics.lost += 1;
        let may_have_run = self.slots[at].exchange.may_have_run();
        let loses_state = self.slots[at].exchange.loses_state();
        self.destroy(at);
        let task = &mut self.tasks[index];
        match loss {
            Loss::Fatal { is_told: true } => self.end(index, "told"),
            _ if loses_state => self.end(index, "server gone"),
            Loss::Fatal { is_told: false } if !may_have_run => self.try_again(index),
            Loss::Differs(kinds) => panic!("the canary found what was not believed: {kinds}"),
            Loss::Clean | Loss::Fatal { .. } | Loss::Tainted => task.place = Place::Idle,
        }
    }

    fn server_gone(&mut self, index: usize, at: usize) {
        let exchange = &self.slots[at].exchange;
        let is_safe = !exchange.may_have_run() && !exchange.loses_state();
        self.destroy(at);
        if is_safe {
            self.try_again(index);
        } else {
            self.end(index, "server gone");
        }
    }

    /// The client leaves, of its own will.
    fn leave(&mut self, index: usize) {
        if let Some(slot) = self.tasks[index].held.take() {
            self.abandon(index, slot);
        }
        self.end(index, "left");
    }

    fn end(&mut self, index: usize, why: &str) {
        crate::trace!("client {index} ends: {why}");
        let task = &mut self.tasks[index];
        if why == "server gone" {
            write::error_response(&mut task.buffers.outbox, "FATAL", "08006", why, None, None, None);
        }
        task.place = Place::Gone;
        task.client.has_left |= why == "server gone";
    }

    fn abandon(&mut self, index: usize, at: usize) {
        let (task, slot) = (&mut self.tasks[index], &mut self.slots[at]);
        let is_busy = slot.exchange.is_busy();
        if !slot.exchange.abandon(&mut slot.buffers.outbox) {
            return self.destroy(at);
        }
        let blank = task.state.blank();
        let state = std::mem::replace(&mut task.state, blank);
        slot.standing = Standing::Recovering(index);
        slot.aims += usize::from(is_busy);
        self.recovering.push((at, state));
    }

    fn step_recovery(&mut self, which: usize) -> bool {
        let at = self.recovering[which].0;
        let state = &mut self.recovering[which].1;
        let relayed = relay_nobody(state, &mut self.slots[at], &mut self.random);
        match relayed {
            Relayed::Nothing => return false,
            Relayed::Moved => return true,
            Relayed::Outcome(Outcome::Settled(clean) | Outcome::Unwound(_, Some(clean))) => {
                self.recovering.remove(which);
                self.statistics.recovered += 1;
                self.release(at, clean);
            }
            Relayed::Outcome(_) | Relayed::ServerGone => {
                self.recovering.remove(which);
                self.destroy(at);
            }
        }
        true
    }

    fn relay_abandoned(&mut self, at: usize, of: Option<usize>) -> Relayed {
        let state = &mut self.tasks[of.unwrap()].state;
        relay_nobody(state, &mut self.slots[at], &mut self.random)
    }

    // The pool.

    /// Back to the pool. Everything that is asked of a lease is asked here.
    fn release(&mut self, at: usize, clean: Clean) {
        let slot = &mut self.slots[at];
        assert_eq!(clean.server(), slot.state.id);
        if !slot.down.is_closed && !slot.postgres.is_dead {
            slot.assert_clean();
        }
        self.statistics.released += 1;
        self.slots[at].standing = Standing::Quarantined;
        if self.slots[at].aims == 0 {
            self.free(at);
        }
    }

    fn free(&mut self, at: usize) {
        self.slots[at].standing = Standing::Idle;
        self.serve_queue();
    }

    fn destroy(&mut self, at: usize) {
        self.destroy_only(at);
        self.serve_queue();
    }

    fn destroy_only(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.standing = Standing::Dead;
        slot.postgres.is_dead = true;
        slot.aims = 0;
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (index, task) in self.tasks.iter().enumerate() {
            text += &format!(
                "\nclient {index}: {:?} held {:?} inbox {:?} outbox {:?} up {:?} closed {} waits {}",
                task.place,
                task.held,
                task.buffers.inbox,
                task.buffers.outbox.len(),
                task.up.bytes.len(),
                task.up.is_closed,
                task.client.is_waiting(),
            );
        }
        for (index, slot) in self.slots.iter().enumerate() {
            text += &format!(
                "\nserver {index}: {:?} {:?} {:?} inbox {:?}",
                slot.standing,
                slot.exchange,
                slot.postgres.uncleanliness(),
                slot.postgres.inbox,
            );
        }
        text
    }
}

enum Relayed {
    Moved,
    Nothing,
    Outcome(Outcome),
    ServerGone,
}

/// One round of the relay without a client.
fn relay_nobody(state: &mut ClientState, slot: &mut Slot, random: &mut Random) -> Relayed {
    let mut nobody = Buffers::default();
    if slot.down.is_at_end() {
        return Relayed::ServerGone;
    }
    let mut moved = slot.down.deliver(&mut slot.buffers.inbox, random);
    let result = slot.exchange.advance(state, &mut nobody, &mut slot.state, &mut slot.buffers);
    moved |= slot.up.accept(&mut slot.buffers.outbox, random);
    match result {
        Ok(Some(outcome)) => Relayed::Outcome(outcome),
        Ok(None) if moved => Relayed::Moved,
        Ok(None) => Relayed::Nothing,
        Err(violation) => panic!("the server is right: {violation}"),
    }
}

impl Slot {
    fn assert_clean(&self) {
        let postgres = &self.postgres;
        // A server that does not copy drops what a COPY that failed still had on its way; nothing else may be.
        let mut unread = BytesMut::from(&[&postgres.inbox[..], &self.up.bytes[..]].concat()[..]);
        while let Ok(Some(header)) = Header::read(&unread) {
            assert!(b"dcf".contains(&header.tag) && header.len <= unread.len(), "unread: {unread:?}");
            unread.advance(header.len);
        }
        let left = (self.down.bytes.len(), self.buffers.inbox.len(), self.buffers.outbox.len(), unread.len());
        assert_eq!(left, (0, 0, 0, 0), "given back with words under way");
        if let Some(reason) = postgres.uncleanliness() {
            panic!("given back {reason}");
        }
        for (name, value) in &postgres.session.settings {
            let known = self.state.applied.value(name.as_bytes()).unwrap_or_default();
            assert!(
                name == IDENTITY || known == value.as_bytes(),
                "given back with {name} = {value:?}, which is not known of it"
            );
        }
        assert_eq!(postgres.plans(), self.state.statements.len(), "given back with other plans than known");
    }
}

impl Task {
    fn drain(&mut self, random: &mut Random) -> bool {
        let moved = self.down.accept(&mut self.buffers.outbox, random);
        if matches!(self.place, Place::Gone) && self.buffers.outbox.is_empty() {
            self.down.is_closed = true;
        }
        moved
    }
}
