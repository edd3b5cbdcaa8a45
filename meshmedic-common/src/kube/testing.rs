// SPDX-License-Identifier: Apache-2.0
//! An API server of one answer after the other, for tests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server was asked, in the order of the questions.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// An answer with a JSON body.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// Starts a server that gives these answers, one a connection, and then ends; an empty answer only hangs up.
pub(crate) fn serve(answers: Vec<String>) -> (kube::Config, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let seen = asked.clone();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let question = read_question(&mut stream);
            seen.0.lock().unwrap().push(question);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (kube::Config::new(url.parse().unwrap()), asked)
}

/// Starts a server that answers by the path that it is asked for, for as long as the test runs.
pub(crate) fn serve_by_path(answer: impl Fn(&str) -> String + Send + 'static) -> kube::Config {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let question = read_question(&mut stream);
            let path = question.split(' ').nth(1).unwrap_or_default();
            stream.write_all(answer(path).as_bytes()).unwrap();
        }
    });
    kube::Config::new(url.parse().unwrap())
}

fn read_question(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        if count == 0 || body.len() >= length {
            return text;
        }
    }
}
