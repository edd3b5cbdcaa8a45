// SPDX-License-Identifier: Apache-2.0
//! The socket tables and routes of a pod as `cat` prints them, one after the other, taken piece by piece.
//!
//! They may come from the pod, so nothing in them is trusted: memory is bounded whatever is printed, and the absence
//! of a listener is believed only of tables that were printed wholly.

use meshmedic_common::addresses::NetAddresses;
use meshmedic_common::sockets::{Family, Reading, TableParser};
use meshmedic_common::text::clean;
use meshmedic_common::verdict::{Reason, Redirection};

/// Longer than any row that a kernel writes.
const LONGEST_LINE: usize = 512;
/// How much of a complaint is kept.
const MAX_WORDS: usize = 200;

/// Far more than the routing tables of any pod.
const MAX_ROUTES: usize = 256 * 1024;
/// What is printed, in this order: the socket tables, and the routes, among which Istio's may be.
pub(crate) const FILES: [&str; 3] = ["/proc/net/tcp", "/proc/net/tcp6", "/proc/net/fib_trie"];

/// What was read of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Readout {
    pub(crate) reading: Reading,
    /// Unknown where the routes were not printed wholly.
    pub(crate) redirection: Redirection,
    /// The addresses of the namespace, where the routes were printed wholly.
    pub(crate) addresses: Option<NetAddresses>,
}

/// Takes what is printed.
#[derive(Debug, Default)]
pub(super) struct Tables {
    reading: Reading,
    parser: Option<TableParser>,
    line: Vec<u8>,
    has_inet: bool,
    has_inet6: bool,
    lacks_inet6: bool,
    /// The routes, once they begin.
    routes: Option<String>,
    /// Whether everything was printed that would be.
    ended: bool,
    complaint: Option<String>,
}

impl Tables {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.take(&line);
            self.line = line;
            self.line.clear();
        }
        self.keep(bytes);
    }

    /// Of a line that is too long, so much is kept that the parser sees it.
    fn keep(&mut self, piece: &[u8]) {
        let room = (LONGEST_LINE + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn take(&mut self, line: &[u8]) {
        if let Some(family) = header(line) {
            self.end_table();
            self.routes = None;
            match family {
                Family::Inet => self.has_inet = true,
                Family::Inet6 => self.has_inet6 = true,
            }
            self.parser = Some(TableParser::new(family));
        } else if line.starts_with(b"cat: ") {
            // A log does not tell what was an error.
            return self.complain(line);
        } else if begins_routes(line) || self.routes.is_some() {
            return self.take_route(line);
        }
        match &mut self.parser {
            Some(parser) => {
                parser.feed(line, &mut self.reading);
                parser.feed(b"\n", &mut self.reading);
            }
            None => self.complain(line),
        }
    }

    fn take_route(&mut self, line: &[u8]) {
        self.end_table();
        let routes = self.routes.get_or_insert_default();
        if routes.len() < MAX_ROUTES {
            routes.push_str(&String::from_utf8_lossy(line));
            routes.push('\n');
        }
    }

    /// Says that whoever prints came to its end by itself.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    fn addresses(&self) -> Option<NetAddresses> {
        let routes = self.routes.as_ref()?;
        (self.ended && routes.len() < MAX_ROUTES).then(|| NetAddresses::parse(routes, ""))
    }

    fn end_table(&mut self) {
        if let Some(mut parser) = self.parser.take() {
            parser.finish(&mut self.reading);
        }
    }

    /// Takes what `cat` said of files that it could not print.
    pub(super) fn complain(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        for line in lines {
            if line.contains("/proc/net/tcp6") && line.contains("No such file") {
                self.lacks_inet6 = true;
            } else if !line.contains("fib_trie") {
                self.complaint.get_or_insert_with(|| clean(line, MAX_WORDS));
            }
        }
    }

    /// Whether all listeners were met: then it does not matter what else would be printed.
    pub(super) fn is_complete(&self) -> bool {
        self.reading.is_complete()
    }

    /// Whether a table was met at all.
    pub(super) fn has_any(&self) -> bool {
        self.has_inet || self.has_inet6
    }

    /// What `cat` complained of.
    pub(super) fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// Says that nothing more is printed. `Err` if the absence of listeners is not proved by it.
    pub(super) fn finish(self) -> Result<Readout, (Reason, String)> {
        let addresses = self.addresses();
        let redirection = addresses.as_ref().map(NetAddresses::redirection);
        let reading = self.reading_alone()?;
        Ok(Readout {
            reading,
            redirection: redirection.unwrap_or(Redirection::Unknown),
            addresses,
        })
    }

    fn reading_alone(mut self) -> Result<Reading, (Reason, String)> {
        if self.is_complete() {
            return Ok(self.reading);
        }
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            // What does not end in a line's end was cut.
            match &mut self.parser {
                // Of the routes nothing is concluded that a cut could change.
                _ if self.routes.is_some() => {}
                Some(parser) => parser.feed(&line, &mut self.reading),
                None => self.complain(&line),
            }
        }
        self.end_table();
        let complaint = self.complaint.take();
        let failed = |what: &str| {
            let detail = complaint
                .as_deref()
                .map_or(what.to_owned(), |words| format!("{what}: {words}"));
            Err((Reason::ReadFailed, detail))
        };
        if !self.has_inet {
            return failed("no socket table was printed");
        }
        if !self.has_inet6 && !self.lacks_inet6 {
            return failed("/proc/net/tcp6 was not printed");
        }
        if self.reading.malformed_rows > 0 {
            let rows = self.reading.malformed_rows;
            return Err((Reason::Malformed, format!("{rows} rows make no sense")));
        }
        Ok(self.reading)
    }
}

