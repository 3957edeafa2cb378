"""Coefficients of the objective: υ with Sinkhorn targets, then the volume term's γ (the paper, Tables 5 and 14).

Run:      python -m flsl_jax.study --study=coefficients --workdir=runs/coefficients --config.data.root=/data/imagenet/train
          with the boxes of the k-NN as configs/ablation.py says.
Small:    python -m flsl_jax.study --study=coefficients --config=quickstart --workdir=runs/small_coefficients --seeds=0,1,2
Time:     seven runs of the base for each seed.
Expect:   0.1 % without υ, the most at υ = 0.03 (71.2 %); without Sinkhorn 66.6 % at γ = 1 and 72.4 % at γ = 5 (the paper; not
          reproduced by us).
"""

from ml_collections import ConfigDict

# υ with Sinkhorn targets and γ = 1, then γ without Sinkhorn at υ = 0.03; each with the bbox-aligned k-NN as a share.
SINKHORN = {0.0: 0.001, 0.01: 0.687, 0.02: 0.707, 0.03: 0.712, 0.1: 0.651}
VOLUME = {1.0: 0.666, 5.0: 0.724}


def get_study(config: ConfigDict) -> dict:
    """The paper's values over any base, with η = 1."""
    variants = [
        variant(f"sinkhorn-intra{intra:g}", intra=intra, volume=1.0, targets="sinkhorn", share=share)
        for intra, share in SINKHORN.items()
    ]
    variants += [
        variant(f"volume{volume:g}", intra=0.03, volume=volume, targets="softmax", share=share)
        for volume, share in VOLUME.items()
    ]
    return {
        "title": "Coefficients of the objective",
        "question": "How much of the pull towards the own mode (υ), beside η = 1, and what keeps clusters from being empty: "
        "Sinkhorn targets or the volume term (γ)? In the paper υ = 0 collapses with Sinkhorn targets, and the volume term with "
        "γ = 5 is best.",
        "reference": "Tables 5 and 14: bbox-aligned k-NN of ViT-S/16 after 100 epochs",
        "metrics": ["bbox_knn/any", "bbox_knn/token", "bbox_knn/modes_token"],
        "variants": variants,
        "picture": "ratio",
    }


def variant(name: str, *, intra: float, volume: float, targets: str, share: float) -> dict:
    """One row; `share`: what the paper has for it."""
    return {
        "name": name,
        "changes": {
            "objective.intra_weight.start": intra,
            "objective.intra_weight.end": intra,
            "objective.inter_weight": 1.0,
            "objective.volume_weight": volume,
            "objective.targets": targets,
        },
        "paper": {"bbox_knn/any": share},
        "setting": f"υ = {intra:g}, γ = {volume:g}" + (", Sinkhorn" if targets == "sinkhorn" else ""),
        "group": targets,
    }
