//! The kinds of value a key can have: how each is read, and how each is shown.
//!
//! A row of the key table says only "this key is that field, a duration". What that means is here, once per kind,
//! reading and showing side by side so that they stay each other's mirror.
//!
//! # Promises
//! - [`Field::read`] sets the field or leaves it as it was; its error says what is accepted.
//! - [`Field::show`] writes the field as TOML that [`Field::read`] takes back to the same value.
//! - A value that is or may hold a secret is never returned by [`Field::redact`].
//!
//! # Refuses
//! To know keys, sections, or what one value means for another.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::ident::Mapping;
use crate::auth::rules;
use crate::auth::rules::{BadRule, Rule};
use crate::auth::token::LEAST_KEY;
use crate::auth::{LoginKey, Secret};
use crate::config::problem::did_you_mean;
use crate::config::url::{HostText, Url, redacted};
use crate::config::value::{HIDDEN, Value, quoted};
use crate::config::word::{Choice, alternatives, chosen, word};
use crate::config::{options, units};
use crate::session::{self, Pattern};
use crate::telemetry::log;
use crate::token::{self, KeySet, Secrecy};

/// One field of the settings, seen as what the operator may write there.
pub(super) trait Field {
    /// Sets the field; the error says what is accepted.
    fn read(&mut self, value: &Value) -> Result<(), String>;

    /// The field as TOML.
    fn show(&self) -> String;

    /// A value meant for this field, as it may be shown to anybody.
    fn redact(&self, value: &Value) -> String {
        value.shown()
    }
}

/// A field, borrowed with what is known about it.
pub(super) type Slot<'a> = Box<dyn Field + 'a>;

/// Numbers that fields have.
pub(super) trait Number: Copy + Display + PartialOrd + TryFrom<i128> {}

impl<N: Copy + Display + PartialOrd + TryFrom<i128>> Number for N {}

/// A whole number in a range.
pub(super) fn count<N: Number>(at: &mut N, range: RangeInclusive<N>) -> Slot<'_> {
    Box::new(Count { at, range })
}

/// A whole number of at least 1, or `unlimited`.
pub(super) fn limit<N: Number + 'static>(at: &mut Option<N>, most: N) -> Slot<'_> {
    Box::new(CountOr { at, least: 1, most, absent: "unlimited" })
}

/// A whole number of at least `least`, or `inherit`: what holds without the key.
pub(super) fn inherited_count(at: &mut Option<usize>, least: i128, most: usize) -> Slot<'_> {
    Box::new(CountOr { at, least, most, absent: INHERIT })
}

/// One of so many, or `off`.
pub(super) fn one_in(at: &mut Option<u64>) -> Slot<'_> {
    Box::new(CountOr { at, least: 1, most: 1_000_000_000, absent: OFF })
}

/// A number of threads, or `auto`.
pub(super) fn workers(at: &mut usize) -> Slot<'_> {
    Box::new(Workers(at))
}

/// One of the words of `C`.
pub(super) fn choice<C: Choice>(at: &mut C) -> Slot<'_> {
    Box::new(OneOf(at))
}

/// One of the words of `C`, or `inherit`.
pub(super) fn inherited_choice<C: Choice>(at: &mut Option<C>) -> Slot<'_> {
    Box::new(OneOfOr { at, absent: INHERIT })
}

/// One of the words of `C`, or `off`.
pub(super) fn choice_or_off<C: Choice>(at: &mut Option<C>) -> Slot<'_> {
    Box::new(OneOfOr { at, absent: OFF })
}

/// `on` or `off`.
pub(super) fn switch(at: &mut bool) -> Slot<'_> {
    Box::new(OneOf(at))
}

/// A duration that takes some time.
pub(super) fn duration(at: &mut Duration) -> Slot<'_> {
    Box::new(Span { at, least: Duration::from_nanos(1) })
}

/// A duration that may be 0: at once.
pub(super) fn delay(at: &mut Duration) -> Slot<'_> {
    Box::new(Span { at, least: Duration::ZERO })
}

/// A duration, or `off`; 0 is off too.
pub(super) fn period(at: &mut Option<Duration>) -> Slot<'_> {
    Box::new(SpanOr { at, is_zero_off: true })
}

