//! [`Columns`]: a row of the table, each column as far as it can be read, and what becomes of it: a
//! trust, a line of the list, or the row of a change.
//!
//! A malformed column must refuse its own trust and nothing else: the others are listed, and this
//! one can be disabled, rotated and deleted.

use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::row_warnings::RowWarnings;
use crate::trust::now;
use crate::{Listing, MalformedRow, StoreError, Trust};

/// A column holds what it should not.
pub(crate) struct Malformed;

/// Of a row whose id can be read.
pub(crate) struct Columns {
    pub(crate) id: Uuid,
    pub(crate) name: Result<String, Malformed>,
    pub(crate) code: Result<Option<String>, Malformed>,
    pub(crate) region: Result<Option<String>, Malformed>,
    /// A text that is no digest is none.
    pub(crate) api_key_hash: Result<Option<KeyHash>, Malformed>,
    pub(crate) created_at: Result<OffsetDateTime, Malformed>,
    /// Nothing is decided by it, so that one which cannot be read is none.
    pub(crate) last_heartbeat: Option<OffsetDateTime>,
    pub(crate) disabled_at: Result<Option<OffsetDateTime>, Malformed>,
}

impl Columns {
    /// The trust, if the whole row can be read: what a grant may rest on. Warns of a row that
    /// cannot.
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

    /// The row as a change finds it. What is malformed is left out; a malformed `disabled_at`
    /// counts as disabled now.
    pub(crate) fn for_change(self, warnings: &RowWarnings) -> Trust {
        if let Some(column) = self.malformed() {
            warnings.column(self.id, column);
        }
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

    /// The first column that is malformed.
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
        let Some(column) = self.malformed() else {
            return Ok(Trust {
                id: self.id,
                name: self.name.unwrap_or_default(),
                code: self.code.unwrap_or_default(),
                region: self.region.unwrap_or_default(),
                api_key_hash: self.api_key_hash.unwrap_or_default(),
                created_at: self.created_at.ok(),
                last_heartbeat: self.last_heartbeat,
                disabled_at: self.disabled_at.unwrap_or_default(),
            });
        };
        Err(MalformedRow { id: Some(self.id), name: self.name.ok(), column })
    }
}
