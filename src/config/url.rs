//! `postgres://user:password@host:port/db?sslmode=prefer`: a server in one line, as libpq reads it.
//!
//! A URL carries a password between two characters that passwords may contain. So a mistake in one is described
//! without repeating any part of it that could belong to the password.
//!
//! # Promises
//! - Every part is used or refused: no parameter is dropped in silence.
//! - Percent-encoding is undone in each part, after the parts are found; what is decoded is text without NUL.
//! - Neither the error texts nor [`redacted`] hold any of the password.
//!
//! # Refuses
//! To look hosts up, to take defaults from the environment as libpq does (`PGHOST` …).

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::Secret;
use crate::config::value::Value;
use crate::config::word::{Choice, alternatives, chosen};
use crate::config::{options, units};
use crate::net::tls::{Negotiation, SslMode, TlsVersion};
use crate::pool::{Host, TargetSessionAttrs};
use crate::session::login::BindingPolicy;

/// PostgreSQL's port.
pub(super) const PORT: u16 = 5432;

/// The parts of a URL, decoded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Url {
    /// Where the servers are; never empty.
    pub(super) hosts: Vec<Host>,
    /// Who to log in as.
    pub(super) user: Option<String>,
    /// With this password.
    pub(super) password: Option<Secret>,
    /// The database on the server.
    pub(super) dbname: Option<String>,
    /// `application_name`.
    pub(super) application_name: Option<String>,
    /// `connect_timeout`, which is in seconds.
    pub(super) connect_timeout: Option<Duration>,
    /// The settings in `options`.
    pub(super) settings: Vec<(String, String)>,
    /// How it is encrypted.
    pub(super) encryption: Encryption,
    /// `target_session_attrs`.
    pub(super) target_session_attrs: Option<TargetSessionAttrs>,
}

/// What a URL says of encryption.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Encryption {
    pub(super) sslmode: Option<SslMode>,
    pub(super) sslrootcert: Option<PathBuf>,
    pub(super) sslcert: Option<PathBuf>,
    pub(super) sslkey: Option<PathBuf>,
    pub(super) sslnegotiation: Option<Negotiation>,
    pub(super) ssl_min_protocol_version: Option<TlsVersion>,
    pub(super) channel_binding: Option<BindingPolicy>,
}

/// What the parameters of a URL say, before the parts are put together.
#[derive(Default)]
struct Parameters {
    url: Url,
    host: Option<String>,
    port: Option<String>,
}

impl Url {
    /// Reads a URL; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or("expected postgres://user:password@host:port/db")?;
        let (rest, query) = split(rest, '?');
        let (authority, dbname) = split(rest, '/');
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };

        if [dbname, query].into_iter().flatten().any(|part| part.contains('@')) {
            return Err(AMBIGUOUS.into());
        }

        let mut parameters = Parameters::default();
        if let Some(user) = user {
            let (user, password) = split(user, ':');
            parameters.url.user = decoded(user)?;
            parameters.url.password = password.map_or(Ok(None), decoded)?.map(Secret::from);
        }
        parameters.url.dbname = dbname.map_or(Ok(None), decoded)?;
        for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or("a parameter after `?` has no `=`")?;
            parameters.take(name, &decoded(value)?.unwrap_or_default(), is_plain(text))?;
        }
        parameters.finish(hosts)
    }

    /// The same servers, whichever database the client names.
    pub(super) fn for_any_database(&self) -> Self {
        Self { dbname: None, ..self.clone() }
    }
}

impl Parameters {
    /// One parameter of the query; its name is repeated in an error only if the URL is `plain`.
    fn take(&mut self, name: &str, value: &str, plain: bool) -> Result<(), String> {
        let some = || Some(value.to_owned()).filter(|value| !value.is_empty());
        let tls = &mut self.url.encryption;
        match name {
            "application_name" => self.url.application_name = some(),
            "channel_binding" => tls.channel_binding = Some(word("channel_binding", value)?),
            "connect_timeout" => self.url.connect_timeout = seconds(value)?,
            "dbname" => self.url.dbname = some(),
            "host" => self.host = some(),
            "options" => {
                let settings = options::settings(value);
                self.url.settings = settings.ok_or(
                    "options= takes only settings: `-c name=value`, blanks escaped with a backslash",
                )?;
            }
            "password" => self.url.password = some().map(Secret::from),
            "port" => self.port = some(),
            "ssl_min_protocol_version" => {
                tls.ssl_min_protocol_version = Some(word("ssl_min_protocol_version", value)?);
            }
            "sslcert" => tls.sslcert = some().map(PathBuf::from),
            "sslkey" => tls.sslkey = some().map(PathBuf::from),
            "sslmode" => tls.sslmode = Some(word("sslmode", value)?),
            "sslnegotiation" => tls.sslnegotiation = Some(word("sslnegotiation", value)?),
            "sslrootcert" => tls.sslrootcert = some().map(PathBuf::from),
            "target_session_attrs" => {
                self.url.target_session_attrs = Some(word("target_session_attrs", value)?);
            }
            "user" => self.url.user = some(),
            name if plain => return Err(unknown(name)),
            _ => return Err(format!("an unknown parameter after `?`; {ACCEPTED}")),
        }
        Ok(())
    }

