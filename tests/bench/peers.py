"""How each other system is set up on a pair: its defaults, its encryption on.

L2 devices without an MTU that fits the underlay get the one Cairn has; nebula's default of
1,300 is raised to it.
"""

from __future__ import annotations

import json
import re

from tests.bench.pair import INNER_MTU, End, Pair

_N2N_PORT, _SUPERNODE_PORT, _PASSWORD = 5000, 7654, "bench-password-of-one-run"


def other_of(pair: Pair, end: End) -> End:
    """Return the other end."""
    return pair.b if end is pair.a else pair.a


def veth(pair: Pair) -> None:
    """Nothing between the traffic and the veth."""


def vxlan(pair: Pair) -> None:
    """The kernel's VXLAN, id 5 port 8002, in plaintext."""
    for end in pair.ends:
        end.machine.ip(
            f"link add vxlan5 type vxlan id 5 dstport 8002 dev eth0 local {end.underlay} "
            f"remote {other_of(pair, end).underlay}"
        )
        end.address("vxlan5")


def n2n(pair: Pair) -> None:
    """Two edges (Twofish) and a supernode beside the first, which only introduces them."""
    pair.a.machine.start(["supernode", "-l", str(_SUPERNODE_PORT)])
    for end in pair.ends:
        command = ["edge", "-d", "n2n0", "-a", f"10.99.0.{end.number}", "-c", "bench"]
        command += ["-l", f"{pair.a.underlay}:{_SUPERNODE_PORT}", "-p", str(_N2N_PORT)]
        command += ["-M", str(INNER_MTU)]
        end.own(end.machine.start(command, env={"N2N_KEY": _PASSWORD}))
        end.wait_for_device("n2n0")
        end.address("n2n0", mtu=INNER_MTU)


def tinc(pair: Pair) -> None:
    """Tinc 1.0 as a switch, with its default cipher (AES-256-CBC, SHA-256)."""
    for end in pair.ends:
        (end.directory / "tinc" / "hosts").mkdir(parents=True)
        name, other = end.machine.name, other_of(pair, end)
        end.file("tinc/hosts/" + name, f"Address = {end.underlay}\n")
        end.file(
            "tinc/tinc.conf",
            f"Name = {name}\nMode = switch\nDeviceType = tap\nInterface = tinc0\n"
            f"AddressFamily = ipv4\nConnectTo = {other.machine.name}\n",
        )
        end.file(
            "tinc/rsa_key.priv",
            end.machine.run(["openssl", "genrsa", "-traditional", "2048"]).stdout,
        )
        key = [
            "openssl",
            "rsa",
            "-in",
            str(end.directory / "tinc/rsa_key.priv"),
            "-RSAPublicKey_out",
        ]
        with (end.directory / "tinc/hosts" / name).open("a") as host:
            host.write(end.machine.run(key).stdout)
    for end in pair.ends:
        other = other_of(pair, end)
        known = other.directory / "tinc/hosts" / other.machine.name
        end.file(f"tinc/hosts/{other.machine.name}", known.read_text())
        command = ["tincd", "-D", "-c", str(end.directory / "tinc"), "--pidfile=/run/tinc.pid"]
        end.own(end.machine.start(command))
        end.wait_for_device("tinc0")
        end.address("tinc0", mtu=INNER_MTU)


def fastd(pair: Pair) -> None:
    """Fastd with the method its documentation recommends (salsa2012+umac)."""
    keys = {}
    for end in pair.ends:
        out = end.machine.run(["fastd", "--generate-key"]).stdout
        keys[end.number] = re.findall(r"[0-9a-f]{64}", out)
    for end in pair.ends:
        other = other_of(pair, end)
        configuration = end.file(
            "fastd.conf",
            f'mode tap; interface "fastd0"; mtu {INNER_MTU}; method "salsa2012+umac";\n'
            f'bind {end.underlay}:10000; secret "{keys[end.number][0]}"; log level info;\n'
            f'peer "{other.machine.name}" {{ key "{keys[other.number][1]}"; '
            f"remote {other.underlay} port 10000; }}\n",
        )
        end.own(end.machine.start(["fastd", "-c", str(configuration)]))
        end.wait_for_device("fastd0")
        end.address("fastd0", mtu=INNER_MTU)


