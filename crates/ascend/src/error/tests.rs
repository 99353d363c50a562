use ascend_sys::names;

use super::*;

/// Every code that has a name, with it.
fn named(library: Library) -> Vec<(i32, &'static str)> {
    let name = |number: i32| match library {
        Library::Acl => names::acl_error(number),
        Library::Hccl => names::hccl_result(number.cast_unsigned()),
        Library::Hixl => names::hixl_status(number.cast_unsigned()),
    };
    (1..600_000).filter_map(|number| Some((number, name(number)?))).collect()
}

#[test]
fn every_named_code_says_its_name_its_number_and_what_to_do() {
    for (library, at_least) in [(Library::Acl, 100), (Library::Hccl, 25), (Library::Hixl, 8)] {
        let named = named(library);
        assert!(named.len() >= at_least, "{library:?}: only {} codes have names", named.len());
        for (number, name) in named {
            let code = Code::of(library, number);
            let error = code.error("post", "link 3", Some("EZ9999: inner"));
            let line = error.to_string();
            for part in ["post", "link 3", "EZ9999: inner", name, &number.to_string(), code.class.advice()] {
                assert!(line.contains(part), "{line:?} does not say {part:?}");
            }
            assert_eq!((error.native(), error.kind()), (Some(number), code.class.kind()));
        }
    }
}

#[test]
fn each_code_in_a_table_has_one_class_and_a_name() {
    for (library, table) in
        [(Library::Acl, codes::ACL), (Library::Hccl, codes::HCCL), (Library::Hixl, codes::HIXL)]
    {
        let mut all: Vec<i32> = table.iter().flat_map(|(_, codes)| *codes).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a code of {library:?} stands in two classes");
        let nameless = all.iter().find(|number| Code::of(library, **number).name.is_none());
        assert_eq!(nameless, None, "{library:?}");
    }
}

#[test]
fn the_codes_worth_handling_mean_what_the_engine_does_about_them() {
    let expected = [
        (Library::Acl, 107_002, ErrorKind::Internal, Retry::Never),
        (Library::Acl, 200_000, ErrorKind::Resource, Retry::Later),
        (Library::Acl, 207_001, ErrorKind::Resource, Retry::Later),
        (Library::Acl, 207_006, ErrorKind::Denied, Retry::Never),
        (Library::Acl, 207_008, ErrorKind::Full, Retry::Later),
        (Library::Acl, 507_010, ErrorKind::Resource, Retry::Never),
        (Library::Acl, 507_046, ErrorKind::TimedOut, Retry::Later),
        (Library::Acl, 507_054, ErrorKind::Resource, Retry::Never),
        (Library::Acl, 507_056, ErrorKind::LinkLost, Retry::AfterReconnect),
        (Library::Hccl, 20, ErrorKind::Full, Retry::Later),
        (Library::Hccl, 21, ErrorKind::LinkLost, Retry::AfterReconnect),
        (Library::Hixl, 103_900, ErrorKind::ApiMisuse, Retry::Never),
        (Library::Hixl, 103_901, ErrorKind::LinkLost, Retry::AfterReconnect),
        (Library::Hixl, 103_902, ErrorKind::LinkLost, Retry::AfterReconnect),
        (Library::Hixl, 203_900, ErrorKind::Full, Retry::Later),
        (Library::Hixl, 503_900, ErrorKind::LinkLost, Retry::AfterReconnect),
    ];
    for (library, number, kind, retry) in expected {
        let error = Code::of(library, number).error("test", "it", None);
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{library:?} {number}");
    }
    assert_eq!(Code::of(Library::Hixl, 103_903).class, Class::Repeated);
    assert!(Code::of(Library::Acl, 507_054).class.is_device_lost());
}

#[test]
fn a_code_of_a_newer_release_keeps_its_number() {
    let code = Code::of(Library::Acl, 207_999);
    assert_eq!((code.name, code.class), (None, Class::Exhausted));
    let error = code.error("alloc", "1 byte", None);
    assert!(error.to_string().contains("207999"), "{error}");
    assert_eq!(Code::of(Library::Acl, 507_998).class, Class::Internal);
    assert_eq!(Code::of(Library::Acl, 107_998).class, Class::Misuse);
    assert_eq!(Code::of(Library::Acl, -1).class, Class::Internal);
}
