//! Builds the C++ shim into a shared object of its own, which the crate embeds. Where CANN's headers are installed, the
//! shim is also compiled against them, as a check.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SOURCES: &[&str] =
    &["shim/shim.cpp", "shim/hixl.hpp", "shim/exports.map", "include/hixl_shim.h", "build/shim.rs"];

/// Names the C++ compiler of the shim where the usual one will not do: CANN's libraries are built with GNU's standard library,
/// so the shim must be, whatever compiles and links the rest.
const SHIM_COMPILER: &str = "ROPEWAY_SHIM_CXX";

/// Writes `shim.rs` into the output folder: the constant `EMBEDDED`.
pub(crate) fn build() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    for variable in ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", SHIM_COMPILER] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let embedded = match Compiler::find(&out) {
        Ok(compiler) => {
            let object = compiler.link(&out);
            compiler.check_against_installed_headers();
            format!("Some(include_bytes!({:?}))", object.display().to_string())
        }
        Err(why) => {
            println!(
                "cargo::warning=no working C++ compiler ({why}): built without the shim, so HIXL's C++ interface is \
                 out of reach; install g++, or name a shim at run time with ROPEWAY_HIXL_SHIM"
            );
            "None".to_owned()
        }
    };
    let text = format!(
        "/// The shim as a shared object; none when it was built without a C++ compiler.\n\
         pub static EMBEDDED: Option<&[u8]> = {embedded};\n"
    );
    fs::write(out.join("shim.rs"), text).expect("the output folder can be written");
}

/// A C++ compiler that has linked a shared object with the standard library.
struct Compiler(cc::Tool);

impl Compiler {
    fn find(out: &Path) -> Result<Self, String> {
        let mut build = cc::Build::new();
        if let Some(compiler) = env::var_os(SHIM_COMPILER) {
            build.compiler(PathBuf::from(compiler));
        }
        let tool = build
            .cpp(true)
            .std("c++17")
            .pic(true)
            .opt_level(2)
            .debug(false)
            .warnings(true)
            .extra_warnings(true)
            .cargo_metadata(false)
            .try_get_compiler()
            .map_err(|error| error.to_string())?;
        let compiler = Self(tool);
        let probe = out.join("probe.cpp");
        let text = "#include <map>\n#include <memory>\nstd::map<int, std::shared_ptr<int>> held;\n";
        fs::write(&probe, text).expect("the output folder can be written");
        let output =
            compiler.run(|command| command.arg("-shared").arg(&probe).arg("-o").arg(out.join("probe.so")));
        let output = output.map_err(|error| format!("{}: {error}", compiler.0.path().display()))?;
        if output.status.success() { Ok(compiler) } else { Err(first_line(&output)) }
    }

    /// Links the shim. Symbols of HIXL stay open; standard-library code that was instantiated in it stays its own.
    fn link(&self, out: &Path) -> PathBuf {
        let object = out.join("libropeway_hixl_shim.so");
        let output = self.run(|command| {
            command.args(["-shared", "-fvisibility=hidden"]);
            command.args(["-Wl,-s", "-Wl,--build-id=none", "-Wl,-soname,libropeway_hixl_shim.so"]);
            command.args(["-Wl,--version-script=shim/exports.map", "shim/shim.cpp", "-o"]).arg(&object)
        });
        expect_success("the HIXL shim does not compile", output);
        object
    }

    fn check_against_installed_headers(&self) {
        let roots = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"].into_iter().filter_map(env::var_os);
        let includes = roots.map(|root| PathBuf::from(root).join("include"));
        let Some(include) = includes.into_iter().find(|include| include.join("hixl/hixl.h").is_file()) else {
            return;
        };
        let header = fs::read_to_string(include.join("hixl/hixl.h")).unwrap_or_default();
        let output = self.run(|command| {
            command.args(["-fsyntax-only", "-DROPEWAY_CANN_HEADERS", "-isystem"]).arg(&include);
            command.arg("-isystem").arg(include.join("external"));
            if !header.contains("GetAsyncConnectStatus") {
                command.arg("-DROPEWAY_CANN_BEFORE_9_1");
            }
            command.arg("shim/shim.cpp")
        });
        let said = output.as_ref().map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        if said.is_ok_and(|said| said.contains("No such file or directory")) {
            let include = include.display();
            println!(
                "cargo::warning=the headers in {include} are not whole: the HIXL shim was not checked against them"
            );
            return;
        }
        let what = format!(
            "the HIXL shim does not fit the headers in {}; please report it (without ASCEND_HOME_PATH and \
             ASCEND_TOOLKIT_HOME the build goes on unchecked)",
            include.display()
        );
        expect_success(&what, output);
    }

    fn run(&self, arguments: impl FnOnce(&mut Command) -> &mut Command) -> io::Result<Output> {
        let mut command = self.0.to_command();
        arguments(&mut command).output()
    }
}

fn expect_success(what: &str, output: io::Result<Output>) {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(output.status.success(), "{what}:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn first_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed and said nothing").to_owned()
}
