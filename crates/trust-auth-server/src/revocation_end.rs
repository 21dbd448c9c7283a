//! [`RevocationEnd`]: how a revocation ended that had to wait for processes with a read lease.

use std::time::Duration;

use serde::Serialize;
use trust_auth::Settled;
use utoipa::ToSchema;

use crate::trust_text::escaped;

/// What a sentence about the end is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// A key: "The key", or which one it is.
    Key(&'static str),
    Attributes,
}

impl Concern {
    fn may_be(self) -> String {
        match self {
            Self::Key(key) => format!("{key} may be granted"),
            Self::Attributes => "Its former attributes may be shown".to_owned(),
        }
    }

    fn is_over(self) -> String {
        match self {
            Self::Key(key) => format!("{key} is refused everywhere"),
            Self::Attributes => "Its former attributes are shown nowhere".to_owned(),
        }
    }
}

/// How a revocation ended, for people and as JSON. Only a revocation that had to wait has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(description = "How a revocation ended that had to wait for processes with a read lease.")]
pub(crate) struct RevocationEnd {
    /// Whether no process grants the key.
    everywhere: bool,
    /// The time from the commit to the end of the wait, in milliseconds.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    /// How many processes were registered as holders. SQLite has no list of them.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    holders: Option<usize>,
    /// The processes that did not answer. If no process grants the key, their leases have run out.
    silent: Vec<String>,
    #[serde(skip)]
    was_unsettled: bool,
}

impl RevocationEnd {
    /// The commit is made, and no caller waits for its effect.
    pub(crate) const COMMITTED: Self = Self {
        everywhere: false,
        waited_ms: None,
        holders: None,
        silent: Vec::new(),
        was_unsettled: false,
    };

    /// The commit is made, and these processes have not answered within the caller's time.
    pub(crate) fn without(silent: Vec<String>) -> Self {
        Self { silent, ..Self::COMMITTED }
    }

    /// The [`outcome`](Self::outcome)s of a revocation that is final everywhere.
    pub(crate) const OUTCOMES: [&str; 4] = ["answered", "lease_over", "unsettled", "waited"];

    /// Returns the end after this wait.
    pub(crate) fn new(settled: Settled, waited: Duration) -> Self {
        let waited_ms = waited.as_millis().try_into().ok();
        match settled {
            Settled::Everywhere { holders, silent, was_unsettled } => {
                Self { everywhere: true, waited_ms, holders, silent, was_unsettled }
            }
            // `Revocation::settle` repeats the revocation by itself.
            _ => Self::COMMITTED,
        }
    }

    /// Returns whether no process grants the key.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.everywhere
    }

    /// Returns the word for metrics and logs: what the wait was for.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self { everywhere: false, .. } => "committed",
            Self { was_unsettled: true, .. } => "unsettled",
            Self { silent, .. } if !silent.is_empty() => "lease_over",
            // SQLite: no answer of a holder shortens the wait.
            Self { holders: None, .. } => "waited",
            _ => "answered",
        }
    }

    /// Returns the names of the processes that did not answer, for a log, if there are any.
    pub(crate) fn silent(&self) -> Option<String> {
        let silent: Vec<String> = self.silent.iter().map(|name| escaped(name)).collect();
        (!silent.is_empty()).then(|| silent.join(" and "))
    }

    /// Returns a sentence for people.
    pub(crate) fn sentence(&self, concern: Concern) -> String {
        let Some(waited) = self.waited_ms.filter(|_| self.everywhere) else {
            let may_be = concern.may_be();
            return match self.silent() {
                None => format!(
                    "The change is committed. {may_be} by a process with a read lease, for the \
                     length of the lease at most."
                ),
                Some(silent) => format!(
                    "The change is committed. {may_be} by {silent}, which did not answer yet, for \
                     the length of a read lease at most."
                ),
            };
        };
        let waited = match waited {
            0..1_000 => format!("{waited} ms"),
            _ => format!("{:.1} s", waited as f64 / 1_000.0),
        };
        let why = match (self.silent(), self.was_unsettled) {
            (None, true) => {
                "; the database has started, failed over or been migrated lately, so each lease \
                 had to run out"
                    .to_owned()
            }
            (None, false) => String::new(),
            (Some(one), _) if self.silent.len() == 1 => {
                format!("; {one} did not answer, and its read lease has run out")
            }
            (Some(all), _) => {
                format!("; {all} did not answer, and their read leases have run out")
            }
        };
        format!("{} after {waited}{why}.", concern.is_over())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everywhere(silent: &[&str], was_unsettled: bool) -> Settled {
        let silent = silent.iter().map(|&name| name.to_owned()).collect();
        Settled::Everywhere { holders: Some(3), silent, was_unsettled }
    }

    #[test]
    fn each_end_says_after_which_time_and_why() {
        let text = |settled, ms| {
            let end = RevocationEnd::new(settled, Duration::from_millis(ms));
            assert!(RevocationEnd::OUTCOMES.contains(&end.outcome()));
            (end.outcome(), end.sentence(Concern::Key("The key")))
        };
        assert_eq!(
            text(everywhere(&[], false), 12),
            ("answered", "The key is refused everywhere after 12 ms.".to_owned())
        );
        let (outcome, sentence) = text(everywhere(&["web-2 \u{1b}[2J"], false), 10_250);
        assert_eq!(outcome, "lease_over");
        assert!(sentence.contains("after 10.2 s; web-2 \\u{1b}[2J did not answer"), "{sentence}");
        let both = RevocationEnd::new(everywhere(&["a", "b\n"], true), Duration::ZERO);
        assert_eq!(both.silent().as_deref(), Some("a and b\\n"));
        let told = both.sentence(Concern::Attributes);
        assert!(told.ends_with("; a and b\\n did not answer, and their read leases have run out."));
        let (outcome, sentence) = text(everywhere(&[], true), 2_000);
        assert_eq!(outcome, "unsettled");
        assert!(sentence.contains("failed over"), "{sentence}");
        let on_sqlite =
            Settled::Everywhere { holders: None, silent: Vec::new(), was_unsettled: false };
        assert_eq!(text(on_sqlite, 300).0, "waited");
        let committed = RevocationEnd::new(Settled::Repeat, Duration::ZERO);
        assert_eq!((committed.outcome(), committed.is_everywhere()), ("committed", false));
        assert_eq!(committed.silent(), None);
        let told = RevocationEnd::without(vec!["web-2".to_owned()]).sentence(Concern::Attributes);
        assert!(told.contains("may be shown by web-2, which did not answer yet"), "{told}");
        assert!(committed.sentence(Concern::Key("The key")).contains("may be granted"));
        let told = committed.sentence(Concern::Attributes);
        assert!(told.contains("Its former attributes may be shown by a process"), "{told}");
        let end = RevocationEnd::new(everywhere(&[], false), Duration::from_millis(12));
        let told = end.sentence(Concern::Attributes);
        assert_eq!(told, "Its former attributes are shown nowhere after 12 ms.");
    }

    #[test]
    fn the_json_has_what_is_known() {
        let json = |end: &RevocationEnd| serde_json::to_value(end).unwrap();
        let end = RevocationEnd::new(everywhere(&["web-2"], false), Duration::from_millis(12));
        assert_eq!(
            json(&end),
            serde_json::json!({
                "everywhere": true, "waited_ms": 12, "holders": 3, "silent": ["web-2"]
            })
        );
        assert_eq!(
            json(&RevocationEnd::COMMITTED),
            serde_json::json!({ "everywhere": false, "silent": [] })
        );
    }
}
