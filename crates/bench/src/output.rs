//! Tables for people, JSON lines for programs, and the progress bar between.

use std::fmt::Display;
use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Writes one JSON object as a line.
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    io::stdout().lock().write_all(line.as_bytes())
}

/// Writes a line.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes a line on stderr: why the command failed.
pub(crate) fn complain(text: impl Display) {
    // Nowhere to complain to: nothing better can be done.
    let _ = writeln!(io::stderr().lock(), "ropeway-bench: {text}");
}

/// A table with a title; all but the first column are numbers, aligned right.
pub(crate) fn table(title: &str, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    table.add_rows(rows.iter().cloned());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    line(format_args!("\n{title}\n{table}"))
}

/// A table as Markdown has it.
pub(crate) fn markdown(header: &[String], rows: &[Vec<String>]) -> io::Result<()> {
    line(format_args!("| {} |", header.join(" | ")))?;
    line(format_args!("|{}", "---|".repeat(header.len())))?;
    rows.iter().try_for_each(|row| line(format_args!("| {} |", row.join(" | "))))
}

/// A table of names and values.
pub(crate) fn facts(title: &str, rows: &[(&str, String)]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.add_rows(rows.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]));
    line(format_args!("\n{title}\n{table}"))
}

/// A bar on stderr, drawn only on a terminal.
pub(crate) fn progress(steps: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:24} [{bar:40}] {pos}/{len} {elapsed} (left {eta})")
        .expect("the template is valid")
        .progress_chars("=> ");
    let bar = ProgressBar::new(steps).with_style(style);
    bar.set_message(what.to_owned());
    bar
}

/// Bytes as people read them, decimal.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// A block size as people name it, binary.
pub(crate) fn block(bytes: u64) -> String {
    match bytes {
        _ if bytes < 1 << 20 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{bytes} B"),
    }
}

/// A number with thousands separated.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(grouped(144_793_823), "144,793,823");
        assert_eq!(grouped(999), "999");
        assert_eq!(bytes(254_803_968), "254.8 MB");
        assert_eq!(block(4096), "4 KiB");
        assert_eq!(block(584), "584 B");
        assert_eq!(block(4 << 20), "4 MiB");
    }
}
