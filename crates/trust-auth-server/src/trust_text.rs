//! A trust as people read it: one line, or a row of the list.
//!
//! What is in the database may have been written by anybody, so nothing of it reaches a terminal as
//! a control character.

use std::fmt::Write;

use comfy_table::presets::{NOTHING, UTF8_BORDERS_ONLY};
use comfy_table::{ColumnConstraint, ContentArrangement, Table};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trust_auth::{MalformedRow, Trust};

use crate::plain::plain;

/// `St. Mary (018f...)`.
pub(crate) fn named(trust: &Trust) -> String {
    format!("{} ({})", plain(&trust.name), trust.id)
}

/// `name (id), code C, region R`, as far as there is one.
pub(crate) fn described(trust: &Trust) -> String {
    let mut text = named(trust);
    for (label, value) in [("code", &trust.code), ("region", &trust.region)] {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = write!(text, ", {label} {}", plain(value));
        }
    }
    text
}

/// Which row cannot be read, and what to do.
pub(crate) fn malformed(row: &MalformedRow) -> String {
    let name = row.name.as_deref().map_or("a trust whose name cannot be read".into(), plain);
    let column = row.column;
    match row.id {
        Some(id) => format!(
            "not listed: {name} ({id}): its {column} is malformed, so that its key is refused; repair the row, or disable, \
             rotate or delete the trust by this id"
        ),
        None => format!(
            "not listed: {name}: its {column} is malformed, so that its key is refused; repair the row"
        ),
    }
}

/// A column's heading, and what a trust has there, if anything; the flag says whether it is for a
/// terminal, where there is little room.
type Column = (&'static str, fn(&Trust, bool) -> Option<String>);

const COLUMNS: [Column; 7] = [
    ("NAME", |trust, _| Some(plain(&trust.name))),
    ("ID", |trust, _| Some(trust.id.to_string())),
    ("STATE", |trust, _| Some(state(trust).to_owned())),
    ("CODE", |trust, _| trust.code.as_deref().map(plain)),
    ("REGION", |trust, _| trust.region.as_deref().map(plain)),
    ("CREATED", |trust, at_terminal| {
        trust
            .created_at
            .map(|time| if at_terminal { time.date().to_string() } else { moment(time) })
    }),
    ("LAST HEARTBEAT", |trust, _| trust.last_heartbeat.map(moment)),
];

/// The list: a framed table at a terminal, without columns in which there is nothing; aligned
/// columns, always the same, anywhere else.
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
        // Name, id, state: an id is there to be copied, so it stays in one piece, and a broken
        // state is hard to read.
        for index in [1, 2] {
            if let Some(column) = table.column_mut(index) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        return table.to_string();
    }
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    // Each cell is padded on both sides: take the margin off.
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

fn state(trust: &Trust) -> &'static str {
    match (trust.is_enabled(), trust.api_key_hash.is_some()) {
        (false, _) => "disabled",
        (true, true) => "enabled",
        (true, false) => "no key",
    }
}

/// RFC 3339, to the second.
fn moment(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
