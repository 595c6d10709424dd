//! From what was written to what the parts need.
//!
//! Each table is laid over what it inherits: `[pool]` over the defaults, a database over `[pool]`, whatever their
//! sources. Then the values are held against each other.
//!
//! # Promises
//! - Every value that its field refuses, and every contradiction between values, is a problem; none hides another.
//! - Files named in the configuration are read here once, so that what is missing is known before a client comes.
//!
//! # Refuses
//! To connect, to look hosts up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::admin;
use crate::auth::ident::Mapping;
use crate::auth::rules::{Demand, Rule};
use crate::auth::userlist;
use crate::auth::{Method, Secret, Verifier};
use crate::config::field::signing_key;
use crate::config::keys::shown as shown_keys;
use crate::config::keys::{
    Database, FALLBACK, Keyed, Listen, OwnIdentity, Pool, Pooling, Section, TlsClient, TlsServer, User,
};
use crate::config::ledger::{Ledger, table};
use crate::config::problem::{Problem, Source, did_you_mean};
use crate::config::url::Url;
use crate::config::{Config, ReadFile};
use crate::net::tls::SslMode;
use crate::pool::{PasswordCommand, PasswordSource, Upstream};
use crate::proxy::{self, AuthQuerySettings, DatabaseEntry, UserEntry};
use crate::session::{Form, IdentitySettings, TokenSettings, Variable};
use crate::telemetry::log;
use crate::token::{self, KeySet, Secrecy};

/// Makes the configuration of everything written, which holds only if no problem is added. What is not there is a
/// problem only if the ledger `is_whole`: a file that could not be read may well have said it.
pub(super) fn resolve(
    ledger: &Ledger,
    is_whole: bool,
    read_file: &ReadFile,
    problems: &mut Vec<Problem>,
) -> Config {
    Resolve { ledger, is_whole, read_file, problems }.config()
}

pub(super) struct Resolve<'a> {
    ledger: &'a Ledger,
    is_whole: bool,
    pub(super) read_file: &'a ReadFile,
    problems: &'a mut Vec<Problem>,
}

