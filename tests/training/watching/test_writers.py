"""metrics.jsonl, the terminal, and what writes elsewhere where it is installed."""

import importlib.util
import sys

import pytest

from flsl_jax.errors import UserError
from flsl_jax.training.watching.writers import TensorBoard, Terminal, open_writers


def opened(folder, *, start_step=0, tensorboard=False, wandb="", mlflow="", is_main=True, prometheus=False):
    return open_writers(
        folder,
        total_steps=2,
        start_step=start_step,
        tensorboard=tensorboard,
        wandb=wandb,
        mlflow=mlflow,
        is_main=is_main,
        prometheus=prometheus,
    )


def test_tensorboard_events_are_written_and_other_processes_write_nothing(tmp_path, capsys):
    for is_main, folder in ((True, tmp_path / "main"), (False, tmp_path / "other")):
        folder.mkdir()
        writers = opened(folder, tensorboard=True, is_main=is_main)
        writers.tick(1, {"loss": 1.0})
        writers.write(2, {"loss": 0.5})
        writers.close()
    assert list((tmp_path / "main" / "tensorboard").glob("events.*"))
    assert not list((tmp_path / "other").iterdir())
    assert capsys.readouterr().err == "step 2/2  loss 0.5\n"


def test_tensorboard_is_told_what_a_killed_run_had_sent_in_vain(tmp_path):
    """Events of steps after the checkpoint are followed by a mark from which TensorBoard drops them."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for start_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        writers = opened(tmp_path, start_step=start_step, tensorboard=True)
        for step in steps:
            writers.write(step, {"loss": 0.5})
        writers.close()
    marks = []
    for path in (tmp_path / "tensorboard").glob("events.*"):
        data = path.read_bytes()
        while data:  # length, checksum, event, checksum
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                marks.append(event.step)
    assert marks == [3]


def test_prometheus_has_the_newest_value_of_everything_in_a_text_file(tmp_path):
    parser = pytest.importorskip("prometheus_client.parser")
    workdir = tmp_path / "my run"
    workdir.mkdir()
    writers = opened(workdir, prometheus=True)
    writers.write(1, {"loss": 2.0, "discovery/corloc": 0.25}, status={"alarms": 0.0})
    writers.write(2, {"loss": 1.5}, status={"alarms": 2.0, "last_checkpoint_step": 1.0})
    writers.close()
    families = parser.text_string_to_metric_families((workdir / "metrics.prom").read_text())
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["run"] for sample in samples} == {"my run"}
    values = {sample.name: sample.value for sample in samples}
    assert values.pop("flsl_timestamp_seconds") > 1e9
    assert values == {
        "flsl_step": 2.0,
        "flsl_loss": 1.5,
        "flsl_discovery_corloc": 0.25,
        "flsl_alarms": 2.0,
        "flsl_last_checkpoint_step": 1.0,
    }
    assert "alarms" not in (workdir / "metrics.jsonl").read_text()


def test_a_plain_line_has_a_value_of_every_evaluation(tmp_path, capsys):
    writers = opened(tmp_path)
    writers.write(2, {"knn_any": 0.5, "video/jf_mean": 0.25, "video/j_mean": 0.125, "retrieval/pixels_miou": 0.75})
    writers.close()
    assert capsys.readouterr().err == "step 2/2  knn_any 0.5  video/jf_mean 0.25\n"


def test_a_plain_line_ends_with_the_time_that_is_left_and_is_left_out_where_it_would_be_empty(capsys, monkeypatch):
    now = iter([100.0, 130.0, 160.0])
    monkeypatch.setattr("flsl_jax.training.watching.writers.time.monotonic", lambda: next(now))
    terminal = Terminal(start_step=0, total_steps=100)
    for step in (10, 20):
        terminal.write(step, {"loss": 0.5})
    terminal.write(20, {"miou": 0.5})
    terminal.write(100, {"loss": 0.25})
    assert capsys.readouterr().err == (
        "step 10/100  loss 0.5\nstep 20/100  loss 0.5  04:00 left\nstep 100/100  loss 0.25\n"
    )


def test_a_terminal_has_a_bar_and_a_line_of_each_evaluation(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    writers = opened(tmp_path)
    writers.write(1, {"loss": 0.5})
    writers.write(2, {"discovery/corloc": 0.25, "discovery/modes_corloc": 0.75, "discovery/modes_recall": 0.125})
    writers.close()
    text = capsys.readouterr().err
    assert text.count("step 2/2  discovery/corloc 0.25  discovery/modes_corloc 0.75\n") == 1
    assert "step 1/2" not in text
    assert "loss=0.500" in text


@pytest.mark.parametrize(("package", "named"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_package_that_is_not_installed_is_named(package, named, tmp_path):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(
        UserError, match=f"^config.logging.{package} is set, but .+ pip install {named} or set it to ''"
    ):
        opened(tmp_path, **{package: "mine"})


@pytest.mark.filterwarnings("default")  # of MLflow's own
def test_mlflow_has_the_values_and_a_continued_run_goes_on_with_its_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "server").as_uri())
    workdir = tmp_path / "run"
    workdir.mkdir()
    for start_step, step in ((0, 1), (1, 2)):
        writers = opened(workdir, start_step=start_step, mlflow="mine")
        writers.write(step, {"loss": 1.0 / step, "bbox_knn/any": 0.5})
        writers.close()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    assert run.data.metrics["bbox_knn/any"] == 0.5


@pytest.mark.filterwarnings("default")  # of its own
def test_weights_and_biases_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    writers = opened(tmp_path, wandb="mine")
    writers.write(1, {"loss": 1.0})
    writers.close()
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_a_full_disk_does_not_block_tensorboard(tmp_path, caplog):
    writer = TensorBoard(tmp_path)
    records = writer._writer.file_writer.event_writer._ev_writer._py_recordio_writer
    with open("/dev/full", "wb", buffering=0) as full:
        records._writer.close()
        records._writer = full
        for step in range(50):  # more than its queue holds
            writer.write(step, {"loss": 1.0})
        writer.close()
    assert "TensorBoard lacks values (No space left on device); metrics.jsonl has all" in caplog.text
