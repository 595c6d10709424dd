//! A connection pooler for PostgreSQL that runs every transaction as its own client's user.
//!
//! This page is the map of the code; `README.md` is for those who run it. Clients share few server connections, and before each
//! transaction the server is told for whom it runs (`app.current_user_id`), so that row-level security sees the user of
//! exactly that client. The property that everything here serves: *no statement of a client is executed unless an injection of that
//! client's identity has committed on that server after anyone else last used it.*
//!
//! # Layers
//!
//! ```text
//!          main
//!           │
//!  app, check, doctor, import ─── cli, config  composition: the only place that knows everything
//!           │
//!      console ─── reload                      the operator's door; what was configured, read again and applied
//!           │
//!         admin                                asked by machines: metrics, health
//!           │
//!         proxy                                clients served
//!           │
//!   pool ───┼─── drain                         servers kept and lent; counting those who are still served
//!    │      └─── token                         what a signed token proves
//!   net, hashing   telemetry (beside all of these: the log, what counts)
//!    │
//!  ──┼───────────────────────────────────────  below is PURE: no tokio, clock, log, file, thread
//!    │
//!  session ──► auth                            the conversation; the proof of who one is
//!    └──► wire                                 the format
//!          │
//!        names                                 who is who
//!
//!  demo                                        beside it all: shows the program from outside, in processes
//! ```
//!
//! A room uses the rooms below it, and a crate is used by the rooms that `Cargo.toml` names behind it. `tests/layering.rs` has
//! the table and reads the sources: a line in the wrong layer is a failing test. Every file opens with its contract (what it *promises*, what it
//! *refuses*); a new line belongs where it helps to keep a promise.
//!
//! | room | for |
//! |---|---|
//! | [`names`] | users, databases, pools, clients, servers and keys, as types that cannot be swapped |
//! | [`wire`] | bytes to frames and back |
//! | [`auth`] | SCRAM, md5, passwords, verifiers, secrets that do not print |
//! | [`session`] | who may say what now, and what it means for the pool; every decision is made here |
//! | [`net`] | sockets and their buffers, plain and in TLS |
//! | [`pool`] | servers made, kept, lent and closed (over deadpool) |
//! | [`hashing`] | keys from passwords, away from the threads that serve queries |
//! | [`token`] | what a signed token (JWT) proves, and where the keys come from |
//! | [`drain`] | who is still being served when we are told to end |
//! | [`proxy`] | clients, from accept to farewell |
//! | [`admin`] | metrics and health over HTTP |
//! | [`telemetry`] | the log; the metrics: what there is, what counts, how it is written |
//! | [`cli`], [`config`] | what the operator typed and wrote, made into the `Settings` of each room |
//! | [`console`] | seen and steered with `psql`, as PgBouncer's |
//! | [`reload`] | the configuration read again while clients are served |
//! | [`app`], [`check`] | everything put together; one login to every database |
//! | [`import`] | `pgusher import`: PgBouncer's configuration in our words |
//! | [`tier`] | the SQL of the login tier, put into databases |
//! | [`doctor`] | what in a database lets a user through, and the SQL that mends it |
//! | [`drain_order`] | `pgusher drain` |
//! | [`demo`] | `pgusher demo` |
//!
//! # The path of a byte
//!
//! ```text
//!  application                                                                            PostgreSQL
//!      │                                                                                      ▲
//!      ▼ poll_fill                                                                 poll_drain │
//!  Peer.inbox ──► Header ──► session::idle ──► answered here                             Peer.outbox
//!                                 │ needs a server                                            ▲
//!                                 ▼                                                           │
//!                          proxy::checkout ─► pool::Lease ─► session::Exchange::begin ────────┤ the prelude: settings,
//!                                                                 │                           │ identity; then, in the
//!                                                                 ▼                           │ same write, the client's
//!                                    session::exchange::from_client ─► pipeline: what is owed ┘ first words
//!                                                                              │
//!  Peer.outbox ◄── forwarded, or supplied (or swallowed) ◄── session::exchange::from_server ◄── Peer.inbox
//!      │ poll_drain                                                            │
//!      ▼                                                                       └─► Settled(Clean) ─► Lease::release ─► pool
//!  application
//! ```
//!
//! In words: **fill** the inbox; look at the **header** of the frame at its front; between transactions, **answer** what needs no server;
//! else **check out** a server, **begin** the exchange with what this client's session needs there, and let the **exchange** judge each frame from
//! its header, and only where it must from its body; bytes move to the other side's outbox, where they are **drained**. When nothing
//! is owed and the status is idle, the exchange mints a [`session::Clean`], and only with that a [`pool::Lease`] can be released: whatever else happens,
//! dropping the lease closes the server.
//!
//! # Where does a change go?
//!
//! | a change | its place |
//! |---|---|
//! | a message type that PostgreSQL adds | `wire/frame.rs` (the tag), `session/pipeline.rs` (what it owes), `session/exchange/` (what is done) |
//! | a field of a login message | `wire/startup.rs`, `wire/control.rs` |
//! | something else that is said before the client's words | `session/inject.rs`, with its step in `session/pipeline.rs` |
//! | another way to say who the user is | `session/claim.rs`; read from SQL in `session/sql.rs`, from parameters in `session/bound.rs`, from the startup packet in `proxy/entrance.rs` |
//! | another proof of who the user is | `token/`; its SET is a [`session::idle::Idle::NeedVerdict`], its login a [`session::opening::Step::Token`] |
//! | a command answered without a server | `session/sql.rs` (recognised), `session/idle.rs` (answered) |
//! | session state that pins, or is swept | `session/hold.rs` (its name), `session/inspect.rs` (how it is found and removed), `session/sql.rs` (when to ask) |
//! | who may come in from where | `auth/rules.rs` (the lines), `proxy/admission.rs` (what is asked of the connection) |
//! | where users' verifiers come from | `proxy/verifiers.rs`; asked of a database: `proxy/auth_query.rs`, over a connection of `pool/asker.rs` |
//! | where the password for a server comes from | `pool/settings.rs` (`PasswordSource`), `pool/secrets.rs` (when it is had anew), `pool/command.rs` (a program) |
//! | what is asked of encryption, or of a certificate | `net/tls/`; who must be encrypted: `proxy/entrance.rs`; what an `sslmode` means: `pool/dial.rs` |
//! | another authentication method | a file in `auth/`, a variant of [`auth::Method`], its step in `session/opening.rs` and `session/login.rs` |
//! | a new reason to refuse a statement | `session/violation.rs` |
//! | a new reason to end or deny a client | `proxy/farewell.rs` |
//! | a timeout of a turn | `proxy/relay.rs` (`Watch`); of waiting: `pool/mod.rs` |
//! | which of several hosts is used | `session/role.rs` (what a server says it is), `pool/target.rs` (which will do), `pool/hosts.rs` (in which order) |
//! | another pool crate | `pool/manager.rs`, `pool/granted.rs` |
//! | which idle server is lent | `pool/shelf.rs` |
//! | a key of PgBouncer | a row in `import/settings.rs`, what it becomes in `import/translate.rs`, a line in `tests/import` |
//! | a metric | `telemetry/metrics.rs` (its name), an instrument where it happens, `admin/scrape.rs` (where it is read) |
//! | a setting | a field of the `Settings` it belongs to, a row in `config/keys.rs`, a line in `config/pgusher.toml` |
//! | another finding of `pgusher doctor` | `doctor/chart.rs` (the question), `doctor/diagnosis.rs` (the finding) |
//! | an operator's command | in the console: `console/command.rs` and `console/steer.rs`; of the program: `cli.rs`, `main.rs`, and a room of its own |
//!
//! # Glossary
//!
//! PostgreSQL's words for the protocol, PgBouncer's for pooling, ours where neither has one.
//!
//! | term | means here | from |
//! |---|---|---|
//! | frontend, backend | the two directions of the protocol: who *says* a message; only in `wire` | PostgreSQL |
//! | client | a connection from an application to us | PgBouncer |
//! | server | a connection from us to PostgreSQL | PgBouncer |
//! | pool | the servers of one database and user | PgBouncer |
//! | opening, login | a client's way in; our way into PostgreSQL | ours |
//! | frame | type byte, length, body; a *message* is its meaning | ours |
//! | transaction status | `I` idle, `T` in a transaction block, `E` in a failed one; `Z(I)` is ReadyForQuery with `I` | PostgreSQL |
//! | session, transaction, statement mode | when a server may go home: at disconnect, at idle, after each statement | PgBouncer |
//! | checkout, lease | asking for a server; having one | ours |
//! | shelf, ticket | where idle servers are; what entitles to one of them | ours |
//! | affinity | that a client gets the server it had last | – |
//! | turn, exchange | what happens while a client holds a server | ours |
//! | owed, pipeline | answers the server has still to give, in order | PgBouncer's outstanding requests |
//! | unit | what a client sends up to and including a Query, Sync or FunctionCall | ours |
//! | token, grant | a JWT; the identity it proves, and until when | RFC 7519; ours |
//! | identity, claim | the end user a transaction runs for; what the client has said about it | ours |
//! | prelude, barrier, proven | what we say first; the wait for its answers; the wait over | ours |
//! | tracked settings | those a client wants, put on whichever server it gets | ours |
//! | pin, held | state that cannot follow a client; a server it keeps because of that | RDS Proxy; ours |
//! | inspection, sweep | asking a server what was left on it; its removal | ours |
//! | settled, [`Clean`](session::Clean) | nothing owed, nothing held; the proof of it | ours |
//! | verifier | what checks a password without being it | RFC 5802 |
//! | cancel key | process ID and secret; a *client key* is ours, a *server key* PostgreSQL's | PostgreSQL |
//! | drain | ending without breaking a transaction | – |
//! | farewell | how a client's life ended and what it is told | ours |
//!
//! # Why it is as it is
//!
//! - **One package, one library, a thin `main`.** A workspace buys enforced direction; a test that reads `use` lines buys it for
//!   less. Tests and benches link the library.
//! - **A pure core.** [`session`] gets bytes and gives bytes: no socket, no clock. So every path of the conversation is a
//!   test on plain bytes, and a future that is dropped loses no state.
//! - **SCRAM of our own, over RustCrypto** (`auth/scram.rs`). A login can be passed through without stored passwords only
//!   with the ClientKey that a client's proof reveals. pgwire's SCRAM does not give it out, compares with `==`, and its client does not check the
//!   server's nonce. pgwire decodes the few messages of a login (`wire/control.rs`), and nothing on the way of queries.
//! - **The exchange is six files.** State and order in `exchange.rs`, how a turn ends in `exchange/conclusion.rs`, what a client's
//!   frames do in `exchange/from_client.rs`, with its statements and what may pass in files of their own, what a server's do in
//!   `exchange/from_server.rs`: one file of all was past what a reader keeps in mind.
//! - **rustls over *ring*.** It builds with Rust and a C compiler alone; aws-lc-rs, the other choice, brings a larger C library, and on some
//!   machines cmake. The price is that key exchange with ML-KEM, which only that one has, is not offered.
//! - **Headers instead of a scanner.** Frames are judged one by one at the front of the inbox; only those whose body matters are waited for
//!   whole, the rest streams. When all that has come may go, inbox and outbox change places (`wire/buffer.rs`), which was what a
//!   scanner for runs was to buy.
//! - **Fast is what is not done.** Four system calls a transaction are the floor, and most of its cost; `proxy/relay.rs` says what
//!   keeps the rest small, `benches/` measures it.
//! - **Session state is asked for, not parsed.** SQL changes sessions in more ways than reading it can tell, so `session/sql.rs` only finds
//!   texts that *might*; then `session/inspect.rs` asks the server what is there. The identity depends on neither: it is said anew for every
//!   transaction.
//! - **The prelude commits before the client speaks.** A value that is set in the client's own transaction comes back wrong after
//!   its ROLLBACK, and a prelude with a Sync of its own can fail while the statement behind it runs. In one pipeline without a Sync, the
//!   server itself skips the client's words when the prelude fails.
//! - **deadpool counts, the shelf chooses.** A server that goes to the client it had last needs no clean, and only what sees all that are idle can
//!   give it to that client. deadpool gives out the last or the first, and its `retain`, which visits them, allocates each time. So its objects are
//!   tickets: it bounds servers and has them made, and `pool/shelf.rs` says which is lent.
//! - **No round trip to recycle.** Whether a server may be lent again is decided from facts (`pool/manager.rs`); one that has been idle for
//!   long answers a Sync first.
//! - **Metrics are fields, read when asked.** A recorder of the crate `metrics` keeps each observation of a histogram until somebody
//!   scrapes, and every series for ever. `telemetry/instruments.rs` is a few atomics for each pool, gone with it; names, labels and
//!   text are the crates' own.
//! - **A token is a question, not a check.** The core has no clock and no keys: it says that a client gives a token and is told
//!   what that proves. jsonwebtoken reads the token, `ring` does the mathematics (`token/signature.rs`): what TLS uses already.
//! - **[`demo`] uses nothing of ours.** What it shows has to be what a user's processes would see.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod auth;
pub mod check;
pub mod cli;
pub mod config;
pub mod console;
pub mod demo;
pub mod doctor;
pub mod drain;
pub mod drain_order;
pub mod hashing;
pub mod import;
pub mod names;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod reload;
pub mod session;
pub mod telemetry;
pub mod tier;
pub mod token;
pub mod wire;
