//! The suites of `tests/drivers`, which are proven on PostgreSQL itself, hold through the pooler: two servers, SCRAM.

#[path = "../drivers/identity/rust.rs"]
mod identity;
#[path = "../drivers/rust.rs"]
mod rust;

use std::path::Path;
use std::time::Duration;

use crate::harness::pgusher::Builder;
use crate::harness::process::{root, run_within, tied, tools};
use crate::harness::tls::Wanted;
use crate::harness::{Ca, Pgusher, Postgres};

/// Longest a suite may take: it storms, and streams millions of rows.
const DEADLINE: Duration = Duration::from_secs(90);

/// Makes of one suite a test for each of the majors given.
macro_rules! suites {
    ($( async fn $name:ident($postgres:ident on $($test:ident $major:literal),+) $scenario:block )+) => { $(
        mod $name {
            use super::*;

            async fn scenario($postgres: Postgres) $scenario

            $( #[tokio::test]
            async fn $test() { Box::pin(scenario(Postgres::shared($major).await)).await } )+
        }
    )+ };
}

suites! {
    async fn psycopg_3_is_served(postgres on on_15 15, on_18 18) {
        python("driver_psycopg3.py", &postgres).await;
    }

    async fn psycopg_2_is_served(postgres on on_15 15, on_18 18) {
        python("driver_psycopg2.py", &postgres).await;
    }

    async fn asyncpg_is_served(postgres on on_15 15, on_18 18) {
        python("driver_asyncpg.py", &postgres).await;
    }

    async fn sqlalchemy_is_served(postgres on on_15 15, on_18 18) {
        python("driver_sqlalchemy.py", &postgres).await;
    }

    async fn migrators_are_served(postgres on on_15 15, on_18 18) {
        python("driver_alembic.py", &postgres).await;
    }

    // pg_dump serves no server newer than itself.
    async fn the_programs_of_postgresql_are_served(postgres on on_15 15) {
        let restored = Postgres::shared(15).await;
        let pgusher = two_servers(&postgres).database(restored.database(), restored.address()).start().await;
        let restore = plain(&pgusher.url(restored.database(), "app", "app"));
        let more = [("PG_BIN", "/usr/lib/postgresql/15/bin"), ("RESTORE_URL", &restore)];
        suite(&tools().join("python/bin/python"), "driver_tools.py", &postgres, &pgusher, &more).await;
    }

    async fn node_postgres_is_served(postgres on on_15 15, on_18 18) {
        node("driver_node_pg.mjs", &postgres).await;
    }

    async fn postgres_js_is_served(postgres on on_15 15, on_18 18) {
        node("driver_postgres_js.mjs", &postgres).await;
    }

    async fn tokio_postgres_is_served(postgres on on_15 15, on_18 18) {
        let pgusher = two_servers(&postgres).start().await;
        let served = tokio::time::timeout(DEADLINE, rust::run_tokio_postgres(&plain(&pgusher.target().url()))).await;
        served.expect("within the deadline").unwrap_or_else(|failures| panic!("{failures}"));
    }

    async fn sqlx_is_served(postgres on on_15 15, on_18 18) {
        let pgusher = two_servers(&postgres).start().await;
        let served = tokio::time::timeout(DEADLINE, rust::run_sqlx(&plain(&pgusher.target().url()))).await;
        served.expect("within the deadline").unwrap_or_else(|failures| panic!("{failures}"));
    }
}

