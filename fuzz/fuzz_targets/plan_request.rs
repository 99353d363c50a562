#![no_main]

use libfuzzer_sys::fuzz_target;
use ropeway_testkit::fuzz::Target;

fuzz_target!(|data: &[u8]| Target::PlanRequest.run(data));
