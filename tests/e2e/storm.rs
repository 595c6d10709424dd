//! The storm: more users than servers, and everything that can go wrong, at once.
//!
//! Each client is a program of its own, dealt out by a seed: autocommit, blocks, pipelines, prepared statements, COPY,
//! errors, timeouts, identity switches, DISCARD ALL; beside it come cancels at any moment, and it may die in the middle,
//! with FIN or RST, before its Sync too. On the server the prelude fails now and then, and takes its time for a cancel to hit it.
//! The oracle does not depend on what became of any of it: every row a client is shown must be its own, every statement must have
//! run as who sent it, what was acknowledged is there, once, and what was rolled back or never committed is not.
//!
//! `STORM_SEED=<number>` deals the same programs again; what the network and the scheduler make of them is their own.
//! `STORM_TRANSACTIONS` is how many each major has to make, `STORM_SECONDS` how long it lasts at least.
//!
//! A storm that cannot fail proves nothing: with the feature `mutations` (`make test` has it) the same storm runs against poolers
//! that miss one rule each, and it has to notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::harness::raw::Target;
use crate::harness::{Dice, Frame, Pgusher, Postgres, Raw, notation, say};

const USERS: usize = 8;
const CLIENTS: usize = 12;

/// Transactions of each major, unless the environment says otherwise: over the five there are 200,000.
const TRANSACTIONS: u64 = 40_000;

/// The longest a third of them may take.
const LIMIT: Duration = Duration::from_secs(150);

const ME: &str = "select current_setting('app.current_user_id', true)";

const TABLES: &str = "
create table notes (
    id bigint generated always as identity primary key,
    owner text not null default current_setting('app.current_user_id', true),
    said text not null,
    mark bigint not null
);
alter table notes enable row level security;
alter table notes force row level security;
create policy own on notes using (owner = current_setting('app.current_user_id')) with check (true);
create index on notes (mark);
create table audit (said text, owner text, who text, mark bigint, at_commit boolean);
create function record() returns trigger language plpgsql security definer as $$
begin
    insert into public.audit
    values (new.said, new.owner, current_setting('app.current_user_id', true), new.mark, tg_name = 'at_commit');
    return null;
end $$;
create trigger at_once after insert on notes for each row execute function record();
create constraint trigger at_commit after insert on notes
    deferrable initially deferred for each row execute function record();
create table copied (said text, who text default current_setting('app.current_user_id', true));
grant select, insert on notes, copied to app;
";

/// Puts a function of ours in the place of `set_config`: of so many preludes one fails, and one takes its time. So seldom that none
/// fails three times in a row, which a client would be told.
const FAULTS: &str = "
create sequence preludes;
grant usage on preludes to public;
alter function pg_catalog.set_config(text, text, boolean) rename to set_config_really;
create function pg_catalog.set_config(text, text, boolean) returns text language plpgsql as $$
begin
    if pg_catalog.current_query() = 'select pg_catalog.set_config($1,$2,false)' then
        case pg_catalog.nextval('public.preludes') % 32
            when 0 then raise exception 'the prelude fails';
            when 16 then perform pg_catalog.pg_sleep(0.001);
            else null;
        end case;
    end if;
    return pg_catalog.set_config_really($1, $2, $3);
end $$;
";

/// What all clients of a storm count together.
#[derive(Default)]
struct Tally {
    transactions: AtomicU64,
    cancels: AtomicU64,
    deaths: AtomicU64,
    errors: AtomicU64,
    over: AtomicBool,
}

fn user(number: usize) -> String {
    format!("{0:02x}{0:02x}{0:02x}{0:02x}-0000-4000-8000-{0:012x}", number + 1)
}

/// One client's life, or several of them.
struct Program {
    dice: Dice,
    target: Target,
    tally: Arc<Tally>,
    /// Who its next words are for.
    who: usize,
    marks: Marks,
    number: u64,
    last_mark: u64,
}

/// What became of the rows a client has written. Of others it was told nothing: they may be there or not.
#[derive(Default)]
struct Marks {
    /// Acknowledged.
    kept: Vec<u64>,
    /// Refused, rolled back, or never committed.
    undone: Vec<u64>,
}

/// What a unit must have come to, row by row.
enum Expect {
    /// Every row is this identity.
    Me,
    /// An INSERT of this mark has been rolled back.
    Undone(u64),
    /// An INSERT of this mark, if it says so; nothing of it if it fails.
    Written(u64),
    /// Nothing to be checked but that it was answered.
    Answered,
    /// The pooler itself answers: it is no transaction.
    Told,
}

