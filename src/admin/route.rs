//! Which request is for what.
//!
//! # Promises
//! - An answer says in words what is wrong, and its status says the same to machines.
//! - The numbers are written beside the runtime: a long page keeps no client waiting.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::{HeaderMap, Method, Request, StatusCode};

use crate::admin::Admin;
use crate::admin::health::State;
use crate::admin::http::Answer;
use crate::proxy::Farewell;
use crate::telemetry::page::Format;

/// What there is to ask for, for those who ask for nothing.
const INDEX: &str = "pgusher\n\n/metrics   numbers, for Prometheus\n/livez     the process turns\n\
                     /startupz  configured, its credentials proven, its pools warm\n/readyz    accepting clients\n\
                     /drain     POST, from the loopback: the same as SIGTERM\n";

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Index,
    Alive,
    Drain,
    Metrics,
    Ready,
    Started,
}

/// What a path is.
fn target(path: &str) -> Option<Target> {
    match path {
        "/" => Some(Target::Index),
        "/drain" => Some(Target::Drain),
        "/livez" => Some(Target::Alive),
        "/metrics" => Some(Target::Metrics),
        "/readyz" => Some(Target::Ready),
        "/startupz" => Some(Target::Started),
        _ => None,
    }
}

/// Answers a request. What it has for a body is not looked at.
pub(super) async fn answer<B>(admin: &Admin, request: &Request<B>, peer: SocketAddr) -> Answer {
    let Some(target) = target(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "there is no such page; / lists those there are\n".into());
    };
    let (is_allowed, allowed) = match target {
        Target::Drain => (*request.method() == Method::POST, "POST"),
        _ => (matches!(*request.method(), Method::GET | Method::HEAD), "GET, HEAD"),
    };
    if !is_allowed {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed} is answered here\n"));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return answer;
    }
    match target {
        Target::Drain => drain(admin, request, peer),
        Target::Alive => text(StatusCode::OK, "alive\n".into()),
        Target::Index => text(StatusCode::OK, INDEX.into()),
        Target::Metrics => metrics(admin, request).await,
        Target::Ready => health(admin.health.readiness(&admin.proxy)),
        Target::Started => health(admin.health.start(&admin.proxy)),
    }
}

/// Whether an order is taken: from the loopback only, and not from a page in somebody's browser there, which would say where
/// it is from.
fn is_in_charge(peer: IpAddr, headers: &HeaderMap) -> bool {
    peer.to_canonical().is_loopback() && !headers.contains_key(ORIGIN)
}

fn drain<B>(admin: &Admin, request: &Request<B>, peer: SocketAddr) -> Answer {
    if !is_in_charge(peer.ip(), request.headers()) {
        return text(StatusCode::FORBIDDEN, "orders are taken from the loopback only\n".into());
    }
    tracing::info!(%peer, "told over HTTP to drain");
    admin.proxy.ask_to_go(Farewell::Drained);
    text(StatusCode::ACCEPTED, "draining\n".into())
}

async fn metrics<B>(admin: &Admin, request: &Request<B>) -> Answer {
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::asked_for(&accept.collect::<Vec<_>>().join(","));
    let snapshot = admin.scraper.look(admin);
    match tokio::task::spawn_blocking(move || snapshot.page(format)).await {
        Ok(page) => with_type(StatusCode::OK, page, format.content_type()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the numbers could not be written\n".into()),
    }
}

fn health(state: State) -> Answer {
    match state {
        State::Good(words) => text(StatusCode::OK, words.into()),
        State::Bad(words) => text(StatusCode::SERVICE_UNAVAILABLE, words),
    }
}

fn text(status: StatusCode, words: String) -> Answer {
    with_type(status, words, "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, words: String, content_type: &'static str) -> Answer {
    let mut answer = Answer::new(Full::new(Bytes::from(words)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_taken_from_the_loopback_and_from_no_page_in_a_browser() {
        let of = |ip: &str, headers: &HeaderMap| is_in_charge(ip.parse().unwrap(), headers);
        let plain = HeaderMap::new();
        let from_a_page = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("http://evil.example"))]);

        for (ip, is_taken) in [
            ("127.0.0.1", true),
            ("127.8.8.8", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.1.2.3", false),
            ("169.254.169.254", false),
            ("::ffff:10.1.2.3", false),
            ("fe80::1", false),
        ] {
            assert_eq!(of(ip, &plain), is_taken, "{ip}");
            assert!(!of(ip, &from_a_page), "{ip}");
        }
    }
}