    /// The URL, now that it is known whether its hosts are in the authority or in `host=`.
    fn finish(mut self, authority: &str) -> Result<Url, String> {
        if self.host.is_some() && !authority.is_empty() {
            return Err("hosts both before the database and in host=".into());
        }
        let port = match self.port.as_deref() {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("port= is not a port")?,
            None => PORT,
        };
        let hosts = match &self.host {
            Some(hosts) => hosts.clone(),
            None => authority.to_owned(),
        };
        for host in hosts.split(',') {
            let encoded = self.host.is_none();
            let written = if encoded { decoded(host)?.unwrap_or_default() } else { host.to_owned() };
            self.url.hosts.push(HostText::parse(&written).ok_or(BAD_HOST)?.with_port(port));
        }
        Ok(self.url)
    }
}

/// A host as written, perhaps with its own port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HostText {
    /// A name, an address, or a directory.
    host: String,
    /// Its own port.
    port: Option<u16>,
}

impl HostText {
    /// `name`, `name:port`, `address`, `[address]:port` or `/directory`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = if text.starts_with('/') {
            (text, None)
        } else if let Some(bracketed) = text.strip_prefix('[') {
            let (host, rest) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            split(text, ':')
        };
        let forbidden =
            |c: char| c.is_control() || c.is_whitespace() || c == '@' || (c == '/' && !text.starts_with('/'));
        if host.is_empty() || host.contains(forbidden) {
            return None;
        }
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
            None => None,
        };
        Some(Self { host: host.to_owned(), port })
    }

    /// Where that is, if `port` is the port of hosts without their own.
    pub(super) fn with_port(&self, port: u16) -> Host {
        let port = self.port.unwrap_or(port);
        if self.host.starts_with('/') {
            return Host::Unix { directory: self.host.clone().into(), port };
        }
        Host::Tcp { host: self.host.clone(), port }
    }
}

/// A URL as it may be shown: the host and the database if it is certain where they begin, never what is before
/// or after.
pub(super) fn redacted(text: &str) -> String {
    let shown = match text.split_once('@') {
        Some((_, after)) if is_plain(text) => format!("…@{}", split(after, '?').0),
        _ => "…".into(),
    };
    match ["postgres://", "postgresql://"].iter().find(|scheme| text.starts_with(**scheme)) {
        Some(scheme) => format!("{scheme}{shown}"),
        None => shown,
    }
}

/// Whether it is certain where the password ends: one `@`, before any `?`.
fn is_plain(text: &str) -> bool {
    let (before, after) = split(text, '?');
    before.matches('@').count() == 1 && !after.unwrap_or_default().contains('@')
}

/// One of a few words.
fn word<C: Choice>(name: &str, value: &str) -> Result<C, String> {
    let word = Value::Word(value.to_owned());
    chosen(&word).ok_or_else(|| format!("{name}= can only be {}", alternatives::<C>(&[])))
}

/// A parameter nobody knows, or that cannot be honoured.
fn unknown(name: &str) -> String {
    format!("unknown parameter {name}=; {ACCEPTED}")
}

/// `connect_timeout`: whole seconds, 0 is libpq's "wait for ever", here the pool's own.
fn seconds(text: &str) -> Result<Option<Duration>, String> {
    let seconds: u32 = text.parse().map_err(|_| "connect_timeout= is not a whole number of seconds")?;
    Ok((seconds != 0).then(|| Duration::from_secs(seconds.into()).min(units::LONGEST)))
}

/// Undoes percent-encoding; an empty part is no part.
fn decoded(text: &str) -> Result<Option<String>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let (hex, after) = after.split_at_checked(2).ok_or(BAD_PERCENT)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BAD_PERCENT);
        bytes.push(u8::try_from(digit(hex[0])? * 16 + digit(hex[1])?).map_err(|_| BAD_PERCENT)?);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| "a percent-encoded part is not UTF-8")?;
    if text.contains('\0') {
        return Err("a part holds a NUL".into());
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// What is before the first `mark`, and after it.
fn split(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(before, after)| (before, Some(after)))
}

const ACCEPTED: &str = "accepted are application_name, channel_binding, connect_timeout, dbname, host, options, \
                        password, port, ssl_min_protocol_version, sslcert, sslkey, sslmode, sslnegotiation, \
                        sslrootcert, target_session_attrs, user";

/// `u:5432/secret@h` has a host `u` to a machine and a user `u` to whoever wrote it.
const AMBIGUOUS: &str = "an `@` after the host (`@`, `/` and `?` in a user, password, database or parameter are \
                         written %40 %2F %3F)";

const BAD_HOST: &str = "a host is missing or is not `host`, `host:port`, `[address]:port` or `/directory` \
                        (`@`, `/`, `?`, `:` and `%` in a password are written %40 %2F %3F %3A %25)";

