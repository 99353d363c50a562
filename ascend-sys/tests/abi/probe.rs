//! A small program that prints what a compiler makes of a header, in the form of the figures.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::figures::{Figure, Folder, compile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    C,
    Cxx,
}

/// Compiles `includes` from `folder` together with a declaration of each figure's function, which must agree with the
/// header's, and returns the figures as the compiler sees them, functions left out.
pub(crate) fn run(
    language: Language,
    folder: &Path,
    includes: &[&str],
    figures: &[Figure],
) -> Result<Vec<Figure>, String> {
    let place = Folder::new();
    let [file, program] = ["probe.c", "probe"].map(|name| place.0.join(name));
    fs::write(&file, source(language, includes, figures)).map_err(|error| error.to_string())?;
    let (variable, usual, flags) = match language {
        Language::C => ("CC", "cc", ["-xc", "-std=c11", "-Wall", "-Wextra", "-Werror"]),
        Language::Cxx => ("CXX", "c++", ["-xc++", "-std=c++17", "-Wall", "-Wextra", "-Wno-invalid-offsetof"]),
    };
    compile(variable, usual, |command| {
        command.args(flags).arg("-I").arg(folder).arg(&file).arg("-o").arg(&program)
    })?;
    let output = Command::new(&program).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(|line| Figure(line.split('\t').map(str::to_owned).collect())).collect())
}

fn source(language: Language, includes: &[&str], figures: &[Figure]) -> String {
    let mut text = String::from("#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n");
    for include in includes {
        let _ = writeln!(text, "#include \"{include}\"");
    }
    let (open, close, align) = match language {
        Language::C => ("", "", "_Alignof"),
        Language::Cxx => ("extern \"C\" {", "}", "alignof"),
    };
    let _ = writeln!(text, "{open}");
    for figure in figures {
        if let [_, "function", _, _, signature] = figure.fields()[..] {
            let _ = writeln!(text, "{signature};");
        }
    }
    let _ = writeln!(text, "{close}\nint main(void) {{");
    for figure in figures {
        let line = match figure.fields()[..] {
            [module, "struct", name, ..] => {
                format!(r#"printf("{module}\tstruct\t{name}\t%zu\t%zu\n", sizeof({name}), {align}({name}));"#)
            }
            [module, "field", name, field, ..] => format!(
                r#"printf("{module}\tfield\t{name}\t{field}\t%zu\t%zu\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));"#
            ),
            [module, "enum", of, name, _] => format!(
                r#"printf("{module}\tenum\t{of}\t{name}\t%lld\n", sizeof({of}) == 4 ? (long long){name} : -999999);"#
            ),
            [module, "constant", name, _] => {
                format!(r#"printf("{module}\tconstant\t{name}\t%lld\n", (long long){name});"#)
            }
            _ => continue,
        };
        let _ = writeln!(text, "    {line}");
    }
    text.push_str("    return 0;\n}\n");
    text
}

/// What differs between the recorded figures and the compiler's, one line each.
pub(crate) fn differences(recorded: &[Figure], seen: &[Figure]) -> Vec<String> {
    let recorded: Vec<&Figure> = recorded.iter().filter(|figure| figure.kind() != "function").collect();
    if recorded.len() != seen.len() {
        return vec![format!("{} figures are recorded, {} were printed", recorded.len(), seen.len())];
    }
    let pairs = recorded.into_iter().zip(seen).filter(|(recorded, seen)| recorded != seen);
    pairs.map(|(recorded, seen)| format!("recorded {recorded:?}, the compiler says {seen:?}")).collect()
}
