"""Looks at the overlay with TLS and credentials: whether the program takes what the pod gives it.

The secrets are made here as its README says, and put where the pod would find them.
"""

import pathlib
import tempfile
import tomllib

# What kubectl puts into a secret of TLS, and what it is told to put into the other one.
KEYS = {"daybook-tls": {"tls.crt", "tls.key"}, "daybook-credentials": {"credentials"}}
# The settings that name files.
FILES = ["DAYBOOK_TLS_CERTIFICATE", "DAYBOOK_TLS_KEY", "DAYBOOK_CREDENTIALS"]


def check(root, binary, objects, run, expect):
    pod = objects["StatefulSet"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each.get("secret", {}) for each in pod["volumes"]}
    used = {}
    for name in FILES:
        expect(name in variables, f"the pod has no {name}")
        path = pathlib.PurePosixPath(variables[name])
        secret = volumes.get(mounts.get(str(path.parent)), {})
        expect(secret, f"{name} is not in a volume of a secret: {path}")
        expect(secret["defaultMode"] == 0o400, f"others may read {name}")
        used.setdefault(secret["secretName"], set()).add(path.name)
    expect(used == KEYS, f"the secrets have {KEYS}, the pod looks for {used}")
    with tempfile.TemporaryDirectory() as directory:
        made = make(pathlib.Path(directory), binary, run)
        settings = {**variables, **made}
        settings["DAYBOOK_CONFIG"] = root / "deploy/kubernetes/base/daybook.toml"
        given = [f"{name}={value}" for name, value in settings.items()]
        taken = tomllib.loads(run("env", *given, binary, "check-config"))
        expect(taken["insecure"] is False, "everybody may call in the clear")
        for name, path in made.items():
            setting = name.removeprefix("DAYBOOK_").lower()
            expect(taken[setting] == str(path), f"{setting} is not what the pod says")
    return f"the program takes {len(FILES)} files of {len(KEYS)} secrets"


def make(directory, binary, run):
    """The files that the variables name."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-subj", "/CN=daybook", "-keyout", str(key), "-out", str(certificate))
    _token, _, rows = run(binary, "token", "--name", "till", "--role", "writer").partition("\n")
    credentials = directory / "credentials"
    credentials.write_text(rows)
    for path in (key, credentials):
        path.chmod(0o400)
    return dict(zip(FILES, (certificate, key, credentials)))
