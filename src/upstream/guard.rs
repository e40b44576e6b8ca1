//! The private-address guard: refuses answers that would send private traffic elsewhere.
//!
//! When the private DNS of an endpoint is off, its privatelink name may still resolve, to public
//! addresses. IPv4 decides: AWS gives endpoints global IPv6 addresses, so IPv6 proves nothing.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::config::is_public;

/// The addresses of an answer that may be dialled, or the public one that was found instead.
///
/// Public IPv4 addresses are left out of a mixed answer; an answer of public IPv4 addresses alone
/// (IPv6 beside them or not) is refused.
pub fn private_only(
    addresses: Vec<IpAddr>,
    also_private: &[IpNet],
) -> Result<Vec<IpAddr>, Ipv4Addr> {
    // Linux dials ::ffff:a.b.c.d over IPv4.
    let addresses = addresses.iter().map(IpAddr::to_canonical);
    let (public, allowed): (Vec<_>, Vec<_>) =
        addresses.partition(|address| is_public(*address, also_private));
    match public.first() {
        Some(IpAddr::V4(public)) if !allowed.iter().any(IpAddr::is_ipv4) => Err(*public),
        _ => Ok(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(addresses: &[&str], also: &[&str]) -> Result<Vec<String>, String> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let also: Vec<IpNet> = also.iter().map(|net| net.parse().unwrap()).collect();
        private_only(addresses, &also)
            .map(|allowed| allowed.iter().map(ToString::to_string).collect())
            .map_err(|public| public.to_string())
    }

    #[test]
    fn private_carrier_grade_link_local_and_loopback_addresses_pass() {
        let private =
            ["10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "127.0.0.2"];
        assert_eq!(guard(&private, &[]).unwrap(), private);
    }

    #[test]
    fn public_ipv4_alone_is_refused_also_beside_ipv6() {
        assert_eq!(guard(&["3.112.0.1"], &[]), Err("3.112.0.1".into()));
        assert_eq!(guard(&["100.128.0.1"], &[]), Err("100.128.0.1".into()));
        assert_eq!(guard(&["::ffff:3.112.0.1"], &[]), Err("3.112.0.1".into()));
        assert_eq!(guard(&["2600::1", "3.112.0.1"], &[]), Err("3.112.0.1".into()));
    }

    #[test]
    fn of_a_mixed_answer_the_private_ones_and_ipv6_are_left() {
        assert_eq!(
            guard(&["3.112.0.1", "10.0.0.1", "2600::1"], &[]).unwrap(),
            ["10.0.0.1", "2600::1"]
        );
    }

    #[test]
    fn ipv6_alone_proves_nothing_and_passes() {
        assert_eq!(guard(&["2600::1"], &[]).unwrap(), ["2600::1"]);
    }

    #[test]
    fn networks_can_be_declared_private() {
        assert_eq!(guard(&["3.112.0.1"], &["3.112.0.0/16"]).unwrap(), ["3.112.0.1"]);
    }
}
