//! Which node, and which HCCS island, an NPU belongs to.

use ropeway_core::{Error, ErrorKind, Result};

use super::Machine;

/// Names longer than this are refused: they travel in every offer.
const NAME_BYTES_MAX: usize = 128;

/// Names of a Kubernetes node as the downward API is commonly spelled; looked at inside a pod only.
const NODE_VARIABLES: [&str; 5] =
    ["NODE_NAME", "K8S_NODE_NAME", "KUBERNETES_NODE_NAME", "KUBE_NODE_NAME", "MY_NODE_NAME"];

/// Which node this is.
///
/// `node` tells machines apart: equal names and equal physical ids are one NPU. `island` tells what HCCS joins: the
/// super-pod on A3, which spans nodes; the node elsewhere. It becomes HIXL's `net_instance_id`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    /// The HCCS island's name.
    pub island: String,
    /// Where the node's name is from.
    pub source: Source,
    /// What may be wrong with it, for a log.
    pub warning: Option<String>,
}

/// Where a node's name is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Source {
    /// The engine's configuration.
    Given,
    /// This environment variable.
    Variable(&'static str),
    /// The kernel's boot id: all containers of one kernel see the same.
    BootId,
    /// `/etc/machine-id`, which a container may have from its image.
    MachineId,
}

impl Identity {
    /// The identity of this process's node: `given`, else `ROPEWAY_NODE`, else inside a pod the node's name by the
    /// downward API, else the kernel's boot id, else the machine id. `super_pod` is the super-pod's id where the chip
    /// has one.
    ///
    /// # Errors
    /// `ApiMisuse` for a name that is empty, too long or not plain; `Unsupported` when nothing names the node.
    pub fn find(given: Option<&str>, super_pod: Option<u64>, machine: &Machine) -> Result<Self> {
        let (node, source, warning) = Self::node(given, machine)?;
        check(&node, source)?;
        let island = super_pod.map_or_else(|| node.clone(), |id| id.to_string());
        Ok(Self { node, island, source, warning })
    }

    fn node(given: Option<&str>, machine: &Machine) -> Result<(String, Source, Option<String>)> {
        if let Some(given) = given {
            return Ok((given.to_owned(), Source::Given, None));
        }
        if let Some(name) = machine.variable("ROPEWAY_NODE") {
            return Ok((name, Source::Variable("ROPEWAY_NODE"), None));
        }
        if machine.variable("KUBERNETES_SERVICE_HOST").is_some() {
            for variable in NODE_VARIABLES {
                if let Some(name) = machine.variable(variable) {
                    return Ok((name, Source::Variable(variable), None));
                }
            }
        }
        let line = |path: &str| {
            let text = machine.read(path).ok()?;
            let line = text.lines().next().unwrap_or_default().trim();
            (!line.is_empty()).then(|| line.to_owned())
        };
        if let Some(id) = line("/proc/sys/kernel/random/boot_id") {
            let warning = machine.in_container().then(|| {
                "the node is named by its kernel's boot id; containers with a kernel of their own (Kata, gVisor) see \
                 another one: set ROPEWAY_NODE to the node's name there"
                    .to_owned()
            });
            return Ok((id, Source::BootId, warning));
        }
        if let Some(id) = line("/etc/machine-id") {
            let warning = machine.in_container().then(|| {
                "the node is named by /etc/machine-id, which in a container may come from the image and be the same on \
                 every node: set ROPEWAY_NODE to the node's name"
                    .to_owned()
            });
            return Ok((id, Source::MachineId, warning));
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "name the node",
            "neither a boot id nor a machine id is to be read here; set ROPEWAY_NODE to the node's name, the same in all \
             pods of one node",
        ))
    }
}

fn check(name: &str, source: Source) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    let from = match source {
        Source::Given => "the configuration".to_owned(),
        Source::Variable(name) => format!("the variable {name}"),
        Source::BootId => "the boot id".to_owned(),
        Source::MachineId => "the machine id".to_owned(),
    };
    Err(Error::new(
        ErrorKind::ApiMisuse,
        "name the node",
        format!(
            "{name:?} from {from} is no name of a node; give 1 to {NAME_BYTES_MAX} printable ASCII characters without \
             spaces, quotes and backslashes"
        ),
    ))
}
