//! What the tests of the contract play on: tables under row-level security, an audit trail, and a way to make the
//! injection fail on a real server.

use std::time::Duration;

use crate::harness::pgusher::Builder;
use crate::harness::raw::{Address, Target};
use crate::harness::tls::Wanted;
use crate::harness::{DelayProxy, Frame, PATIENCE, Pgusher, Postgres, Raw, eventually, notation, say};

pub const A: &str = "0a0a0a0a-0000-4000-8000-00000000000a";
pub const B: &str = "0b0b0b0b-0000-4000-8000-00000000000b";

/// The identity as a statement sees it; NULL and the empty value are both nobody.
pub const ME: &str = "select pg_catalog.current_setting('app.current_user_id', true)";

/// How clients, pooler and server are joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Loopback, with a random delay on every segment, on both sides.
    Jittery,
    Tcp,
    /// Encrypted on both sides, verified in full.
    Tls,
    Unix,
}

/// How the pooler says to the server who the user is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Bound,
    Literal,
    Login,
}

/// What signs tokens.
pub const KEY: &str = "a key that nobody knows but the pooler and the database";

/// A database with the tables, and no pooler before it yet.
pub struct Setting {
    pub postgres: Postgres,
    transport: Transport,
    form: Form,
}

impl Setting {
    pub async fn new(postgres: Postgres, transport: Transport, form: Form) -> Self {
        postgres.sql(TABLES).await;
        if form == Form::Login {
            postgres.sql(include_str!("../../../deploy/sql/identity.sql")).await;
            postgres.sql(&format!("select ident.add_key('{KEY}'); {STRICTER}")).await;
        }
        Self { postgres, transport, form }
    }

    /// The same, for an injection that is made to fail: a literal is no function that another could be put in place of.
    pub fn with_faults(self) -> Self {
        let form = if self.form == Form::Literal { Form::Bound } else { self.form };
        Self { form, ..self }
    }

    /// Another like it, in a database of its own.
    pub async fn again(&self) -> Self {
        Self::new(Postgres::shared(self.postgres.major()).await, self.transport, self.form).await
    }

    /// A pool of one server, identity on, everything else default.
    pub async fn stage(self) -> Stage {
        self.stage_with(|pgusher| pgusher).await
    }

    /// The same, with further configuration.
    pub async fn stage_with(self, configure: impl FnOnce(Builder) -> Builder) -> Stage {
        let Self { postgres, transport, form } = self;
        let mut networks = Vec::new();
        let builder = Pgusher::before(&postgres).pool_size(1).identity();
        let builder = match form {
            Form::Bound => builder,
            Form::Literal => builder.text("identity", "form", "literal"),
            Form::Login => builder.text("identity", "form", "login").text("identity", "login_key", KEY),
        };
        let mut builder = configure(builder);
        let sockets = tempfile::tempdir().expect("a directory");
        match transport {
            Transport::Tcp => {}
            Transport::Tls => {
                let (ca, directory) = (postgres.ca(), sockets.path());
                let issued = ca.issue(Wanted::loopback(), directory, "pgusher");
                builder = builder.tls("require", &issued).sslmode("verify-full").text(
                    "tls.server",
                    "sslrootcert",
                    &ca.file(directory).display().to_string(),
                );
            }
            Transport::Unix => {
                let directory = format!("{:?}", postgres.socket_dir().display().to_string());
                builder = builder.of_database("host", &directory).text(
                    "listen",
                    "unix_socket_dir",
                    &sockets.path().display().to_string(),
                );
            }
            Transport::Jittery => {
                networks.push(jittery(postgres.address()).await);
                builder = builder.via(networks[0].address());
            }
        }
        let pgusher = builder.start().await;
        let mut target = pgusher.target();
        match transport {
            Transport::Tcp => {}
            Transport::Tls => target = target.in_tls(postgres.ca().client()),
            Transport::Unix => {
                let socket = sockets.path().join(format!(".s.PGSQL.{}", pgusher.port()));
                eventually("the pooler listens on its socket", PATIENCE, async || {
                    tokio::net::UnixStream::connect(&socket).await.ok()
                })
                .await;
                target.address = Address::Unix(socket);
            }
            Transport::Jittery => {
                networks.push(jittery(pgusher.address()).await);
                target.address = Address::Tcp(networks[1].address());
            }
        }
        Stage { pgusher, form, postgres, target, _networks: networks, _sockets: sockets }
    }
}

async fn jittery(before: std::net::SocketAddr) -> DelayProxy {
    let network = DelayProxy::before(before, Duration::ZERO).await;
    network.set_jitter(Duration::from_millis(3));
    network
}

/// The tables, a pooler before them, and a way to reach it.
pub struct Stage {
    pub pgusher: Pgusher,
    pub form: Form,
    pub postgres: Postgres,
    pub target: Target,
    _networks: Vec<DelayProxy>,
    _sockets: tempfile::TempDir,
}

impl Stage {
    /// A client that states its identity in the startup packet.
    pub async fn client_for(&self, identity: &str) -> Raw {
        Raw::login(&self.target.clone().with("app.current_user_id", identity)).await
    }

    /// A client that has not said who it is.
    pub async fn client(&self) -> Raw {
        Raw::login(&self.target).await
    }

    /// A and B, as the startup packet says.
    pub async fn pair(&self) -> (Raw, Raw) {
        (self.client_for(A).await, self.client_for(B).await)
    }

    /// Closes as a machine that died does, as far as the transport knows such a thing.
    pub fn kill(&self, client: Raw) {
        match self.target.address {
            Address::Tcp(_) => client.reset(),
            Address::Unix(_) => drop(client),
        }
    }

