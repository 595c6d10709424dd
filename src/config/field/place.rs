//! Where something is: addresses, hosts, URLs, paths.
//!
//! The promises are those of [`Field`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::field::text::Text;
use crate::config::field::{Field, list};
use crate::config::url::{HostText, Url, redacted};
use crate::config::value::{HIDDEN, Value, quoted};
use crate::token;

const LISTEN_PORT: u16 = 6432;

pub(super) struct PathOr<'a>(pub(super) &'a mut Option<PathBuf>);

impl Field for PathOr<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let text = value.text().ok_or("expected a path in quotes")?;
        *self.0 = Some(PathBuf::from(text)).filter(|_| !text.is_empty());
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.0.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
    }
}

pub(super) struct Addresses<'a>(pub(super) &'a mut Vec<SocketAddr>);

impl Field for Addresses<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read: Option<Vec<_>> =
            value.texts().unwrap_or_default().into_iter().map(|text| address(text, LISTEN_PORT)).collect();
        *self.0 = read.filter(|addresses| !addresses.is_empty()).ok_or(
            "expected \"address:port\" or a list of such; the address is an IP address, `localhost` or `*`",
        )?;
        Ok(())
    }

    fn show(&self) -> String {
        match self.0.as_slice() {
            [one] => quoted(&one.to_string()),
            many => list(many),
        }
    }
}

pub(super) struct Listener<'a> {
    pub(super) at: &'a mut Option<SocketAddr>,
    /// The port of an address that has none.
    pub(super) port: u16,
}

impl Field for Listener<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.at = match value {
            Value::Bool(false) => None,
            value => match value.text() {
                Some("" | "off") => None,
                text => Some(text.and_then(|text| address(text, self.port)).ok_or(
                    "expected \"address:port\" or \"off\"; the address is an IP address, `localhost` or `*`",
                )?),
            },
        };
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.at.map_or_else(|| "off".into(), |address| address.to_string()))
    }
}

/// `address:port`, or an address with the port that is usual there.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let text = match text.strip_prefix("localhost") {
        Some(rest) => format!("127.0.0.1{rest}"),
        None => match text.strip_prefix('*') {
            Some(rest) => format!("{}{rest}", Ipv4Addr::UNSPECIFIED),
            None => text.to_owned(),
        },
    };
    let alone = |text: &str| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, port));
    text.parse().ok().or_else(|| alone(&text))
}

pub(super) struct Hosts<'a>(pub(super) &'a mut Vec<HostText>);

impl Field for Hosts<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = value.texts().and_then(|texts| texts.into_iter().map(HostText::parse).collect());
        *self.0 = read.ok_or("expected \"host\", \"host:port\" or \"/directory\", or a list of such")?;
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        "[]".into()
    }
}

pub(super) struct UrlOr<'a>(pub(super) &'a mut Option<Url>);

impl Field for UrlOr<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.0 = match value {
            Value::Url(url) => Some(url.as_ref().clone()),
            value => match value.text().ok_or("expected a URL in quotes")? {
                "" => None,
                text => Some(Url::parse(text)?),
            },
        };
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        quoted("")
    }

    fn redact(&self, value: &Value) -> String {
        value.text().map_or_else(|| HIDDEN.into(), |text| quoted(&redacted(text)))
    }
}

pub(super) struct KeysUrl<'a>(pub(super) &'a mut Option<String>);

impl Field for KeysUrl<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let mut url = None;
        Text(&mut url).read(value)?;
        url.as_deref().map_or(Ok(()), token::check_url)?;
        *self.0 = url;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0.as_deref().unwrap_or_default())
    }
}
