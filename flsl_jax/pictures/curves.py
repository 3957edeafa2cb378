"""Training curves as a picture."""

from pathlib import Path
from typing import Any

# Okabe and Ito's colour-blind-safe palette.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_PANELS = (
    ("loss terms", ("loss", "inter", "intra", "volume")),
    ("entropies (nats)", ("mean_entropy", "student_entropy", "teacher_entropy")),
    ("shares", ("attention_share", "mode_similarity", "position_share", "agreement", "feature_std")),
    ("bbox-aligned k-NN", ("knn_any", "knn_majority", "knn_token")),
)


def save_curves(metrics: list[dict[str, Any]], path: Path, *, log_centroids: float) -> None:
    """Writes a PNG of the loss terms, the entropies beside ln K, the monitor's shares, and the k-NN where measured.

    Args:
        metrics: lines of a metrics.jsonl.
        path: of the PNG.
        log_centroids: ln K, drawn into the entropies' panel.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(title, [name for name in names if any(name in line for line in metrics)]) for title, names in _PANELS]
    panels = [(title, names) for title, names in panels if names]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns, 3.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, names) in zip(axes.flat, panels):
        for color, name in zip(_COLORS, names):
            points = [(line["step"], float(line[name])) for line in metrics if name in line]
            axis.plot(
                *zip(*points),
                color=color,
                label=name,
                linewidth=1.4,
                marker="o" if len(points) < 30 else None,
                markersize=3,
            )
        if title.startswith("entropies"):
            axis.axhline(log_centroids, color="0.5", linestyle="--", linewidth=1, label="ln K")
        baseline = [line["knn_pixels_any"] for line in metrics if "knn_pixels_any" in line]
        if "k-NN" in title and baseline:
            axis.axhline(baseline[0], color="0.5", linestyle="--", linewidth=1, label="raw pixels (any)")
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
