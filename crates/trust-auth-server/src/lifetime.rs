//! [`Lifetime`]: how long a key lasts, or old keys overlap a new one, as an operator gives it.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// The longest lifetime: a hundred years. A mistyped unit is more likely than a longer one.
const LONGEST: Duration = Duration::from_secs(36_525 * 86_400);

/// A duration of at least a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime(pub(crate) Duration);

impl FromStr for Lifetime {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match humantime::parse_duration(text) {
            Ok(duration) if (Duration::from_secs(1)..=LONGEST).contains(&duration) => {
                Ok(Self(duration))
            }
            _ => Err("give a duration from 1s to 100years, such as 24h or 90d"),
        }
    }
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_neither_nothing_nor_without_end() {
        let parsed = |text: &str| text.parse::<Lifetime>().map(|lifetime| lifetime.0);
        assert_eq!(parsed("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parsed("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parsed("100years"), Ok(LONGEST));
        for text in ["0s", "999ms", "101years", "-1d", "90", "soon", ""] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
