//! The keys of a trust as text for people.

use comfy_table::presets::{NOTHING, UTF8_BORDERS_ONLY};
use comfy_table::{ContentArrangement, Table};
use time::OffsetDateTime;
use trust_auth::{Trust, TrustKey};

use crate::trust_text::{escaped, moment};

const HEADINGS: [&str; 6] = ["KEY", "LABEL", "STATE", "LAST FOUR", "CREATED", "END"];

/// Returns a table of the keys. The key of the trust's own row comes first, if there is one.
pub(crate) fn table(keys: &[TrustKey], has_own_key: bool, at_terminal: bool) -> String {
    if keys.is_empty() && !has_own_key {
        return "No keys. `trust-auth key add` makes one.".to_owned();
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new();
    table.set_header(HEADINGS);
    if has_own_key {
        table.add_row(["(of the trust's row)", "-", "active", "-", "-", "-"]);
    }
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for key in keys {
        table.add_row([
            key.id.to_string(),
            or_none(key.label.as_deref().map(escaped)),
            state(key, now).to_owned(),
            or_none(key.last_four.as_deref().map(escaped)),
            or_none(key.created_at.map(moment)),
            or_none(key.expires_at.map(|end| end_text(end, now))),
        ]);
    }
    table.set_content_arrangement(ContentArrangement::Disabled);
    if at_terminal {
        table.load_style(UTF8_BORDERS_ONLY);
        return table.to_string();
    }
    table.load_style(NOTHING).force_no_tty();
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Returns the remark that a key has ended, with the name of its trust.
pub(crate) fn ended(key: &TrustKey, trusts: &[Trust]) -> String {
    let trust = trusts.iter().find(|trust| trust.id == key.trust);
    let name = trust.map_or_else(|| key.trust.to_string(), |trust| escaped(&trust.name));
    let label = key.label.as_deref().map(|label| format!(" ({})", escaped(label)));
    let end = key.expires_at.map(moment).unwrap_or_default();
    format!(
        "ended: the key {}{} of {name}, at {end}; revoke it if its client has another one",
        key.id,
        label.unwrap_or_default()
    )
}

fn state(key: &TrustKey, now: OffsetDateTime) -> &'static str {
    match (key.revoked_at.is_some(), key.is_active(now)) {
        (true, _) => "revoked",
        (false, true) => "active",
        (false, false) => "ended",
    }
}

/// Returns the time, and how far away it is: `2026-12-10T08:00:00Z (in 12days)`.
fn end_text(end: OffsetDateTime, now: OffsetDateTime) -> String {
    let Ok(left) = std::time::Duration::try_from(end - now) else { return moment(end) };
    let seconds = left.as_secs();
    // The two largest units are enough for a person.
    let round = if seconds >= 86_400 { 3_600 } else { 60 };
    let rounded = std::time::Duration::from_secs(seconds / round * round);
    match rounded.is_zero() {
        true => format!("{} (in less than a minute)", moment(end)),
        false => format!("{} (in {})", moment(end), humantime::format_duration(rounded)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trust_auth::KeyHash;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_key_has_its_state_and_its_end() {
        let now = OffsetDateTime::now_utc();
        let key = |id, ends: Option<i64>| {
            let mut key = TrustKey::new(Uuid::from_u128(id), Uuid::nil(), KeyHash::of("key"));
            key.expires_at = ends.map(|seconds| now + time::Duration::seconds(seconds));
            key
        };
        let mut revoked = key(3, None);
        revoked.revoked_at = Some(now);
        revoked.label = Some("la\u{1b}b".to_owned());
        revoked.last_four = Some("abcd".to_owned());
        let text = table(&[key(1, Some(90_000)), key(2, Some(-1)), revoked], true, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].contains("of the trust's row") && lines[1].contains("active"));
        assert!(lines[2].contains("active") && lines[2].contains("(in 1day"), "{text}");
        assert!(lines[3].contains("ended") && !lines[3].contains("(in"), "{text}");
        assert!(lines[4].contains("revoked") && lines[4].contains("abcd"), "{text}");
        assert!(lines[4].contains("la\\u{1b}b"), "{text}");
        assert!(table(&[], false, false).contains("key add"));
    }

    #[test]
    fn an_end_says_how_far_away_it_is() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let text = |seconds| end_text(now + Duration::from_secs(seconds), now);
        assert_eq!(text(12 * 86_400 + 5), "1970-01-13T00:00:05Z (in 12days)");
        assert_eq!(text(3_700), "1970-01-01T01:01:40Z (in 1h 1m)");
        assert_eq!(text(59), "1970-01-01T00:00:59Z (in less than a minute)");
    }
}
