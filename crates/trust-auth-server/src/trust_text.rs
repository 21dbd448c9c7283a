//! A trust as text for people: one line, or a row of the list.
//!
//! Other programs may have written the rows of the database. A name must not move the cursor of a
//! terminal, or imitate a second line or another name. So its control and invisible characters are
//! escaped.

use std::fmt::Write;

use comfy_table::presets::{NOTHING, UTF8_BORDERS_ONLY};
use comfy_table::{ColumnConstraint, ContentArrangement, Table};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trust_auth::{MalformedRow, TextFlaw, Trust};

/// Returns `text` with its control and invisible characters escaped.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if TextFlaw::of(c).is_some() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// Returns `St. Mary (018f...)`.
pub(crate) fn named(trust: &Trust) -> String {
    format!("{} ({})", escaped(&trust.name), trust.id)
}

/// Returns `name (id), code C, region R`, without a code or a region that the trust does not have.
pub(crate) fn described(trust: &Trust) -> String {
    let mut text = named(trust);
    for (label, value) in [("code", &trust.code), ("region", &trust.region)] {
        if let Some(value) = value {
            // A write to a string does not fail.
            let _ = write!(text, ", {label} {}", escaped(value));
        }
    }
    text
}

/// Returns which row cannot be read, and what to do.
pub(crate) fn malformed(row: &MalformedRow) -> String {
    let name = row.name.as_deref().map_or("a trust whose name cannot be read".into(), escaped);
    let column = row.column;
    match row.id {
        Some(id) => format!(
            "not listed: {name} ({id}): its {column} is malformed, so its key is refused; repair \
             the row, or disable, rotate or delete the trust by this id"
        ),
        None => format!(
            "not listed: {name}: its {column} is malformed, so its key is refused; repair the row"
        ),
    }
}

/// The heading of a column, and the text of a trust in it, if it has one. The flag is set for a
/// terminal, whose lines are short.
type Column = (&'static str, fn(&Trust, bool) -> Option<String>);

/// How many keys are accepted, that of the trust's own row included.
const KEYS: &str = "KEYS";

const COLUMNS: [Column; 9] = [
    ("NAME", |trust, _| Some(escaped(&trust.name))),
    ("ID", |trust, _| Some(trust.id.to_string())),
    ("STATE", |trust, _| Some(state(trust).to_owned())),
    (KEYS, |trust, _| Some(trust.hashes().count().to_string())),
    ("NEXT END", |trust, _| next_end(trust).map(moment)),
    ("CODE", |trust, _| trust.code.as_deref().map(escaped)),
    ("REGION", |trust, _| trust.region.as_deref().map(escaped)),
    ("CREATED", |trust, at_terminal| {
        trust
            .created_at
            .map(|time| if at_terminal { time.date().to_string() } else { moment(time) })
    }),
    ("LAST HEARTBEAT", |trust, _| trust.last_heartbeat.map(moment)),
];

/// Returns the list. At a terminal the list has no empty columns, and counts keys only where a
/// trust has one in a row of its own. Otherwise it always has the same aligned columns.
pub(crate) fn table(trusts: &[Trust], at_terminal: bool) -> String {
    if trusts.is_empty() {
        return "No trusts. `trust-auth register --name NAME` makes one.".to_owned();
    }
    if at_terminal {
        return table_or_records(trusts, Table::new().width());
    }
    let mut table = table_of(trusts, &COLUMNS, false);
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    // Each cell is padded on both sides: remove the outer padding.
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Returns a framed table if it fits the terminal, and otherwise one line for each value: narrower
/// columns would break headings and ids.
fn table_or_records(trusts: &[Trust], terminal_width: Option<u16>) -> String {
    let mut columns = COLUMNS.to_vec();
    columns.retain(|(heading, content)| {
        trusts.iter().any(|trust| match *heading {
            KEYS => !trust.keys.is_empty(),
            _ => content(trust, true).is_some(),
        })
    });
    let mut table = table_of(trusts, &columns, true);
    // A cell has padding on each side. Before each cell and at the end is a border or a gap.
    let cells = table.column_max_content_widths();
    let width = cells.into_iter().map(|width| u32::from(width) + 3).sum::<u32>() + 1;
    match terminal_width {
        Some(narrower) if u32::from(narrower) < width => records(trusts, &columns, narrower),
        _ => {
            table.load_style(UTF8_BORDERS_ONLY);
            table.set_content_arrangement(ContentArrangement::Disabled).to_string()
        }
    }
}

fn table_of(trusts: &[Trust], columns: &[Column], at_terminal: bool) -> Table {
    let mut table = Table::new();
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for trust in trusts {
        let cell =
            |(_, content): &Column| content(trust, at_terminal).unwrap_or_else(|| "-".to_owned());
        table.add_row(columns.iter().map(cell));
    }
    table
}

/// Returns a line for each value that a trust has, and an empty line between two trusts. A value
/// that is too long continues in further lines.
fn records(trusts: &[Trust], columns: &[Column], width: u16) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    for (index, trust) in trusts.iter().enumerate() {
        if index > 0 {
            table.add_row(["", ""]);
        }
        for (heading, content) in columns {
            if let Some(value) = content(trust, true) {
                table.add_row([heading, value.as_str()]);
            }
        }
    }
    if let Some(headings) = table.column_mut(0) {
        headings.set_constraint(ColumnConstraint::ContentWidth);
    }
    // Each cell is padded on both sides.
    let unpadded = |line: String| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned();
    table.lines().map(unpadded).collect::<Vec<_>>().join("\n")
}

fn state(trust: &Trust) -> &'static str {
    match (trust.is_enabled(), trust.hashes().next().is_some()) {
        (false, _) => "disabled",
        (true, true) => "enabled",
        (true, false) => "no key",
    }
}

