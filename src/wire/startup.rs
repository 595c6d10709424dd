//! The untagged packets: what a stranger's first bytes may be.
//!
//! These are the only bytes read from somebody of whom nothing is known, so everything is refused as early as it
//! can be: the length after four bytes, the kind after eight, the layout before a single parameter is kept.
//!
//! The walk is over bytes and our own: pgwire decodes names and values with `from_utf8_lossy` into a map, which
//! changes names that are not UTF-8, loses the order and forgives a missing terminator.
//!
//! # Promises
//! - Nothing is allocated by a length that a stranger sent; a packet is 8 to [`MAX_STARTUP_PACKET`] bytes.
//! - Names and values are the bytes that came; order and duplicates are kept.
//! - [`take`] leaves the inbox as it is until a packet is complete, and takes no byte beyond it.
//!
//! # Refuses
//! To know what may come when (that is `session::opening`), and to judge names.
//!
//! PostgreSQL docs, "Message Formats" (CancelRequest, GSSENCRequest, SSLRequest, StartupMessage);
//! `ProcessStartupPacket` in `backend_startup.c`.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use bytes::Buf;
use bytes::BytesMut;

use crate::names::ClientKey;
use crate::names::MAX_CANCEL_SECRET;
use crate::names::Printable;
use crate::wire::write::CANCEL_REQUEST_CODE;
use crate::wire::write::GSS_ENC_REQUEST_CODE;
use crate::wire::write::SSL_REQUEST_CODE;

/// The longest packet a stranger may send, its length field included (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP_PACKET: usize = 10_000;

/// The most settings a stranger may have kept. PostgreSQL has no such bound, and needs none, with a process for each; here, a packet
/// of settings of one letter takes twenty times its size for as long as the proof of who sent it is awaited.
pub const MAX_SETTINGS: usize = 500;

/// The newest minor version of protocol 3 there is (PostgreSQL 18).
pub const NEWEST_MINOR: u16 = 2;

/// The shortest secret of a cancel key.
const MIN_CANCEL_SECRET: usize = 4;

/// The first byte of a TLS record that carries a ClientHello: direct TLS (`sslnegotiation=direct`).
/// As a startup packet it would be one of 369 MB.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// A name and its value.
pub type Setting = (Box<[u8]>, Box<[u8]>);

/// One untagged packet.
#[derive(Clone, Debug)]
pub enum Packet {
    /// "Cancel what the session with this key is doing."
    Cancel(ClientKey),
    /// "Shall we use GSSAPI encryption?"
    GssEncRequest,
    /// "Shall we use TLS?"
    SslRequest,
    /// "I am this user and want that database."
    Startup(StartupMessage),
}

/// Takes the packet at the front of the inbox, if it is complete.
pub fn take(inbox: &mut BytesMut) -> Result<Option<Packet>, StartupError> {
    let Some(length) = inbox.first_chunk().copied().map(u32::from_be_bytes) else { return Ok(None) };
    let total = usize::try_from(length)
        .ok()
        .filter(|total| (8..=MAX_STARTUP_PACKET).contains(total))
        .ok_or(StartupError::BadLength(length))?;
    let Some(code) = inbox.get(4..8).and_then(|bytes| bytes.first_chunk().copied()).map(u32::from_be_bytes)
    else {
        return Ok(None);
    };
    let kind = Kind::of(code, total)?;
    if inbox.len() < total {
        return Ok(None);
    }

    let mut body = inbox.split_to(total);
    body.advance(8);
    kind.decode(&body).map(Some)
}

/// What a packet is, known from its first eight bytes.
#[derive(Clone, Copy)]
enum Kind {
    Cancel,
    GssEncRequest,
    SslRequest,
    Startup { minor: u16 },
}

impl Kind {
    fn of(code: u32, total: usize) -> Result<Self, StartupError> {
        let [a, b, c, d] = code.to_be_bytes();
        let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        match code {
            SSL_REQUEST_CODE if total == 8 => Ok(Self::SslRequest),
            GSS_ENC_REQUEST_CODE if total == 8 => Ok(Self::GssEncRequest),
            SSL_REQUEST_CODE | GSS_ENC_REQUEST_CODE => Err(StartupError::BadLayout),
            CANCEL_REQUEST_CODE => Ok(Self::Cancel),
            _ if major == 3 => Ok(Self::Startup { minor }),
            _ => Err(StartupError::UnsupportedVersion { major, minor }),
        }
    }

