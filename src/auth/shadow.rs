//! What `auth_query` answered about a user: its verifier, and for how long that holds.
//!
//! # Promises
//! - The answer is for the user that was asked for, or it is refused: neither case folding nor the truncation of a long
//!   name makes one user of another.
//! - A password that is not valid any more is none.
//!
//! # Refuses
//! To ask, to remember, to say what is in an answer it cannot use: it may be a secret.

use std::fmt;
use std::time::Duration;

use crate::auth::{Secret, Verifier};

/// What is known of a user.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    /// What it must know; `None` for a stranger, and for one that may not log in by password.
    pub verifier: Option<Verifier>,
    /// How long the verifier holds; `None` is for ever.
    pub valid_for: Option<Duration>,
}

/// Reads the rows: none, or one of name, secret and, if it has a third, the seconds the secret is still valid for.
///
/// # Errors
/// The query does not say what it has to.
pub fn read(user: &[u8], rows: &[Vec<Option<Secret>>]) -> Result<Shadow, BadShadow> {
    let row = match rows {
        [] => return Ok(Shadow::default()),
        [row] => row.as_slice(),
        _ => return Err(BadShadow::SeveralRows),
    };
    let (name, secret, seconds) = match row {
        [name, secret] => (name, secret, &None),
        [name, secret, seconds] => (name, secret, seconds),
        _ => return Err(BadShadow::Columns(row.len())),
    };
    // A function with OUT parameters gives a row of NULLs where it found nothing.
    let Some(name) = name else { return Ok(Shadow::default()) };
    if name.expose() != user {
        return Err(BadShadow::OtherUser);
    }
    let Some(secret) = secret.as_ref().filter(|secret| !secret.is_empty()) else {
        return Ok(Shadow::default());
    };
    let valid_for = match validity(seconds.as_ref())? {
        Validity::Over => return Ok(Shadow::default()),
        Validity::Unbounded => None,
        Validity::Until(left) => Some(left),
    };
    let verifier = Verifier::from_secret(secret).map_err(|_| BadShadow::BadVerifier)?;
    Ok(Shadow { verifier: Some(verifier), valid_for })
}

enum Validity {
    Over,
    Unbounded,
    Until(Duration),
}

fn validity(seconds: Option<&Secret>) -> Result<Validity, BadShadow> {
    let Some(seconds) = seconds else { return Ok(Validity::Unbounded) };
    let text = str::from_utf8(seconds.expose()).map_err(|_| BadShadow::Validity)?;
    let seconds: f64 = text.trim().parse().map_err(|_| BadShadow::Validity)?;
    if seconds.is_nan() {
        return Err(BadShadow::Validity);
    }
    if seconds <= 0.0 {
        return Ok(Validity::Over);
    }
    // What is longer than can be counted is for ever.
    Ok(Duration::try_from_secs_f64(seconds).map_or(Validity::Unbounded, Validity::Until))
}

/// Why an answer cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadShadow {
    /// The secret begins as a SCRAM verifier and is none.
    BadVerifier,
    /// So many columns instead of two or three.
    Columns(usize),
    /// The name is not the one that was asked for.
    OtherUser,
    /// More than one row.
    SeveralRows,
    /// The third column is not a number of seconds.
    Validity,
}

impl fmt::Display for BadShadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadVerifier => f.write_str("its secret begins as a SCRAM verifier and is none"),
            Self::Columns(count) => write!(
                f,
                "it has {count} columns; expected the user's name, its secret and, as an optional third, the seconds that is valid for"
            ),
            Self::OtherUser => f.write_str("its first column is not the name that was asked for"),
            Self::SeveralRows => {
                f.write_str("it has several rows; expected one, or none for an unknown user")
            }
            Self::Validity => f.write_str("its third column is not a number of seconds"),
        }
    }
}

impl std::error::Error for BadShadow {}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Vec<Option<Secret>> {
        values.iter().map(|value| value.map(Secret::from)).collect()
    }

    fn read_one(values: &[Option<&str>]) -> Result<Shadow, BadShadow> {
        read(b"ann", &[row(values)])
    }

    #[test]
    fn a_user_has_a_secret_and_perhaps_an_end() {
        let shadow = read_one(&[Some("ann"), Some("pencil"), Some("2.5")]).unwrap();
        assert!(shadow.verifier.is_some());
        assert_eq!(shadow.valid_for, Some(Duration::from_millis(2500)));

        for values in [
            &[Some("ann"), Some("pencil")][..],
            &[Some("ann"), Some("pencil"), None],
            &[Some("ann"), Some("pencil"), Some("Infinity")],
            &[Some("ann"), Some("pencil"), Some("1e300")],
        ] {
            let shadow = read_one(values).unwrap();
            assert!(shadow.verifier.is_some() && shadow.valid_for.is_none(), "{values:?}");
        }
    }

    #[test]
    fn whoever_has_no_valid_secret_is_a_stranger() {
        assert!(read(b"ann", &[]).unwrap().verifier.is_none());
        for values in [
            &[None, None][..],
            &[Some("ann"), None],
            &[Some("ann"), Some("")],
            &[Some("ann"), None, Some("5")],
            &[Some("ann"), Some("pencil"), Some("0")],
            &[Some("ann"), Some("pencil"), Some("-3.25")],
            &[Some("ann"), Some("pencil"), Some("-Infinity")],
        ] {
            assert!(read_one(values).unwrap().verifier.is_none(), "{values:?}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_meant_is_refused_without_its_text() {
        for (values, error) in [
            (&[Some("Ann"), Some("pencil")][..], BadShadow::OtherUser),
            (&[Some(""), Some("pencil")], BadShadow::OtherUser),
            (&[Some("pencil")], BadShadow::Columns(1)),
            (&[Some("ann"), Some("pencil"), None, None], BadShadow::Columns(4)),
            (&[Some("ann"), Some("pencil"), Some("NaN")], BadShadow::Validity),
            (&[Some("ann"), Some("pencil"), Some("soon")], BadShadow::Validity),
            (&[Some("ann"), Some("SCRAM-SHA-256$pencil")], BadShadow::BadVerifier),
        ] {
            let refused = read_one(values).unwrap_err();
            assert_eq!(refused, error, "{values:?}");
            assert!(!refused.to_string().contains("pencil"), "{refused}");
        }
        let one = row(&[Some("ann"), Some("pencil")]);
        assert_eq!(read(b"ann", &[one.clone(), one]).unwrap_err(), BadShadow::SeveralRows);
    }
}
