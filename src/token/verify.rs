//! What a token proves.
//!
//! # Promises
//! - A token verified before, by the same keys, costs a hash and a look.
//! - What is granted is every variable that the claims are mapped to, all from this token, and ends when it does.
//!
//! # Refuses
//! Tokens with extensions that must be understood (`crit`): none is.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use moka::sync::Cache;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::auth::Secret;
use crate::session::{Grant, Identities, Identity, IdentitySettings, Nth, Pattern, TokenFault};
use crate::token::keys::Key;
use crate::token::signature;
use crate::token::source::{Keys, Source};

/// Tokens that are remembered.
const REMEMBERED: u64 = 10_000;

/// The claim that says who the user is, unless another is configured.
const SUBJECT: &str = "sub";

/// Verifies the tokens of those for whom the same settings hold.
pub struct Tokens {
    source: Arc<Source>,
    validation: Validation,
    claims: Vec<Mapping>,
    leeway: u64,
    known: Cache<[u8; 32], Known>,
}

/// Where a variable's value comes from.
struct Mapping {
    claim: String,
    nth: Nth,
    pattern: Pattern,
}

/// A token that has been verified.
#[derive(Clone)]
struct Known {
    generation: u64,
    grant: Grant,
}

impl Tokens {
    /// By these settings.
    pub fn new(settings: &IdentitySettings) -> Self {
        signature::install();
        Self {
            source: Arc::new(Source::new(&settings.token)),
            validation: validation(settings),
            claims: mappings(settings),
            leeway: settings.token.leeway.as_secs(),
            known: Cache::new(REMEMBERED),
        }
    }

    /// Reads or fetches the keys before anybody needs them.
    ///
    /// Cancel safe.
    pub async fn warm(&self) {
        let _ = self.source.current().await;
    }

    /// What this token proves now.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// It proves nothing.
    pub async fn verify(&self, token: &Secret) -> Result<Grant, TokenFault> {
        let keys = self.source.current().await.ok_or(TokenFault::KeysUnavailable)?;
        let hash: [u8; 32] = Sha256::digest(token.expose()).into();
        if let Some(known) = self.known.get(&hash).filter(|known| known.generation == keys.generation) {
            return if has_passed(known.grant.until) { Err(TokenFault::Expired) } else { Ok(known.grant) };
        }
        let header = header(token)?;
        let (grant, generation) = match self.by_keys(token, &header, &keys) {
            Err(TokenFault::UnknownKey) => {
                let keys = self.source.beyond(keys.generation).await.ok_or(TokenFault::UnknownKey)?;
                (self.by_keys(token, &header, &keys)?, keys.generation)
            }
            result => (result?, keys.generation),
        };
        self.known.insert(hash, Known { generation, grant: grant.clone() });
        Ok(grant)
    }

    /// The same by these keys. A token that does not name its key is tried with each of its algorithm.
    fn by_keys(&self, token: &Secret, header: &Header, keys: &Keys) -> Result<Grant, TokenFault> {
        let mut fault = TokenFault::UnknownKey;
        for key in keys.set.candidates(header.kid.as_deref()) {
            match self.by_key(token, header, key) {
                Ok(grant) => return Ok(grant),
                Err(TokenFault::Algorithm) if fault == TokenFault::UnknownKey => {
                    fault = TokenFault::Algorithm
                }
                Err(TokenFault::Algorithm) => {}
                Err(TokenFault::Signature) => fault = TokenFault::Signature,
                Err(certain) => return Err(certain),
            }
        }
        Err(fault)
    }

    fn by_key(&self, token: &Secret, header: &Header, key: &Key) -> Result<Grant, TokenFault> {
        if header.alg != key.algorithm {
            return Err(TokenFault::Algorithm);
        }
        let mut validation = self.validation.clone();
        validation.algorithms = vec![key.algorithm];
        let decoded = decode::<Map<String, Value>>(token.expose(), &key.key, &validation);
        let claims = decoded.map_err(|error| fault(error.kind()))?.claims;
        let until = until(&claims, self.leeway).ok_or(TokenFault::Malformed)?;
        if has_passed(until) {
            return Err(TokenFault::Expired);
        }
        Ok(Grant { identities: self.identities(claims)?, until })
    }

    /// Who the claims say the user is.
    fn identities(&self, claims: Map<String, Value>) -> Result<Identities, TokenFault> {
        let claims = Value::Object(claims);
        let mut identities = Identities::default();
        for Mapping { claim, nth, pattern } in &self.claims {
            let value = match value(&claims, claim) {
                Some(value) => Some(Identity::new(value.as_bytes(), pattern).ok_or(TokenFault::Claim)?),
                // Somebody without a tenant has none; somebody without a name is nobody.
                None if *nth != Nth::MAIN && is_absent(&claims, claim) => None,
                None => return Err(TokenFault::Claim),
            };
            identities = identities.with(*nth, value);
        }
        Ok(identities)
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(…)")
    }
}

