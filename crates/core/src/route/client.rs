//! Who counts as one client, where what clients take is counted.

use std::net::IpAddr;

/// Who counts as one client: whoever has an IPv6 address has a network of 2⁶⁴ of them.
pub fn network(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // No IPv6 network in use begins with 32 zero bits, so the two do not meet.
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).expect("half of 128 bits"),
    }
}
