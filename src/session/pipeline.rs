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
    /// A step of the prelude: swallow, and check.
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
    /// `COMMIT`: with its answer the prelude is proven.
    Commit,
    /// `DISCARD SEQUENCES`.
    Discard,
    /// `RESET`.
    Reset,
    /// `SELECT set_config(...)`.
    Set,
}

impl Step {
    /// The command tag that proves it.
    pub fn tag(self) -> &'static [u8] {
        match self {
            Self::Assign => b"SET",
            Self::Begin => b"BEGIN",
            Self::Commit => b"COMMIT",
            Self::Discard => b"DISCARD SEQUENCES",
            Self::Reset => b"RESET",
            Self::Set => b"SELECT 1",
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
        self.queue.pop_front()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
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

    /// Forgets the Syncs behind the one that is due: a server in COPY IN ignores them. Whether nothing else was there.
    pub fn forget_syncs(&mut self) -> bool {
        let all = self.queue.iter().skip(1).all(|owed| owed.answer == Answer::Sync);
        self.queue.truncate(1);
        all
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
    fn syncs_behind_a_copy_are_forgotten() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Owed::client(Answer::Execute));
        pipeline.push(Owed::client(Answer::Sync));

        assert!(pipeline.forget_syncs());

        assert_eq!(format!("{pipeline:?}"), "owed: C");
    }
}