impl Program {
    async fn run(&mut self) {
        while !self.tally.over.load(Ordering::Relaxed) {
            let mut client = self.login().await;
            let lives = 3 + self.dice.below(20);
            let mut named = false;
            for _ in 0..lives {
                if self.tally.over.load(Ordering::Relaxed) {
                    break;
                }
                match self.dice.below(100) {
                    0..12 => self.autocommit(&mut client).await,
                    12..20 => self.block(&mut client).await,
                    20..30 => self.pipeline(&mut client).await,
                    30..47 => self.stream(&mut client).await,
                    47..66 => self.burst(&mut client).await,
                    66..74 => self.prepared(&mut client, &mut named).await,
                    74..78 => self.switch(&mut client).await,
                    78..82 => self.error(&mut client).await,
                    82..84 => self.timeout(&mut client).await,
                    84..87 => self.copy(&mut client).await,
                    87..89 => self.hostile(&mut client).await,
                    89..90 => {
                        self.exchange(&mut client, [say::query("discard all")], &[Expect::Answered], false)
                            .await;
                        named = false;
                        self.say_who(&mut client).await;
                    }
                    _ => self.cancelled(&mut client).await,
                }
            }
            if self.dice.percent(60) {
                self.die(client).await;
            } else {
                client.terminate().await;
            }
        }
    }

    async fn login(&mut self) -> Raw {
        self.who = self.dice.below(USERS);
        let target = self.target.clone().with("app.current_user_id", &user(self.who));
        Raw::login(&target).await
    }

    fn me(&self) -> String {
        user(self.who)
    }

    fn mark(&mut self) -> u64 {
        self.last_mark += 1;
        self.number << 32 | self.last_mark
    }

    fn insert(&self, mark: u64) -> String {
        format!("insert into notes (said, mark) values ('{}', {mark})", self.me())
    }

    /// Rows of a client's own, and nobody else's; always the same shape as `ME`.
    fn look(&mut self) -> String {
        match self.dice.below(3) {
            0 => "select owner from notes order by id desc limit 3".into(),
            1 => "select said from notes order by mark limit 2".into(),
            _ => ME.into(),
        }
    }

    /// One unit in either protocol.
    fn unit(&mut self, sql: &str) -> Bytes {
        if self.dice.percent(50) {
            say::query(sql)
        } else {
            say::join([say::extended(sql, &[]), say::sync()])
        }
    }

    /// Sends units, hears as many answers, and checks each.
    async fn exchange<const N: usize>(
        &mut self,
        client: &mut Raw,
        units: [Bytes; N],
        expected: &[Expect],
        may_fail: bool,
    ) {
        client.send(units).await;
        for expect in expected {
            let answer = client.read_until_ready().await;
            self.check(&answer, expect, may_fail);
        }
        client.forget();
    }

    fn check(&mut self, answer: &[Frame], expect: &Expect, may_fail: bool) {
        let me = self.me();
        let is_over = answer.last().is_some_and(|frame| frame.is(b'Z') && frame.body.first() == Some(&b'I'));
        if is_over && !matches!(expect, Expect::Told) {
            self.tally.transactions.fetch_add(1, Ordering::Relaxed);
        }
        let failed = answer.iter().any(|frame| frame.is(b'E'));
        assert!(answer.last().is_some_and(|frame| frame.is(b'Z')), "closed: {}", notation(answer));
        assert!(may_fail || !failed, "{me}: {:?}", answer.iter().find(|frame| frame.is(b'E')));
        for row in answer.iter().filter(|frame| frame.is(b'D')).map(Frame::row) {
            if matches!(expect, Expect::Me) {
                assert_eq!(row[0].as_deref(), Some(&*me), "shown to {me}: {row:?}");
            }
        }
        self.tally.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
        match expect {
            Expect::Undone(mark) => self.marks.undone.push(*mark),
            Expect::Written(mark) if failed => self.marks.undone.push(*mark),
            Expect::Written(mark) => self.marks.kept.push(*mark),
            Expect::Answered | Expect::Me | Expect::Told => {}
        }
    }