/// How the routes begin: with the name of the first table.
fn begins_routes(line: &[u8]) -> bool {
    matches!(line, b"Main:" | b"Local:") || (line.starts_with(b"Id ") && line.ends_with(b":"))
}

/// The header of a table; the two families' differ.
fn header(line: &[u8]) -> Option<Family> {
    let line = line.trim_ascii();
    if !line.starts_with(b"sl ") || line.len() > LONGEST_LINE {
        return None;
    }
    let mut words = line
        .split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let (_, local, remote) = (words.next(), words.next(), words.next());
    match (local, remote) {
        (Some(b"local_address"), Some(b"rem_address")) => Some(Family::Inet),
        (Some(b"local_address"), Some(b"remote_address")) => Some(Family::Inet6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    const TCP6: &str = "  sl  local_address                         remote_address                        st \
                        tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn row(family: Family, port: u16) -> String {
        let (local, remote) = match family {
            Family::Inet => ("00000000", "00000000:0000"),
            Family::Inet6 => (
                "00000000000000000000000000000000",
                "00000000000000000000000000000000:0000",
            ),
        };
        format!(
            "   0: {local}:{port:04X} {remote} 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n"
        )
    }

    fn read(pieces: &[&[u8]]) -> Result<Reading, (Reason, String)> {
        let mut tables = Tables::default();
        for piece in pieces {
            tables.feed(piece);
        }
        tables.finish().map(|readout| readout.reading)
    }

    #[test]
    fn the_routes_tell_what_a_pods_traffic_does_unless_they_were_cut() {
        let main = "Main:\n  |-- 10.0.0.7\n     /32 host LOCAL\n";
        let istio = "Id 100:\n  +-- 0.0.0.0/0 0 0 1\n     |-- 0.0.0.0\n        /0 host LOCAL\n";
        for (routes, ended, redirection) in [
            (format!("{istio}{main}"), true, Redirection::Routed),
            (main.to_owned(), true, Redirection::Absent),
            (main.to_owned(), false, Redirection::Unknown),
            (String::new(), true, Redirection::Unknown),
            (
                "cat: /proc/net/fib_trie: Permission denied\n".to_owned(),
                true,
                Redirection::Unknown,
            ),
            (
                format!("Main:\n{}", "x\n".repeat(MAX_ROUTES)),
                true,
                Redirection::Unknown,
            ),
        ] {
            let mut tables = Tables::default();
            tables.feed(format!("{TCP}{TCP6}{routes}").as_bytes());
            if ended {
                tables.end();
            }
            let readout = tables.finish().unwrap();
            assert_eq!(
                readout.redirection,
                redirection,
                "{}",
                &routes[..routes.len().min(80)]
            );
            assert!(readout.reading.ports().is_empty());
        }
    }

    fn captured(family: Family) -> String {
        [15001, 15006, 15008].map(|port| row(family, port)).concat()
    }

    #[test]
    fn listeners_of_either_table_count_however_the_bytes_are_cut() {
        for (inet, inet6) in [
            (captured(Family::Inet), String::new()),
            (String::new(), captured(Family::Inet6)),
        ] {
            let text = format!("{TCP}{inet}{TCP6}{inet6}");
            assert!(read(&[text.as_bytes()]).unwrap().is_complete());
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert!(read(&bytes).unwrap().is_complete());
        }
    }

    #[test]
    fn absence_is_believed_of_whole_tables_only() {
        let none = format!("{TCP}{}{TCP6}", row(Family::Inet, 8080));
        assert!(read(&[none.as_bytes()]).unwrap().ports().is_empty());
        for text in [
            String::new(),
            "sh: not found\n".to_owned(),
            TCP.to_owned(),
            TCP6.to_owned(),
            format!("{TCP}cat: /proc/net/tcp6: Permission denied\n"),
        ] {
            assert_eq!(
                read(&[text.as_bytes()]).unwrap_err().0,
                Reason::ReadFailed,
                "{text}"
            );
        }
        for text in [
            format!("{TCP}   0: 0000\n{TCP6}"),
            format!("{TCP}{TCP6}   0: 00000000"),
            format!("{TCP}{TCP6}\u{1b}[31mred\n"),
            format!("{TCP}{TCP6}{}\n", "x".repeat(5000)),
        ] {
            assert_eq!(
                read(&[text.as_bytes()]).unwrap_err().0,
                Reason::Malformed,
                "{text}"
            );
        }
    }

    #[test]
    fn a_node_without_ipv6_has_no_second_table() {
        for complaint in [
            "cat: can't open '/proc/net/tcp6': No such file or directory\n",
            "cat: /proc/net/tcp6: No such file or directory\n",
        ] {
            let text = format!("{TCP}{complaint}");
            assert!(
                read(&[text.as_bytes()]).unwrap().ports().is_empty(),
                "{complaint}"
            );
            let mut tables = Tables::default();
            tables.feed(TCP.as_bytes());
            tables.complain(complaint.as_bytes());
            assert!(tables.finish().is_ok());
        }
    }

    #[test]
    fn endless_lines_and_invalid_text_take_no_memory() {
        let mut tables = Tables::default();
        for _ in 0..10_000 {
            tables.feed(&[0xff; 1000]);
        }
        assert!(tables.line.capacity() < 4096);
        tables.feed(b"\n");
        assert!(tables.complaint().is_some_and(|words| words.len() <= MAX_WORDS));
    }
}
