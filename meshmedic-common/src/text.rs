// SPDX-License-Identifier: Apache-2.0
//! Words of others, made fit to be shown.

/// What stands where text was cut.
const CUT: char = '…';

/// Takes what a terminal or a log would interpret out of a text, and cuts it to so many bytes.
#[must_use]
pub fn clean(text: &str, max_bytes: usize) -> String {
    let mut cleaned = String::new();
    for c in text
        .trim_matches(|c: char| c.is_whitespace() || is_unfit(c))
        .chars()
    {
        let c = if is_unfit(c) { ' ' } else { c };
        if cleaned.len() + c.len_utf8() > max_bytes {
            while cleaned.len() + CUT.len_utf8() > max_bytes && cleaned.pop().is_some() {}
            if cleaned.len() + CUT.len_utf8() <= max_bytes {
                cleaned.push(CUT);
            }
            break;
        }
        cleaned.push(c);
    }
    cleaned
}

/// Control characters, line separators, and marks that turn the direction of the text around them.
fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_for_a_terminal_to_interpret() {
        assert_eq!(
            clean(" a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}e\0 ", 100),
            "a [2Jb  c d e"
        );
        assert_eq!(clean("žluťoučký kůň", 100), "žluťoučký kůň");
    }

    #[test]
    fn it_is_cut_between_characters_and_never_longer_than_asked() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abc…");
        assert_eq!(clean("žžžž", 7), "žž…");
        for max in 0..20 {
            for text in ["", "abc", "ž…ž…ž", "\u{1f600}\u{1f600}\u{1f600}"] {
                assert!(clean(text, max).len() <= max, "{text} {max}");
            }
        }
    }
}
