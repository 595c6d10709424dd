//! The extended protocol: Parse, Bind, Describe, Execute, Close.
//!
//! # Promises
//! - A command is done when it is executed, and shows what was so then, or when it was described.
//! - Execute's limit on rows is kept: the rest comes with the next Execute of that portal.
//!
//! # Refuses
//! Parameters: no command has any, so values that are bound are not read.

use crate::console::command::{self, Command};
use crate::console::session::{Answer, Gone, Session};
use crate::console::table::Table;
use crate::wire::frame::frontend as tag;
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::write;

/// Most statements and portals a visitor may name.
const MOST_NAMES: usize = 1_000;

/// A bound statement.
pub(super) struct Portal {
    command: Command,
    formats: Vec<i16>,
    /// What it shows, as it was described, without the rows that were sent.
    table: Option<Table>,
}

/// Why a message was not answered as it wanted.
pub(super) enum Stop {
    /// It was no such message.
    Gone,
    /// SQLSTATE and words.
    Refused(&'static str, String),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

fn refused(sqlstate: &'static str, message: &str) -> Stop {
    Stop::Refused(sqlstate, message.to_owned())
}

fn no_statement() -> Stop {
    refused("26000", "prepared statement does not exist")
}

fn no_portal() -> Stop {
    refused("34000", "portal does not exist")
}

impl Session {
    /// Does what one message wants.
    pub(super) async fn on_extended(&mut self, kind: u8, body: &[u8]) -> Result<(), Stop> {
        match kind {
            tag::PARSE => self.on_parse(body),
            tag::BIND => self.on_bind(body),
            tag::DESCRIBE => self.on_describe(body),
            tag::EXECUTE => self.on_execute(body).await,
            _ => self.on_close(body),
        }
    }

    fn on_parse(&mut self, body: &[u8]) -> Result<(), Stop> {
        let parse = Parse::read(body).map_err(|_| Gone)?;
        let text = String::from_utf8_lossy(parse.text).into_owned();
        let statements = command::statements(&text);
        let [statement] = statements.as_slice() else {
            return Err(refused("42601", "cannot insert multiple commands into a prepared statement"));
        };
        if self.statements.len() >= MOST_NAMES {
            return Err(refused("53400", "too many prepared statements"));
        }
        self.statements.insert(parse.name.to_vec(), command::parse(statement));
        write::parse_complete(self.outbox());
        Ok(())
    }

    fn on_bind(&mut self, body: &[u8]) -> Result<(), Stop> {
        let bind = Bind::read(body).ok_or(Gone)?;
        let command = self.statements.get(bind.statement).cloned().ok_or_else(no_statement)?;
        let formats = result_formats(body.get(bind.names..).unwrap_or_default()).ok_or(Gone)?;
        if self.portals.len() >= MOST_NAMES {
            self.portals.clear();
        }
        self.portals.insert(bind.portal.to_vec(), Portal { command, formats, table: None });
        write::bind_complete(self.outbox());
        Ok(())
    }

    fn on_describe(&mut self, body: &[u8]) -> Result<(), Stop> {
        match frontend::target(tag::DESCRIBE, body).map_err(|_| Gone)? {
            Target::Statement(name) => self.describe_statement(name),
            Target::Portal(name) => self.describe_portal(name),
        }
    }

    fn describe_statement(&mut self, name: &[u8]) -> Result<(), Stop> {
        let command = self.statements.get(name).cloned().ok_or_else(no_statement)?;
        write::parameter_description_empty(self.outbox());
        match self.shown(&command) {
            Some(table) => table.describe(&[], self.outbox()),
            None => write::no_data(self.outbox()),
        }
        Ok(())
    }

    fn describe_portal(&mut self, name: &[u8]) -> Result<(), Stop> {
        let mut portal = self.portals.remove(name).ok_or_else(no_portal)?;
        portal.table = portal.table.or_else(|| self.shown(&portal.command));
        match &portal.table {
            Some(table) => table.describe(&portal.formats, self.outbox()),
            None => write::no_data(self.outbox()),
        }
        self.portals.insert(name.to_vec(), portal);
        Ok(())
    }

    async fn on_execute(&mut self, body: &[u8]) -> Result<(), Stop> {
        let name = frontend::execute(body).map_err(|_| Gone)?;
        let limit = frontend::row_limit(body).map_err(|_| Gone)?;
        let mut portal = self.portals.remove(name).ok_or_else(no_portal)?;
        let answer = match portal.table.take() {
            Some(table) => Answer::Table(table),
            None => self.run(&portal.command).await?,
        };
        match (answer, limit) {
            (Answer::Error(sqlstate, message), _) => return Err(Stop::Refused(sqlstate, message)),
            // As in PostgreSQL, which does not look ahead: as many as were wanted is not yet the end.
            (Answer::Table(mut table), Some(limit)) if table.rows.len() >= limit => {
                let rest = table.rows.split_off(limit);
                table.write(&portal.formats, self.outbox());
                write::portal_suspended(self.outbox());
                portal.table = Some(Table { rows: rest, ..table });
                self.portals.insert(name.to_vec(), portal);
            }
            (answer, _) => self.answer(answer, &portal.formats),
        }
        Ok(())
    }

    fn on_close(&mut self, body: &[u8]) -> Result<(), Stop> {
        match frontend::target(tag::CLOSE, body).map_err(|_| Gone)? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        write::close_complete(self.outbox());
        Ok(())
    }
}

/// The formats a Bind wants its results in: they follow the formats and the values of parameters.
fn result_formats(values: &[u8]) -> Option<Vec<i16>> {
    let mut rest = values;
    let count = take_i16(&mut rest)?;
    for _ in 0..count {
        take_i16(&mut rest)?;
    }
    for _ in 0..take_i16(&mut rest)? {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(i32::from_be_bytes(*len)).unwrap_or(0);
        rest = after.get(len..)?;
    }
    let count = take_i16(&mut rest)?;
    (0..count).map(|_| take_i16(&mut rest)).collect()
}

fn take_i16(rest: &mut &[u8]) -> Option<i16> {
    let (number, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(i16::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_formats_follow_the_values() {
        assert_eq!(result_formats(&[0, 0, 0, 0, 0, 1, 0, 1]), Some(vec![1]));
        assert_eq!(result_formats(&[0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7, 0, 0]), Some(vec![]));
        assert_eq!(result_formats(&[0, 0, 0, 1, 0, 0]), None);
    }
}
