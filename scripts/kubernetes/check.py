#!/usr/bin/env python3
"""Checks the Kubernetes manifests: against the schemas of the `kubernetes-validate` package, strictly,
and against what schemas do not know: names, ports, probes, keys and options that fit each other.

  scripts/kubernetes/check.py [--programs FOLDER]   FOLDER: of ibot-train and ibot-loader, to ask them
"""
import argparse
import os
import re
import subprocess
import sys

try:
    import kubernetes_validate
    import yaml
except ImportError as error:
    print(f"check.py: {error}; pip install kubernetes-validate", file=sys.stderr)
    sys.exit(77)

FILES = ["trainer.yaml", "loaders.yaml", "jobset.yaml"]
SECRETS = {"ibot-trainer-keys": {"trainer.secret", "allowed_keys"},
           "ibot-loader-keys": {"loader.secret", "trainer.public"}}
GRACE = {"ibot-train": 120, "ibot-loader": 10}  # seconds that ending may take

failures = []


def expect(condition, where, what):
    if not condition:
        failures.append(f"{where}: {what}")


def as_jobs(document):
    """The Jobs that a JobSet makes; its own schema is not in the package."""
    for job in document["spec"]["replicatedJobs"]:
        spec = dict(job["template"]["spec"])
        yield {"apiVersion": "batch/v1", "kind": "Job",
               "metadata": {"name": f'{document["metadata"]["name"]}-{job["name"]}'}, "spec": spec}


def validate(document, where):
    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        failures.append(f"{where}: {path}: {error.message}")
        return False
    return True


def check_pod(pod, rules, where, programs):
    """A pod's template, and the podFailurePolicy around it."""
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    names = {v["name"] for v in pod["volumes"]}
    expect(pod["securityContext"]["runAsNonRoot"], where, "runs as root")
    expect(pod["automountServiceAccountToken"] is False, where, "has a token")
    for volume in pod["volumes"]:
        # The programs refuse secrets that others could read: bits 037, and a group may read.
        if "secret" in volume:
            expect(volume["secret"].get("defaultMode") == 0o440, where, "mode of keys")
    for container in pod["containers"]:
        program = container["command"][0]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        options = dict(arg[2:].split("=", 1) if "=" in arg else (arg[2:], None)
                       for arg in container["args"])
        security = container["securityContext"]
        expect(security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"] and
               security["capabilities"]["drop"] == ["ALL"], where, "may do more than it needs")
        expect(set(mounts.values()) == names, where, f"volumes {names} and mounts {mounts}")
        expect(pod["terminationGracePeriodSeconds"] >= GRACE[program], where, "too little grace")
        expect(options["metrics"] == f'0.0.0.0:{ports["metrics"]}', where, "port of metrics")
        for probe, path in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]:
            get = container[probe]["httpGet"]
            expect(get == {"path": path, "port": "metrics"}, where, f"{probe} {get}")
        for variable in container["env"]:
            if "valueFrom" in variable:
                ref = variable["valueFrom"]["resourceFieldRef"]
                expect(ref["containerName"] == container["name"], where, f"{variable['name']}: {ref}")
        for name in ("key", "allow", "server_key"):
            if name not in options:
                continue
            folder, file = os.path.split(options[name])
            expect(file in SECRETS.get(secrets.get(mounts.get(folder)), ()), where,
                   f"--{name} {options[name]} is in no secret")
        if program == "ibot-train":
            expect(options["listen"] == f'tcp://0.0.0.0:{ports["stream"]}', where, "port of the stream")
            codes = {r["action"]: r["onExitCodes"]["values"] for r in rules if "onExitCodes" in r}
            expect(codes == {"Ignore": [75], "FailJob": [2, 3]}, where, f"exit codes {codes}")
        if programs:
            ask(programs, program, container["args"], where)


def ask(folder, program, arguments, where):
    """Does the program know these options?"""
    text = subprocess.run([os.path.join(folder, program), "--help"], check=True, capture_output=True,
                          text=True).stdout
    known = set(re.findall(r"--([a-z_0-9]+)", text))
    for argument in arguments:
        name = argument[2:].split("=")[0]
        expect(name in known, where, f"{program} has no option --{name}")
    if program == "ibot-train":
        done = subprocess.run([os.path.join(folder, program), *arguments, "--check"],
                              capture_output=True, text=True)
        expect(done.returncode == 0, where, done.stderr.strip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programs")
    programs = parser.parse_args().programs
    here = os.path.dirname(os.path.abspath(__file__))
    documents, addresses, connects = 0, set(), set()
    for file in FILES:
        with open(os.path.join(here, file)) as stream:
            found = [d for d in yaml.safe_load_all(stream) if d]
        for document in found:
            jobset = document["kind"] == "JobSet"
            for part in as_jobs(document) if jobset else [document]:
                where = f'{file}: {part["kind"]} {part["metadata"]["name"]}'
                documents += 1
                if not validate(part, where):
                    continue
                spec = part["spec"]
                if part["kind"] not in ("Job", "Deployment"):
                    continue
                pod = spec["template"]["spec"]
                check_pod(pod, spec.get("podFailurePolicy", {}).get("rules", []), where, programs)
                for container in pod["containers"]:
                    for argument in container["args"]:
                        if argument.startswith("--connect="):
                            connects.add((file, argument.split("=", 1)[1]))
            if jobset:
                name, subdomain = document["metadata"]["name"], document["spec"]["network"]["subdomain"]
                for job in document["spec"]["replicatedJobs"]:
                    addresses.add(f'tcp://{name}-{job["name"]}-0-0.{subdomain}:5550')
        services = {d["metadata"]["name"]: d for d in found if d["kind"] == "Service"}
        for document in found:
            if document["kind"] == "Job":
                subdomain = document["spec"]["template"]["spec"]["subdomain"]
                expect(subdomain in services, file, f"no Service {subdomain}")
                selector = services[subdomain]["spec"]["selector"]
                labels = document["spec"]["template"]["metadata"]["labels"]
                expect(selector.items() <= labels.items(), file, "the Service selects other pods")
                addresses.add(f'tcp://{document["metadata"]["name"]}-0.{subdomain}:5550')
            if document["kind"] == "HorizontalPodAutoscaler":
                target = document["spec"]["scaleTargetRef"]
                expect(any(d["kind"] == target["kind"] and d["metadata"]["name"] == target["name"]
                           for d in found), file, f"the autoscaler's target {target} is not there")
    for file, address in connects:
        expect(address in addresses, file, f"--connect {address}: nobody is there, but at {addresses}")
    expect(len(connects) == 2, "manifests", f"loaders connect to {connects}")
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{documents} documents checked, {len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
