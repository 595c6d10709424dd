//! What a query costs in memory: a whole turn through `idle` and `Exchange`, counted by the allocator.
//!
//! The count is watched like a test: a change that needs more must say so here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(
    unsafe_code,
    reason = "a GlobalAlloc can only be implemented so; it counts and hands on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgusher::names::{ClientId, ServerId};
use pgusher::pool::Shelf;
use pgusher::session::idle::{self, Idle};
use pgusher::session::prepared::{Interner, Statement};
use pgusher::session::{
    ClientState, Exchange, Identity, IdentitySettings, Outcome, Parameters, Pattern, Rules, ServerState,
    Values,
};
use pgusher::wire::{Buffers, write};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what this thread asks for.
struct Counting;

// SAFETY: every call is handed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; what is given back came from there.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct NoTexts;

impl Interner for NoTexts {
    fn intern(&self, definition: &[u8]) -> Arc<Statement> {
        Arc::new(Statement::new(1, 1, definition))
    }

    fn is_proven(&self, _: &[u8]) -> bool {
        false
    }
}

/// A client, a server, and the bytes of one turn between them.
struct Turn {
    client: ClientState,
    server: ServerState,
    exchange: Exchange,
    ours: Buffers,
    theirs: Buffers,
    question: BytesMut,
    answer: BytesMut,
}

impl Turn {
    fn new(has_identity: bool) -> Self {
        let rules = Rules {
            identity: IdentitySettings {
                enabled: has_identity,
                pattern: Pattern::Any,
                ..IdentitySettings::default()
            },
            ..Rules::default()
        };
        let identity = Identity::new(b"anna", &Pattern::Any);
        let (values, told) = (Values::default(), Parameters::default());
        let client =
            ClientState::new(ClientId(1), Arc::new(rules), identity, false, values, told, Arc::new(NoTexts));
        let (mut question, mut answer) = (BytesMut::new(), BytesMut::new());
        write::query(&mut question, b"select abalance from pgbench_accounts where aid = 1");
        for tag in [&b"BEGIN"[..], b"SELECT 1", b"COMMIT"].iter().filter(|_| has_identity) {
            write::parse_complete(&mut answer);
            write::bind_complete(&mut answer);
            write::command_complete(&mut answer, tag);
        }
        write::row_description(&mut answer, &["abalance"]);
        write::data_row(&mut answer, &[Some(b"0")]);
        write::command_complete(&mut answer, b"SELECT 1");
        write::ready_for_query(&mut answer, b'I');
        Self {
            client,
            server: ServerState::new(ServerId(1), Parameters::default()),
            exchange: Exchange::default(),
            ours: Buffers::default(),
            theirs: Buffers::default(),
            question,
            answer,
        }
    }

    fn play(&mut self) {
        self.ours.inbox.extend_from_slice(&self.question);
        let wish = idle::answer(&mut self.client, &mut self.ours, false);
        assert_eq!(wish, Ok(Idle::NeedServer));
        let (told, outbox) = (&mut self.ours.outbox, &mut self.theirs.outbox);
        self.exchange.begin(&mut self.client, told, &mut self.server, outbox);
        assert!(self.advance().is_none());
        self.theirs.outbox.clear();
        self.theirs.inbox.extend_from_slice(&self.answer);
        assert!(matches!(self.advance(), Some(Outcome::Settled(_))));
        assert!(!self.ours.outbox.is_empty());
        self.ours.outbox.clear();
    }

    fn advance(&mut self) -> Option<Outcome> {
        let (client, server) = (&mut self.client, &mut self.server);
        self.exchange.advance(client, &mut self.ours, server, &mut self.theirs).unwrap()
    }
}

/// Allocations in a hundred turns, once all buffers have found their size.
fn allocations(has_identity: bool) -> usize {
    let mut turn = Turn::new(has_identity);
    (0..100).for_each(|_| turn.play());
    let before = COUNT.get();
    (0..100).for_each(|_| turn.play());
    COUNT.get() - before
}

#[test]
fn a_turn_allocates_nothing_but_what_is_written_here() {
    let (plain, with_identity) = (allocations(false), allocations(true));

    println!("allocations in 100 simple query turns: {plain} without identity, {with_identity} with one");

    assert_eq!(plain, 0);
    assert_eq!(with_identity, 0);
}

#[test]
fn choosing_a_server_and_giving_it_back_allocates_nothing() {
    let (shelf, mut now) = (Shelf::default(), Instant::now());
    (0..20).for_each(|server| shelf.put(server, None, now));
    let mut choose = |client| {
        now += Duration::from_millis(10);
        let client = Some(ClientId(client));
        let server = shelf.take(client, now).unwrap();
        shelf.put(server, client, now);
        if client == Some(ClientId(1)) {
            shelf.forget(ClientId(1));
        }
    };

    (0..1_000).for_each(|turn| choose(turn % 30));
    let before = COUNT.get();
    (0..1_000).for_each(|turn| choose(turn % 30));

    assert_eq!(COUNT.get() - before, 0);
}
