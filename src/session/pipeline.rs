//! The answers a server has still to give, in order.
//!
//! This is PgBouncer's `outstanding_requests`, typed. A server may be given back only when nothing is owed, and an
//! answer may be hidden, supplied or changed only if we know whose it is.
//!
//! # Promises
//! - Entries are paid in the order they were owed; an error voids the extended ones up to the next Sync.
//! - What is voided is handed back one by one, so that whoever believed in it can unlearn it.
//!
//! # Refuses
//! To know frames or SQL. What ends an entry is decided in [`crate::session::exchange`].

use std::collections::VecDeque;
use std::fmt;

/// What is owed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// `2`.
    Bind,
    /// `3`.
    Close,
    /// Nothing: a copy the server has not begun yet ends here.
    CopyEnd,
    /// `T` or `n`.
    DescribePortal,
    /// `t`, then `T` or `n`.
    DescribeStatement,
    /// `C`, `I` or `s`; rows or a copy before.
    Execute,
    /// `1`.
    Parse,
    /// `Z`, with whatever comes before it. Also FunctionCall's.
    Query,
    /// `Z`.
    Sync,
}

/// Whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The client asked and the server answers: forward.
    Client,
    /// We asked: swallow.
    Injected,
    /// A step of the prelude: swallow, and check; with the last one it is proven.
    Prelude(Step),
    /// We made the server fail in the client's place: its error is replaced by our words.
    Refused(super::Refusal),
    /// The client asked and the server is not told: answer in its place.
    Supplied,
}

/// A statement of the prelude, known by its command tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// `SET`.
    Assign,
    /// `BEGIN`.
    Begin,
    /// `CLOSE ALL`.
    Close,
    /// `COMMIT`.
    Commit,
    /// `DISCARD SEQUENCES`.
    Discard,
    /// `DISCARD ALL`.
    DiscardAll,
    /// `DISCARD TEMP`.
    DiscardTemporary,
    /// `RESET`.
    Reset,
    /// `SELECT` of one row, such as `set_config(...)`.
    Set,
    /// `UNLISTEN`.
    Unlisten,
}

impl Step {
    /// The command tag that proves it.
    pub fn tag(self) -> &'static [u8] {
        match self {
            Self::Assign => b"SET",
            Self::Begin => b"BEGIN",
            Self::Close => b"CLOSE CURSOR ALL",
            Self::Commit => b"COMMIT",
            Self::Discard => b"DISCARD SEQUENCES",
            Self::DiscardAll => b"DISCARD ALL",
            Self::DiscardTemporary => b"DISCARD TEMP",
            Self::Reset => b"RESET",
            Self::Set => b"SELECT 1",
            Self::Unlisten => b"UNLISTEN",
        }
    }
}

/// One answer still to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owed {
    /// What it is.
    pub answer: Answer,
    /// Whose it is.
    pub origin: Origin,
    /// The statement it concerns (a [`crate::session::prepared::Statement`]'s number), 0 for none.
    pub statement: u64,
}

impl Owed {
    /// An answer the client waits for.
    pub fn client(answer: Answer) -> Self {
        Self { answer, origin: Origin::Client, statement: 0 }
    }

    /// The same, from another origin.
    pub fn by(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// The same, about a statement.
    pub fn about(self, statement: u64) -> Self {
        Self { statement, ..self }
    }
}

/// What is known of a copy when it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyRest {
    /// Whether the client has ended it already.
    pub has_ended: bool,
    /// Whether other messages were sent into it: the server fails at a place we cannot know.
    pub is_unknown: bool,
}

/// The queue.
#[derive(Default)]
pub struct Pipeline {
    queue: VecDeque<Owed>,
}

impl Pipeline {
    /// Adds an answer at the end.
    pub fn push(&mut self, owed: Owed) {
        self.queue.push_back(owed);
    }

    /// The answer that is due now.
    pub fn front(&self) -> Option<Owed> {
        self.queue.front().copied()
    }