/// Whether a time, in seconds since 1970, has come.
pub fn has_passed(until: NonZeroU64) -> bool {
    now() >= until.get()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn validation(settings: &IdentitySettings) -> Validation {
    let token = &settings.token;
    let mut validation = Validation {
        leeway: token.leeway.as_secs(),
        validate_nbf: true,
        validate_aud: !token.audience.is_empty(),
        ..Validation::default()
    };
    // A claim that must be right must be there.
    let mut required = vec!["exp"];
    if validation.validate_aud {
        validation.set_audience(&token.audience);
        required.push("aud");
    }
    if let Some(issuer) = &token.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn mappings(settings: &IdentitySettings) -> Vec<Mapping> {
    let claims = &settings.token.claims;
    let claim_of = |variable: &str| {
        let mapped = claims.iter().find(|(_, to)| to.eq_ignore_ascii_case(variable));
        mapped.map(|(claim, _)| claim.clone())
    };
    let mapping = |(at, (variable, pattern)): (usize, (&str, &Pattern))| {
        let default = (at == Nth::MAIN.0 && claims.is_empty()).then(|| SUBJECT.to_owned());
        let claim = claim_of(variable).or(default)?;
        Some(Mapping { claim, nth: Nth(at), pattern: pattern.clone() })
    };
    settings.stated().enumerate().filter_map(mapping).collect()
}

/// A token's header, if it is a token at all. Its `alg` is one that is known: `none` is not.
fn header(token: &Secret) -> Result<Header, TokenFault> {
    let header = decode_header(token.expose()).map_err(|_| TokenFault::Malformed)?;
    if header.crit.is_some() { Err(TokenFault::Malformed) } else { Ok(header) }
}

fn fault(kind: &ErrorKind) -> TokenFault {
    match kind {
        ErrorKind::ExpiredSignature => TokenFault::Expired,
        ErrorKind::ImmatureSignature => TokenFault::NotYet,
        ErrorKind::InvalidAlgorithm => TokenFault::Algorithm,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::InvalidSignature => TokenFault::Signature,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => TokenFault::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => TokenFault::Issuer,
        _ => TokenFault::Malformed,
    }
}

/// When a token ends, the leeway included.
fn until(claims: &Map<String, Value>, leeway: u64) -> Option<NonZeroU64> {
    let exp = claims.get("exp")?;
    let exp =
        exp.as_u64().or_else(|| exp.as_f64().filter(|it| *it >= 1.0 && *it < 1e15).map(|it| it as u64))?;
    NonZeroU64::new(exp.saturating_add(leeway))
}

/// A claim by its name, or by a JSON pointer (RFC 6901) if it begins with a slash.
fn found<'a>(claims: &'a Value, claim: &str) -> Option<&'a Value> {
    let value = if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) };
    value.filter(|value| !value.is_null())
}

fn is_absent(claims: &Value, claim: &str) -> bool {
    found(claims, claim).is_none()
}

