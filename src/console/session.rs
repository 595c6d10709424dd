//! One visitor's conversation: messages, and the simple protocol.
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
use crate::console::extended::{Portal, Stop};
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
use crate::wire::frontend;
use crate::wire::write;

/// The longest message a visitor may send.
const LONGEST: usize = 64 << 10;

const HELP: &str = "Console usage
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
\tSHOW DNS_HOSTS|DNS_ZONES
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

/// A visitor, and what it has left here.
pub(super) struct Session {
    pub(super) console: Arc<Console>,
    pub(super) visitor: Visitor,
    pub(super) statements: HashMap<Vec<u8>, Command>,
    pub(super) portals: HashMap<Vec<u8>, Portal>,
    pub(super) is_in_transaction: bool,
    /// Whether everything up to the next Sync is skipped.
    is_skipping: bool,
}

/// What a command came to, without its rows.
pub(super) enum Answer {
    Empty,
    Error(&'static str, String),
    Help,
    Table(Table),
    Tag(String),
}

/// The visitor has gone, or must.
pub(super) struct Gone;

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
    pub(super) fn outbox(&mut self) -> &mut BytesMut {
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
            tag::SYNC => self.on_sync(),
            tag::FLUSH => {}
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => {
                match self.on_extended(kind, &body).await {
                    Ok(()) => {}
                    Err(Stop::Gone) => return Err(Gone),
                    Err(Stop::Refused(sqlstate, message)) => {
                        self.error(sqlstate, &message);
                        self.is_skipping = true;
                    }
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

    /// Outside a transaction block it ends one, and portals end with that.
    fn on_sync(&mut self) {
        self.is_skipping = false;
        if !self.is_in_transaction {
            self.portals.clear();
        }
        self.ready();
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

    /// What a command shows, if it shows anything.
    pub(super) fn shown(&self, command: &Command) -> Option<Table> {
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

    pub(super) async fn run(&mut self, command: &Command) -> Result<Answer, Gone> {
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

    pub(super) fn answer(&mut self, answer: Answer, formats: &[i16]) {
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
