//! What servers say, as bytes, for [`FakeServer`](super::FakeServer). Nothing is checked.

use bytes::{BufMut, Bytes, BytesMut};

use super::say::{frame, join};

pub fn authentication_ok() -> Bytes {
    authentication(0, b"")
}

/// Any AuthenticationRequest: 3 cleartext, 5 md5, 10 SASL, 11 continue, 12 final.
pub fn authentication(kind: i32, rest: &[u8]) -> Bytes {
    frame(b'R', &[&kind.to_be_bytes(), rest].concat())
}

pub fn parameter_status(name: &str, value: &str) -> Bytes {
    strings(b'S', &[name, value])
}

/// BackendKeyData with a secret of any length.
pub fn backend_key_data(process: i32, secret: &[u8]) -> Bytes {
    frame(b'K', &[&process.to_be_bytes(), secret].concat())
}

pub fn ready(status: u8) -> Bytes {
    frame(b'Z', &[status])
}

/// What PostgreSQL says after a successful login, with a key.
pub fn welcome() -> Bytes {
    join([
        authentication_ok(),
        parameter_status("server_version", "18.4"),
        parameter_status("client_encoding", "UTF8"),
        parameter_status("DateStyle", "ISO, MDY"),
        parameter_status("TimeZone", "UTC"),
        parameter_status("integer_datetimes", "on"),
        parameter_status("standard_conforming_strings", "on"),
        backend_key_data(4711, b"\x01\x02\x03\x04"),
        ready(b'I'),
    ])
}

/// ErrorResponse with fields by their letters.
pub fn error(fields: &[(u8, &str)]) -> Bytes {
    fields_of(b'E', fields)
}

/// ErrorResponse as PostgreSQL's: severity, SQLSTATE, message.
pub fn error_of(severity: &str, sqlstate: &str, message: &str) -> Bytes {
    error(&[(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message)])
}

pub fn notice(message: &str) -> Bytes {
    fields_of(b'N', &[(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', message)])
}

pub fn notification(process: i32, channel: &str, payload: &str) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(process);
    string(&mut body, channel);
    string(&mut body, payload);
    frame(b'A', &body)
}

/// RowDescription of text columns.
pub fn row_description(columns: &[&str]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(columns.len()).expect("few columns"));
    for column in columns {
        string(&mut body, column);
        body.put_i32(0); // no table
        body.put_i16(0);
        body.put_i32(25); // text
        body.put_i16(-1);
        body.put_i32(-1);
        body.put_i16(0); // as text
    }
    frame(b'T', &body)
}

pub fn data_row(values: &[Option<&[u8]>]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(values.len()).expect("few columns"));
    for value in values {
        body.put_i32(value.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("a short value")));
        body.put_slice(value.unwrap_or_default());
    }
    frame(b'D', &body)
}

pub fn command_complete(tag: &str) -> Bytes {
    strings(b'C', &[tag])
}

pub fn parse_complete() -> Bytes {
    frame(b'1', b"")
}

pub fn bind_complete() -> Bytes {
    frame(b'2', b"")
}

pub fn close_complete() -> Bytes {
    frame(b'3', b"")
}

pub fn no_data() -> Bytes {
    frame(b'n', b"")
}

pub fn empty_query_response() -> Bytes {
    frame(b'I', b"")
}

/// The whole answer to a simple query of one value.
pub fn one_value(column: &str, value: &str) -> Bytes {
    join([
        row_description(&[column]),
        data_row(&[Some(value.as_bytes())]),
        command_complete("SELECT 1"),
        ready(b'I'),
    ])
}

fn fields_of(tag: u8, fields: &[(u8, &str)]) -> Bytes {
    let mut body = BytesMut::new();
    for (letter, value) in fields {
        body.put_u8(*letter);
        string(&mut body, value);
    }
    body.put_u8(0);
    frame(tag, &body)
}

fn strings(tag: u8, values: &[&str]) -> Bytes {
    let mut body = BytesMut::new();
    values.iter().for_each(|value| string(&mut body, value));
    frame(tag, &body)
}

fn string(body: &mut BytesMut, value: &str) {
    body.put_slice(value.as_bytes());
    body.put_u8(0);
}