    fn decode(self, body: &[u8]) -> Result<Packet, StartupError> {
        match self {
            Self::Cancel => cancel(body).map(Packet::Cancel),
            Self::GssEncRequest => Ok(Packet::GssEncRequest),
            Self::SslRequest => Ok(Packet::SslRequest),
            Self::Startup { minor } => StartupMessage::decode(minor, body).map(Packet::Startup),
        }
    }
}

fn cancel(body: &[u8]) -> Result<ClientKey, StartupError> {
    let (process_id, secret) = body.split_first_chunk().ok_or(StartupError::BadCancelSecret)?;
    if !(MIN_CANCEL_SECRET..=MAX_CANCEL_SECRET).contains(&secret.len()) {
        return Err(StartupError::BadCancelSecret);
    }
    Ok(ClientKey::new(u32::from_be_bytes(*process_id), secret))
}

/// A StartupMessage of protocol 3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartupMessage {
    /// The minor version the client asks for, whatever it is.
    minor: u16,
    /// As they came, without the `_pq_.` ones. No name is empty.
    parameters: Vec<Setting>,
    /// The names that begin with `_pq_.`: protocol options, none of which we know.
    protocol_options: Vec<Box<[u8]>>,
}

impl StartupMessage {
    /// `body` follows the version number: pairs of C strings, and a NUL as the very last byte.
    fn decode(minor: u16, body: &[u8]) -> Result<Self, StartupError> {
        let mut message = Self { minor, parameters: Vec::new(), protocol_options: Vec::new() };
        let mut rest = body;
        loop {
            let name = take_cstring(&mut rest).ok_or(StartupError::BadLayout)?;
            if name.is_empty() {
                break;
            }
            let value = take_cstring(&mut rest).ok_or(StartupError::BadLayout)?;
            if name.starts_with(b"_pq_.") {
                message.protocol_options.push(name.into());
            } else {
                message.parameters.push((name.into(), value.into()));
            }
        }
        if rest.is_empty() { Ok(message) } else { Err(StartupError::BadLayout) }
    }

    /// The minor version the two of us will speak: what was asked, but none newer than [`NEWEST_MINOR`].
    /// There is no 3.1 (PgBouncer once took it for an error); who asks for it is served as 3.0 would be.
    pub fn minor(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    /// Whether the client must be told by NegotiateProtocolVersion that it does not get all it asked for.
    pub fn needs_negotiation(&self) -> bool {
        self.minor > NEWEST_MINOR || !self.protocol_options.is_empty()
    }

    /// The protocol options asked for, all of them unknown to us.
    pub fn protocol_options(&self) -> &[Box<[u8]>] {
        &self.protocol_options
    }

    /// All parameters in their order, `user` and the like among them.
    pub fn parameters(&self) -> &[Setting] {
        &self.parameters
    }

    /// The role; `None` if missing or empty.
    pub fn user(&self) -> Option<&[u8]> {
        self.value(b"user").filter(|user| !user.is_empty())
    }

    /// The database; `None` if missing or empty, which means the one named as the user.
    pub fn database(&self) -> Option<&[u8]> {
        self.value(b"database").filter(|database| !database.is_empty())
    }

    /// The command-line options, unread; see [`parse_options`].
    pub fn options(&self) -> Option<&[u8]> {
        self.value(b"options")
    }

    /// Whether this is to be a replication connection, and which kind.
    pub fn replication(&self) -> Result<Replication, StartupError> {
        let Some(value) = self.value(b"replication") else { return Ok(Replication::None) };
        if value == b"database" {
            return Ok(Replication::Logical);
        }
        match boolean(value) {
            Some(true) => Ok(Replication::Physical),
            Some(false) => Ok(Replication::None),
            None => Err(StartupError::BadReplication),
        }
    }

    /// The last of that name, as in PostgreSQL.
    fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.parameters.iter().rev().find(|(candidate, _)| **candidate == *name).map(|(_, value)| &**value)
    }
}

/// What a session is for (PostgreSQL docs, "Streaming Replication Protocol").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replication {
    /// `replication=database`: a walsender that is connected to a database.
    Logical,
    /// An ordinary session.
    #[default]
    None,
    /// `replication=true`: a walsender without a database.
    Physical,
}

