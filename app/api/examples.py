"""Example answers for the documentation. A test validates each against its model."""

from __future__ import annotations

from typing import Any, Final

from app.api.schemas import API_VERSION, DISCLAIMER

_REQUEST_ID = "0f8b2c4e6d1a4b7c9e3f5a7d9b1c3e5f"
_GEOMETRY = {
    "original_height": 1024,
    "original_width": 1280,
    "crop_top": 0,
    "crop_left": 0,
    "crop_height": 1024,
    "crop_width": 1280,
    "resized_height": 224,
    "resized_width": 224,
    "pad_top": 0,
    "pad_left": 0,
    "size": 224,
}
_PREDICTION: dict[str, Any] = {
    "api_version": API_VERSION,
    "request_id": _REQUEST_ID,
    "bundle": {
        "name": "example",
        "version": "1.0.0",
        "digest": "9f2b7c1d0e4a5f68b3c7d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1",
        "restriction": None,
    },
    "engine": {"name": "onnxruntime", "version": "1.31.1", "precision": "fp32"},
    "image": {
        "sha256": "3f79bb7b435b05321651daefd374cdc681dc06faa65e374e38337b88ca046dea",
        "width": 1280,
        "height": 1024,
        "format": "jpeg",
        "view": None,
        "acquisition": None,
    },
    "task": "binary",
    "prediction": {"label": "pneumonia", "positive": ["pneumonia"], "rule": "threshold"},
    "prediction_set": None,
    "confidence": 0.8314,
    "classes": [
        {
            "name": "pneumonia",
            "probability": 0.8314,
            "logit": 1.9147,
            "margin": 1.5956,
            "threshold_margin": 0.4055,
            "threshold_probability": 0.6,
            "positive": True,
        },
        {
            "name": "normal",
            "probability": 0.1686,
            "logit": -1.9147,
            "margin": -1.5956,
            "threshold_margin": None,
            "threshold_probability": None,
            "positive": False,
        },
    ],
    "operating_point": {
        "name": "screening",
        "rule": "threshold",
        "target": "Youden J",
        "measured": {
            "pneumonia": {
                "sensitivity": 0.95,
                "specificity": 0.9,
                "ci": {"sensitivity": [0.93, 0.97], "specificity": [0.87, 0.93]},
                "data": "held-out report part of the validation films",
                "n": 1000,
            }
        },
        "conformal": None,
    },
    "review": {"required": True, "reasons": ["borderline"]},
    "warnings": [
        {
            "code": "intended_use_unverified",
            "message": "The file does not say who was imaged and how. This model is meant only for: ...",
        }
    ],
    "calibration": {"method": "temperature", "parameters": {"temperature": 1.2}},
    "timing_ms": {"decode": 3.1, "preprocess": 1.4, "network": 16.2, "decide": 0.1, "audit": 0.4},
    "disclaimer": DISCLAIMER,
    "geometry": _GEOMETRY,
    "tta": None,
    "explanations": [],
}
_PROBLEM = {
    "type": "urn:cxr-triage:problem:blank_image",
    "title": "Blank image",
    "status": 422,
    "detail": "The image holds no picture: its gray values hardly differ.",
    "code": "blank_image",
    "request_id": _REQUEST_ID,
}
_STATISTIC = {
    "name": "mean",
    "level": "ok",
    "psi": 0.021,
    "chance": 0.011,
    "n": 1200,
    "edges": [88.1, 99.0, 106.2, 112.4, 118.0, 123.7, 130.1, 137.9, 149.3],
    "expected": [0.1] * 10,
    "observed": [0.09, 0.11, 0.1, 0.12, 0.1, 0.08, 0.1, 0.11, 0.1, 0.09],
}

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "PredictAnswer": _PREDICTION,
    "BatchAnswer": {
        "api_version": API_VERSION,
        "request_id": _REQUEST_ID,
        "results": [
            {"index": 0, "result": _PREDICTION, "problem": None},
            {"index": 1, "result": None, "problem": _PROBLEM},
        ],
    },
    "GradcamAnswer": {
        "api_version": API_VERSION,
        "request_id": _REQUEST_ID,
        "explanations": [
            {
                "target": "pneumonia",
                "method": "gradcam",
                "negated": False,
                "no_positive_evidence": False,
                "height": 2,
                "width": 2,
                "values": [[0.0, 0.12], [0.31, 1.0]],
                "contours": {"level": 0.5, "polygons": [[[640, 512], [640, 1023], [1279, 1023], [1279, 512]]]},
                "caption": "pneumonia 0.83 (threshold 0.60, screening). A hint, not the outline of a lesion.",
            }
        ],
        "geometry": _GEOMETRY,
        "prediction": _PREDICTION,
        "disclaimer": DISCLAIMER,
    },
    "Health": {
        "api_version": API_VERSION,
        "version": "0.1.0",
        "ready": True,
        "reason": None,
        "bundle": "example/1.0.0",
        "restriction": None,
        "engine": {"name": "onnxruntime", "version": "1.31.1", "precision": "fp32", "threads": 1},
    },
    "DriftAnswer": {
        "api_version": API_VERSION,
        "request_id": _REQUEST_ID,
        "bundle": "example/1.0.0",
        "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-08T00:00:00Z",
        "n": 1200,
        "minimum": 500,
        "n_reference": 5000,
        "minimum_reference": 180,
        "level": "ok",
        "levels": {"watch": 0.1, "alert": 0.2},
        "statistics": [_STATISTIC],
        "classes": [
            {"name": "pneumonia", "level": "ok", "psi": 0.004, "chance": 0.001, "expected": 0.62, "observed": 0.59}
        ],
        "embedding": {"level": "ok", "n": 1200, "distance": 0.19, "divergence": 0.021, "chance": 0.0165},
    },
}
