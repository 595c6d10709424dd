//! PgBouncer's words in ours.
//!
//! # Promises
//! - What holds for every database or user in PgBouncer and has no such place here is written for each.
//! - The outcome is held against [`Config`]: what pgusher would refuse is an error here already.
//!
//! # Refuses
//! To guess: what a value of PgBouncer means is what its source does with it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::auth::userlist;
use crate::auth::{Secret, Verifier};
use crate::cli::Flags;
use crate::config::{Config, Surroundings};
use crate::import::document::{Item, Table};
use crate::import::ini::{self, Contents, Entry};
use crate::import::pairs;
use crate::import::remark::{Kind, Remarks, Spot};
use crate::import::settings::{DATABASES, NO_PEERS, PEERS, PGBOUNCER, Settings, USERS};

/// What is translated, and how files are read.
pub struct Sources<'a> {
    /// PgBouncer's configuration.
    pub ini: &'a Path,
    /// Its `auth_file`, if passwords and names may be taken from it.
    pub userlist: Option<&'a Path>,
    /// Reads the whole of a file.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct Imported {
    /// Our configuration, passwords included; `None` if PgBouncer's was not understood.
    pub toml: Option<String>,
    /// What an operator must know.
    pub remarks: Remarks,
}

/// Translates a configuration of PgBouncer.
pub fn import(sources: &Sources<'_>) -> Imported {
    let mut remarks = Remarks::default();
    let contents = ini::read(sources.ini, sources.read_file, &mut remarks);
    let userlist = sources.userlist.map(|path| Userlist::read(path, sources.read_file, &mut remarks));
    let start = Spot { file: sources.ini.to_owned(), line: 0 };
    let translation = Translation {
        settings: pgbouncer(&contents, &start, &mut remarks),
        userlist,
        start,
        remarks: &mut remarks,
    };
    let tables = translation.tables(&contents.entries);
    if remarks.has_errors() {
        remarks.sort();
        return Imported { toml: None, remarks };
    }
    let mut toml = HEADER.to_owned();
    for table in tables {
        toml += &format!("\n{table}");
    }
    hold_against_config(&toml, sources.ini, &mut remarks);
    remarks.sort();
    Imported { toml: Some(toml), remarks }
}

/// `[pgbouncer]`, and what is wrong with sections as such.
fn pgbouncer(contents: &Contents, start: &Spot, remarks: &mut Remarks) -> Settings {
    for (spot, name) in contents.sections.iter().filter(|(_, name)| !SECTIONS.contains(&&**name)) {
        remarks.add(Kind::Error, spot, format!("[{name}]"), "PgBouncer has no such section");
    }
    if contents.sections.iter().all(|(_, name)| name != "pgbouncer") {
        remarks.add(Kind::Error, start, "", "the section [pgbouncer] is missing");
    }
    let own = contents.entries.iter().filter(|entry| entry.section == "pgbouncer");
    let own = own.map(|entry| (&entry.spot, &*entry.key, &*entry.value));
    Settings::read(PGBOUNCER, None, own, remarks)
}

/// What we would say to the outcome. Files it names need not be on this machine.
fn hold_against_config(toml: &str, ini: &Path, remarks: &mut Remarks) {
    let text = toml.to_owned();
    let read_file = move |path: &Path| {
        Ok(if path == Path::new(OUTCOME) { text.clone().into_bytes() } else { Vec::new() })
    };
    let surroundings = Surroundings { environment: BTreeMap::new(), read_file: Box::new(read_file) };
    let flags = Flags { config: Some(OUTCOME.into()), ..Flags::default() };
    if let Err(problems) = Config::load(&flags, &surroundings) {
        let spot = Spot { file: ini.to_owned(), line: 0 };
        let is_about_a_file = |key: &str| {
            TLS_FILES.iter().any(|file| key.strip_suffix(file).is_some_and(|rest| rest.starts_with("tls.")))
        };
        for problem in problems.iter().filter(|problem| !is_about_a_file(&problem.key)) {
            remarks.add(Kind::Error, &spot, problem.key.as_str(), problem.reason.as_str());
        }
    }
}

