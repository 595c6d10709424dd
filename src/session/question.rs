//! A question of our own to a server: one statement, one bound value, a row or two for an answer.
//!
//! Nothing of a client's is in it but the value, and that is bound, never written into the text.
//!
//! # Promises
//! - Input is taken in any pieces; an answer is given only when the server is idle again, owing nothing.
//! - Answers are bounded: [`MAX_ROWS`] rows, each of at most [`MAX_ROW`] bytes; the server is told so, and held to it.
//! - Values of an answer are [`Secret`]s: they do not print, and are wiped.
//!
//! # Refuses
//! To know what a value means, to try again.

use std::fmt;

use bytes::BytesMut;

use crate::auth::Secret;
use crate::wire::Malformed;
use crate::wire::backend as view;
use crate::wire::control;
use crate::wire::control::Control;
use crate::wire::control::ErrorFields;
use crate::wire::control::ServerError;
use crate::wire::control::Untaken;
use crate::wire::frame::HEADER;
use crate::wire::frame::backend;
use crate::wire::write;

/// The most rows that are read; one more than any good answer has, so that too many are noticed.
pub const MAX_ROWS: u32 = 2;

/// The longest message of an answer.
pub const MAX_ROW: usize = 64 << 10;

/// The messages an answer may have.
const LEGAL: &[u8] = &[
    backend::BIND_COMPLETE,
    backend::COMMAND_COMPLETE,
    backend::DATA_ROW,
    backend::EMPTY_QUERY,
    backend::ERROR,
    backend::NOTICE,
    backend::NOTIFICATION,
    backend::PARAMETER_STATUS,
    backend::PARSE_COMPLETE,
    backend::PORTAL_SUSPENDED,
    backend::READY_FOR_QUERY,
];

/// The columns of a row; `None` is NULL.
pub type Row = Vec<Option<Secret>>;

/// A question that has been asked.
#[derive(Debug, Default)]
pub struct Question {
    /// At most [`MAX_ROWS`].
    rows: Vec<Row>,
    refused: Option<Box<ServerError>>,
}

impl Question {
    /// Asks; `sql` has one parameter, which is `value`.
    pub fn ask(sql: &str, value: &[u8], outbox: &mut BytesMut) -> Self {
        write::parse(outbox, b"", sql.as_bytes(), &[]);
        write::bind_text(outbox, b"", b"", &[Some(value)]);
        write::execute(outbox, b"", MAX_ROWS);
        write::sync(outbox);
        Self::default()
    }

    /// Takes what has come. The rows, when all of the answer has.
    ///
    /// # Errors
    /// [`QuestionError::Refused`] leaves the server as good as it was; after any other it is of no use.
    pub fn on_input(&mut self, inbox: &mut BytesMut) -> Result<Option<Vec<Row>>, QuestionError> {
        while let Some(frame) = control::take(inbox, LEGAL, MAX_ROW)? {
            let body = frame.get(HEADER..).unwrap_or_default();
            match frame.first() {
                Some(&backend::DATA_ROW) => self.on_row(body)?,
                Some(&backend::ERROR) => {
                    let wrong = QuestionError::Malformed(Malformed::Body { tag: backend::ERROR });
                    let fields = ErrorFields::read(body).ok_or(wrong)?;
                    self.refused = Some(Box::new(fields.to_server_error()));
                }
                Some(&backend::READY_FOR_QUERY) => return self.end(&frame).map(Some),
                _ => {}
            }
        }
        Ok(None)
    }

    fn on_row(&mut self, body: &[u8]) -> Result<(), QuestionError> {
        if self.rows.len() >= MAX_ROWS as usize {
            return Err(QuestionError::Unexpected(backend::DATA_ROW));
        }
        let columns = view::data_row(body).map_err(QuestionError::Malformed)?;
        self.rows.push(columns.map(|value| value.map(Secret::from)).collect());
        Ok(())
    }

