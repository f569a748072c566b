"""Published figures of the five source designs (FEATURES S0 to S4 of the project's inventory) that ours stand beside.

None of them states an interval. What is wrong or not known is said in the notes, which stand below every table that shows them.
A figure's `metric` is the name that `training.publishing.evidence.metrics` gives the same figure of a run; one without counterpart
(`metric` blank) is listed for completeness.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.judging.figures import READ_OFF


@dataclass(frozen=True)
class AnchorFigure:
    """One published figure. shown: as the design gives it; metric: ours of the same meaning, "" where we have none; beside: the recipes
    of ours that it stands beside, where they are not those of the design."""

    what: str
    shown: str
    metric: str = ""
    note: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Design:
    """A source design. data: what its figures were measured on; recipes: ours that are shown beside it, the reproduction first."""

    name: str
    what: str
    data: str
    recipes: tuple[str, ...]
    figures: tuple[AnchorFigure, ...]
    notes: tuple[str, ...]

    def shown(self, metric: str) -> str:
        """The design's figure of that name, "" where it gives none."""
        return next((f.shown for f in self.figures if f.metric == metric), "")


def _figures(*rows: tuple[str, str] | tuple[str, str, str] | tuple[str, str, str, str]) -> tuple[AnchorFigure, ...]:
    return tuple(AnchorFigure(*row) for row in rows)


_KAGGLE = (
    "The three-class Kaggle set mislabels many films: of 570 `pneumonia` files in one copy 159 are Kermany normals, and at least 51 "
    "`tuberculosis` files are known normals; its classes come from different sources, so the figures measure the source as well."
)

S0 = Design(
    name="S0",
    what="DenseNet-121, pretrained; temperature scaling",
    data="Kermany official test, 624 films",
    recipes=("s0-binary-densenet121", "pneumonia-resnet18"),
    figures=_figures(
        ("AUROC", "0.9605", "auroc"),
        ("AUPRC", "0.9650", "auprc"),
        ("Brier", "0.1469 before, 0.1432 after", "brier"),
        ("ECE", "0.3384 before, 0.3325 after (wrongly defined)", "ece"),
        ("sensitivity at the point for 0.90", "0.90", "sensitivity@sensitivity-90"),
        ("specificity at the point for 0.90", "0.91", "specificity@sensitivity-90"),
        ("F1 at the point for 0.90", "0.92", "f1@sensitivity-90"),
        ("PPV at the point for 0.90", "0.94", "ppv@sensitivity-90"),
        ("threshold at that point (probability)", "0.9965"),
        ("temperature", "1.171"),
        ("validation AUROC, before calibration", "0.9984"),
        ("validation AUPRC, before calibration", "0.9994"),
        ("validation Brier: none, temperature, Platt, isotonic", "0.0067, 0.0073, 0.0075, 0.0087"),
        ("validation ECE: none, temperature, Platt, isotonic", "0.2723, 0.2705, 0.2718, 0.2733"),
    ),
    notes=(
        (
            "S0's ECE compares the probability of pneumonia with accuracy: 0.2723 beside a Brier score of 0.0067 cannot be a calibration "
            "error (ECE is at most the square root of Brier, 0.082)."
        ),
        "S0 chose temperature scaling although its validation Brier score got worse (0.0067 to 0.0073).",
        "S0's threshold 0.9965 lies where probabilities saturate; its rates are rounded to two digits.",
    ),
)

_PROBES = tuple(f"s1-probe-{network}" for network in ("densenet121", "resnet50", "efficientnet-b0", "swin-t"))

S1 = Design(
    name="S1",
    what="linear probe or CNN, hierarchical policy tuberculosis, pneumonia, normal",
    data="three-class Kaggle set, 2,569 films",
    recipes=("s1-tb-cnn3", "threeclass-resnet18"),
    figures=_figures(
        ("accuracy, argmax", "0.78", "accuracy@argmax"),
        ("tuberculosis sensitivity, argmax", "0.634", "sensitivity[tuberculosis]@argmax"),
        ("tuberculosis specificity, argmax", "0.98", "specificity[tuberculosis]@argmax"),
        ("pneumonia sensitivity, argmax", "0.87", "sensitivity[pneumonia]@argmax"),
        ("pneumonia specificity, argmax", "0.96", "specificity[pneumonia]@argmax"),
        ("normal recall, argmax", "0.889", "sensitivity[normal]@argmax"),
        ("normal specificity, argmax", "0.72", "specificity[normal]@argmax"),
        ("tuberculosis sensitivity, policy", "0.902", "sensitivity[tuberculosis]@risk-prioritised"),
        ("pneumonia sensitivity, policy", "> 0.85", "sensitivity[pneumonia]@risk-prioritised"),
        ("normal recall, policy", "0.568", "sensitivity[normal]@risk-prioritised"),
        ("macro F1 of eight runs, validation", "0.6999 to 0.7862"),
        ("tuberculosis films missed, argmax and policy", "389, 104"),
    )
    + tuple(
        AnchorFigure(f"{what}, policy, probe (its DenseNet-121)", shown, f"{metric}@risk-prioritised", beside=_PROBES)
        for what, shown, metric in (
            ("accuracy", "0.74", "accuracy"),
            ("normal recall", "0.49", "sensitivity[normal]"),
            ("pneumonia sensitivity", "0.85", "sensitivity[pneumonia]"),
            ("tuberculosis sensitivity", "0.91", "sensitivity[tuberculosis]"),
        )
    ),
    notes=(_KAGGLE, "S1 does not say whether its split is by patient; it chose by macro F1 on the validation."),
)

