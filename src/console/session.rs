//! One visitor's conversation: the simple and the extended protocol.
//!
//! # Promises
//! - An error leaves the connection as it was; in the extended protocol everything up to the next Sync is skipped.
//! - PAUSE and WAIT_CLOSE can be cancelled, and end with the visitor.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::console::Console;
use crate::console::command::{self, Command};
use crate::console::show::one;
use crate::console::steer::Steered;
use crate::console::table::Table;
use crate::names::{Database, Printable};
use crate::net::Peer;
use crate::proxy::cancel::Order;
use crate::proxy::console::{Role, Visitor};
use crate::wire::Header;
use crate::wire::frame::HEADER;
use crate::wire::frame::frontend as tag;
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::write;

/// The longest message a visitor may send.
const LONGEST: usize = 64 << 10;

/// Most statements and portals a visitor may name.
const MOST_NAMES: usize = 1_000;

const HELP: &str = "Console usage
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW LISTS|MEM|STATE|PEERS|PEER_POOLS|DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW WAITING|PINS|IDENTITY
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client_id>
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<db>]";

/// A bound statement.
struct Portal {
    command: Command,
    formats: Vec<i16>,
    /// What it shows, as it was described.
    table: Option<Table>,
}

struct Session {
    console: Arc<Console>,
    visitor: Visitor,
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
    is_in_transaction: bool,
    /// Whether everything up to the next Sync is skipped.
    is_skipping: bool,
}

/// What a command came to, without its rows.
enum Answer {
    Empty,
    Error(&'static str, String),
    Help,
    Table(Table),
    Tag(String),
}

/// The visitor has gone, or must.
struct Gone;

/// Serves until the visitor leaves.
pub(super) async fn serve(console: Arc<Console>, visitor: Visitor) {
    let (id, user, role) = (visitor.id, visitor.user.clone(), visitor.role);
    tracing::info!(client = %id, %user, ?role, "console opened");
    let mut session = Session {
        console,
        visitor,
        statements: HashMap::new(),
        portals: HashMap::new(),
        is_in_transaction: false,
        is_skipping: false,
    };
    while session.turn().await.is_ok() {}
    tracing::info!(client = %id, %user, "console closed");
    session.visitor.peer.close().await;
}

impl Session {
    fn outbox(&mut self) -> &mut BytesMut {
        &mut self.visitor.peer.buffers.outbox
    }

