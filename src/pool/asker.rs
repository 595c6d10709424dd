//! A connection of our own, to ask PostgreSQL something that no client asks.
//!
//! # Promises
//! - Nothing of any client is on it: not its parameters, not its identity, and of its words only bound values. It is in no
//!   pool, so that no client can come to have it, and counts against no cap, so that clients cannot keep it from opening.
//! - One at a time is open, opened when it is needed, and closed when it has been idle for the pool's `idle_timeout`.
//! - A question is answered or given up within `connect_timeout` for the login, if there has to be one, and as long again
//!   for the answer; a password that a program prints has its `password_timeout` besides.
//! - A connection that went away while it was idle is noticed by asking again on a new one.
//!
//! # Refuses
//! To understand an answer, to remember it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::pool::error::ConnectError;
use crate::pool::manager::Manager;
use crate::pool::server::{Server, Vitality};
use crate::session::question::{Question, QuestionError, Row};

/// Questions that may wait; more clients than that are not let in at once anyway.
const MOST_WAITING: usize = 1_000;

/// Asks. Its connection is closed when it is dropped.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Request>);

#[derive(Debug)]
struct Request {
    sql: Arc<str>,
    value: Box<[u8]>,
    answer: oneshot::Sender<Result<Vec<Row>, AskError>>,
}

impl Asker {
    /// One that opens its connections as `manager` does.
    pub(super) fn new(manager: Manager) -> Self {
        let (sender, requests) = mpsc::channel(MOST_WAITING);
        drop(tokio::spawn(serve(manager, requests)));
        Self(sender)
    }

    /// Asks for what `sql` says of `value`, its one parameter.
    ///
    /// Cancel safe: the answer is not heard, and the connection is as good as before.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, sql: Arc<str>, value: &[u8]) -> Result<Vec<Row>, AskError> {
        let (answer, heard) = oneshot::channel();
        let request = Request { sql, value: value.into(), answer };
        self.0.send(request).await.map_err(|_| AskError::Closed)?;
        heard.await.map_err(|_| AskError::Closed)?
    }
}

async fn serve(manager: Manager, mut requests: mpsc::Receiver<Request>) {
    let mut kept: Option<Server> = None;
    loop {
        let request = match (&kept, manager.recipe().settings.idle_timeout) {
            (Some(_), Some(limit)) => match timeout(limit, requests.recv()).await {
                Ok(request) => request,
                Err(_) => {
                    close(&mut kept);
                    continue;
                }
            },
            _ => requests.recv().await,
        };
        let Some(request) = request else { break };
        if request.answer.is_closed() {
            continue;
        }
        let answer = Box::pin(answer(&manager, &mut kept, &request)).await;
        let _ = request.answer.send(answer);
    }
    close(&mut kept);
}

fn close(kept: &mut Option<Server>) {
    if let Some(server) = kept.take() {
        server.close();
    }
}

/// Asks on the connection that is kept, or on a new one; it is kept again if it is as it should be.
async fn answer(
    manager: &Manager,
    kept: &mut Option<Server>,
    request: &Request,
) -> Result<Vec<Row>, AskError> {
    let limit = manager.recipe().settings.connect_timeout;
    if let Some(mut server) = kept.take()
        && manager.fault(&server, Instant::now()).is_none()
        && server.look() == Vitality::Alive
    {
        match timeout(limit, converse(&mut server, request)).await {
            Ok(Err(AskError::Lost(_))) => {}
            Ok(answer) => return keep(kept, server, answer),
            Err(_) => return Err(AskError::TimedOut(limit)),
        }
    }
    let mut server = manager.open_dedicated(Vec::new()).await.map_err(AskError::Connect)?;
    match timeout(limit, converse(&mut server, request)).await {
        Ok(answer) => keep(kept, server, answer),
        Err(_) => Err(AskError::TimedOut(limit)),
    }
}

/// Keeps a server that answered, or that refused to and is idle again.
fn keep(
    kept: &mut Option<Server>,
    mut server: Server,
    answer: Result<Vec<Row>, AskError>,
) -> Result<Vec<Row>, AskError> {
    if matches!(answer, Ok(_) | Err(AskError::Question(QuestionError::Refused(_)))) {
        server.uses += 1;
        server.peer.give_up();
        *kept = Some(server);
    }
    answer
}

async fn converse(server: &mut Server, request: &Request) -> Result<Vec<Row>, AskError> {
    let peer = &mut server.peer;
    let mut question = Question::ask(&request.sql, &request.value, &mut peer.buffers.outbox);
    peer.drain().await.map_err(AskError::Lost)?;
    loop {
        if let Some(rows) = question.on_input(&mut peer.buffers.inbox).map_err(AskError::Question)? {
            return Ok(rows);
        }
        if !peer.fill().await.map_err(AskError::Lost)? {
            return Err(AskError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// We are going away.
    Closed,
    /// There is no connection to ask on.
    Connect(ConnectError),
    /// The connection broke.
    Lost(io::Error),
    /// The server refused the question, or answered with what is no answer.
    Question(QuestionError),
    /// The answer took longer than `connect_timeout`.
    TimedOut(Duration),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("shutting down"),
            Self::Connect(error) => error.fmt(f),
            Self::Lost(error) => write!(f, "server closed the connection: {error}"),
            Self::Question(error) => error.fmt(f),
            Self::TimedOut(limit) => write!(f, "no answer within connect_timeout ({limit:?})"),
        }
    }
}

impl std::error::Error for AskError {}