/// PostgreSQL's `parse_bool`: unambiguous beginnings of words, in any case.
fn boolean(value: &[u8]) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &[u8], least: usize| value.len() >= least && word.starts_with(&value);
    if value == b"1" || begins(b"true", 1) || begins(b"yes", 1) || begins(b"on", 2) {
        return Some(true);
    }
    let is_false = value == b"0" || begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2);
    is_false.then_some(false)
}

/// Reads the `options` parameter: `-c name=value`, `-cname=value` and `--name=value`, split at white space that no
/// backslash escapes (`pg_split_opts`), `-` in names meaning `_` (`ParseLongOption`). PostgreSQL's other
/// switches (`-d 1`, `-S 64`) are refused: a setting that is not honoured must not be dropped in silence.
pub fn parse_options(options: &[u8]) -> Result<Vec<Setting>, OptionsError> {
    let mut settings = Vec::new();
    let mut arguments = split_options(options).into_iter();
    while let Some(argument) = arguments.next() {
        let assignment = if let Some(long) = argument.strip_prefix(b"--") {
            long.to_vec()
        } else if argument == b"-c" {
            arguments.next().ok_or_else(|| OptionsError::MissingValue(argument.into()))?
        } else if let Some(attached) = argument.strip_prefix(b"-c") {
            attached.to_vec()
        } else {
            return Err(OptionsError::UnknownSwitch(argument.into()));
        };
        settings.push(setting(&assignment)?);
    }
    Ok(settings)
}

fn setting(assignment: &[u8]) -> Result<Setting, OptionsError> {
    let mut halves = assignment.splitn(2, |byte| *byte == b'=');
    let name = halves.next().unwrap_or_default();
    let value = halves.next().ok_or_else(|| OptionsError::MissingValue(assignment.into()))?;
    if name.is_empty() {
        return Err(OptionsError::MissingName(assignment.into()));
    }
    let name = name.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect();
    Ok((name, value.into()))
}

/// `pg_split_opts` (`postinit.c`): a backslash makes the next byte a part of its argument.
fn split_options(options: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    let mut current: Option<Vec<u8>> = None;
    let mut is_escaped = false;
    for &byte in options {
        if is_escaped {
            is_escaped = false;
            current.get_or_insert_default().push(byte);
        } else if byte == b'\\' {
            is_escaped = true;
            current.get_or_insert_default();
        } else if is_space(byte) {
            arguments.extend(current.take());
        } else {
            current.get_or_insert_default().push(byte);
        }
    }
    arguments.extend(current);
    arguments
}

/// C's `isspace`, which knows the vertical tab that [`u8::is_ascii_whitespace`] does not.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// Takes the bytes before the next NUL, and the NUL; `None` if there is none.
pub(super) fn take_cstring<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(0, rest)?;
    let (text, after) = rest.split_at_checked(end)?;
    *rest = after.get(1..)?;
    Some(text)
}

/// What is wrong with an untagged packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartupError {
    /// A CancelRequest without a process ID, or with a secret that is not of 4 to 256 bytes.
    BadCancelSecret,
    /// The body is not what the kind of packet asks for.
    BadLayout,
    /// Shorter than 8 bytes or longer than [`MAX_STARTUP_PACKET`]: most likely not PostgreSQL's protocol.
    BadLength(u32),
    /// `replication` is neither a boolean nor `database`.
    BadReplication,
    /// More than [`MAX_SETTINGS`], those of `options` among them.
    TooManySettings,
    /// A protocol other than 3, or a request code nobody knows.
    UnsupportedVersion {
        /// The upper half of the number.
        major: u16,
        /// The lower half.
        minor: u16,
    },
}

impl StartupError {
    /// The SQLSTATE PostgreSQL answers with.
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::BadReplication => "22023",
            Self::TooManySettings => "54000",
            Self::UnsupportedVersion { .. } => "0A000",
            Self::BadCancelSecret | Self::BadLayout | Self::BadLength(_) => "08P01",
        }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCancelSecret => f.write_str("invalid length of cancel request"),
            Self::BadLayout => f.write_str("invalid startup packet layout"),
            Self::BadLength(_) => f.write_str("invalid length of startup packet"),
            Self::BadReplication => f.write_str("invalid value for parameter \"replication\""),
            Self::TooManySettings => write!(f, "startup packet has more than {MAX_SETTINGS} settings"),
            Self::UnsupportedVersion { major, minor } => write!(
                f,
                "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"
            ),
        }
    }
}