    async fn autocommit(&mut self, client: &mut Raw) {
        if self.dice.percent(50) {
            let (mark, look) = (self.mark(), self.look());
            let units = [self.insert(mark), look].map(|sql| self.unit(&sql));
            for (unit, expect) in units.into_iter().zip([Expect::Written(mark), Expect::Me]) {
                self.exchange(client, [unit], &[expect], false).await;
            }
        } else {
            let look = self.look();
            let unit = self.unit(&look);
            self.exchange(client, [unit], &[Expect::Me], false).await;
        }
    }

    async fn block(&mut self, client: &mut Raw) {
        let mark = self.mark();
        let (begin, insert, look) = (self.unit("begin"), self.insert(mark), self.look());
        self.exchange(client, [begin], &[Expect::Answered], false).await;
        let (insert, look) = (self.unit(&insert), self.unit(&look));
        self.exchange(client, [insert, look], &[Expect::Answered, Expect::Me], false).await;
        let commits = self.dice.percent(70);
        let end = self.unit(if commits { "commit" } else { "rollback" });
        let expect = if commits { Expect::Written(mark) } else { Expect::Undone(mark) };
        self.exchange(client, [end], &[expect], false).await;
    }

    /// A transaction, and what comes behind it, in one write.
    async fn pipeline(&mut self, client: &mut Raw) {
        let (first, second) = (self.mark(), self.mark());
        let (look, insert, other) = (self.look(), self.insert(first), self.insert(second));
        let texts = [&*look, "begin", &insert, ME, "commit", &other, ME];
        let units = texts.map(|sql| self.unit(sql));
        let expected = [
            Expect::Me,
            Expect::Answered,
            Expect::Answered,
            Expect::Me,
            Expect::Written(first),
            Expect::Written(second),
            Expect::Me,
        ];
        self.exchange(client, units, &expected, false).await;
    }

    /// The same names and texts as everybody else.
    async fn prepared(&mut self, client: &mut Raw, named: &mut bool) {
        if !*named {
            let parses = say::join([
                say::parse("me", ME),
                say::parse("own", "select owner from notes where mark > $1 limit 2"),
                say::sync(),
            ]);
            self.exchange(client, [parses], &[Expect::Answered], false).await;
            *named = true;
        }
        let runs = say::join([
            say::bind("", "me", &[]),
            say::execute("", 0),
            say::bind("", "own", &[Some("0")]),
            say::execute("", 0),
            say::sync(),
        ]);
        self.exchange(client, [runs], &[Expect::Me], false).await;
    }

    async fn say_who(&mut self, client: &mut Raw) {
        let set = match self.dice.below(3) {
            0 => say::query(&format!("set app.current_user_id = '{}'", self.me())),
            1 => say::join([
                say::extended(&format!("SET app.current_user_id TO '{}'", self.me()), &[]),
                say::sync(),
            ]),
            _ => say::join([
                say::extended("select set_config('app.current_user_id', $1, false)", &[Some(&self.me())]),
                say::sync(),
            ]),
        };
        self.exchange(client, [set], &[Expect::Told], false).await;
    }

    /// Many transactions in one write.
    async fn stream(&mut self, client: &mut Raw) {
        let mut units = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..16 {
            let mark = self.mark();
            let (sql, expect) = match self.dice.below(4) {
                0 => (self.insert(mark), Expect::Written(mark)),
                _ => (self.look(), Expect::Me),
            };
            units.push(self.unit(&sql));
            expected.push(expect);
        }
        client.send(units).await;
        for expect in &expected {
            let answer = client.read_until_ready().await;
            self.check(&answer, expect, false);
        }
        client.forget();
    }

    /// Somebody else for each transaction, all in one write: each is a turn of its own, on whichever server is free.
    async fn burst(&mut self, client: &mut Raw) {
        let mut units = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..16 {
            self.who = self.dice.below(USERS);
            let mark = self.mark();
            let (sql, expect) = match self.dice.below(4) {
                0 => (self.insert(mark), Expect::Written(mark)),
                _ => (ME.to_owned(), Expect::Me),
            };
            units.push(self.unit(&format!("set app.current_user_id = '{}'", self.me())));
            units.push(self.unit(&sql));
            expected.push((self.who, expect));
        }
        client.send(units).await;
        for (who, expect) in &expected {
            self.who = *who;
            for expect in [&Expect::Told, expect] {
                let answer = client.read_until_ready().await;
                self.check(&answer, expect, false);
            }
        }
        client.forget();
    }

