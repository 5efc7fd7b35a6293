//! Foreign names made fit for people.

use std::fmt::Write;

/// `bytes` as text in which nothing can move a cursor or forge a line: control characters, the
/// Unicode line and direction marks, backslashes and bytes that are not UTF-8 come out as `\n`,
/// `\t`, `\\`, `\xNN` or `\u{N}`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                _ if character.is_ascii_control() => {
                    let _ = write!(text, "\\x{:02x}", u32::from(character));
                }
                _ if character.is_control() || moves_text(character) => {
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(character));
                }
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Line separators and direction marks (Unicode Bidi_Control), which reorder what a terminal shows.
const fn moves_text(character: char) -> bool {
    matches!(
        character,
        '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(printable(b"a\nb\x1b[2J\xff\\"), "a\\nb\\x1b[2J\\xff\\\\");
        assert_eq!(printable("\u{202e}gpj".as_bytes()), "\\u{202e}gpj");
        assert_eq!(printable("Grüße.wav".as_bytes()), "Grüße.wav");
    }
}