impl Resolve<'_> {
    fn config(mut self) -> Config {
        let mut listen: Listen = self.filled(Section::Listen, "", Listen::default());
        listen.proxy.console = self.filled(Section::Admin, "", proxy::console::Settings::default());
        let log: log::Settings = self.filled(Section::Log, "", log::Settings::default());
        let metrics: admin::Settings = self.filled(Section::Metrics, "", admin::Settings::default());
        let mut pool = Pool::default();
        pool.pooling.rules.identity = self.filled(Section::Identity, "", IdentitySettings::default());
        self.sign(Section::Identity, "", &mut pool.pooling.rules.identity);
        pool = self.filled(Section::Pool, "", pool);
        self.lower_min(Section::Pool, "", &mut pool.pooling);
        let clients: TlsClient = self.filled(Section::TlsClient, "", TlsClient::default());
        let servers: TlsServer = self.filled(Section::TlsServer, "", TlsServer::default());
        self.check_clients(&clients, listen.proxy.auth);
        (listen.net.tls, listen.proxy.certificates) = (clients.tls, clients.users);

        let names = |section| self.ledger.names(section).map(str::to_owned).collect::<Vec<_>>();
        let (databases, users) = (names(Section::Databases), names(Section::Users));
        self.check_identity(Section::Identity, "", &pool.pooling.rules.identity);
        let databases: Vec<_> =
            databases.into_iter().map(|name| self.database(name, &pool.pooling, &servers)).collect();
        if listen.net.tls.mode == SslMode::Disable {
            self.check_required(&databases);
        }
        let users: Vec<_> =
            users.into_iter().map(|name| self.user(name, &pool.pooling.rules.identity)).collect();

        if databases.is_empty() {
            self.missing(
                Source::Nowhere,
                "databases",
                "nothing to connect to: give --upstream, PGUSHER_UPSTREAM or [databases.NAME]",
            );
        }
        self.check_auth(&listen, &users);
        let mut shown = (listen.clone(), log.clone(), metrics.clone(), pool.clone());
        Config {
            shown: shown_keys(&mut shown.0, &mut shown.1, &mut shown.2, &mut shown.3),
            workers: listen.workers,
            net: listen.net,
            proxy: listen.proxy,
            databases,
            users,
            max_servers: pool.max_servers,
            watch_files: listen.watch_files,
            log,
            metrics,
        }
    }

    /// `target`, with everything written in one table laid over it.
    fn filled<T: Keyed>(&mut self, section: Section, name: &str, mut target: T) -> T {
        for (place, value, source) in self.ledger.table(section, name) {
            let Some(mut field) = target.slot(place.key) else {
                continue;
            };
            if let Err(reason) = field.read(value) {
                let problem = Problem::new(source.clone(), place.to_string(), reason);
                self.problems.push(problem.with_value(field.redact(value)));
            }
        }
        target
    }

    fn database(&mut self, name: String, pooling: &Pooling, servers: &TlsServer) -> DatabaseEntry {
        let inherited = Database::inheriting(pooling.clone(), servers.clone());
        let mut written = self.filled(Section::Databases, &name, inherited);
        self.take_encryption(&name, &mut written);
        self.check_servers(&name, &written.encryption);
        let require_tls = written.require_tls;
        let mut pooling = written.pooling.clone();
        self.lower_min(Section::Databases, &name, &mut pooling);
        self.check_whereabouts(&name, &written);
        let timeout = written.url.as_ref().and_then(|url| url.connect_timeout);
        if let Some(timeout) =
            timeout.filter(|_| !self.is_written(Section::Databases, &name, "connect_timeout"))
        {
            pooling.limits.connect_timeout = timeout;
        }
        self.sign(Section::Databases, &name, &mut pooling.rules.identity);
        self.check_identity(Section::Databases, &name, &pooling.rules.identity);
        if written.connect_query.is_some() {
            pooling.rules.canary = None; // what it sets is nobody's, and would be taken for somebody's
        }
        let is_shared = written.user.is_some() || written.url.as_ref().is_some_and(|url| url.user.is_some());
        let identities = self.identities(&mut pooling.rules.identity, is_shared);
        let auth_query = self.auth_query(&name, &written);
        let target = written.url.as_ref().and_then(|url| url.target_session_attrs);
        if let Some(target) =
            target.filter(|_| !self.is_written(Section::Databases, &name, "target_session_attrs"))
        {
            pooling.limits.target_session_attrs = target;
        }
        let upstream = self.upstream(&name, written);
        DatabaseEntry {
            name,
            upstream,
            pool: pooling.limits,
            rules: pooling.rules,
            identities,
            auth_query,
            require_tls,
        }
    }

    /// The identity of those users for whom it is another than `everybody`'s. Where all log in as one role they share
    /// servers, so each empties the variables of the others.
    fn identities(
        &self,
        everybody: &mut IdentitySettings,
        is_shared: bool,
    ) -> BTreeMap<String, IdentitySettings> {
        let mut identities = BTreeMap::new();
        for name in self.ledger.names(Section::Users) {
            let own = self.own_identity(name, everybody.clone());
            if own != *everybody {
                identities.insert(name.to_owned(), own);
            }
        }
        if is_shared && !identities.is_empty() {
            let all = identities.values().chain([&*everybody]).flat_map(IdentitySettings::said);
            let all: BTreeSet<String> = all.map(str::to_ascii_lowercase).collect();
            for identity in identities.values_mut().chain([everybody]) {
                let is_stated = |name: &String| identity.subject(name.as_bytes()).is_some();
                identity.others = all.iter().filter(|name| !is_stated(name)).cloned().collect();
            }
        }
        identities
    }

    /// `identity`, with what a user's table says of it laid over it. What is wrong there is said where the user is read.
    fn own_identity(&self, user: &str, identity: IdentitySettings) -> IdentitySettings {
        let mut own = OwnIdentity(identity);
        for (place, value, _) in self.ledger.table(Section::Users, user) {
            if let Some(mut field) = own.slot(place.key) {
                let _ = field.read(value);
            }
        }
        let file = own.0.login_key_file.as_ref();
        if let Some(path) = file.filter(|_| self.is_written(Section::Users, user, OWN_LOGIN_KEY_FILE)) {
            let text = (self.read_file)(path).ok().and_then(|bytes| first_line(&bytes).ok());
            own.0.login_key = text.and_then(|text| signing_key(&text).ok());
        }
        own.0
    }

    /// What the values of an identity mean together, where one of them is written.
    fn check_identity(&mut self, section: Section, name: &str, identity: &IdentitySettings) {
        self.check_variables(section, name, identity);
        let own = |key: &'static str| own_key(section, key);
        let concerns_tokens = |key: &str| {
            let key = key.strip_prefix("identity_").unwrap_or(key);
            key.starts_with("jwt_") || key.starts_with("variable") || key.starts_with("from_")
        };
        if !self.ledger.table(section, name).any(|(place, ..)| concerns_tokens(place.key)) {
            return;
        }
        let token = &identity.token;
        let sources = [
            ("jwt_keys_file", token.keys_file.is_some()),
            ("jwt_keys_url", token.keys_url.is_some()),
            ("jwt_key", token.key.is_some()),
            ("jwt_secret", token.secret.is_some()),
            ("jwt_secret_file", token.secret_file.is_some()),
        ];
        let mut sources = sources.into_iter().filter(|(_, is_there)| *is_there).map(|(key, _)| key);
        let (first, second) = (sources.next(), sources.next());
        if let Some(second) = second {
            self.blame(section, name, own(second), "keys come from one place: there is another already");
        }
        let Some(source) = first else { return };
        self.check_keys(section, name, own(source), token);
        self.check_claims(section, name, own("jwt_claims"), identity);
        let is_variable = |known: &str| known.eq_ignore_ascii_case(&token.variable);
        if identity.said().any(is_variable) {
            let reason = "the variable that tokens are given by cannot be one that they state";
            self.blame(section, name, own("jwt_variable"), reason);
        }
        for (key, is_on) in [
            ("from_certificate", identity.from_certificate.is_some()),
            ("from_login_role", identity.from_login_role),
            ("from_user_suffix", identity.from_user_suffix),
        ] {
            if is_on {
                self.blame(
                    section,
                    name,
                    own(key),
                    "where there is a key for tokens, only they say who the user is",
                );
            }
        }
        if token.leeway > MOST_LEEWAY {
            self.blame(section, name, own("jwt_leeway"), "expected at most \"1h\"");
        }
    }

    /// Keys that are written, or in files, can be used.
    fn check_keys(&mut self, section: Section, name: &str, key: &'static str, token: &TokenSettings) {
        if let Some(Err(error)) = token.secret.as_ref().map(KeySet::of_secret) {
            self.blame(section, name, key, &error.to_string());
        }
        let keys = |text: &[u8]| KeySet::read(text, Secrecy::Private).map(drop);
        self.check_file(section, name, "jwt_keys_file", &token.keys_file, keys);
        self.check_file(section, name, "jwt_secret_file", &token.secret_file, |text| {
            token::secret(text).map(drop)
        });
        self.check_file(section, name, "jwt_ca_file", &token.ca_file, token::check_certificates);
    }

    fn check_file<E: ToString>(
        &mut self,
        section: Section,
        name: &str,
        key: &str,
        path: &Option<PathBuf>,
        check: impl FnOnce(&[u8]) -> Result<(), E>,
    ) {
        let Some(path) = path else { return };
        let text = (self.read_file)(path).map_err(|error| error.to_string());
        let checked = text.and_then(|text| check(&text).map_err(|error| error.to_string()));
        if let Err(reason) = checked {
            self.unreadable(section, name, own_key(section, key), path, &reason);
        }
    }

    /// The claims give each variable its value, and no other.
    fn check_claims(&mut self, section: Section, name: &str, key: &'static str, identity: &IdentitySettings) {
        let claims = &identity.token.claims;
        for (at, (variable, _)) in identity.stated().enumerate() {
            let is_default = at == 0 && claims.is_empty();
            if !is_default && !claims.iter().any(|(_, to)| to.eq_ignore_ascii_case(variable)) {
                self.blame(
                    section,
                    name,
                    key,
                    &format!("no claim gives {variable} its value, and nothing else may"),
                );
            }
        }
        for (claim, to) in claims {
            if !identity.stated().any(|(variable, _)| variable.eq_ignore_ascii_case(to)) {
                let reason = format!(
                    "{claim} gives a value to {to}, which is not among the variables of the identity"
                );
                self.blame(section, name, key, &reason);
            }
        }
    }

    /// The key of `form = "login"`, from its file if that is written here.
    fn sign(&mut self, section: Section, name: &str, identity: &mut IdentitySettings) {
        let [form, key, file] = ["form", "login_key", "login_key_file"].map(|key| own_key(section, key));
        if let Some(path) = identity.login_key_file.clone().filter(|_| self.is_written(section, name, file)) {
            if self.is_written(section, name, key) {
                self.blame(section, name, file, "there is also a login_key; keep one");
            }
            let text = self.password_in(&path, section, name, file);
            match text.as_ref().map(signing_key) {
                Some(Ok(key)) => identity.login_key = Some(key),
                Some(Err(reason)) => self.blame(section, name, file, &reason),
                None => {}
            }
        }
        let lacks_key = identity.form == Form::Login && identity.login_key.is_none();
        if lacks_key && !self.is_refused(section, name, key) && !self.is_refused(section, name, file) {
            self.blame(section, name, form, "it needs a login_key, or a login_key_file");
        }
    }

    /// No variable is stated twice.
    fn check_variables(&mut self, section: Section, name: &str, identity: &IdentitySettings) {
        let (variable, variables) = (own_key(section, "variable"), own_key(section, "variables"));
        let is_written =
            self.is_written(section, name, variable) || self.is_written(section, name, variables);
        let is_main = |further: &Variable| further.name.eq_ignore_ascii_case(&identity.variable);
        if is_written && !self.is_refused(section, name, variables) && identity.variables.iter().any(is_main)
        {
            self.blame(section, name, variables, "it holds the main variable, which has a pattern already");
        }
    }

    /// How users that are not listed are asked about, if there is anyone to ask.
    fn auth_query(&mut self, name: &str, written: &Database) -> Option<AuthQuerySettings> {
        const SECTION: Section = Section::Databases;
        let password = self.password_source(
            name,
            &AUTH_PASSWORD_KEYS,
            WrittenPassword {
                given: written.auth_password.clone(),
                file: written.auth_password_file.clone(),
                command: command_of(&written.auth_password_command, written),
            },
        );
        let Some(user) = written.auth_user.clone() else {
            for key in
                AUTH_KEYS.into_iter().filter(|key| self.is_written(SECTION, name, key)).collect::<Vec<_>>()
            {
                self.blame(SECTION, name, key, "it needs an auth_user, who asks");
            }
            return None;
        };
        let of_url = written.url.as_ref().and_then(|url| url.dbname.as_ref());
        if name == FALLBACK && written.auth_dbname.is_none() && written.dbname.as_ref().or(of_url).is_none() {
            let reason = "give auth_dbname too: a client must not choose where its password is looked up";
            self.blame(SECTION, name, "auth_user", reason);
        }
        Some(AuthQuerySettings {
            user,
            password,
            query: written.auth_query.clone(),
            dbname: written.auth_dbname.clone(),
            ttl: written.auth_ttl,
            negative_ttl: written.auth_negative_ttl,
        })
    }

    /// Where a database is and how to log in: its keys, over the parts of its URL.
    fn upstream(&mut self, name: &str, written: Database) -> Upstream {
        let settings = self.server_settings(name, &written);
        let command = command_of(&written.password_command, &written);
        self.check_command(name, &written);
        let hosts = written.hosts.iter().map(|host| host.with_port(written.port)).collect();
        let url = written.url.unwrap_or_else(|| Url { hosts, ..Url::default() });
        let password = self.password_source(
            name,
            &PASSWORD_KEYS,
            WrittenPassword {
                given: written.password.or(url.password),
                file: written.password_file,
                command,
            },
        );
        Upstream {
            hosts: url.hosts,
            dbname: written.dbname.or(url.dbname),
            user: written.user.or(url.user),
            password,
            tls: written.encryption.tls,
            channel_binding: written.encryption.channel_binding,
            application_name: written.application_name.or(url.application_name),
            application_name_add_client: written.application_name_add_client,
            settings,
            connect_query: written.connect_query,
            max_servers: written.max_servers,
            max_clients: written.max_clients,
        }
    }

    /// Where a password comes from. What is written in two places is a mistake.
    fn password_source(
        &mut self,
        name: &str,
        keys: &PasswordKeys,
        written: WrittenPassword,
    ) -> PasswordSource {
        let said: Vec<_> =
            keys.iter().copied().filter(|key| self.is_written(Section::Databases, name, key)).collect();
        if let [one, .., other] = said.as_slice() {
            let article = if one.starts_with('a') { "an" } else { "a" };
            self.blame(Section::Databases, name, other, &format!("there is also {article} {one}; keep one"));
        }
        if let Some(path) = written.file {
            let [_, key, _] = keys;
            self.password_in(&path, Section::Databases, name, key);
            return PasswordSource::File(path);
        }
        if let Some(command) = written.command {
            return PasswordSource::Command(Arc::new(command));
        }
        written.given.map_or(PasswordSource::Client, PasswordSource::Given)
    }

    /// What is about programs needs one.
    fn check_command(&mut self, name: &str, written: &Database) {
        let is_refused = |key| self.is_refused(Section::Databases, name, key);
        let has_none = written.password_command.is_empty() && written.auth_password_command.is_empty();
        if !has_none || is_refused(PASSWORD_COMMAND) || is_refused(AUTH_PASSWORD_COMMAND) {
            return;
        }
        for key in ["password_ttl", "password_timeout"] {
            if self.is_written(Section::Databases, name, key) {
                self.blame(Section::Databases, name, key, "it needs a password_command, which it is about");
            }
        }
    }

    /// The settings of a database's servers: those of the URL, then those of the table, which win.
    fn server_settings(&mut self, name: &str, written: &Database) -> Vec<(String, String)> {
        let stated =
            |setting: &str| written.settings.iter().any(|(other, _)| other.eq_ignore_ascii_case(setting));
        let of_url = written.url.iter().flat_map(|url| &url.settings).filter(|(setting, _)| !stated(setting));
        let mut settings: Vec<_> = of_url.chain(&written.settings).cloned().collect();
        if let Some(timeout) = written.statement_timeout {
            if stated(STATEMENT_TIMEOUT) {
                self.blame(Section::Databases, name, STATEMENT_TIMEOUT, "it is also in settings; keep one");
            }
            settings.retain(|(setting, _)| !setting.eq_ignore_ascii_case(STATEMENT_TIMEOUT));
            // PostgreSQL counts in milliseconds, and 0 would be no limit.
            settings.push((STATEMENT_TIMEOUT.into(), format!("{}ms", timeout.as_millis().max(1))));
        }
        let identity = &written.pooling.rules.identity;
        let is_identity = |name: &str| {
            identity.variable.eq_ignore_ascii_case(name) || identity.subject(name.as_bytes()).is_some()
        };
        if let Some((variable, _)) = settings.iter().find(|(setting, _)| is_identity(setting)) {
            let key = if stated(variable) { "settings" } else { "url" };
            self.blame(
                Section::Databases,
                name,
                key,
                "a variable of the identity is set for each client, never for a server",
            );
        }
        settings
    }

    fn user(&mut self, name: String, identity: &IdentitySettings) -> UserEntry {
        let inherited = User { identity: identity.clone(), ..User::default() };
        let written = self.filled(Section::Users, &name, inherited);
        let mut identity = written.identity.clone();
        self.sign(Section::Users, &name, &mut identity);
        self.check_identity(Section::Users, &name, &written.identity);
        self.check_password(&name);
        if let (Some(min), Some(size)) = (written.min, written.size)
            && min > size
        {
            self.blame(Section::Users, &name, "min", &above(min, size));
        }
        let secret = match &written.password_file {
            Some(path) => self.password_in(path, Section::Users, &name, PASSWORD_FILE),
            None => written.password,
        };
        if let Some(Err(bad)) = secret.as_ref().map(Verifier::from_secret) {
            let key = if written.password_file.is_some() { PASSWORD_FILE } else { "password" };
            self.blame(Section::Users, &name, key, &bad.to_string());
        }
        UserEntry {
            name,
            secret,
            mode: written.mode,
            size: written.size,
            min: written.min,
            target_session_attrs: written.target_session_attrs,
            max_clients: written.max_clients,
            max_servers: written.max_servers,
        }
    }

    /// A `min` above the `size` is a mistake where it was written, and is lowered where it was inherited.
    fn lower_min(&mut self, section: Section, name: &str, pooling: &mut Pooling) {
        let (min, size) = (pooling.limits.min, pooling.limits.size);
        let is_size_known = !self.is_refused(section, name, "size");
        if min > size && is_size_known && self.is_written(section, name, "min") {
            self.blame(section, name, "min", &above(min, size));
        }
        pooling.limits.min = min.min(size);
    }

    fn check_whereabouts(&mut self, name: &str, written: &Database) {
        let is_written = |key| self.is_written(Section::Databases, name, key);
        match (&written.url, written.hosts.is_empty()) {
            (Some(_), false) => {
                self.blame(Section::Databases, name, "host", "url says where it is already; keep one")
            }
            (Some(_), true) if is_written("port") => {
                self.blame(Section::Databases, name, "port", "the port of a url is written in it");
            }
            (None, true) if self.is_refused(Section::Databases, name, "url") => {}
            (None, true) if self.is_refused(Section::Databases, name, "host") => {}
            (None, true) => {
                let source = self.ledger.declaration(Section::Databases, name);
                self.missing(source, &table(Section::Databases, name), "no server: give url or host");
            }
            _ => {}
        }
    }

    fn check_password(&mut self, name: &str) {
        let section = Section::Users;
        if self.is_written(section, name, "password") && self.is_written(section, name, PASSWORD_FILE) {
            self.blame(section, name, PASSWORD_FILE, "there is also a password; keep one");
        }
    }

    /// Whether anybody could log in.
    fn check_auth(&mut self, listen: &Listen, users: &[UserEntry]) {
        self.check_maps(listen);
        if let Some(path) = &listen.proxy.auth_file {
            self.check_userlist(path);
            return;
        }
        let is_open = |rule: &Rule| {
            matches!(rule.demand, Demand::Cert(_) | Demand::Peer(_) | Demand::Prove(Method::Trust))
        };
        let asks_for = |method| listen.proxy.asks_for(method);
        let needs_secrets = (asks_for(Method::Md5) || asks_for(Method::ScramSha256))
            && !listen.proxy.rules.iter().any(is_open);
        let is_asked = self
            .ledger
            .names(Section::Databases)
            .any(|name| self.is_written(Section::Databases, name, "auth_user"));
        if needs_secrets
            && !is_asked
            && users.iter().all(|user| user.secret.is_none())
            && !self.is_any_user_refused()
        {
            self.missing(
                Source::Nowhere,
                "users",
                "no client could log in: give [users.NAME] with a password, listen.auth_file, an auth_user or a user and password in --upstream",
            );
        }
    }

    /// A map that a rule names and that has no lines permits nobody: it is misspelt.
    fn check_maps(&mut self, listen: &Listen) {
        let maps = &listen.proxy.maps;
        for rule in &listen.proxy.rules {
            if let Demand::Cert(Some(map)) | Demand::Peer(Some(map)) = &rule.demand
                && !maps.iter().any(|line| line.map() == &**map)
                && !self.is_refused(Section::Listen, "", "maps")
            {
                let near = did_you_mean(map, maps.iter().map(Mapping::map));
                self.blame(
                    Section::Listen,
                    "",
                    "rules",
                    &format!("map={map} has no line in listen.maps{near}"),
                );
            }
        }
    }

    /// Whether a secret is missing only because its file or its value was refused.
    fn is_any_user_refused(&self) -> bool {
        let keys = ["password", PASSWORD_FILE];
        self.ledger
            .names(Section::Users)
            .any(|name| keys.iter().any(|key| self.is_written(Section::Users, name, key)))
    }

    fn check_userlist(&mut self, path: &Path) {
        match (self.read_file)(path) {
            Ok(bytes) => {
                let broken = userlist::parse(&bytes).err().unwrap_or_default();
                let problem = |broken: userlist::Broken| {
                    Problem::new(Source::File(path.to_owned(), broken.line), "", broken.cause.to_string())
                };
                self.problems.extend(broken.into_iter().map(problem));
            }
            Err(error) => self.unreadable(Section::Listen, "", "auth_file", path, &error.to_string()),
        }
    }

    /// The first line of a password file.
    fn password_in(
        &mut self,
        path: &Path,
        section: Section,
        name: &str,
        key: &'static str,
    ) -> Option<Secret> {
        let password =
            (self.read_file)(path).map_err(|error| error.to_string()).and_then(|bytes| first_line(&bytes));
        match password {
            Ok(password) => Some(password),
            Err(reason) => {
                self.unreadable(section, name, key, path, &reason);
                None
            }
        }
    }

    fn unreadable(&mut self, section: Section, name: &str, key: &'static str, path: &Path, reason: &str) {
        let value = format!("{:?}", path.display().to_string());
        let problem = self.problem(section, name, key, &format!("the file cannot be used: {reason}"));
        self.problems.push(problem.with_value(value));
    }

    pub(super) fn blame(&mut self, section: Section, name: &str, key: &'static str, reason: &str) {
        let problem = self.problem(section, name, key, reason);
        self.problems.push(problem);
    }

    fn problem(&self, section: Section, name: &str, key: &'static str, reason: &str) -> Problem {
        let source = self.ledger.source(section, name, key).cloned().unwrap_or(Source::Nowhere);
        Problem::new(source, format!("{}.{key}", table(section, name)), reason)
    }

    fn missing(&mut self, source: Source, key: &str, reason: &str) {
        if self.is_whole {
            self.problems.push(Problem::new(source, key, reason));
        }
    }

    /// Whether what was written there has been refused already.
    pub(super) fn is_refused(&self, section: Section, name: &str, key: &'static str) -> bool {
        let key = format!("{}.{key}", table(section, name));
        self.problems.iter().any(|problem| problem.key == key)
    }

    pub(super) fn is_written(&self, section: Section, name: &str, key: &'static str) -> bool {
        self.ledger.source(section, name, key).is_some()
    }
}

