//! Policies and functions as texts: who reads the identity, where, and how a policy is written to read it once.
//!
//! Expressions come from `pg_get_expr`, which writes them in one way only: names qualified, casts as `::`, a sub-select as
//! `( SELECT app.uid() AS uid)`. What people wrote into function bodies is only searched for words.
//!
//! # Promises
//! - What is rewritten means the same: a call that depends on no row is moved, with the casts around it, into a sub-select.
//! - What is not understood is left as it is.
//!
//! # Refuses
//! To parse SQL: tokens and parentheses are enough for what the server itself has written.

use std::ops::Range;

/// How the identity is read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Readers {
    /// Variables that hold it.
    pub(super) variables: Vec<String>,
    /// Functions that read it, as `schema.name`, quoted where need be.
    pub(super) functions: Vec<String>,
}

/// Whether a function's body reads one of the variables by itself.
pub(super) fn mentions(body: &str, variables: &[String]) -> bool {
    let body = body.to_lowercase();
    variables.iter().any(|variable| {
        let variable = variable.to_lowercase();
        body.match_indices(&variable).any(|(at, _)| {
            let (before, after) = (body.get(..at), body.get(at + variable.len()..));
            !before.is_some_and(|text| text.ends_with(is_word))
                && !after.is_some_and(|text| text.starts_with(is_word))
        })
    })
}

/// Whether a function's body calls something of this name, in whatever schema.
pub(super) fn calls(body: &str, name: &str) -> bool {
    let (body, name) = (body.to_lowercase(), name.to_lowercase());
    body.match_indices(&name).any(|(at, _)| {
        let is_start = !body.get(..at).is_some_and(|text| text.ends_with(is_word));
        let after = body.get(at + name.len()..).unwrap_or_default();
        is_start && after.trim_start_matches('"').trim_start().starts_with('(')
    })
}

impl Readers {
    /// Whether an expression reads the identity.
    pub(super) fn are_in(&self, expression: &str) -> bool {
        mentions(expression, &self.variables)
            || self.functions.iter().any(|name| !calls_of(name, expression).is_empty())
    }

    /// The expression with every call that depends on no row in a sub-select, its casts inside; `None` if it is so already.
    pub(super) fn read_once(&self, expression: &str) -> Option<String> {
        let mut text = expression.to_owned();
        let mut changed = false;
        for _ in 0..MOST_CALLS {
            let Some((range, replacement)) = self.first_repeated(&text) else { break };
            text.replace_range(range, &replacement);
            changed = true;
        }
        changed.then_some(text)
    }

    /// The first call that is made for each row, and what is to stand in its place.
    fn first_repeated(&self, text: &str) -> Option<(Range<usize>, String)> {
        let tokens = tokens(text);
        self.constant_calls(text, &tokens).into_iter().find_map(|call| {
            let call = with_casts(text, &tokens, call);
            match enclosing_select(text, &tokens, &call) {
                None => {
                    let range = span(&tokens, &call)?;
                    let moved = format!("( SELECT {})", text.get(range.clone())?);
                    Some((range, moved))
                }
                Some(select) => cast_inside(text, &tokens, &select),
            }
        })
    }

    /// Token ranges of calls that read the identity and depend on nothing else.
    fn constant_calls(&self, text: &str, tokens: &[Token]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for at in 0..tokens.len() {
            let is_setting = word(text, tokens, at) == Some("current_setting")
                && tokens.get(at + 2).is_some_and(|token| {
                    token.kind == Kind::Text
                        && self.variables.iter().any(|name| is_literal_of(slice(text, token), name))
                });
            let function = self.functions.iter().find_map(|name| name_at(name, text, tokens, at));
            let open = match function {
                Some(after) => after,
                None if is_setting => at + 1,
                None => continue,
            };
            if let Some(close) = closing(text, tokens, open)
                && tokens.get(open + 1..close).is_some_and(|inside| are_constants(text, inside))
            {
                found.push(at..close + 1);
            }
        }
        found
    }
}

/// What a piece of an expression is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// `"name"`.
    Identifier,
    /// Anything else: one character, or `::`.
    Sign,
    /// `'text'`.
    Text,
    /// A keyword, a plain name, a number.
    Word,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Token {
    kind: Kind,
    at: Range<usize>,
}

fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let begin = at;
        let kind = match byte {
            b' ' | b'\n' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'E' if bytes.get(at + 1) == Some(&b'\'') => {
                at = end_of_quote(bytes, at + 1, true);
                Kind::Text
            }
            b'\'' => {
                at = end_of_quote(bytes, at, false);
                Kind::Text
            }
            b'"' => {
                at = end_of_quote(bytes, at, false);
                Kind::Identifier
            }
            b':' if bytes.get(at + 1) == Some(&b':') => {
                at += 2;
                Kind::Sign
            }
            _ if is_word(char::from(byte)) || byte >= 0x80 => {
                while bytes.get(at).is_some_and(|byte| is_word(char::from(*byte)) || *byte >= 0x80) {
                    at += 1;
                }
                Kind::Word
            }
            _ => {
                at += 1;
                Kind::Sign
            }
        };
        found.push(Token { kind, at: begin..at });
    }
    found
}

/// Where a quoted text ends: behind its closing quote.
fn end_of_quote(bytes: &[u8], open: usize, has_escapes: bool) -> usize {
    let quote = bytes.get(open);
    let mut at = open + 1;
    while let Some(byte) = bytes.get(at) {
        let is_escape = has_escapes && *byte == b'\\';
        if is_escape || (Some(byte) == quote && bytes.get(at + 1) == quote) {
            at += 2;
        } else if Some(byte) == quote {
            return at + 1;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn slice<'a>(text: &'a str, token: &Token) -> &'a str {
    text.get(token.at.clone()).unwrap_or_default()
}

fn word<'a>(text: &'a str, tokens: &[Token], at: usize) -> Option<&'a str> {
    tokens.get(at).filter(|token| token.kind == Kind::Word).map(|token| slice(text, token))
}

fn is_sign(text: &str, tokens: &[Token], at: usize, sign: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.kind == Kind::Sign && slice(text, token) == sign)
}

/// The bytes of a range of tokens.
fn span(tokens: &[Token], range: &Range<usize>) -> Option<Range<usize>> {
    let (first, last) = (tokens.get(range.start)?, tokens.get(range.end.checked_sub(1)?)?);
    Some(first.at.start..last.at.end)
}

fn is_literal_of(literal: &str, name: &str) -> bool {
    literal.trim_matches('\'').eq_ignore_ascii_case(name)
}

