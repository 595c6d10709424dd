//! What is shown, in order.
//!
//! # Promises
//! - A step prints what it saw and then holds it against what it should have seen; the first that differs ends the show.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::process::{Command, Output};
use std::time::Duration;

use crate::demo::failure::Failure;
use crate::demo::postgres::{MAX_CONNECTIONS, Postgres, read_tail};
use crate::demo::process::{finish, said, tied, until, without_settings};
use crate::demo::programs::Programs;
use crate::demo::sidecar::{ROLE, Sidecar, url};
use crate::demo::stop::Stop;
use crate::demo::terminal::{self, Terminal};

/// Shows everything; then stays up until told to stop, unless it is to be shown only `once`.
///
/// # Errors
/// What could not be set up, or was not as it should be.
pub fn run(once: bool) -> Result<(), Failure> {
    let stop = Stop::listen()?;
    let programs = Programs::find()?;
    say("pgusher demo: many clients on few servers, and every end user sees their own rows only.");
    let postgres = stage(&programs)?;
    stop.check()?;
    many_clients(&programs, &postgres)?;
    stop.check()?;

    let mut sidecar = Sidecar::start(&postgres, FEW)?;
    users_kept_apart(&programs, &postgres, &sidecar)?;
    stop.check()?;
    audit(&programs, &postgres, &sidecar)?;
    nobody(&programs, &sidecar)?;
    stop.check()?;
    doctor(&programs, &postgres, &sidecar)?;
    stop.check()?;
    say("\nEverything was as it should be.");
    if !once {
        stay(&stop, postgres, &mut sidecar)?;
    }
    let status = sidecar.end()?;
    expect(status.success(), || format!("pgusher ended with {status}"))
}

/// A server, the schema, and end users.
fn stage(programs: &Programs) -> Result<Postgres, Failure> {
    heading("The stage");
    let postgres = Postgres::start(programs)?;
    let users = format!(
        "insert into users.users (id, email, full_name)
         select ('{UUID}' || {FIRST_USER} + n)::uuid, 'user' || n || '@example.com', 'User ' || n
         from generate_series(1, {CLIENTS}) n;
         analyze users.users;"
    );
    postgres.load(programs, "saas", &users)?;
    let version = postgres.ask(programs, "select split_part(version(), ' on ', 1)")?;
    tell(&format!("{version} of its own in {}", postgres.home.0.display()));
    tell(&format!(
        "with max_connections = {MAX_CONNECTIONS}, a role \"{ROLE}\" that the whole application shares,"
    ));
    tell("and the schema of docker/postgres/init.sql: row-level security by app.current_user_id.");
    Ok(postgres)
}

/// Far more clients than the server would take, each transaction another user's.
fn many_clients(programs: &Programs, postgres: &Postgres) -> Result<(), Failure> {
    heading(&format!("1. {CLIENTS} clients on {SEVERAL} servers"));
    tell("Each transaction is a random end user's, who must see one row of users.users: their own.\n");
    let script = postgres.home.file("load.sql");
    fs::write(&script, load()).map_err(|error| Failure::File(script.clone(), error))?;

    let direct = url(postgres.port);
    command(&[], &format!("pgbench -n -c {CLIENTS} -t {EACH} -f load.sql {direct}"));
    let refused = finish(pgbench(programs, postgres, &direct), "pgbench")?;
    let fatal = line(&refused, "FATAL");
    answer(&fatal);
    expect(!refused.status.success() && !fatal.is_empty(), || {
        format!("{MAX_CONNECTIONS} connections were enough for {CLIENTS} clients")
    })?;

    let sidecar = Sidecar::start(postgres, SEVERAL)?;
    command(&sidecar.environment, "pgusher");
    command(&[], &format!("pgbench -n -c {CLIENTS} -t {EACH} -f load.sql {}", sidecar.url()));
    let load = under_load(programs, postgres, &sidecar)?;
    answer(&format!("{} transactions, {} a second, none failed", load.transactions, load.rate));
    answer(&format!("connections that PostgreSQL saw: {} at most", load.servers));
    if let Some(memory) = load.memory {
        let of_debug = if cfg!(debug_assertions) { " (this is a debug build)" } else { "" };
        answer(&format!("memory of pgusher: {:.1} MB at most{of_debug}", memory as f64 / 1e6));
    }
    expect((1..=SEVERAL).contains(&load.servers), || {
        format!("{} servers for a pool of {SEVERAL}", load.servers)
    })?;
    let status = sidecar.end()?;
    expect(status.success(), || format!("pgusher ended with {status}"))
}

