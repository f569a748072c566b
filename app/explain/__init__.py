"""Heat maps: what in the film speaks for a class. No backward pass, no hooks, no torch.

    head      what follows the pooling, and its gradient in closed form
    maps      Grad-CAM and Grad-CAM++ from the plain pass alone
    smooth    SmoothGrad-CAM++: the same from passes over noisy copies of the film
    score     Score-CAM: from passes over masked copies of the film
    overlay   the picture of a map on its film, its outline, its caption

The last two methods need further passes. They only say which tensors these passes take (`Explainer`) and make the map of what the
network answered; who runs the passes, when and where, is not their business.
"""

from app.explain.head import Head, logit_of, pooled
from app.explain.maps import METHOD_NAMES, Explainer, GradCam, Method, PassMethod, activation_map
from app.explain.overlay import caption, contours, overlay_bytes, overlay_size, render_overlay
from app.explain.score import ScoreCam
from app.explain.smooth import SmoothGradCam

__all__ = [
    "METHOD_NAMES",
    "Explainer",
    "GradCam",
    "Head",
    "Method",
    "PassMethod",
    "ScoreCam",
    "SmoothGradCam",
    "activation_map",
    "caption",
    "contours",
    "logit_of",
    "overlay_bytes",
    "overlay_size",
    "pooled",
    "render_overlay",
]
