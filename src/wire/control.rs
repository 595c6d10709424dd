//! Control messages, one exact whole frame at a time; the only file that calls pgwire's decoders.
//!
//! A login is a handful of small messages that must be understood, where relaying is millions that need not be.
//! So here, and only here, a frame is taken whole and turned into types.
//!
//! pgwire decodes from whatever is buffered and trusts lengths in it, and its strings are `from_utf8_lossy`.
//! Hence the division of work:
//!
//! | message | decoded by | because |
//! |---|---|---|
//! | Authentication*, BackendKeyData | pgwire, over a copy of the body whose shape was checked first | `get_i32`, `copy_to_slice` and `split_to` panic past the end |
//! | ErrorResponse, NoticeResponse | here | the server's words must reach the client as bytes; `get_u8` panics on a missing terminator |
//! | NegotiateProtocolVersion | here | a missing name is made an empty one, and what follows the list is not seen |
//! | ParameterStatus, ReadyForQuery | [`backend`](crate::wire::backend) | values are bytes; an empty body panics |
//!
//! # Promises
//! - [`take`] refuses a frame by its tag and its length, before it waits for the body.
//! - [`decode`] never panics and never loses a byte that matters; what it accepts, it has read to the last byte.
//!
//! # Refuses
//! The relay path, and any message a login does not need.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use bytes::Bytes;
use bytes::BytesMut;
use pgwire::messages::DecodeContext;
use pgwire::messages::Message;
use pgwire::messages::ProtocolVersion;
use pgwire::messages::startup as decoder;

use crate::names::MAX_CANCEL_SECRET;
use crate::names::Printable;
use crate::names::ServerKey;
use crate::wire::Header;
use crate::wire::Malformed;
use crate::wire::backend as view;
use crate::wire::frame::HEADER;
use crate::wire::frame::backend;
use crate::wire::startup::take_cstring;

/// Takes the frame at the front of the inbox, if it is complete: one of the `legal` tags, of at most `limit` bytes.
pub fn take(inbox: &mut BytesMut, legal: &[u8], limit: usize) -> Result<Option<BytesMut>, Untaken> {
    let Some(tag) = inbox.first() else { return Ok(None) };
    if !legal.contains(tag) {
        return Err(Untaken::Unexpected(*tag));
    }
    let Some(Header { tag, len }) = Header::read(inbox).map_err(Untaken::Malformed)? else { return Ok(None) };
    if len > limit {
        return Err(Untaken::Malformed(Malformed::TooLong { tag, len, limit }));
    }
    Ok((inbox.len() >= len).then(|| inbox.split_to(len)))
}

/// Why no frame is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Untaken {
    /// Its length is wrong.
    Malformed(Malformed),
    /// Its tag has no place here.
    Unexpected(u8),
}

/// What a server says during a login.
#[derive(Debug)]
pub enum Control<'a> {
    /// Any of the Authentication messages.
    Authentication(Authentication),
    /// BackendKeyData.
    BackendKeyData(ServerKey),
    /// ErrorResponse.
    ErrorResponse(ErrorFields<'a>),
    /// NegotiateProtocolVersion.
    NegotiateProtocolVersion(Negotiation),
    /// NoticeResponse.
    NoticeResponse(ErrorFields<'a>),
    /// ParameterStatus.
    ParameterStatus {
        /// The parameter.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// ReadyForQuery with its transaction status indicator: `I`, `T` or `E`.
    ReadyForQuery(u8),
}

/// Understands one whole frame, as [`take`] gives it.
pub fn decode(frame: &[u8]) -> Result<Control<'_>, Malformed> {
    let (&tag, _) = frame.split_first().ok_or(Malformed::Body { tag: 0 })?;
    let wrong = Malformed::Body { tag };
    let body = match Header::read(frame)? {
        Some(header) if header.len == frame.len() => header.body(frame).ok_or(wrong)?,
        _ => return Err(wrong),
    };
    match tag {
        backend::AUTHENTICATION => authentication(body).map(Control::Authentication).ok_or(wrong),
        backend::BACKEND_KEY_DATA => backend_key_data(body).map(Control::BackendKeyData).ok_or(wrong),
        backend::ERROR => ErrorFields::read(body).map(Control::ErrorResponse).ok_or(wrong),
        backend::NEGOTIATE => negotiation(body).map(Control::NegotiateProtocolVersion).ok_or(wrong),
        backend::NOTICE => ErrorFields::read(body).map(Control::NoticeResponse).ok_or(wrong),
        backend::PARAMETER_STATUS => {
            let (name, value) = view::parameter_status(body)?;
            if value.contains(&0) { Err(wrong) } else { Ok(Control::ParameterStatus { name, value }) }
        }
        backend::READY_FOR_QUERY => view::ready_for_query(body).map(Control::ReadyForQuery),
        _ => Err(wrong),
    }
}

/// How a server wants us to prove ourselves, and its answers to our proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Authentication {
    /// The password in the clear.
    Cleartext,
    /// A hash with this salt.
    Md5([u8; 4]),
    /// We are who we say.
    Ok,
    /// One of these SASL mechanisms.
    Sasl(Vec<Box<[u8]>>),
    /// SASL, to be continued.
    SaslContinue(Bytes),
    /// SASL, the last word.
    SaslFinal(Bytes),
    /// One that we do not do.
    Unsupported(UnsupportedMethod),
}