/// A duration, or `off`; 0 is at once.
pub(super) fn period_or_at_once(at: &mut Option<Duration>) -> Slot<'_> {
    Box::new(SpanOr { at, is_zero_off: false })
}

/// A number of bytes, at least so many.
pub(super) fn size(at: &mut usize, least: usize) -> Slot<'_> {
    Box::new(Size { at, least })
}

/// Text that may be absent; `""` is absent.
pub(super) fn text(at: &mut Option<String>) -> Slot<'_> {
    Box::new(Text(at))
}

/// SQL with one parameter.
pub(super) fn question(at: &mut String) -> Slot<'_> {
    Box::new(Question(at))
}

/// Lines of `pg_hba.conf`.
pub(super) fn rules(at: &mut Vec<Rule>) -> Slot<'_> {
    Box::new(Rules(at))
}

/// Lines of `pg_ident.conf`.
pub(super) fn maps(at: &mut Vec<Mapping>) -> Slot<'_> {
    Box::new(Maps(at))
}

/// A list of names.
pub(super) fn names(at: &mut Vec<String>) -> Slot<'_> {
    Box::new(Names(at))
}

/// A program and what it is told, without a shell; nothing is none.
pub(super) fn command(at: &mut Vec<String>) -> Slot<'_> {
    Box::new(Words(at))
}

/// A path that may be absent; `""` is absent.
pub(super) fn path(at: &mut Option<PathBuf>) -> Slot<'_> {
    Box::new(PathOr(at))
}

/// Permissions, in octal.
pub(super) fn permissions(at: &mut u32) -> Slot<'_> {
    Box::new(Permissions(at))
}

/// Where to listen.
pub(super) fn addresses(at: &mut Vec<SocketAddr>) -> Slot<'_> {
    Box::new(Addresses(at))
}

/// Where to listen, or `off`.
pub(super) fn listener(at: &mut Option<SocketAddr>, port: u16) -> Slot<'_> {
    Box::new(Listener { at, port })
}

/// Where servers are.
pub(super) fn hosts(at: &mut Vec<HostText>) -> Slot<'_> {
    Box::new(Hosts(at))
}

/// Where servers are, and how to log in, in one line.
pub(super) fn url(at: &mut Option<Url>) -> Slot<'_> {
    Box::new(UrlOr(at))
}

/// A password or a verifier; `""` is none.
pub(super) fn secret(at: &mut Option<Secret>) -> Slot<'_> {
    Box::new(Hidden(at))
}

/// A key that signs tokens; `""` is none.
pub(super) fn login_key(at: &mut Option<LoginKey>) -> Slot<'_> {
    Box::new(Signing(at))
}

/// Server settings by name.
pub(super) fn settings_table(at: &mut Vec<(String, String)>) -> Slot<'_> {
    Box::new(Settings(at))
}

/// Names, and the users each may be.
pub(super) fn user_map(at: &mut Vec<(String, String)>) -> Slot<'_> {
    Box::new(UserMap(at))
}

/// The name of a custom variable of PostgreSQL.
pub(super) fn variable(at: &mut String) -> Slot<'_> {
    Box::new(Variable(at))
}

/// Names of custom variables of PostgreSQL, and which values each may have.
pub(super) fn variables(at: &mut Vec<session::Variable>) -> Slot<'_> {
    Box::new(Variables(at))
}

/// Claims of a token, and which variable each gives its value.
pub(super) fn claims(at: &mut Vec<(String, String)>) -> Slot<'_> {
    Box::new(Claims(at))
}

/// Where a JWK set is fetched from; `""` is nowhere.
pub(super) fn keys_url(at: &mut Option<String>) -> Slot<'_> {
    Box::new(KeysUrl(at))
}

/// A public key, as a JWK or PEM; `""` is none.
pub(super) fn public_key(at: &mut Option<String>) -> Slot<'_> {
    Box::new(PublicKey(at))
}

/// A log level or filters.
pub(super) fn level(at: &mut String) -> Slot<'_> {
    Box::new(Level(at))
}

