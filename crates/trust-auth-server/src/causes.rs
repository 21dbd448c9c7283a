//! The text of an error with the texts of its causes.

use std::error::Error;

/// Returns the message and its causes, joined by colons. Leaves out a cause that the message quotes
/// already.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_is_quoted_once() {
        let inner = Layer { text: "disk full", source: None };
        let middle = Layer { text: "write failed: disk full", source: Some(Box::new(inner)) };
        let outer = Layer { text: "cannot register", source: Some(Box::new(middle)) };
        assert_eq!(with_causes(&outer), "cannot register: write failed: disk full");
    }
}