    /// What the injection does from now on, in this database.
    pub async fn injection(&self, what: Injection) {
        let (mode, faults) = match what {
            Injection::Dies => ("dies", i32::MAX),
            Injection::Fails => ("fails", i32::MAX),
            Injection::FailsOnce => ("fails", 1),
            Injection::Sleeps => ("sleeps", i32::MAX),
            Injection::SleepsOnce => ("sleeps", 1),
            Injection::Works => ("works", 0),
        };
        self.postgres
            .sql(&format!("{INJECTION}; select setval('injections', 1, false); update injection set mode = '{mode}', faults = {faults}"))
            .await;
    }

    /// The oracle: what was written, by whom it was meant, and as whom it was. Gives how much there is.
    pub async fn nobody_acted_as_another(&self) -> usize {
        let wrong = self.postgres.sql("select said, who, owner from audit where said is distinct from who or said is distinct from owner").await;
        assert!(wrong.is_empty(), "acted as another: {wrong:?}");
        self.postgres.value("select count(*) from audit").await.parse().expect("a count")
    }

    /// How many rows somebody has written and committed.
    pub async fn acts_of(&self, who: &str) -> usize {
        let sql = format!("select count(*) from notes where said = '{who}'");
        self.postgres.value(&sql).await.parse().expect("a count")
    }
}

/// What becomes of `set_config` on the server.
#[derive(Clone, Copy, Debug)]
pub enum Injection {
    /// The backend is terminated in the middle of it.
    Dies,
    Fails,
    FailsOnce,
    /// Until it is cancelled.
    Sleeps,
    SleepsOnce,
    Works,
}

/// The first column of every row.
pub fn first_column(frames: &[Frame]) -> Vec<String> {
    let rows = frames.iter().filter(|frame| frame.is(b'D')).map(Frame::row);
    rows.map(|row| row.into_iter().next().flatten().unwrap_or_default()).collect()
}

/// Who a client's next transaction runs as, by simple query.
pub async fn me(client: &mut Raw) -> String {
    client.value(ME).await
}

/// The statement that leaves a row and its line in the audit trail: `said` is who it is meant to be by.
pub fn act(who: &str) -> String {
    format!("insert into notes (said) values ('{who}')")
}

/// Asserts that a client is who it should be, in both protocols: what it is told, what it sees, and what it writes.
#[track_caller]
pub fn is<'a>(client: &'a mut Raw, who: &'a str) -> impl Future<Output = ()> + 'a {
    let place = std::panic::Location::caller();
    async move {
        assert_eq!(me(client).await, who, "{place}: simple");
        client.send([say::extended(ME, &[]), say::sync()]).await;
        let answer = client.read_until_ready().await;
        assert_eq!(first_column(&answer), [who], "{place}: extended, {}", notation(&answer));
        assert_eq!(client.ask([say::query(&act(who))]).await, "C(INSERT 0 1) Z(I)", "{place}: writing");
        let owners = client.rows("select distinct said, owner::text from notes").await;
        assert_eq!(owners, [[Some(who.to_owned()), Some(who.to_owned())]], "{place}: rows of others");
    }
}

/// `notes` is kept apart by owner; `audit` says who wrote, at once and again at commit. `ledger` has no policy at all.
const TABLES: &str = "
create table notes (
    id bigint generated always as identity primary key,
    owner uuid default nullif(current_setting('app.current_user_id', true), '')::uuid,
    said text,
    body text not null default ''
);
alter table notes enable row level security;
alter table notes force row level security;
create policy own on notes using (owner = current_setting('app.current_user_id')::uuid) with check (true);
create table audit (note bigint, said text, owner text, who text, at_commit boolean);
create function record() returns trigger language plpgsql security definer as $$
begin
    insert into public.audit
    values (new.id, new.said, new.owner::text, current_setting('app.current_user_id', true), tg_name = 'at_commit');
    return null;
end $$;
create trigger at_once after insert or update on notes for each row execute function record();
create constraint trigger at_commit after insert or update on notes
    deferrable initially deferred for each row execute function record();
create table ledger (id int primary key, parent int references ledger deferrable initially deferred);
grant usage, create on schema public to app, other;
grant all on notes, ledger to app, other;
";

/// The same policy, and the identity of the login tier has to agree.
const STRICTER: &str = "alter policy own on notes
    using (owner = current_setting('app.current_user_id')::uuid and owner is not distinct from (select app.uid()))";

/// Puts a function of ours in the place of `set_config`: it does what the table says, then what the real one does.
const INJECTION: &str = "
do $do$ begin
    if to_regproc('pg_catalog.set_config_really') is null then
        create sequence public.injections;
        create table public.injection (mode text, faults int);
        insert into public.injection values ('works', 0);
        grant select on public.injection to public;
        grant usage on public.injections to public;
        alter function pg_catalog.set_config(text, text, boolean) rename to set_config_really;
        create function pg_catalog.set_config(text, text, boolean) returns text language plpgsql as $$
        declare
            mode text := i.mode from public.injection i;
        begin
            if mode <> 'works' and pg_catalog.nextval('public.injections') <= (select i.faults from public.injection i) then
                case mode
                    when 'dies' then perform pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());
                    when 'fails' then raise exception 'the injection fails';
                    when 'sleeps' then perform pg_catalog.pg_sleep(600);
                end case;
            end if;
            return pg_catalog.set_config_really($1, $2, $3);
        end $$;
    end if;
end $do$";
