//! What the core costs without a network: `cargo bench`, or `cargo bench -- turn` for those with that in their names.
//!
//! Each case is timed in batches of about ten milliseconds; printed are the fastest batch, which other work on the
//! machine disturbs least, and the median. The bytes are those of a small SELECT: what pgbench says with `-S`.
//!
//! With `--instructions` they are counted instead, by callgrind: slower to get, and the same however busy the machine is.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot go on may end")]

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use pgusher::auth::Secret;
use pgusher::hashing::Hashing;
use pgusher::names::{ClientId, PoolKey, ServerId};
use pgusher::net::tls::{Connectors, ServerSettings, SslMode};
use pgusher::pool::{
    Host, Lease, PasswordSource, Pool, Pools, Recipe, Secrets, Settings, Shared, Shelf, Upstream,
};
use pgusher::session::claim::Claim;
use pgusher::session::idle::{self, Idle};
use pgusher::session::inject::{Cleaning, Prelude};
use pgusher::session::login::BindingPolicy;
use pgusher::session::pipeline::Pipeline;
use pgusher::session::prepared::{Interner, Statement};
use pgusher::session::{
    Clean, ClientState, Exchange, Form, Identity, IdentitySettings, Outcome, Parameters, Pattern, Rules,
    ServerState, Values, Variable, sql,
};
use pgusher::wire::{Buffers, Header, write};

const SELECT: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = 54321;";
const USER: &[u8] = b"6f2b1c3e-8a4d-4f5e-9c7b-0123456789ab";

/// What the copy of us that callgrind runs is told.
const UNDER_CALLGRIND: &str = "--under-callgrind";

fn main() -> ExitCode {
    let given = |word: &str| std::env::args().any(|argument| argument == word);
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    if given("--instructions") {
        return count_instructions(&filter);
    }
    let mode = if given(UNDER_CALLGRIND) { Mode::Counted } else { Mode::Timed };
    if mode == Mode::Timed {
        println!("{:<52} {:>12} {:>12}", "", "fastest ns", "median ns");
    }
    let bench = Bench { filter, mode };
    frames(&bench);
    reading(&bench);
    prelude(&bench);
    turns(&bench);
    forwarding(&bench);
    checkout(&bench);
    shelf(&bench);
    ExitCode::SUCCESS
}

struct Bench {
    filter: String,
    mode: Mode,
}

#[derive(PartialEq, Eq)]
enum Mode {
    /// By callgrind, which runs us.
    Counted,
    Timed,
}

impl Bench {
    /// Measures `work`, whose one run does `count` of what is reported.
    fn case(&self, name: &str, count: u32, mut work: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        match self.mode {
            Mode::Counted => {
                work();
                counted(&mut work);
                println!("{name}\t{count}");
            }
            Mode::Timed => {
                let (fastest, median) = timed(&mut work);
                let each = |batch: f64| batch / f64::from(count);
                println!("{name:<52} {:>12.1} {:>12.1}", each(fastest), each(median));
            }
        }
    }
}

/// Runs that callgrind counts.
const COUNTED: u32 = 64;

/// What callgrind counts, and nothing else; it finds this by its name, `core::counted`.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    for _ in 0..COUNTED {
        work();
    }
}

/// Nanoseconds of one run, in the fastest batch and in the median one.
fn timed(work: &mut impl FnMut()) -> (f64, f64) {
    const BATCH: Duration = Duration::from_millis(10);
    let mut runs: u32 = 1;
    while time(runs, work) < BATCH {
        runs *= 2;
    }
    let mut batches: Vec<_> = (0..31).map(|_| time(runs, work)).collect();
    batches.sort();
    let each = |batch: Duration| batch.as_nanos() as f64 / f64::from(runs);
    (each(batches[0]), each(batches[batches.len() / 2]))
}

fn time(runs: u32, work: &mut impl FnMut()) -> Duration {
    let began = Instant::now();
    for _ in 0..runs {
        work();
    }
    began.elapsed()
}

/// Runs the cases once more in callgrind, which leaves a file for each.
fn count_instructions(filter: &str) -> ExitCode {
    let directory = std::env::temp_dir().join(format!("pgusher-core-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=core::counted", "--dump-after=core::counted"])
        .arg(format!("--callgrind-out-file={}", directory.join("out").display()))
        .arg(std::env::current_exe().unwrap())
        .args([UNDER_CALLGRIND, filter])
        .stderr(Stdio::null())
        .output();
    match ran {
        Ok(output) if output.status.success() => {
            println!("{:<52} {:>12}", "", "instructions");
            for (at, line) in String::from_utf8_lossy(&output.stdout).lines().enumerate() {
                let (name, count) = line.split_once('\t').unwrap();
                let total = total(&directory.join(format!("out.{}", at + 1)));
                let each = total / f64::from(COUNTED) / count.parse::<f64>().unwrap();
                println!("{name:<52} {each:>12.1}");
            }
        }
        Ok(output) => eprintln!("no instructions: valgrind ended with {}", output.status),
        Err(error) => eprintln!("no instructions: valgrind does not run: {error}"),
    }
    let _ = std::fs::remove_dir_all(&directory);
    ExitCode::SUCCESS
}

