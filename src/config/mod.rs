//! What the operator wrote, made into what the parts need.
//!
//! Three sources say the same things, each stronger than the one before: the file, the environment, the flags.
//! They meet in a ledger by key, and the ledger is resolved into the `Settings` of each part. The heart of the
//! room is the table of keys (`keys.rs`): file, variables, suggestions and defaults all follow from it.
//!
//! ```text
//!  file ────────►┐                 ┌─ field: what a value may be
//!  environment ─►├─ ledger ─ resolve ─► Config { net, proxy, databases, users, log … }
//!  flags ───────►┘     └──── keys: which field a key is
//! ```
//!
//! # Promises
//! - Everything that is wrong is reported together: where, which key, which value, what would be accepted.
//! - No secret is in a problem, nor in the `Debug` of a [`Config`].
//! - Two configurations that mean the same are equal, so that a reload can see what changed.
//!
//! # Refuses
//! To connect, to keep what it has read: a part that watches a file does so itself.

mod encryption;
mod environment;
mod field;
mod file;
mod keys;
mod ledger;
mod options;
mod problem;
mod resolve;
mod units;
mod url;

mod value;
mod word;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::Flags;
use crate::config::environment::{Environment, read_flags};
use crate::config::keys::{FALLBACK, Section};
use crate::config::ledger::{Ledger, Place};
use crate::config::url::Url;
use crate::config::value::Value;
use crate::telemetry::log;
use crate::{admin, net, proxy};

pub use crate::config::keys::{Key, keys};
pub use crate::config::problem::{Problem, Problems, Source};
pub use crate::config::units::duration;

/// Everything that was decided, valid as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Threads that serve clients.
    pub workers: usize,
    /// Sockets.
    pub net: net::Settings,
    /// Clients.
    pub proxy: proxy::Settings,
    /// The databases clients may ask for, by name; never empty.
    pub databases: Vec<proxy::DatabaseEntry>,
    /// The users that are known, by name.
    pub users: Vec<proxy::UserEntry>,
    /// Most servers over all pools; `None` is no bound.
    pub max_servers: Option<usize>,
    /// The log.
    pub log: log::Settings,
    /// Metrics and health.
    pub metrics: admin::Settings,
    /// Whether the files it was read from are watched for changes.
    pub watch_files: bool,
    /// Every key that is not one database's or user's, with what holds, as TOML.
    pub shown: Vec<(String, String)>,
}

/// What the configuration is read from besides the flags, so that tests can be elsewhere.
pub struct Surroundings {
    /// The variables of the environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// How files are read.
    pub read_file: Box<ReadFile>,
}

/// Reads the whole of a file.
pub type ReadFile = dyn Fn(&Path) -> io::Result<Vec<u8>>;

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self { environment: std::env::vars_os().collect(), read_file: Box::new(|path| std::fs::read(path)) }
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of the environment are often secrets.
        f.debug_struct("Surroundings").field("environment", &self.environment.keys()).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the file, the environment and the flags.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(flags: &Flags, surroundings: &Surroundings) -> Result<Self, Problems> {
        Self::load_with(flags, surroundings, &[])
    }

    /// The same, and on top of it all what was set by hand: `section.key` and a word.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load_with(
        flags: &Flags,
        surroundings: &Surroundings,
        set: &[(String, String)],
    ) -> Result<Self, Problems> {
        let mut ledger = Ledger::default();
        let mut problems = Vec::new();
        let mut environment = Environment::new(&surroundings.environment, &mut problems);

        let variable = environment.take("PGUSHER_CONFIG").map(PathBuf::from);
        let path = flags.config.clone().or(variable);
        let is_file_whole =
            path.is_none_or(|path| read_file(&path, surroundings, &mut ledger, &mut problems));
        let upstream = upstream(flags, environment.take("PGUSHER_UPSTREAM"), &mut problems);
        if let Some(Ok((url, source))) = &upstream {
            write_databases(url, source, &mut ledger);
        }
        environment.read(&mut ledger, &mut problems);
        if let Some(Ok((url, source))) = &upstream {
            write_user(url, source, &mut ledger);
        }
        read_flags(flags, &mut ledger);
        for (key, value) in set {
            write_set(key, value, &mut ledger, &mut problems);
        }

        let is_whole = is_file_whole && !matches!(upstream, Some(Err(())));
        let config = resolve::resolve(&ledger, is_whole, &*surroundings.read_file, &mut problems);
        problems.sort_by(|a, b| a.source.cmp(&b.source));
        Problems::of(problems).map_or(Ok(config), Err)
    }
}

