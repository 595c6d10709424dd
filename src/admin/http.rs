//! HTTP, as much of it as a scraper and a probe need.
//!
//! hyper reads and writes; here is what bounds it. One request for each connection: the next scrape is seconds away, and what is closed
//! cannot be held open.
//!
//! # Promises
//! - At most `MOST` connections are open; one more closes the oldest, so that whoever holds them all keeps nobody out.
//! - A connection lives at most `LONGEST`, whatever its peer does or does not do; a header is at most `HEADER` bytes long
//!   and comes within `HEADER_TIME`.
//! - What is said after the header is not read.
//!
//! # Refuses
//! To know what is asked: `super::route` does. TLS, compression, a second request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::admin::{Admin, route};

/// Connections at once.
const MOST: usize = 32;

/// Longest a connection may live.
const LONGEST: Duration = Duration::from_secs(10);

/// Bytes of a request's first line and header.
const HEADER: usize = 8 << 10;

/// Longest they may take.
const HEADER_TIME: Duration = Duration::from_secs(3);

/// Lines of a header.
const LINES: usize = 64;

/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// What is answered.
pub(super) type Answer = Response<Full<Bytes>>;

/// Binds the address.
///
/// # Errors
/// The system's: the address is in use, or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers for ever.
///
/// Cancel safe: connections that are open are closed.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let mut open = Open::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if !open.make_room() {
                        admin.rejections.increment();
                    }
                    open.add(converse(stream, peer, admin.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an HTTP connection");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = open.tasks.join_next() => {}
        }
    }
}

/// The connections that are open, the oldest first.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    handles: std::collections::VecDeque<tokio::task::AbortHandle>,
}

impl Open {
    /// Closes the oldest if there are as many as may be; whether that was not needed.
    fn make_room(&mut self) -> bool {
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() < MOST {
            return true;
        }
        if let Some(oldest) = self.handles.pop_front() {
            oldest.abort();
        }
        false
    }

    fn add(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.handles.push_back(self.tasks.spawn(task));
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, peer: SocketAddr, admin: Arc<Admin>) {
    let answer = |request: Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<Answer, std::convert::Infallible>(route::answer(&admin, &request, peer).await) }
    };
    let connection = http1::Builder::new()
        .keep_alive(false)
        .half_close(false)
        .max_buf_size(HEADER)
        .max_headers(LINES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    match timeout(LONGEST, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "HTTP request refused"),
        Err(_) => tracing::debug!(%peer, "HTTP connection took too long"),
    }
}
