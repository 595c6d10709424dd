//! Who may come in from where, and how they must prove themselves: rules in the words of `pg_hba.conf`.
//!
//! Operators know that file, so a rule is one of its lines: `hostssl shop,stock all 10.0.0.0/8 scram-sha-256`. What is not
//! understood here (host names, `samenet`, `samerole`, `+group`, regular expressions, other methods) is refused when it is
//! read: a rule that silently never matched would let the next one decide.
//!
//! # Promises
//! - [`decide`] is a function of the rules and of what a client says: the first rule that matches, in the order they were
//!   written, or none. It does not know which users and databases there are, so its answer cannot tell.
//! - `all` is every database, but not physical replication; that is `replication`, as in PostgreSQL.
//! - A keyword in double quotes is a name.
//!
//! # Refuses
//! To look at a connection, to authenticate anybody.
//!
//! PostgreSQL docs, "The pg_hba.conf File"; `parse_hba_line` and `check_hba` in hba.c.

use core::net::IpAddr;
use std::fmt;

use crate::auth::Method;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    kind: Kind,
    databases: Vec<DatabaseWord>,
    users: Vec<UserWord>,
    from: From,
    /// What whoever matches has to do.
    pub demand: Demand,
}

/// What kind of connection a rule is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// TCP, encrypted or not.
    Host,
    /// TCP without TLS.
    HostNoSsl,
    /// TCP inside TLS.
    HostSsl,
    /// A unix socket.
    Local,
}

impl Kind {
    const WORDS: [(&str, Self); 4] = [
        ("local", Self::Local),
        ("host", Self::Host),
        ("hostssl", Self::HostSsl),
        ("hostnossl", Self::HostNoSsl),
    ];
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum DatabaseWord {
    All,
    Name(Box<[u8]>),
    /// Physical replication, which names no database.
    Replication,
    /// The one named as the user.
    SameUser,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum UserWord {
    All,
    Name(Box<[u8]>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Anywhere,
    /// An address, of which so many leading bits count.
    Network(IpAddr, u8),
    /// An address of this machine.
    SameHost,
}

/// What a client must do to be let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Demand {
    /// Show a certificate for this user, as a map says if one is named.
    Cert(Option<Box<str>>),
    /// Be run by an operating system user of that name, or as a map says if one is named.
    Peer(Option<Box<str>>),
    /// Prove itself by this method.
    Prove(Method),
    /// Go away.
    Reject,
}

/// What a client is, as far as it matters to rules.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    /// How it is connected.
    pub transport: Transport,
    /// The database it asks for.
    pub database: &'a [u8],
    /// Who it says it is.
    pub user: &'a [u8],
    /// Whether it wants to replicate physically.
    pub is_replication: bool,
}

/// How a client is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Over a unix socket.
    Local,
    /// Over TCP.
    Tcp {
        /// Its address.
        remote: IpAddr,
        /// The address of ours that it reached.
        local: IpAddr,
        /// Whether TLS is spoken.
        is_encrypted: bool,
    },
}

/// The first rule that matches.
pub fn decide<'r>(rules: &'r [Rule], knock: &Knock<'_>) -> Option<&'r Rule> {
    rules.iter().find(|rule| rule.matches(knock))
}

impl Rule {
    /// The words for the kind of connection.
    pub const KINDS: [&str; 4] = [Kind::WORDS[0].0, Kind::WORDS[1].0, Kind::WORDS[2].0, Kind::WORDS[3].0];

    /// The words for what is demanded.
    pub const METHODS: [&str; 7] = ["scram-sha-256", "md5", "password", "trust", "peer", "cert", "reject"];