/// How a database's password may be written, or that of the role that asks: as it is, its file, and what prints it.
type PasswordKeys = [&'static str; 3];

/// What of it was written.
struct WrittenPassword {
    given: Option<Secret>,
    file: Option<PathBuf>,
    command: Option<PasswordCommand>,
}

/// The program of these words, if there are any.
fn command_of(words: &[String], written: &Database) -> Option<PasswordCommand> {
    let (program, arguments) = words.split_first()?;
    Some(PasswordCommand {
        program: program.as_str().into(),
        arguments: arguments.iter().map(|word| word.as_str().into()).collect(),
        ttl: written.password_ttl,
        timeout: written.password_timeout,
    })
}

/// A password from the bytes of its file: the first line, without its end.
fn first_line(bytes: &[u8]) -> Result<Secret, String> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err("its first line is empty".into());
    }
    if line.contains(&0) {
        return Err("its first line holds a NUL".into());
    }
    std::str::from_utf8(line).map(Secret::from).map_err(|_| "its first line is not UTF-8".into())
}

/// The key of the identity as it is written in a section.
fn own_key(section: Section, key: &str) -> &'static str {
    let own = match section {
        Section::Identity => section.key(key),
        _ => section.key(&format!("identity_{key}")),
    };
    own.expect("a key of the table")
}

