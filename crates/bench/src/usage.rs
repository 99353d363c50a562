//! CPU time and cores.

use std::io;

/// CPU seconds that a process has used, all threads, user and system. `None`: this process. Reading another process's
/// clock costs it nothing and wakes nobody.
pub(crate) fn cpu_seconds(pid: Option<i32>) -> io::Result<f64> {
    let mut clock = libc::CLOCK_PROCESS_CPUTIME_ID;
    if let Some(pid) = pid {
        // SAFETY: the call writes one clock id.
        let error = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// Cores that this process may use.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_its_own_clock_by_either_name() {
        let by_id = cpu_seconds(Some(std::process::id() as i32)).unwrap();
        let own = cpu_seconds(None).unwrap();
        assert!(own >= by_id && by_id > 0.0);
    }
}