struct Count<'a, N> {
    at: &'a mut N,
    range: RangeInclusive<N>,
}

impl<N: Number> Field for Count<'_, N> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let number = value.integer().and_then(|number| N::try_from(number).ok());
        *self.at = number.filter(|number| self.range.contains(number)).ok_or_else(|| {
            format!("expected a whole number from {} to {}", self.range.start(), self.range.end())
        })?;
        Ok(())
    }

    fn show(&self) -> String {
        self.at.to_string()
    }
}

struct CountOr<'a, N> {
    at: &'a mut Option<N>,
    least: i128,
    most: N,
    absent: &'static str,
}

impl<N: Number> Field for CountOr<'_, N> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        if value.text() == Some(self.absent) {
            *self.at = None;
            return Ok(());
        }
        let number = value
            .integer()
            .filter(|number| *number >= self.least)
            .and_then(|number| N::try_from(number).ok());
        let number = number.filter(|number| *number <= self.most).ok_or_else(|| {
            format!("expected a whole number from {} to {}, or {:?}", self.least, self.most, self.absent)
        })?;
        *self.at = Some(number);
        Ok(())
    }

    fn show(&self) -> String {
        self.at.map_or_else(|| quoted(self.absent), |number| number.to_string())
    }
}

struct Workers<'a>(&'a mut usize);

impl Field for Workers<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        if value.text() == Some("auto") {
            // Knows about affinity and cgroup quotas, that is: the CPUs of the container.
            *self.0 = std::thread::available_parallelism().map_or(1, usize::from);
            return Ok(());
        }
        count(self.0, 1..=1024).read(value).map_err(|error| error + ", or \"auto\"")
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

struct OneOf<'a, C>(&'a mut C);

impl<C: Choice> Field for OneOf<'_, C> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.0 = chosen(value).ok_or_else(|| format!("expected {}", alternatives::<C>(&[])))?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(word(self.0))
    }
}

struct OneOfOr<'a, C> {
    at: &'a mut Option<C>,
    absent: &'static str,
}

impl<C: Choice> Field for OneOfOr<'_, C> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let is_absent = value.text() == Some(self.absent);
        if is_absent || (self.absent == OFF && *value == Value::Bool(false)) {
            *self.at = None;
            return Ok(());
        }
        let word = chosen(value).ok_or_else(|| format!("expected {}", alternatives::<C>(&[self.absent])))?;
        *self.at = Some(word);
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.at.as_ref().map_or(self.absent, word))
    }
}

struct Span<'a> {
    at: &'a mut Duration,
    least: Duration,
}

impl Field for Span<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = timespan(value).filter(|duration| *duration >= self.least);
        *self.at = read.ok_or_else(|| {
            let zero = if self.least.is_zero() { ", or 0" } else { "" };
            format!("expected a duration{zero}, {DURATION}")
        })?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&units::show_duration(*self.at))
    }
}

struct SpanOr<'a> {
    at: &'a mut Option<Duration>,
    is_zero_off: bool,
}

impl Field for SpanOr<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        if value.text() == Some(OFF) || *value == Value::Bool(false) {
            *self.at = None;
            return Ok(());
        }
        let read = timespan(value).ok_or_else(|| format!("expected \"off\" or a duration, {DURATION}"))?;
        *self.at = Some(read).filter(|duration| !(self.is_zero_off && duration.is_zero()));
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.at.map_or_else(|| OFF.into(), units::show_duration))
    }
}

/// A duration; the only number that needs no unit is 0.
fn timespan(value: &Value) -> Option<Duration> {
    match value {
        Value::Integer(0) => Some(Duration::ZERO),
        value => units::duration(value.text()?),
    }
}

struct Size<'a> {
    at: &'a mut usize,
    least: usize,
}

impl Field for Size<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = value.text().and_then(units::size);
        *self.at = read.filter(|bytes| (self.least..=MOST_BYTES).contains(bytes)).ok_or_else(|| {
            let (least, most) = (units::show_size(self.least), units::show_size(MOST_BYTES));
            format!("expected a size from {least} to {most}, such as \"64kB\" or \"8MB\"")
        })?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&units::show_size(*self.at))
    }
}