    /// Reads one message, and answers it.
    async fn turn(&mut self) -> Result<(), Gone> {
        let Some((kind, body)) = self.message().await? else {
            write::error_response(
                self.outbox(),
                "FATAL",
                "57P01",
                "terminating connection due to administrator command",
                None,
                None,
                None,
            );
            return Err(Gone);
        };
        if self.is_skipping && !matches!(kind, tag::SYNC | tag::TERMINATE) {
            return Ok(());
        }
        match kind {
            tag::TERMINATE => return Err(Gone),
            tag::QUERY => self.on_query(&body).await?,
            tag::SYNC => {
                self.is_skipping = false;
                self.ready();
            }
            tag::FLUSH => {}
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => {
                if let Err((sqlstate, message)) = self.on_extended(kind, &body).await? {
                    self.error(sqlstate, &message);
                    self.is_skipping = true;
                }
            }
            _ => {
                self.error("08P01", "the console does not know this kind of message");
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// The next message; `None` if the visitor must leave.
    async fn message(&mut self) -> Result<Option<(u8, BytesMut)>, Gone> {
        loop {
            let inbox = &mut self.visitor.peer.buffers.inbox;
            if let Some(header) = Header::read(inbox).map_err(|_| Gone)? {
                if header.len > LONGEST {
                    return Err(Gone);
                }
                if inbox.len() >= header.len {
                    let mut frame = inbox.split_to(header.len);
                    let body = frame.split_off(HEADER);
                    return Ok(Some((header.tag, body)));
                }
            }
            let Visitor { peer, entry, .. } = &mut self.visitor;
            let heard = poll_fn(|cx| {
                entry.handle.is_served_by(cx.waker());
                if entry.handle.is_ordered(Order::Leave) || entry.handle.is_ordered(Order::Die) {
                    return Poll::Ready(Ok(false));
                }
                hear(peer, cx)
            })
            .await;
            if !heard? {
                return Ok(None);
            }
        }
    }

    async fn on_query(&mut self, body: &[u8]) -> Result<(), Gone> {
        let text = frontend::query(body).map_err(|_| Gone)?;
        let text = String::from_utf8_lossy(text).into_owned();
        for statement in command::statements(&text) {
            let answer = self.run(&command::parse(statement)).await?;
            let is_error = matches!(answer, Answer::Error(..));
            if let Answer::Table(table) = &answer {
                table.describe(&[], self.outbox());
            }
            self.answer(answer, &[]);
            if is_error {
                break;
            }
        }
        self.ready();
        Ok(())
    }

    async fn on_extended(
        &mut self,
        kind: u8,
        body: &[u8],
    ) -> Result<Result<(), (&'static str, String)>, Gone> {
        match kind {
            tag::PARSE => {
                let parse = Parse::read(body).map_err(|_| Gone)?;
                let text = String::from_utf8_lossy(parse.text).into_owned();
                let statements = command::statements(&text);
                let [statement] = statements.as_slice() else {
                    return Ok(Err((
                        "42601",
                        "cannot insert multiple commands into a prepared statement".into(),
                    )));
                };
                if self.statements.len() >= MOST_NAMES {
                    return Ok(Err(("53400", "too many prepared statements".into())));
                }
                self.statements.insert(parse.name.to_vec(), command::parse(statement));
                write::parse_complete(self.outbox());
            }
            tag::BIND => {
                let bind = Bind::read(body).ok_or(Gone)?;
                let Some(command) = self.statements.get(bind.statement).cloned() else {
                    return Ok(Err(("26000", "prepared statement does not exist".into())));
                };
                let formats = result_formats(body.get(bind.names..).unwrap_or_default()).ok_or(Gone)?;
                if self.portals.len() >= MOST_NAMES {
                    self.portals.clear();
                }
                self.portals.insert(bind.portal.to_vec(), Portal { command, formats, table: None });
                write::bind_complete(self.outbox());
            }
            tag::DESCRIBE => match frontend::target(kind, body).map_err(|_| Gone)? {
                Target::Statement(name) => {
                    let Some(command) = self.statements.get(name).cloned() else {
                        return Ok(Err(("26000", "prepared statement does not exist".into())));
                    };
                    write::parameter_description_empty(self.outbox());
                    match self.shown(&command) {
                        Some(table) => table.describe(&[], self.outbox()),
                        None => write::no_data(self.outbox()),
                    }
                }
                Target::Portal(name) => {
                    let name = name.to_vec();
                    let Some(command) = self.portals.get(&name).map(|portal| portal.command.clone()) else {
                        return Ok(Err(("34000", "portal does not exist".into())));
                    };
                    let table = self.shown(&command);
                    let Some(portal) = self.portals.get_mut(&name) else { return Err(Gone) };
                    portal.table = table;
                    let outbox = &mut self.visitor.peer.buffers.outbox;
                    match &portal.table {
                        Some(table) => table.describe(&portal.formats, outbox),
                        None => write::no_data(outbox),
                    }
                }
            },
            tag::EXECUTE => {
                let name = frontend::execute(body).map_err(|_| Gone)?;
                let Some(portal) = self.portals.remove(name) else {
                    return Ok(Err(("34000", "portal does not exist".into())));
                };
                let answer = match portal.table {
                    Some(table) => Answer::Table(table),
                    None => self.run(&portal.command).await?,
                };
                if let Answer::Error(sqlstate, message) = answer {
                    return Ok(Err((sqlstate, message)));
                }
                self.answer(answer, &portal.formats);
            }
            _ => {
                match frontend::target(kind, body).map_err(|_| Gone)? {
                    Target::Statement(name) => drop(self.statements.remove(name)),
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                write::close_complete(self.outbox());
            }
        }
        Ok(Ok(()))
    }

    /// What a command shows, if it shows anything.
    fn shown(&self, command: &Command) -> Option<Table> {
        match command {
            Command::Show(what) => self.console.table(what),
            Command::Constant(column, value) => Some(one(column, &self.constant(column, value))),
            _ => None,
        }
    }

    fn constant(&self, column: &str, value: &str) -> String {
        match column {
            "version" => format!("{} (pgusher)", self.console.proxy.edition().settings.console.version()),
            _ => value.to_owned(),
        }
    }

    async fn run(&mut self, command: &Command) -> Result<Answer, Gone> {
        if !command.is_harmless() {
            if self.visitor.role == Role::Reader {
                return Ok(Answer::Error("42501", "admin access needed".into()));
            }
            tracing::info!(client = %self.visitor.id, user = %self.visitor.user, ?command, "console command");
        }
        if let Some(table) = self.shown(command) {
            return Ok(Answer::Table(table));
        }
        Ok(match command {
            Command::Empty => Answer::Empty,
            Command::Chatter(tag, transaction) => {
                self.is_in_transaction = transaction.unwrap_or(self.is_in_transaction);
                Answer::Tag((*tag).to_owned())
            }
            Command::Show(what) if what == "help" => Answer::Help,
            Command::Show(what) => unknown(&format!("SHOW {}", what.to_uppercase())),
            Command::Unknown(text) => unknown(text),
            command => match self.console.steer(command) {
                Steered::Done(tag) => Answer::Tag(tag),
                Steered::Refused(sqlstate, message) => Answer::Error(sqlstate, message),
                Steered::UntilPaused(database) => self.wait("PAUSE", database).await?,
                Steered::UntilClosed(database) => self.wait("WAIT_CLOSE", database).await?,
            },
        })
    }

    /// Until it is so; or the visitor cancels, leaves, or must.
    async fn wait(&mut self, tag: &'static str, database: Option<Database>) -> Result<Answer, Gone> {
        let pools = self.console.proxy.pools.clone();
        let Visitor { peer, entry, .. } = &mut self.visitor;
        let handle = entry.handle.clone();
        handle.waits();
        let mut waiting = pin!(async {
            match tag {
                "PAUSE" => pools.at_rest(database.as_ref()).await,
                _ => pools.without_old(database.as_ref()).await,
            }
        });
        let ended = poll_fn(|cx| {
            if waiting.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Answer::Tag(tag.to_owned())));
            }
            if handle.is_ordered(Order::StopWaiting) {
                let message = "canceling statement due to user request".to_owned();
                return Poll::Ready(Ok(Answer::Error("57014", message)));
            }
            if handle.is_ordered(Order::Die) || handle.is_ordered(Order::Leave) {
                return Poll::Ready(Err(Gone));
            }
            while peer.buffers.inbox.len() < LONGEST {
                match hear(peer, cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(gone)) => return Poll::Ready(Err(gone)),
                }
            }
            Poll::Pending
        })
        .await;
        handle.has_nothing();
        ended
    }

