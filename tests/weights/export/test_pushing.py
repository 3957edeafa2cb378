"""Sending to the Hub: what would be sent, what is sent to a stand-in, and every refusal in one line. Nothing is ever sent."""

import sys
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.export.exporting import ExportOptions, export
from flsl_jax.weights.export.pushing import check_push, planned, push
from tests.weights import published
from tests.weights.published import random_state


@pytest.fixture(name="source")
def _source(tmp_path):
    state = {name: tensor for name, tensor in random_state(published.MAE_ENCODER).items() if name != "cls_token"}
    state["pos_embed"] = np.ascontiguousarray(state["pos_embed"][:, 1:])
    save_file(state, tmp_path / "mae.safetensors")
    return tmp_path / "mae.safetensors"


class Hub(types.ModuleType):
    """Takes the place of huggingface_hub, and remembers what it is told."""

    def __init__(self, *, token="hf_x", error=None):
        super().__init__("huggingface_hub")
        self.calls = []
        hub = self

        class HfApi:
            def __init__(self, **options):
                pass

            def create_repo(self, repo, **options):
                hub.calls.append((repo, options))
                if error is not None:
                    raise error
                return f"hub/{repo}"

            def create_commit(self, repo, operations, **options):
                hub.calls.append((repo, operations))

        self.HfApi, self.get_token = HfApi, lambda: token
        self.CommitOperationAdd = lambda name, content: (name, content)


@pytest.fixture(name="hub")
def _hub(monkeypatch):
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


def test_a_folder_goes_there_as_it_is_with_code_that_names_the_repository(source, tmp_path, hub):
    report = export(source, tmp_path / "vit", ExportOptions(format="timm", card=True))
    upload = planned("me/vit-tiny", source, report.path, [], card=report.card)
    assert [name for name, _ in upload.files] == ["README.md", "config.json", "model.safetensors"]
    card = upload.files[0][1]
    assert 'timm.create_model("hf-hub:me/vit-tiny", pretrained=True)' in card
    assert str(tmp_path) not in card
    assert upload.text().startswith("me/vit-tiny, 3 files:\n  README.md  ")
    assert push(upload, private=True, output=report.path) == "hub/me/vit-tiny"
    (_, options), (repo, operations) = hub.calls
    assert (options["private"], options["exist_ok"], repo) == (True, True, "me/vit-tiny")
    assert dict(operations)["README.md"] == card.encode()
    assert dict(operations)["model.safetensors"] == tmp_path / "vit" / "model.safetensors"


def test_a_file_goes_there_with_its_card_as_the_readme(source, tmp_path):
    report = export(source, tmp_path / "vit.safetensors", ExportOptions(format="mmpretrain", card=True))
    (tmp_path / "vit_curves.png").write_bytes(b"of an earlier conversion, and not on the card")
    upload = planned("me/vit", source, report.path, [tmp_path / "vit_curves.png"], card=report.card)
    assert [name for name, _ in upload.files] == ["README.md", "vit.safetensors"]
    assert 'load_file("vit.safetensors")' in upload.files[0][1]


@pytest.mark.parametrize(
    "repo",
    ["vit", "me/", "/vit", "a/b/c", "me/v it", "me/-vit", "me/vit--x", "me/..", "me/x.git", "me/" + "x" * 95, ""],
)
def test_a_wrong_name_is_refused_before_anything_is_done(repo):
    with pytest.raises(UserError, match=r"expected USER/NAME"):
        check_push(repo, dry_run=True)


def test_the_package_and_a_token_are_needed_to_send_and_not_to_look(monkeypatch):
    check_push("me/vits16-flsl_v1.0", dry_run=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface_hub is .*"):
        check_push("me/vit", dry_run=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(token=None))
    with pytest.raises(UserError, match=r"needs a token .* set HF_TOKEN; --dry_run shows"):
        check_push("me/vit", dry_run=False)


class Answer(Exception):
    def __init__(self, status):
        super().__init__("no\nreally")
        self.response = types.SimpleNamespace(status_code=status)


class ConnectError(Exception):
    """As the package's client names it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Answer(401), r"refuses the token \(401\)"),
        (Answer(403), r"may not write there"),
        (Answer(429), r"answers 429 \(no\)"),
        (ConnectError("no route"), r"cannot be reached \(ConnectError: no route\)"),
        (ConnectionError("down"), r"cannot be reached"),
        (TimeoutError("slow"), r"cannot be reached"),
        (ValueError("odd"), r"it failed \(ValueError: odd\)"),
    ],
)
def test_what_goes_wrong_is_one_line_and_says_where_the_files_are(source, tmp_path, monkeypatch, error, message):
    report = export(source, tmp_path / "vit", ExportOptions(format="timm", card=True))
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(error=error))
    with pytest.raises(UserError, match=message) as caught:
        push(planned("me/vit", source, report.path, [], card=report.card), private=True, output=report.path)
    assert len(str(caught.value).splitlines()) == 1
    assert f"the files are in {report.path} and stay there" in str(caught.value)
    assert (report.path / "model.safetensors").exists()
