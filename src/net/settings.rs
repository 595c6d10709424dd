//! What the operator decides about sockets.
//!
//! # Refuses
//! To parse: `config` makes these from what was written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::net::tls;

/// `[listen]`, the part that is about sockets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where clients come in over TCP.
    pub addresses: Vec<SocketAddr>,
    /// Where the unix socket is made, as `.s.PGSQL.<port>` with the port of the first address.
    pub unix_socket_dir: Option<PathBuf>,
    /// The unix socket's permissions.
    pub unix_socket_mode: u32,
    /// Length of the kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// Idle time before TCP keepalive probes, both sides; `None` is the system's own.
    pub keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT`, both sides; `None` is the system's own.
    pub tcp_user_timeout: Option<Duration>,
    /// `[tls.client]`
    pub tls: tls::ClientSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 6432))],
            unix_socket_dir: None,
            unix_socket_mode: 0o777,
            backlog: 4096,
            keepalive: Some(Duration::from_secs(60)),
            tcp_user_timeout: None,
            tls: tls::ClientSettings::default(),
        }
    }
}
