"""One thread per call in the numeric libraries, because the service's workers are the parallelism and must not fight with others.

ONNX Runtime and OpenVINO have a number of threads of their own (`app.inference`), and do not spin. libjpeg-turbo, libpng, zlib and
numpy's own loops have none. What is left is OpenCV and what numpy hands to a BLAS.
"""

from __future__ import annotations

import cv2
import threadpoolctl


def limit_threads() -> None:
    """For the whole process: one thread for OpenCV and for every BLAS that is loaded.

    Called once, by the composition root, after the libraries were imported. A BLAS makes its pool when it is loaded; the variables
    that keep it from that (the Dockerfile sets them) must be there before Python starts.
    """
    cv2.setNumThreads(1)
    threadpoolctl.threadpool_limits(limits=1, user_api="blas")
