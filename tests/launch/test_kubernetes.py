"""The manifest for Kubernetes: the keys that its objects have, and that its parts fit each other and the program."""

from pathlib import Path

import pytest

from configs import vits16
from flsl_jax.config import parse_config
from flsl_jax.errors import STOPPED_EARLY

yaml = pytest.importorskip("yaml")
MANIFEST = Path(__file__).parents[2] / "launch" / "kubernetes.yaml"

# A part of the API's schema (v1, batch/v1), by hand: the keys of each object with the types of their values.
SOURCE = {"fieldRef": {"fieldPath": str}}
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str, "value": str, "valueFrom": SOURCE}],
    "resources": {"limits": {"nvidia.com/gpu": str, "cpu": str, "memory": str}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "subdomain": str,
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "containers": [CONTAINER],
    "volumes": [
        {"name": str, "persistentVolumeClaim": {"claimName": str}, "emptyDir": {"medium": str, "sizeLimit": str}}
    ],
}
RULE = {
    "action": str,
    "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
    "onPodConditions": [{"type": str, "status": str}],
}
JOB = {
    "completionMode": str,
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [RULE]},
    "template": {"spec": POD},
}
SERVICE = {"clusterIP": str, "publishNotReadyAddresses": bool, "selector": {"batch.kubernetes.io/job-name": str}}
SCHEMAS = {("v1", "Service"): SERVICE, ("batch/v1", "Job"): JOB}


def check(value, schema, path):
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        assert value.keys() <= schema.keys(), f"{path} has {value.keys() - schema.keys()}"
        for key, inner in value.items():
            check(inner, schema[key], f"{path}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        for number, item in enumerate(value):
            check(item, schema[0], f"{path}[{number}]")
    else:
        assert type(value) is schema, f"{path} is {value!r}, expected {schema.__name__}"


@pytest.fixture(scope="module")
def objects():
    return {found["kind"]: found for found in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture(scope="module")
def pod(objects):
    return objects["Job"]["spec"]["template"]["spec"]


def test_its_objects_have_the_keys_and_types_of_the_api(objects):
    assert objects.keys() == {"Service", "Job"}
    for kind, found in objects.items():
        schema = SCHEMAS[found["apiVersion"], kind]
        check(found, {"apiVersion": str, "kind": str, "metadata": {"name": str}, "spec": schema}, kind)


def test_exit_codes_say_what_becomes_of_the_job(objects, pod):
    job = objects["Job"]["spec"]
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        for code in rule.get("onExitCodes", {}).get("values", []):
            actions[code] = rule["action"]
            assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert actions == {2: "FailJob", STOPPED_EARLY: "Ignore"}
    assert pod["restartPolicy"] == "Never"  # what the API asks for with a podFailurePolicy


def test_the_pods_find_each_other_and_their_config_is_one(objects, pod):
    job, name, args = objects["Job"]["spec"], objects["Job"]["metadata"]["name"], pod["containers"][0]["args"]
    assert pod["subdomain"] == objects["Service"]["metadata"]["name"]
    assert objects["Service"]["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    given = dict(argument.removeprefix("--").split("=", 1) for argument in args)
    assert given["config.parallel.coordinator"].split(":")[0] == f"{name}-0.{pod['subdomain']}"
    assert int(given["config.parallel.num_processes"]) == job["completions"] == job["parallelism"]
    assert given["config.parallel.process_id"] == "$(PROCESS)"
    assert [variable["name"] for variable in pod["containers"][0]["env"]] == ["PROCESS"]
    config = vits16.get_config()
    for key, value in given.items():
        if key.startswith("config."):
            _, group, name = key.split(".")
            config[group][name] = type(config[group][name])(value.replace("$(PROCESS)", "1"))
    assert parse_config(config.to_dict()).parallel.process_id == 1


def test_every_mounted_volume_is_there(pod):
    mounted = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
    assert sorted(mounted) == sorted(volume["name"] for volume in pod["volumes"])
