//! A JSON object that is read key by key, so that what is wrong can be said with the key's full name.

use std::time::Duration;

use serde_json::{Map, Value};

use super::ConfigError;

/// The longest time that a key may say: a year. It keeps sums of times in range.
const SECONDS_MAX: f64 = 365.0 * 86_400.0;

pub(super) struct Keys {
    place: String,
    map: Map<String, Value>,
}

impl Keys {
    pub(super) fn of(place: &str, value: Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(map) => Ok(Self { place: place.to_owned(), map }),
            other => Err(ConfigError(format!("{place} is {other}; it must be a JSON object"))),
        }
    }

    /// The value; `None` for a key that is not there or null.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, key: &str, value: Option<&str>, right: &str) -> ConfigError {
        let value = value.unwrap_or("not set");
        ConfigError(format!("{}.{key} is {value}; it must be {right}", self.place))
    }

    /// A string; numbers are taken as their digits, since people write ids and ports either way.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(self.wrong(key, Some(&other.to_string()), "a string")),
        }
    }

    /// A whole number up to `max`, as a number, a float without a fraction, or a string of digits.
    pub(super) fn integer(&mut self, key: &str, max: u64) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = whole(&value).filter(|number| *number <= max);
        let wrong = || self.wrong(key, Some(&value.to_string()), &format!("a whole number from 0 to {max}"));
        number.map(Some).ok_or_else(wrong)
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(key, Some(&other.to_string()), "true or false")),
        }
    }

    /// Seconds, fractions allowed.
    pub(super) fn seconds(&mut self, key: &str) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = match &value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let within = number.filter(|seconds| *seconds > 0.0 && *seconds <= SECONDS_MAX);
        let wrong = || self.wrong(key, Some(&value.to_string()), "a number of seconds above 0");
        within.map(|seconds| Some(Duration::from_secs_f64(seconds))).ok_or_else(wrong)
    }

    /// A list of strings, or one string with commas.
    pub(super) fn list(&mut self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let wrong = |keys: &Self, value: &Value| keys.wrong(key, Some(&value.to_string()), "a list of names");
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(names)) => {
                Ok(Some(names.split(',').map(|name| name.trim().to_owned()).collect()))
            }
            Some(value @ Value::Array(_)) => {
                let names = value.as_array().into_iter().flatten();
                let names: Option<Vec<String>> = names.map(|name| Some(name.as_str()?.to_owned())).collect();
                names.map(Some).ok_or_else(|| wrong(self, &value))
            }
            Some(other) => Err(wrong(self, &other)),
        }
    }

    /// Keys that nobody took.
    pub(super) fn rest(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// Keys that nobody took and that belong elsewhere, with the name that they have there.
    pub(super) fn misplaced<'a>(&'a self, names: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.rest().filter_map(|key| names.iter().find(|name| **name == key).map(|name| (key, *name)))
    }

    /// An error when a key is left that nobody took.
    pub(super) fn finish(self, names: &[&str]) -> Result<(), ConfigError> {
        let Some(unknown) = self.rest().next() else { return Ok(()) };
        let advice = match nearest(unknown, names) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("known keys: {}", names.join(", ")),
        };
        Err(ConfigError(format!("{}.{unknown} is not known; {advice}", self.place)))
    }
}

/// A whole number, however it is written.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| {
            // Beyond 2^53 a float has lost digits: better refused than taken for another number.
            let float = number.as_f64()?;
            (float.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&float)).then_some(float as u64)
        }),
        Value::String(digits) => digits.trim().parse().ok(),
        _ => None,
    }
}

/// The known name that is near enough to be what was meant.
pub(super) fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let (distance, best) = names.iter().map(|known| (edits(name, known), *known)).min()?;
    (distance <= 1 + name.len() / 3).then_some(best)
}

/// How many letters to insert, drop or change to get from one to the other.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = line + 1;
        for (column, against) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != *against);
            corner = row[column + 1];
            row[column + 1] = changed.min(corner + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
