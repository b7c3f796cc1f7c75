"""Looks at the servers of one ledger in a database, and at the job that makes its tables: who
reaches whom, where the password is, and whether the program takes what it is given."""

import tomllib

# What the README says that is in each secret.
KEYS = {"url", "ca.pem"}
CALLS, DATABASE, NAMES = 50051, 5432, 53


def agree(objects, job, expect):
    servers, policy = objects["Deployment"]["spec"], objects["NetworkPolicy"]["spec"]
    labels, pod = servers["template"]["metadata"]["labels"], servers["template"]["spec"]
    expect("StatefulSet" not in objects, "there is another ledger beside it")
    expect(servers["replicas"] >= 3, "while one is replaced, no two are left")
    update = servers["strategy"]["rollingUpdate"]
    expect(update == {"maxSurge": 0, "maxUnavailable": 1}, "not one after the other is updated")
    budget = objects["PodDisruptionBudget"]["spec"]
    expect(budget["maxUnavailable"] == 1, "several may be evicted at once")
    apart = [
        each for each in pod["topologySpreadConstraints"]
        if each["topologyKey"] == "kubernetes.io/hostname"
        and each["whenUnsatisfiable"] == "DoNotSchedule" and each["maxSkew"] == 1
        and each["minDomains"] == servers["replicas"]
        and each["labelSelector"]["matchLabels"].items() <= labels.items()
    ]
    expect(apart, "two may be on one machine")

    server = {"podSelector": {"matchLabels": servers["selector"]["matchLabels"]}}
    [_, others] = policy["ingress"]
    expect(others == {"from": [server], "ports": [port(CALLS)]},
           f"not just the servers reach each other: {others}")
    expect(all(rule.get("to") and rule.get("ports") for rule in policy["egress"]),
           "the servers may call anybody")
    [to_others, *rest] = policy["egress"]
    expect(to_others == {"to": [server], "ports": [port(CALLS)]},
           f"the servers do not reach each other: {to_others}")
    found = {each["port"] for rule in rest for each in rule["ports"]}
    expect(found == {DATABASE, NAMES}, f"the servers may call the ports {found}")

    [container], [maker] = pod["containers"], job["spec"]["template"]["spec"]["containers"]
    names = [each["name"] for each in container["env"]]
    is_known = "POD_IP" in names and names.index("POD_IP") < names.index("DAYBOOK_ADVERTISE")
    expect(is_known, "the address is used before it is known")
    expect(container["image"] == maker["image"], "the tables are made by another version")
    made = job["spec"]["template"]["metadata"]["labels"]
    expect(made.items().isdisjoint(labels.items()), "the job would be sent the ledger's calls")
    expect(maker["args"][:2] == ["init", "--grant"], "the servers' role gets no rights")
    expect(secret_of(container, expect) != secret_of(maker, expect),
           "the servers have the rights of the owner")


def port(number):
    return {"protocol": "TCP", "port": number}


def secret_of(container, expect):
    """The secret that the URL is from."""
    url = next(each for each in container["env"] if each["name"] == "DAYBOOK_DATABASE_URL")
    expect("value" not in url, "the password is in the manifest")
    expect(url["valueFrom"]["secretKeyRef"]["key"] in KEYS, "the secret has no such key")
    return url["valueFrom"]["secretKeyRef"]["name"]


def take(root, binary, workload, run, expect):
    """The program takes the variables, with a URL such as the README has."""
    pod = workload["spec"]["template"]["spec"]
    [container] = pod["containers"]
    secret = secret_of(container, expect)
    [volume] = [each["secret"] for each in pod["volumes"] if "secret" in each]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "database"]
    expect(volume["secretName"] == secret, "the authorities are from another secret")
    expect(volume["defaultMode"] == 0o400, "others may read the authorities")
    # Just them: the URL is not in a file as well.
    [item] = volume["items"]
    expect(item["key"] == "ca.pem", "the volume has something else than authorities")
    roots = f"{mount['mountPath']}/{item['path']}"
    readme = (root / "deploy/README.md").read_text()
    expect(f"sslrootcert={roots}" in readme, f"the README does not name {roots}")

    role = "owner" if workload["kind"] == "Job" else "daybook"
    url = f"postgres://{role}:geheim@db.example/daybook?sslrootcert={roots}"
    given = {each["name"]: each.get("value", "") for each in container["env"]}
    given["DAYBOOK_DATABASE_URL"] = url
    if "DAYBOOK_CONFIG" in given:
        given["DAYBOOK_CONFIG"] = root / "deploy/kubernetes/base/daybook.toml"
        given["DAYBOOK_ADVERTISE"] = given["DAYBOOK_ADVERTISE"].replace("$(POD_IP)", "10.0.0.7")
    variables = [f"{name}={value}" for name, value in given.items()]
    taken = tomllib.loads(run("env", *variables, binary, "check-config"))
    expect(taken["engine"] == "postgres", "the ledger is not in the database")
    expect(taken["database_url"] == url.replace("geheim", "***"), "the URL is not taken")
    if "DAYBOOK_CONFIG" in given:
        listens = taken["listen"].rsplit(":", 1)[1]
        expect(taken["advertise"] == f"http://10.0.0.7:{listens}",
               f"others are told {taken['advertise']}")