    /// Reads one line.
    ///
    /// # Errors
    /// Which of its fields is not understood, and why.
    pub fn parse(line: &str) -> Result<Self, BadRule> {
        let fields = fields(line)?;
        let mut rest = fields.iter().enumerate().map(|(index, field)| (index, field.as_slice()));
        let mut next = |cause| rest.next().ok_or(BadRule { field: None, cause });
        let (index, field) = next(Cause::Empty)?;
        let kind = kind(field).ok_or(at(index, Cause::UnknownKind))?;
        let (index, field) = next(Cause::TooShort)?;
        let databases = each(field, |word| database(word).ok_or(at(index, Cause::Unsupported)))?;
        let (index, field) = next(Cause::TooShort)?;
        let users = each(field, |word| user(word).ok_or(at(index, Cause::Unsupported)))?;
        let from = match kind {
            Kind::Local => From::Anywhere,
            _ => from(&mut next)?,
        };
        let (index, field) = next(Cause::TooShort)?;
        let method = index;
        let mut demand = demand(field).ok_or(at(index, Cause::UnknownMethod))?;
        for (index, field) in rest {
            demand = with_option(demand, field).ok_or(at(index, Cause::UnknownOption))?;
        }
        match (&demand, kind) {
            (Demand::Peer(_), Kind::Host | Kind::HostNoSsl | Kind::HostSsl) => {
                Err(at(method, Cause::NeedsLocal))
            }
            (Demand::Cert(_), Kind::Host | Kind::HostNoSsl | Kind::Local) => Err(at(method, Cause::NeedsTls)),
            _ => Ok(Self { kind, databases, users, from, demand }),
        }
    }

    fn matches(&self, knock: &Knock<'_>) -> bool {
        let is_kind = match (self.kind, knock.transport) {
            (Kind::Local, Transport::Local) | (Kind::Host, Transport::Tcp { .. }) => true,
            (Kind::HostSsl, Transport::Tcp { is_encrypted, .. }) => is_encrypted,
            (Kind::HostNoSsl, Transport::Tcp { is_encrypted, .. }) => !is_encrypted,
            _ => false,
        };
        is_kind
            && self.from.holds(knock.transport)
            && self.databases.iter().any(|word| word.matches(knock))
            && self.users.iter().any(|word| match word {
                UserWord::All => true,
                UserWord::Name(name) => **name == *knock.user,
            })
    }
}

impl DatabaseWord {
    fn matches(&self, knock: &Knock<'_>) -> bool {
        match self {
            Self::Replication => knock.is_replication,
            _ if knock.is_replication => false,
            Self::All => true,
            Self::Name(name) => **name == *knock.database,
            Self::SameUser => knock.database == knock.user,
        }
    }
}

impl From {
    fn holds(self, transport: Transport) -> bool {
        let Transport::Tcp { remote, local, .. } = transport else { return true };
        // A listener for both families gives IPv4 clients as ::ffff:a.b.c.d.
        let (remote, local) = (remote.to_canonical(), local.to_canonical());
        match self {
            Self::Anywhere => true,
            Self::Network(network, bits) => is_within(remote, network, bits),
            Self::SameHost => remote == local || remote.is_loopback(),
        }
    }
}

/// Whether the leading `bits` are the same; addresses of different families are not.
fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

/// One of the comma-separated words of a field.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    /// The word, if it may be a keyword.
    fn bare(&self) -> Option<&str> {
        (!self.is_quoted).then_some(&self.text)
    }

    fn name(&self) -> Box<[u8]> {
        self.text.as_bytes().into()
    }
}

/// The only word of a field, bare.
fn only(field: &[Word]) -> Option<&str> {
    match field {
        [word] => word.bare(),
        _ => None,
    }
}

fn each<T>(field: &[Word], read: impl Fn(&Word) -> Result<T, BadRule>) -> Result<Vec<T>, BadRule> {
    field.iter().map(read).collect()
}

fn kind(field: &[Word]) -> Option<Kind> {
    let word = only(field)?;
    Kind::WORDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind)
}

fn database(word: &Word) -> Option<DatabaseWord> {
    match word.bare() {
        Some("all") => Some(DatabaseWord::All),
        Some("replication") => Some(DatabaseWord::Replication),
        Some("sameuser") => Some(DatabaseWord::SameUser),
        Some("samerole" | "samegroup") => None,
        Some(other) if other.starts_with(['/', '+', '@']) => None,
        _ => Some(DatabaseWord::Name(word.name())),
    }
}

fn user(word: &Word) -> Option<UserWord> {
    match word.bare() {
        Some("all") => Some(UserWord::All),
        Some(other) if other.starts_with(['/', '+', '@']) => None,
        _ => Some(UserWord::Name(word.name())),
    }
}