/// What was seen while pgbench ran.
struct Load {
    transactions: u64,
    rate: u64,
    servers: usize,
    memory: Option<u64>,
}

fn under_load(programs: &Programs, postgres: &Postgres, sidecar: &Sidecar) -> Result<Load, Failure> {
    let log = postgres.home.file("pgbench.log");
    let file = fs::File::create(&log).map_err(|error| Failure::File(log.clone(), error))?;
    let mut running = pgbench(programs, postgres, &sidecar.url());
    running
        .stdin(std::process::Stdio::null())
        .stderr(file.try_clone().map_err(|error| Failure::File(log.clone(), error))?);
    let mut child = running.stdout(file).spawn().map_err(|error| Failure::Program("pgbench", error))?;

    let (mut servers, mut memory) = (0, None);
    let count = format!("select count(*) from pg_stat_activity where usename = '{ROLE}'");
    let ended = until(LONGEST_LOAD, || match child.try_wait() {
        Ok(None) => {
            let seen = postgres.ask(programs, &count).ok().and_then(|count| count.parse().ok());
            servers = servers.max(seen.unwrap_or(0));
            memory = memory.max(sidecar.process.resident());
            None
        }
        ended => Some(ended.ok().flatten()),
    });
    let Some(Some(status)) = ended else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Failure::TooSlow("pgbench to end", read_tail(&log)));
    };
    let words = fs::read_to_string(&log).unwrap_or_default();
    if !status.success() {
        return Err(Failure::Ended("pgbench", status, read_tail(&log)));
    }
    let number = |label: &str| words.lines().find_map(|line| digits(line.strip_prefix(label)?));
    let transactions = number("number of transactions actually processed: ").unwrap_or(0);
    expect(transactions == (CLIENTS * EACH) as u64, || format!("pgbench did not do it all: {words}"))?;
    Ok(Load { transactions, rate: number("tps = ").unwrap_or(0), servers, memory })
}

/// Ada and Bob take turns on two connections; each turn first says who it is.
fn users_kept_apart(programs: &Programs, postgres: &Postgres, sidecar: &Sidecar) -> Result<(), Failure> {
    heading(&format!("2. Two end users, one pool of {FEW} servers"));
    tell(
        "Two connections of an application, each asking for Ada now and for Bob next. Before it asks, it says for whom,",
    );
    tell(
        "as it would without a pooler. Every other time the two transactions overlap, so that both servers are used.\n",
    );
    command(&sidecar.environment, "pgusher");
    let mut connections =
        [Terminal::open(programs, &sidecar.url())?, Terminal::open(programs, &sidecar.url())?];
    let mut servers = BTreeSet::new();
    for turn in 0..TURNS {
        let (connection, person) = (turn % 2, &PEOPLE[(turn / 2 + turn) % 2]);
        let is_overlapping = (turn / 2) % 2 == 1;
        let begin = if is_overlapping { "BEGIN;" } else { "" };
        let rows = connections[connection].ask(&format!(
            "SET {VARIABLE} = '{}'; {begin}
             SELECT (SELECT string_agg(full_name, ', ') FROM users.users),
                    (SELECT count(*) FROM billing.subscriptions), pg_backend_pid()",
            person.id
        ))?;
        let (seen, server) = rows.first().and_then(|row| row.rsplit_once('|')).unwrap_or_default();
        if turn < TURNS_SHOWN {
            let (name, count) = seen.split_once('|').unwrap_or_default();
            answer(&format!(
                "connection {}  SET {VARIABLE} = '{}…'  {begin:<6}  sees {name:<12}  and subscriptions: {count}  (server {server})",
                connection + 1,
                short(person.id)
            ));
        }
        expect(seen == format!("{}|{}", person.name, person.subscriptions), || {
            format!("{} was shown {seen:?}", person.name)
        })?;
        servers.insert(server.to_owned());
        if is_overlapping && connection == 1 {
            for connection in &mut connections {
                connection.ask("COMMIT")?;
            }
        }
    }
    answer(&format!(
        "… and so on: {TURNS} turns on {} servers, each with nothing but the asker's rows",
        servers.len()
    ));
    let theirs = postgres.ask(programs, "select count(*) from users.users")?;
    answer(&format!("(the table has {theirs} rows)"));
    expect(servers.len() == FEW, || format!("{} servers for a pool of {FEW}", servers.len()))
}