const BAD_PERCENT: &str =
    "`%` is not followed by two hexadecimal digits (a percent sign itself is written %25)";

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Host {
        Host::Tcp { host: host.into(), port }
    }

    fn unix(directory: &str, port: u16) -> Host {
        Host::Unix { directory: directory.into(), port }
    }

    #[test]
    fn every_part_is_decoded() {
        let url = Url::parse("postgresql://a%40b:p%3Aw%2F%25@db.local:5433/my%20db?application_name=x%26y")
            .unwrap();

        assert_eq!(url.hosts, [tcp("db.local", 5433)]);
        assert_eq!(url.user.as_deref(), Some("a@b"));
        assert_eq!(url.password, Some(Secret::from("p:w/%")));
        assert_eq!(url.dbname.as_deref(), Some("my db"));
        assert_eq!(url.application_name.as_deref(), Some("x&y"));
    }

    #[test]
    fn hosts_are_names_addresses_and_directories() {
        for (text, hosts) in [
            ("postgres://h", vec![tcp("h", 5432)]),
            ("postgres://h/", vec![tcp("h", 5432)]),
            ("postgres://h?sslmode=disable", vec![tcp("h", 5432)]),
            ("postgres://a:1,b,[::1]:3/d", vec![tcp("a", 1), tcp("b", 5432), tcp("::1", 3)]),
            ("postgres://u@%2Frun%2Fpg/d?port=5433", vec![unix("/run/pg", 5433)]),
            ("postgres:///d?host=/run/pg", vec![unix("/run/pg", 5432)]),
            ("postgres:///d?host=%2Frun%2Fpg,b&port=7", vec![unix("/run/pg", 7), tcp("b", 7)]),
        ] {
            assert_eq!(Url::parse(text).map(|url| url.hosts), Ok(hosts), "{text}");
        }
    }

    #[test]
    fn an_at_sign_in_the_password_is_understood() {
        assert_eq!(Url::parse("postgres://u:p@w@h/d").unwrap().password, Some(Secret::from("p@w")));
    }

    #[test]
    fn parameters_are_used_or_refused() {
        let url = Url::parse(
            "postgres://h/d?sslmode=prefer&connect_timeout=3&target_session_attrs=prefer-standby&user=u&password=p&dbname=e&\
             options=-c%20jit%3Doff%20--work-mem=4MB%20-csearch_path=a%5C%20b",
        )
        .unwrap();

        assert_eq!(url.target_session_attrs, Some(TargetSessionAttrs::PreferStandby));
        assert_eq!(url.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!((url.user.as_deref(), url.dbname.as_deref()), (Some("u"), Some("e")));
        let settings: Vec<_> =
            url.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(settings, [("jit", "off"), ("work_mem", "4MB"), ("search_path", "a b")]);
        for (query, why) in [
            ("sslmode=on", "sslmode="),
            ("sslnegotiation=maybe", "sslnegotiation="),
            ("channel_binding=yes", "channel_binding="),
            ("sslcrl=/ca.crl", "an unknown parameter"),
            ("target_session_attrs=master", "target_session_attrs="),
            ("connect_timeout=5s", "seconds"),
            ("options=-h", "options="),
            ("host=b", "hosts both"),
            ("port=0", "not a port"),
            ("schema=public", "an unknown parameter"),
            ("sslmode", "no `=`"),
        ] {
            let error = Url::parse(&format!("postgres://h/d?{query}")).unwrap_err();
            assert!(error.contains(why), "{query}: {error}");
        }
        let error = Url::parse("postgres://u@h/d?schema=public").unwrap_err();
        assert!(error.contains("unknown parameter schema="), "{error}");
    }

    #[test]
    fn malformed_urls_are_refused_without_their_password() {
        for text in [
            "u:hunter2@h/d",
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h:0/d",
            "postgres://u:hunter2@h,/d",
            "postgres://u:hunter2%zz@h/d",
            "postgres://u:hunter2%ff@h/d",
            "postgres://u:hunter2%00@h/d",
            "postgres://u:x/hunter2@h/d",
            "postgres://u:x?hunter2@h/d",
            "postgres://u:x?hunter2=@h/d",
            "postgres://u:x@h/d?hunter2@=3",
            "postgres://u:x#hunter2",
            "postgres://h/d?password=x@hunter2&b=c",
            "postgres://u@h/d?nosuch=1&password=hunter2",
            "postgres://u:5432/hunter2@h/d",
            "postgres://u:5432/x?application_name=hunter2@h/d",
        ] {
            let error = Url::parse(text).unwrap_err();
            let shown = redacted(text);
            assert!(!error.contains("hunter2"), "{text}: {error}");
            assert!(!shown.contains("hunter2"), "{text}: {shown}");
        }
    }

    #[test]
    fn a_url_is_shown_without_user_password_and_parameters() {
        assert_eq!(redacted("postgres://u:p@h:1/d?password=x"), "postgres://…@h:1/d");
        assert_eq!(redacted("postgres://u:p?q@h:1/d"), "postgres://…");
        assert_eq!(redacted("postgres://u:p@q@h:1/d"), "postgres://…");
        assert_eq!(redacted("postgres://h"), "postgres://…");
        assert_eq!(redacted("nonsense"), "…");
    }
}
