//! Which addresses are public: a server of the network can only be at one of these.
//!
//! The table is that of IANA's registries of special-purpose addresses (RFC 6890, RFC 8190): each block that is not globally
//! reachable, with the document that says so, and multicast. Exceptions within a block that are globally reachable (anycast
//! addresses of protocols like TURN and AMT within 192.0.0.0/24 and 2001::/23) are no servers of repos and are refused with it.
//! Of IPv6 only 2000::/3 is in use on the Internet (RFC 4291, section 2.4), so everything else is refused, whether it has a row
//! of its own or not. Two kinds of IPv6 addresses stand for IPv4 ones and are judged as these: mapped ones, and those of NAT64,
//! which is how a network without IPv4 reaches the whole of it. The older ways to carry IPv4 are not in use any more, and
//! are refused as a whole.
//!
//! One row is in no registry: 168.63.129.16 is where a machine of Azure finds its platform, at an address that looks
//! public. The other clouds' metadata addresses are link-local, shared or unique-local ones (169.254.169.254, 100.100.100.200,
//! 192.0.0.192, fd00:ec2::254).
//!
//! A crate that does this was not found: the standard library's `is_global` is unstable, and others know some of the blocks.
//! Pinned by the tests here, one row for each class, and by the oracle that whatever rsky-identity's policy refuses is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that begin with the same bits.
#[derive(Debug)]
struct Block<A> {
    first: A,
    bits: u32,
    kind: &'static str,
}

/// A row of the table: the block, and what its addresses are; the comment beside it names the document.
const fn v4(first: [u8; 4], bits: u32, kind: &'static str) -> Block<Ipv4Addr> {
    let [a, b, c, d] = first;
    Block {
        first: Ipv4Addr::new(a, b, c, d),
        bits,
        kind,
    }
}

/// The same for IPv6; the segments that are not given are zero.
const fn v6(first: [u16; 3], bits: u32, kind: &'static str) -> Block<Ipv6Addr> {
    let [a, b, c] = first;
    Block {
        first: Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0),
        bits,
        kind,
    }
}

#[rustfmt::skip]
const BLOCKS_V4: [Block<Ipv4Addr>; 17] = [
    v4([0, 0, 0, 0], 8, "this-network"),            // RFC 791, section 3.2; connects to this machine
    v4([10, 0, 0, 0], 8, "private"),                // RFC 1918
    v4([100, 64, 0, 0], 10, "shared"),              // RFC 6598
    v4([127, 0, 0, 0], 8, "loopback"),              // RFC 1122, section 3.2.1.3
    v4([168, 63, 129, 16], 32, "metadata"),         // Azure's platform
    v4([169, 254, 0, 0], 16, "link-local"),         // RFC 3927
    v4([172, 16, 0, 0], 12, "private"),             // RFC 1918
    v4([192, 0, 0, 0], 24, "protocol"),             // RFC 6890, section 2.1
    v4([192, 0, 2, 0], 24, "documentation"),        // RFC 5737
    v4([192, 88, 99, 0], 24, "6to4"),               // RFC 7526
    v4([192, 168, 0, 0], 16, "private"),            // RFC 1918
    v4([198, 18, 0, 0], 15, "benchmarking"),        // RFC 2544
    v4([198, 51, 100, 0], 24, "documentation"),     // RFC 5737
    v4([203, 0, 113, 0], 24, "documentation"),      // RFC 5737
    v4([224, 0, 0, 0], 4, "multicast"),             // RFC 5771
    v4([255, 255, 255, 255], 32, "broadcast"),      // RFC 919; before the next row, which holds it
    v4([240, 0, 0, 0], 4, "reserved"),              // RFC 1112, section 4
];

