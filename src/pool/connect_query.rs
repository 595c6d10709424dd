//! `connect_query`: what is run once on each new server, and what it leaves there.
//!
//! # Promises
//! - The settings it made are known: they are every client's who wants no other, and each clean brings them back.
//! - What the server reported meanwhile is taken.
//!
//! # Refuses
//! A session state that is no setting (a role, a temporary table, LISTEN, a prepared statement …): it would be gone after the
//! first clean, and whoever had relied on it would not be told.

use std::io;

use bytes::BytesMut;

use crate::net::Peer;
use crate::pool::error::ConnectError;
use crate::session::inspect::{self, Findings, Question};
use crate::session::{IdentitySettings, Parameters, Values, sql};
use crate::wire::control::{ErrorFields, ServerError};
use crate::wire::frame::{HEADER, backend as tag};
use crate::wire::{Header, backend, write};

const INSUFFICIENT_PRIVILEGE: Option<&str> = Some("42501");

/// Runs the configured SQL; the settings it left.
///
/// # Errors
/// It failed, the connection broke, or it left what is no setting.
pub(super) async fn run(
    peer: &mut Peer,
    text: &str,
    reported: &mut Parameters,
) -> Result<Values, ConnectError> {
    write::query(&mut peer.buffers.outbox, text.as_bytes());
    hear(peer, reported).await?.map_err(|error| ConnectError::ConnectQuery(Box::new(error)))?;
    let custom = sql::read(text.as_bytes(), &IdentitySettings::default()).custom;
    let mut question = Question { identity: None, is_guarded: true, with_statements: true };
    let mut answer = ask(peer, &custom, question, reported).await?;
    if answer.as_ref().is_err_and(|error| error.sqlstate() == INSUFFICIENT_PRIVILEGE) {
        question.with_statements = false;
        answer = ask(peer, &custom, question, reported).await?;
    }
    let findings = answer.map_err(|error| ConnectError::ConnectQuery(Box::new(error)))?;
    if findings.pins.is_empty() {
        Ok(findings.values)
    } else {
        Err(ConnectError::ConnectQueryLeft(findings.pins))
    }
}

async fn ask(
    peer: &mut Peer,
    custom: &[Vec<u8>],
    question: Question<'_>,
    reported: &mut Parameters,
) -> Result<Result<Findings, ServerError>, ConnectError> {
    inspect::ask(&mut peer.buffers.outbox, custom.iter().map(Vec::as_slice), question);
    hear(peer, reported).await
}

/// Hears the answers to one Query, to their end.
async fn hear(
    peer: &mut Peer,
    reported: &mut Parameters,
) -> Result<Result<Findings, ServerError>, ConnectError> {
    let invalid = |_| ConnectError::lost(io::ErrorKind::InvalidData.into());
    peer.drain().await.map_err(ConnectError::lost)?;
    let (mut findings, mut refused) = (Findings::default(), None);
    loop {
        while let Some(frame) = take_frame(&mut peer.buffers.inbox)? {
            let body = frame.get(HEADER..).unwrap_or_default();
            match frame.first() {
                Some(&tag::ERROR) => refused = ErrorFields::read(body).map(|fields| fields.to_server_error()),
                Some(&tag::DATA_ROW) => findings.on_row(body).map_err(invalid)?,
                Some(&tag::PARAMETER_STATUS) => {
                    let (name, value) = backend::parameter_status(body).map_err(invalid)?;
                    reported.set(name, value);
                }
                Some(&tag::READY_FOR_QUERY) => return Ok(refused.map_or(Ok(findings), Err)),
                _ => {}
            }
        }
        if !peer.fill().await.map_err(ConnectError::lost)? {
            return Err(ConnectError::lost(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

fn take_frame(inbox: &mut BytesMut) -> Result<Option<BytesMut>, ConnectError> {
    match Header::read(inbox) {
        Ok(Some(header)) if inbox.len() >= header.len => Ok(Some(inbox.split_to(header.len))),
        Ok(_) => Ok(None),
        Err(_) => Err(ConnectError::lost(io::ErrorKind::InvalidData.into())),
    }
}