fn above(min: usize, size: usize) -> String {
    format!("min ({min}) is above size ({size})")
}

const AUTH_PASSWORD: &str = "auth_password";
const AUTH_PASSWORD_COMMAND: &str = "auth_password_command";
const AUTH_PASSWORD_FILE: &str = "auth_password_file";
const AUTH_PASSWORD_KEYS: PasswordKeys = [AUTH_PASSWORD, AUTH_PASSWORD_FILE, AUTH_PASSWORD_COMMAND];
/// The keys that mean something only with `auth_user`.
const AUTH_KEYS: [&str; 7] = [
    AUTH_PASSWORD,
    AUTH_PASSWORD_FILE,
    AUTH_PASSWORD_COMMAND,
    "auth_query",
    "auth_dbname",
    "auth_ttl",
    "auth_negative_ttl",
];
const MOST_LEEWAY: Duration = Duration::from_secs(3600);
const OWN_LOGIN_KEY_FILE: &str = "identity_login_key_file";
const PASSWORD_COMMAND: &str = "password_command";
const PASSWORD_FILE: &str = "password_file";
const PASSWORD_KEYS: PasswordKeys = ["password", PASSWORD_FILE, PASSWORD_COMMAND];
const STATEMENT_TIMEOUT: &str = "statement_timeout";
