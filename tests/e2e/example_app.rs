//! The application of `docker/compose.yaml`, behind pgusher as it is configured there.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::port::Port;
use crate::harness::process::{Background, root, tied, tools};
use crate::harness::{PATIENCE, Pgusher, Postgres, eventually};

const ADA: &str = "11111111-1111-1111-1111-111111111111";
const BOB: &str = "22222222-2222-2222-2222-222222222222";

#[tokio::test]
async fn its_users_see_only_themselves_also_over_one_server() {
    let postgres = Postgres::shared(15).await;
    postgres.load_schema().await;
    let toml = std::fs::read_to_string(root().join("docker/pgusher.toml")).unwrap();
    assert!(toml.contains("[databases.saas]\nhost = \"postgres\"\n"), "{toml}");
    let here = format!(
        "[databases.saas]\nhost = \"{}\"\ndbname = \"{}\"\n",
        postgres.address(),
        postgres.database()
    );
    let toml = toml
        .replace("[databases.saas]\nhost = \"postgres\"\n", &here)
        .replace("address = \"*:6432\"", "address = \"LISTEN\"")
        .replace("size = 10\nmin = 2", "size = 1\nmin = 1");
    let pgusher = Pgusher::with_toml(&toml, postgres.target()).await;
    let port = Port::reserve();
    let _app = start(&pgusher, port.number).await;

    for _ in 0..3 {
        let (ada, bob) = tokio::join!(get(port.number, "/me", Some(ADA)), get(port.number, "/me", Some(BOB)));
        assert!(ada.contains("ada@example.com") && ada.contains("enterprise"), "{ada}");
        assert!(bob.contains("bob@example.com") && bob.contains("free"), "{bob}");
        assert!(!ada.contains("bob@") && !bob.contains("ada@"), "{ada}\n{bob}");
    }
    let nobody = get(port.number, "/me", None).await;
    let nonsense = get(port.number, "/me", Some("nonsense")).await;
    let elsewhere = get(port.number, "/", Some(ADA)).await;

    assert!(nobody.starts_with("HTTP/1.1 401"), "{nobody}");
    assert!(nonsense.starts_with("HTTP/1.1 503") && nonsense.contains("22023"), "{nonsense}");
    assert!(elsewhere.starts_with("HTTP/1.1 404"), "{elsewhere}");
}

async fn start(pgusher: &Pgusher, port: u16) -> Background {
    let mut command = tied(tools().join("python/bin/python"), "KILL");
    command
        .arg(root().join("docker/app/app.py"))
        .env("DATABASE_URL", pgusher.url("saas", "saas_user", "saas_user"))
        .env("LISTEN", format!("127.0.0.1:{port}"));
    let app = Background::start(command, &pgusher.directory().join("app"));
    eventually("the application listens", PATIENCE, async || app.log().contains("listening").then_some(()))
        .await;
    assert!(get(port, "/health", None).await.starts_with("HTTP/1.1 200"), "{}", app.log());
    app
}

/// What is answered, head and body.
async fn get(port: u16, path: &str, user: Option<&str>) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let user = user.map(|user| format!("X-User: {user}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n{user}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
