//! Text from outside, made safe for a terminal: a name must not move the cursor, nor forge another
//! line, nor look like another name.

use trust_auth::TextFlaw;

/// `text` with its control and invisible characters escaped, so that they are seen and do nothing.
pub(crate) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if TextFlaw::of(c).is_some() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(plain("St. M\u{e4}ry\u{1b}[2J\n\u{9b}"), "St. M\u{e4}ry\\u{1b}[2J\\n\\u{9b}");
    }

    #[test]
    fn what_cannot_be_seen_is_shown_as_its_number() {
        assert_eq!(plain("St.\u{a0}M\u{202e}a\u{200b}ry"), "St.\\u{a0}M\\u{202e}a\\u{200b}ry");
    }
}