impl std::error::Error for StartupError {}

/// What cannot be understood of `options`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionsError {
    /// A setting without a name.
    MissingName(Box<[u8]>),
    /// A setting without `=`, or `-c` at the very end.
    MissingValue(Box<[u8]>),
    /// What a startup packet says by that name is no setting.
    NotASetting(Box<[u8]>),
    /// An argument that is neither `-c` nor `--name=value`.
    UnknownSwitch(Box<[u8]>),
}

impl OptionsError {
    /// PostgreSQL's: undefined object, or syntax error.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::NotASetting(_) => "42704",
            _ => "42601",
        }
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingName(argument) => {
                write!(f, "option \"{}\" requires a name before the equals sign", Printable(argument))
            }
            Self::MissingValue(argument) => write!(f, "option \"{}\" requires a value", Printable(argument)),
            Self::NotASetting(name) => {
                write!(f, "unrecognized configuration parameter \"{}\"", Printable(name))
            }
            Self::UnknownSwitch(argument) => {
                write!(f, "invalid command-line argument for server process: {}", Printable(argument))
            }
        }
    }
}

impl std::error::Error for OptionsError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

    use super::*;

    use proptest::prelude::*;

    use crate::wire::write;

    fn taken(bytes: &[u8]) -> Result<Option<Packet>, StartupError> {
        take(&mut BytesMut::from(bytes))
    }

    fn startup(minor: u16, parameters: &[(&str, &str)]) -> StartupMessage {
        let mut bytes = BytesMut::new();
        let parameters = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        write::startup_message(&mut bytes, minor, parameters);
        match take(&mut bytes) {
            Ok(Some(Packet::Startup(message))) => message,
            other => panic!("{other:?}"),
        }
    }

    fn pairs(settings: &[(&str, &str)]) -> Vec<Setting> {
        settings.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect()
    }

    #[test]
    fn requests_are_told_by_their_codes() {
        let secret = [7; 32];
        let mut bytes = BytesMut::new();
        write::ssl_request(&mut bytes);
        bytes.extend_from_slice(b"\0\0\0\x08\x04\xd2\x16\x30");
        write::cancel_request(&mut bytes, 5, &secret);

        assert!(matches!(take(&mut bytes), Ok(Some(Packet::SslRequest))));
        assert!(matches!(take(&mut bytes), Ok(Some(Packet::GssEncRequest))));
        let Ok(Some(Packet::Cancel(key))) = take(&mut bytes) else { panic!("no cancel") };
        assert_eq!((key.process_id(), key.secret()), (5, &secret[..]));
        assert!(bytes.is_empty());
    }

    #[test]
    fn what_is_not_postgresql_is_refused_by_its_first_bytes() {
        assert_eq!(taken(b"GET ").err(), Some(StartupError::BadLength(0x4745_5420)));
        assert_eq!(taken(b"\x16\x03\x01\x00").err(), Some(StartupError::BadLength(0x1603_0100)));
        assert_eq!(taken(b"\0\0\x27\x11").err(), Some(StartupError::BadLength(10_001)));
        assert_eq!(taken(b"\0\0\0\x07").err(), Some(StartupError::BadLength(7)));
        assert_eq!(
            taken(b"\0\0\x27\x10\0\x02\0\0").err(),
            Some(StartupError::UnsupportedVersion { major: 2, minor: 0 })
        );
        assert!(matches!(taken(b"\0\0\x27\x10\0\x03\0"), Ok(None)));
    }

    #[test]
    fn cancel_secrets_have_their_bounds() {
        for (length, is_good) in [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)] {
            let mut bytes = BytesMut::new();
            write::cancel_request(&mut bytes, 1, &vec![1; length]);

            assert_eq!(take(&mut bytes).is_ok(), is_good, "{length}");
        }
        assert_eq!(taken(b"\0\0\0\x08\x04\xd2\x16\x2e").err(), Some(StartupError::BadCancelSecret));
    }

    #[test]
    fn names_stay_bytes_and_the_last_of_a_name_counts() {
        let mut bytes = BytesMut::new();
        let parameters: [(&[u8], &[u8]); 3] = [(b"user", b"x"), (b"user", b"\xff\xfe"), (b"a", b"")];
        write::startup_message(&mut bytes, 0, parameters);
        let Ok(Some(Packet::Startup(message))) = take(&mut bytes) else { panic!("no startup") };

        assert_eq!(message.user(), Some(&b"\xff\xfe"[..]));
        assert_eq!(message.database(), None);
        assert_eq!(message.parameters().len(), 3);
    }

    #[test]
    fn a_body_must_be_pairs_and_a_terminator() {
        for body in [&b""[..], b"user\0ann\0", b"user\0\0", b"user\0ann\0\0x", b"user\0ann\0\0\0", b"user"] {
            let length = u32::try_from(body.len() + 8).unwrap();
            let bytes = [&length.to_be_bytes()[..], b"\0\x03\0\0", body].concat();

            assert_eq!(taken(&bytes).err(), Some(StartupError::BadLayout), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn newer_minors_and_protocol_options_are_negotiated_down() {
        let table = [(0, 0, false), (1, 1, false), (2, 2, false), (3, 2, true), (9999, 2, true)];
        for (asked, spoken, is_negotiated) in table {
            let message = startup(asked, &[("user", "ann")]);

            assert_eq!((message.minor(), message.needs_negotiation()), (spoken, is_negotiated));
        }
        let message = startup(0, &[("user", "ann"), ("_pq_.wish", "1")]);
        assert!(message.needs_negotiation());
        assert_eq!(message.protocol_options(), [Box::from(&b"_pq_.wish"[..])]);
    }

    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        let kind = |value| startup(0, &[("user", "ann"), ("replication", value)]).replication();

        assert_eq!(kind("database"), Ok(Replication::Logical));
        for value in ["true", "on", "yes", "1", "T", "tr"] {
            assert_eq!(kind(value), Ok(Replication::Physical), "{value}");
        }
        for value in ["false", "off", "no", "0", "F"] {
            assert_eq!(kind(value), Ok(Replication::None), "{value}");
        }
        for value in ["", "o", "maybe", "truely"] {
            assert_eq!(kind(value), Err(StartupError::BadReplication), "{value}");
        }
        assert_eq!(startup(0, &[("user", "ann")]).replication(), Ok(Replication::None));
    }

    #[test]
    fn options_are_read_in_every_spelling_and_escape() {
        let table: [(&str, &[(&str, &str)]); 10] = [
            ("", &[]),
            ("  \t\n\x0b ", &[]),
            ("-c a=b", &[("a", "b")]),
            ("-ca=b -c  c=d", &[("a", "b"), ("c", "d")]),
            ("--a=b", &[("a", "b")]),
            ("--work-mem=64MB", &[("work_mem", "64MB")]),
            (r"-c search_path=a,\ b", &[("search_path", "a, b")]),
            (r"-c a=\\b\c\ ", &[("a", r"\bc ")]),
            ("-c a=b=c -c app.user=", &[("a", "b=c"), ("app.user", "")]),
            (r"-c a=b\", &[("a", "b")]),
        ];
        for (options, expected) in table {
            assert_eq!(parse_options(options.as_bytes()), Ok(pairs(expected)), "{options}");
        }
    }

    #[test]
    fn options_that_cannot_be_honoured_are_named() {
        let told = |options: &str| parse_options(options.as_bytes()).map_err(|error| error.to_string());

        assert_eq!(told("-c").err(), Some(r#"option "-c" requires a value"#.into()));
        assert_eq!(told("-c a").err(), Some(r#"option "a" requires a value"#.into()));
        assert_eq!(told("--a").err(), Some(r#"option "a" requires a value"#.into()));
        assert_eq!(told("-c =b").err(), Some(r#"option "=b" requires a name before the equals sign"#.into()));
        assert_eq!(told("-d 5").err(), Some("invalid command-line argument for server process: -d".into()));
        assert_eq!(
            told("-c a=b stray").err(),
            Some("invalid command-line argument for server process: stray".into())
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = taken(&bytes);
            let _ = parse_options(&bytes);
            let length = u32::try_from(bytes.len() + 8).unwrap();
            for code in [b"\0\x03\0\0", &CANCEL_REQUEST_CODE.to_be_bytes()] {
                let _ = taken(&[&length.to_be_bytes()[..], code, &bytes].concat());
            }
        }

        #[test]
        fn what_is_written_is_what_is_read(settings in prop::collection::vec(("[a-z]{1,8}", "[^\0]{0,12}"), 0..8)) {
            let settings: Vec<_> = settings.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let message = startup(0, &settings);

            prop_assert_eq!(message.parameters(), pairs(&settings));
        }
    }
}