S2 = Design(
    name="S2",
    what="ResNet-18, pretrained; its split was not grouped by patient",
    data="Kermany test part, n not stated",
    recipes=("s2-paediatric-resnet18", "pneumonia-resnet18"),
    figures=_figures(
        ("AUROC", "0.9790", "auroc"),
        ("AUPRC", "0.9850", "auprc"),
        ("sensitivity, screening", "0.997", "sensitivity@screening"),
        ("specificity, screening", "0.564", "specificity@screening"),
        ("PPV, screening", "0.792", "ppv@screening"),
        ("accuracy, screening", "0.835", "accuracy@screening"),
        ("balanced accuracy, screening", "0.781", "balanced_accuracy@screening"),
        ("F1, screening", "0.883", "f1@screening"),
        ("sensitivity, rule-in", "0.949", "sensitivity@rule-in"),
        ("sensitivity at specificity 0.90, read off the ROC curve", "0.949 at 0.902", READ_OFF),
        ("specificity, rule-in", "0.902", "specificity@rule-in"),
        ("PPV, rule-in", "0.941", "ppv@rule-in"),
        ("accuracy, rule-in", "0.931", "accuracy@rule-in"),
        ("balanced accuracy, rule-in", "0.925", "balanced_accuracy@rule-in"),
        ("F1, rule-in", "0.945", "f1@rule-in"),
        ("temperature", "1.01"),
        ("thresholds (probability): screening, rule-in", "0.37, 0.99"),
    ),
    notes=("S2's split is stratified, not by patient: films of one child lie on both sides of it.",),
)

S3 = Design(
    name="S3",
    what="DenseNet-121, pretrained, focal loss",
    data="three-class Kaggle set, 2,556 films",
    recipes=("s3-threeclass-densenet121-focal", "threeclass-resnet18"),
    figures=_figures(
        ("accuracy", "0.784", "accuracy@argmax"),
        ("macro F1", "0.80", "macro_f1@argmax"),
        ("macro AUROC", "0.94", "auroc"),
        ("macro precision", "0.81", "macro_ppv@argmax"),
        ("macro recall", "0.82", "balanced_accuracy@argmax"),
        ("normal precision", "0.66", "ppv[normal]@argmax"),
        ("normal recall", "0.83", "sensitivity[normal]@argmax"),
        ("normal F1", "0.73", "f1[normal]@argmax"),
        ("normal AUROC", "0.89", "auroc[normal]"),
        ("pneumonia precision", "0.79", "ppv[pneumonia]@argmax"),
        ("pneumonia recall", "1.00", "sensitivity[pneumonia]@argmax"),
        ("pneumonia F1", "0.88", "f1[pneumonia]@argmax"),
        ("pneumonia AUROC", "0.99", "auroc[pneumonia]"),
        ("tuberculosis precision", "1.00", "ppv[tuberculosis]@argmax"),
        ("tuberculosis recall", "0.63", "sensitivity[tuberculosis]@argmax"),
        ("tuberculosis F1", "0.77", "f1[tuberculosis]@argmax"),
        ("tuberculosis AUROC", "0.94", "auroc[tuberculosis]"),
        ("accuracy, F1, AUROC, corrupted `clinical`", "0.749, 0.76, 0.87"),
        ("accuracy, F1, AUROC, corrupted `severe`", "0.755, 0.76, 0.91"),
        ("mean confidence: clean, clinical, severe", "0.76, 0.79, 0.72"),
    ),
    notes=(
        _KAGGLE,
        (
            "S3's text contradicts its table: it calls pneumonia the class of lowest recall (1.00) and counts 126 missed films where a "
            "tuberculosis recall of 0.63 alone means about 394."
        ),
        (
            "S3's AUROC is higher under its `severe` corruptions than under the `clinical` ones, its confidence rises under the latter: "
            "the severities are not ordered."
        ),
    ),
)

S4 = Design(
    name="S4",
    what="EfficientNet-B0, pretrained, 15 labels",
    data="NIH ChestX-ray14, 20 % of patients of 112,120 films",
    recipes=("s4-nih14-efficientnet-b0",),
    figures=_figures(
        ("mean AUROC of the labels", "0.773", "auroc", "typed as 0.784"),
        ("mean precision", "0.323", "macro_ppv@max-f1", "typed as 0.34"),
        ("mean recall", "0.727", "macro_sensitivity@max-f1", "typed as 0.73"),
        ("mean F1", "0.442", "macro_f1@max-f1", "typed as 0.46"),
        ("AUROC, oedema (its best)", "0.884", "auroc[edema]"),
        ("AUROC, hernia (its worst)", "0.612", "auroc[hernia]"),
        ("mean AUROC of others, as S4 cites them: Wang, CheXNet, CheXpert", "0.740, 0.841, 0.763"),
    ),
    notes=(
        "S4's means are computed here from its own table; the ones it prints (0.784, 0.34, 0.73, 0.46) are not those of the table.",
        "S4 oversampled rare labels to 2,000 films, yet hernia has 227; it predicts `No Finding` beside findings.",
        "Ours sees 884 films of the same collection, all `No Finding` or with pneumonia: the other labels stand beside pneumonia only.",
    ),
)

DESIGNS = (S0, S1, S2, S3, S4)
COMMON_NOTE = "No design states an interval."