    fn end(&mut self, frame: &[u8]) -> Result<Vec<Row>, QuestionError> {
        match control::decode(frame).map_err(QuestionError::Malformed)? {
            Control::ReadyForQuery(b'I') => {}
            _ => return Err(QuestionError::InTransaction),
        }
        match self.refused.take() {
            Some(error) => Err(QuestionError::Refused(error)),
            None => Ok(std::mem::take(&mut self.rows)),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QuestionError {
    /// The statement left a transaction open.
    InTransaction,
    /// A message that cannot be read.
    Malformed(Malformed),
    /// The server refused the statement, in these words.
    Refused(Box<ServerError>),
    /// A message that has no place in an answer, by its tag.
    Unexpected(u8),
}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InTransaction => f.write_str("the statement leaves a transaction open"),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Refused(error) => error.fmt(f),
            Self::Unexpected(tag) => write!(f, "unexpected message {:?} in the answer", char::from(*tag)),
        }
    }
}

impl std::error::Error for QuestionError {}

impl From<Untaken> for QuestionError {
    fn from(untaken: Untaken) -> Self {
        match untaken {
            Untaken::Malformed(malformed) => Self::Malformed(malformed),
            Untaken::Unexpected(tag) => Self::Unexpected(tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with these rows, ending in this status.
    fn answer(rows: &[&[Option<&[u8]>]], status: u8) -> BytesMut {
        let mut said = BytesMut::new();
        write::parse_complete(&mut said);
        write::bind_complete(&mut said);
        rows.iter().for_each(|row| write::data_row(&mut said, row));
        write::command_complete(&mut said, b"SELECT");
        write::ready_for_query(&mut said, status);
        said
    }

    fn exposed(rows: &[Row]) -> Vec<Vec<Option<&[u8]>>> {
        rows.iter().map(|row| row.iter().map(|value| value.as_ref().map(Secret::expose)).collect()).collect()
    }

    #[test]
    fn an_answer_comes_in_any_pieces() {
        let said = answer(&[&[Some(b"ann"), None, Some(b"")]], b'I');
        let mut question = Question::default();
        let mut inbox = BytesMut::new();

        for byte in said.iter().take(said.len() - 1) {
            inbox.extend_from_slice(&[*byte]);
            assert_eq!(question.on_input(&mut inbox), Ok(None));
        }
        inbox.extend_from_slice(b"Ixyz");
        let rows = question.on_input(&mut inbox).unwrap().unwrap();

        assert_eq!(exposed(&rows), [[Some(&b"ann"[..]), None, Some(b"")]]);
        assert_eq!(inbox, b"xyz"[..]);
    }

    #[test]
    fn the_value_is_bound_and_not_written_into_the_text() {
        let mut outbox = BytesMut::new();
        let _ = Question::ask("select $1", b"' or true --", &mut outbox);

        let mut expected = BytesMut::new();
        write::parse(&mut expected, b"", b"select $1", &[]);
        write::bind_text(&mut expected, b"", b"", &[Some(b"' or true --")]);
        write::execute(&mut expected, b"", MAX_ROWS);
        write::sync(&mut expected);
        assert_eq!(outbox, expected);
    }

    #[test]
    fn a_refusal_is_given_when_the_server_is_idle_again() {
        let mut inbox = BytesMut::new();
        write::error_response(&mut inbox, "ERROR", "42501", "permission denied", None, None, None);
        let mut question = Question::default();

        assert_eq!(question.on_input(&mut inbox), Ok(None));
        write::ready_for_query(&mut inbox, b'I');
        let refused = question.on_input(&mut inbox).unwrap_err();

        assert!(matches!(&refused, QuestionError::Refused(error) if error.sqlstate() == Some("42501")));
        assert!(refused.to_string().contains("permission denied"), "{refused}");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let refused = |mut said: BytesMut| Question::default().on_input(&mut said).unwrap_err();
        let row: &[Option<&[u8]>] = &[None];

        assert_eq!(refused(answer(&[], b'T')), QuestionError::InTransaction);
        assert_eq!(refused(answer(&[row, row, row], b'I')), QuestionError::Unexpected(b'D'));
        assert_eq!(refused(b"G\0\0\0\x05\0"[..].into()), QuestionError::Unexpected(b'G'));
        assert_eq!(
            refused(b"D\0\0\0\x05\0"[..].into()),
            QuestionError::Malformed(Malformed::Body { tag: b'D' })
        );
        assert!(matches!(
            refused(b"D\0\x02\0\0\0"[..].into()),
            QuestionError::Malformed(Malformed::TooLong { tag: b'D', .. })
        ));
    }
}
