//! A device's memory: no host pointer is ever made from it, and bytes go through the device.

use std::any::Any;
use std::sync::{Arc, Mutex};

use ropeway_core::{ErrorKind, Result};

use super::janitor;
use crate::Memory;
use crate::memory::{DeviceMemory, Place};

struct Fake(Mutex<Vec<u8>>);

impl DeviceMemory for Fake {
    fn device(&self) -> u32 {
        3
    }

    fn address(&self) -> u64 {
        0x1000
    }

    fn bytes(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.0.lock().unwrap()[at as usize..][..into.len()]);
        Ok(())
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.0.lock().unwrap()[at as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn fill(&self, at: u64, len: u64, byte: u8) -> Result<()> {
        self.0.lock().unwrap()[at as usize..][..len as usize].fill(byte);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn a_devices_memory_gives_no_host_pointer() {
    let memory = Memory::of_device(Arc::new(Fake(Mutex::new(vec![0; 64]))), &janitor()).unwrap();
    assert_eq!(memory.place(), Place::Device(3));
    assert_eq!((memory.base(), memory.range(0, 1), memory.range(0, 0)), (None, None, None));
    assert!(memory.memfd().is_none());
}

#[test]
fn bytes_go_in_and_out_through_the_device() {
    let memory = Memory::of_device(Arc::new(Fake(Mutex::new(vec![0; 64]))), &janitor()).unwrap();
    memory.fill(0, 64, 9).unwrap();
    memory.write(10, &[1, 2, 3]).unwrap();
    let mut back = [0; 5];
    memory.read(9, &mut back).unwrap();
    assert_eq!(back, [9, 1, 2, 3, 9]);
    for (at, len) in [(60, 5), (u64::MAX, 2)] {
        let error = memory.read(at, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfBounds);
    }
}

#[test]
fn an_empty_device_range_is_refused() {
    let error = Memory::of_device(Arc::new(Fake(Mutex::default())), &janitor()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
}