    /// Becomes somebody else, in the middle of a pipeline too.
    async fn switch(&mut self, client: &mut Raw) {
        let before = self.me();
        self.who = self.dice.below(USERS);
        let me = self.me();
        if self.dice.percent(50) {
            self.say_who(client).await;
            return;
        }
        let set = self.unit(&format!("set app.current_user_id = '{me}'"));
        let looks = [ME, ME].map(|sql| self.unit(sql));
        let [old, new] = looks;
        client.send([old, set, new]).await;
        for who in [Some(before), None, Some(me)] {
            let answer = client.read_until_ready().await;
            let rows: Vec<_> =
                answer.iter().filter(|frame| frame.is(b'D')).map(|frame| frame.row().remove(0)).collect();
            assert!(!notation(&answer).contains("E("), "{}", notation(&answer));
            assert!(who.is_none() || rows == [who.clone()], "{who:?} was shown {rows:?}");
        }
        client.forget();
    }

    async fn error(&mut self, client: &mut Raw) {
        let mark = self.mark();
        let failing = format!("{}; select 1/0", self.insert(mark));
        let look = self.unit(ME);
        self.exchange(client, [say::query(&failing)], &[Expect::Undone(mark)], true).await;
        let begin = self.unit("begin");
        let wrong = self.unit("select nothing_like_this");
        let end = self.unit("commit");
        self.exchange(
            client,
            [begin, wrong, end, look],
            &[Expect::Answered, Expect::Answered, Expect::Answered, Expect::Me],
            true,
        )
        .await;
    }

    async fn timeout(&mut self, client: &mut Raw) {
        let mark = self.mark();
        let slow =
            format!("set local statement_timeout = '1ms'; {}; select pg_sleep(0.02)", self.insert(mark));
        self.exchange(client, [say::query(&slow)], &[Expect::Undone(mark)], true).await;
    }

    async fn copy(&mut self, client: &mut Raw) {
        let row = Bytes::from(format!("{}\n", self.me()));
        let ends = if self.dice.percent(70) { say::copy_done() } else { say::copy_fail("no") };
        let data = say::copy_data(&row);
        let look = self.unit(ME);
        self.exchange(
            client,
            [say::query("copy copied (said) from stdin"), data, ends, look],
            &[Expect::Answered, Expect::Me],
            true,
        )
        .await;
    }

    /// Code that changes the identity behind the pooler's back: its own transaction, and nobody's after it.
    async fn hostile(&mut self, client: &mut Raw) {
        let other = user(self.dice.below(USERS));
        let code = match self.dice.below(3) {
            0 => format!("do $$ begin perform set_config('app.current_user_id', '{other}', false); end $$"),
            1 => format!("select set_config('app.' || 'current_user_id', '{other}', false)"),
            _ => "select query_to_xml('select set_config(''app.'' || ''current_user_id'', '''', false)', true, true, '')".into(),
        };
        let code = self.unit(&code);
        self.exchange(client, [code], &[Expect::Answered], false).await;
        let look = self.unit(ME);
        self.exchange(client, [look], &[Expect::Me], false).await;
    }

    /// A cancel at any moment: before, in, or after what it was meant for.
    async fn cancelled(&mut self, client: &mut Raw) {
        self.tally.cancels.fetch_add(1, Ordering::Relaxed);
        let mark = self.mark();
        let insert = self.insert(mark);
        let slow = if self.dice.percent(30) { format!("{insert}; select pg_sleep(0.002)") } else { insert };
        let (unit, look) = (say::query(&slow), self.unit(ME));
        // Behind the first unit others, that must not run if the prelude before it does not.
        let behind = [ME, ME].map(|sql| say::join([say::extended(sql, &[]), say::sync()]));
        client.send([unit, look].into_iter().chain(behind)).await;
        let wait = Duration::from_micros(self.dice.roll() % 3_000);
        if self.dice.percent(70) {
            tokio::time::sleep(wait).await; // a moment by chance is the point, not waiting for an event
        }
        client.cancel().await;
        for expect in [Expect::Written(mark), Expect::Me, Expect::Me, Expect::Me] {
            let answer = client.read_until_ready().await;
            if let Some(error) = answer.iter().find(|frame| frame.is(b'E')) {
                assert_eq!(error.sqlstate(), "57014", "{error:?}");
            }
            self.check(&answer, &expect, true);
        }
        client.forget();
    }