/// `all`, `samehost`, an address, an address/bits, or an address and a mask in a field of its own.
fn from<'f>(next: &mut impl FnMut(Cause) -> Result<(usize, &'f [Word]), BadRule>) -> Result<From, BadRule> {
    let (index, field) = next(Cause::TooShort)?;
    let text = only(field).ok_or(at(index, Cause::BadAddress))?;
    match text {
        "all" => return Ok(From::Anywhere),
        "samehost" => return Ok(From::SameHost),
        "samenet" => return Err(at(index, Cause::Unsupported)),
        _ => {}
    }
    if let Some((address, bits)) = text.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| at(index, Cause::BadAddress))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_number = bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = bits.parse().ok().filter(|bits| is_number && *bits <= most);
        return Ok(From::Network(address, bits.ok_or(at(index, Cause::BadAddress))?));
    }
    let address: IpAddr = text.parse().map_err(|_| at(index, Cause::BadAddress))?;
    let (index, field) = next(Cause::MissingMask)?;
    let mask = only(field).and_then(|mask| mask.parse().ok()).ok_or(at(index, Cause::MissingMask))?;
    let bits = match (address, mask) {
        (IpAddr::V4(_), IpAddr::V4(mask)) => leading(mask.to_bits().into(), 32),
        (IpAddr::V6(_), IpAddr::V6(mask)) => leading(mask.to_bits(), 128),
        _ => None,
    };
    Ok(From::Network(address, bits.ok_or(at(index, Cause::BadMask))?))
}

/// How many ones a mask of `width` bits begins with, if they are all it has.
fn leading(mask: u128, width: u32) -> Option<u8> {
    let mask = mask.checked_shl(128_u32.saturating_sub(width)).unwrap_or(0);
    (mask.count_ones() == mask.leading_ones()).then(|| u8::try_from(mask.leading_ones()).ok())?
}

fn demand(field: &[Word]) -> Option<Demand> {
    match only(field)? {
        "cert" => Some(Demand::Cert(None)),
        "peer" => Some(Demand::Peer(None)),
        "reject" => Some(Demand::Reject),
        method => method.parse().ok().map(Demand::Prove),
    }
}

fn with_option(demand: Demand, field: &[Word]) -> Option<Demand> {
    let [Word { text, .. }] = field else { return None };
    let map = text.strip_prefix("map=").filter(|map| !map.is_empty())?;
    match demand {
        Demand::Cert(None) => Some(Demand::Cert(Some(map.into()))),
        Demand::Peer(None) => Some(Demand::Peer(Some(map.into()))),
        _ => None,
    }
}

/// Splits a line as `next_field_expand` does: fields by blanks, words of a field by commas, `#` begins a comment.
fn fields(line: &str) -> Result<Vec<Vec<Word>>, BadRule> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut rest = line;
    let mut goes_on = false;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(fields);
        }
        let (word, after) = word(rest).ok_or(BadRule { field: None, cause: Cause::Unclosed })?;
        match fields.last_mut().filter(|_| goes_on) {
            Some(field) => field.push(word),
            None => fields.push(vec![word]),
        }
        goes_on = after.starts_with(',');
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// The word at the front, and what follows; `None` if a quote is not closed. Quotes may be anywhere in it.
fn word(text: &str) -> Option<(Word, &str)> {
    let mut word = Word { text: String::new(), is_quoted: text.starts_with('"') };
    let mut is_inside = false;
    for (index, c) in text.char_indices() {
        match c {
            '"' => is_inside = !is_inside,
            ',' | '#' if !is_inside => return Some((word, text.get(index..)?)),
            c if c.is_whitespace() && !is_inside => return Some((word, text.get(index..)?)),
            c => word.text.push(c),
        }
    }
    (!is_inside).then_some((word, ""))
}

/// The text of one field of a line, for a message about it.
pub fn field(line: &str, index: usize) -> Option<String> {
    let words = fields(line).ok()?.into_iter().nth(index)?;
    Some(words.into_iter().map(|word| word.text).collect::<Vec<_>>().join(","))
}

fn at(field: usize, cause: Cause) -> BadRule {
    BadRule { field: Some(field), cause }
}