/// IPv6 outside of 2000::/3 with a name of its own, and what within it is not public.
#[rustfmt::skip]
const BLOCKS_V6: [Block<Ipv6Addr>; 13] = [
    v6([0, 0, 0], 96, "IPv4-compatible"),           // RFC 4291, section 2.5.5.1; :: and ::1 are told apart below
    v6([0x64, 0xff9b, 1], 48, "local NAT64"),       // RFC 8215
    v6([0x100, 0, 0], 64, "discard-only"),          // RFC 6666
    v6([0x2001, 0, 0], 32, "Teredo"),               // RFC 4380
    v6([0x2001, 0, 0], 23, "protocol"),             // RFC 2928: ORCHID (RFC 4843, RFC 7343), benchmarking (RFC 5180) and others
    v6([0x2001, 0xdb8, 0], 32, "documentation"),    // RFC 3849
    v6([0x2002, 0, 0], 16, "6to4"),                 // RFC 3056, RFC 7526
    v6([0x3fff, 0, 0], 20, "documentation"),        // RFC 9637
    v6([0x5f00, 0, 0], 16, "segment-routing"),      // RFC 9602
    v6([0xfc00, 0, 0], 7, "unique-local"),          // RFC 4193
    v6([0xfe80, 0, 0], 10, "link-local"),           // RFC 4291, section 2.5.6
    v6([0xfec0, 0, 0], 10, "site-local"),           // RFC 3879
    v6([0xff00, 0, 0], 8, "multicast"),             // RFC 4291, section 2.7
];

/// What an address is that is not public; `None`: it is.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

/// Whether the address is one of the operator's own: this machine, its link, or a private network.
///
/// That is less than what is not public: behind a shared, a reserved or a translated address may be anybody.
pub fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_unspecified() || v4.is_private() || v4.is_link_local()
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_own(v4.into()),
            None => {
                v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_unique_local()
                    || v6.is_unicast_link_local()
            }
        },
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let holds = |block: &&Block<Ipv4Addr>| {
        let differs = u32::from(address) ^ u32::from(block.first);
        differs.leading_zeros() >= block.bits
    };
    BLOCKS_V4.iter().find(holds).map(|block| block.kind)
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() {
        return Some("loopback");
    }
    if address.is_unspecified() {
        return Some("unspecified");
    }
    if let Some(v4) = address.to_ipv4_mapped().or_else(|| of_nat64(address)) {
        return not_public_v4(v4);
    }
    let bits = u128::from(address);
    let holds = |block: &&Block<Ipv6Addr>| {
        let differs = bits ^ u128::from(block.first);
        differs.leading_zeros() >= block.bits
    };
    let is_unicast = bits >> 125 == 0b001;
    BLOCKS_V6
        .iter()
        .find(holds)
        .map(|block| block.kind)
        .or((!is_unicast).then_some("reserved"))
}

