"""One thread: the matrices here are tiny, and threads that wait for each other cost seconds."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