struct Text<'a>(&'a mut Option<String>);

impl Field for Text<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let text = value.text().ok_or("expected a text in quotes, without NUL")?;
        *self.0 = Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0.as_deref().unwrap_or_default())
    }
}

struct Question<'a>(&'a mut String);

impl Field for Question<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let sql = value.text().filter(|text| text.contains("$1"));
        *self.0 = sql.ok_or("expected SQL in quotes, with $1 for the user's name")?.to_owned();
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }
}

struct Rules<'a>(&'a mut Vec<Rule>);

impl Field for Rules<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let lines = lines(value).ok_or(
            "expected a list of lines as in pg_hba.conf, such as [\"host all all 10.0.0.0/8 scram-sha-256\"]",
        )?;
        let (mut read, mut wrong) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(lines) {
            match Rule::parse(line) {
                Ok(rule) => read.push(rule),
                Err(bad) => wrong.push(format!("rule {number}{}", of_rule(line, bad))),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        "[]".into()
    }
}

/// What is wrong with a rule, as the end of a sentence: the word, what is expected, what was probably meant.
fn of_rule(line: &str, BadRule { field, cause }: BadRule) -> String {
    let word = field.and_then(|field| rules::field(line, field));
    let near = match (&word, cause) {
        (Some(word), rules::Cause::UnknownKind) => did_you_mean(word, Rule::KINDS),
        (Some(word), rules::Cause::UnknownMethod) => did_you_mean(word, Rule::METHODS),
        _ => String::new(),
    };
    let at = word.map(|word| format!(", {word:?}")).unwrap_or_default();
    format!("{at}: {cause}{near}")
}

struct Maps<'a>(&'a mut Vec<Mapping>);

impl Field for Maps<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = lines(value).and_then(|lines| lines.into_iter().map(Mapping::parse).collect());
        *self.0 = read.ok_or("expected a list of lines as in pg_ident.conf, map, system user and database user, such as [\"local root app\"]; at most one * in the system user, \\1 in the database user for what it stands for")?;
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        "[]".into()
    }
}

/// The lines of a list; in a variable they are separated by semicolons, for they have commas.
fn lines(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::Word(_) => {
            Some(value.text()?.split(';').map(str::trim).filter(|line| !line.is_empty()).collect())
        }
        Value::List(_) => value.texts(),
        _ => None,
    }
}

struct Names<'a>(&'a mut Vec<String>);

impl Field for Names<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let names =
            value.texts().filter(|names| value.is_list() && names.iter().all(|name| !name.is_empty()));
        *self.0 = names
            .ok_or("expected a list of names, such as [\"a\", \"b\"]")?
            .into_iter()
            .map(Into::into)
            .collect();
        Ok(())
    }

    fn show(&self) -> String {
        list(self.0)
    }
}

/// What a program is told may hold a secret.
struct Words<'a>(&'a mut Vec<String>);

impl Field for Words<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let words = match value {
            Value::Word(text) => Some(text.split_whitespace().collect()),
            Value::List(_) => value.texts(),
            _ => None,
        };
        let words = words.filter(|words| words.first() != Some(&"") && !words.concat().contains('\0'));
        let words = words.ok_or(
            "expected a program and its arguments, such as [\"vault\", \"read\", \"-field=password\", \"secret/db\"]; \
             no shell reads them",
        )?;
        *self.0 = words.into_iter().map(Into::into).collect();
        Ok(())
    }

    fn show(&self) -> String {
        if self.0.is_empty() { "[]".into() } else { quoted(HIDDEN) }
    }

    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

struct PathOr<'a>(&'a mut Option<PathBuf>);

impl Field for PathOr<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let text = value.text().ok_or("expected a path in quotes")?;
        *self.0 = Some(PathBuf::from(text)).filter(|_| !text.is_empty());
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.0.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
    }
}

struct Permissions<'a>(&'a mut u32);

impl Field for Permissions<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let mode = value.text().and_then(octal).filter(|mode| *mode <= 0o777);
        *self.0 = mode.ok_or("expected permissions in octal and in quotes, from \"0000\" to \"0777\"")?;
        Ok(())
    }

    fn show(&self) -> String {
        format!("\"{:04o}\"", *self.0)
    }
}

