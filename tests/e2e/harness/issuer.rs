//! Somebody who issues tokens (JWT), well or badly, and publishes keys.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Issued;

/// An RSA key that was made for the tests and guards nothing.
const RSA: &str = include_str!("issuer_rsa.pem");

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of each kind that is understood, under the names `ed`, `es`, `rs` and `hs`.
pub struct Issuer {
    ed: Ed25519KeyPair,
    es: EcdsaKeyPair,
    rs: RsaKeyPair,
    pub secret: Vec<u8>,
    chance: SystemRandom,
}

impl Issuer {
    pub fn new() -> Self {
        let chance = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&chance).expect("a key");
        let es = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &chance).expect("a key");
        let rsa: String = RSA.lines().filter(|line| !line.starts_with("-----")).collect();
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("the key"),
            es: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, es.as_ref(), &chance)
                .expect("the key"),
            rs: RsaKeyPair::from_pkcs8(&STANDARD.decode(rsa).expect("base64")).expect("the key"),
            secret: ed.as_ref()[..48].to_vec(),
            chance,
        }
    }

    /// All its keys, as a JWK set.
    pub fn jwks(&self) -> String {
        format!(r#"{{"keys":[{}]}}"#, ["ed", "es", "rs", "hs"].map(|kid| self.jwk(kid)).join(","))
    }

    /// One of its keys.
    pub fn jwk(&self, kid: &str) -> String {
        let key = match kid {
            "ed" => format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, encoded(self.ed.public_key())),
            "es" => {
                let point = self.es.public_key().as_ref();
                format!(
                    r#""kty":"EC","crv":"P-256","x":"{}","y":"{}""#,
                    encoded(&point[1..33]),
                    encoded(&point[33..])
                )
            }
            "rs" => {
                let PublicKeyComponents { n, e }: PublicKeyComponents<Vec<u8>> = self.rs.public().into();
                format!(r#""kty":"RSA","alg":"RS256","use":"sig","n":"{}","e":"{}""#, encoded(n), encoded(e))
            }
            "hs" => format!(r#""kty":"oct","k":"{}""#, encoded(&self.secret)),
            _ => unreachable!("a key of ours"),
        };
        format!(r#"{{"kid":"{kid}",{key}}}"#)
    }

    /// The RSA public key, as those have it who take it for a secret.
    pub fn rsa_public(&self) -> Vec<u8> {
        self.rs.public().as_ref().to_vec()
    }

    /// A token signed with one of its keys.
    pub fn token(&self, kid: &str, claims: &str) -> String {
        let algorithm = match kid {
            "ed" => "EdDSA",
            "es" => "ES256",
            "rs" => "RS256",
            _ => "HS256",
        };
        self.token_as(&format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"{kid}"}}"#), kid, claims)
    }

    /// A token whose header says whatever it says.
    pub fn token_as(&self, header: &str, signed_by: &str, claims: &str) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature = match signed_by {
            "ed" => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
            "es" => self.es.sign(&self.chance, message.as_bytes()).expect("a signature").as_ref().to_vec(),
            "rs" => {
                let mut signature = vec![0; self.rs.public().modulus_len()];
                let padding = &ring::signature::RSA_PKCS1_SHA256;
                self.rs.sign(padding, &self.chance, message.as_bytes(), &mut signature).expect("a signature");
                signature
            }
            _ => mac(&self.secret, &message),
        };
        format!("{message}.{}", encoded(signature))
    }
}

/// HS256 by any secret.
pub fn mac(secret: &[u8], message: &str) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    ring::hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

/// Claims of a user whose token ends in so many seconds.
pub fn claims(user: &str, seconds: i64, rest: &str) -> String {
    format!(r#"{{"sub":"{user}","exp":{}{rest}}}"#, now().saturating_add_signed(seconds))
}

/// A key set that is published over HTTP or HTTPS, on the loopback.
pub struct Published {
    pub url: String,
    text: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Published {
    pub async fn new(text: String) -> Self {
        Self::over("http", text, |stream| async { Some(stream) }).await
    }

    /// By whoever this certificate is of.
    pub async fn in_tls(text: String, issued: &Issued) -> Self {
        let mut config = issued.server_config();
        config.alpn_protocols.clear();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accept = move |stream| {
            let accepting = acceptor.accept(stream);
            async { accepting.await.ok() }
        };
        Self::over("https", text, accept).await
    }

    async fn over<S, F>(scheme: &str, text: String, accept: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = Option<S>> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("{scheme}://{}/keys.json", listener.local_addr().expect("an address"));
        let (text, asked) = (Arc::new(Mutex::new(text)), Arc::<AtomicUsize>::default());
        let (shared, count) = (text.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(mut stream) = accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => break,
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                let body = shared.lock().expect("the text").clone();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { url, text, asked, task }
    }

    /// Publishes other keys.
    pub fn publish(&self, text: String) {
        *self.text.lock().expect("the text") = text;
    }

    /// How often they were asked for.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.task.abort();
    }
}
