//! Settings: from the environment, or from a program through `ropeway_sim_configure`, which wins.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fail::{Done, Fail, code, ensure};
use crate::topology::Topology;

/// Whether work takes time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timing {
    /// Everything completes as soon as it is run.
    #[default]
    Off,
    /// Completion times follow the link model.
    Model,
}

/// What a program or the environment asked for; nothing is looked up yet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A file's name, or the topology itself.
    pub topology: Option<serde_json::Value>,
    /// Name of the node that this process is on.
    pub node: Option<String>,
    /// The folder that processes share.
    pub state: Option<PathBuf>,
    /// The fault script.
    pub faults: Option<String>,
    /// Maps device memory where the host can touch it.
    pub host_visible: Option<bool>,
    /// Whether work takes time.
    pub timing: Option<Timing>,
    /// Whether links move bytes; without, a transfer that passed its checks is over, which shows what posting costs.
    pub move_data: Option<bool>,
    /// As `ASCEND_RT_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
}

/// Settings, looked up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The machines.
    pub topology: Topology,
    /// Index of this process's node.
    pub node: usize,
    /// The folder that processes share.
    pub state: PathBuf,
    /// The fault script.
    pub faults: String,
    /// Device memory is mapped where the host can touch it.
    pub host_visible: bool,
    /// Whether work takes time.
    pub timing: Timing,
    /// Links move bytes.
    pub moves_data: bool,
    /// As `ASCEND_RT_VISIBLE_DEVICES`: indices into the node's devices, comma-separated.
    pub visible_devices: Option<String>,
}

impl Settings {
    /// Reads the JSON of `ropeway_sim_configure`.
    ///
    /// # Errors
    /// INVALID_PARAM for unsound JSON or an unknown key.
    pub fn parse(json: &str) -> Done<Self> {
        serde_json::from_str(json)
            .map_err(|error| Fail::new(code::INVALID_PARAM, format!("settings: {error}")))
    }

    /// Takes from `other` what is set there.
    pub fn update(&mut self, other: Self) {
        fn take<T>(at: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *at = new;
            }
        }
        take(&mut self.topology, other.topology);
        take(&mut self.node, other.node);
        take(&mut self.state, other.state);
        take(&mut self.faults, other.faults);
        take(&mut self.host_visible, other.host_visible);
        take(&mut self.timing, other.timing);
        take(&mut self.move_data, other.move_data);
        take(&mut self.visible_devices, other.visible_devices);
    }

    /// Fills what is not set from the environment, and looks it up.
    ///
    /// # Errors
    /// INVALID_FILE when there is no topology, INVALID_PARAM for values that are not understood.
    pub fn resolve(self) -> Done<Config> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let topology = match self.topology {
            Some(serde_json::Value::String(path)) => Topology::read(Path::new(&path))?,
            Some(inline) => Topology::parse(&inline.to_string(), PathBuf::new())?,
            None => Topology::read(&match var("ROPEWAY_SIM_TOPOLOGY") {
                Some(path) => PathBuf::from(path),
                None => beside_the_library()?,
            })?,
        };
        let state = self.state.or_else(|| var("ROPEWAY_SIM_STATE").map(PathBuf::from));
        let rooted = !topology.root.as_os_str().is_empty();
        ensure(state.is_some() || rooted, code::INVALID_PARAM, || {
            "a topology given in place needs a state folder: set ROPEWAY_SIM_STATE".to_owned()
        })?;
        let timing = match self.timing {
            Some(timing) => timing,
            None => match var("ROPEWAY_SIM_TIMING").as_deref() {
                None | Some("off") => Timing::Off,
                Some("model") => Timing::Model,
                Some(other) => {
                    return Err(Fail::new(
                        code::INVALID_PARAM,
                        format!("ROPEWAY_SIM_TIMING={other}; want off or model"),
                    ));
                }
            },
        };
        Ok(Config {
            node: topology.node(self.node.or_else(|| var("ROPEWAY_SIM_NODE")).as_deref())?,
            state: state.unwrap_or_else(|| topology.root.join("state")),
            faults: self.faults.or_else(|| var("ROPEWAY_SIM_FAULTS")).unwrap_or_default(),
            host_visible: self
                .host_visible
                .unwrap_or_else(|| var("ROPEWAY_SIM_HOST_VISIBLE").is_some_and(|value| value != "0")),
            timing,
            moves_data: self
                .move_data
                .unwrap_or_else(|| var("ROPEWAY_SIM_DATA").is_none_or(|value| value != "off")),
            visible_devices: self.visible_devices.or_else(|| std::env::var("ASCEND_RT_VISIBLE_DEVICES").ok()),
            topology,
        })
    }
}

impl Config {
    /// Logical ids of the devices that this process may use, in order of their user ids. As the real list, it ends
    /// before the first entry that is no device of the node.
    #[must_use]
    pub fn visible(&self) -> Vec<u32> {
        let count = self.topology.nodes[self.node].devices.len() as u32;
        let Some(list) = &self.visible_devices else { return (0..count).collect() };
        let mut visible = Vec::new();
        for entry in list.split(',') {
            match entry.trim().parse::<u32>() {
                Ok(id) if id < count && !visible.contains(&id) => visible.push(id),
                _ => break,
            }
        }
        visible
    }
}

/// `topology.json` beside the folder of this library.
fn beside_the_library() -> Done<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let here = beside_the_library as fn() -> Done<PathBuf> as *const libc::c_void;
    // SAFETY: the address is one of this library's functions, and `info` has room for the answer.
    let found = unsafe { libc::dladdr(here, info.as_mut_ptr()) };
    let none = || {
        Fail::new(
            code::INVALID_FILE,
            "no topology: set ROPEWAY_SIM_TOPOLOGY, or lay out with cargo xtask sim-cann",
        )
    };
    if found == 0 {
        return Err(none());
    }
    // SAFETY: zeroed is a valid `Dl_info`, and dladdr has filled it in.
    let info = unsafe { info.assume_init() };
    if info.dli_fname.is_null() {
        return Err(none());
    }
    // SAFETY: dladdr gave a C string that lives as long as the library is loaded.
    let name = unsafe { std::ffi::CStr::from_ptr(info.dli_fname) };
    let library = Path::new(std::ffi::OsStr::new(name.to_str().map_err(|_| none())?)).canonicalize();
    let root = library.ok().and_then(|path| Some(path.parent()?.parent()?.to_path_buf())).ok_or_else(none)?;
    let file = root.join("topology.json");
    if file.is_file() { Ok(file) } else { Err(none()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(visible: Option<&str>) -> Config {
        let settings = Settings::parse(&format!(
            r#"{{"topology":{{"version":1,"nodes":[{{"name":"a","devices":[{{"physical":4}},{{"physical":5}},{{"physical":6}}]}}]}},
                "state":"/nowhere","visible_devices":{}}}"#,
            visible.map_or("null".to_owned(), |list| format!("{list:?}"))
        ))
        .unwrap();
        settings.resolve().unwrap()
    }

    #[test]
    fn the_visible_list_orders_devices_and_ends_at_what_is_none() {
        assert_eq!(config(Some("2,0")).visible(), [2, 0]);
        assert_eq!(config(Some("1,9,0")).visible(), [1]);
        assert_eq!(config(Some("1,1,0")).visible(), [1]);
        assert!(config(Some("")).visible().is_empty());
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert_eq!(Settings::parse(r#"{"colour":1}"#).unwrap_err().code, code::INVALID_PARAM);
    }
}