/// Digits in octal, without the sign that Rust would allow.
fn octal(text: &str) -> Option<u32> {
    let is_number = text.chars().all(|c| c.is_digit(8));
    is_number.then(|| u32::from_str_radix(text, 8).ok())?
}

struct Addresses<'a>(&'a mut Vec<SocketAddr>);

impl Field for Addresses<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read: Option<Vec<_>> =
            value.texts().unwrap_or_default().into_iter().map(|text| address(text, LISTEN_PORT)).collect();
        *self.0 = read.filter(|addresses| !addresses.is_empty()).ok_or(
            "expected \"address:port\" or a list of such; the address is an IP address, `localhost` or `*`",
        )?;
        Ok(())
    }

    fn show(&self) -> String {
        match self.0.as_slice() {
            [one] => quoted(&one.to_string()),
            many => list(many),
        }
    }
}

struct Listener<'a> {
    at: &'a mut Option<SocketAddr>,
    /// The port of an address that has none.
    port: u16,
}

impl Field for Listener<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.at = match value {
            Value::Bool(false) => None,
            value => match value.text() {
                Some("" | "off") => None,
                text => Some(text.and_then(|text| address(text, self.port)).ok_or(
                    "expected \"address:port\" or \"off\"; the address is an IP address, `localhost` or `*`",
                )?),
            },
        };
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.at.map_or_else(|| "off".into(), |address| address.to_string()))
    }
}

/// `address:port`, or an address with the port that is usual there.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let text = match text.strip_prefix("localhost") {
        Some(rest) => format!("127.0.0.1{rest}"),
        None => match text.strip_prefix('*') {
            Some(rest) => format!("{}{rest}", Ipv4Addr::UNSPECIFIED),
            None => text.to_owned(),
        },
    };
    let alone = |text: &str| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, port));
    text.parse().ok().or_else(|| alone(&text))
}

struct Hosts<'a>(&'a mut Vec<HostText>);

impl Field for Hosts<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = value.texts().and_then(|texts| texts.into_iter().map(HostText::parse).collect());
        *self.0 = read.ok_or("expected \"host\", \"host:port\" or \"/directory\", or a list of such")?;
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        "[]".into()
    }
}

struct UrlOr<'a>(&'a mut Option<Url>);

impl Field for UrlOr<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.0 = match value {
            Value::Url(url) => Some(url.as_ref().clone()),
            value => match value.text().ok_or("expected a URL in quotes")? {
                "" => None,
                text => Some(Url::parse(text)?),
            },
        };
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        quoted("")
    }

    fn redact(&self, value: &Value) -> String {
        value.text().map_or_else(|| HIDDEN.into(), |text| quoted(&redacted(text)))
    }
}

struct Hidden<'a>(&'a mut Option<Secret>);

impl Field for Hidden<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.0 = match value {
            Value::Secret(secret) => Some(secret.clone()),
            value => {
                let text = value.text().ok_or("expected a password in quotes, without NUL")?;
                (!text.is_empty()).then(|| Secret::from(text))
            }
        };
        Ok(())
    }

    fn show(&self) -> String {
        quoted(if self.0.is_some() { HIDDEN } else { "" })
    }

    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

struct Signing<'a>(&'a mut Option<LoginKey>);

impl Field for Signing<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let mut secret = None;
        Hidden(&mut secret).read(value)?;
        *self.0 = secret.map(|secret| signing_key(&secret)).transpose()?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(if self.0.is_some() { HIDDEN } else { "" })
    }

    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

/// The key that a text stands for.
pub(super) fn signing_key(secret: &Secret) -> Result<LoginKey, String> {
    LoginKey::new(secret.expose()).ok_or_else(|| {
        format!("expected at least {LEAST_KEY} characters, such as `openssl rand -hex 32` gives")
    })
}

struct Settings<'a>(&'a mut Vec<(String, String)>);

