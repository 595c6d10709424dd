//! The layer table, enforced.
//!
//! Every room of `src` has a row: what it may use of ours and of others. The pure ones may not reach for a clock, a
//! socket, a thread or a log either. The test reads source text, so it costs nothing at run time and needs no tools;
//! what it cannot read (`use {a, b}` at top level) it rejects.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One room.
struct Row {
    room: &'static str,
    /// Our rooms it may use.
    inside: &'static [&'static str],
    /// Crates it may use.
    outside: &'static [&'static str],
}

const ROWS: &[Row] = &[
    Row { room: "names", inside: &[], outside: &[] },
    Row { room: "wire", inside: &["names"], outside: &["bytes", "memchr", "pgwire"] },
    Row {
        room: "auth",
        inside: &["names", "wire"],
        outside: &["base64", "getrandom", "hmac", "md5", "pbkdf2", "sha2", "stringprep", "subtle", "zeroize"],
    },
    Row { room: "session", inside: &["names", "wire", "auth"], outside: &["bytes", "memchr"] },
    Row {
        room: "telemetry",
        inside: &["names"],
        outside: &["metrics", "metrics_exporter_prometheus", "tracing", "tracing_subscriber"],
    },
    Row {
        room: "net",
        inside: &["names", "wire", "telemetry"],
        outside: &[
            "bytes",
            "rustix",
            "rustls",
            "rustls_native_certs",
            "sha2",
            "socket2",
            "tokio",
            "tokio_rustls",
            "tracing",
            "x509_cert",
            "zeroize",
        ],
    },
    Row { room: "hashing", inside: &["auth"], outside: &["moka", "tokio", "tracing"] },
    Row {
        room: "pool",
        inside: &["names", "wire", "auth", "hashing", "session", "net", "telemetry"],
        outside: &["bytes", "deadpool", "getrandom", "moka", "rustix", "tokio", "tracing", "zeroize"],
    },
    Row {
        room: "token",
        inside: &["auth", "session", "telemetry"],
        outside: &[
            "base64",
            "jsonwebtoken",
            "moka",
            "ring",
            "rustls",
            "rustls_native_certs",
            "serde_json",
            "sha2",
            "spki",
            "tokio",
            "tracing",
            "ureq",
        ],
    },
    Row { room: "drain", inside: &["telemetry"], outside: &["tokio", "tracing"] },
    Row {
        room: "proxy",
        inside: &[
            "names",
            "wire",
            "auth",
            "hashing",
            "session",
            "net",
            "pool",
            "token",
            "drain",
            "telemetry",
        ],
        outside: &["bytes", "getrandom", "moka", "subtle", "tokio", "tracing"],
    },
    Row {
        room: "admin",
        inside: &["names", "session", "net", "pool", "drain", "proxy", "telemetry"],
        outside: &["bytes", "http_body_util", "hyper", "hyper_util", "rustix", "tokio", "tracing"],
    },
    Row { room: "cli", inside: &[], outside: &["clap"] },
    Row {
        room: "config",
        inside: &["cli", "names", "auth", "session", "net", "pool", "proxy", "admin", "telemetry", "token"],
        outside: &["strsim", "toml"],
    },
    Row {
        room: "app",
        inside: &[
            "names",
            "wire",
            "auth",
            "hashing",
            "session",
            "telemetry",
            "net",
            "pool",
            "drain",
            "proxy",
            "admin",
            "cli",
            "config",
            "reload",
            "console",
        ],
        outside: &["rustix", "tokio", "tracing"],
    },
    Row {
        room: "console",
        inside: &["names", "wire", "session", "net", "pool", "proxy", "telemetry", "reload"],
        outside: &["bytes", "rustix", "tokio", "tracing"],
    },
    Row {
        room: "reload",
        inside: &["cli", "config", "net", "pool", "proxy", "telemetry"],
        outside: &["tokio", "tracing"],
    },
    Row {
        room: "check",
        inside: &["names", "auth", "session", "pool", "proxy", "config", "app"],
        outside: &["tokio"],
    },
    Row { room: "import", inside: &["names", "auth", "cli", "config"], outside: &[] },
    Row {
        room: "doctor",
        inside: &["auth", "wire", "session", "pool", "proxy", "config", "app", "check"],
        outside: &["tokio"],
    },
    Row { room: "tier", inside: &["auth", "app", "check", "config", "doctor"], outside: &["tokio"] },
    Row { room: "drain_order", inside: &["config"], outside: &[] },
    Row { room: "demo", inside: &[], outside: &["rustix", "tokio"] },
];

/// Below the line there is no clock, socket, thread, file, environment or log.
const PURE: &[&str] = &["names", "wire", "auth", "session"];

