//! What clients say, as bytes. Nothing is checked: tests may say nonsense.

use bytes::{BufMut, Bytes, BytesMut};

/// Any message: type byte, length, body.
pub fn frame(tag: u8, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(body.len() + 5);
    bytes.put_u8(tag);
    bytes.put_i32(i32::try_from(body.len() + 4).expect("a message of less than 2 GB"));
    bytes.put_slice(body);
    bytes.freeze()
}

/// A packet without a type byte: length, body.
fn packet(body: &[u8]) -> Bytes {
    frame(0, body).slice(1..)
}

/// StartupMessage of protocol 3.0.
pub fn startup(parameters: &[(&str, &str)]) -> Bytes {
    startup_of(3 << 16, parameters)
}

/// StartupMessage of any protocol: 3.2 is `3 << 16 | 2`.
pub fn startup_of(version: i32, parameters: &[(&str, &str)]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(version);
    for (name, value) in parameters {
        string(&mut body, name);
        string(&mut body, value);
    }
    body.put_u8(0);
    packet(&body)
}

pub fn ssl_request() -> Bytes {
    packet(&80_877_103_i32.to_be_bytes())
}

pub fn gssenc_request() -> Bytes {
    packet(&80_877_104_i32.to_be_bytes())
}

/// CancelRequest with what BackendKeyData held: process ID and secret, in one.
pub fn cancel(key: &[u8]) -> Bytes {
    packet(&[&80_877_102_i32.to_be_bytes(), key].concat())
}

/// PasswordMessage, for cleartext and md5.
pub fn password(password: &str) -> Bytes {
    strings(b'p', &[password])
}

pub fn sasl_initial_response(mechanism: &str, response: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    string(&mut body, mechanism);
    body.put_i32(i32::try_from(response.len()).expect("a short response"));
    body.put_slice(response);
    frame(b'p', &body)
}

pub fn sasl_response(response: &[u8]) -> Bytes {
    frame(b'p', response)
}

pub fn query(sql: &str) -> Bytes {
    strings(b'Q', &[sql])
}

/// Parse without parameter types.
pub fn parse(statement: &str, sql: &str) -> Bytes {
    parse_typed(statement, sql, &[])
}

pub fn parse_typed(statement: &str, sql: &str, types: &[u32]) -> Bytes {
    let mut body = BytesMut::new();
    string(&mut body, statement);
    string(&mut body, sql);
    body.put_i16(count(types.len()));
    for oid in types {
        body.put_u32(*oid);
    }
    frame(b'P', &body)
}

/// Bind with text parameters and text results.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Bytes {
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    bind_as(portal, statement, &[], &values, &[])
}

/// Bind with formats: 0 is text, 1 is binary; none is all text, one is for all.
pub fn bind_as(
    portal: &str,
    statement: &str,
    given: &[i16],
    values: &[Option<&[u8]>],
    wanted: &[i16],
) -> Bytes {
    let mut body = BytesMut::new();
    string(&mut body, portal);
    string(&mut body, statement);
    body.put_i16(count(given.len()));
    given.iter().for_each(|format| body.put_i16(*format));
    put_values(&mut body, values);
    body.put_i16(count(wanted.len()));
    wanted.iter().for_each(|format| body.put_i16(*format));
    frame(b'B', &body)
}

pub fn describe_statement(name: &str) -> Bytes {
    named(b'D', b'S', name)
}

pub fn describe_portal(name: &str) -> Bytes {
    named(b'D', b'P', name)
}

pub fn close_statement(name: &str) -> Bytes {
    named(b'C', b'S', name)
}

pub fn close_portal(name: &str) -> Bytes {
    named(b'C', b'P', name)
}

/// Execute; 0 rows is all of them.
pub fn execute(portal: &str, rows: i32) -> Bytes {
    let mut body = BytesMut::new();
    string(&mut body, portal);
    body.put_i32(rows);
    frame(b'E', &body)
}

pub fn sync() -> Bytes {
    frame(b'S', b"")
}

pub fn flush() -> Bytes {
    frame(b'H', b"")
}

pub fn terminate() -> Bytes {
    frame(b'X', b"")
}

pub fn copy_data(data: &[u8]) -> Bytes {
    frame(b'd', data)
}

pub fn copy_done() -> Bytes {
    frame(b'c', b"")
}

pub fn copy_fail(reason: &str) -> Bytes {
    strings(b'f', &[reason])
}

/// FunctionCall with text arguments and a text result.
pub fn function_call(function: u32, arguments: &[Option<&[u8]>]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u32(function);
    body.put_i16(0);
    put_values(&mut body, arguments);
    body.put_i16(0);
    frame(b'F', &body)
}

/// Parse, Bind, Describe, Execute of unnamed things: one statement as drivers send it, without its Sync.
pub fn extended(sql: &str, values: &[Option<&str>]) -> Bytes {
    join([parse("", sql), bind("", "", values), describe_portal(""), execute("", 0)])
}

/// Several messages as one.
pub fn join(messages: impl IntoIterator<Item = Bytes>) -> Bytes {
    messages
        .into_iter()
        .fold(BytesMut::new(), |mut all, one| {
            all.put(one);
            all
        })
        .freeze()
}

fn strings(tag: u8, values: &[&str]) -> Bytes {
    let mut body = BytesMut::new();
    values.iter().for_each(|value| string(&mut body, value));
    frame(tag, &body)
}

fn named(tag: u8, kind: u8, name: &str) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(kind);
    string(&mut body, name);
    frame(tag, &body)
}

fn string(body: &mut BytesMut, value: &str) {
    body.put_slice(value.as_bytes());
    body.put_u8(0);
}

fn put_values(body: &mut BytesMut, values: &[Option<&[u8]>]) {
    body.put_i16(count(values.len()));
    for value in values {
        body.put_i32(
            value.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("a value of less than 2 GB")),
        );
        body.put_slice(value.unwrap_or_default());
    }
}

/// Counts are unsigned on the wire, whatever the documentation says: 65535 parameters are allowed.
fn count(length: usize) -> i16 {
    u16::try_from(length).expect("at most 65535").cast_signed()
}
