// SPDX-License-Identifier: Apache-2.0
//! The plain form: `TIME\tLEVEL\tTARGET[:span{…}]\tMESSAGE\tkey=value …`.
//!
//! Strings are quoted as Rust's `Debug` quotes them, so nothing in them can end the line, begin a field or
//! close the quotes. Addresses and numbers stand bare.

use std::borrow::Cow;

use super::access::Draft;
use super::event;
use super::line::{Line, NoLine, What};
use super::words::{ACCESS, Fields, Level, is_early, strip_crate};

pub(super) fn parse(text: &str) -> Result<Line, NoLine> {
    let mut columns = text.splitn(5, '\t');
    let mut column = || columns.next().ok_or(NoLine::Foreign);
    let (time, level, target) = (column()?, column()?, column()?);
    let access = target == ACCESS;
    let bad = if access {
        NoLine::Malformed
    } else {
        NoLine::Foreign
    };
    let time = time.parse().map_err(|_| bad)?;
    let level = Level::parse(level).ok_or(bad)?;
    // A line without any field has no message either.
    let message = columns.next().unwrap_or_default();
    let fields = columns.next().unwrap_or_default();
    let what = if access {
        match is_early(message) {
            None => What::Other,
            Some(early) => {
                let draft = draft(fields).ok_or(NoLine::Malformed)?;
                let access = draft.finish(time, level, early).ok_or(NoLine::Malformed)?;
                What::Access(Box::new(access))
            }
        }
    } else {
        let (scope, spans) = split_target(target);
        let fields = PlainFields { spans, fields };
        event::recognise(strip_crate(scope), message, &fields).map_or(What::Other, What::Event)
    };
    Ok(Line { time, level, what })
}

/// The fields of an access line: all of them well-formed, none of them twice.
fn draft(fields: &str) -> Option<Draft> {
    let mut draft = Draft::default();
    let mut rest = Pairs(fields);
    while !rest.0.is_empty() {
        let quoted = rest.0.split_once('=')?.1.starts_with('"');
        let (key, value) = rest.next()?;
        draft.set(key, value, quoted)?;
    }
    Some(draft)
}

/// Takes `key=value` from the front, one after the other, and ends at the first that is not well-formed.
struct Pairs<'a>(&'a str);

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = self.0.split_once('=')?;
        if key.is_empty() || !key.bytes().all(is_key) {
            return None;
        }
        let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            (Cow::Borrowed(&rest[..end]), &rest[end..])
        };
        // One blank stands between two pairs, and none behind the last.
        self.0 = match rest.strip_prefix(' ') {
            Some("") => return None,
            Some(more) => more,
            None if rest.is_empty() => rest,
            None => return None,
        };
        Some((key, value))
    }
}

fn is_key(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'.' || b == b'_'
}

/// Reads what `Debug` wrote behind an opening quote; gives the text and what follows the closing quote.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let special = text.find(['"', '\\'])?;
    if text.as_bytes()[special] == b'"' {
        return Some((Cow::Borrowed(&text[..special]), &text[special + 1..]));
    }
    let mut out = text[..special].to_owned();
    let mut chars = text[special..].chars();
    loop {
        match chars.next()? {
            '"' => return Some((Cow::Owned(out), chars.as_str())),
            '\\' => out.push(match chars.next()? {
                't' => '\t',
                'r' => '\r',
                'n' => '\n',
                '0' => '\0',
                c @ ('\\' | '"' | '\'') => c,
                'u' => {
                    let (digits, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                    if digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                        return None;
                    }
                    chars = rest.chars();
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
                }
                _ => return None,
            }),
            c => out.push(c),
        }
    }
}

/// Splits `a::b:span{…}` where the first span begins.
fn split_target(target: &str) -> (&str, &str) {
    let mut from = 0;
    while let Some(colon) = target[from..].find(':').map(|at| from + at) {
        if target[colon + 1..].starts_with(':') {
            from = colon + 2;
        } else {
            return target.split_at(colon);
        }
    }
    (target, "")
}

struct PlainFields<'a> {
    spans: &'a str,
    fields: &'a str,
}

impl Fields for PlainFields<'_> {
    fn get(&self, key: &str) -> Option<Cow<'_, str>> {
        find(self.fields, key)
    }

    fn in_span(&self, span: &str, key: &str) -> Option<Cow<'_, str>> {
        let mut rest = self.spans;
        while let Some(begin) = rest.find(span) {
            let (before, named) = rest.split_at(begin);
            rest = &named[span.len()..];
            if before.ends_with(':')
                && let Some(fields) = rest.strip_prefix('{')
            {
                return find(fields.split_once('}')?.0, key);
            }
        }
        None
    }
}

fn find<'a>(fields: &'a str, key: &str) -> Option<Cow<'a, str>> {
    Pairs(fields).find(|(k, _)| *k == key).map(|(_, value)| value)
}
