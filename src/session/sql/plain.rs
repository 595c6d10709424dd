//! Texts that need no closer look: most of what applications say.
//!
//! # Promises
//! - What is plain here has nothing in it for the reader of [`super::read`]: no hint, no command, no name.
//! - One pass, nothing is allocated.
//!
//! # Refuses
//! To decide what is not obvious: comments, quoted names, dollar quotes, escapes, a second statement and every unusual first
//! word are for the reader.

use memchr::memchr;

use crate::session::sql::matter;
use crate::session::sql::tokens::{BLANK, NUMBER, WORD, is, run};

/// The first words of statements that do what they say and leave nothing behind but data.
const ORDINARY: [&[u8]; 7] = [b"select", b"insert", b"update", b"delete", b"commit", b"rollback", b"with"];

/// Whether there is nothing to be read in `text`.
pub(super) fn is_plain(text: &[u8]) -> bool {
    let mut left = text.get(run(text, BLANK)..).unwrap_or_default();
    let first = left.get(..run(left, WORD)).unwrap_or_default();
    if !ORDINARY.iter().any(|word| word.eq_ignore_ascii_case(first)) {
        return false;
    }
    // What a quote means depends on what is right before it: E'', B'', U&''.
    let mut before = b' ';
    while let [byte, after @ ..] = left {
        let taken = match *byte {
            b';' => return after.iter().all(|byte| is(*byte, BLANK) || *byte == b';'),
            b'"' => return false,
            b'-' if after.first() == Some(&b'-') => return false,
            b'/' if after.first() == Some(&b'*') => return false,
            b'\'' if is(before, WORD) || before == b'&' => return false,
            b'\'' => match memchr(b'\'', after) {
                Some(end) => end + 2,
                None => return false,
            },
            b'$' => match after.iter().take_while(|byte| byte.is_ascii_digit()).count() {
                0 => return false,
                digits => digits + 1,
            },
            b'0'..=b'9' => run(left, NUMBER),
            byte if is(byte, BLANK) => run(left, BLANK),
            byte if is(byte, WORD) => {
                let len = run(left, WORD);
                if left.get(..len).and_then(matter).is_some() {
                    return false;
                }
                len
            }
            _ => 1,
        };
        before = left.get(taken - 1).copied().unwrap_or_default();
        left = left.get(taken..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::IdentitySettings;
    use crate::session::sql::{Reading, read_closely};

    const PIECES: [&str; 42] = [
        "select",
        "set_config",
        "(",
        ")",
        ",",
        "'app.current_user_id'",
        "'it''s'",
        "E'",
        "e'\\''",
        "U&'x'",
        "B'1'",
        "'",
        "\"hold\"",
        "\"",
        "$1",
        "$",
        "$$",
        "$a$",
        "--",
        "-",
        "/*",
        "*/",
        "/",
        ";",
        "set role x",
        "listen",
        "temp",
        "hold",
        "execute",
        "pg_temp_3",
        "pg_advisory_lock",
        "lastval",
        "currval",
        "with",
        "1.5e3",
        "x1",
        "é",
        "\n",
        "&",
        "|| 'a'",
        "false",
        "discard all",
    ];

    #[test]
    fn what_is_plain_has_nothing_in_it_to_be_read() {
        let identity = IdentitySettings { enabled: true, ..IdentitySettings::default() };
        let mut plain = 0;
        for first in ["select", "insert", "commit", "set", "", " WITH", "select 1;"] {
            for (one, two, three) in PIECES
                .iter()
                .flat_map(|one| PIECES.iter().flat_map(move |two| PIECES.map(|three| (one, two, three))))
            {
                for between in ["", " "] {
                    let text = [first, one, two, three].join(between);
                    if is_plain(text.as_bytes()) {
                        plain += 1;
                        assert_eq!(read_closely(text.as_bytes(), &identity), Reading::default(), "{text}");
                    }
                }
            }
        }
        assert!(plain > 10_000, "{plain}");
    }

    #[test]
    fn what_applications_say_all_day_is_plain() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 54321;",
            "UPDATE pgbench_tellers SET tbalance = tbalance + -17 WHERE tid = $1",
            "insert into history (a, b) values ('it''s', now() - interval '1 day') returning id",
            "with x as (select 1) select * from x where a <> 'b' and c ->> 'd' = $12::text",
            "COMMIT",
        ] {
            assert!(is_plain(text.as_bytes()), "{text}");
        }
        for text in ["BEGIN", "", "set a = 1", "select 1; select 2", "select /* x */ 1", "select \"a\""] {
            assert!(!is_plain(text.as_bytes()), "{text}");
        }
    }
}
