//! What the pooler itself says, straight into an outbox.
//!
//! Everything else is relayed; these few messages are our own words. Each is one function that appends one frame,
//! so that a frame can be neither forgotten half-way nor sent with a wrong length: the length is filled in when
//! the body is complete.
//!
//! # Promises
//! - What is appended is one whole, well-formed frame, whatever the values are. A text that has a NUL in it
//!   is cut there (it could not be told from the end); SQL that has one is sent as the empty statement,
//!   because half a statement must never run.
//! - A frame that would not fit its own length field (2 GiB) is taken back: nothing is appended.
//! - No allocation but the outbox's own growth.
//!
//! # Refuses
//! To know whether a message is legal now, and to read anything.
//!
//! Layouts: PostgreSQL docs, "Message Formats".

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::BufMut;
use bytes::BytesMut;
use memchr::memchr;

/// Protocol 3, in the upper half of a version number.
const MAJOR: u32 = 3 << 16;

/// The request code of an SSLRequest.
pub const SSL_REQUEST_CODE: u32 = 80_877_103;

/// The request code of a GSSENCRequest.
pub const GSS_ENC_REQUEST_CODE: u32 = 80_877_104;

/// The request code of a CancelRequest.
pub const CANCEL_REQUEST_CODE: u32 = 80_877_102;

// What a backend says.

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    authentication(out, 0, &[]);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut BytesMut) {
    authentication(out, 3, &[]);
}

/// AuthenticationMD5Password.
pub fn authentication_md5(out: &mut BytesMut, salt: [u8; 4]) {
    authentication(out, 5, &salt);
}

/// AuthenticationSASL: the mechanisms, best first.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&[u8]]) {
    frame(out, b'R', |out| {
        out.put_u32(10);
        for mechanism in mechanisms {
            cstring(out, mechanism);
        }
        out.put_u8(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    authentication(out, 11, data);
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut BytesMut, data: &[u8]) {
    authentication(out, 12, data);
}

/// ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    frame(out, b'S', |out| {
        cstring(out, name);
        cstring(out, value);
    });
}

/// BackendKeyData: a secret of 4 bytes for protocol 3.0, of up to 256 for 3.2.
pub fn backend_key_data(out: &mut BytesMut, process_id: u32, secret: &[u8]) {
    frame(out, b'K', |out| {
        out.put_u32(process_id);
        out.put_slice(secret);
    });
}

/// NegotiateProtocolVersion: the minor version we speak, and the `_pq_.` options we do not. The number sent is
/// the whole version, as PostgreSQL does (`SendNegotiateProtocolVersion`) and libpq expects.
pub fn negotiate_protocol_version(out: &mut BytesMut, minor: u16, unsupported: &[&[u8]]) {
    frame(out, b'v', |out| {
        out.put_u32(version(minor));
        out.put_u32(u32::try_from(unsupported.len()).unwrap_or(u32::MAX));
        for option in unsupported {
            cstring(out, option);
        }
    });
}

/// ReadyForQuery with a transaction status indicator: `I`, `T` or `E`.
pub fn ready_for_query(out: &mut BytesMut, status: u8) {
    frame(out, b'Z', |out| out.put_u8(status));
}

/// ParseComplete.
pub fn parse_complete(out: &mut BytesMut) {
    frame(out, b'1', |_| ());
}

/// BindComplete.
pub fn bind_complete(out: &mut BytesMut) {
    frame(out, b'2', |_| ());
}

/// CloseComplete.
pub fn close_complete(out: &mut BytesMut) {
    frame(out, b'3', |_| ());
}

/// PortalSuspended.
pub fn portal_suspended(out: &mut BytesMut) {
    frame(out, b's', |_| ());
}

/// NoData.
pub fn no_data(out: &mut BytesMut) {
    frame(out, b'n', |_| ());
}

/// ParameterDescription of a statement without parameters.
pub fn parameter_description_empty(out: &mut BytesMut) {
    frame(out, b't', |out| out.put_u16(0));
}

/// EmptyQueryResponse.
pub fn empty_query_response(out: &mut BytesMut) {
    frame(out, b'I', |_| ());
}

/// CommandComplete with a command tag such as `SET`.
pub fn command_complete(out: &mut BytesMut, tag: &[u8]) {
    frame(out, b'C', |out| cstring(out, tag));
}

