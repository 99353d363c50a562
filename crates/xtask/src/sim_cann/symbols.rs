//! Which symbols each library of a release has: `crates/ascend-sim/symbols`, one table a library.

use std::collections::BTreeSet;
use std::fs;

use clap::ValueEnum;

use super::{Layout, Release};

/// The tables, cut to a release and to what is not left out.
pub(super) struct Lists {
    pub(super) acl: Vec<String>,
    pub(super) hcomm: Vec<String>,
    pub(super) hccl: Vec<String>,
    /// HIXL's C interface.
    pub(super) hixl: Vec<String>,
    /// Members of `hixl::Hixl`.
    pub(super) hixl_cxx: Vec<String>,
    /// Members of `ge::AscendString`.
    pub(super) metadef_cxx: Vec<String>,
    /// Every name of every table in any release.
    pub(super) known: BTreeSet<String>,
}

impl Lists {
    pub(super) fn read(layout: &Layout) -> Result<Self, String> {
        let mut known = BTreeSet::new();
        let mut list = |table: &str| {
            let path = format!("crates/ascend-sim/symbols/{table}.txt");
            let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
            let rows = rows(&text).map_err(|line| format!("{path}: {line:?} is not a name and a release"))?;
            known.extend(rows.iter().map(|(name, _)| name.clone()));
            Ok::<_, String>(of(rows, layout))
        };
        let (acl, hcomm, hccl) = (list("acl")?, list("hcomm")?, list("hccl")?);
        let (hixl, hixl_cxx, metadef_cxx) = (list("hixl")?, list("hixl_cxx")?, list("metadef_cxx")?);
        if let Some(stranger) = layout.without.iter().find(|name| !known.contains(*name)) {
            return Err(format!("--without {stranger}: no library has such a symbol"));
        }
        Ok(Self { acl, hcomm, hccl, hixl, hixl_cxx, metadef_cxx, known })
    }
}

/// The rows of a table; the line that is none otherwise.
fn rows(text: &str) -> Result<Vec<(String, Release)>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|line| row(line).ok_or_else(|| line.to_owned())).collect()
}

fn row(line: &str) -> Option<(String, Release)> {
    let (name, first) = line.split_once(' ')?;
    Some((name.to_owned(), Release::from_str(first, false).ok()?))
}

fn of(rows: Vec<(String, Release)>, layout: &Layout) -> Vec<String> {
    let there = rows.into_iter().filter(|(_, first)| *first <= layout.release).map(|(name, _)| name);
    there.filter(|name| !layout.without.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_gives_names_with_their_first_release() {
        let rows = rows("# said\n\naclInit 8.5.0\nHixlCSServerCreate 9.0.0\n").unwrap();
        assert_eq!(rows[1], ("HixlCSServerCreate".to_owned(), Release::V9_0));
        assert_eq!(super::rows("aclInit 8.4.0\n").unwrap_err(), "aclInit 8.4.0");
    }
}