    /// In the middle of something that is not committed.
    async fn die(&mut self, mut client: Raw) {
        self.tally.deaths.fetch_add(1, Ordering::Relaxed);
        let mark = self.mark();
        self.marks.undone.push(mark);
        let insert = self.insert(mark);
        let how = self.dice.below(8);
        let last = match how {
            0 => vec![say::query("begin"), say::query(&insert)],
            1 => vec![say::extended(&insert, &[])],
            2..5 => vec![say::extended(&insert, &[]), say::flush()],
            5 => vec![say::query("copy copied (said) from stdin"), say::copy_data(self.me().as_bytes())],
            6 => vec![say::query("select repeat('x', 1000) from generate_series(1, 2000)")],
            _ => vec![say::query(&format!("begin; {insert}; select pg_sleep(0.01)"))],
        };
        let last = say::join(last);
        let cut = if self.dice.percent(30) { self.dice.below(last.len()) } else { last.len() };
        let _ = client.try_send(&last[..cut]).await;
        if (2..5).contains(&how) && cut == last.len() {
            client.read_until(b'C').await; // written, and not committed
        }
        if self.dice.percent(50) { client.reset() } else { client.close().await }
    }
}

/// What one storm is to be.
struct Weather {
    major: u16,
    pool: usize,
    seed: u64,
    /// It ends after so many transactions, but not before this time.
    transactions: u64,
    lasts: Duration,
    /// The rule that is switched off, where that can be done.
    mutation: &'static str,
}

