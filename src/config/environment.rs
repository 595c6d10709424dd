//! The variables of the environment, and the flags, as keys.
//!
//! Every key has a variable, `PGUSHER_<SECTION>_<KEY>`, with the name of a database or user between the two. A name
//! stands in upper case, with `_` for whatever is no letter or digit, and `FALLBACK` for `*`; it means the database
//! of the file that would be written so, and a new one, in lower case, if there is none.
//!
//! # Promises
//! - Every `PGUSHER_*` variable is used or is a problem; an empty one is as good as none.
//! - Variables that Kubernetes makes for a service named `pgusher` (`PGUSHER_PORT`, `PGUSHER_SERVICE_HOST` …) are
//!   not ours, and ignored.
//! - `DATABASE_POOL_MIN`, `_MAX` and `_TIMEOUT` (milliseconds) are understood, weaker than `PGUSHER_*`.
//!
//! # Refuses
//! To read the process's own environment, to judge values, to show the value of a variable it does not know.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::cli::Flags;
use crate::config::keys::{FALLBACK, SHORT_FORMS, Section, shouted, variable_name};
use crate::config::ledger::{Ledger, Place};
use crate::config::problem::{Problem, Source, did_you_mean};
use crate::config::value::Value;

/// The variables that are, or should be, ours.
#[derive(Debug)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Keeps what is ours, and has a value.
    pub(super) fn new(variables: &BTreeMap<OsString, OsString>, problems: &mut Vec<Problem>) -> Self {
        let mut ours = BTreeMap::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| is_ours(name)) else {
                continue;
            };
            match value.to_str() {
                Some("") => {}
                Some(value) => drop(ours.insert(name.to_owned(), value.to_owned())),
                None => {
                    problems.push(Problem::new(Source::Variable(name.into()), "", "the value is not UTF-8"))
                }
            }
        }
        Self(ours)
    }

    /// Takes one variable out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Reads the rest into the ledger.
    pub(super) fn read(mut self, ledger: &mut Ledger, problems: &mut Vec<Problem>) {
        self.read_application(ledger, problems);
        let mut seen: BTreeMap<Place, (String, String)> = BTreeMap::new();
        for (name, value) in self.0 {
            let place = match place(&name, ledger) {
                Ok(place) => place,
                Err(_) if is_of_kubernetes(&name, &value) => continue,
                Err(reason) => {
                    problems.push(Problem::new(Source::Variable(name), "", reason));
                    continue;
                }
            };
            if let Some((other, _)) = seen.get(&place).filter(|(_, before)| *before != value) {
                let reason = format!("{other} says the same with another value");
                problems.push(Problem::new(Source::Variable(name.clone()), place.to_string(), reason));
            }
            seen.insert(place.clone(), (name.clone(), value.clone()));
            ledger.write(place, Value::Word(value), Source::Variable(name));
        }
    }

    /// The variables by which applications configure pools of their own.
    fn read_application(&mut self, ledger: &mut Ledger, problems: &mut Vec<Problem>) {
        for (name, key) in
            [("DATABASE_POOL_MIN", "min"), ("DATABASE_POOL_MAX", "size"), (MILLISECONDS, "acquire_timeout")]
        {
            let Some(mut value) = self.take(name) else {
                continue;
            };
            let place = Place { section: Section::Pool, name: String::new(), key };
            if name == MILLISECONDS {
                if value.parse::<u64>().is_err() {
                    let problem = Problem::new(
                        Source::Variable(name.into()),
                        place.to_string(),
                        "expected milliseconds",
                    );
                    problems.push(problem.with_value(format!("{value:?}")));
                    continue;
                }
                value += "ms";
            }
            ledger.write(place, Value::Word(value), Source::Variable(name.into()));
        }
    }
}

/// Reads the flags into the ledger; `--config` and `--upstream` are not keys.
pub(super) fn read_flags(flags: &Flags, ledger: &mut Ledger) {
    let listen = Some(flags.listen.join(",")).filter(|listen| !listen.is_empty());
    for (flag, section, key, value) in [
        ("--acquire-timeout", Section::Pool, "acquire_timeout", &flags.acquire_timeout),
        ("--auth", Section::Listen, "auth", &flags.auth),
        ("--identity", Section::Identity, "enabled", &flags.identity),
        ("--identity-variable", Section::Identity, "variable", &flags.identity_variable),
        ("--listen", Section::Listen, "address", &listen),
        ("--log", Section::Log, "level", &flags.log),
        ("--log-format", Section::Log, "format", &flags.log_format),
        ("--pool-min", Section::Pool, "min", &flags.pool_min),
        ("--pool-mode", Section::Pool, "mode", &flags.pool_mode),
        ("--pool-size", Section::Pool, "size", &flags.pool_size),
        ("--unix-socket-dir", Section::Listen, "unix_socket_dir", &flags.unix_socket_dir),
        ("--workers", Section::Listen, "workers", &flags.workers),
    ] {
        if let Some(value) = value {
            let place = Place { section, name: String::new(), key };
            ledger.write(place, Value::Word(value.clone()), Source::Flag(flag));
        }
    }
}

