//! Certificates that change while clients come and go.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::{Authority, Wanted, anyone, offering, outcome};
use crate::harness::{Ca, Issued, PATIENCE, Pgusher, Postgres, Raw, eventually};

/// The certificate a client is shown.
fn shown(client: &Raw) -> CertificateDer<'static> {
    client.session().peer_certificates().expect("a certificate")[0].clone()
}

#[tokio::test]
async fn the_next_handshake_has_the_new_certificate_and_open_connections_live_on() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let (second, third) =
        (authority.issue(Wanted::loopback(), "b"), authority.issue(Wanted::loopback(), "c"));
    let pgusher = offering(&postgres, &authority, "require").start().await;
    let target = pgusher.target().in_tls(authority.ca.client());
    let mut old = Raw::login(&target).await;
    let first = shown(&old);

    second.replace(&authority.issued);
    let mut new = Raw::login(&target).await;

    assert_eq!(shown(&new), second.chain()[0]);
    assert_ne!(shown(&new), first);
    assert_eq!((old.value("select 1").await, new.value("select 2").await), ("1".into(), "2".into()));

    // Half of a change is none.
    fs::copy(&third.certificate, &authority.issued.certificate).unwrap();
    assert_eq!(shown(&Raw::login(&target).await), second.chain()[0]);
    let line = pgusher.until_logged("is not that of").await;
    assert!(line.contains("ERROR") && line.contains("old_stays=true"), "{line}");
    fs::copy(&third.key, &authority.issued.key).unwrap();
    assert_eq!(shown(&Raw::login(&target).await), third.chain()[0]);

    // So is a file that is gone.
    fs::remove_file(&authority.issued.key).unwrap();
    assert_eq!(shown(&Raw::login(&target).await), third.chain()[0]);
    pgusher.until_logged("cannot be read").await;
    assert_eq!(
        pgusher.log().matches("certificates cannot be used").count(),
        2,
        "once for each change: {}",
        pgusher.log()
    );
    assert_eq!(old.value("select 3").await, "3");
}

/// As Kubernetes mounts a Secret: the files are links into `..data`, which is a link that is swapped.
#[tokio::test]
async fn a_swap_of_the_data_link_is_a_change() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let mount = authority.directory.path().join("mount");
    let version = |name: &str| {
        let directory = mount.join(name);
        fs::create_dir_all(&directory).unwrap();
        authority.ca.issue(Wanted::loopback(), &directory, "tls")
    };
    let (first, second) = (version("..1"), version("..2"));
    symlink("..1", mount.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), mount.join(name)).unwrap();
    }
    let mounted = Issued { certificate: mount.join("tls.crt"), key: mount.join("tls.key") };
    let pgusher = Pgusher::before(&postgres).tls("require", &mounted).start().await;
    let target = pgusher.target().in_tls(authority.ca.client());
    assert_eq!(shown(&Raw::login(&target).await), first.chain()[0]);

    symlink("..2", mount.join("..new")).unwrap();
    fs::rename(mount.join("..new"), mount.join("..data")).unwrap();

    assert_eq!(shown(&Raw::login(&target).await), second.chain()[0]);
}

#[tokio::test]
async fn the_cas_of_clients_can_change() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let successor = Ca::new("the next CA");
    let believed = authority.directory.path().join("believed.crt");
    fs::write(&believed, authority.ca.pem()).unwrap();
    let pgusher = offering(&postgres, &authority, "verify-ca")
        .text("tls.client", "ca_file", &believed.display().to_string())
        .start()
        .await;
    let (old, new) = (
        authority.issue(Wanted::named("app"), "old"),
        successor.issue(Wanted::named("app"), authority.directory.path(), "new"),
    );
    let come =
        async |issued: &Issued| outcome(&pgusher.target().in_tls(anyone().owning(issued))).await.is_ok();

    assert_eq!((come(&old).await, come(&new).await), (true, false));
    fs::write(&believed, [authority.ca.pem(), successor.pem()].concat()).unwrap();
    assert_eq!((come(&old).await, come(&new).await), (true, true));
    fs::write(&believed, successor.pem()).unwrap();
    assert_eq!((come(&old).await, come(&new).await), (false, true));
}

