// SPDX-License-Identifier: Apache-2.0
//! From HTTP to WebSocket.

use http::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderName, Request};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::failure::{Failure, Outcome};

/// A connection that changes its protocol.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What a client wants that would change the protocol.
pub(crate) struct Upgrade {
    on: OnUpgrade,
    key: String,
    protocols: Vec<String>,
}

/// What it is answered.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) accept: String,
    pub(crate) protocol: &'static str,
}

/// The words of a header that is a list.
fn words(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_owned())
        .collect()
}

impl Upgrade {
    /// Finds out whether a request wants a WebSocket.
    pub(crate) fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let headers = request.headers();
        let has = |name, wanted: &str| {
            let words = words(headers, name);
            words.iter().any(|word| word.eq_ignore_ascii_case(wanted))
        };
        if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
            return None;
        }
        let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?.to_owned();
        let protocols = words(headers, SEC_WEBSOCKET_PROTOCOL);
        let on = hyper::upgrade::on(request);
        Some(Self { on, key, protocols })
    }

    /// Agrees to the first protocol that the client has, too.
    pub(super) fn agree(self, spoken: &[&'static str]) -> Outcome<(Switch, OnUpgrade)> {
        let found = self
            .protocols
            .iter()
            .find_map(|offered| spoken.iter().find(|spoken| *spoken == offered));
        let protocol = found.ok_or_else(|| {
            Failure::bad_request(format!(
                "unable to upgrade: no protocol of {spoken:?} is offered, only {:?}",
                self.protocols
            ))
        })?;
        let accept = derive_accept_key(self.key.as_bytes());
        Ok((Switch { accept, protocol }, self.on))
    }
}

/// Waits for the connection; `None` when it was lost before.
pub(super) async fn open(on: OnUpgrade) -> Option<Socket> {
    let upgraded = TokioIo::new(on.await.ok()?);
    Some(WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await)
}
