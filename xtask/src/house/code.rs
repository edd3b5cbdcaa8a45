// SPDX-License-Identifier: Apache-2.0
//! Rust's code apart from its comments and literals, so that a rule about one is not misled by the other.

/// Replaces comments, strings and characters by blanks; newlines stay where they are.
pub(super) fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal_or_comment(rest, out.chars().next_back());
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// The string literals with the line on which each begins, and with their quotes.
pub(super) fn strings(text: &str) -> Vec<(usize, &str)> {
    let mut strings = Vec::new();
    let (mut at, mut line, mut before) = (0, 1, None);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = literal_or_comment(rest, before);
        let end = at + length.max(first.len_utf8());
        if length > 0 && (first == '"' || first == 'r') {
            strings.push((line, &text[at..end]));
        }
        line += text[at..end].matches('\n').count();
        before = if length > 0 { Some(' ') } else { Some(first) };
        at = end;
    }
    strings
}

/// How many bytes at the beginning of `rest` are one comment or literal.
fn literal_or_comment(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && (!in_word || matches!(before, Some('b' | 'c'))) {
        return raw_string(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#` and so on; `r` alone, or `r#name`, is code.
fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    let start = 1 + hashes;
    if !rest[start..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    rest[start + 1..]
        .find(&end)
        .map_or(rest.len(), |at| start + 1 + at + end.len())
}

/// `'x'` or `'\n'`; a lifetime has no second quote there.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{bare, strings};

    fn words(text: &str) -> Vec<String> {
        bare(text).split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn comments_and_literals_vanish_and_code_stays() {
        assert_eq!(words("a // b \"c\nd /* e /* f */ g */ h"), ["a", "d", "h"]);
        assert_eq!(words(r#"a "b \" c" d"#), ["a", "d"]);
        assert_eq!(words("a r#\"b \" c\"# d br\"e\\\" f"), ["a", "d", "b", "f"]);
        assert_eq!(words(r"a '\'' b '}' c 'é' d"), ["a", "b", "c", "d"]);
    }

    #[test]
    fn strings_are_found_with_their_lines() {
        let text = "a \"b\nc\" // \"d\"\n'\"' r#\"e\"# br\"f\"";
        assert_eq!(strings(text), [(1, "\"b\nc\""), (3, "r#\"e\"#"), (3, "r\"f\"")]);
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        assert_eq!(
            words("x<'a> r#unsafe for var"),
            ["x<'a>", "r#unsafe", "for", "var"]
        );
        assert_eq!(words("'a: 'b"), ["'a:", "'b"]);
    }

    #[test]
    fn what_is_never_closed_reaches_to_the_end() {
        for text in ["a \"b", "a /* b", "a r#\"b\" c", "a '\\"] {
            assert_eq!(words(text), ["a"], "{text}");
        }
    }
}
