"""Looks at what is there for compose, and runs it without a container engine."""

import json
import pathlib
import re
import shutil
import stat
import sys
import tempfile
import tomllib

HERE = "deploy/compose"
CARGO = pathlib.Path(__file__).resolve().parents[2] / "Cargo.toml"
DATABASES = {"database-a", "database-b"}
SERVERS = {"node-1", "node-2", "node-3"}
SCRIPTS = ["database.sh", "secrets.sh"]
# What only the owner of the tables and the databases know.
OWNERS = {"daybook_owner.toml", "daybook_owner.password", "replicator.password"}


def check(root, binary, run, expect, stop_seconds):
    run("shellcheck", *(str(root / HERE / script) for script in SCRIPTS))
    compose = read(root / HERE, run)
    services = compose["services"]
    expect(set(services) == DATABASES | SERVERS | {"init"}, f"the services are {set(services)}")
    for name, service in services.items():
        agree(name, service, compose, expect)
    expect(compose["networks"]["database"].get("internal"), "the databases are not by themselves")
    ignored = (root / ".gitignore").read_text().splitlines()
    expect(f"/{HERE}/secrets" in ignored, "the secrets would get into the repository")

    with tempfile.TemporaryDirectory() as place:
        made = prepared(root, pathlib.Path(place), run)
        for secret in compose["secrets"].values():
            path = made / "secrets" / pathlib.PurePath(secret["file"]).name
            expect(path.is_file(), f"secrets.sh makes no {path.name}")
        roots = str(made / "secrets/ca.pem")
        for name in DATABASES:
            certificate = str(made / "secrets" / f"{name}.pem")
            run("openssl", "verify", "-CAfile", roots, "-verify_hostname", name, certificate)
        for name in SERVERS | {"init"}:
            took = take(services[name], made, binary, run)
            expect(took["engine"] == "postgres", f"{name} has the engine {took['engine']}")
            needs = stop_seconds(took["text"])
            given = services[name]["stop_grace_period"]
            minutes = re.fullmatch(r"(\d+)m0s", given)
            expect(minutes and int(minutes[1]) * 60 >= needs, f"{name} has {given} for {needs:g} s")
            if name in SERVERS:
                port = took["listen"].rsplit(":", 1)[1]
                said = f"http://{name}:{port}"
                expect(took["advertise"] == said, f"{name} tells others {took['advertise']}")
                [published] = services[name]["ports"]
                expect(str(published["target"]) == port, f"{name} publishes another port")
    return f"{len(services)} services, {len(compose['secrets'])} secrets and the program agree"


def read(directory, run):
    """The file as docker-compose understands it."""
    file = str(directory / "compose.yaml")
    return json.loads(run("docker-compose", "--file", file, "config", "--format", "json"))


def agree(name, service, compose, expect):
    is_hard = (
        service.get("read_only") is True
        and service.get("cap_drop") == ["ALL"]
        and service.get("security_opt") == ["no-new-privileges:true"]
        and not any(service.get(key) for key in ["privileged", "cap_add", "network_mode", "pid"])
    )
    expect(is_hard, f"{name} has rights that it does not need")
    expect(all(port.get("host_ip") == "127.0.0.1" for port in service.get("ports", [])),
           f"others than this machine reach {name}")
    has = {secret["source"] for secret in service["secrets"]}
    waits = {on: each["condition"] for on, each in service.get("depends_on", {}).items()}
    image = service["image"]
    expect(re.search(r":\d+\.\d+(\.\d+)?\b", image), f"{image} is not one version")
    if name in DATABASES:
        expect(service["user"] == "999:999", f"{name} is run as {service.get('user')}")
        expect(set(service["networks"]) == {"database"}, f"{name} is not only among databases")
        expect({f"{name}.key", f"{name}.pem"} <= has, f"{name} cannot prove who it is")
        [peer] = DATABASES - {name}
        expect(service["environment"]["PEER"] == peer, f"{name} follows another one than {peer}")
    elif name == "init":
        ready = dict.fromkeys(DATABASES, "service_healthy")
        expect(waits == ready, f"the tables do not wait for both databases: {waits}")
    else:
        expect(waits == {"init": "service_completed_successfully"}, f"{name} waits for {waits}")
        expect(not has & OWNERS, f"{name} has the rights of the owner")
        expect(service["healthcheck"]["test"][1:] == ["/usr/local/bin/daybook", "healthcheck"],
               f"{name} has another health")
    for key, value in service["environment"].items():
        expect("@" not in value and "password" not in f"{key}{value}".lower(),
               f"{name} has a secret in {key}")
    if name not in DATABASES:
        version = tomllib.loads(CARGO.read_text())["package"]["version"]
        expect(image == f"daybook:{version}", f"the version is {version}, not that of {image}")


def prepared(root, place, run):
    """A copy of it, with secrets of its own."""
    made = place / "compose"
    shutil.copytree(root / HERE, made, ignore=shutil.ignore_patterns("secrets"))
    run("bash", str(made / "secrets.sh"))
    mode = stat.S_IMODE((made / "secrets").stat().st_mode)
    if mode != 0o700:
        raise SystemExit(f"deploy/check: others may look into the secrets: {mode:o}")
    return made


def take(service, made, binary, run):
    given = dict(service["environment"])
    given["DAYBOOK_CONFIG"] = made / "secrets" / pathlib.PurePath(given["DAYBOOK_CONFIG"]).name
    variables = [f"{name}={value}" for name, value in given.items()]
    text = run("env", *variables, binary, "check-config")
    return tomllib.loads(text) | {"text": text}


def try_out(root, binary, run, expect):
    with tempfile.TemporaryDirectory() as place:
        made = prepared(root, pathlib.Path(place), run)
        config = pathlib.Path(place) / "compose.json"
        config.write_text(json.dumps(read(made, run)))
        # All that it starts and mounts is gone with it.
        alone = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        # The one that is looked at, also in a copy with a mistake.
        trial = root / HERE / "trial.py"
        said = run("unshare", *alone, sys.executable, "-B", str(trial), str(config), binary)
    return said.strip().splitlines()[-1]