// tests/drivers/identity: how each framework says who the user is. Two users over two servers see their own rows only.
suites! {
    async fn users_of_psycopg_are_kept_apart(postgres on on_15 15, on_18 18) {
        users("with_psycopg.py", &postgres).await;
    }

    async fn users_of_asyncpg_are_kept_apart(postgres on on_15 15, on_18 18) {
        users("with_asyncpg.py", &postgres).await;
    }

    async fn users_of_sqlalchemy_are_kept_apart(postgres on on_15 15, on_18 18) {
        users("with_sqlalchemy.py", &postgres).await;
    }

    async fn users_of_django_are_kept_apart(postgres on on_15 15, on_18 18) {
        users("with_django.py", &postgres).await;
    }

    async fn users_of_node_postgres_are_kept_apart(postgres on on_15 15, on_18 18) {
        users("with_node_postgres.mjs", &postgres).await;
    }

    async fn users_of_drizzle_are_kept_apart(postgres on on_15 15, on_18 18) {
        users("with_drizzle.mjs", &postgres).await;
    }

    async fn users_of_prisma_are_kept_apart(postgres on on_18 18) {
        users("with_prisma.mjs", &postgres).await;
    }

    async fn users_of_pgx_are_kept_apart(postgres on on_18 18) {
        users("with_pgx.go", &postgres).await;
    }

    async fn users_of_jdbc_are_kept_apart(postgres on on_18 18) {
        users("with_jdbc.java", &postgres).await;
    }

    async fn users_of_active_record_are_kept_apart(postgres on on_18 18) {
        users("with_active_record.rb", &postgres).await;
    }

    async fn users_of_sqlx_are_kept_apart(postgres on on_15 15, on_18 18) {
        let (_pgusher, url) = saas(&postgres).await;
        identity::with_sqlx(&url).await.unwrap_or_else(|failure| panic!("{failure}"));
    }

    async fn users_of_tokio_postgres_are_kept_apart(postgres on on_15 15, on_18 18) {
        let (_pgusher, url) = saas(&postgres).await;
        identity::with_tokio_postgres(&url).await.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

// In TLS on both sides, verified in full and bound to the connection. libpq and asyncpg are told by libpq's variables.
suites! {
    async fn psycopg_3_is_served_in_tls(postgres on on_15 15, on_18 18) {
        in_tls(&tools().join("python/bin/python"), "driver_psycopg3.py", &postgres).await;
    }

    async fn asyncpg_is_served_in_tls(postgres on on_18 18) {
        in_tls(&tools().join("python/bin/python"), "driver_asyncpg.py", &postgres).await;
    }

    async fn node_postgres_is_served_in_tls(postgres on on_18 18) {
        in_tls(Path::new("node"), "driver_node_pg.mjs", &postgres).await;
    }

    async fn libpq_18_is_served_in_tls_as_each_sslmode_says(postgres on on_18 18) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name).display().to_string();
        let ca = postgres.ca().file(directory.path()).display().to_string();
        let issued = postgres.ca().issue(Wanted::loopback(), directory.path(), "pgusher");
        let own = postgres.ca().issue(Wanted::named("trusted"), directory.path(), "own");
        std::fs::write(file("other.crt"), Ca::new("another CA").pem()).expect("a file");
        let pgusher = two_servers(&postgres)
            .tls("require", &issued)
            .text("tls.client", "ca_file", &ca)
            .set("listen", "rules", "[\"hostssl all trusted all cert\", \"hostssl all all all scram-sha-256\"]")
            .sslmode("verify-full")
            .text("tls.server", "sslrootcert", &ca)
            .start()
            .await;
        let (own, key) = (own.certificate.display().to_string(), own.key.display().to_string());
        let more = [("CA", &*ca), ("OTHER_CA", &file("other.crt")), ("CERT", &own), ("KEY", &key)];
        suite(&tools().join("python/bin/python"), "tls_libpq.py", &postgres, &pgusher, &more).await;
    }

    async fn tokio_postgres_is_served_in_tls(postgres on on_18 18) {
        let (pgusher, _files) = encrypted(&postgres).await;
        let url = plain(&pgusher.target().url()) + "?sslmode=require&channel_binding=require";
        let served = tokio::time::timeout(DEADLINE, rust::run_tokio_postgres(&url)).await;
        served.expect("within the deadline").unwrap_or_else(|failures| panic!("{failures}"));
    }
}

/// A pooler that takes nobody who is not encrypted, and goes to no server that is not; its CA is the server's.
async fn encrypted(postgres: &Postgres) -> (Pgusher, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let issued = postgres.ca().issue(Wanted::loopback(), directory.path(), "pgusher");
    let pgusher = two_servers(postgres)
        .tls("require", &issued)
        .sslmode("verify-full")
        .text("tls.server", "sslrootcert", &postgres.ca().file(directory.path()).display().to_string())
        .text("tls.server", "channel_binding", "require")
        .start()
        .await;
    (pgusher, directory)
}

async fn in_tls(interpreter: &Path, script: &str, postgres: &Postgres) {
    let (pgusher, directory) = encrypted(postgres).await;
    let ca = directory.path().join("ca.crt").display().to_string();
    let more = [
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", &ca),
        ("PGCHANNELBINDING", "require"),
        ("NODE_EXTRA_CA_CERTS", &ca),
    ];
    suite(interpreter, script, postgres, &pgusher, &more).await;
}