def openvpn(pair: Pair) -> None:
    """OpenVPN with a TAP and AES-256-GCM; each end knows the other's certificate."""
    prints = {}
    for end in pair.ends:
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        new += ["-nodes", "-days", "30", "-subj", f"/CN={end.machine.name}"]
        new += ["-keyout", str(end.directory / "key.pem"), "-out", str(end.directory / "cert.pem")]
        end.machine.run(new)
        show = ["openssl", "x509", "-in", str(end.directory / "cert.pem"), "-noout"]
        prints[end.number] = end.machine.run([*show, "-fingerprint", "-sha256"]).stdout.split("=")[
            1
        ]
    for end in pair.ends:
        other = other_of(pair, end)
        role = "tls-server\ndh none\n" if end is pair.a else "tls-client\n"
        configuration = end.file(
            "openvpn.conf",
            f"{role}dev ovpn0\ndev-type tap\nproto udp4\nlocal {end.underlay}\n"
            f"remote {other.underlay} 1194\nport 1194\ntun-mtu {INNER_MTU}\n"
            f"cert {end.directory}/cert.pem\nkey {end.directory}/key.pem\n"
            f"peer-fingerprint {prints[other.number].strip()}\ndata-ciphers AES-256-GCM\n",
        )
        end.own(end.machine.start(["openvpn", "--config", str(configuration)]))
        end.wait_for_device("ovpn0")
        end.address("ovpn0")


def nebula(pair: Pair) -> None:
    """Nebula with AES-256-GCM, which is its default; no lighthouse, both ends are known."""
    a = pair.a
    ca = [f"{a.directory}/ca.crt", f"{a.directory}/ca.key"]
    run = a.machine.run
    run(["nebula-cert", "ca", "-name", "bench", "-out-crt", ca[0], "-out-key", ca[1]])
    for end in pair.ends:
        own = [f"{end.directory}/node.crt", f"{end.directory}/node.key"]
        sign = [
            "nebula-cert",
            "sign",
            "-ca-crt",
            ca[0],
            "-ca-key",
            ca[1],
            "-name",
            end.machine.name,
        ]
        run([*sign, "-ip", f"10.99.0.{end.number}/24", "-out-crt", own[0], "-out-key", own[1]])
        other = other_of(pair, end)
        anything = [{"port": "any", "proto": "any", "host": "any"}]
        configuration = {
            "pki": {"ca": ca[0], "cert": own[0], "key": own[1]},
            "static_host_map": {f"10.99.0.{other.number}": [f"{other.underlay}:4242"]},
            "lighthouse": {"am_lighthouse": False, "hosts": []},
            "listen": {"host": "0.0.0.0", "port": 4242},
            "tun": {"dev": "nebula0", "mtu": INNER_MTU},
            "cipher": "aes",
            "logging": {"level": "info"},
            "firewall": {"outbound": anything, "inbound": anything},
        }
        # JSON is YAML too.
        file = end.file("nebula.yml", json.dumps(configuration))
        end.own(end.machine.start(["nebula", "-config", str(file)]))
        end.wait_for_device("nebula0")
        end.device = "nebula0"  # it sets its own address


def wireguard_go(pair: Pair) -> None:
    """The userspace WireGuard (ChaCha20-Poly1305), set up by wg(8)."""
    publics = {}
    for end in pair.ends:
        private = end.machine.run(["wg", "genkey"]).stdout
        end.file("wg.key", private)
        publics[end.number] = end.machine.run(["wg", "pubkey"], stdin=private).stdout.strip()
        end.own(end.machine.start(["wireguard-go", "-f", "wg0"]))
        end.wait_for_device("wg0")
    for end in pair.ends:
        other = other_of(pair, end)
        setting = ["wg", "set", "wg0", "listen-port", "51820", "private-key"]
        setting += [str(end.directory / "wg.key"), "peer", publics[other.number]]
        setting += ["endpoint", f"{other.underlay}:51820", "allowed-ips", "10.99.0.0/24"]
        end.machine.run(setting)
        end.address("wg0")


def vpncloud(pair: Pair) -> None:
    """VpnCloud as a switch, with the cipher it picks by its own speed test."""
    for end in pair.ends:  # it looks for its own address by the default route
        end.machine.ip(f"route add default via {other_of(pair, end).underlay}")
    for end in pair.ends:
        configuration = {
            "device": {"type": "tap", "name": "vpncloud0"},
            "mode": "switch",
            "listen": "3210",
            "peers": [f"{other_of(pair, end).underlay}:3210"],
            "crypto": {"password": _PASSWORD},
        }
        file = end.file("vpncloud.yml", json.dumps(configuration))
        end.own(end.machine.start(["vpncloud", "--config", str(file)]))
        end.wait_for_device("vpncloud0")
        end.address("vpncloud0", mtu=INNER_MTU)
