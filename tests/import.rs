//! `pgusher import`, on whole configurations of PgBouncer.
//!
//! Each `tests/import/<name>.ini` has its outcome beside it: `<name>.toml`, and in `<name>.txt` what is said. After a change
//! that is meant, `UPDATE=1 cargo test --test import` writes them anew; read the difference.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgusher::cli::Flags;
use pgusher::config::{Config, Surroundings};
use pgusher::import::{Imported, Kind, Sources, import, known};
use proptest::prelude::*;

#[test]
fn whole_configurations_become_what_is_beside_them() {
    for (name, userlist) in [("databases", true), ("defaults", false), ("full", false), ("minimal", false)] {
        let imported = imported(&read(&format!("{name}.ini")), userlist);
        let toml = imported.toml.unwrap_or_else(|| panic!("{name}:\n{}", imported.remarks));

        assert!(!imported.remarks.has_errors(), "{name}:\n{}", imported.remarks);
        assert_accepted(name, &toml);
        assert_same(&format!("{name}.toml"), &toml);
        assert_same(&format!("{name}.txt"), &format!("{}\n", imported.remarks));
    }
}

/// Written with another value than its default, each key changes what comes out, or is spoken of.
#[test]
fn no_key_of_pgbouncer_goes_unnoticed() {
    let texts = ["full.ini", "databases.ini"].map(read);
    for (section, key) in known() {
        let stripped = |text: &String| strip(text, section, key);
        let written: Vec<_> = texts.iter().filter(|text| stripped(text) != **text).collect();
        let is_noticed = |text: &&String| {
            let (with, without) = (imported(text, true), imported(&stripped(text), true));
            with.toml != without.toml || with.remarks != without.remarks
        };

        assert!(!written.is_empty(), "{section}: {key} is in none of the files");
        assert!(section == "peers" || written.iter().any(is_noticed), "{section}: {key}");
    }
}