/// The code of an authentication request that we cannot answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnsupportedMethod(pub u32);

impl fmt::Display for UnsupportedMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            2 => f.write_str("Kerberos V5"),
            4 => f.write_str("crypt"),
            6 => f.write_str("SCM credentials"),
            7 | 8 => f.write_str("GSSAPI"),
            9 => f.write_str("SSPI"),
            code => write!(f, "request {code}"),
        }
    }
}

fn authentication(body: &[u8]) -> Option<Authentication> {
    let (code, rest) = body.split_first_chunk()?;
    let code = u32::from_be_bytes(*code);
    let is_sound = match code {
        0 | 3 => rest.is_empty(),
        5 => rest.len() == 4,
        10 => are_mechanisms(rest),
        11 | 12 => true,
        _ => return Some(Authentication::Unsupported(UnsupportedMethod(code))),
    };
    if !is_sound {
        return None;
    }
    Some(match pgwire_decode::<decoder::Authentication>(body)? {
        decoder::Authentication::Ok => Authentication::Ok,
        decoder::Authentication::CleartextPassword => Authentication::Cleartext,
        decoder::Authentication::MD5Password(salt) => Authentication::Md5(salt.try_into().ok()?),
        decoder::Authentication::SASL(names) => {
            Authentication::Sasl(names.into_iter().map(|name| name.into_bytes().into()).collect())
        }
        decoder::Authentication::SASLContinue(data) => Authentication::SaslContinue(data),
        decoder::Authentication::SASLFinal(data) => Authentication::SaslFinal(data),
        _ => return None,
    })
}

/// C strings of printable ASCII and a terminator: what `from_utf8_lossy` cannot change.
fn are_mechanisms(list: &[u8]) -> bool {
    list.strip_suffix(b"\0").is_some_and(|names| {
        let is_ended = names.is_empty() || names.ends_with(b"\0");
        let has_gap = names.starts_with(b"\0") || names.windows(2).any(|pair| pair == b"\0\0");
        is_ended && !has_gap && names.iter().all(|byte| *byte == 0 || byte.is_ascii_graphic())
    })
}

fn backend_key_data(body: &[u8]) -> Option<ServerKey> {
    if !(4 + 4..=4 + MAX_CANCEL_SECRET).contains(&body.len()) {
        return None;
    }
    let key = pgwire_decode::<decoder::BackendKeyData>(body)?;
    Some(ServerKey::new(key.pid.cast_unsigned(), &key.secret_key.to_bytes()))
}

/// What of our wishes a server does not grant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiation {
    /// The newest minor version of protocol 3 it speaks.
    pub minor: u16,
    /// The protocol options it does not know.
    pub unsupported: Vec<Box<[u8]>>,
}

/// PostgreSQL sends the whole version number where the documentation says "minor": both are understood.
fn negotiation(body: &[u8]) -> Option<Negotiation> {
    let (version, rest) = body.split_first_chunk()?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let version = u32::from_be_bytes(*version);
    if !matches!(version >> 16, 0 | 3) {
        return None;
    }
    let mut unsupported = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        unsupported.push(take_cstring(&mut rest)?.into());
    }
    let minor = u16::try_from(version & 0xffff).ok()?;
    rest.is_empty().then_some(Negotiation { minor, unsupported })
}