/// RowDescription of columns that are all `text`, in text format.
pub fn row_description(out: &mut BytesMut, columns: &[&str]) {
    const TEXT: u32 = 25;
    frame(out, b'T', |out| {
        for column in counted(out, columns) {
            cstring(out, column.as_bytes());
            out.put_u32(0); // no table
            out.put_u16(0); // no column of it
            out.put_u32(TEXT);
            out.put_i16(-1); // of any length
            out.put_i32(-1); // no type modifier
            out.put_u16(0); // text format
        }
    });
}

/// RowDescription of columns of these types, in these formats.
pub fn typed_row_description(out: &mut BytesMut, columns: &[(&str, u32, u16)]) {
    frame(out, b'T', |out| {
        for (name, oid, format) in counted(out, columns) {
            cstring(out, name.as_bytes());
            out.put_u32(0); // no table
            out.put_u16(0); // no column of it
            out.put_u32(*oid);
            out.put_i16(type_len(*oid));
            out.put_i32(-1); // no type modifier
            out.put_u16(*format);
        }
    });
}

/// `pg_type.typlen` of the few types that we say ourselves.
fn type_len(oid: u32) -> i16 {
    match oid {
        20 => 8,
        23 => 4,
        _ => -1,
    }
}

/// DataRow; `None` is NULL.
pub fn data_row(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    frame(out, b'D', |out| {
        for field in counted(out, values) {
            value(out, *field);
        }
    });
}

/// ErrorResponse. `severity` is `ERROR` or `FATAL`, `routine` the function of PostgreSQL's source that says the same
/// (PostgreSQL docs, "Error and Notice Message Fields").
pub fn error_response(
    out: &mut BytesMut,
    severity: &str,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
    routine: Option<&str>,
) {
    frame(out, b'E', |out| fields(out, [severity, sqlstate, message], [detail, hint, routine]));
}

/// NoticeResponse. `severity` is `WARNING`, `NOTICE`, `INFO` or the like.
pub fn notice_response(
    out: &mut BytesMut,
    severity: &str,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    frame(out, b'N', |out| fields(out, [severity, sqlstate, message], [detail, hint, None]));
}

/// ErrorResponse with the body of another: how a server's own error reaches a client whole.
/// `body` is that of a frame that has been checked ([`control::decode`](crate::wire::control::decode)).
pub fn error_response_body(out: &mut BytesMut, body: &[u8]) {
    frame(out, b'E', |out| out.put_slice(body));
}

// What a frontend says.

/// StartupMessage for protocol 3.`minor`; `user` must be among the parameters. An empty name, or one with a
/// NUL at its front, would end the list and is left out.
pub fn startup_message<'a>(
    out: &mut BytesMut,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) {
    untagged(out, |out| {
        out.put_u32(version(minor));
        for (name, value) in parameters {
            if up_to_nul(name).is_empty() {
                continue;
            }
            cstring(out, name);
            cstring(out, value);
        }
        out.put_u8(0);
    });
}

/// SSLRequest.
pub fn ssl_request(out: &mut BytesMut) {
    untagged(out, |out| out.put_u32(SSL_REQUEST_CODE));
}

/// CancelRequest.
pub fn cancel_request(out: &mut BytesMut, process_id: u32, secret: &[u8]) {
    untagged(out, |out| {
        out.put_u32(CANCEL_REQUEST_CODE);
        out.put_u32(process_id);
        out.put_slice(secret);
    });
}

/// PasswordMessage: a password, or the answer to an MD5 challenge.
pub fn password_message(out: &mut BytesMut, password: &[u8]) {
    frame(out, b'p', |out| cstring(out, password));
}

/// SASLInitialResponse.
pub fn sasl_initial_response(out: &mut BytesMut, mechanism: &[u8], data: &[u8]) {
    frame(out, b'p', |out| {
        cstring(out, mechanism);
        value(out, Some(data));
    });
}

/// SASLResponse.
pub fn sasl_response(out: &mut BytesMut, data: &[u8]) {
    frame(out, b'p', |out| out.put_slice(data));
}

/// Query.
pub fn query(out: &mut BytesMut, sql: &[u8]) {
    frame(out, b'Q', |out| statement(out, sql));
}

/// Parse; zero or no OID leaves a parameter's type to the server.
pub fn parse(out: &mut BytesMut, name: &[u8], sql: &[u8], param_oids: &[u32]) {
    frame(out, b'P', |out| {
        cstring(out, name);
        statement(out, sql);
        for oid in counted(out, param_oids) {
            out.put_u32(*oid);
        }
    });
}