/// Why a line is no rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadRule {
    /// The field that is wrong, from 0; `None` is the line as a whole.
    pub field: Option<usize>,
    /// What is wrong.
    pub cause: Cause,
}

/// Every way a line can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Not an address as it is written here.
    BadAddress,
    /// A mask of the other family, or with zeros among its ones.
    BadMask,
    /// There is nothing.
    Empty,
    /// An address without bits and without a mask.
    MissingMask,
    /// `peer` on something other than `local`.
    NeedsLocal,
    /// `cert` on something other than `hostssl`.
    NeedsTls,
    /// Fields are missing.
    TooShort,
    /// A double quote is not closed.
    Unclosed,
    /// The first field.
    UnknownKind,
    /// Not a method that there is.
    UnknownMethod,
    /// Something after the method that the method does not have.
    UnknownOption,
    /// PostgreSQL knows it, and this does not.
    Unsupported,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadAddress => {
                "expected an address with its bits (10.0.0.0/8, ::1/128), an address and a mask, all, or samehost; names are not looked up"
            }
            Self::BadMask => "the mask does not fit the address",
            Self::Empty => "the rule is empty",
            Self::MissingMask => "expected a mask, or bits after the address (10.0.0.1/32)",
            Self::NeedsLocal => "the system knows who is at the other end of a unix socket only: use it with local",
            Self::NeedsTls => "a certificate is shown inside TLS only: use it with hostssl",
            Self::TooShort => "expected type, database, user, address (but for local) and method, as in pg_hba.conf",
            Self::Unclosed => "a double quote is not closed",
            Self::UnknownKind => "expected local, host, hostssl or hostnossl",
            Self::UnknownMethod => {
                "expected scram-sha-256, md5, password, trust, peer, cert or reject"
            }
            Self::UnknownOption => "the only option is map=NAME, of peer and cert",
            Self::Unsupported => "not supported: groups, files, regular expressions, samerole and samenet",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn rules(lines: &[&str]) -> Vec<Rule> {
        lines.iter().map(|line| Rule::parse(line).unwrap_or_else(|bad| panic!("{line}: {bad:?}"))).collect()
    }

    fn tcp(remote: &str, is_encrypted: bool) -> Transport {
        Transport::Tcp { remote: remote.parse().unwrap(), local: "192.0.2.1".parse().unwrap(), is_encrypted }
    }

    fn decided(lines: &[&str], transport: Transport, database: &str, user: &str) -> Option<usize> {
        let rules = rules(lines);
        let knock = Knock {
            transport,
            database: database.as_bytes(),
            user: user.as_bytes(),
            is_replication: database == "(physical)",
        };
        let rule = decide(&rules, &knock)?;
        rules.iter().position(|other| std::ptr::eq(other, rule))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let lines = [
            "local all postgres peer map=admins",
            "local all all scram-sha-256",
            "hostssl shop,\"stock\" all 10.0.0.0/8 cert",
            "hostnossl shop all 10.0.0.0/8 reject",
            "host sameuser all 10.0.0.0/8 md5",
            "host replication repl 10.1.0.0 255.255.0.0 scram-sha-256",
            "host all app,other ::1/128 password # by hand",
            "host all all samehost trust",
            "host \"all\" ann all trust",
        ];
        for (transport, database, user, expected) in [
            (Transport::Local, "shop", "postgres", Some(0)),
            (Transport::Local, "shop", "app", Some(1)),
            (Transport::Local, "(physical)", "app", None),
            (tcp("10.2.3.4", true), "shop", "app", Some(2)),
            (tcp("10.2.3.4", true), "stock", "app", Some(2)),
            (tcp("10.2.3.4", true), "other", "app", None),
            (tcp("10.2.3.4", false), "shop", "app", Some(3)),
            (tcp("::ffff:10.2.3.4", false), "shop", "app", Some(3)),
            (tcp("11.0.0.0", false), "shop", "app", None),
            (tcp("10.0.0.1", false), "app", "app", Some(4)),
            (tcp("10.1.9.9", false), "(physical)", "repl", Some(5)),
            (tcp("10.2.9.9", false), "(physical)", "repl", None),
            (tcp("10.1.9.9", false), "replication", "repl", None),
            (tcp("::1", false), "x", "other", Some(6)),
            (tcp("::1", false), "x", "others", Some(7)),
            (tcp("::2", false), "x", "other", None),
            (tcp("192.0.2.1", false), "x", "any", Some(7)),
            (tcp("192.0.2.2", false), "x", "any", None),
            (tcp("192.0.2.2", false), "all", "ann", Some(8)),
            (tcp("192.0.2.2", false), "x", "ann", None),
        ] {
            assert_eq!(
                decided(&lines, transport, database, user),
                expected,
                "{transport:?} {database} {user}"
            );
        }
    }

    #[test]
    fn every_number_of_bits_is_a_network() {
        for bits in 0..=32_u32 {
            let line = format!("host all all 255.255.255.255/{bits} trust");
            let outside = u32::MAX.checked_sub(1_u32.checked_shl(32 - bits).unwrap_or(0));
            let within = (u64::from(u32::MAX) + 1 - (1_u64 << (32 - bits))) as u32;
            assert_eq!(
                decided(&[&line], tcp(&core::net::Ipv4Addr::from(within).to_string(), false), "d", "u"),
                Some(0)
            );
            if let Some(outside) = outside.filter(|_| bits > 0) {
                let outside = core::net::Ipv4Addr::from(outside).to_string();
                assert_eq!(decided(&[&line], tcp(&outside, false), "d", "u"), None, "{bits} {outside}");
            }
        }
        assert_eq!(decided(&["host all all ::/0 trust"], tcp("::5", false), "d", "u"), Some(0));
        assert_eq!(decided(&["host all all 0.0.0.0/0 trust"], tcp("::5", false), "d", "u"), None);
    }

    #[test]
    fn without_a_rule_nobody_comes_in() {
        assert_eq!(decided(&[], Transport::Local, "d", "u"), None);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_field() {
        for (line, field, cause) in [
            ("", None, Cause::Empty),
            ("# host all all all trust", None, Cause::Empty),
            ("hots all all all trust", Some(0), Cause::UnknownKind),
            ("host,local all all all trust", Some(0), Cause::UnknownKind),
            ("host", None, Cause::TooShort),
            ("host all all all", None, Cause::TooShort),
            ("host samerole all all trust", Some(1), Cause::Unsupported),
            ("host all a,+admins all trust", Some(2), Cause::Unsupported),
            ("host all /^a all trust", Some(2), Cause::Unsupported),
            ("host all all db.internal trust", Some(3), Cause::BadAddress),
            ("host all all 10.0.0.0/33 trust", Some(3), Cause::BadAddress),
            ("host all all 10.0.0.0/+8 trust", Some(3), Cause::BadAddress),
            ("host all all ::1/129 trust", Some(3), Cause::BadAddress),
            ("host all all samenet trust", Some(3), Cause::Unsupported),
            ("host all all 10.0.0.0 trust", Some(4), Cause::MissingMask),
            ("host all all 10.0.0.0 255.0.255.0 trust", Some(4), Cause::BadMask),
            ("host all all 10.0.0.0 ffff:: trust", Some(4), Cause::BadMask),
            ("host all all all scram", Some(4), Cause::UnknownMethod),
            ("local all all 10.0.0.0/8 trust", Some(3), Cause::UnknownMethod),
            ("local all all trust map=x", Some(4), Cause::UnknownOption),
            ("local all all peer map=", Some(4), Cause::UnknownOption),
            ("host all all all peer", Some(4), Cause::NeedsLocal),
            ("host all all all cert", Some(4), Cause::NeedsTls),
            ("local all \"all trust", None, Cause::Unclosed),
        ] {
            assert_eq!(Rule::parse(line), Err(BadRule { field, cause }), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "((host|local|hostssl|all|trust|peer|[a-z0-9./:,\"# =+-]){1,3} ?){0,7}", other in any::<String>()) {
            for line in [&line, &other] {
                if let Ok(rule) = Rule::parse(line) {
                    let knock = Knock { transport: tcp("10.0.0.1", true), database: b"d", user: b"u", is_replication: false };
                    let _ = rule.matches(&knock);
                }
                let _ = field(line, 3);
            }
        }
    }
}