/// A value set by hand.
fn write_set(key: &str, value: &str, ledger: &mut Ledger, problems: &mut Vec<Problem>) {
    let place = key.rsplit_once('.').and_then(|(table, key)| {
        let (word, name) = table.split_once('.').unwrap_or((table, ""));
        let section = Section::ALL.into_iter().find(|section| section.word() == word)?;
        let key = section.key(key).filter(|_| section.is_named() != name.is_empty())?;
        Some(Place { section, name: name.to_owned(), key })
    });
    match place {
        Some(place) => ledger.write(place, Value::Word(value.to_owned()), Source::Flag("SET")),
        None => problems.push(Problem::new(Source::Flag("SET"), key, "there is no such key")),
    }
}

/// Reads the file into the ledger; says whether it was understood as a whole.
fn read_file(
    path: &Path,
    surroundings: &Surroundings,
    ledger: &mut Ledger,
    problems: &mut Vec<Problem>,
) -> bool {
    let text = (surroundings.read_file)(path).map_err(|error| format!("the file cannot be read: {error}"));
    let text = text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "the file is not UTF-8".into()));
    match text {
        Ok(text) => file::read(path, &text, ledger, problems),
        Err(reason) => {
            problems.push(Problem::new(Source::file(path), "", reason));
            false
        }
    }
}

/// The URL that alone is enough to start, from the flag or else the variable; `Err` if it was refused.
fn upstream(
    flags: &Flags,
    variable: Option<String>,
    problems: &mut Vec<Problem>,
) -> Option<Result<(Url, Source), ()>> {
    let variable = variable.map(|url| (url, Source::Variable("PGUSHER_UPSTREAM".into())));
    let (text, source) = flags.upstream.clone().map(|url| (url, Source::Flag("--upstream"))).or(variable)?;
    Some(match Url::parse(&text) {
        Ok(url) => Ok((url, source)),
        Err(reason) => {
            let problem = Problem::new(source, "upstream", reason);
            problems.push(problem.with_value(format!("{:?}", url::redacted(&text))));
            Err(())
        }
    })
}

/// An upstream is two databases: the one it names, and the fallback that passes on the name the client gives.
/// Where they are is no longer what the file says; its other keys hold.
fn write_databases(url: &Url, source: &Source, ledger: &mut Ledger) {
    let named = url.dbname.clone().map(|name| (name, url.clone()));
    for (name, url) in [(FALLBACK.to_owned(), url.for_any_database())].into_iter().chain(named) {
        for key in ["host", "port", "url"] {
            ledger.erase(Section::Databases, &name, key);
        }
        let place = Place { section: Section::Databases, name, key: "url" };
        ledger.write(place, Value::Url(Box::new(url)), source.clone());
    }
    if let Some(user) = &url.user {
        ledger.declare(Section::Users, user, source.clone());
    }
}

