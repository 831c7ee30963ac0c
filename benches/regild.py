"""`regild serve`, the release binary, as the benchmarks run it."""

import http.client
import json
import os
import pathlib
import socket
import subprocess

from cable import SERVER_IP, SERVER_LINK, Process, die_with_us

ROOT = pathlib.Path(__file__).parent.parent
BINARY = ROOT / "target/release/regild"
BOOT_ASSETS = ROOT / "target/boot-assets"
HTTP_PORT = 8080
# About 61,000 addresses: more than any benchmark asks for.
CONFIG = f"""
state_dir = "state"
boot_assets = "{BOOT_ASSETS}"
[http]
port = {HTTP_PORT}
[[network]]
interface = "{SERVER_LINK}"
address = "{SERVER_IP}/16"
pools = ["10.90.16.0-10.90.255.250"]
"""


class Regild:
    """A server with its state in `directory`; what is there already is used again."""

    def __init__(self, cable, directory, config=CONFIG, log_level="info"):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "regild.toml").write_text(config)
        log = self.directory / "serve.log"
        log.unlink(missing_ok=True)
        command = cable.server + [BINARY, "serve", "--config", "regild.toml"]
        self.process = Process(command, log, cwd=self.directory, env={**os.environ, "RUST_LOG": log_level})
        self.process.wait_until(lambda: "serving" in self.process.log(), "serving")

    def packs(self):
        return sorted((self.directory / "state/images/packs").glob("*.pack"))

    def import_image(self, path, name):
        """Runs the operator's command, and gives its peak memory in bytes."""
        command = [BINARY, "--server", "state/regild.sock", "image", "import", path, "--as", name]
        return run_measured(command, cwd=self.directory)

    def api(self, method, path, body=None):
        """One request of the operator API; what is not 2xx ends the benchmark."""
        connection = UnixConnection(self.directory / "state/regild.sock")
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status // 100 != 2:
            raise SystemExit(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text)

    def stop(self):
        self.process.stop()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        # From here: an absolute path can be longer than the 107 bytes of sun_path.
        self.sock.connect(str(self.path.relative_to(pathlib.Path.cwd()) if self.path.is_absolute() else self.path))


def run_measured(command, **options):
    """Runs a program to its end: its peak memory in bytes and its CPU seconds (wait4(2))."""
    popen = subprocess.Popen([str(word) for word in command], preexec_fn=die_with_us, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, **options)
    said = popen.stderr.read()
    _, status, usage = os.wait4(popen.pid, 0)
    popen.returncode = os.waitstatus_to_exitcode(status)
    if popen.returncode != 0:
        raise SystemExit(f"{command}: {said.decode(errors='replace')}")
    return usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime


def built(name):
    """Builds a program of benches/ and says where cargo put it."""
    command = ["cargo", "build", "--release", "--bench", name, "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    made = [message["executable"] for message in messages
            if message.get("reason") == "compiler-artifact" and message["target"]["name"] == name]
    return made[-1]
