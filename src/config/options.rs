//! PostgreSQL's `options`: server settings in one line of text.
//!
//! It is the form in which a URL and a variable of the environment carry what the file has as a table.
//!
//! # Promises
//! - Everything in the line is a setting, or the line is refused.
//!
//! # Refuses
//! To know which settings a server has, and which values they take.

/// The settings in PostgreSQL's `options`: `-c name=value`, `-cname=value` or `--name=value`, with a backslash
/// before a blank or a backslash inside (PostgreSQL's `pg_split_opts`). `None` if there is anything else.
pub(super) fn settings(options: &str) -> Option<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let mut words = words(options)?.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c") {
            Some("") => words.next()?,
            Some(setting) => setting.to_owned(),
            None => word.strip_prefix("--")?.to_owned(),
        };
        let (name, value) = setting.split_once('=')?;
        let name = name.replace('-', "_");
        if !is_setting(&name) {
            return None;
        }
        settings.push((name, value.to_owned()));
    }
    Some(settings)
}

/// The words of `options`; `None` if it ends in a lone backslash.
fn words(options: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = options.chars();
    while let Some(c) = rest.next() {
        if c.is_ascii_whitespace() {
            words.extend(word.take());
            continue;
        }
        word.get_or_insert_default().push(if c == '\\' { rest.next()? } else { c });
    }
    words.extend(word);
    Some(words)
}

/// Whether a server can be given this in its startup packet: a variable's name, and none with a meaning of its own
/// there.
pub(super) fn is_setting(name: &str) -> bool {
    let taken = ["application_name", "database", "options", "password", "replication", "user"];
    is_variable(name) && !taken.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Whether this can name a variable, of PostgreSQL's own or a custom one (its `valid_custom_variable_name`).
pub(super) fn is_variable(name: &str) -> bool {
    name.split('.').all(is_identifier)
}

fn is_identifier(part: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && part.chars().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &str) -> Option<Vec<(String, String)>> {
        settings(options)
    }

    #[test]
    fn every_spelling_of_a_setting_is_read() {
        for options in ["-c a.b=1 -c c=x\\ y\\\\", "-ca.b=1 --c=x\\ y\\\\", "  -c  a.b=1\t-cc=x\\ y\\\\ "] {
            let expected = [("a.b", "1"), ("c", "x y\\")].map(|(name, value)| (name.into(), value.into()));
            assert_eq!(read(options), Some(expected.to_vec()), "{options}");
        }
        assert_eq!(read("--work-mem=4MB"), Some(vec![("work_mem".into(), "4MB".into())]));
        assert_eq!(read(""), Some(Vec::new()));
    }

    #[test]
    fn anything_but_settings_is_refused() {
        for options in
            ["-c", "-c jit", "jit=off", "-h", "-d 3", "-c a=b\\", "-c user=x", "-c 1a=2", "-c a b=c"]
        {
            assert_eq!(read(options), None, "{options}");
        }
    }

    #[test]
    fn the_name_of_a_variable_has_parts() {
        for name in ["jit", "app.current_user_id", "a.b.c", "_x.$", "a$1._"] {
            assert_eq!(is_variable(name), !name.ends_with(".$"), "{name}");
        }
        for name in ["", ".", "a.", ".a", "a..b", "1a", "a b", "a-b", "ä.b", "a;b"] {
            assert!(!is_variable(name), "{name}");
        }
    }
}