/// Who the audit trail says it was.
fn audit(programs: &Programs, postgres: &Postgres, sidecar: &Sidecar) -> Result<(), Failure> {
    heading("3. Whom the audit log names");
    tell("One connection, three updates: Ada's of her own row, Ada's of Bob's row, Bob's of his own.\n");
    let [ada, bob] = &PEOPLE;
    let mut connection = Terminal::open(programs, &sidecar.url())?;
    for (person, row, name, expected) in
        [(ada, ada, "Ada King", 1), (ada, bob, "Ada was here", 0), (bob, bob, "Robert Kahn", 1)]
    {
        let updated = connection.ask(&format!(
            "SET {VARIABLE} = '{}'; UPDATE users.users SET full_name = '{name}' WHERE id = '{}' RETURNING full_name",
            person.id, row.id
        ))?;
        answer(&format!("{} updates the row of {}: {} row(s)", person.name, row.name, updated.len()));
        expect(updated.len() == expected, || format!("{} rows were updated", updated.len()))?;
    }
    let trail = "from audit.audit_log where action = 'UPDATE' and table_name = 'users.users'";
    say("");
    let shown = format!(
        "select who, role, action, table_name, new_row->>'full_name' as full_name {trail} order by id"
    );
    postgres.table(programs, &shown)?.trim_end().lines().for_each(answer);
    let named =
        postgres.ask(programs, &format!("select who || ' ' || (old_row->>'id') {trail} order by id"))?;
    let expected = format!("{0} {0}\n{1} {1}", ada.id, bob.id);
    expect(named == expected, || format!("the audit log names {named:?}"))
}

/// A transaction that says for nobody.
fn nobody(programs: &Programs, sidecar: &Sidecar) -> Result<(), Failure> {
    heading("4. Nobody sees nothing");
    tell("A new connection that never says who it is, on the servers that Ada and Bob have just used.\n");
    let sql = "SELECT * FROM users.users";
    command(&[], &format!("psql {} -c '{sql}'", sidecar.url()));
    let refused = terminal::once(programs, &sidecar.url(), sql)?;
    let error = line(&refused, "ERROR");
    answer(&error);
    tell("\nThe policies were told '', which is nobody. With PGUSHER_IDENTITY_MISSING=deny, pgusher would");
    tell("have refused the statement itself (28000), without touching a server.");
    expect(!refused.status.success() && refused.stdout.is_empty() && error.contains("22P02"), || {
        format!("nobody was answered {:?} {:?}", String::from_utf8_lossy(&refused.stdout), said(&refused))
    })
}

/// Somebody forgets to switch row-level security on again; it is found, and mended by what was found.
fn doctor(programs: &Programs, postgres: &Postgres, sidecar: &Sidecar) -> Result<(), Failure> {
    heading("5. What would let a user through");
    tell(
        "Who may see what is up to the database. pgusher doctor looks there, with the login of its pool: for roles that",
    );
    tell(
        "bypass policies, tables without them, policies that open for nobody, and more. Here nothing lets anybody through",
    );
    tell("(without --level it also advises to read the variable once for a statement, not for each row):\n");
    let upstream: Vec<_> =
        sidecar.environment.iter().filter(|(name, _)| *name == "PGUSHER_UPSTREAM").cloned().collect();
    let examine = || {
        command(&upstream, "pgusher doctor --level warning");
        let examined = examine(&upstream, postgres)?;
        let said = String::from_utf8_lossy(&examined.stdout).into_owned();
        let lines = said.lines().filter(|line| !line.starts_with("  note: ") && !line.is_empty());
        lines.for_each(answer);
        Ok((examined.status.code(), said))
    };
    let (sound, said) = examine()?;
    expect(sound == Some(0), || format!("pgusher doctor said {said}"))?;

    tell("\nSomebody disables the policies of a table, for a migration, and forgets it:\n");
    let table = "billing.subscriptions";
    let change = |what: &str| {
        let sql = format!("ALTER TABLE {table} {what} ROW LEVEL SECURITY;");
        command(&[], &format!("psql -U postgres saas -c '{sql}'"));
        postgres.ask(programs, &sql).map(|_| sql)
    };
    change("DISABLE")?;
    let (found, said) = examine()?;
    tell("");
    let mended = change("ENABLE")?;
    expect(found == Some(1) && said.contains(&mended), || format!("pgusher doctor said {said}"))?;
    let (sound, said) = examine()?;
    tell(
        "\nIts exit code was 0, 1 and 0: as an init container it keeps an application from starting on such a database.",
    );
    expect(sound == Some(0), || format!("pgusher doctor said {said}"))
}