impl Field for Settings<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = match value {
            Value::Table(entries) => {
                entries.iter().map(|(name, value)| Some((name.clone(), scalar(value)?))).collect()
            }
            Value::Word(text) => options::settings(text),
            _ => None,
        };
        let read: Vec<(String, String)> =
            read.ok_or("expected { name = \"value\", … } (in a variable: `-c name=value -c name=value`)")?;
        if let Some((name, _)) = read.iter().find(|(name, _)| !options::is_setting(name)) {
            return Err(format!("{name:?} is not the name of a setting a server can be started with"));
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        let entries: Vec<_> = self.0.iter().map(|(name, value)| (name.clone(), quoted(value))).collect();
        table(&entries)
    }
}

struct UserMap<'a>(&'a mut Vec<(String, String)>);

impl Field for UserMap<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = match value {
            Value::Table(entries) => mapped(entries),
            Value::Word(text) => {
                let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
                pairs.map(|pair| pair.rsplit_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()))).collect()
            }
            _ => None,
        };
        let read = read.filter(|map| map.iter().all(|(name, user)| !name.is_empty() && !user.is_empty()));
        *self.0 = read.ok_or(
            "expected { \"name\" = \"user\", \"name\" = [\"user\", \"user\"], … } (in a variable: `name=user,name=user`)",
        )?;
        Ok(())
    }

    fn show(&self) -> String {
        let entries: Vec<_> =
            self.0.iter().map(|(name, user)| format!("{} = {}", quoted(name), quoted(user))).collect();
        if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
    }
}

/// Each name with each of its users.
fn mapped(entries: &[(String, Value)]) -> Option<Vec<(String, String)>> {
    let mut map = Vec::new();
    for (name, users) in entries {
        let users = users.texts().filter(|users| !users.is_empty())?;
        map.extend(users.into_iter().map(|user| (name.clone(), user.to_owned())));
    }
    Some(map)
}

/// The value of a server's setting: text, a number or on and off.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(if *value { "on" } else { OFF }.into()),
        Value::Integer(number) => Some(number.to_string()),
        value => value.text().map(Into::into),
    }
}

struct Variable<'a>(&'a mut String);

impl Field for Variable<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let is_custom = |name: &&str| name.contains('.') && options::is_variable(name);
        *self.0 = value
            .text()
            .filter(is_custom)
            .ok_or("expected the name of a custom variable: two or more parts of letters, digits, _ and $, joined by dots")?
            .to_owned();
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }
}

struct Variables<'a>(&'a mut Vec<session::Variable>);

impl Field for Variables<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let expected = "expected { \"app.tenant_id\" = \"uuid\", … } (in a variable: `app.tenant_id=uuid,…`): names of custom variables, each with a pattern";
        let mut read: Vec<session::Variable> = Vec::new();
        for (name, pattern) in pairs(value).ok_or(expected)? {
            let mut variable = session::Variable { name: String::new(), pattern: Pattern::default() };
            Variable(&mut variable.name).read(&Value::Text(name))?;
            OneOf(&mut variable.pattern).read(&pattern)?;
            if read.iter().any(|other| other.name.eq_ignore_ascii_case(&variable.name)) {
                return Err(format!("{} is there twice; names of variables have no case", variable.name));
            }
            read.push(variable);
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        let entries: Vec<_> = self.0.iter().map(|it| (quoted(&it.name), quoted(word(&it.pattern)))).collect();
        table(&entries)
    }
}

struct Claims<'a>(&'a mut Vec<(String, String)>);

impl Field for Claims<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let expected = "expected { sub = \"app.current_user_id\", … } (in a variable: `sub=app.current_user_id,…`): claims of a token, each with the variable it gives its value";
        let mut read: Vec<(String, String)> = Vec::new();
        for (claim, target) in pairs(value).ok_or(expected)? {
            let mut variable = String::new();
            Variable(&mut variable).read(&target)?;
            if claim.is_empty() {
                return Err(expected.into());
            }
            if read.iter().any(|(_, other)| other.eq_ignore_ascii_case(&variable)) {
                return Err(format!("two claims give {variable} its value"));
            }
            read.push((claim, variable));
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        table(&self.0.iter().map(|(claim, variable)| (claim.clone(), quoted(variable))).collect::<Vec<_>>())
    }
}