/// The users of `auth_file`, and what they must know.
struct Userlist {
    path: PathBuf,
    users: BTreeMap<String, Secret>,
}

impl Userlist {
    fn read(path: &Path, read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>, remarks: &mut Remarks) -> Self {
        let mut users = BTreeMap::new();
        match read_file(path).map(|bytes| userlist::parse(&bytes)) {
            Err(error) => {
                let spot = Spot { file: path.to_owned(), line: 0 };
                remarks.add(Kind::Error, &spot, "", format!("it cannot be read: {error}"));
            }
            Ok(Err(broken)) => {
                for broken in broken {
                    let spot = Spot { file: path.to_owned(), line: broken.line };
                    remarks.add(Kind::Error, &spot, "", broken.cause.to_string());
                }
            }
            Ok(Ok(listed)) => {
                let text = |name: Vec<u8>| String::from_utf8(name).ok();
                users.extend(listed.into_iter().filter_map(|(name, secret)| Some((text(name)?, secret))));
            }
        }
        Self { path: path.to_owned(), users }
    }
}

struct Translation<'a> {
    settings: Settings,
    userlist: Option<Userlist>,
    start: Spot,
    remarks: &'a mut Remarks,
}

impl Translation<'_> {
    /// Everything, in the order of `config/pgusher.toml`.
    fn tables(mut self, entries: &[Entry]) -> Vec<Table> {
        let mut tables = vec![self.listen()];
        tables.extend([self.tls_client(), self.tls_server()].into_iter().filter(|table| !table.is_empty()));
        tables.push(self.pool());
        let (mut databases, mut forced) = (BTreeMap::new(), Vec::new());
        let mut users = BTreeMap::new();
        for entry in entries {
            match entry.section.as_str() {
                "databases" => {
                    let Some(written) = self.written(entry) else { continue };
                    forced.extend(written.given("user").map(str::to_owned));
                    databases.insert(entry.key.clone(), self.database(entry, &written));
                }
                "users" => {
                    let Some(written) = self.written(entry) else { continue };
                    users.insert(entry.key.clone(), self.user(entry, &written));
                }
                "peers" if self.written(entry).is_some() => {
                    self.remarks.add(Kind::Lost, &entry.spot, format!("[peers] {}", entry.key), NO_PEERS);
                }
                _ => {}
            }
        }
        self.add_other_users(forced, &mut users);
        tables.extend(databases.into_values());
        tables.extend(users.into_values().filter(|table| !table.is_empty()));
        tables.push(identity());
        tables.extend(Some(self.admin()).filter(|table| !table.is_empty()));
        tables.push(self.log());
        tables
    }

    /// The pairs of an entry, if they can be read.
    fn written(&mut self, entry: &Entry) -> Option<Settings> {
        let keys = match entry.section.as_str() {
            "databases" => DATABASES,
            "users" => USERS,
            _ => PEERS,
        };
        let subject = format!("[{}] {}", entry.section, entry.key);
        if entry.section == "databases" && entry.key == "pgbouncer" {
            self.remarks.add(Kind::Error, &entry.spot, subject, "the name is reserved for the console");
            return None;
        }
        match pairs::read(&entry.value) {
            Ok(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| (&entry.spot, &**key, &**value));
                Some(Settings::read(keys, Some(&entry.key), pairs, self.remarks))
            }
            Err(reason) => {
                self.remarks.add(Kind::Error, &entry.spot, subject, reason);
                None
            }
        }
    }

    fn listen(&mut self) -> Table {
        let mut table = Table::section("listen");
        let address = self.addresses();
        table.set("address", address);
        match self.settings.text("unix_socket_dir").to_owned() {
            directory if directory.starts_with('@') => {
                self.lose("unix_socket_dir", "sockets are files, not in the abstract namespace");
            }
            directory if directory.is_empty() => {}
            directory => {
                table.set("unix_socket_dir", directory);
                let mode = self.settings.number("unix_socket_mode") & 0o777;
                table.set("unix_socket_mode", format!("{mode:04o}"));
            }
        }
        if self.settings.spot("listen_backlog").is_some() {
            let backlog = self.at_most("listen_backlog", 1, 65_535);
            table.set("backlog", backlog);
        }
        let idle = self.settings.number("tcp_keepidle");
        match self.settings.number("tcp_keepalive") {
            0 => table.set("keepalive", "off"),
            _ if idle > 0 => table.set("keepalive", format!("{idle}s")),
            _ => {}
        }
        if let Some(limit) = self.settings.count("tcp_user_timeout").filter(|limit| *limit > 0) {
            table.set("tcp_user_timeout", format!("{limit}ms"));
        }
        let clients = self.at_most("max_client_conn", 1, MOST_CLIENTS);
        table.set_because("max_clients", clients, self.why("max_client_conn"));
        let auth = self.auth();
        table.set_because("auth", auth, self.why("auth_type"));
        if let Some(path) = self.auth_file() {
            table.set("auth_file", path);
        }
        let limit = at_least_something(self.settings.micros("client_login_timeout"));
        table.set_because("login_timeout", limit, self.why("client_login_timeout"));
        if let micros @ 1.. = self.settings.micros("client_idle_timeout") {
            table.set("client_idle_timeout", span(micros));
        }
        let ignored = self.ignored();
        if !ignored.is_empty() {
            table.set("ignore_startup_parameters", Item::Texts(ignored));
        }
        table
    }

    fn addresses(&mut self) -> Vec<String> {
        let port = match self.settings.number("listen_port") {
            port @ 1..=65_535 => port,
            _ => {
                self.fail("listen_port", "expected a port");
                6432
            }
        };
        let written = self.settings.text("listen_addr").to_owned();
        let mut addresses = Vec::new();
        for address in written.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            match address {
                "*" => {
                    self.change("listen_addr", "all addresses of IPv4; for IPv6 add \"[::]:<port>\"");
                    addresses.push(format!("*:{port}"));
                }
                "localhost" => addresses.push(format!("localhost:{port}")),
                address => match address.parse::<core::net::IpAddr>() {
                    Ok(core::net::IpAddr::V6(address)) => addresses.push(format!("[{address}]:{port}")),
                    Ok(core::net::IpAddr::V4(address)) => addresses.push(format!("{address}:{port}")),
                    Err(_) => {
                        self.lose("listen_addr", "an address to listen on is a number, `localhost` or `*`")
                    }
                },
            }
        }
        if written.is_empty() {
            let why = "PgBouncer listened on its unix socket alone; pgusher listens on the loopback too";
            self.remarks.add(Kind::Changed, &self.start, "listen_addr", why);
        }
        if addresses.is_empty() {
            addresses.push(format!("127.0.0.1:{port}"));
        }
        addresses
    }

    fn auth(&mut self) -> &'static str {
        let lost = "clients log in with a password here: the nearest is scram-sha-256";
        match self.settings.text("auth_type") {
            "any" => {
                self.change(
                    "auth_type",
                    "every user name is let in, and is one's own where a database has no `user`",
                );
                "trust"
            }
            "cert" => "cert",
            "md5" => "md5",
            "plain" => "password",
            "scram-sha-256" => "scram-sha-256",
            "trust" => {
                self.change("auth_type", "every user name is let in, also one that auth_file does not have");
                "trust"
            }
            _ => {
                self.lose("auth_type", lost);
                "scram-sha-256"
            }
        }
    }

    /// By the path PgBouncer has for it, which is where it will be.
    fn auth_file(&self) -> Option<String> {
        let given = || Some(self.userlist.as_ref()?.path.display().to_string());
        self.settings.given("auth_file").map(str::to_owned).or_else(given)
    }

    fn ignored(&mut self) -> Vec<String> {
        let written = self.settings.text("ignore_startup_parameters").to_owned();
        let names = written.split(',').map(str::trim).filter(|name| !name.is_empty());
        let (options, names): (Vec<_>, Vec<_>) =
            names.map(str::to_owned).partition(|name| name.eq_ignore_ascii_case("options"));
        if !options.is_empty() {
            let why = "settings in `options` are not ignored but follow their client";
            self.change("ignore_startup_parameters", why);
        }
        names
    }

    fn pool(&mut self) -> Table {
        let mut table = Table::section("pool");
        table.set_because("mode", self.settings.text("pool_mode"), self.why("pool_mode"));
        let size = self.settings.number("default_pool_size");
        let size = self.size(size, "default_pool_size");
        table.set("size", size);
        let min = self.settings.number("min_pool_size").clamp(0, size);
        table.set_because("min", min, self.why("min_pool_size"));
        let delay = self.settings.micros("reserve_pool_timeout");
        match self.settings.number("reserve_pool_size").clamp(0, MOST_SERVERS) {
            reserve @ 1.. if delay > 0 => {
                table.set("reserve", reserve);
                table.set("reserve_timeout", span(delay));
            }
            1.. => self.change("reserve_pool_timeout", "0 is no reserve in PgBouncer, so there is none"),
            _ if self.settings.spot("reserve_pool_timeout").is_some() && delay > 0 => {
                table.set("reserve_timeout", span(delay));
            }
            _ => {}
        }
        let wait = at_least_something(self.settings.micros("query_wait_timeout"));
        table.set_because("acquire_timeout", wait, self.why("query_wait_timeout"));
        let idle = period(self.settings.micros("server_idle_timeout"));
        table.set_because("idle_timeout", idle, self.why("server_idle_timeout"));
        match self.settings.micros("server_lifetime") {
            0 => table.set_because("max_uses", 1, ONCE),
            lifetime => table.set("lifetime", span(lifetime)),
        }
        let limit = at_least_something(self.settings.micros("server_connect_timeout"));
        table.set_because("connect_timeout", limit, self.why("server_connect_timeout"));
        let delay = self.settings.micros("server_check_delay");
        match self.settings.text("server_check_query").to_owned().as_str() {
            "" => table.set("check_delay", "off"),
            query => {
                table.set("check_delay", if delay == 0 { "0s".to_owned() } else { span(delay) });
                if query != "<empty>" {
                    self.remark(
                        Kind::Needless,
                        "server_check_query",
                        "a server is asked for a sign of life without a query",
                    );
                }
            }
        }
        let statements = self.at_most("max_prepared_statements", 0, 100_000);
        table.set("server_statements", statements);
        for (key, ours) in [
            ("query_timeout", "query_timeout"),
            ("transaction_timeout", "transaction_timeout"),
            ("idle_transaction_timeout", "idle_transaction_timeout"),
        ] {
            if let micros @ 1.. = self.settings.micros(key) {
                table.set(ours, span(micros));
            }
        }
        table
    }

    /// How clients are encrypted; nothing if they are not.
    fn tls_client(&mut self) -> Table {
        let mut table = Table::section("tls.client");
        let mode = self.settings.text("client_tls_sslmode").to_owned();
        if mode == "disable" {
            return table;
        }
        let verifies = mode.starts_with("verify");
        // PgBouncer's verify-full looks at no name either.
        table.set("mode", if verifies { "verify-ca".to_owned() } else { mode });
        for (key, ours) in [("client_tls_cert_file", "cert_file"), ("client_tls_key_file", "key_file")] {
            if let Some(path) = self.settings.given(key) {
                table.set(ours, path);
            }
        }
        match self.settings.given("client_tls_ca_file") {
            Some(path) if verifies => table.set("ca_file", path),
            Some(_) => self
                .lose("client_tls_ca_file", "with it, a certificate that a client shows would be verified"),
            None => {}
        }
        if self.speaks_only_the_newest("client_tls_protocols") {
            table.set("min_version", "TLSv1.3");
        }
        table
    }

    /// How servers are encrypted; nothing if it is the default of both.
    fn tls_server(&mut self) -> Table {
        let mut table = Table::section("tls.server");
        let mode = self.settings.text("server_tls_sslmode").to_owned();
        let believes_the_system =
            mode.starts_with("verify") && self.settings.given("server_tls_ca_file").is_none();
        match mode.as_str() {
            "prefer" => {}
            _ if believes_the_system => table.set("sslmode", "verify-full"),
            mode => table.set("sslmode", mode),
        }
        if mode == "disable" {
            return table;
        }
        match (self.settings.given("server_tls_ca_file"), mode.starts_with("verify")) {
            (Some(path), true) => table.set("sslrootcert", path),
            (Some(_), false) => self.lose("server_tls_ca_file", "with it, pgusher verifies in this mode too"),
            (None, true) => {
                self.change(
                    "server_tls_sslmode",
                    "the CAs are those of the machine: only verify-full will do",
                );
                table.set("sslrootcert", "system");
            }
            (None, false) => {}
        }
        for (key, ours) in [("server_tls_cert_file", "sslcert"), ("server_tls_key_file", "sslkey")] {
            if let Some(path) = self.settings.given(key) {
                table.set(ours, path);
            }
        }
        if self.speaks_only_the_newest("server_tls_protocols") {
            table.set("ssl_min_protocol_version", "TLSv1.3");
        }
        table
    }

    fn speaks_only_the_newest(&mut self, key: &'static str) -> bool {
        let written = self.settings.text(key).to_owned();
        let has_old = ["all", "legacy", "tlsv1.0", "tlsv1.1"];
        if written.split([',', ':']).any(|version| has_old.contains(&version.trim())) {
            self.change(key, "TLS 1.2 is the oldest version spoken");
        }
        written.trim() == "tlsv1.3"
    }

    fn database(&mut self, entry: &Entry, written: &Settings) -> Table {
        let mut table = Table::named("databases", &entry.key);
        let hosts = self.hosts(entry, written);
        table.set("host", hosts);
        match written.number("port") {
            5432 => {}
            port @ 1..=65_535 => table.set("port", port),
            _ => self.of_entry(Kind::Error, entry, "port", "expected a port"),
        }
        for key in ["dbname", "user"] {
            if let Some(text) = written.given(key) {
                table.set(key, text);
            }
        }
        self.password(entry, written, &mut table);
        if let Some(name) = written.given("application_name") {
            table.set("application_name", name);
        }
        if self.settings.number("application_name_add_host") != 0 {
            table.set("application_name_add_client", "on");
        }
        let settings = ["client_encoding", "datestyle", "timezone"];
        let settings: Vec<_> = settings
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), written.given(key)?.to_owned())))
            .collect();
        if !settings.is_empty() {
            table.set("settings", Item::Pairs(settings));
        }
        if let Some(sql) = written.given("connect_query") {
            table.set("connect_query", sql);
        }
        self.auth_query(entry, written, &mut table);
        self.pooling(entry, written, &mut table);
        table
    }

    fn hosts(&mut self, entry: &Entry, written: &Settings) -> Vec<String> {
        let Some(text) = written.given("host") else {
            let directory = self.settings.text("unix_socket_dir");
            return vec![if directory.is_empty() { "/tmp".into() } else { directory.to_owned() }];
        };
        let hosts: Vec<_> = text.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
        if hosts.iter().any(|host| host.starts_with('@')) {
            self.of_entry(Kind::Error, entry, "host", "sockets are files, not in the abstract namespace");
        }
        if hosts.len() > 1 && written.text("load_balance_hosts") == "round-robin" {
            let why = "connections do not go to the hosts in turn: the one that answered last is used until it fails";
            self.of_entry(Kind::Changed, entry, "host", why);
        }
        hosts.into_iter().map(str::to_owned).collect()
    }

    /// What servers are logged in with: PgBouncer looks for the password of a `user` in `auth_file`.
    fn password(&mut self, entry: &Entry, written: &Settings, table: &mut Table) {
        let Some(user) = written.given("user") else {
            if written.given("password").is_some() {
                let why = "without a `user` PgBouncer does not use it";
                self.of_entry(Kind::Needless, entry, "password", why);
            }
            return;
        };
        if let Some(password) = written.given("password") {
            return table.set("password", password);
        }
        let Some(userlist) = &self.userlist else {
            let why = "its password is in PgBouncer's auth_file: import that too, or give password_file here";
            return self.of_entry(Kind::Lost, entry, "user", why);
        };
        let secret = userlist.users.get(user);
        match secret.map(|secret| (Verifier::from_secret(secret), std::str::from_utf8(secret.expose()))) {
            Some((Ok(Verifier::Scram(_)), _)) => {
                let why =
                    "auth_file has a SCRAM verifier for it, with which nobody can log in: give password_file";
                self.of_entry(Kind::Lost, entry, "user", why);
            }
            Some((Ok(_), Ok(text))) => table.set_because("password", text, "as in auth_file"),
            _ => {}
        }
    }

    /// Who asks PostgreSQL about users that auth_file does not have.
    fn auth_query(&mut self, entry: &Entry, written: &Settings, table: &mut Table) {
        let given = |key| written.given(key).or_else(|| self.settings.given(key)).map(str::to_owned);
        let (user, query, dbname) = (given("auth_user"), given("auth_query"), given("auth_dbname"));
        let Some(user) = user else { return };
        if entry.key == "*" && dbname.is_none() && written.given("dbname").is_none() {
            let why = "a client must not choose where its password is looked up: give auth_dbname";
            return self.of_entry(Kind::Lost, entry, "auth_user", why);
        }
        let secret = self.userlist.as_ref().and_then(|userlist| userlist.users.get(&user));
        let usable = secret.filter(|secret| !matches!(Verifier::from_secret(secret), Ok(Verifier::Scram(_))));
        let password = usable.and_then(|secret| std::str::from_utf8(secret.expose()).ok()).map(str::to_owned);
        if password.is_none() && (secret.is_some() || self.userlist.is_none()) {
            let why = "carried over without its password, which is in auth_file: give auth_password_file";
            self.of_entry(Kind::Changed, entry, "auth_user", why);
        }
        table.set("auth_user", user);
        if let Some(password) = password {
            table.set_because("auth_password", password, "as in auth_file");
        }
        if let Some(query) = query {
            table.set("auth_query", query);
        }
        if let Some(dbname) = dbname {
            table.set("auth_dbname", dbname);
        }
    }

    /// The limits of a database.
    fn pooling(&mut self, entry: &Entry, written: &Settings, table: &mut Table) {
        let name = format!("[databases] {}: ", entry.key);
        if let Some(mode) = written.given("pool_mode") {
            table.set("mode", mode);
        }
        let own_size = written
            .count("pool_size")
            .map(|size| self.size_at(size, &entry.spot, &format!("{name}pool_size")));
        if let Some(size) = own_size {
            table.set("size", size);
        }
        let size =
            own_size.unwrap_or_else(|| self.settings.number("default_pool_size").clamp(1, MOST_SERVERS));
        if let Some(min) = written.count("min_pool_size") {
            table.set("min", min.min(size));
        }
        let reserve = written.count("reserve_pool_size").or(written.count("reserve_pool"));
        if let Some(reserve) = reserve
            && self.settings.micros("reserve_pool_timeout") > 0
        {
            table.set("reserve", reserve.min(MOST_SERVERS));
        }
        if let Some(seconds) = written.count("query_wait_timeout") {
            table.set("acquire_timeout", at_least_something(seconds.unsigned_abs() * SECOND));
        }
        match (written.count("server_lifetime"), self.settings.micros("server_lifetime")) {
            (Some(0), _) => table.set_because("max_uses", 1, ONCE),
            (Some(seconds), 0) => {
                table.set("lifetime", span(seconds.unsigned_abs() * SECOND));
                table.set("max_uses", "unlimited");
            }
            (Some(seconds), _) => table.set("lifetime", span(seconds.unsigned_abs() * SECOND)),
            (None, _) => {}
        }
        for (key, ours, most) in [
            ("max_db_connections", "max_servers", MOST_SERVERS),
            ("max_db_client_connections", "max_clients", MOST_CLIENTS),
        ] {
            let everywhere = self.settings.number(key);
            if let count @ 1.. = written.count(key).unwrap_or(everywhere) {
                table.set(ours, count.min(most));
            }
        }
    }

    fn user(&mut self, entry: &Entry, written: &Settings) -> Table {
        let mut table = Table::named("users", &entry.key);
        if let Some(mode) = written.given("pool_mode") {
            table.set("mode", mode);
        }
        if let Some(size) = written.count("pool_size") {
            let subject = format!("[users] {}: pool_size", entry.key);
            let size = self.size_at(size, &entry.spot, &subject);
            table.set("size", size);
        }
        self.user_limits(Some(written), &mut table);
        table
    }

    /// `max_user_*`, of the user or of all.
    fn user_limits(&self, written: Option<&Settings>, table: &mut Table) {
        for (key, ours, most) in [
            ("max_user_client_connections", "max_clients", MOST_CLIENTS),
            ("max_user_connections", "max_servers", MOST_SERVERS),
        ] {
            let everywhere = self.settings.number(key);
            let own = written.and_then(|written| written.count(key));
            if let count @ 1.. = own.unwrap_or(everywhere) {
                table.set(ours, count.min(most));
            }
        }
    }

    /// Limits that hold for every user in PgBouncer hold here for each that is known.
    fn add_other_users(&mut self, forced: Vec<String>, users: &mut BTreeMap<String, Table>) {
        let listed = self.userlist.iter().flat_map(|userlist| userlist.users.keys().cloned());
        for name in listed.chain(forced).collect::<Vec<_>>() {
            let mut table = Table::named("users", &name);
            self.user_limits(None, &mut table);
            users.entry(name).or_insert(table);
        }
        for key in ["max_user_connections", "max_user_client_connections"] {
            if self.settings.number(key) > 0 && self.userlist.is_none() {
                let why =
                    "a limit is each user's own: import the userlist too, to have it for all who are in it";
                self.lose(key, why);
            }
        }
    }

    /// Who may use the console; nothing if nobody may.
    fn admin(&self) -> Table {
        let mut table = Table::section("admin");
        for (key, ours) in [("admin_users", "users"), ("stats_users", "readers")] {
            let names = self.settings.text(key).split(',').map(str::trim).filter(|name| !name.is_empty());
            let names: Vec<_> = names.map(str::to_owned).collect();
            if !names.is_empty() {
                table.set(ours, Item::Texts(names));
            }
        }
        table
    }

    fn log(&mut self) -> Table {
        let mut table = Table::section("log");
        match self.settings.number("verbose") {
            ..=0 => {}
            1 => table.set("level", "debug"),
            _ => table.set("level", "trace"),
        }
        let (opened, closed) =
            (self.settings.number("log_connections") != 0, self.settings.number("log_disconnections") != 0);
        if opened != closed {
            self.change("log_disconnections", "connections opened and closed are logged both or neither");
        }
        table.set("connections", if opened || closed { "on" } else { "off" });
        table
    }

    /// A number of `[pgbouncer]` within our bounds.
    fn at_most(&mut self, key: &'static str, least: i64, most: i64) -> i64 {
        let number = self.settings.number(key);
        if !(least..=most).contains(&number) {
            self.change(key, &format!("it is from {least} to {most} here"));
        }
        number.clamp(least, most)
    }

    fn size(&mut self, size: i64, key: &'static str) -> i64 {
        let spot = self.settings.spot(key).unwrap_or(&self.start).clone();
        self.size_at(size, &spot, key)
    }

    /// The size of a pool: 0 is no bound in PgBouncer (`launch_new_connection` in objects.c).
    fn size_at(&mut self, size: i64, spot: &Spot, subject: &str) -> i64 {
        if (1..=MOST_SERVERS).contains(&size) {
            return size;
        }
        let why =
            format!("without a bound in PgBouncer, {MOST_SERVERS} here: set what PostgreSQL has room for");
        self.remarks.add(Kind::Changed, spot, format!("{subject} = {size}"), why);
        MOST_SERVERS
    }

    /// Why a line is there that nobody wrote.
    fn why(&self, key: &str) -> &'static str {
        if self.settings.spot(key).is_some() { "" } else { "PgBouncer's default" }
    }

    fn change(&mut self, key: &'static str, why: &str) {
        self.remark(Kind::Changed, key, why);
    }

    fn fail(&mut self, key: &'static str, why: &str) {
        self.remark(Kind::Error, key, why);
    }

    fn lose(&mut self, key: &'static str, why: &str) {
        self.remark(Kind::Lost, key, why);
    }

    fn remark(&mut self, kind: Kind, key: &'static str, why: &str) {
        let spot = self.settings.spot(key).unwrap_or(&self.start).clone();
        let subject = format!("{key} = {}", self.settings.text(key));
        self.remarks.add(kind, &spot, subject, why);
    }

    /// About a key of an entry; its value may be a secret.
    fn of_entry(&mut self, kind: Kind, entry: &Entry, key: &str, why: &str) {
        let subject = format!("[{}] {}: {key}", entry.section, entry.key);
        self.remarks.add(kind, &entry.spot, subject, why);
    }
}

