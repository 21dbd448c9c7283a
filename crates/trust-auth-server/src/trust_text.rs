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

const COLUMNS: [Column; 7] = [
    ("NAME", |trust, _| Some(escaped(&trust.name))),
    ("ID", |trust, _| Some(trust.id.to_string())),
    ("STATE", |trust, _| Some(state(trust).to_owned())),
    ("CODE", |trust, _| trust.code.as_deref().map(escaped)),
    ("REGION", |trust, _| trust.region.as_deref().map(escaped)),
    ("CREATED", |trust, at_terminal| {
        trust
            .created_at
            .map(|time| if at_terminal { time.date().to_string() } else { moment(time) })
    }),
    ("LAST HEARTBEAT", |trust, _| trust.last_heartbeat.map(moment)),
];

/// Returns the list. At a terminal it is a framed table without empty columns; otherwise it always
/// has the same aligned columns.
pub(crate) fn table(trusts: &[Trust], at_terminal: bool) -> String {
    if trusts.is_empty() {
        return "No trusts. `trust-auth register --name NAME` makes one.".to_owned();
    }
    let shown = |(_, content): &&Column| {
        !at_terminal || trusts.iter().any(|trust| content(trust, at_terminal).is_some())
    };
    let columns: Vec<&Column> = COLUMNS.iter().filter(shown).collect();

    let mut table = Table::new();
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for trust in trusts {
        let cell =
            |column: &&Column| column.1(trust, at_terminal).unwrap_or_else(|| "-".to_owned());
        table.add_row(columns.iter().map(cell));
    }
    if at_terminal {
        table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        // Column 1 is the id, which people copy, and column 2 the state: neither is wrapped.
        for index in [1, 2] {
            if let Some(column) = table.column_mut(index) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        return table.to_string();
    }
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    // Each cell is padded on both sides: remove the outer padding.
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

fn state(trust: &Trust) -> &'static str {
    match (trust.is_enabled(), trust.api_key_hash.is_some()) {
        (false, _) => "disabled",
        (true, true) => "enabled",
        (true, false) => "no key",
    }
}

/// Returns the time in RFC 3339, in whole seconds.
fn moment(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(escaped("St. M\u{e4}ry\u{1b}[2J\n\u{9b}"), "St. M\u{e4}ry\\u{1b}[2J\\n\\u{9b}");
    }

    #[test]
    fn invisible_characters_are_shown_as_their_numbers() {
        assert_eq!(escaped("St.\u{a0}M\u{202e}a\u{200b}ry"), "St.\\u{a0}M\\u{202e}a\\u{200b}ry");
    }
}
