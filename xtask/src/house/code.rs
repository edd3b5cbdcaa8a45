// SPDX-License-Identifier: Apache-2.0
//! Rust's code apart from its comments and literals, so that a rule about one is not misled by the other.

/// A character of code, or one whole comment or literal.
enum Piece<'a> {
    Code(char),
    Aside(&'a str),
}

/// A text in pieces, each with the byte at which it begins.
fn pieces(text: &str) -> impl Iterator<Item = (usize, Piece<'_>)> {
    let (mut at, mut before) = (0, None);
    std::iter::from_fn(move || {
        let rest = &text[at..];
        let first = rest.chars().next()?;
        let (begin, length) = (at, literal_or_comment(rest, before));
        at += length.max(first.len_utf8());
        // What follows a comment or a literal does not go on with a word.
        before = (length == 0).then_some(first);
        let piece = if length == 0 {
            Piece::Code(first)
        } else {
            Piece::Aside(&rest[..length])
        };
        Some((begin, piece))
    })
}

/// Replaces comments, strings and characters by blanks; newlines stay where they are.
pub(super) fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (_, piece) in pieces(text) {
        match piece {
            Piece::Code(c) => out.push(c),
            Piece::Aside(aside) => out.extend(aside.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
    }
    out
}

/// The string literals with the line on which each begins, and with their quotes.
pub(super) fn strings(text: &str) -> Vec<(usize, &str)> {
    let (mut line, mut counted) = (1, 0);
    let strings = pieces(text).filter_map(|(at, piece)| match piece {
        Piece::Aside(literal) if literal.starts_with(['"', 'r']) => {
            line += text[counted..at].matches('\n').count();
            counted = at;
            Some((line, literal))
        }
        _ => None,
    });
    strings.collect()
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