    /// Takes the answer that is due now.
    pub fn pop(&mut self) -> Option<Owed> {
        let owed = self.queue.pop_front();
        // An end without its copy: the server drops such messages.
        while self.queue.front().is_some_and(|next| next.answer == Answer::CopyEnd) {
            self.queue.pop_front();
        }
        owed
    }

    /// The client has ended a copy before the server has said that it began.
    pub fn push_copy_end(&mut self) {
        if !self.queue.is_empty() {
            self.push(Owed::client(Answer::CopyEnd));
        }
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether anything is owed that may begin or end a transaction block.
    pub fn owes_an_end(&self) -> bool {
        self.queue.iter().any(|owed| matches!(owed.answer, Answer::Execute | Answer::Query | Answer::Sync))
    }

    /// How many answers are owed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes the next entry that an error voids: everything up to the next Sync, which stays. A Query is skipped too.
    pub fn void(&mut self) -> Option<Owed> {
        if self.front()?.answer == Answer::Sync {
            return None;
        }
        self.pop()
    }

    /// A copy in begins for the answer that is due. Under the extended protocol the Syncs that were sent before its end are
    /// forgotten: "the backend will ignore Sync and Flush messages while in COPY IN" (protocol flow, COPY Operations).
    pub fn on_copy_in(&mut self, is_extended: bool) -> CopyRest {
        let end = self.queue.iter().position(|owed| owed.answer == Answer::CopyEnd);
        let before = 1..end.unwrap_or(self.queue.len());
        let is_unknown =
            self.queue.range(before.clone()).any(|owed| !is_extended || owed.answer != Answer::Sync);
        let after = end.map_or(before.end, |end| end + 1);
        self.queue.drain(before.start..after);
        CopyRest { has_ended: end.is_some(), is_unknown }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.queue.clear();
    }
}

impl fmt::Debug for Pipeline {
    /// The owed answers as letters; `!` swallowed, `+` supplied, `x` refused.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("owed:")?;
        for owed in &self.queue {
            let letter = match owed.answer {
                Answer::Bind => '2',
                Answer::Close => '3',
                Answer::CopyEnd => 'c',
                Answer::DescribePortal => 'T',
                Answer::DescribeStatement => 't',
                Answer::Execute => 'C',
                Answer::Parse => '1',
                Answer::Query | Answer::Sync => 'Z',
            };
            let mark = match owed.origin {
                Origin::Client => "",
                Origin::Injected | Origin::Prelude(_) => "!",
                Origin::Refused(_) => "x",
                Origin::Supplied => "+",
            };
            write!(f, " {letter}{mark}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_voids_up_to_the_next_sync_and_no_further() {
        let mut pipeline = Pipeline::default();
        for answer in [Answer::Parse, Answer::Bind, Answer::Sync, Answer::Execute] {
            pipeline.push(Owed::client(answer));
        }

        let mut voided = Vec::new();
        while let Some(owed) = pipeline.void() {
            voided.push(owed.answer);
        }

        assert_eq!(voided, [Answer::Parse, Answer::Bind]);
        assert_eq!(format!("{pipeline:?}"), "owed: Z C");
    }

    #[test]
    fn syncs_before_the_end_of_a_copy_are_forgotten() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Owed::client(Answer::Execute));
        pipeline.push(Owed::client(Answer::Sync));
        pipeline.push_copy_end();
        pipeline.push(Owed::client(Answer::Sync));

        assert_eq!(pipeline.on_copy_in(true), CopyRest { has_ended: true, is_unknown: false });

        assert_eq!(format!("{pipeline:?}"), "owed: C Z");
    }

    #[test]
    fn an_end_without_its_copy_owes_nothing() {
        let mut pipeline = Pipeline::default();
        pipeline.push_copy_end();
        assert!(pipeline.is_empty());
        pipeline.push(Owed::client(Answer::Query));
        pipeline.push_copy_end();
        pipeline.pop();

        assert!(pipeline.is_empty());
    }
}
