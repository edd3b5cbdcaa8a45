// SPDX-License-Identifier: Apache-2.0
//! A command that helps: a list of words, never text for a shell.
//!
//! Names come from objects, logs and dumps that others wrote. A word is either ours, or a name that Kubernetes can
//! give, or the value of an option; anything else spoils the command, and [`super::finding::Finding::run`] then says
//! so instead of printing it. [`Command`]'s `Display` is the only place that quotes words for a shell.

use std::fmt;

use meshmedic_common::text::clean;
use serde::Serialize;

/// What Kubernetes allows a name to have, a namespace's, an object's or a node's.
const MAX_NAME: usize = 253;
/// The longest word. Patches are the longest that we write.
const MAX_WORD: usize = 16 * 1024;

/// The words of a command, ready for `execve`. A shell gets them through `Display`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub(crate) struct Command {
    argv: Vec<String>,
    /// A word that is not fit to be printed.
    #[serde(skip)]
    spoiled_by: Option<String>,
}

impl Command {
    /// Begins with these words, separated by spaces.
    pub(crate) fn new(words: &'static str) -> Self {
        let empty = Self {
            argv: Vec::new(),
            spoiled_by: None,
        };
        empty.words(words)
    }

    /// Words of ours, separated by spaces.
    pub(crate) fn words(mut self, words: &'static str) -> Self {
        self.argv.extend(words.split_whitespace().map(str::to_owned));
        self
    }

    /// The name of an object, a container or a resource.
    pub(crate) fn name(self, name: &str) -> Self {
        self.word(name.to_owned(), is_name(name))
    }

    /// `-n namespace`.
    pub(crate) fn namespace(self, namespace: &str) -> Self {
        self.words("-n").name(namespace)
    }

    /// `kind/name`, or `namespace/name`.
    pub(crate) fn path(self, before: &str, name: &str) -> Self {
        self.word(format!("{before}/{name}"), is_name(before) && is_name(name))
    }

    /// Two names and what stands between them.
    pub(crate) fn joined(self, one: &str, between: &'static str, other: &str) -> Self {
        let fit = is_name(one) && is_name(other);
        self.word(format!("{one}{between}{other}"), fit)
    }

    /// `key=value` of a label, or `key-` to take it away.
    pub(crate) fn label(self, key: &str, value: Option<&str>) -> Self {
        let word = value.map_or_else(|| format!("{key}-"), |value| format!("{key}={value}"));
        let fit = is_label_key(key) && value.is_none_or(is_label_value);
        self.word(word, fit)
    }

    /// An option with a value that may be any text: `--set=` and `a.b=c` are one word, `-p` and `{}` are two.
    pub(crate) fn option(mut self, option: &'static str, value: &str) -> Self {
        let fit = is_printable(value);
        if option.ends_with('=') {
            return self.word(format!("{option}{value}"), fit);
        }
        self.argv.push(option.to_owned());
        self.word(value.to_owned(), fit)
    }

    /// The word that spoiled it, if one did: such a command is not to be printed.
    pub(crate) fn spoiled_by(&self) -> Option<&str> {
        self.spoiled_by.as_deref()
    }

    /// Its words.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn argv(&self) -> &[String] {
        &self.argv
    }

    fn word(mut self, word: String, fit: bool) -> Self {
        if fit {
            self.argv.push(word);
        } else {
            self.spoiled_by.get_or_insert(word);
        }
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only a NUL cannot be quoted, and no word holds one.
        let line = shlex::try_join(self.argv.iter().map(String::as_str));
        f.write_str(&line.unwrap_or_default())
    }
}

/// What Kubernetes takes for the name of an object: a DNS subdomain.
pub(crate) fn is_name(name: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    name.len() <= MAX_NAME
        && name.bytes().all(inner)
        && ends(name.bytes().next())
        && ends(name.bytes().next_back())
}

/// `name` or `prefix/name`.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_name(prefix) && !name.is_empty() && is_label_value(name),
        None => !key.is_empty() && is_label_value(key),
    }
}

/// What Kubernetes takes for the value of a label; empty is one.
fn is_label_value(value: &str) -> bool {
    let ends = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    value.len() <= 63
        && value.bytes().all(inner)
        && ends(value.bytes().next())
        && ends(value.bytes().next_back())
}

/// Whether a terminal shows it as it is, whole.
fn is_printable(value: &str) -> bool {
    clean(value, MAX_WORD) == value
}

#[cfg(test)]
mod tests;
