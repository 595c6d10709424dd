//! Ports that are this test's alone.
//!
//! Binding port 0 and letting go leaves a window in which another test, or any outgoing connection, takes the
//! port. So ports come from below the kernel's own range, and each is reserved among test processes by an abstract
//! unix socket of its name, which the kernel frees when the process ends, however it ends.

use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

/// `tests/postgres.sh` takes from 10000 to 11999.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A free port, as long as this lives.
pub struct Port {
    pub number: u16,
    _reservation: UnixListener,
}

impl Port {
    pub fn reserve() -> Self {
        let width = RANGE.end - RANGE.start;
        for _ in 0..1_000 {
            let number = RANGE.start + random() % width;
            let name =
                UnixAddr::from_abstract_name(format!("pgusher-e2e-port-{number}")).expect("a valid name");
            let Ok(reservation) = UnixListener::bind_addr(&name) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _reservation: reservation };
            }
        }
        panic!("no free port between {} and {}", RANGE.start, RANGE.end);
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }
}

fn random() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("random bytes");
    u16::from_ne_bytes(bytes)
}
