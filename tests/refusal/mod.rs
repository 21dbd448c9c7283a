//! Refuses `membarrier(2)` to the whole process, as a container's seccomp profile may do.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter_all_threads};

#[cfg(target_arch = "x86_64")]
const MEMBARRIER: i64 = 324;
#[cfg(target_arch = "aarch64")]
const MEMBARRIER: i64 = 283;
const EPERM: u32 = 1;

pub(crate) fn refuse_membarrier() {
    let refused = [(MEMBARRIER, vec![])].into();
    let machine = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(refused, SeccompAction::Allow, SeccompAction::Errno(EPERM), machine)
            .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter_all_threads(&program).unwrap();
}