/// The fields of an ErrorResponse or NoticeResponse that say something to us; the rest is in `body`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorFields<'a> {
    /// `ERROR`, `FATAL` …, untranslated where the server says it so (field `V`, since 9.6); may be empty.
    pub severity: &'a [u8],
    /// The SQLSTATE, if there is one and it is one (CVE-2026-6666: there need not be).
    pub sqlstate: Option<[u8; 5]>,
    /// What happened; may be empty.
    pub message: &'a [u8],
    /// More about it.
    pub detail: Option<&'a [u8]>,
    /// What to do about it.
    pub hint: Option<&'a [u8]>,
    /// The whole body: sound, and fit for [`error_response_body`](crate::wire::write::error_response_body).
    pub body: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads a body: fields, each a letter and a C string, and a NUL as the very last byte.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let mut fields = Self { severity: b"", sqlstate: None, message: b"", detail: None, hint: None, body };
        let mut translated: &[u8] = b"";
        let mut rest = body;
        loop {
            let (letter, after) = rest.split_first()?;
            rest = after;
            if *letter == 0 {
                break;
            }
            let text = take_cstring(&mut rest)?;
            match letter {
                b'S' => translated = text,
                b'V' => fields.severity = text,
                b'C' => fields.sqlstate = sqlstate(text),
                b'M' => fields.message = text,
                b'D' => fields.detail = Some(text),
                b'H' => fields.hint = Some(text),
                _ => {}
            }
        }
        if fields.severity.is_empty() {
            fields.severity = translated;
        }
        rest.is_empty().then_some(fields)
    }

    /// A copy that outlives the inbox.
    pub fn to_server_error(self) -> ServerError {
        ServerError {
            severity: self.severity.into(),
            sqlstate: self.sqlstate,
            message: self.message.into(),
            detail: self.detail.map(Into::into),
            hint: self.hint.map(Into::into),
            body: self.body.into(),
        }
    }
}

/// An ErrorResponse kept: [`ErrorFields`] that own their bytes. `Display` is safe to log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerError {
    /// As in [`ErrorFields`].
    pub severity: Box<[u8]>,
    /// As in [`ErrorFields`].
    pub sqlstate: Option<[u8; 5]>,
    /// As in [`ErrorFields`].
    pub message: Box<[u8]>,
    /// As in [`ErrorFields`].
    pub detail: Option<Box<[u8]>>,
    /// As in [`ErrorFields`].
    pub hint: Option<Box<[u8]>>,
    /// As in [`ErrorFields`].
    pub body: Box<[u8]>,
}

impl ServerError {
    /// The SQLSTATE, if the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_ref().and_then(|code| str::from_utf8(code).ok())
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Printable(&self.severity), Printable(&self.message))?;
        match self.sqlstate() {
            Some(code) => write!(f, " ({code})"),
            None => Ok(()),
        }
    }
}

/// Five digits or upper-case letters (PostgreSQL docs, Appendix A).
fn sqlstate(text: &[u8]) -> Option<[u8; 5]> {
    let code: [u8; 5] = text.try_into().ok()?;
    code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()).then_some(code)
}