/// Whether a variable of this name must mean something to us.
fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || matches!(name, "DATABASE_POOL_MIN" | "DATABASE_POOL_MAX" | MILLISECONDS)
}

/// Whether Kubernetes, or Docker's links, made this for a service whose name begins with `pgusher`.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_address =
        value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
    let port = |after: &str| after.split('_').next().is_some_and(|port| port.parse::<u16>().is_ok());
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_address)
        || name.split_once("_PORT_").is_some_and(|(_, after)| port(after))
}

/// The key a variable stands for, or why there is none.
fn place(variable: &str, ledger: &Ledger) -> Result<Place, String> {
    if let Some((_, section, key)) = SHORT_FORMS.iter().find(|(short, ..)| *short == variable) {
        return Ok(Place { section: *section, name: String::new(), key });
    }
    for section in Section::ALL {
        let Some(rest) = variable.strip_prefix(&format!("{PREFIX}{}_", shouted(section.word()))) else {
            continue;
        };
        let found = if section.is_named() {
            named(section, rest, ledger)?
        } else {
            section.keys().into_iter().find(|key| shouted(key) == rest).map(|key| (String::new(), key))
        };
        if let Some((name, key)) = found {
            return Ok(Place { section, name, key });
        }
    }
    Err(format!("unknown variable{}", suggestion(variable)))
}

/// The database or user and the key in what follows `PGUSHER_DATABASES_`. `Err` if it could be several.
fn named(section: Section, rest: &str, ledger: &Ledger) -> Result<Option<(String, &'static str)>, String> {
    let with_key = |key: &'static str| {
        let name = rest.strip_suffix(&shouted(key))?.strip_suffix('_')?;
        (!name.is_empty()).then_some((name, key))
    };
    let readings: Vec<_> = section.keys().into_iter().filter_map(with_key).collect();
    let declared = |(name, key): &(&str, &'static str)| {
        let known = ledger.names(section).filter(|known| shouted(known) == *name);
        known.map(|known| (known.to_owned(), *key)).collect::<Vec<_>>()
    };
    let known: Vec<_> = readings.iter().flat_map(declared).collect();
    match known.as_slice() {
        [one] => return Ok(Some(one.clone())),
        [] => {}
        [(one, _), (two, _), ..] => {
            return Err(format!("ambiguous: it may mean {one:?} or {two:?}; write it in the file"));
        }
    }
    let longest = readings.into_iter().max_by_key(|(_, key)| key.len());
    Ok(longest.map(|(name, key)| {
        let is_fallback = section == Section::Databases && name == shouted(FALLBACK);
        (if is_fallback { FALLBACK.into() } else { name.to_ascii_lowercase() }, key)
    }))
}

/// The variable that was probably meant.
fn suggestion(variable: &str) -> String {
    let mut candidates: Vec<_> = SHORT_FORMS.iter().map(|(short, ..)| (*short).to_owned()).collect();
    candidates.extend(OTHERS.map(Into::into));
    for section in Section::ALL.into_iter().filter(|section| !section.is_named()) {
        candidates.extend(section.keys().into_iter().map(|key| variable_name(section, None, key)));
    }
    // The common prefix would make everything alike.
    let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let bared: Vec<_> = candidates.iter().map(|candidate| bare(candidate)).collect();
    did_you_mean(&bare(variable), bared.iter().map(String::as_str))
        .replace("mean ", &format!("mean {PREFIX}"))
}