/// Runs `pgusher doctor` as its users do.
fn examine(upstream: &[(&'static str, String)], postgres: &Postgres) -> Result<Output, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::Program("pgusher", error))?;
    let mut doctor = without_settings(tied(&program, "KILL", None));
    doctor
        .args(["doctor", "--level", "warning"])
        .envs(upstream.iter().cloned())
        .current_dir(&postgres.home.0);
    finish(doctor, "pgusher")
}

/// Stays up for whoever wants to try.
fn stay(stop: &Stop, mut postgres: Postgres, sidecar: &mut Sidecar) -> Result<(), Failure> {
    let url = sidecar.url();
    heading("Now you");
    tell("Through pgusher, first as Ada, then as Bob:");
    command(&[], &format!("PGOPTIONS='-c {VARIABLE}={}' psql {url}", PEOPLE[0].id));
    tell("  TABLE billing.subscriptions;");
    tell(&format!("  SET {VARIABLE} = '{}';", PEOPLE[1].id));
    tell("  TABLE billing.subscriptions;\n");
    tell("As superuser, past pgusher:");
    let home = postgres.home.0.display();
    command(&[], &format!("psql -h {home} -p {} -U postgres saas -c 'TABLE audit.audit_log'", postgres.port));
    tell("\nIt stays up until Ctrl-C, and leaves nothing behind.");
    while !stop.within(Duration::from_millis(500)) {
        for (name, process) in [("postgres", &mut postgres.server), ("pgusher", &mut sidecar.process)] {
            if let Some(status) = process.ended() {
                return Err(Failure::Ended(name, status, String::new()));
            }
        }
    }
    say("");
    Ok(())
}

/// One transaction of pgbench: an error unless the user sees one row and it is their own.
fn load() -> String {
    format!(
        "\\set user {FIRST_USER} + random(1, {CLIENTS})\n\
         SET {VARIABLE} = '{UUID}:user';\n\
         SELECT 1 / (count(*) = 1 AND bool_and(id = '{UUID}:user'))::int FROM users.users;\n"
    )
}

fn pgbench(programs: &Programs, postgres: &Postgres, url: &str) -> Command {
    let mut pgbench = without_settings(tied(&programs.pgbench, "KILL", None));
    pgbench.args(["-n", "-c", &CLIENTS.to_string(), "-j", "2", "-t", &EACH.to_string(), "-f"]);
    pgbench.arg(postgres.home.file("load.sql")).arg(url);
    pgbench
}

/// The first line of what a program complained about that has this word, from the word on.
fn line(output: &Output, word: &str) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    words.lines().find_map(|line| Some(line[line.find(word)?..].to_owned())).unwrap_or_default()
}

/// The number a text begins with.
fn digits(text: &str) -> Option<u64> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn short(id: &str) -> &str {
    id.split_once('-').map_or(id, |(first, _)| first)
}

fn expect(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(Failure::Wrong(otherwise())) }
}

fn heading(text: &str) {
    say(&format!("\n{text}\n{}", "─".repeat(text.chars().count())));
}

fn tell(text: &str) {
    say(text);
}

/// A command as one would type it.
fn command(environment: &[(&'static str, String)], text: &str) {
    let variables: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    say(&format!("  $ {variables}{text}"));
}

fn answer(text: &str) {
    say(&format!("    {text}"));
}

/// Nobody may be reading any more; that is no reason to panic.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// An end user of init.sql.
struct Person {
    name: &'static str,
    id: &'static str,
    subscriptions: u8,
}

const PEOPLE: [Person; 2] = [
    Person { name: "Ada Lovelace", id: "11111111-1111-1111-1111-111111111111", subscriptions: 2 },
    Person { name: "Bob Kahn", id: "22222222-2222-2222-2222-222222222222", subscriptions: 1 },
];

const CLIENTS: usize = 200;
/// Transactions of each client. Not a time: pgbench counts it from before its clients are connected.
const EACH: usize = 25;
const FEW: usize = 2;
const FIRST_USER: u64 = 100_000_000_000;
const LONGEST_LOAD: Duration = Duration::from_secs(120);
const SEVERAL: usize = 5;
const TURNS: usize = 40;
const TURNS_SHOWN: usize = 6;
/// What the identities of the load begin with; twelve digits follow.
const UUID: &str = "00000000-0000-4000-8000-";
const VARIABLE: &str = "app.current_user_id";
