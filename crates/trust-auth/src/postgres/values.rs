//! [`Values`]: the values of the connection parameters, and the source of each value. The source is
//! the connection string, or else its service, or else the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::connection_string::{self, Pairs, unsupported};
use super::environment::Environment;
use super::parameters::{self, PARAMETERS};
use super::service_file;
use crate::error::StoreError;

/// The values of the parameters.
#[derive(Default)]
pub(super) struct Values {
    given: BTreeMap<&'static str, Value>,
    /// `options[name]=value`, which the driver takes in a URL, and libpq does not.
    settings: Vec<String>,
}

struct Value {
    text: String,
    /// The words that name the origin in an error.
    origin: String,
}

impl Values {
    /// Reads a connection string, and fills its gaps.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`] names the parameter or the variable, and never repeats its
    /// value.
    pub(super) fn read(text: &str, environment: &Environment) -> Result<Self, StoreError> {
        let mut values = Self::default();
        // In a URL, the last value of a name counts, as for libpq.
        values.add(connection_string::parse(text)?.into_iter().rev().collect(), |name| {
            format!("`{name}`")
        })?;
        let service =
            values.text("service").map(str::to_owned).or_else(|| environment.variable("PGSERVICE"));
        if let Some(service) = service {
            let pairs = service_file::load(
                &service,
                |name| environment.variable(name),
                environment.home.as_deref(),
            )?;
            values.add(pairs, |name| format!("`{name}` in the service file"))?;
        }
        for parameter in PARAMETERS {
            let Some(variable) = parameter.variable else { continue };
            if let Some(value) = environment.variable(variable) {
                values.add(vec![(parameter.name.into(), value)], |_| {
                    format!("the variable `{variable}`")
                })?;
            }
        }
        if environment.variable("PGREQUIRESSL").is_some_and(|value| value == "1") {
            values.add(vec![("sslmode".into(), "require".into())], |_| {
                "the variable `PGREQUIRESSL`".into()
            })?;
        }
        Ok(values)
    }

    /// Adds the values of parameters that have no value yet.
    fn add(&mut self, pairs: Pairs, origin: impl Fn(&str) -> String) -> Result<(), StoreError> {
        for (name, text) in pairs {
            if let Some(setting) =
                name.strip_prefix("options[").and_then(|name| name.strip_suffix(']'))
            {
                let text = text.replace('\\', r"\\").replace(' ', r"\ ");
                self.settings.insert(0, format!("-c {setting}={text}"));
                continue;
            }
            let Some(parameter) = parameters::find(&name) else {
                // The name is not repeated: after an unencoded `?` it is a part of the password.
                return Err(unsupported(
                    "it has a parameter that is not understood; leave it out. \"Reaching \
                     PostgreSQL\" in docs/operating.md lists the parameters",
                ));
            };
            if self.given.contains_key(parameter.name) {
                continue;
            }
            let origin = origin(parameter.name);
            if let Some(advice) = parameters::refusal(parameter, &text) {
                return Err(unsupported(&format!(
                    "{origin} has a value that is not supported: {advice}"
                )));
            }
            self.given.insert(parameter.name, Value { text, origin });
        }
        Ok(())
    }

    /// Returns the value of a parameter, empty if it was given so.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(|value| value.text.as_str())
    }

    /// Returns the value of a parameter. An empty value counts as none: it means the default.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.given(name).filter(|value| !value.is_empty())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        self.text(name).map(|list| list.split(',').collect()).unwrap_or_default()
    }

    /// Returns whether the connection string itself gives the parameter.
    pub(super) fn is_in_text(&self, name: &str) -> bool {
        self.given.get(name).is_some_and(|value| value.origin == format!("`{name}`"))
    }

    /// Returns the settings for the session, as a command line of the server.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`] if the variable `PGOPTIONS` gives other settings.
    pub(super) fn session_options(
        &self,
        environment: &Environment,
    ) -> Result<Option<String>, StoreError> {
        let options =
            self.text("options").into_iter().chain(self.settings.iter().map(String::as_str));
        let options = options.collect::<Vec<_>>().join(" ");
        // The driver reads the variable in any case.
        let variable = environment.variable("PGOPTIONS").unwrap_or_default();
        match options.strip_prefix(&variable) {
            Some(options) => {
                Ok(Some(options.trim().to_owned()).filter(|options| !options.is_empty()))
            }
            None => Err(unsupported(
                "`options` and the variable `PGOPTIONS` give different settings; give the settings \
                 in one of them",
            )),
        }
    }

    /// Returns an error that names the parameter's origin and the remedy.
    pub(super) fn wrong(&self, name: &str, advice: &str) -> StoreError {
        let origin =
            self.given.get(name).map_or_else(|| format!("`{name}`"), |value| value.origin.clone());
        unsupported(&format!("{origin} cannot be used: {advice}"))
    }
}
