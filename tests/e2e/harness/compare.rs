//! The oracle "unchanged": what a client hears through the pooler is what it hears without.

use super::{Frame, Pgusher, Postgres, Raw, notation};

/// Runs the script on a direct connection and through the pooler, and asserts that the same frames were heard.
///
/// The script runs twice in one database, so it must leave the data as it found it, or use
/// [`Comparison::before_each`]. Object IDs and process IDs must not be in the answers.
pub async fn same_answers(postgres: &Postgres, pgusher: &Pgusher, script: impl AsyncFn(&mut Raw)) {
    Comparison::of(postgres, pgusher).run(script).await;
}

/// A comparison with its conditions.
pub struct Comparison<'a> {
    postgres: &'a Postgres,
    pgusher: &'a Pgusher,
    before_each: &'a str,
    in_notation: bool,
    parameters: &'a [(&'a str, &'a str)],
}

impl<'a> Comparison<'a> {
    pub fn of(postgres: &'a Postgres, pgusher: &'a Pgusher) -> Self {
        Self { postgres, pgusher, before_each: "", in_notation: false, parameters: &[] }
    }

    /// SQL run as superuser before each of the two: `truncate t`.
    pub fn before_each(self, sql: &'a str) -> Self {
        Self { before_each: sql, ..self }
    }

    /// Compares what the notation shows only: for process IDs, and for errors the pooler answers in PostgreSQL's place.
    pub fn in_notation(self) -> Self {
        Self { in_notation: true, ..self }
    }

    /// Startup parameters of both clients.
    pub fn with(self, parameters: &'a [(&'a str, &'a str)]) -> Self {
        Self { parameters, ..self }
    }

    /// Runs the script on both sides.
    pub async fn run(self, script: impl AsyncFn(&mut Raw)) {
        let direct = self.listen(self.postgres.target(), &script).await;
        let through = self.listen(self.pgusher.target(), &script).await;
        if self.in_notation {
            assert_eq!(
                notation(&direct),
                notation(&through),
                "directly (left) and through the pooler (right)"
            );
            return;
        }
        assert_same(&direct, &through);
    }

    async fn listen(&self, target: super::Target, script: &impl AsyncFn(&mut Raw)) -> Vec<Frame> {
        if !self.before_each.is_empty() {
            self.postgres.sql(self.before_each).await;
        }
        let target = self.parameters.iter().fold(target, |target, (name, value)| target.with(name, value));
        let mut raw = Raw::login(&target).await;
        raw.forget();
        script(&mut raw).await;
        let heard = std::mem::take(&mut raw.heard);
        raw.terminate().await;
        heard.into_iter().filter(|frame| !frame.is(b'K')).collect()
    }
}

/// Two conversations, frame for frame.
#[track_caller]
pub fn assert_same(direct: &[Frame], through: &[Frame]) {
    let first = direct.iter().zip(through).position(|(one, other)| one != other);
    let first = first.unwrap_or_else(|| direct.len().min(through.len()));
    assert!(
        direct == through,
        "frame {first} differs\n directly: {:?}\n  through: {:?}\n directly: {}\n  through: {}",
        direct.get(first),
        through.get(first),
        notation(direct),
        notation(through),
    );
    assert!(!direct.is_empty(), "the script heard nothing");
}