/// The user of an upstream may log in to us with the same password, unless one is written for it.
fn write_user(url: &Url, source: &Source, ledger: &mut Ledger) {
    let (Some(user), Some(password)) = (&url.user, &url.password) else {
        return;
    };
    let is_written = |key| ledger.source(Section::Users, user, key).is_some();
    if !is_written("password") && !is_written("password_file") {
        let place = Place { section: Section::Users, name: user.clone(), key: "password" };
        ledger.write(place, Value::Secret(password.clone()), source.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Secret;
    use crate::pool::{Host, PasswordSource};
    use crate::session::{IdentitySettings, Missing, Mode};

    /// A place where the files are these: `/etc/pgusher.toml` and whatever else is given.
    fn surroundings(file: &str, others: &[(&str, &str)], variables: &[(&str, &str)]) -> Surroundings {
        let own = |(a, b): &(&str, &str)| (PathBuf::from(a), b.as_bytes().to_vec());
        let mut files: BTreeMap<PathBuf, Vec<u8>> = others.iter().map(own).collect();
        files.insert(FILE.into(), file.into());
        let read = move |path: &Path| files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into());
        Surroundings {
            environment: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            read_file: Box::new(read),
        }
    }

    fn flags() -> Flags {
        Flags { config: Some(FILE.into()), ..Flags::default() }
    }

    fn load(file: &str) -> Result<Config, Problems> {
        Config::load(&flags(), &surroundings(file, &[], &[]))
    }

    fn loaded(variables: &[(&str, &str)]) -> Result<Config, Problems> {
        Config::load(&Flags::default(), &surroundings("", &[], variables))
    }

    fn entry<'a>(config: &'a Config, name: &str) -> &'a proxy::DatabaseEntry {
        config.databases.iter().find(|entry| entry.name == name).unwrap()
    }

    #[test]
    fn an_upstream_alone_is_enough() {
        let config =
            loaded(&[("PGUSHER_UPSTREAM", "postgres://app:pw@db:5433,db2/shop?sslmode=prefer")]).unwrap();

        let hosts =
            vec![Host::Tcp { host: "db".into(), port: 5433 }, Host::Tcp { host: "db2".into(), port: 5432 }];
        assert_eq!(config.databases.len(), 2);
        for (name, dbname) in [("*", None), ("shop", Some("shop".to_owned()))] {
            let upstream = &entry(&config, name).upstream;
            assert_eq!((&upstream.hosts, &upstream.dbname), (&hosts, &dbname));
            assert_eq!(upstream.user.as_deref(), Some("app"));
            assert_eq!(upstream.password, PasswordSource::Given(Secret::from("pw")));
        }
        assert_eq!(config.users[0].name, "app");
        assert_eq!(config.users[0].secret, Some(Secret::from("pw")));
        assert_eq!(config.workers, 1);
        assert_eq!(config.net, net::Settings::default());
    }

    #[test]
    fn the_environment_beats_the_file_and_flags_beat_both() {
        let file = "[pool]\nsize = 5\nmode = \"session\"\nacquire_timeout = \"1s\"\n\
                    [databases.a]\nhost = \"h\"\n[users.u]\npassword = \"p\"\n";
        let variables =
            [("PGUSHER_POOL_SIZE", "6"), ("PGUSHER_POOL_MODE", "statement"), ("DATABASE_POOL_MAX", "9")];
        let flags = Flags { pool_size: Some("7".into()), ..flags() };

        let config = Config::load(&flags, &surroundings(file, &[], &variables)).unwrap();

        let entry = entry(&config, "a");
        assert_eq!(entry.pool.size, 7);
        assert_eq!(entry.rules.mode, Mode::Statement);
        assert_eq!(entry.pool.acquire_timeout, Duration::from_secs(1));
    }

    #[test]
    fn a_file_given_as_a_flag_beats_the_variable() {
        let others = surroundings("", &[("/other", "nonsense")], &[("PGUSHER_CONFIG", "/other"), UPSTREAM]);

        assert!(Config::load(&flags(), &others).is_ok());
    }

    #[test]
    fn a_database_overrides_the_pool_and_its_keys_override_its_url() {
        let file = r#"
            [identity]
            variable = "app.uid"
            [pool]
            size = 10
            min = 4
            max_servers = 50
            [databases.a]
            url = "postgres://u:p@h/x?connect_timeout=7&options=-c%20jit%3Don%20-c%20work_mem%3D1MB"
            user = "v"
            dbname = "y"
            size = 3
            identity = "off"
            settings = { jit = "off", "app.x" = 1 }
            statement_timeout = "5s"
            [databases."*"]
            host = ["h1", "h2:1", "/run"]
            port = 9
            password_file = "/p"
            [users.u]
            password = "p"
            size = 2
            mode = "session"
            "#;

        let config = Config::load(&flags(), &surroundings(file, &[("/p", "x")], &[])).unwrap();

        let (a, fallback) = (entry(&config, "a"), entry(&config, "*"));
        assert_eq!((a.upstream.user.as_deref(), a.upstream.dbname.as_deref()), (Some("v"), Some("y")));
        let settings: Vec<_> = a.upstream.settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [("work_mem", "1MB"), ("jit", "off"), ("app.x", "1"), ("statement_timeout", "5000ms")];
        assert_eq!(settings, expected);
        assert_eq!((a.pool.size, a.pool.min, a.pool.connect_timeout.as_secs()), (3, 3, 7));
        assert!(!a.rules.identity.enabled && fallback.rules.identity.enabled);
        assert_eq!(fallback.rules.identity.variable, "app.uid");
        assert_eq!((fallback.pool.size, fallback.pool.min), (10, 4));
        assert_eq!(
            fallback.upstream.hosts,
            [
                Host::Tcp { host: "h1".into(), port: 9 },
                Host::Tcp { host: "h2".into(), port: 1 },
                Host::Unix { directory: "/run".into(), port: 9 },
            ]
        );
        assert_eq!(config.max_servers, Some(50));
        assert_eq!((config.users[0].size, config.users[0].mode), (Some(2), Some(Mode::Session)));
    }

    #[test]
    fn the_identity_is_the_users_then_the_databases_then_everybodys() {
        let file = r#"
            [identity]
            variables = { "app.tenant_id" = "any" }
            [databases.own]
            host = "h"
            identity_missing = "deny"
            [databases.shared]
            url = "postgres://app:p@h"
            identity_variables = {}
            [users.u]
            password = "p"
            identity_missing = "empty"
            identity_variable = "app.me"
            "#;
        let variables =
            [("PGUSHER_DATABASES_OWN_IDENTITY_STRICT", "on"), ("PGUSHER_USERS_V_IDENTITY", "off")];

        let config = Config::load(&flags(), &surroundings(file, &[], &variables)).unwrap();

        let (own, shared) = (entry(&config, "own"), entry(&config, "shared"));
        let said = |identity: &IdentitySettings| identity.said().collect::<Vec<_>>().join(" ");
        assert_eq!((own.rules.identity.missing, own.rules.identity.strict), (Missing::Deny, true));
        assert_eq!((own.identities["u"].missing, own.identities["u"].strict), (Missing::Empty, true));
        assert_eq!(said(&own.rules.identity), "app.current_user_id app.tenant_id");
        assert_eq!(said(&own.identities["u"]), "app.me app.tenant_id");
        assert_eq!(said(&own.identities["v"]), "");
        // Those who share servers empty each other's variables.
        assert_eq!(said(&shared.rules.identity), "app.current_user_id app.me");
        assert_eq!(said(&shared.identities["u"]), "app.me app.current_user_id");
        assert_eq!(said(&shared.identities["v"]), "app.current_user_id app.me");
    }

    #[test]
    fn a_variable_is_not_stated_twice() {
        let file = "[identity]\nvariables = { \"App.Current_User_Id\" = \"any\" }\n[databases.a]\nhost = \"h\"\n\
                    [users.u]\npassword = \"p\"\nidentity_variables = \"x\"\n";

        let problems = load(file).unwrap_err();

        let found: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(found, ["identity.variables", "users.u.identity_variables"]);
    }

    #[test]
    fn everything_wrong_is_reported_at_once() {
        let file = r#"
[listen]
address = "nowhere"
unix_socket_mode = 777
auth_file = "/userlist"
[pool]
size = "lots"
min = 3.5
lifetime = "5 weeks"
retained = "64k"
mode = "statment"
modee = "session"
[identity]
variable = "user"
[log]
level = "a=b=c"
[databases.a]
size = 1
[databases.b]
host = "h"
url = "postgres://u:hunter2@h"
password = "hunter2"
password_file = "/gone"
settings = { jit = "off", "app.current_user_id" = "1", user = "x" }
[databases.c]
url = "postgres://u:hunter2@h/d?sslmode=required"
size = 2
min = 9
[users.u]
password = 4242
password_file = "/gone"
min = 3
size = 2
"#;
        let variables = [("PGUSHER_WORKERS", "0"), ("PGUSHER_HUNTER", "hunter2")];
        let flags = Flags { log_format: Some("xml".into()), ..flags() };
        let userlist = [("/userlist", "\"u\" \"hunter2\nv \"x\"\n")];

        let problems = Config::load(&flags, &surroundings(file, &userlist, &variables)).unwrap_err();

        let found: Vec<_> =
            problems.iter().map(|problem| format!("{} {}", problem.source, problem.key)).collect();
        assert_eq!(
            found,
            [
                "/etc/pgusher.toml:3 listen.address",
                "/etc/pgusher.toml:4 listen.unix_socket_mode",
                "/etc/pgusher.toml:7 pool.size",
                "/etc/pgusher.toml:8 pool.min",
                "/etc/pgusher.toml:9 pool.lifetime",
                "/etc/pgusher.toml:10 pool.retained",
                "/etc/pgusher.toml:11 pool.mode",
                "/etc/pgusher.toml:12 pool.modee",
                "/etc/pgusher.toml:14 identity.variable",
                "/etc/pgusher.toml:16 log.level",
                "/etc/pgusher.toml:17 databases.a",
                "/etc/pgusher.toml:20 databases.b.host",
                "/etc/pgusher.toml:23 databases.b.password_file",
                "/etc/pgusher.toml:23 databases.b.password_file",
                "/etc/pgusher.toml:24 databases.b.settings",
                "/etc/pgusher.toml:26 databases.c.url",
                "/etc/pgusher.toml:28 databases.c.min",
                "/etc/pgusher.toml:30 users.u.password",
                "/etc/pgusher.toml:31 users.u.password_file",
                "/etc/pgusher.toml:31 users.u.password_file",
                "/etc/pgusher.toml:32 users.u.min",
                "/userlist:1 ",
                "/userlist:2 ",
                "--log-format log.format",
                "PGUSHER_HUNTER ",
                "PGUSHER_WORKERS listen.workers",
            ]
        );
        let text = problems.to_string();
        assert!(!text.contains("hunter2") && !text.contains("4242"), "{text}");
        assert!(text.contains("pool.size = \"lots\""), "{text}");
        assert!(text.contains("did you mean mode?"), "{text}");
        assert!(text.ends_with("26 problems with the configuration"), "{text}");
    }

    #[test]
    fn an_auth_query_is_whole_or_refused() {
        let file = |keys: &str| format!("[databases.\"*\"]\nhost = \"h\"\n{keys}\n");
        let keys = "auth_user = \"a\"\nauth_dbname = \"d\"\nauth_password = \"p\"\nauth_ttl = \"9s\"";
        let config = load(&file(keys)).unwrap();

        let asked = entry(&config, "*").auth_query.clone().unwrap();
        assert_eq!((asked.user.as_str(), asked.dbname.as_deref()), ("a", Some("d")));
        assert_eq!(asked.password, PasswordSource::Given(Secret::from("p")));
        assert_eq!((asked.ttl.as_secs(), asked.negative_ttl.as_secs()), (9, 5));
        for (keys, key) in [
            ("auth_user = \"a\"", "auth_user"),
            ("auth_dbname = \"a\"\n[users.u]\npassword = \"p\"", "auth_dbname"),
            ("auth_user = \"a\"\ndbname = \"d\"\nauth_query = \"select 1\"", "auth_query"),
            (
                "auth_user = \"a\"\ndbname = \"d\"\nauth_password = \"hunter2\"\nauth_password_file = \"/p\"",
                "auth_password_file",
            ),
        ] {
            let problems =
                Config::load(&flags(), &surroundings(&file(keys), &[("/p", "x")], &[])).unwrap_err();
            let found: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
            assert_eq!(found, [format!("databases.\"*\".{key}")], "{problems}");
            assert!(!problems.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_password_comes_from_one_place() {
        let load = |keys: &str| {
            let file =
                format!("[databases.a]\nhost = \"h\"\ndbname = \"d\"\n{keys}\n[users.u]\npassword = \"p\"\n");
            Config::load(&flags(), &surroundings(&file, &[("/p", "x")], &[]))
        };
        let config = load(
            "password_command = [\"/bin/agent\", \"--for\", \"\", \"the db\"]\npassword_ttl = \"off\"\n\
             auth_user = \"u\"\nauth_password_command = [\"agent\"]\npassword_timeout = \"3s\"",
        )
        .unwrap();
        let words = |source: &PasswordSource| match source {
            PasswordSource::Command(command) => {
                assert_eq!((command.ttl, command.timeout), (None, Duration::from_secs(3)));
                [&command.program]
                    .into_iter()
                    .chain(&command.arguments)
                    .map(|word| word.to_string())
                    .collect()
            }
            other => vec![format!("{other:?}")],
        };
        let (own, asked) = (&entry(&config, "a").upstream, entry(&config, "a").auth_query.clone().unwrap());
        assert_eq!(words(&own.password), ["/bin/agent", "--for", "", "the db"]);
        assert_eq!(words(&asked.password), ["agent"]);
        let of_variable = [UPSTREAM, ("PGUSHER_DATABASES_FALLBACK_PASSWORD_COMMAND", " agent  --for shop")];
        let config = loaded(&of_variable).unwrap();
        assert!(matches!(&entry(&config, "*").upstream.password, PasswordSource::Command(command)
            if *command.program == *"agent" && command.arguments.len() == 2));

        for (keys, key) in [
            ("password = \"x\"\npassword_command = [\"hunter2\"]", "password_command"),
            ("password_file = \"/p\"\npassword_command = [\"hunter2\"]", "password_command"),
            (
                "auth_user = \"u\"\nauth_password_file = \"/p\"\nauth_password_command = [\"hunter2\"]",
                "auth_password_command",
            ),
            ("password_command = \"hunter2 with words\"", "password_command"),
            ("password_command = [\"\", \"hunter2\"]", "password_command"),
            ("password_command = [\"hunter2\", 1]", "password_command"),
            ("password_ttl = \"1m\"", "password_ttl"),
            ("password_timeout = \"1m\"\npassword_file = \"/p\"", "password_timeout"),
        ] {
            let problems = load(keys).unwrap_err();
            let found: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
            assert_eq!(found, [format!("databases.a.{key}")], "{keys}: {problems}");
            assert!(!problems.to_string().contains("hunter2"), "{problems}");
        }
    }

    #[test]
    fn rules_are_read_as_lines_and_everything_wrong_with_them_is_said() {
        let lines = |rules: &str, maps: &str| {
            load(&format!("[listen]\nrules = [{rules}]\nmaps = [{maps}]\n[databases.a]\nhost = \"h\"\n"))
        };
        let config =
            lines("\"local all all peer map=m\", \"host all all all reject\"", "\"m root app\"").unwrap();
        let (rules, maps) = (&config.proxy.rules, &config.proxy.maps);
        assert_eq!((rules.len(), maps.len()), (2, 1));
        let variables = [
            UPSTREAM,
            ("PGUSHER_LISTEN_RULES", "host a,b all all md5; local all all peer map=m"),
            ("PGUSHER_LISTEN_MAPS", "m root app"),
        ];
        assert_eq!(loaded(&variables).unwrap().proxy.rules.len(), 2);

        let said = lines("\"hots all all all md5\", \"local all all pear\", \"host all all db md5\"", "")
            .unwrap_err()
            .to_string();
        for words in [
            "rule 1, \"hots\"",
            "did you mean host?",
            "rule 2, \"pear\"",
            "did you mean peer?",
            "rule 3, \"db\"",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let said = lines("\"local all all peer map=mm\"", "\"m root app\"").unwrap_err().to_string();
        assert!(said.contains("map=mm has no line in listen.maps"), "{said}");
        let said = lines("\"host all all all md5\"", "").unwrap_err().to_string();
        assert!(said.contains("no client could log in"), "{said}");
    }

    #[test]
    fn what_is_missing_is_said_with_how_to_give_it() {
        let problems = loaded(&[]).unwrap_err().to_string();

        assert!(problems.contains("PGUSHER_UPSTREAM"), "{problems}");
        assert!(problems.contains("no client could log in"), "{problems}");
        assert!(loaded(&[("PGUSHER_UPSTREAM", "postgres://h/d"), ("PGUSHER_AUTH", "trust")]).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_blamed_for_what_it_may_say() {
        let gone = Flags { config: Some("/gone".into()), ..Flags::default() };
        for flags in [gone, Flags { upstream: Some("nonsense".into()), ..Flags::default() }] {
            let problems = Config::load(&flags, &surroundings("", &[], &[])).unwrap_err();
            assert_eq!(problems.iter().count(), 1, "{problems}");
        }
        assert_eq!(load("[databases.a]\nhost = oops\n").unwrap_err().iter().count(), 1);
    }

    #[test]
    fn passwords_come_from_files_without_their_line_end() {
        let file = "[databases.a]\nhost = \"h\"\npassword_file = \"/p\"\n[users.u]\npassword_file = \"/p\"\n";

        let config = Config::load(&flags(), &surroundings(file, &[("/p", "a b\r\nrest\n")], &[])).unwrap();

        assert_eq!(config.users[0].secret, Some(Secret::from("a b")));
        assert_eq!(entry(&config, "a").upstream.password, PasswordSource::File("/p".into()));
    }

    #[test]
    fn an_upstream_replaces_the_whereabouts_in_the_file_and_nothing_else() {
        let file = "[databases.\"*\"]\nhost = \"old\"\nport = 1\nsize = 3\n[users.app]\npassword = \"own\"\n";
        let variables = [("PGUSHER_UPSTREAM", "postgres://app:pw@new/shop")];

        let config = Config::load(&flags(), &surroundings(file, &[], &variables)).unwrap();

        let fallback = entry(&config, "*");
        assert_eq!(fallback.upstream.hosts, [Host::Tcp { host: "new".into(), port: 5432 }]);
        assert_eq!(fallback.pool.size, 3);
        assert_eq!(config.users[0].secret, Some(Secret::from("own")));
    }

    #[test]
    fn databases_and_users_can_live_in_the_environment_alone() {
        let config = loaded(&[
            ("PGUSHER_DATABASES_SHOP_HOST", "/run/postgresql,db2"),
            ("PGUSHER_DATABASES_SHOP_SETTINGS", "-c jit=off"),
            ("PGUSHER_DATABASES_SHOP_MAX_CLIENTS", "unlimited"),
            ("PGUSHER_USERS_APP_PASSWORD", "a,b # c"),
            ("PGUSHER_IDENTITY_EXEMPT", "migrator, admin"),
        ])
        .unwrap();

        let shop = entry(&config, "shop");
        assert_eq!(shop.upstream.hosts.len(), 2);
        assert_eq!(shop.upstream.settings, [("jit".into(), "off".into())]);
        assert_eq!(shop.rules.identity.exempt, ["migrator", "admin"]);
        assert_eq!(config.users[0].secret, Some(Secret::from("a,b # c")));
    }

    #[test]
    fn the_debug_of_a_configuration_has_no_secret() {
        let variables = [("PGUSHER_UPSTREAM", "postgres://app:hunter2@h/d")];

        assert!(!format!("{:?}", loaded(&variables)).contains("hunter2"));
        assert!(!format!("{:?}", surroundings("", &[], &variables)).contains("hunter2"));
    }

    const UPSTREAM: (&str, &str) = ("PGUSHER_UPSTREAM", "postgres://u:p@h/d");
    const FILE: &str = "/etc/pgusher.toml";
}