/// Returns when the first of the trust's keys ends.
pub(crate) fn next_end(trust: &Trust) -> Option<OffsetDateTime> {
    trust.keys.iter().filter_map(|key| key.expires_at).min()
}

/// Returns the time in RFC 3339, in whole seconds.
pub(crate) fn moment(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests {
    use trust_auth::{KeyHash, TrustKey};
    use uuid::Uuid;

    use super::*;

    fn trust(number: u128, name: &str) -> Trust {
        let mut trust = Trust::new(Uuid::from_u128(number), name);
        trust.created_at = Some(OffsetDateTime::UNIX_EPOCH);
        trust
    }

    /// Returns two trusts: one that has every value and a name of some length, and a plain one.
    fn trusts() -> [Trust; 2] {
        let mut full = trust(1, "General Hospital of the Northern Lakes and Mountains, Eye Clinic");
        full.code = Some("GHNL-0123456789".to_owned());
        full.region = Some("North East".to_owned());
        let mut key = TrustKey::new(Uuid::from_u128(3), full.id, KeyHash::of("key"));
        key.expires_at = Some(OffsetDateTime::UNIX_EPOCH);
        full.keys.push(key);
        full.last_heartbeat = Some(OffsetDateTime::UNIX_EPOCH);
        [full, trust(2, "St. Mary")]
    }

    #[test]
    fn a_list_at_80_columns_breaks_no_heading_and_no_value_within_a_word() {
        let trusts = trusts();
        let text = table_or_records(&trusts, Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        for (heading, content) in COLUMNS {
            for word in heading.split_whitespace() {
                assert!(words.contains(&word), "{word}: {text}");
            }
            for value in trusts.iter().filter_map(|trust| content(trust, true)) {
                for word in value.split_whitespace() {
                    assert!(words.contains(&word), "{word}: {text}");
                }
            }
        }
    }

    #[test]
    fn a_table_that_fits_the_terminal_exactly_has_one_line_for_each_trust() {
        let trusts = trusts();
        let lines = |width| table_or_records(&trusts, width).lines().count();
        let table = table_or_records(&trusts, None);
        let width = u16::try_from(table.lines().next().unwrap().chars().count()).unwrap();
        // Two borders, the headings, the line below them, and two trusts.
        let framed = table.lines().count();
        assert_eq!(framed, 6, "{table}");
        assert_eq!(lines(Some(width)), framed);
        assert!(lines(Some(width - 1)) > framed);
    }

    #[test]
    fn a_list_of_plain_trusts_is_a_table_at_80_columns() {
        let text = table_or_records(&[trust(1, "a"), trust(2, "b")], Some(80));
        assert!(text.lines().next().unwrap().starts_with('┌'), "{text}");
    }

    #[test]
    fn the_key_of_a_trusts_own_row_is_counted() {
        let mut plain = trust(1, "plain");
        plain.api_key_hash = Some(KeyHash::of("own"));
        let mut more = trust(2, "more");
        more.api_key_hash = Some(KeyHash::of("another"));
        more.keys.push(TrustKey::new(Uuid::from_u128(3), more.id, KeyHash::of("key")));
        let trusts = [plain, more, trust(4, "none")];
        let text = table(&trusts, false);
        let state_and_keys = |line: &str| {
            let words: Vec<_> = line.split_whitespace().skip(2).map(str::to_owned).collect();
            words[..3].join(" ")
        };
        let rows: Vec<String> = text.lines().skip(1).map(state_and_keys).collect();
        assert_eq!(rows[0], "enabled 1 -", "{text}");
        assert_eq!(rows[1], "enabled 2 -", "{text}");
        assert_eq!(rows[2], "no key 0", "{text}");
        assert!(table_or_records(&trusts, None).contains("KEYS"));
        assert!(!table_or_records(&trusts[..1], None).contains("KEYS"));
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(escaped("St. M\u{e4}ry\u{1b}[2J\n\u{9b}"), "St. M\u{e4}ry\\u{1b}[2J\\n\\u{9b}");
    }

    #[test]
    fn invisible_characters_are_shown_as_their_numbers() {
        assert_eq!(escaped("St.\u{a0}M\u{202e}a\u{200b}ry"), "St.\\u{a0}M\\u{202e}a\\u{200b}ry");
    }
}
