//! Which multicast an interface listens to: what the kernel filters by, whoever asked for it.

use std::fs;

/// Of `IFF_PROMISC` and `IFF_ALLMULTI` (linux/if.h): a bridge, a router or a sniffer takes all.
const TAKES_ALL: u32 = 0x100 | 0x200;

/// Whether the interface `name`, which has one of the addresses `macs`, surely doesn't listen to `group`; false
/// where that can't be known, because it isn't in this process's network namespace, or takes all.
pub fn is_deaf_to(name: &str, macs: &[[u8; 6]], group: [u8; 6]) -> bool {
    let read = |what: &str| fs::read_to_string(format!("/sys/class/net/{name}/{what}")).ok();
    let (Some(flags), Some(address)) = (read("flags"), read("address")) else {
        return false;
    };
    // /sys may be another namespace's: only an interface with the right address is the right one.
    let is_it = macs.iter().any(|mac| text(*mac, ":") == address.trim());
    if !is_it || takes_all(&flags) {
        return false;
    }
    let Ok(lists) = fs::read_to_string("/proc/self/net/dev_mcast") else {
        return false;
    };
    is_absent(&lists, name, &text(group, ""))
}

fn text(mac: [u8; 6], between: &str) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(between)
}

fn takes_all(flags: &str) -> bool {
    let number = flags.trim().trim_start_matches("0x");
    u32::from_str_radix(number, 16).map_or(true, |flags| flags & TAKES_ALL != 0)
}

/// Whether the list of the interface is there and `group` isn't in it. Lines are index, name,
/// users, global users and address.
fn is_absent(lists: &str, name: &str, group: &str) -> bool {
    let lines = lists.lines().map(|line| line.split_whitespace());
    let mut own = lines.filter_map(|mut words| (words.nth(1)? == name).then(|| words.nth(2))?);
    let mut is_there = false;
    let listens = own.any(|listed| {
        is_there = true;
        listed == group
    });
    is_there && !listens
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: &str = "\
2    ifb0            1     0     333300000001
7    cairn7          1     0     333300000001
7    cairn7          2     0     01005e010203
8    cairn70         1     0     01005e010204
";

    #[test]
    fn only_a_group_that_is_not_in_the_interfaces_own_list_is_absent() {
        assert!(is_absent(LISTS, "cairn7", "01005e010204"));
        assert!(!is_absent(LISTS, "cairn7", "01005e010203"));
        assert!(!is_absent(LISTS, "cairn7", "333300000001"));
        assert!(
            !is_absent(LISTS, "cairn9", "01005e010204"),
            "no list at all"
        );
        assert!(!is_absent("", "cairn7", "01005e010204"));
    }

    #[test]
    fn promiscuous_interfaces_and_those_of_multicast_routers_take_all() {
        assert!(!takes_all("0x1003\n"));
        assert!(takes_all("0x1103\n") && takes_all("0x1203\n") && takes_all("what"));
    }

    #[test]
    fn an_interface_that_is_not_here_may_listen_to_anything() {
        let group = [1, 0, 0x5e, 1, 2, 3];
        assert!(!is_deaf_to("nosuchdevice", &[[2; 6]], group));
        assert!(!is_deaf_to("lo", &[[2; 6]], group), "another address");
    }
}