/// PgBouncer has nothing like it, so nothing of it happens until the operator says so.
fn identity() -> Table {
    let mut table = Table::section("identity");
    table.set_because(
        "enabled",
        "off",
        "as in PgBouncer; \"on\" runs each transaction as its own client's user",
    );
    table
}

/// A duration, 0 being `off`.
fn period(micros: u64) -> String {
    if micros == 0 { "off".into() } else { span(micros) }
}

/// A duration, 0 being no limit: the longest there is.
fn at_least_something(micros: u64) -> String {
    span(if micros == 0 { LONGEST } else { micros })
}

/// A duration in the largest unit that says it in whole numbers.
fn span(micros: u64) -> String {
    let micros = micros.min(LONGEST);
    let units =
        [(86_400 * SECOND, "d"), (3_600 * SECOND, "h"), (60 * SECOND, "m"), (SECOND, "s"), (1_000, "ms")];
    match units.iter().find(|(unit, _)| micros.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", micros / unit),
        None => format!("{micros}us"),
    }
}

const HEADER: &str =
    "# PgBouncer's configuration, as `pgusher import` has it. Every key: config/pgusher.toml.\n";
const LONGEST: u64 = 3650 * 86_400 * SECOND;
const MOST_CLIENTS: i64 = 1_000_000;
const MOST_SERVERS: i64 = 100_000;
const ONCE: &str = "server_lifetime = 0: each server is used once";
const OUTCOME: &str = "pgusher.toml";
const SECOND: u64 = 1_000_000;
/// What may be missing where this runs, but not where pgusher will.
const TLS_FILES: [&str; 6] = [".ca_file", ".cert_file", ".key_file", ".sslcert", ".sslkey", ".sslrootcert"];
const SECTIONS: [&str; 4] = ["databases", "peers", "pgbouncer", "users"];
