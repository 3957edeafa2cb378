"""Trains FLSL: `python -m flsl_jax.main --config=quickstart --workdir=DIR [--config.key=value …]`.

The same command again continues the run in the workdir. SIGTERM, SIGUSR1, SIGHUP or Ctrl-C saves first and exits
with code 75; a second Ctrl-C kills. SIGUSR2 traces the next five steps.
"""

from absl import flags

from flsl_jax import keyboard
from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config import parse_config
from flsl_jax.config.files import config_names, define_config_flag, describe_config, given_keys
from flsl_jax.errors import STOPPED_EARLY, UserError

_CONFIG = define_config_flag(
    "config",
    help_string=f"A config by its name ({', '.join(config_names())}), a Python file with get_config(), or a run: its "
    "workdir or the config.json there. --config.key=value overrides any of its keys.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: checkpoints, metrics and curves. The same command again continues the run in it.",
)

_ALLOW_CHANGES = flags.DEFINE_list(
    "allow_changes",
    [],
    "On continuing a run: keys or groups of the config, such as optimizer.lr,data, that may differ from those it was trained "
    "with. Without it a run continues only with what leaves its numbers as they are.",
)

_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    "",
    "FIRST:LAST, such as 100:110: a profiler's trace of these steps is written to WORKDIR/profile.",
)

# What --help prints.
__doc__ = f"""{__doc__}
Keys of a config with their values in vits16. --config.batch_size=64 and --config.model.depth=6 set two of them, and
--config.evaluation.TASK.KEY those of an evaluation task, which `python -m flsl_jax.evaluate --help` lists. Several values have
commas between them: --config.evaluation.tasks=video,bbox_knn and --config.views.student_area=0.4,1.0. A schedule moves from
.start to .end; --config.objective.teacher_temp=0.05 keeps it at one number. docs/config.md says what each key takes
and means.

{describe_config("vits16")}
"""


def main() -> int:
    """Checks the flags and trains."""
    if _CONFIG.value is None:
        raise UserError("--config is missing; name a config, such as --config=quickstart, or a file with get_config()")
    workdir = local_path(
        required(_WORKDIR, "runs/first"),
        flag="--workdir",
        advice="--config.checkpoint.mirror keeps a copy of a run there",
    )
    config = parse_config(_CONFIG.value.to_dict())
    if "evaluation.tasks" in given_keys("config") and not config.evaluation.every_epochs:
        raise UserError(
            f"--config.evaluation.tasks={','.join(config.evaluation.tasks)} would never be measured, because "
            "config.evaluation.every_epochs is 0; add --config.evaluation.every_epochs=1.0"
        )
    profile_steps = _steps(_PROFILE_STEPS.value)
    show_log()
    keyboard.stop_early(STOPPED_EARLY)

    from flsl_jax.loop import summary, train

    outcome = train(config, workdir=workdir, allow_changes=_allowed(), profile_steps=profile_steps)
    print(summary(config, workdir=workdir, outcome=outcome))
    return 0 if outcome.finished else STOPPED_EARLY


def _steps(text: str) -> tuple[int, int] | None:
    """The first and the last step of "100:110"; None of an empty text.

    Raises:
        UserError: it is not two such numbers.
    """
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile_steps={text} is not FIRST:LAST, two numbers of steps from 1 on, such as 100:110")
    return int(first), int(last)


def _allowed() -> list[str]:
    """The names in --allow_changes, which may be written as the flags of the config are."""
    return [name.removeprefix("config.") for name in _ALLOW_CHANGES.value]


if __name__ == "__main__":
    run_main(main)