    fn answer(&mut self, answer: Answer, formats: &[i16]) {
        match answer {
            Answer::Empty => write::empty_query_response(self.outbox()),
            Answer::Error(sqlstate, message) => self.error(sqlstate, &message),
            Answer::Help => {
                let (title, rest) = HELP.split_once('\n').unwrap_or((HELP, ""));
                let detail = format!("\n{rest}");
                write::notice_response(self.outbox(), "NOTICE", "00000", title, Some(&detail), None);
                write::command_complete(self.outbox(), b"SHOW");
            }
            Answer::Table(table) => {
                table.write(formats, self.outbox());
                write::command_complete(self.outbox(), b"SHOW");
            }
            Answer::Tag(tag) => write::command_complete(self.outbox(), tag.as_bytes()),
        }
    }

    fn error(&mut self, sqlstate: &str, message: &str) {
        write::error_response(self.outbox(), "ERROR", sqlstate, message, None, None, None);
    }

    fn ready(&mut self) {
        let status = if self.is_in_transaction { b'T' } else { b'I' };
        write::ready_for_query(self.outbox(), status);
    }
}

fn unknown(text: &str) -> Answer {
    Answer::Error("42601", format!("invalid command '{}', use SHOW HELP;", Printable(text.as_bytes())))
}

/// Says what is to be said, and hears what there is to hear.
fn hear(peer: &mut Peer, cx: &mut Context<'_>) -> Poll<Result<bool, Gone>> {
    peer.poll_drain(cx).map_err(|_| Gone)?;
    match peer.poll_fill(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(true)) => Poll::Ready(Ok(true)),
        Poll::Ready(Ok(false) | Err(_)) => Poll::Ready(Err(Gone)),
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
