//! Names of Rust's enums as Python spells them.

use std::fmt::Debug;

/// `stale_lease` is `StaleLease`.
pub(crate) fn camel_case(label: &str) -> String {
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    label.split('_').filter(|word| !word.is_empty()).map(capital).collect()
}

/// The name of a variant without fields: `NeverClaimed` is `never_claimed`.
pub(crate) fn snake_case(variant: impl Debug) -> String {
    let mut name = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
