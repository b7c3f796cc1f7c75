"""Runs the services of compose.yaml without a container engine, as root on this machine.

A service gets a network namespace of its own, with the address that its name stands for, and a
mount namespace: the root that can be read only if it is to be, and what is mounted as the file
says. Its programs are those of this machine, and its process has the user and none of the
capabilities. What it may use of memory and processors is not limited, and networks are one.
"""

import pathlib
import pwd
import shlex
import signal
import subprocess

BRIDGE = "compose"
NETWORK = "10.213.0."
STOP_SECONDS = 60
# The image's own: /data is the working directory of the program.
DAYBOOK_USER = 65532


def sh(script):
    subprocess.run(["sh", "-ec", script], check=True)


def said(command):
    """The exit code of a command, and what it said.

    Not all of that is text: the program that is to be asked may be mounted at this moment, and a
    shell tries to read it.
    """
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


class Containers:
    """All services of a file, which can be begun and ended."""

    def __init__(self, compose, place, binary, programs):
        self.compose, self.place = compose, place
        self.binary, self.programs = binary, programs
        self.processes = {}
        names = list(compose["services"])
        self.addresses = {name: f"{NETWORK}{10 + number}" for number, name in enumerate(names)}
        # Nobody else sees what is mounted here.
        sh("mount --make-rprivate / && mkdir -p /run/netns && mount -t tmpfs none /run/netns")
        sh(f"ip link set lo up && ip link add {BRIDGE} type bridge && ip link set {BRIDGE} up")
        sh(f"ip address add {NETWORK}1/24 dev {BRIDGE}")
        hosts = place / "hosts"
        lines = [f"{address} {name}" for name, address in self.addresses.items()]
        hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        for number, name in enumerate(names):
            sh(f"ip netns add {name} && ip -n {name} link set lo up &&"
               f"ip link add v{number} type veth peer name eth0 netns {name} &&"
               f"ip link set v{number} master {BRIDGE} up && ip -n {name} link set eth0 up &&"
               f"ip -n {name} address add {self.addresses[name]}/24 dev eth0")
        for volume in compose["volumes"]:
            (place / volume).mkdir()

    def user(self, name):
        """The number here of a service's user, and that of its group."""
        if "postgres" in self.compose["services"][name]["image"]:
            found = pwd.getpwnam("postgres")
            return found.pw_uid, found.pw_gid
        return DAYBOOK_USER, DAYBOOK_USER

    def script(self, name, command):
        """What makes the mounts of a service and becomes its process."""
        service = self.compose["services"][name]
        uid, gid = self.user(name)
        lines = ["mount --make-rprivate /", "mount -t tmpfs none /run", "mkdir /run/secrets"]
        # The programs, where the image has them.
        lines += ["mount -t tmpfs none /usr/local/bin",
                  "install -m 0755 /dev/null /usr/local/bin/daybook",
                  f"mount --bind {self.binary} /usr/local/bin/daybook",
                  f"mount --bind {self.place}/hosts /etc/hosts"]
        for secret in service.get("secrets", []):
            source = self.compose["secrets"][secret["source"]]["file"]
            target = secret["target"]
            lines += [f"touch {target}", f"mount --bind {source} {target}"]
        for number, config in enumerate(service.get("configs", [])):
            source, target = self.compose["configs"][config["source"]]["file"], config["target"]
            if number == 0:
                folder = pathlib.PurePosixPath(target).parent
                lines += [f"mkdir -p {folder}", f"mount -t tmpfs none {folder}"]
            lines += [f"touch {target}", f"mount --bind {source} {target}"]
        for volume in service.get("volumes", []):
            source, target = self.place / volume["source"], pathlib.Path(volume["target"])
            lines += [f"mount -t tmpfs none {target.parent}", f"mkdir {target}",
                      f"chown {uid}:{gid} {source}", f"mount --bind {source} {target}"]
        for tmpfs in service.get("tmpfs", []):
            target, _, given = tmpfs.partition(":")
            options = dict(it.split("=") for it in given.split(",")) | {"uid": uid, "gid": gid}
            text = ",".join(f"{key}={value}" for key, value in options.items())
            lines += [f"mkdir -p {target}", f"mount -t tmpfs -o {text} none {target}"]
        if service.get("read_only"):
            lines += ["mount -o remount,bind,ro /", "mount -o remount,ro /run"]
        environment = {"PATH": f"{self.programs}:/usr/bin:/bin:/usr/local/bin", "LC_ALL": "C"}
        environment |= service.get("environment", {})
        given = [f"{key}={value}" for key, value in environment.items()]
        cd = "/data" if name not in self.databases() else "/"
        run = ["env", "-i", *given, "setpriv", f"--reuid={uid}", f"--regid={gid}",
               "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all",
               *command]
        lines += [f"cd {cd}", f"exec {shlex.join(run)}"]
        return "\n".join(lines)

    def databases(self):
        services = self.compose["services"]
        return [name for name in services if "postgres" in services[name]["image"]]

    def command(self, name, *given):
        service = self.compose["services"][name]
        entrypoint = service.get("entrypoint") or ["/usr/local/bin/daybook"]
        return [*entrypoint, *(given or service.get("command") or [])]

    def inside(self, name, *command):
        """What runs a command in namespaces such as a service has."""
        return ["ip", "netns", "exec", name, "unshare", "--mount", "sh", "-ec",
                self.script(name, command)]

    def run(self, name, *arguments):
        """`docker compose run --rm --no-deps`"""
        command = self.inside(name, *self.command(name, *arguments))
        return said(command)

    def up(self, name):
        """Begins a service."""
        command = self.inside(name, *self.command(name))
        with open(self.place / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def exec(self, name, *command):
        """`docker compose exec`"""
        uid, gid = self.user(name)
        pid = self.processes[name].pid
        environment = self.compose["services"][name]["environment"]
        given = [f"{key}={value}" for key, value in environment.items()]
        path = f"PATH={self.programs}:/usr/bin:/bin"
        enter = ["nsenter", "--target", str(pid), "--mount", "--net", "env", "-i", path, *given,
                 "setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *command]
        return said(enter)

    def is_healthy(self, name):
        [_, *test] = self.compose["services"][name]["healthcheck"]["test"]
        return self.exec(name, *test)[0] == 0

    def log(self, name):
        return (self.place / f"{name}.log").read_text()

    def stop(self, name, by):
        """Its exit code after a signal."""
        process = self.processes.pop(name)
        process.send_signal(by)
        return process.wait(STOP_SECONDS)

    def kill(self, name):
        self.stop(name, signal.SIGKILL)
