//! Values of options as people write them: signals (signal(7)), durations, ids.

use std::time::Duration;

use nix::sys::signal::Signal;
use toml::Value;

/// An option and the kind of value it takes.
pub enum Setting<'o> {
    Bool(&'o mut bool),
    Text(&'o mut String),
    Id(&'o mut u32),
    Signal(&'o mut i32),
    Time(&'o mut Duration),
}

impl Setting<'_> {
    /// Assigns `value`, or says why it cannot be meant.
    pub fn assign(self, value: &Value) -> Result<(), String> {
        let wrong = |kind| format!("{} is not {kind}", shown(value));
        match self {
            Setting::Bool(o) => *o = boolean(value).ok_or_else(|| wrong("true or false"))?,
            Setting::Text(o) => *o = value.as_str().ok_or_else(|| wrong("a string"))?.to_owned(),
            Setting::Id(o) => *o = id(value).ok_or_else(|| wrong("a user or group id"))?,
            Setting::Signal(o) => {
                *o = signal(value).ok_or_else(|| wrong("a signal (SIGTERM, TERM, 15, RTMIN+3)"))?
            }
            Setting::Time(o) => {
                *o = time(value).ok_or_else(|| wrong("a duration (10s, 1m30s, or seconds)"))?
            }
        }
        Ok(())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        Value::Integer(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Boolean(b) => b.to_string(),
        other => format!("a {}", other.type_str()),
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(b) => Some(*b),
        Value::String(s) => s.parse().ok(),
        _ => None,
    }
}

fn id(value: &Value) -> Option<u32> {
    // The highest id means "none" to the kernel.
    value.as_integer().and_then(|i| u32::try_from(i).ok()).filter(|&i| i != u32::MAX)
}

fn signal(value: &Value) -> Option<i32> {
    match value {
        Value::Integer(i) => signal_number(i32::try_from(*i).ok()?),
        Value::String(s) => parse_signal(s),
        _ => None,
    }
}

fn signal_number(n: i32) -> Option<i32> {
    (1..=libc::SIGRTMAX()).contains(&n).then_some(n)
}

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(n) = text.parse() {
        return signal_number(n);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(libc::SIGRTMIN(), offset, '+');
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(libc::SIGRTMAX(), offset, '-');
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|s| s as i32)
}

fn real_time(base: i32, offset: &str, sign: char) -> Option<i32> {
    if offset.is_empty() {
        return Some(base);
    }
    let steps: i32 = offset.strip_prefix(sign)?.parse().ok()?;
    let n = if sign == '+' { base.checked_add(steps)? } else { base.checked_sub(steps)? };
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&n).then_some(n)
}

/// A duration longer than this is a mistake, and overflows clocks.
const MAX_SECONDS: f64 = 365.0 * 86_400.0;

fn time(value: &Value) -> Option<Duration> {
    match value {
        Value::Integer(i) => seconds(*i as f64),
        Value::Float(f) => seconds(*f),
        Value::String(s) => parse_duration(s),
        _ => None,
    }
}

fn seconds(s: f64) -> Option<Duration> {
    (0.0..=MAX_SECONDS).contains(&s).then(|| Duration::from_secs_f64(s))
}

/// Go's notation (`1h2m3.5s`, `250ms`), or a bare number of seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(n) = text.parse::<f64>() {
        return seconds(n);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..];
        let unit = &unit[..unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len())];
        total += number * scale(unit)?;
        rest = &rest[end + unit.len()..];
    }
    if text.is_empty() { None } else { seconds(total) }
}

fn scale(unit: &str) -> Option<f64> {
    match unit {
        "h" => Some(3600.0),
        "m" => Some(60.0),
        "s" => Some(1.0),
        "ms" => Some(1e-3),
        "us" | "µs" => Some(1e-6),
        "ns" => Some(1e-9),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_by_number() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("RTMAX-1", Some(libc::SIGRTMAX() - 1)),
            ("RTMIN", Some(libc::SIGRTMIN())),
            ("RTMIN+99", None),
            ("RTMIN-1", None),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_read_in_gos_notation_and_in_seconds() {
        for (text, millis) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("250ms", Some(250)),
            ("1.5h", Some(5_400_000)),
            ("7", Some(7_000)),
            ("0", Some(0)),
            ("", None),
            ("10x", None),
            ("s", None),
            ("-1s", None),
            ("-1", None),
            ("nan", None),
            ("inf", None),
            ("1s2", None),
            ("99999999h", None),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
    }

    #[test]
    fn the_id_that_means_none_is_not_an_id() {
        for (value, expected) in [(0, Some(0)), (1000, Some(1000)), (-1, None), (i64::from(u32::MAX), None)] {
            assert_eq!(id(&Value::Integer(value)), expected);
        }
    }
}
