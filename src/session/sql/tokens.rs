//! SQL in pieces, as PostgreSQL's lexer cuts it (PostgreSQL docs, "Lexical Structure").
//!
//! Apart from what is read from the pieces, because this is PostgreSQL's doing and that is ours.
//!
//! # Promises
//! - Comments, strings, dollar quotes and quoted names end where PostgreSQL ends them, with `standard_conforming_strings` on.
//! - One pass and a cursor that can be copied to look ahead; nothing is allocated but for a name or a value that is asked for.
//! - What never ends, ends with the text.
//!
//! # Refuses
//! To read escapes: a string or a name with any is [`Token::Escaped`], whatever is in it.

use memchr::{memchr, memchr2};

/// What each byte may be part of: reading a text is little else than asking this.
const KINDS: [u8; 256] = kinds();

/// Between words.
pub(super) const BLANK: u8 = 1;

/// Of a word.
pub(super) const WORD: u8 = 2;

/// Of a number.
pub(super) const NUMBER: u8 = 4;

/// A piece of SQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// Between dollar quotes, as it is.
    Dollar(&'a [u8]),
    /// A string or name with escapes, whose content is not known.
    Escaped,
    Number(&'a [u8]),
    /// `$1`.
    Parameter(u16),
    /// Between double quotes, not unescaped.
    Quoted(&'a [u8]),
    /// Between single quotes, not unescaped.
    String(&'a [u8]),
    Symbol(u8),
    Word(&'a [u8]),
}

impl Token<'_> {
    /// Whether PostgreSQL folds it to `name`, which has no quotes in it.
    pub(super) fn is_name(self, name: &str) -> bool {
        match self {
            Self::Word(word) => word.eq_ignore_ascii_case(name.as_bytes()),
            Self::Quoted(quoted) => quoted == name.as_bytes(),
            _ => false,
        }
    }
}

/// The pieces of a text, comments and white space left out.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    /// Before the first piece.
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn left(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let left = self.left();
        let piece = left.get(..count).unwrap_or(left);
        self.at += piece.len();
        piece
    }

    fn skip_blank(&mut self) {
        loop {
            self.at += run(self.left(), BLANK);
            match self.left() {
                left @ [b'-', b'-', ..] => {
                    self.at += memchr2(b'\n', b'\r', left).unwrap_or(left.len());
                }
                [b'/', b'*', ..] => self.skip_comment(),
                _ => return,
            }
        }
    }

    /// `/* ... */`, which nests.
    fn skip_comment(&mut self) {
        let mut depth = 0usize;
        loop {
            match self.left() {
                [b'/', b'*', ..] => {
                    depth += 1;
                    self.at += 2;
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                [] => return,
                _ => self.at += 1,
            }
        }
    }

    /// What is between quotes; the opening one is already taken. `escapes` is E'' with its backslashes.
    fn quoted(&mut self, quote: u8, escapes: bool) -> &'a [u8] {
        let start = self.at;
        loop {
            let left = self.left();
            let next = if escapes { memchr2(quote, b'\\', left) } else { memchr(quote, left) };
            let Some(next) = next else {
                self.at = self.text.len();
                return self.text.get(start..).unwrap_or_default();
            };
            self.at += next;
            match self.left() {
                [b'\\', _, ..] if escapes => self.at += 2,
                [first, second, ..] if *first == quote && *second == quote => self.at += 2,
                _ => {
                    let end = self.at;
                    self.at += 1;
                    return self.text.get(start..end).unwrap_or_default();
                }
            }
        }
    }

    /// `$tag$ ... $tag$`, or `$1`.
    fn dollar(&mut self) -> Token<'a> {
        let left = self.left();
        let digits = left.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 {
            let text = self.take(digits + 1);
            let number = std::str::from_utf8(text.get(1..).unwrap_or_default())
                .ok()
                .and_then(|text| text.parse().ok());
            return Token::Parameter(number.unwrap_or(0));
        }
        let name = left.iter().skip(1).take_while(|byte| is_word(**byte) && **byte != b'$').count();
        if left.get(name + 1) != Some(&b'$') {
            self.at += 1;
            return Token::Symbol(b'$');
        }
        let tag = self.take(name + 2);
        let start = self.at;
        while let Some(next) = memchr(b'$', self.left()) {
            self.at += next;
            if self.left().starts_with(tag) {
                let end = self.at;
                self.at += tag.len();
                return Token::Dollar(self.text.get(start..end).unwrap_or_default());
            }
            self.at += 1;
        }
        self.at = self.text.len();
        Token::Dollar(self.text.get(start..).unwrap_or_default())
    }

    fn word(&mut self) -> Token<'a> {
        let left = self.left();
        match left {
            [b'e' | b'E', b'\'', ..] => {
                self.at += 2;
                let text = self.quoted(b'\'', true);
                if memchr(b'\\', text).is_some() { Token::Escaped } else { Token::String(text) }
            }
            [b'u' | b'U', b'&', quote @ (b'\'' | b'"'), ..] => {
                self.at += 3;
                let _ = self.quoted(*quote, false);
                Token::Escaped
            }
            [b'b' | b'B' | b'x' | b'X' | b'n' | b'N', b'\'', ..] => {
                self.at += 2;
                let _ = self.quoted(b'\'', false);
                Token::Symbol(b'\'')
            }
            _ => Token::Word(self.take(run(left, WORD))),
        }
    }

    pub(super) fn symbol(&mut self, symbol: u8) -> Option<()> {
        (self.next()? == Token::Symbol(symbol)).then_some(())
    }

    /// A name, folded as PostgreSQL folds it.
    pub(super) fn name(&mut self) -> Option<Vec<u8>> {
        match self.next()? {
            Token::Word(word) => Some(word.to_ascii_lowercase()),
            Token::Quoted(name) => Some(unquote(name, b'"')),
            _ => None,
        }
    }

    /// A dotted name, lower case throughout: settings do not care about case, quoted or not.
    pub(super) fn variable(&mut self) -> Option<Vec<u8>> {
        let mut name = self.name()?.to_ascii_lowercase();
        loop {
            let mut look = *self;
            if look.symbol(b'.').is_none() {
                return Some(name);
            }
            name.push(b'.');
            name.extend(look.name()?.to_ascii_lowercase());
            *self = look;
        }
    }

    /// Skips `::text`, `::varchar`, `::bool` or `::boolean`.
    pub(super) fn cast(&mut self) {
        let mut look = *self;
        let colons = look.symbol(b':').and_then(|()| look.symbol(b':'));
        if colons.is_some()
            && matches!(look.name().as_deref(), Some(b"text" | b"varchar" | b"bool" | b"boolean"))
        {
            *self = look;
        }
    }

    pub(super) fn peek_word(&mut self) -> Option<&'a [u8]> {
        let mut look = *self;
        match look.next()? {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Whether only semicolons are left.
    pub(super) fn is_end(&self) -> bool {
        let mut look = *self;
        look.all(|token| token == Token::Symbol(b';'))
    }

    pub(super) fn is_end_of_statement(&self) -> bool {
        let mut look = *self;
        matches!(look.next(), None | Some(Token::Symbol(b';')))
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let first = *self.left().first()?;
        Some(match first {
            b'\'' => {
                self.at += 1;
                Token::String(self.quoted(b'\'', false))
            }
            b'"' => {
                self.at += 1;
                Token::Quoted(self.quoted(b'"', false))
            }
            b'$' => self.dollar(),
            b'0'..=b'9' => {
                let left = self.left();
                Token::Number(self.take(run(left, NUMBER)))
            }
            byte if is_word(byte) => self.word(),
            byte => {
                self.at += 1;
                Token::Symbol(byte)
            }
        })
    }
}

const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let one = byte as u8;
        kinds[byte] = match one {
            b'_' | b'$' | 0x80.. => WORD | NUMBER,
            b'.' => NUMBER,
            0x0b => BLANK,
            _ if one.is_ascii_alphanumeric() => WORD | NUMBER,
            _ if one.is_ascii_whitespace() => BLANK,
            _ => 0,
        };
        byte += 1;
    }
    kinds
}

/// Whether it may be part of that.
#[inline]
pub(super) fn is(byte: u8, kind: u8) -> bool {
    KINDS[usize::from(byte)] & kind != 0
}

/// How many bytes of this kind it begins with.
#[inline]
pub(super) fn run(text: &[u8], kind: u8) -> usize {
    text.iter().position(|byte| !is(*byte, kind)).unwrap_or(text.len())
}

fn is_word(byte: u8) -> bool {
    is(byte, WORD)
}

/// The content of a quoted text, its doubled quotes made single.
pub(super) fn unquote(raw: &[u8], quote: u8) -> Vec<u8> {
    let mut text = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == quote {
            let _ = bytes.next_if_eq(&quote);
        }
        text.push(byte);
    }
    text
}