const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "eprintln!",
    "println!",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::thread",
    "tokio",
    "tracing",
];

#[test]
fn every_room_keeps_to_its_layer() {
    let crates = dependencies();
    let mut trespasses = Vec::new();
    for row in ROWS {
        for (file, text) in sources(row.room) {
            for (number, line) in text.lines().enumerate() {
                for what in trespasses_of(line, row, &crates) {
                    trespasses.push(format!("{file}:{}: {what}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(trespasses.is_empty(), "out of layer:\n{}", trespasses.join("\n"));
}

#[test]
fn every_room_has_a_row() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rooms: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")))
        .map(|name| name.trim_end_matches(';'))
        .collect();

    assert_eq!(rooms, ROWS.iter().map(|row| row.room).collect());
}

/// Layers, not a tangle: no two rooms may use each other.
#[test]
fn the_table_has_no_circles() {
    let may_use = |from: &str, to: &str| ROWS.iter().any(|row| row.room == from && row.inside.contains(&to));
    for row in ROWS {
        let mut seen = BTreeSet::new();
        let mut pending = row.inside.to_vec();
        while let Some(room) = pending.pop() {
            assert_ne!(room, row.room, "{} reaches itself", row.room);
            if seen.insert(room) {
                pending.extend(ROWS.iter().map(|row| row.room).filter(|to| may_use(room, to)));
            }
        }
    }
}

#[test]
fn a_trespass_is_seen_wherever_it_stands() {
    let session = ROWS.iter().find(|row| row.room == "session").unwrap();
    let crates = BTreeSet::from(["bytes".to_owned(), "deadpool".to_owned(), "tokio".to_owned()]);
    let trespasses = |line| !trespasses_of(line, session, &crates).is_empty();

    for line in [
        "use crate::pool::Lease;",
        "use deadpool::managed::Object;",
        "    tokio::spawn(async {});",
        "    let now = Instant::now();",
        "    let lease: crate::pool::Lease = give();",
        "use super::super::proxy::Client;",
        "use {bytes::Bytes, std::fmt};",
    ] {
        assert!(trespasses(line), "{line}");
    }
    for line in [
        "use std::fmt;",
        "use bytes::BytesMut;",
        "use crate::wire::Header;",
        "use crate::session::violation::Violation;",
        "pub use claim::Identity;",
        "/// See [`crate::pool::Lease`].",
        "    let name = crate::names::Printable(name); // tokio::spawn",
    ] {
        assert!(!trespasses(line), "{line}");
    }
}

/// What one line of a room does that the room may not.
fn trespasses_of(line: &str, row: &Row, crates: &BTreeSet<String>) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut found = Vec::new();
    for room in paths_after(code, "crate::") {
        if room != row.room && !row.inside.contains(&room) && room.starts_with(|c: char| c.is_lowercase()) {
            found.push(format!("{} may not use {room}", row.room));
        }
    }
    for name in crates.iter().filter(|name| !row.outside.contains(&name.as_str())) {
        if names_crate(code, name) {
            found.push(format!("{} may not use the crate {name}", row.room));
        }
    }
    if PURE.contains(&row.room) {
        found.extend(
            IMPURE.iter().filter(|word| code.contains(**word)).map(|word| format!("{word} is not pure")),
        );
    }
    if code.contains("super::super") {
        found.push("a path through two parents".to_owned());
    }
    if code.trim_start().starts_with("use {") {
        found.push("one path for each use".to_owned());
    }
    found
}

/// The first segment of every path that follows `prefix`, `$crate::` included.
fn paths_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    code.match_indices(prefix)
        .filter(|(at, _)| !code[..*at].ends_with(is_word))
        .map(|(at, _)| {
            let rest = &code[at + prefix.len()..];
            &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())]
        })
        .collect()
}

/// Whether `name::` begins a path here.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        after.starts_with("::") && !before.ends_with(is_word) && !before.ends_with("::")
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The crates under `[dependencies]`, as code names them.
fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, after) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = after.split("\n[").next().unwrap();
    let names = section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| match name {
        "md-5" => "md5".to_owned(),
        name => name.replace('-', "_"),
    });
    let names: BTreeSet<_> = names.collect();
    assert!(names.contains("tokio") && names.contains("deadpool"), "the manifest is not read: {names:?}");
    names
}

/// Every file of `room`, each cut at its test module, which comes last.
fn sources(room: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![root().join("src").join(room), root().join(format!("src/{room}.rs"))];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
            let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            found.push((name, code.to_owned()));
        }
    }
    assert!(!found.is_empty(), "{room} has no source");
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
