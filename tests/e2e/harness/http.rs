//! One HTTP request and its answer, as bytes: no client of ours decides what may be sent.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::PATIENCE;

/// What an HTTP server said; the status is 0 if it only closed.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub header: String,
    pub body: String,
}

/// Sends these bytes and reads to the end.
pub async fn converse(server: SocketAddr, request: &[u8]) -> Answer {
    try_converse(server, request).await.expect("it listens")
}

/// The same, of a server that may be gone.
pub async fn try_converse(server: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let _ = stream.write_all(request).await; // it may have heard enough before the end
    let mut said = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    let _ = reading.expect("it closes"); // a reset is an end as well
    let said = String::from_utf8_lossy(&said).into_owned();
    let (header, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
    let status = header.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Answer { status, header: header.into(), body: body.into() })
}

/// In HTTP/1.0: the answer is not chunked, and the server closes after it.
pub async fn get(server: SocketAddr, path: &str) -> Answer {
    try_get(server, path).await.expect("it listens")
}

/// The same, of a server that may be gone.
pub async fn try_get(server: SocketAddr, path: &str) -> io::Result<Answer> {
    try_converse(server, format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await
}

/// Serves one text to whoever asks for anything, as long as the test lives; what it is can change.
pub async fn serve(listener: TcpListener, text: tokio::sync::watch::Receiver<String>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 4 << 10];
        let _ = stream.read(&mut request).await;
        let text = text.borrow().clone();
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n{text}");
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}