/// The IPv4 address within one of NAT64's well-known prefix, 64:ff9b::/96 (RFC 6052).
fn of_nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some((u32::from(high) << 16 | u32::from(low)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rsky_identity::safe_fetch::NetworkPolicy;

    use super::super::host::ChosenBy;
    use super::super::policy::AddressPolicy;
    use super::*;
    use url::Url;

    /// A class: the document, its first and its last address, and those of its neighbours that are public.
    type Class = (
        &'static str,
        &'static str,
        &'static str,
        &'static [&'static str],
    );

    #[rustfmt::skip]
    const CLASSES: &[Class] = &[
        ("RFC 791 this network", "0.0.0.0", "0.255.255.255", &["1.0.0.0"]),
        ("RFC 1918 10/8", "10.0.0.0", "10.255.255.255", &["9.255.255.255", "11.0.0.0"]),
        ("RFC 6598 shared", "100.64.0.0", "100.127.255.255", &["100.63.255.255", "100.128.0.0"]),
        ("RFC 1122 loopback", "127.0.0.0", "127.255.255.255", &["126.255.255.255", "128.0.0.0"]),
        ("Azure's platform", "168.63.129.16", "168.63.129.16", &["168.63.129.15", "168.63.129.17"]),
        ("RFC 3927 link-local", "169.254.0.0", "169.254.255.255", &["169.253.255.255", "169.255.0.0"]),
        ("metadata at a link-local address", "169.254.169.254", "169.254.169.254", &[]),
        ("metadata at a shared address", "100.100.100.200", "100.100.100.200", &[]),
        ("metadata at a protocol address", "192.0.0.192", "192.0.0.192", &[]),
        ("RFC 1918 172.16/12", "172.16.0.0", "172.31.255.255", &["172.15.255.255", "172.32.0.0"]),
        ("RFC 6890 protocol assignments", "192.0.0.0", "192.0.0.255", &["191.255.255.255", "192.0.1.0"]),
        ("RFC 5737 TEST-NET-1", "192.0.2.0", "192.0.2.255", &["192.0.1.255", "192.0.3.0"]),
        ("RFC 7526 6to4 anycast", "192.88.99.0", "192.88.99.255", &["192.88.98.255", "192.88.100.0"]),
        ("RFC 1918 192.168/16", "192.168.0.0", "192.168.255.255", &["192.167.255.255", "192.169.0.0"]),
        ("RFC 2544 benchmarking", "198.18.0.0", "198.19.255.255", &["198.17.255.255", "198.20.0.0"]),
        ("RFC 5737 TEST-NET-2", "198.51.100.0", "198.51.100.255", &["198.51.99.255", "198.51.101.0"]),
        ("RFC 5737 TEST-NET-3", "203.0.113.0", "203.0.113.255", &["203.0.112.255", "203.0.114.0"]),
        ("RFC 5771 multicast", "224.0.0.0", "239.255.255.255", &["223.255.255.255"]),
        ("RFC 1112 reserved", "240.0.0.0", "255.255.255.254", &[]),
        ("RFC 919 broadcast", "255.255.255.255", "255.255.255.255", &[]),
        ("RFC 4291 unspecified", "::", "::", &[]),
        ("RFC 4291 loopback", "::1", "::1", &[]),
        ("RFC 4291 IPv4-compatible", "::2", "::ffff:ffff", &[]),
        ("RFC 4291 IPv4-compatible, public", "::8.8.8.8", "::8.8.8.8", &[]),
        ("RFC 4291 IPv4-mapped, private", "::ffff:10.0.0.0", "::ffff:10.255.255.255", &["::ffff:9.255.255.255", "::ffff:11.0.0.0"]),
        ("RFC 4291 IPv4-mapped, loopback", "::ffff:127.0.0.1", "::ffff:7fff:ffff", &["::ffff:128.0.0.0"]),
        ("RFC 2765 IPv4-translated", "::ffff:0:0:0", "::ffff:0:ffff:ffff", &[]),
        ("RFC 6052 NAT64, private", "64:ff9b::10.0.0.0", "64:ff9b::10.255.255.255", &["64:ff9b::9.255.255.255", "64:ff9b::11.0.0.0"]),
        ("RFC 6052 NAT64, loopback", "64:ff9b::127.0.0.1", "64:ff9b::7fff:ffff", &["64:ff9b::8.8.8.8"]),
        ("RFC 6052 beside NAT64", "64:ff9b::1:0:0", "64:ff9b:0:ffff:ffff:ffff:ffff:ffff", &["64:ff9b::8.8.4.4"]),
        ("RFC 8215 local NAT64", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", &[]),
        ("RFC 6666 discard-only", "100::", "100::ffff:ffff:ffff:ffff", &[]),
        ("RFC 9780 dummy", "100:0:0:1::", "100:0:0:1:ffff:ffff:ffff:ffff", &[]),
        ("RFC 4291 before 2000::/3", "200::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &["2000::"]),
        ("RFC 4380 Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", &["2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("RFC 2928 protocol assignments", "2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", &["2001:200::"]),
        ("RFC 5180 benchmarking", "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", &[]),
        ("RFC 4843 ORCHID", "2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
        ("RFC 7343 ORCHIDv2", "2001:20::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
        ("RFC 3849 documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", &["2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"]),
        ("RFC 3056 6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &["2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"]),
        ("RFC 3056 6to4, private", "2002:a00:1::1", "2002:7f00:1::1", &[]),
        ("RFC 9637 documentation", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", &["3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"]),
        ("RFC 4291 after 2000::/3", "4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &["3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("RFC 9602 segment routing", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
        ("RFC 4193 unique-local", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
        ("metadata at a unique-local address", "fd00:ec2::254", "fd00:ec2::254", &[]),
        ("RFC 4291 link-local", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
        ("RFC 3879 site-local", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
        ("RFC 4291 multicast", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
    ];

    /// Addresses of servers as there are.
    #[rustfmt::skip]
    const PUBLIC: &[&str] = &[
        "1.1.1.1", "8.8.8.8", "52.1.2.3", "192.31.196.1", "192.52.193.1", "192.175.48.1", "223.255.255.255",
        "2606:4700::1111", "2a00:1450::1", "2001:4860::8888", "2620:4f:8000::1", "2400::1",
    ];

    fn parse(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    /// As a literal in a URL, and as the answer for a name.
    fn is_refused(address: &str) -> (bool, bool) {
        let policy = AddressPolicy::new(false);
        let literal = match parse(address) {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let url = Url::parse(&format!("https://{literal}/")).unwrap();
        (
            policy.check_url(&url, ChosenBy::Stranger).is_err(),
            policy.permitted("pds.example", &[parse(address)]).is_err(),
        )
    }

    #[test]
    fn what_is_not_globally_reachable_is_refused_and_its_neighbours_are_not() {
        for (class, first, last, neighbours) in CLASSES {
            for address in [first, last] {
                assert_eq!(is_refused(address), (true, true), "{class}: {address}");
            }
            for address in *neighbours {
                assert_eq!(is_refused(address), (false, false), "{class}: {address}");
            }
        }
        for address in PUBLIC {
            assert_eq!(is_refused(address), (false, false), "{address}");
        }
    }

    #[test]
    fn where_private_hosts_are_allowed_so_are_all_addresses() {
        let all = AddressPolicy::new(true);
        for (class, first, _, _) in CLASSES {
            let address = parse(first);
            let permitted = all.permitted("pds.example", &[address]);
            assert_eq!(permitted, Ok(vec![address]), "{class}");
        }
    }

    #[test]
    fn what_another_policy_refuses_is_refused() {
        let edges = CLASSES
            .iter()
            .flat_map(|(_, first, last, _)| [*first, *last]);
        let edges = edges.map(parse);
        // And addresses from all over, by a generator with a fixed seed (Knuth's).
        let mut state = 1u128;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 32
        };
        let random: Vec<IpAddr> = (0..200_000)
            .map(|place| match place % 2 {
                0 => IpAddr::V4((next() as u32).into()),
                // Half of them at the low end, where most rows are.
                _ => IpAddr::V6((next() << (next() % 96)).into()),
            })
            .collect();
        for address in edges.chain(random) {
            if NetworkPolicy::PUBLIC.refusal(address).is_some() {
                assert!(not_public(address).is_some(), "{address}");
            }
        }
    }

    #[test]
    fn the_operators_own_addresses_are_this_machine_and_private_networks() {
        for own in [
            "127.0.0.1",
            "127.3.2.1",
            "0.0.0.0",
            "10.1.1.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_own(parse(own)), "{own}");
            assert!(not_public(parse(own)).is_some(), "{own}");
        }
        for other in [
            "8.8.8.8",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "168.63.129.16",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::1",
            "2001:db8::1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
        ] {
            assert!(!is_own(parse(other)), "{other}");
        }
    }
}
