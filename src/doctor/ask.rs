//! SQL to one server, and its rows.
//!
//! # Promises
//! - What is [asked](Session::ask) is rolled back, and read-only, whatever it is.
//! - Names in answers are qualified: only `pg_catalog` is searched.
//!
//! # Refuses
//! Answers without an end: each has to come within [`PATIENCE`].

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

use crate::pool::Server;
use crate::wire::Header;
use crate::wire::backend;
use crate::wire::control::{ErrorFields, ServerError};
use crate::wire::frame::HEADER;
use crate::wire::frame::backend as tag;
use crate::wire::write;

/// Longest one answer may take; the server gives up before.
const PATIENCE: Duration = Duration::from_secs(60);

/// The columns of one row, as text.
pub(crate) type Row = Vec<Option<String>>;

/// A server that answers questions.
pub(crate) struct Session(Server);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection broke.
    Lost(io::Error),
    /// The server's own words.
    Refused(Box<ServerError>),
    /// Nothing for too long.
    TimedOut,
}

impl Fault {
    /// The server's code, if it was the server.
    pub(super) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error.sqlstate(),
            Self::Lost(_) | Self::TimedOut => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(error) => write!(f, "the server closed the connection: {error}"),
            Self::Refused(error) => write!(f, "{error}"),
            Self::TimedOut => write!(f, "no answer within {PATIENCE:?}"),
        }
    }
}

impl Session {
    /// Over a connection that is nobody else's.
    pub(crate) fn over(server: Server) -> Self {
        Self(server)
    }

    /// The rows of a statement.
    ///
    /// Not cancel safe: the answer would be taken for the next question's.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        let whole = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog; \
             SET LOCAL statement_timeout = '20s'; SET LOCAL lock_timeout = '5s'; {sql}; ROLLBACK"
        );
        let answer = timeout(PATIENCE, self.exchange(&whole)).await.map_err(|_| Fault::TimedOut)?;
        if answer.is_err() {
            timeout(PATIENCE, self.exchange("ROLLBACK")).await.map_err(|_| Fault::TimedOut)??;
        }
        answer
    }

    /// The rows of a text of statements, run as it is. Not for questions: it may change things.
    ///
    /// Not cancel safe: the answer would be taken for the next question's.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        timeout(PATIENCE, self.exchange(sql)).await.map_err(|_| Fault::TimedOut)?
    }

    /// Says goodbye.
    pub(crate) fn close(self) {
        self.0.close();
    }

    async fn exchange(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        let peer = &mut self.0.peer;
        write::query(&mut peer.buffers.outbox, sql.as_bytes());
        peer.drain().await.map_err(Fault::Lost)?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            while let Some(header) = Header::read(&peer.buffers.inbox).map_err(|_| nonsense())? {
                if peer.buffers.inbox.len() < header.len {
                    break;
                }
                let frame = peer.buffers.inbox.split_to(header.len);
                let body = frame.get(HEADER..).unwrap_or_default();
                match header.tag {
                    tag::DATA_ROW => rows.push(row(body)?),
                    tag::ERROR => refused = ErrorFields::read(body).map(|fields| fields.to_server_error()),
                    tag::READY_FOR_QUERY => {
                        return refused.map_or(Ok(rows), |error| Err(Fault::Refused(Box::new(error))));
                    }
                    _ => {}
                }
            }
            if !peer.fill().await.map_err(Fault::Lost)? {
                let gone = || Fault::Lost(io::ErrorKind::UnexpectedEof.into());
                return Err(refused.map_or_else(gone, |error| Fault::Refused(Box::new(error))));
            }
        }
    }
}

fn row(body: &[u8]) -> Result<Row, Fault> {
    let columns = backend::data_row(body).map_err(|_| nonsense())?;
    Ok(columns.map(|value| value.map(|value| String::from_utf8_lossy(value).into_owned())).collect())
}

fn nonsense() -> Fault {
    Fault::Lost(io::ErrorKind::InvalidData.into())
}

/// A text as a literal of SQL.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// Texts as a literal of `text[]`.
pub(super) fn array<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<_> = texts.into_iter().map(literal).collect();
    format!("ARRAY[{}]::text[]", items.join(","))
}

/// A name as an identifier of SQL, always quoted.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_quotes() {
        assert_eq!(literal("o'hara"), "'o''hara'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(array(["a", "b'"]), "ARRAY['a','b''']::text[]");
    }
}
