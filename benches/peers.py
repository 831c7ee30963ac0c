"""The servers that regild is compared with, each set up to do the same work. `unpack-peers.sh` brings them."""

import json
import os
import pathlib
import subprocess

from cable import SERVER_IP, SERVER_LINK
from regild import ROOT

PEERS = ROOT / "target/cache/peers"
SBIN = PEERS / "usr/sbin"
ENVIRONMENT = {**os.environ, "LD_LIBRARY_PATH": str(PEERS / "usr/lib/x86_64-linux-gnu")}
HTTP_PORT = 8081
DNSMASQ = [SBIN / "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
           "--pid-file=", "--log-facility=-", f"--interface={SERVER_LINK}", "--bind-dynamic"]


def dnsmasq_dhcp(cable, directory):
    """Writes its whole lease file anew, and syncs it, before each ACK (seen with strace)."""
    command = DNSMASQ + ["--dhcp-range=10.90.16.0,10.90.255.250,255.255.0.0,1h", "--dhcp-lease-max=100000",
                         f"--dhcp-leasefile={directory}/dnsmasq.leases", "--dhcp-boot=ipxe.efi", "--no-ping",
                         "--dhcp-authoritative", "--quiet-dhcp"]
    return started(cable, command, "dnsmasq", 67)


def kea(cable, directory):
    """Its lease file is appended to and flushed to the kernel, but not synced (seen with strace): a power cut can
    take leases that were acknowledged. Kea has no setting for that."""
    interfaces = {"interfaces": [SERVER_LINK], "dhcp-socket-type": "raw"}
    leases = {"type": "memfile", "persist": True, "name": f"{directory}/kea.leases", "lfc-interval": 0}
    subnets = [{"subnet": "10.90.0.0/16", "pools": [{"pool": "10.90.16.0 - 10.90.255.250"}]}]
    loggers = [{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{"output": "stderr"}]}]
    threads = {"enable-multi-threading": True, "thread-pool-size": 2}
    config = {"interfaces-config": interfaces, "lease-database": leases, "valid-lifetime": 3600, "subnet4": subnets,
              "multi-threading": threads, "boot-file-name": "ipxe.efi", "next-server": SERVER_IP, "loggers": loggers}
    path = pathlib.Path(directory) / "kea.json"
    path.write_text(json.dumps({"Dhcp4": config}))
    places = {"KEA_PIDFILE_DIR": str(directory), "KEA_LOCKFILE_DIR": str(directory)}
    return started(cable, [SBIN / "kea-dhcp4", "-c", path], "kea", 67, {**ENVIRONMENT, **places})


def dnsmasq_tftp(cable, files):
    command = DNSMASQ + ["--enable-tftp", f"--tftp-root={files}", "--tftp-max=1000", "--quiet-tftp"]
    return started(cable, command, "dnsmasq", 69)


def atftpd(cable, files):
    command = [SBIN / "atftpd", "--daemon", "--no-fork", "--user", "root.root", "--maxthread", "1000",
               "--bind-address", SERVER_IP, "--verbose=3", files]
    return started(cable, command, "atftpd", 69)


def tftpd_hpa(cable, files):
    command = [SBIN / "in.tftpd", "--foreground", "--secure", "--user", "root", "--address", f"{SERVER_IP}:69", files]
    return started(cable, command, "tftpd-hpa", 69)


def nginx(cable, directory, files):
    """A worker for each core, sendfile, no log of requests: what a mirror would have."""
    paths = "".join(f"{what}_temp_path {directory}/{what}; " for what in
                    ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    path = pathlib.Path(directory) / "nginx.conf"
    path.write_text(f"""
    daemon off; user root; worker_processes auto; pid {directory}/nginx.pid; error_log stderr;
    events {{ worker_connections 1024; }}
    http {{ sendfile on; tcp_nopush on; access_log off; keepalive_requests 1000000; {paths}
        server {{ listen {SERVER_IP}:{HTTP_PORT}; root {files}; }} }}
    """)
    return started(cable, [SBIN / "nginx", "-p", directory, "-c", path, "-e", "stderr"], "nginx", HTTP_PORT)


def started(cable, command, name, port, environment=None):
    process = cable.serve([str(word) for word in command], name, env=environment or ENVIRONMENT)
    sockets = lambda: subprocess.run(cable.server + ["ss", "-Hlnut"], check=True, capture_output=True, text=True).stdout
    process.wait_until(lambda: f":{port} " in sockets(), f"listening on port {port}")
    return process