/// A session that was begun under a CA that is not believed any more is not resumed.
#[tokio::test]
async fn a_ticket_does_not_outlive_the_ca() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let believed = authority.directory.path().join("believed.crt");
    fs::write(&believed, authority.ca.pem()).unwrap();
    let pgusher = offering(&postgres, &authority, "verify-ca")
        .text("tls.client", "ca_file", &believed.display().to_string())
        .start()
        .await;
    let owner = authority.issue(Wanted::named("app"), "owner");
    let target = pgusher.target().in_tls(anyone().owning(&owner).remembering());
    let mut client = Raw::login(&target).await;
    client.rows("select 1").await;

    fs::write(&believed, Ca::new("the next CA").pem()).unwrap();

    assert!(outcome(&target).await.is_err());
    assert_eq!(client.value("select 'still here'").await, "still here");
}

#[tokio::test]
async fn the_cas_and_certificates_for_servers_can_change() {
    let postgres = Postgres::shared(18).await;
    let directory = tempfile::tempdir().unwrap();
    let strange = Ca::new("a strange CA");
    let believed = directory.path().join("believed.crt");
    fs::write(&believed, strange.pem()).unwrap();
    let own = postgres.ca().issue(Wanted::named("somebody"), directory.path(), "own");
    let pgusher = Pgusher::before(&postgres)
        .user("certified", "")
        .sslmode("verify-full")
        .text("tls.server", "sslrootcert", &believed.display().to_string())
        .text("tls.server", "sslcert", &own.certificate.display().to_string())
        .text("tls.server", "sslkey", &own.key.display().to_string())
        .pool_size(2)
        .start()
        .await;
    let target = pgusher.target().user("certified", "");

    let refused = outcome(&target).await.unwrap_err();
    assert!(refused.contains("not signed by a CA that is believed"), "{refused}");

    fs::write(&believed, postgres.ca().pem()).unwrap();
    let refused = outcome(&target).await.unwrap_err();
    assert_eq!(refused, "28000 certificate authentication failed for user \"certified\"");

    postgres.ca().issue(Wanted::named("certified"), directory.path(), "next").replace(&own);
    let mut client = Raw::login(&target).await;
    let pid = client.server_pid().await;

    fs::write(&believed, strange.pem()).unwrap();
    assert_eq!(client.server_pid().await, pid, "an open connection lives on");
}

/// Every transaction on a connection of its own, from the client and to the server, while certificates and keys of both sides
/// change all the time.
#[tokio::test]
async fn no_transaction_fails_while_certificates_rotate() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let turns: Vec<_> =
        (0..4).map(|turn| authority.issue(Wanted::loopback(), &format!("turn{turn}"))).collect();
    let files = tempfile::tempdir().unwrap();
    let to_servers = |name: &str| postgres.ca().issue(Wanted::named("app"), files.path(), name);
    let (shown_to_servers, next) = (to_servers("own"), [to_servers("own0"), to_servers("own1")]);
    let path = |path: &Path| path.display().to_string();
    let pgusher = offering(&postgres, &authority, "require")
        .sslmode("verify-full")
        .text("tls.server", "sslrootcert", &path(&postgres.ca().file(files.path())))
        .text("tls.server", "sslcert", &path(&shown_to_servers.certificate))
        .text("tls.server", "sslkey", &path(&shown_to_servers.key))
        .pool_size(4)
        .set("pool", "max_uses", "1")
        .start()
        .await;
    let script = authority.directory.path().join("script.sql");
    fs::write(&script, "select 1;\n").unwrap();

    let bench = postgres
        .tool("pgbench")
        .aim(&pgusher.target())
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", &authority.ca_file())
        .args(["-n", "-C", "-c", "4", "-t", "40", "-f"])
        .arg(&script)
        .run();
    let mut bench = Box::pin(bench);
    let mut rotations = 0;
    let output = loop {
        tokio::select! {
            output = &mut bench => break output,
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {
                turns[rotations % turns.len()].replace(&authority.issued);
                next[rotations % next.len()].replace(&shown_to_servers);
                rotations += 1;
            }
        }
    };

    let said = output.ok();
    assert!(said.contains("number of transactions actually processed: 160/160"), "{said}");
    assert!(
        !said.contains("number of failed transactions: ")
            || said.contains("number of failed transactions: 0 "),
        "{said}"
    );
    assert!(rotations > 5, "{rotations}");
    let noticed = |file: &str| {
        pgusher.log().lines().any(|line| line.contains("certificates read again") && line.contains(file))
    };
    eventually("both were noticed", PATIENCE, async || {
        (noticed("own.crt") && noticed(&path(&authority.issued.certificate))).then_some(())
    })
    .await;
}
