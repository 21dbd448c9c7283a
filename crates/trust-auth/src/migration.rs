//! [`MigrationPlan`]: what a database lacks, and the SQL that adds it. It must never hold anything
//! of a row.

use std::fmt;

/// What opening a database may change. By default, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permission {
    /// Makes the table where there is none.
    pub(crate) create: bool,
    /// Adds to a table what it lacks.
    pub(crate) migrate: bool,
}

/// What a database lacks for this version, and the SQL that adds it; empty where nothing is
/// missing.
///
/// `PostgresOptions::plan_migration` and `SqliteOptions::plan_migration` make one and change
/// nothing, `run_migration` runs it. The SQL adds tables, columns and triggers, and keeps every
/// row, every column, and whatever another program has made.
///
/// # Examples
///
/// ```
/// use trust_auth::SqliteStore;
///
/// # type Done = Result<(), Box<dyn std::error::Error>>;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("trusts.db");
/// std::fs::write(&file, "")?;
/// let plan = SqliteStore::options(&file).plan_migration().await?;
/// assert!(plan.to_string().contains("CREATE TABLE trust"));
///
/// assert_eq!(SqliteStore::options(&file).run_migration().await?, plan);
/// assert!(SqliteStore::options(&file).plan_migration().await?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationPlan {
    missing: Vec<String>,
    steps: Vec<String>,
}

impl MigrationPlan {
    pub(crate) fn new(missing: Vec<String>, steps: Vec<String>) -> Self {
        Self { missing, steps }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What is missing, each in a few words, such as ``the column `disabled_at` ``.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The SQL in the order in which it runs, from `BEGIN` to `COMMIT`. A step may have several
    /// statements.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

/// The SQL as one script, for `psql` or `sqlite3`.
impl fmt::Display for MigrationPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{}", step.trim_end()))
    }
}