#[test]
fn what_pgbouncer_would_refuse_is_refused_with_its_line() {
    for (text, expected) in [
        ("[pgbouncer]\nlisten_port = many\n", "a.ini:2: listen_port = many: error: expected a whole number"),
        ("[pgbouncer]\nlisten_port = 0\n", "a.ini:2: listen_port = 0: error: expected a port"),
        ("[pgbouncer]\nquery_timeout = 5s\n", "a.ini:2: query_timeout = 5s: error: expected seconds"),
        (
            "[pgbouncer]\npool_mode = both\n",
            "a.ini:2: pool_mode = both: error: expected one of session, transaction, statement",
        ),
        ("[databases]\na = host=b\n", "a.ini: error: the section [pgbouncer] is missing"),
        ("[pgbouncer]\n[nonsense]\na = b\n", "a.ini:2: [nonsense]: error: PgBouncer has no such section"),
        ("[databases]\na = host\n[pgbouncer]\n", "a.ini:2: [databases] a: error: expected key=value"),
        (
            "[databases]\na = host=b pass=hunter2\n[pgbouncer]\n",
            "a.ini:2: [databases] a: error: a key PgBouncer 1.25 does not have there",
        ),
        (
            "[databases]\na = host=b port=x\n[pgbouncer]\n",
            "a.ini:2: [databases] a: port = x: error: expected a whole number",
        ),
        (
            "[databases]\na = host=@abstract\n[pgbouncer]\n",
            "a.ini:2: [databases] a: host: error: sockets are files, not in the abstract namespace",
        ),
        (
            "[databases]\npgbouncer = host=b\n[pgbouncer]\n",
            "a.ini:2: [databases] pgbouncer: error: the name is reserved for the console",
        ),
        ("%include gone.ini\n[pgbouncer]\n", "a.ini:1: error: gone.ini cannot be read: entity not found"),
    ] {
        let Imported { toml, remarks } = imported(text, false);
        let said = remarks.to_string();

        assert_eq!(toml, None, "{text}");
        assert!(said.lines().any(|line| line == expected), "{text}\n{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn what_pgusher_would_refuse_is_said_at_once() {
    let Imported { toml, remarks } = imported("[databases]\na = host=b\n[pgbouncer]\n", false);

    assert!(toml.is_some());
    assert!(remarks.has_errors());
    assert!(remarks.to_string().contains("no client could log in"), "{remarks}");
}

#[test]
fn a_key_of_a_later_release_does_not_stand_in_the_way() {
    let text = "[databases]\na = host=b\n[pgbouncer]\nauth_file = u\nnot_there_yet = 1\n";

    let remarks = imported(text, false).remarks;

    assert!(!remarks.has_errors(), "{remarks}");
    assert!(remarks.iter().any(|remark| remark.kind == Kind::Lost && remark.subject == "not_there_yet = 1"));
}

#[test]
fn passwords_are_in_the_outcome_and_nowhere_else() {
    let Imported { toml, remarks } = imported(&read("databases.ini"), true);
    let toml = toml.unwrap();

    for secret in ["it's a", "app's", "md5f2bfa"] {
        assert!(toml.contains(secret), "{secret}");
        assert!(!remarks.to_string().contains(secret), "{remarks}");
    }
}

#[test]
fn the_program_writes_the_outcome_and_says_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("pgusher.toml");
    let run = |arguments: &[&str]| {
        let arguments = arguments.iter().map(|argument| argument.replace("OUT", output.to_str().unwrap()));
        Command::new(env!("CARGO_BIN_EXE_pgusher"))
            .current_dir(self::folder())
            .arg("import")
            .args(arguments)
            .output()
            .unwrap()
    };

    let shown = run(&["minimal.ini"]);
    let written = run(&["databases.ini", "userlist.txt", "-o", "OUT"]);
    let again = run(&["minimal.ini", "-o", "OUT"]);
    let broken = run(&["userlist.txt"]);

    assert_eq!((shown.status.code(), &*shown.stdout), (Some(0), read("minimal.toml").as_bytes()));
    assert_eq!(shown.stderr, b"everything is carried over\n");
    // The file it includes is not on this machine.
    assert_eq!(written.status.code(), Some(64), "{written:?}");
    assert_eq!((again.status.code(), &*again.stdout), (Some(0), &b""[..]), "{again:?}");
    assert_eq!(fs::read_to_string(&output).unwrap(), read("minimal.toml"));
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
    let twice = run(&["minimal.ini", "-o", "OUT"]);
    assert_eq!((twice.status.code(), &*twice.stdout), (Some(1), &b""[..]), "{twice:?}");
    assert_eq!((broken.status.code(), &*broken.stdout), (Some(64), &b""[..]), "{broken:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_an_outcome_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = import_bytes(bytes, false);
    }

    /// Made of what means something in such a file, most texts get far; whatever comes out is accepted.
    #[test]
    fn an_outcome_without_errors_is_accepted(words in prop::collection::vec(prop::sample::select(WORDS), 0..60)) {
        let text = format!("[databases]\nx = host=h\n[pgbouncer]\nauth_file = u\n{}", words.concat());
        let Imported { toml, remarks } = imported(&text, true);

        prop_assert_eq!(toml.is_none(), remarks.has_errors(), "{}", remarks);
        if let Some(toml) = toml {
            assert_accepted(&text, &toml);
        }
    }
}

/// Pieces of a configuration.
const WORDS: &[&str] = &[
    "\n",
    "\n",
    "\n",
    " ",
    "=",
    "'",
    "\"",
    ";",
    "[databases]\n",
    "[users]\n",
    "[peers]\n",
    "[pgbouncer]\n",
    "%include b.ini\n",
    "a = ",
    "* = ",
    "'b c' = ",
    "host=h ",
    "host=h,i ",
    "port=1 ",
    "port=0 ",
    "user=app ",
    "password='x' ",
    "pool_size=0 ",
    "pool_size=99999999 ",
    "min_pool_size=50 ",
    "server_lifetime=0 ",
    "max_db_connections=3 ",
    "pool_mode=session ",
    "\npool_mode = statement\n",
    "\ndefault_pool_size = 0\n",
    "\nmin_pool_size = 99\n",
    "\nlisten_addr = *\n",
    "\nlisten_addr = ::\n",
    "\nunix_socket_dir = /x\n",
    "\nmax_client_conn = -1\n",
    "\nquery_wait_timeout = 0\n",
    "\nserver_lifetime = 0\n",
    "\nverbose = 3\n",
    "\nignore_startup_parameters = a, options,,b\n",
    "\nauth_type = any\n",
    "\nlisten_backlog = 0\n",
    "\ntcp_keepidle = 99999999999\n",
    "\nmax_user_connections = 4\n",
    "\nquery_timeout = 4294967295.999\n",
];

/// `text` without one key of one section.
fn strip(text: &str, section: &str, key: &str) -> String {
    let mut current = "";
    let lines = text.lines().map(|line| {
        if line.starts_with('[') {
            current = line.trim_matches(['[', ']']);
        }
        if current != section || line.starts_with('[') {
            return line.to_owned();
        }
        if section == "pgbouncer" {
            let is_key = line.split(" = ").next() == Some(key);
            return if is_key { String::new() } else { line.to_owned() };
        }
        match line.find(&format!(" {key}=")) {
            Some(at) => {
                let rest = &line[at + key.len() + 2..];
                let end = match rest.strip_prefix('\'') {
                    Some(_) => rest.rfind('\'').map_or(rest.len(), |end| end + 1),
                    None => rest.find(' ').unwrap_or(rest.len()),
                };
                format!("{}{}", &line[..at], &rest[end..])
            }
            None => line.to_owned(),
        }
    });
    lines.map(|line| line + "\n").collect()
}

fn imported(text: &str, with_userlist: bool) -> Imported {
    import_bytes(text.as_bytes().to_vec(), with_userlist)
}

fn import_bytes(bytes: Vec<u8>, with_userlist: bool) -> Imported {
    let read_file = move |path: &Path| match path.to_str() {
        Some("a.ini") => Ok(bytes.clone()),
        Some("/etc/pgbouncer/more.ini") => Ok(read("more.ini").into_bytes()),
        Some("userlist.txt") => Ok(read("userlist.txt").into_bytes()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let userlist = with_userlist.then_some(Path::new("userlist.txt"));
    import(&Sources { ini: Path::new("a.ini"), userlist, read_file: &read_file })
}

/// What `pgusher check` says.
fn assert_accepted(name: &str, toml: &str) {
    let text = toml.to_owned();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    let surroundings = Surroundings {
        environment: BTreeMap::new(),
        read_file: Box::new(move |path| {
            Ok(match path.extension().and_then(|extension| extension.to_str()) {
                Some("toml") => text.clone().into_bytes(),
                Some("pem") => certificate.pem().into_bytes(),
                Some("key") => key.serialize_pem().into_bytes(),
                _ => read("userlist.txt").into_bytes(),
            })
        }),
    };
    let flags = Flags { config: Some("pgusher.toml".into()), ..Flags::default() };
    if let Err(problems) = Config::load(&flags, &surroundings) {
        panic!("{name}\n{toml}\n{problems}");
    }
}

fn assert_same(file: &str, text: &str) {
    let path = folder().join(file);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "{file}");
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}
