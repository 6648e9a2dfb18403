//! What a file says about the scaling of a service.

use crate::app::{Origin, Scale, Service};
use crate::units::{MilliCpu, Share};

/// Requests at once that one instance should carry, where a file gives bounds and no target.
pub const IN_FLIGHT: u32 = 20;

/// What a share of is meant where an instance has no limit: one core, all that one thread can use.
const ONE_CORE: MilliCpu = MilliCpu(1000);

/// The bounds and the targets of one service. At least one of the targets is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub min: u16,
    /// More than `min`, and not 0.
    pub max: u16,
    pub in_flight: Option<u32>,
    /// Of `cores`.
    pub cpu: Option<Share>,
    /// What one instance may use; one core where nothing is said.
    pub cores: MilliCpu,
}

impl Policy {
    /// `None`: the file says one number, or there is no process.
    pub fn of(service: &Service) -> Option<Self> {
        let has_process = match service.origin {
            Origin::Static { .. } => false,
            Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. } => true,
        };
        let Scale { min, max, cpu, in_flight } = service.scale;
        if !has_process || !service.scale.is_automatic() {
            return None;
        }
        let in_flight = if cpu.is_none() { in_flight.or(Some(IN_FLIGHT)) } else { in_flight };
        let cores = service.limits.cpu.filter(|cores| cores.0 > 0).unwrap_or(ONE_CORE);
        Some(Self { min, max, in_flight: in_flight.map(|target| target.max(1)), cpu, cores })
    }

    /// It may have no instance at all while nobody asks for it.
    pub fn rests(&self) -> bool {
        self.min == 0
    }
}
