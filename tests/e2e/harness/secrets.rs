//! What must never be in the output of a pooler: every secret that a test has used.
//!
//! Passwords are noted where tests configure them and where they log in; each pooler is read for them when it ends. Only what
//! can be recognised counts: a role of the harness has its name for a password, which is in every other line.

use std::collections::BTreeSet;
use std::sync::Mutex;

static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The shortest secret that is looked for.
const SHORTEST: usize = 8;

/// A secret is in use from here on.
pub fn note(secret: &str) {
    let is_word = secret.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if secret.len() >= SHORTEST && !is_word {
        KNOWN.lock().unwrap().insert(secret.to_owned());
    }
}

/// The secrets of a configuration: values of keys that end in `password`, passwords of URLs.
pub fn note_all_of(toml: &str) {
    for line in toml.lines() {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        if key.ends_with("password") {
            note(value.trim_matches('"'));
        }
        note_url(value);
    }
}

/// The password of a URL, if it has one.
pub fn note_url(text: &str) {
    let authority = text.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    if let Some((_, password)) = authority.and_then(|(login, _)| login.split_once(':')) {
        note(password);
    }
}

/// The lines of an output that hold a secret: one that was noted, or what is one by its form.
pub fn leaks(output: &str) -> Vec<String> {
    let known = KNOWN.lock().unwrap();
    let is_leak = |line: &&str| is_verifier(line) || known.iter().any(|secret| line.contains(secret));
    output.lines().filter(is_leak).map(str::to_owned).collect()
}

/// Whether there is a verifier as PostgreSQL stores it.
fn is_verifier(line: &str) -> bool {
    let follows = |prefix: &str, is_it: fn(&str) -> bool| line.split(prefix).skip(1).any(is_it);
    follows("SCRAM-SHA-256$", |rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        || follows("md5", |rest| {
            rest.len() >= 32 && rest.bytes().take(32).all(|byte| byte.is_ascii_hexdigit())
        })
}