/// Runs a storm before one server, and asks the oracle. Gives the number of transactions.
async fn storm(weather: Weather) -> u64 {
    let Weather { major, pool, seed, .. } = weather;
    let postgres = Postgres::shared(major).await;
    postgres.sql(TABLES).await;
    postgres.sql(FAULTS).await;
    let pgusher = Pgusher::before(&postgres)
        .pool_size(pool)
        .identity()
        .text("log", "level", "warn")
        .set("listen", "workers", "2")
        .env("MUTATION", weather.mutation)
        .start()
        .await;
    let tally = Arc::new(Tally::default());
    let dice = Dice::new(seed ^ u64::from(major) << 8 ^ pool as u64);
    let began = Instant::now();

    let programs = (0..CLIENTS).map(|number| {
        let mut program = Program {
            dice: dice.branch(number),
            target: pgusher.target(),
            tally: Arc::clone(&tally),
            who: 0,
            marks: Marks::default(),
            number: number as u64 + 1,
            last_mark: 0,
        };
        tokio::spawn(async move {
            program.run().await;
            program.marks
        })
    });
    let programs: Vec<_> = programs.collect();
    while began.elapsed() < weather.lasts
        || (tally.transactions.load(Ordering::Relaxed) < weather.transactions && began.elapsed() < LIMIT)
    {
        if programs.iter().any(|program| program.is_finished()) {
            break; // somebody has seen something
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // the storm's length, not a wait for an event
    }
    tally.over.store(true, Ordering::Relaxed);
    let mut marks = Marks::default();
    for program in programs {
        let place = || format!("seed {seed}, major {major}, pool of {pool}");
        let of_one = program.await.unwrap_or_else(|error| panic!("{}: {error}", place()));
        marks.kept.extend(of_one.kept);
        marks.undone.extend(of_one.undone);
    }

    let wrong = postgres
        .sql("select said, owner, who, mark from audit where said is distinct from who or said is distinct from owner limit 10")
        .await;
    assert!(wrong.is_empty(), "seed {seed}: acted as another: {wrong:?}");
    let wrong = postgres.sql("select said, who from copied where said is distinct from who limit 10").await;
    assert!(wrong.is_empty(), "seed {seed}: copied as another: {wrong:?}");
    let doubled = postgres.sql("select mark from notes group by mark having count(*) > 1 limit 10").await;
    assert!(doubled.is_empty(), "seed {seed}: written twice: {doubled:?}");
    let lost = in_notes(&postgres, "kept", &marks.kept, "not exists").await;
    assert!(lost.is_empty(), "seed {seed}: acknowledged and lost: {lost:?}");
    let ghosts = in_notes(&postgres, "undone", &marks.undone, "exists").await;
    assert!(ghosts.is_empty(), "seed {seed}: never committed and there: {ghosts:?}");
    let failed = postgres.value("select last_value / 32 from preludes").await;
    let done = tally.transactions.load(Ordering::Relaxed);
    println!(
        "PostgreSQL {major}, pool of {pool}: {done} transactions in {:.1?}, {} cancels, {} deaths, {} errors, {failed} failed preludes, {} rows kept, {} undone; 0 wrong, 0 empty",
        began.elapsed(),
        tally.cancels.load(Ordering::Relaxed),
        tally.deaths.load(Ordering::Relaxed),
        tally.errors.load(Ordering::Relaxed),
        marks.kept.len(),
        marks.undone.len(),
    );
    done
}

/// Those of the marks whose rows are there, or are not.
async fn in_notes(postgres: &Postgres, table: &str, marks: &[u64], which: &str) -> Vec<Vec<Option<String>>> {
    postgres.sql(&format!("create table {table} (mark bigint)")).await;
    for marks in marks.chunks(2_000) {
        let values: Vec<_> = marks.iter().map(|mark| format!("({mark})")).collect();
        postgres.sql(&format!("insert into {table} values {}", values.join(","))).await;
    }
    let sql = format!(
        "select mark from {table} t where {which} (select from notes where notes.mark = t.mark) limit 10"
    );
    postgres.sql(&sql).await
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// 9, on one major: pools of one, two and three servers, one after the other.
async fn storms(major: u16) {
    let seed = number_of("STORM_SEED").unwrap_or_else(Dice::seed);
    let lasts = number_of("STORM_SECONDS").map_or(Duration::ZERO, Duration::from_secs) / 3;
    let wanted = number_of("STORM_TRANSACTIONS").unwrap_or(TRANSACTIONS);
    println!("STORM_SEED={seed}");
    let mut done = 0;
    for pool in 1..=3 {
        let transactions = wanted.div_ceil(3);
        done += storm(Weather { major, pool, seed, transactions, lasts, mutation: "" }).await;
    }
    println!("PostgreSQL {major}: {done} transactions");
    assert!(done >= wanted, "seed {seed}: only {done} transactions of {wanted} in the time there was");
}

/// The mutation check: with a rule switched off, the same storm has to fail.
#[cfg(feature = "mutations")]
mod mutated {
    use super::*;

    async fn is_noticed(mutation: &'static str) {
        let seed = number_of("STORM_SEED").unwrap_or_else(Dice::seed);
        println!("STORM_SEED={seed}");
        // On a pool of one everybody is the one before.
        let weather =
            Weather { major: 17, pool: 1, seed, transactions: 3_000, lasts: Duration::ZERO, mutation };
        let began = Instant::now();

        // In a task of its own, whose panic is the notice.
        let thunder = async move { tokio::task::spawn_local(storm(weather)).await };
        let survived = tokio::task::LocalSet::new().run_until(thunder).await;

        assert!(survived.is_err(), "seed {seed}: the storm did not notice {mutation}");
        println!("{mutation}: noticed after {:.1?}", began.elapsed());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_storm_notices_that_the_commit_is_switched_off() {
        is_noticed("no_commit").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_storm_notices_that_the_hold_back_is_switched_off() {
        is_noticed("no_hold_back").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_storm_notices_that_servers_are_given_back_in_a_transaction() {
        is_noticed("no_status").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_storm_notices_that_what_had_no_sync_is_committed() {
        is_noticed("no_segment").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heavy_storm_makes_nobody_another_on_14() {
    storms(14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heavy_storm_makes_nobody_another_on_15() {
    storms(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heavy_storm_makes_nobody_another_on_16() {
    storms(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heavy_storm_makes_nobody_another_on_17() {
    storms(17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heavy_storm_makes_nobody_another_on_18() {
    storms(18).await;
}

/// 46: eight clients that are somebody else each time, on a pool of two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_switching_per_request_makes_nobody_another() {
    let postgres = Postgres::shared(18).await;
    let pgusher =
        Pgusher::before(&postgres).pool_size(2).identity().text("log", "level", "warn").start().await;
    let requests = number_of("SWITCHES").unwrap_or(10_000);

    let clients = (0..8).map(|number| {
        let target = pgusher.target();
        tokio::spawn(async move {
            let mut client = Raw::login(&target).await;
            for round in 0..requests {
                let who = user((round as usize + number) % 2);
                client
                    .send([say::query(&format!("set app.current_user_id = '{who}'")), say::query(ME)])
                    .await;
                let answer = client.read_until_ready_times(2).await;
                let rows: Vec<_> = answer.iter().filter(|frame| frame.is(b'D')).map(Frame::row).collect();
                assert_eq!(rows, [[Some(who)]], "request {round}: {}", notation(&answer));
                client.forget();
            }
        })
    });

    for client in clients.collect::<Vec<_>>() {
        client.await.expect("a client that is right each time");
    }
}
