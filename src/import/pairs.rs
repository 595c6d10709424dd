//! The value of a line of `[databases]`, `[users]` or `[peers]`: `key=value key='quoted value'`.
//!
//! # Promises
//! - Read as PgBouncer reads it (`cstr_get_pair` in loader.c): blanks are spaces, a quote inside quotes is doubled, a
//!   value is not empty, and nothing but a blank may follow a closing quote.
//!
//! # Refuses
//! To know keys; to repeat any of the text in an error, which may be a password.

/// The pairs, in order; the error says what is wrong.
pub(super) fn read(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(' ');
    while !rest.is_empty() {
        let (key, after) = key(rest)?;
        let (value, after) = value(after.trim_start_matches(' '))?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start_matches(' ');
    }
    Ok(pairs)
}

/// What is before `=`, and what is behind it.
fn key(text: &str) -> Result<(&str, &str), &'static str> {
    let end = text.find(['=', ' ']).ok_or(NO_VALUE)?;
    let (key, rest) = text.split_at(end);
    let rest = rest.trim_start_matches(' ').strip_prefix('=').ok_or(NO_VALUE)?;
    if key.is_empty() {
        return Err("there is no key before `=`");
    }
    Ok((key, rest))
}

/// A value, quoted or not, and what is behind it.
fn value(text: &str) -> Result<(String, &str), &'static str> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let (value, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        return if value.is_empty() { Err(EMPTY) } else { Ok((value.to_owned(), rest)) };
    };
    let mut value = String::new();
    let mut rest = quoted;
    loop {
        let (before, after) = rest.split_once('\'').ok_or("a quote is not closed")?;
        value += before;
        rest = after;
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None if value.is_empty() => return Err(EMPTY),
            None if rest.is_empty() || rest.starts_with(' ') => return Ok((value, rest)),
            None => return Err("something follows a closing quote without a blank"),
        }
    }
}

const EMPTY: &str = "a value is empty";
const NO_VALUE: &str = "expected key=value";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_pgbouncer_reads_them() {
        for (text, expected) in [
            ("", Ok(vec![])),
            ("  ", Ok(vec![])),
            ("host=a port=1", Ok(vec![("host", "a"), ("port", "1")])),
            ("  host = a  port =1 ", Ok(vec![("host", "a"), ("port", "1")])),
            ("password='it''s = 1' x=''''", Ok(vec![("password", "it's = 1"), ("x", "'")])),
            ("connect_query='select 1' user=é", Ok(vec![("connect_query", "select 1"), ("user", "é")])),
            ("password=a=b'c", Ok(vec![("password", "a=b'c")])),
            ("host", Err(NO_VALUE)),
            ("host port=1", Err(NO_VALUE)),
            ("=a", Err("there is no key before `=`")),
            ("host=", Err(EMPTY)),
            ("host=''", Err(EMPTY)),
            ("host= port=1", Ok(vec![("host", "port=1")])),
            ("host='a", Err("a quote is not closed")),
            ("host='a''", Err("a quote is not closed")),
            ("host='a'port=1", Err("something follows a closing quote without a blank")),
        ] {
            let expected = expected.map(|pairs| {
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>()
            });
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
