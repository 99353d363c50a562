//! Our declaration of `hixl::Hixl`, and the shim's numbers, against the figures of the class.

use ascend_sys::shim;

use crate::figures::{self, Figure, root};
use crate::probe::{self, Language};

fn cxx() -> Vec<Figure> {
    figures::all().into_iter().filter(|figure| figure.module() == "cxx").collect()
}

#[test]
fn our_declaration_of_the_class_has_the_recorded_layouts() {
    let private = |figure: &Figure| figure.kind() == "field" && figure.name() == "hixl::Hixl";
    let figures: Vec<Figure> = cxx()
        .into_iter()
        .filter(|figure| matches!(figure.kind(), "struct" | "field") && !private(figure))
        .collect();
    assert!(figures.len() >= 24, "only {} figures of the class are recorded", figures.len());
    let seen = match probe::run(Language::Cxx, &root().join("shim"), &["hixl.hpp"], &figures) {
        Err(why) if why.starts_with("c++:") => {
            return ropeway_testkit::cannot_run("the C++ probe of the class", &why);
        }
        other => other.unwrap_or_else(|why| panic!("the declaration and the figures disagree:\n{why}")),
    };
    assert_eq!(probe::differences(&figures, &seen), Vec::<String>::new());
}

#[test]
fn the_numbers_of_the_shim_are_those_of_the_class() {
    let ours = [
        ("MemType", "MEM_DEVICE", shim::ROPEWAY_HIXL_DEVICE),
        ("MemType", "MEM_HOST", shim::ROPEWAY_HIXL_HOST),
        ("TransferOp", "READ", shim::ROPEWAY_HIXL_READ),
        ("TransferOp", "WRITE", shim::ROPEWAY_HIXL_WRITE),
        ("TransferStatus", "WAITING", shim::ROPEWAY_HIXL_WAITING),
        ("TransferStatus", "COMPLETED", shim::ROPEWAY_HIXL_COMPLETED),
        ("TransferStatus", "TIMEOUT", shim::ROPEWAY_HIXL_TIMED_OUT),
        ("TransferStatus", "FAILED", shim::ROPEWAY_HIXL_BROKEN),
        ("AsyncConnectStatus", "NOT_CONNECT", shim::ROPEWAY_HIXL_NOT_CONNECT),
        ("AsyncConnectStatus", "CONNECT_PENDING", shim::ROPEWAY_HIXL_CONNECT_PENDING),
        ("AsyncConnectStatus", "CONNECTING", shim::ROPEWAY_HIXL_CONNECTING),
        ("AsyncConnectStatus", "CONNECTED", shim::ROPEWAY_HIXL_CONNECTED),
        ("AsyncConnectStatus", "CONNECT_FAILED", shim::ROPEWAY_HIXL_CONNECT_FAILED),
        ("AsyncConnectStatus", "DISCONNECT_PENDING", shim::ROPEWAY_HIXL_DISCONNECT_PENDING),
        ("AsyncConnectStatus", "DISCONNECTING", shim::ROPEWAY_HIXL_DISCONNECTING),
        ("FeatureType", "AUTO_CONNECT", shim::ROPEWAY_HIXL_AUTO_CONNECT),
        ("FeatureType", "CLIENT_SERVER_COMM", shim::ROPEWAY_HIXL_CLIENT_SERVER_COMM),
    ];
    let figures = cxx();
    let recorded = figures.iter().filter(|figure| figure.kind() == "enum").count();
    assert_eq!(recorded, ours.len(), "every enumerator of the class has a number in the shim's interface");
    for (of, name, value) in ours {
        let wanted = ["cxx", "enum", &format!("hixl::{of}"), name, &value.to_string()].map(str::to_owned);
        assert!(figures.contains(&Figure(wanted.to_vec())), "hixl::{of}::{name} is not {value}");
    }
}