/// Bind with values in text format, and results in text format; `None` is NULL.
pub fn bind_text(out: &mut BytesMut, portal: &[u8], statement: &[u8], values: &[Option<&[u8]>]) {
    frame(out, b'B', |out| {
        cstring(out, portal);
        cstring(out, statement);
        out.put_u16(0); // all parameters in text format
        for parameter in counted(out, values) {
            value(out, *parameter);
        }
        out.put_u16(0); // all results in text format
    });
}

/// Describe a statement (`S`) or portal (`P`).
pub fn describe(out: &mut BytesMut, kind: u8, name: &[u8]) {
    named(out, b'D', kind, name);
}

/// Execute; `max_rows` 0 is no limit.
pub fn execute(out: &mut BytesMut, portal: &[u8], max_rows: u32) {
    frame(out, b'E', |out| {
        cstring(out, portal);
        out.put_u32(max_rows);
    });
}

/// Bind and Execute of the unnamed statement, without parameters and to the end: always the same bytes.
pub fn run_unnamed(out: &mut BytesMut) {
    out.put_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0");
}

/// Close a statement (`S`) or portal (`P`).
pub fn close(out: &mut BytesMut, kind: u8, name: &[u8]) {
    named(out, b'C', kind, name);
}

/// Sync.
pub fn sync(out: &mut BytesMut) {
    frame(out, b'S', |_| ());
}

/// Flush.
pub fn flush(out: &mut BytesMut) {
    frame(out, b'H', |_| ());
}

/// Terminate.
pub fn terminate(out: &mut BytesMut) {
    frame(out, b'X', |_| ());
}

/// CopyFail.
pub fn copy_fail(out: &mut BytesMut, reason: &str) {
    frame(out, b'f', |out| cstring(out, reason.as_bytes()));
}

// How it is written.

fn authentication(out: &mut BytesMut, code: u32, data: &[u8]) {
    frame(out, b'R', |out| {
        out.put_u32(code);
        out.put_slice(data);
    });
}

fn named(out: &mut BytesMut, tag: u8, kind: u8, name: &[u8]) {
    frame(out, tag, |out| {
        out.put_u8(kind);
        cstring(out, name);
    });
}

fn fields(out: &mut BytesMut, always: [&str; 3], sometimes: [Option<&str>; 3]) {
    let [severity, sqlstate, message] = always;
    let [detail, hint, routine] = sometimes;
    let all = [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(sqlstate)),
        (b'M', Some(message)),
        (b'D', detail),
        (b'H', hint),
        (b'R', routine),
    ];
    for (name, text) in all {
        if let Some(text) = text {
            out.put_u8(name);
            cstring(out, text.as_bytes());
        }
    }
    out.put_u8(0);
}

fn version(minor: u16) -> u32 {
    MAJOR | u32::from(minor)
}

fn frame(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u8(tag);
    if !measured(out, body) {
        out.truncate(start);
    }
}

fn untagged(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    if !measured(out, body) {
        out.truncate(start);
    }
}

/// Writes a length that includes itself, and a body; `false` if the length cannot be said in 31 bits.
fn measured(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) -> bool {
    let start = out.len();
    out.put_u32(0);
    body(out);
    let Some(written) = out.get_mut(start..) else { return false };
    let Ok(length) = i32::try_from(written.len()) else { return false };
    let Some(place) = written.first_chunk_mut() else { return false };
    *place = length.to_be_bytes();
    true
}

/// Writes how many there are, 16 bits; gives as many as that can say.
fn counted<'a, T>(out: &mut BytesMut, items: &'a [T]) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let count = u16::try_from(items.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    items.iter().take(usize::from(count))
}

/// A value and its length before it. One too long for its length makes the frame too long also, and that is
/// taken back.
fn value(out: &mut BytesMut, value: Option<&[u8]>) {
    let Some(value) = value else { return out.put_i32(-1) };
    out.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
    out.put_slice(value);
}

fn cstring(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(up_to_nul(text));
    out.put_u8(0);
}

fn statement(out: &mut BytesMut, sql: &[u8]) {
    if memchr(0, sql).is_none() {
        out.put_slice(sql);
    }
    out.put_u8(0);
}