/// Where the parenthesis that opens at `open` closes.
fn closing(text: &str, tokens: &[Token], open: usize) -> Option<usize> {
    if !is_sign(text, tokens, open, "(") {
        return None;
    }
    let mut depth = 0_usize;
    for at in open..tokens.len() {
        if is_sign(text, tokens, at, "(") {
            depth += 1;
        } else if is_sign(text, tokens, at, ")") {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// Where the parenthesis opens that holds the tokens from `start` on.
fn opening(text: &str, tokens: &[Token], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in (0..start).rev() {
        if is_sign(text, tokens, at, ")") {
            depth += 1;
        } else if is_sign(text, tokens, at, "(") {
            if depth == 0 {
                return Some(at);
            }
            depth -= 1;
        }
    }
    None
}

/// Literals, casts of them, commas: nothing that differs from row to row.
fn are_constants(text: &str, tokens: &[Token]) -> bool {
    let mut follows_cast = false;
    tokens.iter().all(|token| {
        let piece = slice(text, token);
        let is_constant = match token.kind {
            Kind::Text => true,
            Kind::Sign => matches!(piece, "::" | "," | "."),
            Kind::Identifier => follows_cast,
            Kind::Word => {
                follows_cast
                    || matches!(piece, "true" | "false" | "NULL")
                    || piece.starts_with(|c: char| c.is_ascii_digit())
            }
        };
        follows_cast = piece == "::" || (follows_cast && piece == ".");
        is_constant
    })
}

/// Where `schema.name` is called: the tokens' position behind the name, if it stands at `at`.
fn name_at(name: &str, text: &str, tokens: &[Token], at: usize) -> Option<usize> {
    let mut position = at;
    for (index, part) in self::tokens(name).iter().enumerate() {
        let token = tokens.get(at + index)?;
        if slice(text, token) != slice(name, part) {
            return None;
        }
        position = at + index + 1;
    }
    let is_qualified_further = at > 0 && is_sign(text, tokens, at - 1, ".");
    (!is_qualified_further && is_sign(text, tokens, position, "(")).then_some(position)
}

fn calls_of(name: &str, text: &str) -> Vec<usize> {
    let tokens = tokens(text);
    (0..tokens.len()).filter(|at| name_at(name, text, &tokens, *at).is_some()).collect()
}

/// A call, with the parentheses, casts and NULLIFs around it that depend on no row either.
fn with_casts(text: &str, tokens: &[Token], call: Range<usize>) -> Range<usize> {
    let mut range = call;
    loop {
        let wider = cast_after(text, tokens, range.end)
            .map(|end| range.start..end)
            .or_else(|| in_parentheses(text, tokens, &range))
            .or_else(|| in_nullif(text, tokens, &range));
        match wider {
            Some(wider) => range = wider,
            None => return range,
        }
    }
}

/// The end of a `::type` that begins at `at`.
fn cast_after(text: &str, tokens: &[Token], at: usize) -> Option<usize> {
    if !is_sign(text, tokens, at, "::") {
        return None;
    }
    let mut end = at + 2;
    while is_sign(text, tokens, end, ".") {
        end += 2;
    }
    while word(text, tokens, end).is_some_and(|word| TYPE_WORDS.contains(&word)) {
        end += 1;
    }
    if is_sign(text, tokens, end, "(") {
        end = closing(text, tokens, end)? + 1;
    }
    while is_sign(text, tokens, end, "[") && is_sign(text, tokens, end + 1, "]") {
        end += 2;
    }
    (end <= tokens.len()).then_some(end)
}

/// `( … )` around it, unless they are a function's or a sub-select's.
fn in_parentheses(text: &str, tokens: &[Token], range: &Range<usize>) -> Option<Range<usize>> {
    let open = range.start.checked_sub(1)?;
    if !is_sign(text, tokens, open, "(") || !is_sign(text, tokens, range.end, ")") {
        return None;
    }
    let is_called = open.checked_sub(1).is_some_and(|before| match tokens.get(before) {
        Some(token) if token.kind == Kind::Word => !GROUPING_WORDS.contains(&slice(text, token)),
        Some(token) => token.kind == Kind::Identifier,
        None => false,
    });
    (!is_called).then_some(open..range.end + 1)
}

/// `NULLIF( … , 'text'::text)` around it.
fn in_nullif(text: &str, tokens: &[Token], range: &Range<usize>) -> Option<Range<usize>> {
    let name = range.start.checked_sub(2)?;
    let close = closing(text, tokens, name + 1)?;
    let is_nullif = word(text, tokens, name)?.eq_ignore_ascii_case("nullif")
        && is_sign(text, tokens, range.end, ",")
        && tokens.get(range.end + 1..close).is_some_and(|rest| are_constants(text, rest));
    is_nullif.then_some(name..close + 1)
}

/// The innermost sub-select that has the call in its list and reads no table: it is evaluated once.
fn enclosing_select(text: &str, tokens: &[Token], call: &Range<usize>) -> Option<Range<usize>> {
    let mut start = call.start;
    loop {
        let open = opening(text, tokens, start)?;
        let close = closing(text, tokens, open)?;
        if word(text, tokens, open + 1) == Some("SELECT") {
            return (!reads_tables(text, tokens, open + 1..close)).then_some(open..close + 1);
        }
        start = open;
    }
}

/// Whether a sub-select has a FROM of its own.
fn reads_tables(text: &str, tokens: &[Token], range: Range<usize>) -> bool {
    let mut depth = 0_usize;
    range.into_iter().any(|at| {
        if is_sign(text, tokens, at, "(") {
            depth += 1;
        } else if is_sign(text, tokens, at, ")") {
            depth = depth.saturating_sub(1);
        }
        depth == 0 && word(text, tokens, at) == Some("FROM")
    })
}

/// A cast right behind a sub-select of one column, moved into it.
fn cast_inside(text: &str, tokens: &[Token], select: &Range<usize>) -> Option<(Range<usize>, String)> {
    let mut outer = select.clone();
    while let Some(wider) = in_parentheses(text, tokens, &outer) {
        outer = wider;
    }
    let end = cast_after(text, tokens, outer.end)?;
    let (first, last) = (select.start + 2, select.end - 1);
    let mut inner = first..last;
    if word(text, tokens, last.checked_sub(2)?) == Some("AS") {
        inner.end = last - 2;
    }
    let inner = text.get(span(tokens, &inner)?)?;
    let cast = text.get(span(tokens, &(outer.end..end))?)?;
    Some((span(tokens, &(outer.start..end))?, format!("( SELECT ({inner}){cast})")))
}

/// Words behind the first of a type's name.
const TYPE_WORDS: [&str; 6] = ["precision", "time", "varying", "with", "without", "zone"];

/// Words behind which a parenthesis only groups.
const GROUPING_WORDS: [&str; 14] = [
    "AND", "BETWEEN", "CASE", "DISTINCT", "ELSE", "FROM", "IS", "NOT", "OR", "SELECT", "THEN", "WHEN",
    "WHERE", "ON",
];

/// Most calls of one expression that are rewritten.
const MOST_CALLS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn readers() -> Readers {
        Readers {
            variables: vec!["app.current_user_id".into()],
            functions: vec!["app.uid".into(), "\"my App\".\"Me\"".into()],
        }
    }

    #[test]
    fn a_call_for_each_row_is_moved_into_a_sub_select_with_its_casts() {
        for (expression, once) in [
            (
                "(id = (current_setting('app.current_user_id'::text))::uuid)",
                "(id = ( SELECT (current_setting('app.current_user_id'::text))::uuid))",
            ),
            (
                "(id = (NULLIF(current_setting('app.current_user_id'::text, true), ''::text))::uuid)",
                "(id = ( SELECT (NULLIF(current_setting('app.current_user_id'::text, true), ''::text))::uuid))",
            ),
            ("(owner_id = app.uid())", "(owner_id = ( SELECT app.uid()))"),
            ("(\"my App\".\"Me\"() = owner_id)", "(( SELECT \"my App\".\"Me\"()) = owner_id)"),
            (
                "((owner)::text = current_setting('APP.current_user_id'::text))",
                "((owner)::text = ( SELECT current_setting('APP.current_user_id'::text)))",
            ),
            (
                "(id = (( SELECT current_setting('app.current_user_id'::text) AS current_setting))::uuid)",
                "(id = ( SELECT (current_setting('app.current_user_id'::text))::uuid))",
            ),
            (
                "(is_public OR (a = app.uid()) OR (b = app.uid()))",
                "(is_public OR (a = ( SELECT app.uid())) OR (b = ( SELECT app.uid())))",
            ),
            (
                "(EXISTS ( SELECT 1\n   FROM app.members m\n  WHERE ((m.org = docs.org) AND (m.member = app.uid()))))",
                "(EXISTS ( SELECT 1\n   FROM app.members m\n  WHERE ((m.org = docs.org) AND (m.member = ( SELECT app.uid())))))",
            ),
            (
                "(name = (current_setting('app.current_user_id'::text))::character varying(10))",
                "(name = ( SELECT (current_setting('app.current_user_id'::text))::character varying(10)))",
            ),
        ] {
            assert_eq!(readers().read_once(expression).as_deref(), Some(once), "{expression}");
            assert_eq!(readers().read_once(once), None, "{once}");
            assert!(readers().are_in(expression));
        }
    }

    #[test]
    fn what_is_read_once_or_depends_on_the_row_is_left() {
        for expression in [
            "(owner_id = ( SELECT app.uid() AS uid))",
            "(owner_id = ( SELECT (NULLIF(current_setting('app.current_user_id'::text, true), ''::text))::uuid AS \"nullif\"))",
            "(owner_id = ( SELECT lower(app.uid()) AS lower))",
            "app.can_see(owner_id)",
            "(note = 'app.uid()'::text)",
            "(other_app.uid() = owner_id)",
            "(x.app.uid() = owner_id)",
            "(id = (current_setting('app.other'::text))::uuid)",
            "true",
            "",
            "((((",
            "'",
        ] {
            assert_eq!(readers().read_once(expression), None, "{expression}");
        }
    }

    #[test]
    fn a_body_is_searched_for_words() {
        let variables = ["app.current_user_id".to_owned()];

        assert!(mentions("select current_setting('App.Current_User_ID', true)", &variables));
        assert!(!mentions("select current_setting('app.current_user_id_2')", &variables));
        assert!(!mentions("select current_setting('myapp.current_user_id')", &variables));
        assert!(calls("select owner = app.UID ()", "uid"));
        assert!(calls("select \"Uid\"()", "Uid"));
        assert!(!calls("select guid()", "uid"));
        assert!(!calls("select uid", "uid"));
    }
}