/// What was counted in one case.
fn total(file: &Path) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let counts =
        text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    counts.and_then(|count| count.trim().parse().ok()).unwrap_or(f64::NAN)
}

fn frames(bench: &Bench) {
    let mut rows = BytesMut::new();
    for _ in 0..1_000 {
        write::data_row(&mut rows, &[Some(&[b'x'; 100])]);
    }

    bench.case("a frame header", 1_000, || {
        let mut at = 0;
        while let Some(header) = Header::read(black_box(&rows[at..])).unwrap() {
            at += header.len;
        }
        assert_eq!(at, rows.len());
    });
}

/// What the core reads of SQL: whether the identity or the state of the session is in it.
fn reading(bench: &Bench) {
    let identity = IdentitySettings::default();
    let long = [b"SELECT ", &b"abalance, ".repeat(400)[..], b"1 FROM pgbench_accounts"].concat();

    bench
        .case("reading a SELECT of 56 bytes", 1, || drop(black_box(sql::read(black_box(SELECT), &identity))));
    bench.case("reading a SELECT of 4 kB", 1, || drop(black_box(sql::read(black_box(&long), &identity))));
}

fn prelude(bench: &Bench) {
    let values = Values::default();
    let (mut outbox, mut pipeline) = (BytesMut::new(), Pipeline::default());

    let claim = Claim::at_startup(Identity::new(USER, &Pattern::Uuid).into());
    let further = Variable { name: "app.tenant_id".into(), pattern: Pattern::Uuid };
    let bound = IdentitySettings::default();
    let literal = IdentitySettings { form: Form::Literal, ..bound.clone() };
    let trusted = IdentitySettings { trusted_sql: true, ..bound.clone() };
    let two = IdentitySettings { variables: vec![further], ..bound.clone() };
    for (name, identity) in
        [("bound", &bound), ("bound, two variables", &two), ("literal", &literal), ("trusted", &trusted)]
    {
        bench.case(&format!("writing a prelude, {name}"), 1, || {
            let prelude = Prelude {
                identity: black_box(identity),
                claim: &claim,
                token: None,
                prepared: 3,
                applied: &values,
                wanted: &values,
                discards_sequences: false,
                cleaning: Cleaning::None,
            };
            prelude.write(&mut outbox, &mut pipeline);
            outbox.clear();
            while pipeline.pop().is_some() {}
        });
    }
}

/// A client and a server, and the four buffers between them.
struct Conversation {
    client: ClientState,
    ours: Buffers,
    server: ServerState,
    theirs: Buffers,
    exchange: Exchange,
}

impl Conversation {
    fn new(has_identity: bool) -> Self {
        let identity = IdentitySettings { enabled: has_identity, ..IdentitySettings::default() };
        // Nobody is there to answer a canary's questions.
        let rules = Arc::new(Rules { identity, canary: None, ..Rules::default() });
        let user = has_identity.then(|| Identity::new(USER, &Pattern::Uuid).unwrap());
        let statements = Arc::new(Texts::default());
        Self {
            client: ClientState::new(
                ClientId(1),
                rules,
                user,
                false,
                Values::default(),
                Parameters::default(),
                statements,
            ),
            ours: Buffers::default(),
            server: ServerState::new(ServerId(1), Parameters::default()),
            theirs: Buffers::default(),
            exchange: Exchange::default(),
        }
    }

    /// One turn: what the client says, what the server answers, and both have come to rest.
    fn turn(&mut self, said: &[u8], answered: &[u8]) {
        self.ours.inbox.extend_from_slice(said);
        drop(turn(
            &mut self.client,
            &mut self.ours,
            &mut self.exchange,
            &mut self.server,
            &mut self.theirs,
            answered,
        ));
        self.ours.outbox.clear();
    }
}

fn turn(
    client: &mut ClientState,
    ours: &mut Buffers,
    exchange: &mut Exchange,
    server: &mut ServerState,
    theirs: &mut Buffers,
    answered: &[u8],
) -> Clean {
    assert_eq!(idle::answer(client, ours, false).unwrap(), Idle::NeedServer);
    exchange.begin(client, &mut ours.outbox, server, &mut theirs.outbox);
    assert!(exchange.advance(client, ours, server, theirs).unwrap().is_none());
    black_box(&theirs.outbox);
    theirs.outbox.clear();
    theirs.inbox.extend_from_slice(answered);
    match exchange.advance(client, ours, server, theirs).unwrap() {
        Some(Outcome::Settled(clean)) => clean,
        outcome => unreachable!("the turn is over, not {outcome:?}"),
    }
}

