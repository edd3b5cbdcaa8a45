// SPDX-License-Identifier: Apache-2.0
//! `portforward`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::thread;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::{pod, refusal, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_leads_to_what_stands_for_it() {
    let (api, pods) = start().await;
    pod(&api, "shop", "agent", &["agent"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 5];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(&[b'x'; 100_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        asked
    });
    api.set_forward(("shop", "agent"), 15099, address).unwrap();
    let mut forwarder = pods.portforward("agent", &[15099]).await.unwrap();
    let mut stream = forwarder.take_stream(15099).unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.len(), 100_000);
    assert_eq!(&server.join().unwrap(), b"hello");
    drop(stream);
    // It wants to close what the other side has closed, and calls that an error.
    let _ = forwarder.join().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_anything_has_an_error() {
    let (api, pods) = start().await;
    pod(&api, "shop", "agent", &["agent"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    api.set_forward(("shop", "agent"), 1, closed).unwrap();
    let mut forwarder = pods.portforward("agent", &[1, 2]).await.unwrap();
    let (one, two) = (forwarder.take_error(1).unwrap(), forwarder.take_error(2).unwrap());
    let one = one.await.unwrap();
    assert!(
        one.starts_with("error forwarding port 1 to pod ") && one.contains("refused"),
        "{one}"
    );
    assert!(two.await.unwrap().starts_with("error forwarding port 2 to pod "));
    assert_eq!(refusal(pods.portforward("none", &[1]).await).0, 404);
}
