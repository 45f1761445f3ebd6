//! Unit properties that the spec's annotations give: `org.systemd.property.NAME` = a GVariant text.

use std::collections::HashMap;

use super::super::error::{Error, Result};
use super::gvariant;
use super::manager::Properties;
use super::value::Value;

const PREFIX: &str = "org.systemd.property.";

/// The properties, sorted by name.
///
/// # Errors
/// Names the annotation.
pub fn properties(annotations: &HashMap<String, String>) -> Result<Properties> {
    let mut found = Properties::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let refuse = |reason| Error::Annotation { key: key.clone(), value: text.clone(), reason };
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(refuse("a property's name has at least three letters, and nothing else".into()));
        }
        let value = gvariant::parse(text).map_err(refuse)?;
        found.push(match in_microseconds(name) {
            Some(name) => {
                (name, microseconds(&value).ok_or_else(|| refuse("expected a number of seconds".into()))?)
            }
            None => (name.to_owned(), value),
        });
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// COMPAT: unit files say TimeoutStopSec, the bus TimeoutStopUSec; as with runc, annotations may say either.
fn in_microseconds(name: &str) -> Option<String> {
    let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()))?;
    Some(format!("{stem}USec"))
}

fn microseconds(seconds: &Value) -> Option<Value> {
    let seconds: u64 = match *seconds {
        Value::Byte(n) => n.into(),
        Value::I16(n) => n.try_into().ok()?,
        Value::U16(n) => n.into(),
        Value::I32(n) => n.try_into().ok()?,
        Value::U32(n) => n.into(),
        Value::I64(n) => n.try_into().ok()?,
        Value::U64(n) => n,
        Value::Double(n) if n >= 0.0 => return Some(Value::U64((n * 1e6) as u64)),
        _ => return None,
    };
    seconds.checked_mul(1_000_000).map(Value::U64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Properties> {
        let pairs = pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        properties(&pairs.chain([("other".to_owned(), "x".to_owned())]).collect())
    }

    #[test]
    fn seconds_become_microseconds_and_other_values_stay() {
        let found = read(&[
            ("TimeoutStopSec", "uint32 3"),
            ("RuntimeMaxUSec", "uint64 7"),
            ("CollectMode", "'inactive'"),
            ("StartupSec", "1.5"),
        ]);
        let expected = [
            ("CollectMode".to_owned(), Value::from("inactive")),
            ("RuntimeMaxUSec".to_owned(), Value::U64(7)),
            ("StartupUSec".to_owned(), Value::U64(1_500_000)),
            ("TimeoutStopUSec".to_owned(), Value::U64(3_000_000)),
        ];
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn a_bad_name_or_value_is_refused_by_its_annotation() {
        for (name, value) in
            [("Ab", "1"), ("A.B.C", "1"), ("Slice", "x"), ("TimeoutStopSec", "'1'"), ("StopSec", "-1")]
        {
            let told = read(&[(name, value)]).unwrap_err().to_string();
            assert!(told.starts_with(&format!("annotation {PREFIX}{name}")), "{told}");
        }
    }
}