/// Statements of one client, numbered as they come.
#[derive(Default)]
struct Texts(Mutex<HashMap<Vec<u8>, Arc<Statement>>>);

impl Interner for Texts {
    fn intern(&self, definition: &[u8]) -> Arc<Statement> {
        let mut texts = self.0.lock().unwrap();
        let number = texts.len() as u64 + 1;
        let statement = texts
            .entry(definition.to_vec())
            .or_insert_with(|| Arc::new(Statement::new(number, number, definition)));
        statement.clone()
    }

    fn is_proven(&self, definition: &[u8]) -> bool {
        self.0.lock().unwrap().get(definition).is_some_and(|statement| statement.is_proven())
    }
}

fn written(words: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = BytesMut::new();
    words(&mut bytes);
    bytes
}

fn a_row(out: &mut BytesMut) {
    write::data_row(out, &[Some(b"0")]);
    write::command_complete(out, b"SELECT 1");
    write::ready_for_query(out, b'I');
}

/// What PostgreSQL answers to the statements of a prelude that have these tags.
fn prelude_done(out: &mut BytesMut, tags: &[&[u8]]) {
    for tag in tags {
        write::parse_complete(out);
        write::bind_complete(out);
        if *tag == b"SELECT 1" {
            write::data_row(out, &[Some(USER)]);
        }
        write::command_complete(out, tag);
    }
}

/// What it answers to a clean that keeps its plans.
const KEEPING_PLANS: [&[u8]; 9] = [
    b"BEGIN",
    b"SET",
    b"RESET",
    b"CLOSE CURSOR ALL",
    b"UNLISTEN",
    b"SELECT 1",
    b"DISCARD SEQUENCES",
    b"DISCARD TEMP",
    b"COMMIT",
];

