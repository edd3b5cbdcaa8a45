// SPDX-License-Identifier: Apache-2.0
//! Reads a ztunnel's `config_dump` while it comes: of a mesh of ten thousand pods each ztunnel tells all, and only what
//! is on its own node is kept.

use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;

use jiff::Timestamp;
use meshmedic_common::text::clean;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::super::budget::Budget;
use super::MAX_WORDS;
use crate::doctor::snapshot::{Certificate, Root, Workload, ZtunnelDump};

/// No word of a dump is longer: a certificate's PEM has some KiB.
const MAX_TOKEN: usize = 256 * 1024;

/// While a root is changed there are two of them.
const MAX_ROOTS: usize = 8;

/// Reads it. The error says what is wrong with it.
pub(in crate::doctor) fn read(body: impl Read, node: &str, budget: &Budget) -> Result<ZtunnelDump, String> {
    let body = io::BufReader::new(Bounded::new(body));
    let mut json = serde_json::Deserializer::from_reader(body);
    let reader = Reader { node, budget };
    let dump = json
        .deserialize_map(reader)
        .map_err(|error| format!("its config_dump cannot be read: {error}"))?;
    json.end()
        .map_err(|error| format!("its config_dump cannot be read: {error}"))?;
    Ok(dump)
}

/// Lets JSON through as long as no word in it is too long to be held.
struct Bounded<R> {
    from: R,
    /// Since when a word has been going on.
    length: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    InText,
    AfterBackslash,
}

impl<R: Read> Bounded<R> {
    const fn new(from: R) -> Self {
        Self {
            from,
            length: 0,
            state: State::Between,
        }
    }

    fn step(&mut self, byte: u8) {
        self.length += 1;
        self.state = match (self.state, byte) {
            (State::InText, b'\\') => State::AfterBackslash,
            (State::InText, b'"') => State::Between,
            (State::InText | State::AfterBackslash, _) => State::InText,
            (State::Between, b'"') => {
                self.length = 0;
                State::InText
            }
            (State::Between, b'{' | b'}' | b'[' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n') => {
                self.length = 0;
                State::Between
            }
            (State::Between, _) => State::Between,
        };
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        for &byte in into.iter().take(count) {
            self.step(byte);
            if self.length > MAX_TOKEN {
                return Err(io::Error::other("a word in it is longer than 256 KiB"));
            }
        }
        Ok(count)
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a str,
    budget: &'a Budget,
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ZtunnelDump;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dump")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ZtunnelDump, A::Error> {
        let mut dump = ZtunnelDump::default();
        let budget = self.budget;
        while let Some(key) = map.next_key::<String>()? {
            // Older ztunnels write some of it otherwise.
            match key.as_str() {
                "workloads" => {
                    dump.workloads_known = map.next_value_seed(each(|_, known: Known| {
                        if let Some(workload) = workload(&known, self.node) {
                            budget.spend(workload.namespace.len() + workload.name.len() + MAX_WORDS)?;
                            dump.workloads.push(workload);
                        }
                        Ok(())
                    }))?;
                }
                "services" => {
                    dump.services_known = map.next_value_seed(each(|_, _: IgnoredAny| Ok(())))?;
                }
                "workloadState" | "workload_state" => {
                    map.next_value_seed(each(|uid: Option<String>, proxy: Proxy| {
                        let uid = clean(&uid.unwrap_or_default(), MAX_WORDS);
                        budget.spend(uid.len() + MAX_WORDS)?;
                        let state = clean(proxy.state.as_str().unwrap_or("unknown"), MAX_WORDS);
                        dump.proxies.insert(uid, state);
                        Ok(())
                    }))?;
                }
                "certificates" => {
                    map.next_value_seed(each(|_, certs: Certs| {
                        let certificate = certificate(&certs);
                        let roots = certificate.roots.len() * MAX_WORDS;
                        budget.spend(certificate.identity.len() + certificate.state.len() + roots)?;
                        dump.certificates.push(certificate);
                        Ok(())
                    }))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(dump)
    }
}

/// Each entry of a list or of a map, one after the other; counts them. What is neither has none.
struct Each<T, F> {
    take: F,
    entry: PhantomData<T>,
}

fn each<T, F: FnMut(Option<String>, T) -> Result<(), String>>(take: F) -> Each<T, F> {
    Each {
        take,
        entry: PhantomData,
    }
}

impl<'de, T, F> DeserializeSeed<'de> for Each<T, F>
where
    T: Deserialize<'de>,
    F: FnMut(Option<String>, T) -> Result<(), String>,
{
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<usize, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, T, F> Visitor<'de> for Each<T, F>
where
    T: Deserialize<'de>,
    F: FnMut(Option<String>, T) -> Result<(), String>,
{
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or a map")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(entry) = list.next_element()? {
            (self.take)(None, entry).map_err(A::Error::custom)?;
            count += 1;
        }
        Ok(count)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some((key, entry)) = map.next_entry()? {
            (self.take)(Some(key), entry).map_err(A::Error::custom)?;
            count += 1;
        }
        Ok(count)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_unit<E: Error>(self) -> Result<usize, E> {
        Ok(0)
    }
}

/// What is read of a workload: of any other field only that it is well formed.
#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    namespace: Value,
    #[serde(default)]
    name: Value,
    #[serde(default)]
    node: Value,
    #[serde(default)]
    protocol: Value,
    #[serde(default)]
    waypoint: Value,
}

fn workload(known: &Known, node: &str) -> Option<Workload> {
    if known.node.as_str() != Some(node) {
        return None;
    }
    let text = |value: &Value| clean(value.as_str().unwrap_or_default(), MAX_WORDS);
    let waypoint = Some(&known.waypoint).filter(|waypoint| !waypoint.is_null());
    Some(Workload {
        namespace: text(&known.namespace),
        name: text(&known.name),
        protocol: text(&known.protocol),
        waypoint: waypoint.map(|waypoint| {
            let place = waypoint.get("destination").unwrap_or(waypoint);
            clean(&place.to_string(), MAX_WORDS)
        }),
    })
}

#[derive(Deserialize)]
struct Proxy {
    #[serde(default)]
    state: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certs {
    #[serde(default)]
    identity: String,
    #[serde(default)]
    state: String,
    #[serde(default, alias = "ca_cert")]
    ca_cert: Vec<Cert>,
    #[serde(default, alias = "cert_chain")]
    cert_chain: Vec<Cert>,
    #[serde(default, alias = "root_certs")]
    root_certs: Vec<Cert>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cert {
    #[serde(default, alias = "serial_number")]
    serial_number: String,
    #[serde(default, alias = "valid_from")]
    valid_from: String,
    #[serde(default, alias = "expiration_time")]
    expiration_time: String,
}

/// Of a chain the certificate that ends first, which is ztunnel's own in every sane one.
fn certificate(certs: &Certs) -> Certificate {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let chain = certs.ca_cert.iter().chain(&certs.cert_chain);
    let times = chain.filter_map(|cert| Some((time(&cert.expiration_time)?, time(&cert.valid_from))));
    let first = times.min();
    Certificate {
        identity: clean(&certs.identity, MAX_WORDS),
        state: clean(&certs.state, MAX_WORDS),
        expires: first.map(|(expires, _)| expires),
        begins: first.and_then(|(_, begins)| begins),
        roots: certs.root_certs.iter().take(MAX_ROOTS).map(root).collect(),
    }
}

fn root(cert: &Cert) -> Root {
    Root {
        serial: clean(&cert.serial_number, MAX_WORDS),
        expires: cert.expiration_time.parse().ok(),
    }
}