const MILLISECONDS: &str = "DATABASE_POOL_TIMEOUT";
const OTHERS: [&str; 2] = ["PGUSHER_CONFIG", "PGUSHER_UPSTREAM"];
const PREFIX: &str = "PGUSHER_";

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and value of everything that `variables` write, and the problems.
    fn read(declared: &[&str], variables: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let (mut ledger, mut problems) = (Ledger::default(), Vec::new());
        for name in declared {
            ledger.declare(Section::Databases, name, Source::Nowhere);
        }
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Environment::new(&variables, &mut problems).read(&mut ledger, &mut problems);

        let mut written = Vec::new();
        for section in Section::ALL {
            let names: Vec<_> = ledger.names(section).map(str::to_owned).chain([String::new()]).collect();
            for name in names {
                written.extend(ledger.table(section, &name).map(|(place, value, _)| match value {
                    Value::Word(word) => format!("{place}={word}"),
                    other => format!("{place}={other:?}"),
                }));
            }
        }
        (written, problems.iter().map(|problem| format!("{}: {}", problem.source, problem.reason)).collect())
    }

    #[test]
    fn long_and_short_forms_name_the_same_keys() {
        let (written, problems) = read(
            &[],
            &[
                ("PGUSHER_LISTEN", "a"),
                ("PGUSHER_LISTEN_MAX_CLIENTS", "5"),
                ("PGUSHER_POOL_IDLE_TRANSACTION_TIMEOUT", "1s"),
                ("PGUSHER_IDENTITY", "off"),
                ("PGUSHER_IDENTITY_VARIABLE", "a.b"),
                ("PGUSHER_LOG", "debug"),
                ("PGUSHER_LOG_FORMAT", "json"),
                ("PGUSHER_WORKERS", ""),
                ("PATH", "/bin"),
            ],
        );

        assert_eq!(problems, [""; 0]);
        assert_eq!(
            written,
            [
                "listen.address=a",
                "listen.max_clients=5",
                "log.format=json",
                "log.level=debug",
                "identity.enabled=off",
                "identity.variable=a.b",
                "pool.idle_transaction_timeout=1s",
            ]
        );
    }

    #[test]
    fn a_name_means_what_is_declared_or_something_new() {
        let (written, problems) = read(
            &["My-App", "app_idle", "*"],
            &[
                ("PGUSHER_DATABASES_MY_APP_HOST", "h"),
                ("PGUSHER_DATABASES_APP_IDLE_TRANSACTION_TIMEOUT", "2s"),
                ("PGUSHER_DATABASES_FALLBACK_PORT", "3"),
                ("PGUSHER_DATABASES_NEW_DB_CONNECT_TIMEOUT", "4s"),
                ("PGUSHER_USERS_APP_USER_PASSWORD_FILE", "/f"),
            ],
        );

        assert_eq!(problems, [""; 0]);
        assert_eq!(
            written,
            [
                "databases.\"*\".port=3",
                "databases.My-App.host=h",
                "databases.app_idle.transaction_timeout=2s",
                "databases.new_db.connect_timeout=4s",
                "users.app_user.password_file=/f",
            ]
        );
    }

    #[test]
    fn an_ambiguous_name_is_refused() {
        let (_, problems) = read(&["a-b", "a_b"], &[("PGUSHER_DATABASES_A_B_HOST", "h")]);

        assert_eq!(
            problems,
            ["PGUSHER_DATABASES_A_B_HOST: ambiguous: it may mean \"a-b\" or \"a_b\"; write it in the file"]
        );
    }

    #[test]
    fn an_unknown_variable_is_refused_with_a_suggestion() {
        let (_, problems) =
            read(&[], &[("PGUSHER_POOL_SZIE", "1"), ("PGUSHER_UPSTRAEM", "x"), ("PGUSHER_QQQ", "hunter2")]);

        assert_eq!(
            problems,
            [
                "PGUSHER_POOL_SZIE: unknown variable; did you mean PGUSHER_POOL_SIZE?",
                "PGUSHER_QQQ: unknown variable",
                "PGUSHER_UPSTRAEM: unknown variable; did you mean PGUSHER_UPSTREAM?",
            ]
        );
    }

    #[test]
    fn two_variables_for_one_key_must_agree() {
        let same = [("PGUSHER_AUTH", "md5"), ("PGUSHER_LISTEN_AUTH", "md5")];
        let different = [("PGUSHER_AUTH", "md5"), ("PGUSHER_LISTEN_AUTH", "trust")];

        assert_eq!(read(&[], &same).1, [""; 0]);
        assert_eq!(
            read(&[], &different).1,
            ["PGUSHER_LISTEN_AUTH: PGUSHER_AUTH says the same with another value"]
        );
    }

    #[test]
    fn the_variables_of_a_kubernetes_service_are_ignored() {
        let (written, problems) = read(
            &[],
            &[
                ("PGUSHER_PORT", "tcp://10.0.0.1:6432"),
                ("PGUSHER_PORT_6432_TCP", "tcp://10.0.0.1:6432"),
                ("PGUSHER_PORT_6432_TCP_ADDR", "10.0.0.1"),
                ("PGUSHER_SERVICE_HOST", "10.0.0.1"),
                ("PGUSHER_SERVICE_PORT", "6432"),
                ("PGUSHER_SERVICE_PORT_METRICS", "9090"),
                ("PGUSHER_METRICS_SERVICE_HOST", "10.0.0.2"),
            ],
        );

        assert_eq!((written, problems), (Vec::<String>::new(), Vec::new()));
    }

    #[test]
    fn the_variables_of_applications_are_weaker() {
        let application =
            [("DATABASE_POOL_MAX", "9"), ("DATABASE_POOL_MIN", "1"), ("DATABASE_POOL_TIMEOUT", "2500")];
        let both = [("DATABASE_POOL_MAX", "9"), ("PGUSHER_POOL_SIZE", "7")];

        assert_eq!(read(&[], &application).0, ["pool.acquire_timeout=2500ms", "pool.min=1", "pool.size=9"]);
        assert_eq!(read(&[], &both), (vec!["pool.size=7".into()], Vec::new()));
        assert_eq!(
            read(&[], &[("DATABASE_POOL_TIMEOUT", "2s")]).1,
            ["DATABASE_POOL_TIMEOUT: expected milliseconds"]
        );
    }
}