struct KeysUrl<'a>(&'a mut Option<String>);

impl Field for KeysUrl<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let mut url = None;
        Text(&mut url).read(value)?;
        url.as_deref().map_or(Ok(()), token::check_url)?;
        *self.0 = url;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0.as_deref().unwrap_or_default())
    }
}

struct PublicKey<'a>(&'a mut Option<String>);

impl Field for PublicKey<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let text = value.text().ok_or("expected a JWK or a public key as PEM, in quotes")?;
        if !text.is_empty() {
            KeySet::read(text.as_bytes(), Secrecy::Private).map_err(|error| error.to_string())?;
        }
        *self.0 = Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0.as_deref().unwrap_or_default())
    }

    /// It may be a secret all the same.
    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

/// Names with what stands behind each: a table, or in a variable `name=value,…`.
fn pairs(value: &Value) -> Option<Vec<(String, Value)>> {
    let pair = |text: &str| {
        let (name, value) = text.split_once('=')?;
        Some((name.trim().to_owned(), Value::Word(value.trim().to_owned())))
    };
    match value {
        Value::Table(entries) => Some(entries.clone()),
        Value::Word(_) => value.texts()?.into_iter().map(pair).collect(),
        _ => None,
    }
}

/// Names and values as an inline table.
fn table(entries: &[(String, String)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
}

struct Level<'a>(&'a mut String);

impl Field for Level<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let expected = "expected error, warn, info, debug, trace or off, or filters such as \"info,pgusher::pool=debug\"";
        let text = value.text().filter(|text| !text.trim().is_empty()).ok_or(expected)?;
        log::check_level(text).map_err(|error| format!("{expected} ({error})"))?;
        *self.0 = text.to_owned();
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }
}

/// A list of quoted texts.
fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

