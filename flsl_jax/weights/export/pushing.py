"""Sends what was written to the Hugging Face Hub, or shows what would be sent."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from flsl_jax.errors import UserError, first_line, require_packages

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_LONGEST = 96
_CARD = "README.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upload:
    """What goes into a repository: names there, and each one's file here or its content."""

    repo: str
    files: tuple[tuple[str, Path | str], ...]

    def text(self) -> str:
        """The files with their sizes, then the card."""
        lines = [f"{self.repo}, {len(self.files)} files:"]
        lines += [f"  {name}  {_size(content)}" for name, content in self.files]
        card = next((content for name, content in self.files if name == _CARD), "")
        text = card.read_text(encoding="utf-8") if isinstance(card, Path) else card
        return "\n".join([*lines, "", f"--- {_CARD} ---", text])


def check_push(repo: str, *, dry_run: bool) -> None:
    """Checks the repository's name and, unless nothing is sent, that the package and a token are there.

    Raises:
        UserError: one of them is not.
    """
    owner, _, name = repo.partition("/")
    valid = all(_NAME.fullmatch(part) and not re.search(r"--|\.\.", part) for part in (owner, name))
    if not valid or len(repo) > _LONGEST or name.endswith(".git"):
        raise UserError(
            f"--push_to={repo}: expected USER/NAME of letters, digits, '-', '_' and '.', {_LONGEST} at most, such as "
            "me/vits16-flsl"
        )
    if dry_run:
        return
    require_packages("huggingface_hub", install="pip install huggingface_hub")
    from huggingface_hub import get_token

    if not get_token():
        raise UserError(
            "--push_to needs a token of the Hugging Face Hub that may write: run hf auth login, or set HF_TOKEN; "
            "--dry_run shows what would be sent without one"
        )


def planned(repo: str, source: Path, output: Path, beside: Sequence[Path], *, card: Path) -> Upload:
    """What goes into a repository: the files of a folder or one file, what is beside it, and the card as README.md.

    Args:
        repo: USER/NAME.
        source: what was converted; folders above it are left out of the card.
        output: what a conversion wrote.
        beside: files next to it, without the card; those that are not there, or that the card does not name because they are
            of an earlier conversion, are passed over.
        card: the model card, whose code then names the repository, or the file without its folder.
    """
    text = card.read_text(encoding="utf-8")
    named = [path for path in beside if path.exists() and path.name in text]
    paths = sorted(output.iterdir()) if output.is_dir() else [output, *named]
    text = text.replace(f"local-dir:{output}", f"hf-hub:{repo}")
    for path in (output, *beside):
        text = text.replace(f'"{path}"', f'"{repo if path.is_dir() else path.name}"')
    if source.parent != Path():
        text = text.replace(f"{source.parent}/", "")
    files = [(path.name, path) for path in paths if path.is_file() and path.name != _CARD]
    return Upload(repo=repo, files=((_CARD, text), *files))


def push(upload: Upload, *, private: bool, output: Path) -> str:
    """Sends the files as one commit, into a new repository if there is none of that name; returns its address.

    Args:
        upload: what is sent.
        private: whether a new repository is seen by its owner alone; one that is there stays as it is.
        output: what was written, for messages.

    Raises:
        UserError: the Hub cannot be reached, does not take the token, or refuses; the files stay where they are.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="flsl_jax")
    try:
        place = api.create_repo(upload.repo, private=private, exist_ok=True)
        operations = [
            CommitOperationAdd(name, content if isinstance(content, Path) else content.encode("utf-8"))
            for name, content in upload.files
        ]
        api.create_commit(upload.repo, operations, commit_message=f"Add {output.name}, converted by flsl_jax")
    except Exception as error:  # the package's own types differ between its versions, and so do those of its client
        raise UserError(
            f"--push_to={upload.repo}: {_why(error)}; the files are in {output} and stay there: convert again with "
            f"--overwrite, or send them by hf upload {upload.repo} {output}"
        ) from error
    return str(place)


def _why(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        refused = f"the Hugging Face Hub refuses the token ({status}), or it may not write there"
        return f"{refused}; run hf auth login with one that may"
    if status is not None:
        return f"the Hugging Face Hub answers {status} ({first_line(error)})"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, ConnectionError | TimeoutError) or kinds & {
        "ConnectError",
        "TransportError",
        "ConnectionError",
    }:
        return f"the Hugging Face Hub cannot be reached ({type(error).__name__}: {first_line(error)})"
    return f"it failed ({type(error).__name__}: {first_line(error)})"


def _size(content: Path | str) -> str:
    count = content.stat().st_size if isinstance(content, Path) else len(content.encode("utf-8"))
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
