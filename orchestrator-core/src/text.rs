//! Error text made fit to be kept: cut at character boundaries, cleaned of what databases refuse. Used by dead
//! letters and ledger rows. It must never make a text longer than its limit.

use crate::failure::Failure;

/// Says that a text was cut.
const CUT: &str = "…";

/// `text` in at most `max_bytes`, cut between characters, with a mark if there is room for one.
pub(crate) fn cut(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let mark = if max_bytes >= 2 * CUT.len() { CUT } else { "" };
    let end = text.floor_char_boundary(max_bytes - mark.len());
    format!("{}{mark}", &text[..end])
}

/// The same text without NUL, which PostgreSQL and C strings refuse, cut to `max_bytes`. Other control
/// characters but line breaks and tabs become spaces, so that a row does not garble a terminal.
pub(crate) fn clean(text: &str, max_bytes: usize) -> String {
    // What is cut off need not be cleaned: an error text may be megabytes long.
    let end = text.floor_char_boundary(max_bytes.saturating_add(1));
    let cleaned: String = text[..end]
        .chars()
        .map(|c| match c {
            '\0' => '\u{FFFD}',
            '\n' | '\t' => c,
            c if c.is_control() => ' ',
            c => c,
        })
        .collect();
    if end < text.len() && cleaned.len() <= max_bytes {
        return cut(&format!("{cleaned}{CUT}"), max_bytes);
    }
    cut(&cleaned, max_bytes)
}

/// The error's type and text with its causes, as a stack trace shows them.
pub(crate) fn trace(failure: &Failure, max_bytes: usize) -> String {
    let mut trace = format!("{} ({}): ", failure.kind, failure.stage.as_str());
    for (at, text) in [&failure.message]
        .into_iter()
        .chain(&failure.chain)
        .enumerate()
    {
        if trace.len() > max_bytes {
            break;
        }
        if at > 0 {
            trace.push_str("\ncaused by: ");
        }
        trace.push_str(&clean(text, max_bytes));
    }
    clean(&trace, max_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, max_bytes: usize, expected: &str) {
        assert_eq!(clean(text, max_bytes), expected);
    }

    #[test]
    fn text_is_cut_between_characters() {
        check("abc", 3, "abc");
        check("abcdefgh", 6, "abc…");
        check("ääää", 7, "ää…");
        check("ääää", 3, "ä");
        check("ä", 1, "");
        check("abc", 0, "");
    }

    #[test]
    fn what_databases_refuse_is_replaced() {
        check("a\0b\r\n\u{1b}[31m\tc", 99, "a\u{FFFD}b \n [31m\tc");
    }

    proptest! {
        #[test]
        fn never_longer_than_allowed(text in any::<String>(), max in 0usize..64) {
            prop_assert!(cut(&text, max).len() <= max);
            let cleaned = clean(&text, max);
            prop_assert!(cleaned.len() <= max);
            prop_assert!(!cleaned.contains('\0'));
        }
    }
}