fn turns(bench: &Bench) {
    let query = written(|out| write::query(out, SELECT));
    let answer = written(|out| {
        write::row_description(out, &["abalance"]);
        a_row(out);
    });
    let proven = written(|out| {
        prelude_done(out, &[b"BEGIN", b"SELECT 1", b"COMMIT"]);
        out.extend_from_slice(&answer);
    });
    let cleaned = written(|out| {
        prelude_done(out, &[b"DISCARD ALL"]);
        write::close_complete(out);
        out.extend_from_slice(&answer);
    });
    let cleaned_but_plans = written(|out| {
        prelude_done(out, &KEEPING_PLANS);
        out.extend_from_slice(&answer);
    });

    let mut plain = Conversation::new(false);
    bench.case("a turn: Query", 1, || plain.turn(&query, &answer));

    let mut others = Conversation::new(false);
    bench.case("a turn: Query after another client", 1, || {
        others.server.guest = Some(ClientId(2));
        others.turn(&query, &cleaned);
    });

    let mut others_with_plans = Conversation::new(false);
    others_with_plans.server.prelude = 1;
    bench.case("a turn: Query after another client, plans kept", 1, || {
        others_with_plans.server.guest = Some(ClientId(2));
        others_with_plans.turn(&query, &cleaned_but_plans);
    });

    let mut identified = Conversation::new(true);
    bench.case("a turn: Query with an identity", 1, || identified.turn(&query, &proven));

    let unnamed = written(|out| {
        write::parse(out, b"", b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;", &[]);
        write::bind_text(out, b"", b"", &[Some(b"54321")]);
        write::describe(out, b'P', b"");
        write::execute(out, b"", 0);
        write::sync(out);
    });
    let parsed = written(|out| {
        write::parse_complete(out);
        write::bind_complete(out);
        write::row_description(out, &["abalance"]);
        a_row(out);
    });
    let mut extended = Conversation::new(false);
    bench.case("a turn: Parse, Bind, Describe, Execute, Sync", 1, || extended.turn(&unnamed, &parsed));

    let ten = |once: &BytesMut, synced: usize| {
        let (one, sync) = once.split_at(once.len() - synced);
        BytesMut::from(&[&one.repeat(10)[..], sync].concat()[..])
    };
    let (asked, answers) = (ten(&unnamed, 5), ten(&parsed, 6));
    let mut pipelined = Conversation::new(false);
    bench.case("a turn: ten of these and one Sync", 1, || pipelined.turn(&asked, &answers));

    let named = written(|out| {
        write::bind_text(out, b"", b"P_0", &[Some(b"54321")]);
        write::describe(out, b'P', b"");
        write::execute(out, b"", 0);
        write::sync(out);
    });
    let bound = written(|out| {
        write::bind_complete(out);
        write::row_description(out, &["abalance"]);
        a_row(out);
    });
    let mut prepared = Conversation::new(false);
    let prepare = written(|out| {
        write::parse(out, b"P_0", b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;", &[]);
        write::sync(out);
    });
    prepared.turn(
        &prepare,
        &written(|out| {
            write::parse_complete(out);
            write::ready_for_query(out, b'I');
        }),
    );
    bench.case("a turn: Bind, Describe, Execute, Sync, prepared", 1, || prepared.turn(&named, &bound));
}

fn forwarding(bench: &Bench) {
    let query = written(|out| write::query(out, SELECT));
    let rows = |count: usize, size: usize| {
        written(|out| {
            write::row_description(out, &["abalance"]);
            for _ in 0..count {
                write::data_row(out, &[Some(&vec![b'x'; size])]);
            }
            write::command_complete(out, b"SELECT 1000");
            write::ready_for_query(out, b'I');
        })
    };

    let mut conversation = Conversation::new(false);
    let large = rows(1_000, 1_000);
    bench.case("a row of 1,000 bytes, of a MB at once", 1_000, || conversation.turn(&query, &large));
    let small = rows(10_000, 6);
    bench.case("a row of 6 bytes, of 10,000 at once", 10_000, || conversation.turn(&query, &small));
}

/// A server of the pool's, borrowed and given back, with the turn in between that a give-back needs.
fn checkout(bench: &Bench) {
    const NAME: &str = "checkout, turn and release";
    if !NAME.contains(&bench.filter) {
        return; // nothing is listened on for nobody
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pool = pool(greeter());
    let (query, answer) = (written(|out| write::query(out, SELECT)), written(a_row));
    let mut conversation = Conversation::new(false);
    bench.case(NAME, 1, || {
        let mut lease: Lease = runtime.block_on(pool.checkout(Some(ClientId(1)))).unwrap();
        conversation.ours.inbox.extend_from_slice(&query);
        let server = &mut *lease;
        let clean = turn(
            &mut conversation.client,
            &mut conversation.ours,
            &mut server.exchange,
            &mut server.state,
            &mut server.peer.buffers,
            &answer,
        );
        conversation.ours.outbox.clear();
        lease.release(clean, Instant::now());
    });
}

/// The server that awaits a client, found behind all others, and put back.
fn shelf(bench: &Bench) {
    for idle in [1, 20, 100, 500] {
        let (shelf, now) = (Shelf::default(), Instant::now());
        (0..idle).for_each(|client| shelf.put(Box::new(client), Some(ClientId(client)), now));
        let last = Some(ClientId(idle - 1));
        bench.case(&format!("shelf: the last of {idle} that await others"), 1, || {
            shelf.take(black_box(last), now).into_iter().for_each(|server| shelf.put(server, last, now));
        });
    }
}

/// A server that lets everybody in and says nothing more; returns its port.
fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let greeting = written(|out| {
        write::authentication_ok(out);
        write::backend_key_data(out, 1, b"1234");
        write::ready_for_query(out, b'I');
    });
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&greeting);
            // It stays open: who ends is the benchmark.
            std::mem::forget(stream);
        }
    });
    port
}

fn pool(port: u16) -> Arc<Pool> {
    let pools = Pools::new(Shared {
        next_server: AtomicU64::new(1),
        secrets: Secrets::default(),
        hashing: Arc::new(Hashing::new()),
        hosts: pgusher::pool::Hosts::default(),
        tuning: RwLock::default(),
        connectors: Connectors::default(),
        total: RwLock::default(),
        crowd: Arc::default(),
    });
    let recipe = || Recipe {
        upstream: Arc::new(Upstream {
            hosts: vec![Host::Tcp { host: "127.0.0.1".into(), port }],
            dbname: None,
            user: None,
            password: PasswordSource::Given(Secret::from("unused")),
            tls: ServerSettings { sslmode: SslMode::Disable, ..ServerSettings::default() },
            channel_binding: BindingPolicy::default(),
            application_name: None,
            application_name_add_client: false,
            settings: Vec::new(),
            connect_query: None,
            max_servers: None,
            max_clients: None,
        }),
        edition: 0,
        keeps_statements: true,
        settings: Arc::new(Settings { lifetime: None, max_uses: None, ..Settings::default() }),
        identity_variables: Arc::default(),
        caps: Vec::new(),
    };
    pools.pool(&PoolKey { database: "bench".into(), user: "bench".into() }, recipe)
}