/// A claim's value as text: a string or a whole number.
fn value(claims: &Value, claim: &str) -> Option<String> {
    match found(claims, claim)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Variable;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::hmac;

    const SECRET: &str = "a secret of the tests, long enough for HS256";
    const USER: &str = "0a1b2c3d-0000-4000-8000-00000000000a";

    /// A token as somebody with the secret makes it.
    fn signed(header: &str, claims: &str, secret: &str) -> Secret {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = hmac::sign(&key, message.as_bytes());
        Secret::from(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)).as_str())
    }

    fn settings() -> IdentitySettings {
        let mut settings = IdentitySettings::default();
        settings.token.secret = Some(Secret::from(SECRET));
        settings.token.leeway = std::time::Duration::ZERO;
        settings
    }

    async fn verified(settings: &IdentitySettings, claims: &str) -> Result<Grant, TokenFault> {
        let token = signed(HEADER, claims, SECRET);
        let tokens = Tokens::new(settings);
        let first = tokens.verify(&token).await;
        // What is remembered is what was found.
        assert_eq!(tokens.verify(&token).await, first);
        first
    }

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn claims(rest: &str) -> String {
        format!(r#"{{"sub":"{USER}","exp":{}{rest}}}"#, now() + 60)
    }

    #[tokio::test]
    async fn a_token_says_who_the_user_is_and_until_when() {
        let grant = verified(&settings(), &claims("")).await.unwrap();

        assert_eq!(grant.identities.value(Nth::MAIN).unwrap().as_bytes(), USER.as_bytes());
        assert!((now()..=now() + 60).contains(&grant.until.get()));
    }

    #[tokio::test]
    async fn claims_give_any_number_of_variables_their_values() {
        let mut settings = settings();
        let further = |name: &str| Variable { name: name.into(), pattern: Pattern::Any };
        settings.variables = vec![further("app.tenant"), further("app.level"), further("app.team")];
        settings.token.claims = [
            ("sub", "App.Current_User_Id"),
            ("/app/tenant", "app.tenant"),
            ("level", "app.level"),
            ("team", "app.team"),
        ]
        .map(|(claim, to)| (claim.into(), to.into()))
        .to_vec();

        let grant = verified(&settings, &claims(r#","app":{"tenant":"t1"},"level":7"#)).await.unwrap();
        let value = |nth| {
            grant
                .identities
                .value(Nth(nth))
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        assert_eq!([1, 2, 3].map(value), [Some("t1".into()), Some("7".into()), None]);

        for wrong in [r#","level":[7]"#, r#","level":1.5"#, r#","team":"\u00e9""#, r#","team":"""#] {
            assert_eq!(verified(&settings, &claims(wrong)).await, Err(TokenFault::Claim), "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_a_token_must_say_it_must_say() {
        let mut settings = settings();
        settings.token.issuer = Some("us".into());
        settings.token.audience = vec!["db".into(), "pool".into()];
        let right = r#","iss":"us","aud":["web","db"]"#;

        assert!(verified(&settings, &claims(right)).await.is_ok());
        assert!(verified(&settings, &claims(r#","iss":"us","aud":"pool""#)).await.is_ok());
        for (wrong, fault) in [
            (r#","iss":"them","aud":"db""#, TokenFault::Issuer),
            (r#","aud":"db""#, TokenFault::Issuer),
            (r#","iss":"us","aud":"web""#, TokenFault::Audience),
            (r#","iss":"us","aud":[]"#, TokenFault::Audience),
            (r#","iss":"us","aud":7"#, TokenFault::Audience),
            (r#","iss":"us""#, TokenFault::Audience),
            (&format!(r#"{right},"nbf":{}"#, now() + 50), TokenFault::NotYet),
            (&format!(r#"{right},"nbf":"soon""#), TokenFault::Malformed),
        ] {
            assert_eq!(verified(&settings, &claims(wrong)).await, Err(fault), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_token_without_a_right_expiry_is_none() {
        let with = |exp: &str| format!(r#"{{"sub":"{USER}"{exp}}}"#);

        for (exp, fault) in [
            ("".to_owned(), TokenFault::Malformed),
            (r#","exp":"9999999999""#.into(), TokenFault::Malformed),
            (r#","exp":null"#.into(), TokenFault::Malformed),
            (r#","exp":-1"#.into(), TokenFault::Malformed),
            (r#","exp":0"#.into(), TokenFault::Expired),
            (format!(r#","exp":{}"#, now()), TokenFault::Expired),
        ] {
            assert_eq!(verified(&settings(), &with(&exp)).await, Err(fault), "{exp}");
        }
        let late = IdentitySettings {
            token: crate::session::TokenSettings {
                leeway: std::time::Duration::from_secs(30),
                ..settings().token
            },
            ..settings()
        };
        assert!(verified(&late, &with(&format!(r#","exp":{}"#, now() - 5))).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_remembered_expires_too() {
        let tokens = Tokens::new(&settings());
        let grant = Grant { identities: Identities::default(), until: NonZeroU64::new(now() - 1).unwrap() };
        let token = signed(HEADER, &claims(""), SECRET);
        tokens.known.insert(Sha256::digest(token.expose()).into(), Known { generation: 1, grant });

        assert_eq!(tokens.verify(&token).await, Err(TokenFault::Expired));
    }

    #[tokio::test]
    async fn no_other_algorithm_or_key_will_do() {
        let tokens = Tokens::new(&settings());
        let body = claims("");
        let good = String::from_utf8(signed(HEADER, &body, SECRET).expose().to_vec()).unwrap();
        let unsigned =
            |header: &str| format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&body));
        for (token, fault) in [
            (unsigned(r#"{"alg":"none"}"#), TokenFault::Malformed),
            (unsigned(r#"{"alg":"HS256"}"#), TokenFault::Signature),
            (good.replacen('.', "..", 1), TokenFault::Malformed),
            (good[..good.len() - 3].to_owned(), TokenFault::Signature),
            ("x".into(), TokenFault::Malformed),
            (String::new(), TokenFault::Malformed),
        ] {
            assert_eq!(tokens.verify(&Secret::from(token.as_str())).await, Err(fault), "{token}");
        }
        for (header, secret, fault) in [
            (HEADER, "another secret, of the same length or more", TokenFault::Signature),
            (r#"{"alg":"RS256"}"#, SECRET, TokenFault::Algorithm),
            (r#"{"alg":"HS384"}"#, SECRET, TokenFault::Algorithm),
            (r#"{"alg":"HS256","crit":["x"],"x":1}"#, SECRET, TokenFault::Malformed),
        ] {
            assert_eq!(tokens.verify(&signed(header, &body, secret)).await, Err(fault), "{header}");
        }
    }
}
