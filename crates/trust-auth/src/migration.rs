//! [`MigrationPlan`]: what a database lacks, and the SQL that adds it. A plan must never hold
//! anything of a row.

use std::fmt;

/// What the opening of a database may change. By default, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permission {
    /// Makes the table where there is none.
    pub(crate) create: bool,
    /// Adds to a table what it lacks.
    pub(crate) migrate: bool,
}

/// What a database lacks for this version, and the SQL that adds it. The plan is empty where
/// nothing is missing.
///
/// `PostgresOptions::plan_migration` and `SqliteOptions::plan_migration` make a plan and change
/// nothing. `run_migration` runs the plan. The SQL adds tables, columns and triggers. It keeps
/// every row, every column, and whatever another program has made.
///
/// # Examples
///
#[cfg_attr(feature = "sqlite", doc = "```")]
#[cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
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

    /// Returns whether nothing is missing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns what is missing, each in a few words, such as ``the column `disabled_at` ``.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Returns the SQL in the order in which it runs, from `BEGIN` to `COMMIT`. A step may have
    /// several statements.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

/// Writes the SQL as one script, for `psql` or `sqlite3`.
impl fmt::Display for MigrationPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{}", step.trim_end()))
    }
}

/// Returns the words for a column that the table lacks.
pub(crate) fn missing_column(name: &str, table: &str) -> String {
    format!("the column `{name}` of the table `{table}`")
}