/// Runs a decoder of pgwire over a copy of a body. The shape of the body must have been checked: pgwire panics
/// where it is too short.
fn pgwire_decode<M: Message>(body: &[u8]) -> Option<M> {
    // 3.2 reads the secret of a cancel key as bytes, of whatever length.
    let context = DecodeContext::new(ProtocolVersion::PROTOCOL3_2);
    let length = body.len().checked_add(HEADER)?.checked_sub(1)?;
    M::decode_body(&mut BytesMut::from(body), length, &context).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

    use super::*;

    use proptest::prelude::*;

    use crate::wire::write;

    fn said(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut out);
        out
    }

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn asked(frame: &[u8]) -> Authentication {
        match decode(frame) {
            Ok(Control::Authentication(asked)) => asked,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn authentication_requests_are_told_apart() {
        assert_eq!(asked(&said(write::authentication_ok)), Authentication::Ok);
        assert_eq!(asked(&said(write::authentication_cleartext)), Authentication::Cleartext);
        assert_eq!(
            asked(&said(|out| write::authentication_md5(out, *b"salt"))),
            Authentication::Md5(*b"salt")
        );
        assert_eq!(
            asked(&said(|out| write::authentication_sasl(out, &[b"A", b"B"]))),
            Authentication::Sasl(vec![b"A"[..].into(), b"B"[..].into()])
        );
        assert_eq!(
            asked(&said(|out| write::authentication_sasl_continue(out, b"\xff"))),
            Authentication::SaslContinue(Bytes::from_static(b"\xff"))
        );
        assert_eq!(
            asked(&said(|out| write::authentication_sasl_final(out, b""))),
            Authentication::SaslFinal(Bytes::new())
        );
        for (code, name) in [(2, "Kerberos V5"), (7, "GSSAPI"), (9, "SSPI"), (99, "request 99")] {
            let Authentication::Unsupported(method) = asked(&frame(b'R', &[0, 0, 0, code])) else {
                panic!("{code} is supported");
            };
            assert_eq!(method.to_string(), name);
        }
    }

    #[test]
    fn bodies_that_would_make_pgwire_panic_or_lie_are_refused() {
        let bodies: [(u8, &[u8]); 15] = [
            (b'R', b""),
            (b'R', b"\0\0\0"),
            (b'R', b"\0\0\0\x05abc"),
            (b'R', b"\0\0\0\x05abcde"),
            (b'R', b"\0\0\0\x0a"),
            (b'R', b"\0\0\0\x0aA\0"),
            (b'R', b"\0\0\0\x0a\xff\0\0"),
            (b'R', b"\0\0\0\x0aA\0\0B\0\0"),
            (b'K', b"\0\0\0\x01abc"),
            (b'E', b""),
            (b'E', b"Mhi"),
            (b'E', b"Mhi\0"),
            (b'Z', b""),
            (b'S', b"a\0b\0c\0"),
            (b'v', b"\0\x03\0\0\0\0\0\x02a\0"),
        ];
        for (tag, body) in bodies {
            assert_eq!(
                decode(&frame(tag, body)).err(),
                Some(Malformed::Body { tag }),
                "{}",
                body.escape_ascii()
            );
        }
    }

    #[test]
    fn keys_of_any_allowed_length_keep_every_byte() {
        for length in [4, 32, 256] {
            let secret = vec![0xfe; length];
            let frame = said(|out| write::backend_key_data(out, u32::MAX, &secret));
            let Ok(Control::BackendKeyData(key)) = decode(&frame) else { panic!("no key") };

            assert_eq!((key.process_id(), key.secret()), (u32::MAX, &secret[..]));
        }
        assert!(decode(&said(|out| write::backend_key_data(out, 1, &[0; 257]))).is_err());
    }

    #[test]
    fn an_error_is_read_as_bytes_with_or_without_a_code() {
        let whole = frame(b'E', b"SFATAAL\0VFATAL\0C28P01\0Mno \xff\0Dd\0Hh\0Fauth.c\0\0");
        let Ok(Control::ErrorResponse(fields)) = decode(&whole) else { panic!("no error") };
        assert_eq!(fields.severity, b"FATAL");
        assert_eq!(fields.sqlstate, Some(*b"28P01"));
        assert_eq!(fields.message, b"no \xff");
        assert_eq!((fields.detail, fields.hint), (Some(&b"d"[..]), Some(&b"h"[..])));
        assert_eq!(said(|out| write::error_response_body(out, fields.body)), whole);
        assert_eq!(fields.to_server_error().to_string(), "FATAL: no \\xff (28P01)");

        for bare in
            [&b"SERROR\0Mhi\0\0"[..], b"SERROR\0Cx\0Mhi\0\0", b"SERROR\0C\xff\xff\xff\xff\xff\0Mhi\0\0"]
        {
            let bare = frame(b'E', bare);
            let Ok(Control::ErrorResponse(fields)) = decode(&bare) else { panic!("no error") };
            assert_eq!((fields.severity, fields.sqlstate, fields.message), (&b"ERROR"[..], None, &b"hi"[..]));
        }
    }

    #[test]
    fn both_ways_of_saying_a_minor_version_are_understood() {
        for version in [[0, 3, 0, 2], [0, 0, 0, 2]] {
            let body = [&version[..], b"\0\0\0\x01_pq_.x\0"].concat();
            let frame = frame(b'v', &body);
            let Ok(Control::NegotiateProtocolVersion(negotiation)) = decode(&frame) else {
                panic!("no negotiation");
            };
            assert_eq!(negotiation.minor, 2);
            assert_eq!(negotiation.unsupported, [Box::from(&b"_pq_.x"[..])]);
        }
    }

    #[test]
    fn a_frame_is_refused_before_its_body_has_come() {
        let took = |bytes: &[u8]| take(&mut BytesMut::from(bytes), b"RE", 20);

        assert_eq!(took(b""), Ok(None));
        assert_eq!(took(b"H"), Err(Untaken::Unexpected(b'H')));
        assert_eq!(
            took(b"R\0\0\0\x14"),
            Err(Untaken::Malformed(Malformed::TooLong { tag: b'R', len: 21, limit: 20 }))
        );
        assert_eq!(took(b"R\0\0\0\x03"), Err(Untaken::Malformed(Malformed::Length { tag: b'R', len: 3 })));
        assert_eq!(took(b"R\0\0\0\x05"), Ok(None));
        assert_eq!(took(b"R\0\0\0\x05ab"), Ok(Some(BytesMut::from(&b"R\0\0\0\x05a"[..]))));
    }

    proptest! {
        #[test]
        fn no_frame_panics(
            tag in prop::sample::select(b"RKEvNSZ?".to_vec()),
            code in prop::option::of(0..16_u32),
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let code = code.map(u32::to_be_bytes).unwrap_or_default();
            let _ = decode(&frame(tag, &body));
            let _ = decode(&frame(tag, &[&code, &body[..]].concat()));
            let _ = decode(&body);
        }
    }
}