fn up_to_nul(text: &[u8]) -> &[u8] {
    match memchr(0, text) {
        Some(end) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::from(&b"before"[..]);
        write(&mut out);
        out.strip_prefix(b"before").unwrap().to_vec()
    }

    #[test]
    fn backend_messages_have_the_documented_layout() {
        let table: [(&[u8], Vec<u8>); 13] = [
            (b"R\0\0\0\x08\0\0\0\0", written(authentication_ok)),
            (b"R\0\0\0\x08\0\0\0\x03", written(authentication_cleartext)),
            (b"R\0\0\0\x0c\0\0\0\x05salt", written(|out| authentication_md5(out, *b"salt"))),
            (b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0", written(|out| authentication_sasl(out, &[b"A", b"B"]))),
            (b"R\0\0\0\x0a\0\0\0\x0bhi", written(|out| authentication_sasl_continue(out, b"hi"))),
            (b"S\0\0\0\x08a\0b\0", written(|out| parameter_status(out, b"a", b"b"))),
            (b"K\0\0\0\x0c\0\0\0\x07abcd", written(|out| backend_key_data(out, 7, b"abcd"))),
            (
                b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0",
                written(|out| negotiate_protocol_version(out, 2, &[b"_pq_.x"])),
            ),
            (b"Z\0\0\0\x05I", written(|out| ready_for_query(out, b'I'))),
            (b"t\0\0\0\x06\0\0", written(parameter_description_empty)),
            (
                b"T\0\0\0\x1b\0\x01ab\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0",
                written(|out| row_description(out, &["ab"])),
            ),
            (
                b"D\0\0\0\x10\0\x02\0\0\0\x02ab\xff\xff\xff\xff",
                written(|out| data_row(out, &[Some(b"ab"), None])),
            ),
            (
                b"E\0\0\0\x2aSFATAL\0VFATAL\0C28P01\0Mno\0Hask\0RParse\0\0",
                written(|out| error_response(out, "FATAL", "28P01", "no", None, Some("ask"), Some("Parse"))),
            ),
        ];
        for (expected, written) in table {
            assert_eq!(written, expected, "{}", expected.escape_ascii());
        }
    }

    #[test]
    fn frontend_messages_have_the_documented_layout() {
        let parameters: [(&[u8], &[u8]); 2] = [(b"user", b"ann"), (b"", b"lost")];
        let table: [(&[u8], Vec<u8>); 9] = [
            (
                b"\0\0\0\x12\0\x03\0\x02user\0ann\0\0",
                written(|out| startup_message(out, 2, parameters.iter().copied())),
            ),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", written(ssl_request)),
            (b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07abcd", written(|out| cancel_request(out, 7, b"abcd"))),
            (b"p\0\0\0\x0cM\0\0\0\0\x02hi", written(|out| sasl_initial_response(out, b"M", b"hi"))),
            (b"Q\0\0\0\x0dSELECT 1\0", written(|out| query(out, b"SELECT 1"))),
            (b"P\0\0\0\x0es\0q\0\0\x01\0\0\0\x19", written(|out| parse(out, b"s", b"q", &[25]))),
            (
                b"B\0\0\0\x12\0s\0\0\0\0\x01\0\0\0\x01v\0\0",
                written(|out| bind_text(out, b"", b"s", &[Some(b"v")])),
            ),
            (b"E\0\0\0\x09\0\0\0\0\x05", written(|out| execute(out, b"", 5))),
            (b"C\0\0\0\x07Ss\0", written(|out| close(out, b'S', b"s"))),
        ];
        for (expected, written) in table {
            assert_eq!(written, expected, "{}", expected.escape_ascii());
        }
    }

    #[test]
    fn a_nul_ends_a_text_and_voids_a_statement() {
        assert_eq!(written(|out| command_complete(out, b"SET\0x")), b"C\0\0\0\x08SET\0");
        assert_eq!(written(|out| query(out, b"DELETE FROM t\0 WHERE false")), b"Q\0\0\0\x05\0");
        assert_eq!(written(|out| password_message(out, b"a\0b")), b"p\0\0\0\x06a\0");
    }

    #[test]
    fn running_the_unnamed_statement_is_a_bind_and_an_execute() {
        let spelt_out = written(|out| {
            bind_text(out, b"", b"", &[]);
            execute(out, b"", 0);
        });

        assert_eq!(written(run_unnamed), spelt_out);
    }

    #[test]
    fn more_values_than_can_be_counted_are_left_out() {
        let values = vec![None; 70_000];
        let row = written(|out| data_row(out, &values));

        assert_eq!(row.len(), 1 + 4 + 2 + 65_535 * 4);
    }
}
