//! The checked-in figures against the fact sheet that they were taken from, where it is at hand.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::figures::{self, Figure, root};

/// Beside the repository, where its developers keep what it was written from.
fn facts() -> Option<Value> {
    let path = root().join("../../shared/data/ascend-abi.json");
    let text = fs::read_to_string(Path::new(&path)).ok()?;
    Some(serde_json::from_str(&text).expect("the fact sheet is JSON"))
}

#[test]
fn the_figures_are_those_of_the_fact_sheet() {
    let Some(facts) = facts() else {
        let why = "the fact sheet (shared/data/ascend-abi.json) is not beside the repository";
        return ropeway_testkit::cannot_run("the figures against the fact sheet", why);
    };
    let figures = figures::all();
    let wrong: Vec<String> =
        figures.iter().filter(|figure| !agrees(&facts, figure)).map(|figure| format!("{figure:?}")).collect();
    assert_eq!(wrong, Vec::<String>::new(), "recorded otherwise than in the fact sheet");
    assert_eq!(left_out(&facts, &figures), Vec::<String>::new(), "in the fact sheet, and not recorded");
}

fn agrees(facts: &Value, figure: &Figure) -> bool {
    let number =
        |value: &Value, text: &str| value.as_i64().map(|value| value.to_string()).as_deref() == Some(text);
    let (structs, enums) =
        if figure.module() == "cxx" { ("cxx_structs", "cxx_enums") } else { ("structs", "enums") };
    match figure.fields()[..] {
        [_, "function", name, first, signature] => {
            facts["functions"][name] == signature && facts["since"][name] == first
        }
        [_, "struct", name, size, align] => {
            let known = &facts[structs][name];
            number(&known["size"], size) && number(&known["align"], align)
        }
        [module, "field", name, field, offset, size] => {
            let known = &facts["field_types"][name][field]["size"];
            let size = module == "cxx" && known.is_null() || number(known, size);
            number(&facts[structs][name]["fields"][field], offset) && size
        }
        [_, "enum", of, name, value] => number(&facts[enums][of][name], value),
        [_, "constant", name, value] => {
            let known = &facts["constants"][name];
            number(known, value) || known == &format!("\"{value}\"")
        }
        [_, "symbol", name, _] => facts["cxx_functions"].get(name).is_some(),
        _ => false,
    }
}

/// Fields and enumerators that the fact sheet has beside the recorded ones.
fn left_out(facts: &Value, figures: &[Figure]) -> Vec<String> {
    let mut missing = Vec::new();
    let has = |kind: &str, of: &str, name: &str| {
        figures.iter().any(|figure| figure.kind() == kind && figure.name() == of && figure.0[3] == name)
    };
    for figure in figures.iter().filter(|figure| figure.kind() == "struct") {
        let structs = if figure.module() == "cxx" { "cxx_structs" } else { "structs" };
        let fields = facts[structs][figure.name()]["fields"].as_object().into_iter().flatten();
        let absent = fields.filter(|(field, _)| !has("field", figure.name(), field));
        missing.extend(absent.map(|(field, _)| format!("{}.{field}", figure.name())));
    }
    for figure in figures.iter().filter(|figure| figure.kind() == "enum") {
        let enums = if figure.module() == "cxx" { "cxx_enums" } else { "enums" };
        let values = facts[enums][figure.name()].as_object().into_iter().flatten();
        let absent = values.filter(|(name, _)| !has("enum", figure.name(), name));
        missing.extend(absent.map(|(name, _)| format!("{} of {}", name, figure.name())));
    }
    missing.sort();
    missing.dedup();
    missing
}
