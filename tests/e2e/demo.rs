//! `pgusher demo` shows what it promises, with a PostgreSQL of its own that ends with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::process::{Background, run, tied};
use crate::harness::{PATIENCE, eventually};

/// A place for the demo's directory, which PostgreSQL's account can reach.
fn place() -> TempDir {
    let place = tempfile::Builder::new().prefix("pgusher-").tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("its permissions");
    place
}

fn demo(place: &TempDir) -> Command {
    let mut demo = tied(env!("CARGO_BIN_EXE_pgusher"), "KILL");
    let path = std::env::var("PATH").unwrap_or_default();
    demo.arg("demo").env("TMPDIR", place.path()).env("PATH", format!("/usr/lib/postgresql/15/bin:{path}"));
    demo
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("a directory").next().is_none()
}

/// Whether any process works in a directory below this one.
fn is_worked_in(directory: &Path) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|process| fs::read_link(process.path().join("cwd")).ok())
        .any(|place| place.starts_with(directory))
}

/// A demo that has come so far as to say this.
async fn demo_until(words: &str, command: Command, log: &TempDir) -> Background {
    let mut demo = Background::start(command, &log.path().join("log"));
    eventually(&format!("the demo says {words:?}"), LONGEST, async || {
        let (ended, said) = (demo.ended(), demo.log());
        assert!(ended.is_none() || said.contains(words), "{ended:?}: {said}");
        said.contains(words).then_some(())
    })
    .await;
    demo
}

#[tokio::test]
async fn the_demo_shows_users_kept_apart_and_leaves_nothing_behind() {
    let (place, log) = (place(), place());
    let mut once = demo(&place);
    once.arg("--once").env("PGUSHER_POOL_SIZE", "nonsense").env("PGPORT", "1"); // settings for others

    let mut demo = demo_until("Everything was as it should be.", once, &log).await;

    let (status, shown) = (demo.end().await, demo.log());
    assert!(status.success(), "{status}: {shown}");
    for words in [
        "200 clients on 5 servers",
        "FATAL:",
        "5000 transactions",
        "connections that PostgreSQL saw: 5 at most",
        "40 turns on 2 servers",
        "11111111-1111-1111-1111-111111111111 | saas_user | UPDATE",
        "ERROR:  22P02",
        "critical: table billing.subscriptions: it has policies, and row-level security is disabled",
        "=> ALTER TABLE billing.subscriptions ENABLE ROW LEVEL SECURITY;",
    ] {
        assert!(shown.contains(words), "{words:?} is missing from:\n{shown}");
    }
    assert!(is_empty(place.path()) && !is_worked_in(place.path()));
}

#[tokio::test]
async fn a_demo_that_is_told_to_end_succeeds_and_leaves_nothing_behind() {
    let (place, log) = (place(), place());
    let mut demo = demo_until("until Ctrl-C", demo(&place), &log).await;

    demo.signal(Signal::INT);

    assert!(demo.end().await.success(), "{}", demo.log());
    assert!(is_empty(place.path()) && !is_worked_in(place.path()));
}

#[tokio::test]
async fn what_a_killed_demo_had_started_ends_with_it() {
    let (place, log) = (place(), place());
    let mut demo = demo_until("PGUSHER_POOL_SIZE=5 pgusher", demo(&place), &log).await;
    assert!(is_worked_in(place.path()));

    demo.signal(Signal::KILL);

    demo.end().await;
    eventually("its processes have ended", PATIENCE, async || (!is_worked_in(place.path())).then_some(()))
        .await;
}

#[tokio::test]
async fn the_demo_brings_its_own_settings_and_refuses_others() {
    let place = place();
    let mut misused = demo(&place);
    misused.args(["--pool-size", "3"]);

    let refused = run(misused).await;

    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
}

/// For all that is shown, on a machine that has other things to do.
const LONGEST: Duration = Duration::from_secs(100);
