"""Checkpoints in a bucket of an S3 on this machine, by what pyarrow and an S3 make of them rather than a folder."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch

from cgd.training.checkpoint import CheckpointWarning
from tune.checkpoints.mirror import CheckpointMirror, StorageError

pytest.importorskip("moto.server", reason="moto[server] is not installed: pip install '.[dev]'")
boto3 = pytest.importorskip("boto3")
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_EC2_METADATA_DISABLED": "true"}


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def service():
    """Port of an S3 that forgets everything at its end, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        for key, value in ENVIRONMENT.items():
            patch.setenv(key, value)
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        try:
            until = time.monotonic() + 120
            while not answers(port):
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.1)
            yield port, server
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def bucket(service):
    """A client, and the address of a folder in a bucket that exists."""
    port, _ = service
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="study")
    return client, f"s3://study/outputs/ck?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def keys(client):
    """Names of the objects in the folder, without the empty ones that stand for folders."""
    found = client.list_objects_v2(Bucket="study").get("Contents", [])
    return sorted(item["Key"].removeprefix("outputs/ck/") for item in found if not item["Key"].endswith("/"))


def save(mirror, *epochs):
    folder = mirror.open(mirror.root / "abc", "abc")
    for epoch in epochs:
        folder.save(epoch, {"a": torch.full((2, 3), float(epoch))}, {"epoch": epoch, "kept_epoch": 1})
    return folder


def test_a_trial_goes_on_from_the_bucket_and_leaves_it_empty(bucket, service, tmp_path):
    client, uri = bucket
    one, two = (CheckpointMirror(uri, tmp_path / name) for name in ("one", "two"))
    one.check()
    assert keys(client) == []
    save(one, 1, 2, 3, 4)
    kept = [f"abc/epoch-{epoch:05d}/{name}" for epoch in (1, 3, 4) for name in ("state.json", "tensors.safetensors")]
    assert keys(client) == kept
    shutil.rmtree(tmp_path / "one")
    client.delete_object(Bucket="study", Key="outputs/ck/abc/epoch-00004/state.json")  # an upload cut short
    resumed = two.open(two.root / "abc", "abc")
    with pytest.warns(CheckpointWarning, match=r"is not whole: it has no state\.json"):
        tensors, state = resumed.load_newest()
    assert (tensors["a"][0, 0].item(), state["epoch"]) == (3, 3)
    save(two, 4)
    assert keys(client) == kept
    assert two.list_trials() == ["abc"]
    two.forget("abc")
    assert keys(client) == []
    assert two.list_trials() == []
    with pytest.raises(StorageError, match="cannot write to the checkpoint storage s3://nobody"):
        CheckpointMirror(uri.replace("study", "nobody", 1), tmp_path).check()


def test_a_service_that_is_gone_is_not_empty_and_loses_no_trial(bucket, service, tmp_path):
    mirror = CheckpointMirror(bucket[1], tmp_path / "one")
    mirror.check()
    service[1].kill()
    service[1].wait()
    with pytest.warns(CheckpointWarning, match="epoch 1 did not reach s3://study"):
        folder = save(mirror, 1)
    assert folder.counts() == {"unmirrored_checkpoints": 1}
    with pytest.raises(StorageError, match="cannot reach the checkpoint storage"):
        folder.load_newest()
