//! [`Columns`]: a row of the table, each column as far as it can be read. The row becomes a trust,
//! a line of the list, or the row of a change.
//!
//! A malformed column must refuse its own trust and nothing else: the other rows are listed, and
//! this trust can be disabled, rotated and deleted.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::store::{Listing, MalformedRow};
use crate::trust::{Trust, now};

/// Marks a column whose value is not of the column's kind.
pub(crate) struct Malformed;

/// The columns of a row whose id can be read.
pub(crate) struct Columns {
    id: Uuid,
    name: Result<String, Malformed>,
    code: Result<Option<String>, Malformed>,
    region: Result<Option<String>, Malformed>,
    /// `Ok(None)` also means a text that is not a digest.
    api_key_hash: Result<Option<KeyHash>, Malformed>,
    created_at: Result<OffsetDateTime, Malformed>,
    /// `None` also means a value that cannot be read: no decision depends on this column.
    last_heartbeat: Option<OffsetDateTime>,
    disabled_at: Result<Option<OffsetDateTime>, Malformed>,
}

impl Columns {
    /// Reads a row of `id, name, code, region, api_key_hash, created_at, last_heartbeat,
    /// disabled_at`. `text` and `time` read one of these columns, counted from zero.
    pub(crate) fn read(
        id: Uuid,
        text: impl Fn(usize) -> Result<Option<String>, Malformed>,
        time: impl Fn(usize) -> Result<Option<OffsetDateTime>, Malformed>,
        warnings: &RowWarnings,
    ) -> Self {
        Self {
            id,
            name: text(1).and_then(|name| name.ok_or(Malformed)),
            code: text(2),
            region: text(3),
            api_key_hash: text(4)
                .map(|digits| digits.and_then(|digits| parse_hash(id, &digits, warnings))),
            created_at: time(5).and_then(|time| time.ok_or(Malformed)),
            // The application writes this column.
            last_heartbeat: time(6).unwrap_or_else(|Malformed| {
                warnings.last_heartbeat(id);
                None
            }),
            disabled_at: time(7),
        }
    }

    /// Returns the trust that a grant may depend on, and warns if a column is malformed.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadRow`] if a column is malformed.
    pub(crate) fn trust(self, warnings: &RowWarnings) -> Result<Trust, StoreError> {
        let id = self.id;
        self.whole().map_err(|row| {
            warnings.column(id, row.column);
            StoreError::BadRow { id: Some(id), column: row.column }
        })
    }

    /// Adds the row to the list.
    pub(crate) fn list(self, listing: &mut Listing) {
        match self.whole() {
            Ok(trust) => listing.trusts.push(trust),
            Err(row) => listing.malformed.push(row),
        }
    }

    /// Returns the row as a change finds it, and warns if a column is malformed. A malformed column
    /// is left out; a malformed `disabled_at` counts as disabled now.
    pub(crate) fn for_change(self, warnings: &RowWarnings) -> Trust {
        if let Some(column) = self.malformed() {
            warnings.column(self.id, column);
        }
        self.filled()
    }

    /// Returns the first column that is malformed.
    fn malformed(&self) -> Option<&'static str> {
        let columns = [
            ("name", self.name.is_err()),
            ("code", self.code.is_err()),
            ("region", self.region.is_err()),
            ("api_key_hash", self.api_key_hash.is_err()),
            ("created_at", self.created_at.is_err()),
            ("disabled_at", self.disabled_at.is_err()),
        ];
        columns.into_iter().find(|(_, is_malformed)| *is_malformed).map(|(column, _)| column)
    }

    fn whole(self) -> Result<Trust, MalformedRow> {
        match self.malformed() {
            None => Ok(self.filled()),
            Some(column) => Err(MalformedRow { id: Some(self.id), name: self.name.ok(), column }),
        }
    }

    fn filled(self) -> Trust {
        Trust {
            id: self.id,
            name: self.name.unwrap_or_default(),
            code: self.code.unwrap_or_default(),
            region: self.region.unwrap_or_default(),
            api_key_hash: self.api_key_hash.unwrap_or_default(),
            created_at: self.created_at.ok(),
            last_heartbeat: self.last_heartbeat,
            disabled_at: self.disabled_at.unwrap_or_else(|Malformed| Some(now())),
        }
    }
}

/// Reads a digest, and warns if the text is not one.
pub(crate) fn parse_hash(id: Uuid, digits: &str, warnings: &RowWarnings) -> Option<KeyHash> {
    let hash = digits.parse().ok();
    if hash.is_none() {
        warnings.hash(id);
    }
    hash
}

/// Returns a time as both stores write it.
pub(crate) fn time_text(time: OffsetDateTime) -> Result<String, StoreError> {
    time.format(&Rfc3339).map_err(|error| StoreError::Other(error.into()))
}
