"""What a run started from, kept in its workdir: the backbone of `init_from` as training loaded it.

The file or run that `init_from` names may move, go away or train on; the copy does not.
"""

import logging
from pathlib import Path
from typing import Any

from flsl_jax.config import Config
from flsl_jax.errors import UserError
from flsl_jax.networks import architecture_of
from flsl_jax.weights.canonical import backbone_params, backbone_tensors
from flsl_jax.weights.initial import Initial, read_initial

log = logging.getLogger(__name__)

# In a folder of its own, because a workdir with a weight file at its top would be read as weights.
START_FILE = Path("start", "backbone.safetensors")


def write_start(initial: Initial | None, config: Config, workdir: Path) -> None:
    """Keeps the backbone that a new run starts from; removes the one of an earlier start if it starts from random values.

    Raises:
        UserError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = workdir / START_FILE
    temporary = path.with_name(f".{path.name}")
    try:
        if initial is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = backbone_tensors(initial.backbone, architecture_of(config))
        save_file(tensors, temporary, metadata={"init_from": config.init_from})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error}); is the disk full?") from error


def read_start(config: Config, *, workdir: Path) -> dict[str, Any] | None:
    """The backbone that a run started from, bit by bit, as nested dictionaries of arrays; None where it was random.

    A run of an earlier version kept no copy. There, what `config.init_from` names is read again.

    Raises:
        UserError: there is no copy, and what `config.init_from` names cannot be read any more.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not config.init_from:
        return None
    path = workdir / START_FILE
    if path.exists():
        try:
            return backbone_params(load_file(path), architecture_of(config))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it, and config.init_from is read again") from error
    try:
        initial = read_initial(config)
    except UserError as error:
        raise UserError(
            f"{workdir} keeps no copy of what it started from ({START_FILE}), and it cannot be read again: {error}. Put it "
            "back where config.init_from says, seen from this folder, or leave untrained out"
        ) from error
    log.warning("%s keeps no copy of its start: %s is taken as it is now", workdir, config.init_from)
    return initial.backbone