const DURATION: &str = "such as \"200ms\", \"5s\" or \"1h30m\"";
const INHERIT: &str = "inherit";
const LISTEN_PORT: u16 = 6432;
const MOST_BYTES: usize = 1 << 30;
const OFF: &str = "off";

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Value {
        Value::List(items.iter().map(|item| Value::Text((*item).into())).collect())
    }

    fn word(text: &str) -> Value {
        Value::Word(text.into())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn a_refused_value_leaves_the_field_as_it_was() {
        let mut number = 7_usize;
        for value in
            [Value::Integer(0), Value::Integer(10), Value::Integer(-1), text("5"), word("x"), word("1e3")]
        {
            assert_eq!(
                count(&mut number, 1..=9).read(&value),
                Err("expected a whole number from 1 to 9".into())
            );
        }
        assert_eq!(number, 7);
        assert_eq!(count(&mut number, 1..=9).read(&word("9")), Ok(()));
        assert_eq!(number, 9);
    }

    #[test]
    fn numbers_too_large_for_the_field_are_refused() {
        let mut uses = None;
        let huge = Value::Integer(i128::from(u64::MAX) + 1);
        assert!(limit(&mut uses, u64::MAX).read(&huge).is_err());
        assert!(limit(&mut uses, u64::MAX).read(&Value::Integer(0)).is_err());
        assert_eq!(limit(&mut uses, u64::MAX).read(&word("18446744073709551615")), Ok(()));
        assert_eq!(uses, Some(u64::MAX));
        assert_eq!(limit(&mut uses, u64::MAX).read(&text("unlimited")), Ok(()));
        assert_eq!(uses, None);
    }

    #[test]
    fn zero_means_what_its_kind_of_duration_says() {
        let (mut some, mut off, mut at_once) = (Duration::from_secs(1), Some(Duration::ZERO), None);

        assert!(duration(&mut some).read(&text("0")).is_err());
        assert_eq!(delay(&mut some).read(&Value::Integer(0)), Ok(()));
        assert_eq!(period(&mut off).read(&text("0s")), Ok(()));
        assert_eq!(period_or_at_once(&mut at_once).read(&word("0")), Ok(()));

        assert_eq!((some, off, at_once), (Duration::ZERO, None, Some(Duration::ZERO)));
        assert_eq!(period_or_at_once(&mut at_once).read(&text("off")), Ok(()));
        assert_eq!(at_once, None);
        assert!(period(&mut off).read(&Value::Integer(5)).is_err());
    }

    #[test]
    fn addresses_are_addresses_with_or_without_a_port() {
        for (value, expected) in [
            (text("127.0.0.1:1"), vec!["127.0.0.1:1"]),
            (text("127.0.0.1"), vec!["127.0.0.1:6432"]),
            (text("::1"), vec!["[::1]:6432"]),
            (text("localhost:1"), vec!["127.0.0.1:1"]),
            (text("*"), vec!["0.0.0.0:6432"]),
            (texts(&["*:1", "[::]:2"]), vec!["0.0.0.0:1", "[::]:2"]),
            (word("127.0.0.1:1, [::1]:2"), vec!["127.0.0.1:1", "[::1]:2"]),
        ] {
            let mut found = Vec::new();
            assert_eq!(addresses(&mut found).read(&value), Ok(()), "{value:?}");
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
        for value in
            [text(""), text("db:1"), text("1.2.3.4:99999"), texts(&[]), texts(&["*", "x"]), Value::Integer(1)]
        {
            assert!(addresses(&mut Vec::new()).read(&value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_listener_can_be_switched_off() {
        for (value, expected) in [
            (text("127.0.0.1:1"), Some("127.0.0.1:1")),
            (text("*"), Some("0.0.0.0:9930")),
            (text("off"), None),
            (text(""), None),
            (Value::Bool(false), None),
        ] {
            let mut found = Some(SocketAddr::from(([1, 2, 3, 4], 5)));
            assert_eq!(listener(&mut found, 9930).read(&value), Ok(()), "{value:?}");
            assert_eq!(found.map(|address| address.to_string()).as_deref(), expected);
        }
        for value in [text("here"), texts(&["*"]), Value::Integer(9930), Value::Bool(true)] {
            assert!(listener(&mut None, 9930).read(&value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn permissions_are_octal_in_quotes() {
        let mut mode = 0;
        assert_eq!(permissions(&mut mode).read(&text("0770")), Ok(()));
        assert_eq!(mode, 0o770);
        for value in [text("999"), text("1777"), text("+7"), text("-7"), Value::Integer(0o770), text("")] {
            assert!(permissions(&mut mode).read(&value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_variable_has_two_parts_or_more() {
        let mut name = String::new();
        for good in ["app.current_user_id", "a.b.c", "_a._b$1"] {
            assert_eq!(variable(&mut name).read(&text(good)), Ok(()), "{good}");
        }
        for bad in ["user", "app.", ".a", "app.1a", "app.a b", "app.a;b", "app.\u{e4}", "", "app.a'b"] {
            assert!(variable(&mut name).read(&text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn further_variables_have_names_and_patterns() {
        let entries = |entries: &[(&str, &str)]| {
            Value::Table(entries.iter().map(|(name, value)| ((*name).into(), text(value))).collect())
        };
        let mut found = Vec::new();
        for value in
            [entries(&[("app.tenant", "any"), ("app.n", "integer")]), word("app.tenant=any, app.n = integer")]
        {
            assert_eq!(variables(&mut found).read(&value), Ok(()));
            assert_eq!(variables(&mut found).show(), r#"{ "app.tenant" = "any", "app.n" = "integer" }"#);
        }
        for value in [
            entries(&[("tenant", "any")]),
            entries(&[("app.tenant", "number")]),
            entries(&[("app.tenant", "any"), ("App.Tenant", "uuid")]),
            word("app.tenant"),
            text("app.tenant=any"),
        ] {
            assert!(variables(&mut found).read(&value).is_err(), "{value:?}");
        }
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn secrets_are_never_shown() {
        let (mut password, mut place) = (Some(Secret::from("hunter2")), None);

        assert!(!secret(&mut password).show().contains("hunter2"));
        assert_eq!(secret(&mut password).redact(&text("hunter2")), HIDDEN);
        assert_eq!(url(&mut place).redact(&text("postgres://u:hunter2@h")), "\"postgres://…@h\"");
        assert_eq!(url(&mut place).redact(&Value::Integer(4242)), HIDDEN);
    }
}
