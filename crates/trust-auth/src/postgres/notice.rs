//! [`Notice`]: a notification of the trigger in `migrations/postgres/0003_notify.sql`, parsed. A
//! payload of any other form is an error, never a guess: the caller then invalidates every key.

use trust_key_cache::KeyHash;
use uuid::Uuid;

/// The channel that the trigger notifies.
pub(super) const CHANNEL: &str = "trust_auth";

/// The keys that a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The digest that the row had, and the digest that it has now, if that differs.
    Keys([Option<KeyHash>; 2]),
    /// Every key.
    Everything,
}

/// A payload that the trigger does not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Notice {
    /// Reads `1 OPERATION ID OLD NEW`.
    pub(super) fn parse(payload: &str) -> Result<Self, Malformed> {
        let mut words = payload.split(' ');
        let mut next = || words.next().ok_or(Malformed);
        let [version, operation, id, old, new] = [next()?, next()?, next()?, next()?, next()?];
        if version != "1" || words.next().is_some() {
            return Err(Malformed);
        }
        match operation {
            "insert" | "update" | "delete" => {
                Uuid::try_parse(id).map_err(|_| Malformed)?;
                Ok(Self::Keys([hash(old)?, hash(new)?]))
            }
            "truncate" if [id, old, new] == ["-"; 3] => Ok(Self::Everything),
            _ => Err(Malformed),
        }
    }
}

fn hash(word: &str) -> Result<Option<KeyHash>, Malformed> {
    match word {
        "-" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(operation: &str, old: Option<KeyHash>, new: Option<KeyHash>) -> String {
        let word = |hash: Option<KeyHash>| hash.map_or("-".into(), |hash| hash.to_hex());
        format!("1 {operation} {} {} {}", Uuid::from_u128(7), word(old), word(new))
    }

    #[test]
    fn a_change_names_the_keys_that_it_concerns() {
        let (old, new) = (Some(KeyHash::of("old")), Some(KeyHash::of("new")));
        assert_eq!(Notice::parse(&payload("insert", None, new)), Ok(Notice::Keys([None, new])));
        assert_eq!(Notice::parse(&payload("update", old, new)), Ok(Notice::Keys([old, new])));
        assert_eq!(Notice::parse(&payload("delete", old, None)), Ok(Notice::Keys([old, None])));
        assert_eq!(Notice::parse(&payload("update", None, None)), Ok(Notice::Keys([None, None])));
        assert_eq!(Notice::parse("1 truncate - - -"), Ok(Notice::Everything));
    }

    #[test]
    fn any_other_payload_is_malformed() {
        let sound = payload("update", Some(KeyHash::of("old")), None);
        assert!(Notice::parse(&sound).is_ok());
        for payload in [
            String::new(),
            " ".into(),
            "reload".into(),
            sound.replacen('1', "2", 1),
            sound.replace("update", "upsert"),
            sound.replace("update", "UPDATE"),
            sound.replace(&Uuid::from_u128(7).to_string(), "7"),
            sound.replace(&Uuid::from_u128(7).to_string(), "-"),
            sound.replace(" -", " "),
            sound.replace(" -", ""),
            format!("{sound} "),
            format!("{sound} -"),
            format!(" {sound}"),
            sound.replace(' ', "  "),
            sound[..sound.len() - 4].into(),
            "1 truncate - - x".into(),
            "1 truncate - -".into(),
        ] {
            assert_eq!(Notice::parse(&payload), Err(Malformed), "{payload:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_malformed(payload in any::<String>()) {
            let _ = Notice::parse(&payload);
        }

        #[test]
        fn a_notice_that_lost_a_character_is_malformed(
            key in any::<[u8; 8]>(),
            at in any::<prop::sample::Index>(),
        ) {
            let mut payload = payload("update", Some(KeyHash::of(key)), Some(KeyHash::of("new")));
            payload.remove(at.index(payload.len()));
            prop_assert_eq!(Notice::parse(&payload), Err(Malformed));
        }

        #[test]
        fn each_payload_of_the_trigger_reads_back(
            old in any::<Option<[u8; 32]>>(),
            new in any::<Option<[u8; 32]>>(),
        ) {
            let (old, new) = (old.map(KeyHash::from_bytes), new.map(KeyHash::from_bytes));
            let notice = Notice::parse(&payload("update", old, new));
            prop_assert_eq!(notice, Ok(Notice::Keys([old, new])));
        }
    }
}
