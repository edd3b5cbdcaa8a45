// SPDX-License-Identifier: Apache-2.0
//! As much HTTP as a test needs: one request a connection, blocking.

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub code: u16,
    headers: Vec<(String, String)>,
    /// The body, where it is JSON; the text as a JSON string where not.
    pub body: Value,
}

impl Response {
    /// A header, if it is there; its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What is sent.
pub(super) struct Sent<'a> {
    pub(super) address: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// A response whose body is still to be read.
pub(super) struct Open {
    reader: BufReader<TcpStream>,
    code: u16,
    headers: Vec<(String, String)>,
    chunked: bool,
    /// What is left of the current chunk, or of the whole body.
    left: Option<usize>,
    ended: bool,
}

/// Sends a request, and reads the head of the response.
pub(super) fn open(sent: &Sent<'_>) -> Result<Open> {
    let mut stream = TcpStream::connect(sent.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
        sent.method,
        sent.path,
        sent.address,
        sent.body.len()
    );
    for (name, value) in sent.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(&[head.as_bytes(), sent.body].concat())?;
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader)?;
    let code = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| invalid(&first))?;
    let mut headers = Vec::new();
    loop {
        let line = line(&mut reader)?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let find = |name: &str| {
        let found = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    let chunked = find("transfer-encoding").is_some_and(|value| value.contains("chunked"));
    let left = find("content-length").and_then(|value| value.parse().ok());
    Ok(Open {
        reader,
        code,
        headers,
        chunked,
        left: if chunked { Some(0) } else { left },
        ended: false,
    })
}

fn invalid(line: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("no HTTP: {line:?}"))
}

fn line(reader: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

impl Open {
    pub(super) fn code(&self) -> u16 {
        self.code
    }

    /// Some more of the body; nothing at its end.
    pub(super) fn more(&mut self) -> Result<Vec<u8>> {
        if self.ended {
            return Ok(Vec::new());
        }
        if self.chunked && self.left == Some(0) {
            let size = line(&mut self.reader)?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| invalid(&size))?;
            self.left = Some(size);
            if size == 0 {
                self.ended = true;
                return Ok(Vec::new());
            }
        }
        let buffer = self.reader.fill_buf()?;
        let take = self.left.unwrap_or(usize::MAX).min(buffer.len());
        let bytes = buffer[..take].to_vec();
        self.reader.consume(take);
        if let Some(left) = &mut self.left {
            if take == 0 && *left > 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            *left -= take;
            if *left == 0 && self.chunked {
                let mut end = [0; 2];
                self.reader.read_exact(&mut end)?;
            }
        }
        if bytes.is_empty() {
            self.ended = true;
        }
        Ok(bytes)
    }

    /// The whole body.
    pub(super) fn finish(mut self) -> Result<Response> {
        let mut body = Vec::new();
        loop {
            let more = self.more()?;
            if more.is_empty() {
                break;
            }
            body.extend(more);
        }
        let text = || String::from_utf8_lossy(&body).into_owned().into();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| text());
        Ok(Response {
            code: self.code,
            headers: self.headers,
            body,
        })
    }
}
