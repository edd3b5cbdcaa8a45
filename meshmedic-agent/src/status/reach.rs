// SPDX-License-Identifier: Apache-2.0
//! Whether another node's agent can be reached from here, for `meshmedic doctor`.
//!
//! Who may ask is decided as for the report: it is served on loopback, behind port-forward. What is asked for is bounded:
//! one address, always the port on which agents serve their health, one request, yes or no.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshmedic_common::report::Reach;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATH: &str = "/v1/reach/";
/// Within a cluster an answer takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// How an answer of any kind begins.
const ANSWER: &[u8] = b"HTTP/1.";

/// The address that a path asks about; `None` if it asks about something else.
pub(super) fn asked(path: &str) -> Option<IpAddr> {
    path.strip_prefix(PATH)?.parse().ok()
}

/// Tries it.
pub(super) async fn reach(address: IpAddr, port: u16) -> Reach {
    match tokio::time::timeout(PATIENCE, healthz(SocketAddr::new(address, port))).await {
        Ok(Ok(())) => Reach {
            reached: true,
            detail: None,
        },
        Ok(Err(error)) => Reach {
            reached: false,
            detail: Some(error.to_string()),
        },
        Err(_) => Reach {
            reached: false,
            detail: Some(format!("no answer within {} s", PATIENCE.as_secs())),
        },
    }
}

async fn healthz(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    if answer == ANSWER {
        Ok(())
    } else {
        Err(std::io::Error::other("what answers speaks no HTTP"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_can_be_asked_about() {
        assert_eq!(asked("/v1/reach/10.0.0.7"), Some("10.0.0.7".parse().unwrap()));
        assert_eq!(asked("/v1/reach/fd00::7"), Some("fd00::7".parse().unwrap()));
        for path in [
            "/v1/reach/",
            "/v1/reach/example.com",
            "/v1/reach/10.0.0.7:22",
            "/v1/reach/10.0.0.7/x",
            "/v1/node",
        ] {
            assert_eq!(asked(path), None, "{path}");
        }
    }

    #[tokio::test]
    async fn whoever_answers_is_reached_and_whoever_does_not_is_not() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        for (words, reached) in [
            (&b"HTTP/1.1 503 Busy\r\n\r\n"[..], true),
            (b"SSH-2.0-x\r\n", false),
            (b"", false),
        ] {
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 256];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /healthz "));
                stream.write_all(words).await.unwrap();
            };
            let (told, ()) = tokio::join!(reach(at.ip(), at.port()), serve);
            assert_eq!(told.reached, reached, "{told:?}");
            assert_eq!(told.detail.is_none(), reached, "{told:?}");
        }
        drop(listener);
        assert!(!reach(at.ip(), at.port()).await.reached);
    }
}