/// The schema of the small SaaS product, and its application's URL through a pooler that takes identities.
async fn saas(postgres: &Postgres) -> (Pgusher, String) {
    postgres.load_schema().await;
    let pgusher = two_servers(postgres).identity().user("saas_user", "saas_user").start().await;
    let url = plain(&pgusher.url(postgres.database(), "saas_user", "saas_user"));
    (pgusher, url)
}

/// Runs one of the programs that serve two users.
async fn users(script: &str, postgres: &Postgres) {
    let (_pgusher, url) = saas(postgres).await;
    let url = ("DATABASE_URL", &*url);
    let script = &format!("identity/{script}");
    let extension = Path::new(script).extension().and_then(|extension| extension.to_str());
    match extension {
        Some("go") => {
            let cache = tools().join("go").display().to_string();
            let go = [url, ("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode"), ("GOCACHE", &cache)];
            program(Path::new("go"), &["run"], script, &go).await;
        }
        Some("java") => {
            program(Path::new("java"), &["-cp", "/usr/share/java/postgresql.jar"], script, &[url]).await;
        }
        Some("mjs") => program(Path::new("node"), &[], script, &[url]).await,
        Some("py") => program(&tools().join("python/bin/python"), &[], script, &[url]).await,
        Some("rb") => program(Path::new("ruby"), &[], script, &[url]).await,
        other => panic!("who runs {other:?}?"),
    }
}

/// Few enough servers that clients change them all the time, and as many as the suites need.
fn two_servers(postgres: &Postgres) -> Builder {
    Pgusher::before(postgres).mode("transaction").pool_size(2).text("listen", "auth", "scram-sha-256")
}

/// Without parameters, which not every driver knows: each asks for TLS as it does by default, and goes on without.
fn plain(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

async fn python(script: &str, postgres: &Postgres) {
    let pgusher = two_servers(postgres).start().await;
    suite(&tools().join("python/bin/python"), script, postgres, &pgusher, &[]).await;
}

async fn node(script: &str, postgres: &Postgres) {
    let pgusher = two_servers(postgres).start().await;
    suite(Path::new("node"), script, postgres, &pgusher, &[]).await;
}

/// Runs a suite, which says for each of its cases what came of it.
async fn suite(
    interpreter: &Path,
    script: &str,
    postgres: &Postgres,
    pgusher: &Pgusher,
    more: &[(&str, &str)],
) {
    let (url, direct) = (plain(&pgusher.target().url()), plain(&postgres.url()));
    let environment = [&[("DATABASE_URL", &*url), ("ADMIN_URL", &*direct)], more].concat();
    program(interpreter, &[], script, &environment).await;
}

/// Runs a script of `tests/drivers`, which must succeed and have something to say.
async fn program(interpreter: &Path, options: &[&str], script: &str, environment: &[(&str, &str)]) {
    let mut command = tied(interpreter, "KILL");
    command
        .args(options)
        .arg(root().join("tests/drivers").join(script))
        .env("TOOLS_DIR", tools())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(environment.iter().copied());
    let said = run_within(DEADLINE, command).await.ok();
    assert!(said.lines().any(|line| line.starts_with("ok ")), "no case ran: {said}");
}

/// It leaves the verifying to its TLS, which is told the name that was asked for.
#[tokio::test]
async fn tokio_postgres_believes_a_pooler_of_its_ca_and_name_only() {
    let postgres = Postgres::shared(18).await;
    let (pgusher, _files) = encrypted(&postgres).await;
    let login = format!(
        "hostaddr=127.0.0.1 port={} user=app password=app dbname={} sslmode=require channel_binding=require",
        pgusher.port(),
        postgres.database()
    );
    let own = postgres.ca().client();
    for (host, tls, is_in) in [
        ("localhost", own.clone(), true),
        ("elsewhere.example", own, false),
        ("localhost", Ca::new("another CA").client(), false),
    ] {
        let came = tokio_postgres::connect(&format!("host={host} {login}"), tls).await;

        assert_eq!(came.is_ok(), is_in, "{host}: {:?}", came.err());
        let Ok((client, connection)) = came else { continue };
        tokio::spawn(connection);
        assert_eq!(client.query_one("select 7", &[]).await.unwrap().get::<_, i32>(0), 7);
    }
}
